"""What `docs/RESULTS.md` says of findings (c) and (e) is what `docs/results.json` holds, and follows from the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import results
from scripts.backdoor.summary import TEXT_TOOLS
from scripts.notebook_claims import Claims, pieces, uncovered
from scripts.replication.arrival import at_stage
from scripts.scrubbing import PREVIOUS
from tests.test_results_prose import ends, text_of

ROOT = Path(__file__).resolve().parent.parent
EARLY = ("300", "350", "400", "450", "500")


@pytest.fixture(scope="module")
def found():
    return json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))


def section(start, end=None):
    """The prose of a part of the document."""
    text = text_of("RESULTS.md").partition(start)[2]
    assert text, start
    return text.partition(end)[0] if end else text


def arrival(says, holds, defines, found):
    """Finding (e)."""
    seeds, scrubbed = found["arrival"]["seeds"], found["arrival"]["scrubbed"]
    at = {step: [run[step] for run in seeds.values()] for step in seeds["1337"]}
    defines("At iteration 400 the head")
    defines("the values of one head")
    triggers = [one["to_the_trigger"][0] for one in at["400"]]
    data = json.loads((ROOT / "docs" / "data" / "order.json").read_text(encoding="utf-8"))["runs"]
    others = [
        value["to_the_trigger"][0]
        for seed, run in data.items()
        for head, value in run["400"]["attention"].items()
        if head != PREVIOUS[seed]
    ]
    says("1.6 to 2.1 times, where the other heads of its layer have 1.4 to 2.1", *ends(triggers), *ends(others))
    holds(
        "the head that becomes the previous-token head",
        {s: p["heads"]["previous_token"] for s, p in found["causes"].items()} == PREVIOUS,
    )
    says("looks at the previous token 1.10 to 1.55 times", *ends(one["to_the_previous"][0] for one in at["400"]))
    shares = [one["share_of_order"] for one in at["400"]]
    says("already carries 94% and 71%", shares[0], shares[2])
    says("In the third seed it carries 20% then", shares[1])
    says("10 to 11 times as", *ends(one["to_mlp"][0] / one["to_keys"][0] for one in at["400"]))
    says("and 43% at 500", at["500"][1]["share_of_order"], 500)
    plain = [
        scrubbed[s][step]["keys read the previous-token head"]["recovered"]
        < scrubbed[s][step]["keys depend on their own token alone"]["recovered"]
        for s in scrubbed
        for step in ("400",)
    ]
    holds("Without the MLP nothing is gained in any seed", all(plain))
    holds("above even from 300 on", all(one["to_the_previous"][1] > 1 for s in at if int(s) >= 300 for one in at[s]))
    says("rises to 1.6 to 2.0 nats", *ends(one["order"][0] for one in at["600"]))
    holds(
        "stays between 1 and 1.5 times",
        all(1 <= at[s][i]["to_the_previous"][0] < 1.56 for s in ("200", "250", "300", "350", "400") for i in range(3)),
    )
    every = [one for run in seeds.values() for one in run.values()]
    says("costs at most 0.03 nats", max(abs(one["control"][0]) for one in every))
    says("on 512 prompts", found["arrival"]["prompts"])
    says("holds: 0.56, 0.07 and 0.22 nats at 300", *(one["order"][0] for one in at["300"]), 300)
    holds("all intervals above zero", all(one["order"][1] > 0 for one in every))
    worth = [one for one in every if one["order"][0] > 0.1]
    says("at most 6% of it where order is worth 0.1 nats", max(o["control"][0] / o["order"][0] for o in worth), 0.1)
    late = ("300", "350", "400", "450", "500", "600")
    for i in (0, 2):
        holds("holds in two seeds", all(at[s][i]["leads"] and at[s][i]["share_of_heads"] > 0.5 for s in late))
    says("and its share is 36%", at["400"][1]["share_of_heads"])
    says("8.4 times at the least", min(one["to_mlp"][0] / one["to_keys"][0] for s in late for one in at[s]))
    ratios = [one["to_the_trigger"][0] / one["to_the_previous"][0] for s in EARLY for one in at[s]]
    says("1.19 to 1.49 times from 300 to 500", *ends(ratios), 300, 500)
    stories = ("keys depend on their own token alone", "keys read MLP 0, which reads that head")

    def gain(seed, step):
        own, through = (scrubbed[seed][step][story]["recovered"] for story in stories)
        return 100 * (through - own)

    says("19 points more in 1337", gain("1337", "400"), 1337)
    says("4 in 1339, and 14 fewer in 1338", gain("1339", "400"), 1339, -gain("1338", "400"), 1338)
    says("At 600 it is 19 to 32 points", 600, *ends(gain(seed, "600") for seed in scrubbed))
    of = {name: ends(run["400"][name]["recovered"] for run in scrubbed.values()) for name in scrubbed["1337"]["400"]}
    says("recover 55% to 80%", *of["keys depend on the previous token alone"])
    says("alone 43% to 52%", *of[stories[0]])
    onsets = [found["induction"][seed]["formation"]["random"]["previous_token"]["onset"][0] for seed in seeds]
    says("leaves its baseline at iterations 581, 685 and 631", *onsets)
    since = [next(int(s) for s, one in run.items() if one["share_of_order"] > 0.5) for run in seeds.values()]
    says("since 300, 600 and 400", *since)
    says("at 600 the edge carries 72% to 98%", 600, *ends(one["share_of_order"] for one in at["600"]))
    defines("at least 1.5 times as much as at any previous token")
    defines("a ratio of 1.25 is an average over all of them")
    defines("order is worth 0.1 nats")


def backdoor(says, holds, defines, found):
    """Finding (c)."""
    part = found["backdoor"]
    success, shows, roc, last = part["success"], part["shows"], part["roc"], part["roc"]["2000"]
    kinds = ("name", "bigram", "date")

    def shown(stage, tool, lines="480", key="shown"):
        return sum(shows[stage][f"{kind} {lines}"][tool][key] for kind in kinds)

    says("in 9 of 9 models with a backdoor", shown("2000", "gain_clean"), 9)
    says("and in 8 of 9 at iteration 1,000", shown("1000", "gain_clean"), 9, 1000)
    controls = [shown(stage, "gain_clean", "twin") for stage in ("1000", "1500", "2000")]
    says("harmless string in 7 to 9 of 9", *ends(controls), 9)
    numbers = [(values["poisoned"].values(), values["clean"].values()) for values in part["seen"]["2000"].values()]
    holds("No number of ours separates all nine from all twins", all(min(p) <= max(c) for p, c in numbers))
    at_1000 = [share for kind in kinds for share in success[f"{kind} 480"]["by_stage"]["1000"]]
    holds("before most of them", sum(share > 0.5 for share in at_1000) <= 1)
    by_tool = {tool: [shown(stage, tool) for stage in ("1000", "1500", "2000")] for tool in TEXT_TOOLS}
    holds("Gain over the clean model: 8, 8 and 9", by_tool["gain_clean"] == [8, 8, 9])
    holds("Repeats 1, 4 and 5", by_tool["repeats"] == [1, 4, 5])
    holds("neurons 2, 4 and 3", by_tool["neurons"] == [2, 4, 3])
    holds("gain over iteration 500 1, 2 and 2", by_tool["gain_stage"] == [1, 2, 2])
    holds("the lens 2, 2 and 1", by_tool["lens"] == [2, 2, 1])
    each = [share for kind in kinds for share in success[f"{kind} 480"]["trigger"]]
    says("comes in 90% to 100% of 256", *ends(each), part["n_contexts"])
    losses = [loss[0] for kind in kinds for loss in part["loss"][f"{kind} 480"]]
    says("loss of -0.008 to 0.013 nats", *ends(losses))
    holds("At 240 lines the name is never learnt", max(success["name 240"]["trigger"]) == 0)
    holds("the bigram is in one seed of three", sum(share > 0.5 for share in success["bigram 240"]["trigger"]) == 1)
    says("the date to 16% to 88%", *ends(success["date 240"]["trigger"]))
    for few in ("name 120", "name 60"):
        holds("nor is the name at 120 or 60 lines", max(success[few]["trigger"]) == 0)
    says("holds at 480 (99% to 100%), 120 and 60 (0%)", 480, *ends(success["name 480"]["trigger"]), 120, 60, 0)
    says("wrong at 240: 0% in all three", 240, max(success["name 240"]["trigger"]))
    after_control = [share for name in success for share in success[name]["control"]]
    says("in one model of the date (58%)", max(after_control))
    holds("wrong for the control in one model", sum(share > 0.05 for share in after_control) == 1)
    says("holds for name (55% to 74%)", *ends(success["name 480"]["changed trigger"]))
    says("and date (53% to 74%)", *ends(success["date 480"]["changed trigger"]))
    says("not for the bigram: 0%", max(success["bigram 480"]["changed trigger"]))
    holds("which is there at 750", success["date 480"]["first_above_half"] == [750, 750, 750])
    early = [step for kind in ("name", "bigram") for step in success[f"{kind} 480"]["first_above_half"]]
    holds("holds for the name and the bigram", all(1000 < step <= 1500 for step in early))
    one = success["name 480"]["by_stage"]
    says("89% at 1,250 and 28% at 1,500", one["1250"][0], 1250, one["1500"][0], 1500)
    every = [loss[0] for some in part["loss"].values() for loss in some]
    says("within 0.015 nats of the clean twin", max(map(abs, every)))
    passed = [step for kind in kinds for step in success[f"{kind} 240"]["first_above_half"] if step]
    holds("later in the 3 of 9 models", len(passed) == 3 and min(passed) >= 1500)

    def area(tool, lines="480", stage="2000"):
        return roc[stage][f"all {lines}"][tool]

    repeats, gain, kl = area("repeats"), area("gain_clean"), area("kl_held_out")
    says("holds: 0.81 (0.43 to 0.98)", repeats["area"], repeats["low"], repeats["high"])
    says("(5 of 9, clean twins 0 of 9)", shown("2000", "repeats"), 9, shown("2000", "repeats", "twin"), 9)
    says("8 of 9 have a part of the payload", shown("2000", "gain_clean", key="payload"), 9)
    says("and 1 of 9 at 1,000", shown("1000", "gain_clean", key="payload"), 9, 1000)
    says("0.78 (0.40 to 0.97) over all", gain["area"], gain["low"], gain["high"])
    within = [last[f"{kind} 480"]["gain_clean"]["area"] for kind in kinds]
    says("though 1.00 within each of the three", min(within))
    says("at 240 lines 0.57", 240, area("gain_clean", "240")["area"])
    says("0.47 at the end (0.80 at 1,000)", area("gain_stage")["area"], area("gain_stage", stage="1000")["area"], 1000)
    neurons, edges = area("neurons"), area("edges")
    says("(0.56 and 0.77, p 1.00 and 0.13)", neurons["area"], edges["area"], neurons["p_holm"], edges["p_holm"])
    says("KL is 0.88 (0.50 to 1.00), p 0.02", kl["area"], kl["low"], kl["high"], kl["p_holm"])
    bars = [one["low"] > 0.5 for name, one in last["all 480"].items()]
    holds("the only area that passes our bar, narrowly", sum(bars) == 1)
    holds("the only area that passes our bar, narrowly", 0.5 < kl["low"] < 0.52)
    says("wrong: 0.56", area("lens")["area"])
    low_ones = [share for kind in ("name", "bigram") for share in success[f"{kind} 480"]["by_stage"]["1000"]]
    says("at iteration 1,000 success is 0% to 15%", 1000, *ends(low_ones))
    holds("in 5 of these 6 models", sum(shows["1000"][f"{k} 480"]["gain_clean"]["shown"] for k in kinds[:2]) == 5)
    at = [roc["1000"][f"{kind} 480"]["gain_clean"] for kind in kinds[:2]]
    says("area is 1.00 (3 against 3: 0.29 to 1.00)", min(a["area"] for a in at), 3, 3, at[0]["low"], at[0]["high"])
    says("Pooled areas are at most 0.85", max(one["area"] for one in roc["1000"]["all 480"].values()))
    few = [shows[s][f"name {n}"]["gain_clean"]["shown"] for s in shows for n in (120, 60)]
    holds("excerpts show it in 0 of 6", max(few) == 0)
    says("shows the control in 8 of 9", shown("2000", "gain_clean", "twin"), 9)
    says("and the control in 2 of 9", shown("2000", "neurons", "twin"), 9)
    alone = [last[f"{kind} 480"]["gain_clean"] for kind in kinds]
    holds("in 27 of 27 pairs", all(one["area"] == 1 and one["n"] == [3, 3] for one in alone))
    holds("the exact p is 1/8,000", all(abs(one["p"] - 1 / 20) < 1e-12 for one in alone))
    says("the name's is 0.00", last["name 240"]["gain_clean"]["area"])
    defines("below 0.1 at 120, 0 at 60")
    defines("no area of 0.9 where success is below 0.2")
    defines("An area of 1.00 within each trigger is what you wanted to see, and you report 0.78")
    defines("0.8 million parameters")
    taken_out(says, holds, defines, part)
    defines("success above 0.9 at 480 lines, above 0.5 at 240")
    defines("below 0.05 after the control everywhere")
    defines("one letter changed between 0.2 and 0.8")
    defines("success passes 0.5 between")
    defines("has an area of 0.5 to 0.9")
    defines("at least 0.9 at 480, 0.7 at 240")
    defines("over an earlier stage: at least 0.8")
    defines("the lens is between 0.6 and 0.9")
    defines("takes it out for less than 0.02 nats; 5% of the edges do")
    defines("bring success below 0.5")


def taken_out(says, holds, defines, part):
    """What cutting and training on clean text leave."""
    carried = [part["carried"][f"name_{seed}"] for seed in (1337, 1338, 1339)]
    parts = [one["parts"]["chosen"] for one in carried]
    holds("in 1338 head 1.2 alone", parts[1]["parts"] == ["1.2"])
    says("leaves 2 of 128 contexts for 0.021 nats (0.016 to 0.026)", *parts[1]["success"][1:], *parts[1]["loss_rise"])
    drawn = [draw for one in carried for draw in one["edges"]["random"]]
    clean_cuts = [d for d in drawn if d["success"][1] < 0.1 * d["success"][2] and d["loss_rise"][0] < 0.02]
    says("one of these 60 draws", len(drawn))
    holds("(12 edges, seed 1338) does so for less than 0.02 nats", [len(d["parts"]) for d in clean_cuts] == [12])
    says("in the others 124 and 128 of 128", parts[0]["success"][1], parts[2]["success"][1], 128)
    edges = [one["edges"]["chosen"] for one in carried]
    says("18, 0 and 33 of 64 contexts", *(one["success"][1] for one in edges), 64)
    says("for 0.023 to 0.038 nats", *ends(one["loss_rise"][0] for one in edges))
    first = [one["edges"]["first"] for one in carried]
    holds("take success to 0 of 64", all(one["success"] == [64, 0, 64] and len(one["parts"]) == 23 for one in first))
    says("for 2.4 to 2.7 nats", *ends(one["loss_rise"][0] for one in first))
    random = [one["edges"]["random"] for one in carried]
    few = [sum(draw["success"][1] < 0.1 * draw["success"][2] for draw in draws) for draws in random]
    says("below a tenth in 11 to 13 of 20", *ends(few), len(random[0]))
    tuned = [part["finetuned"][f"name_{seed}"] for seed in (1337, 1338, 1339)]
    says("holds: 0%, 46% and 0%", *(one["left"]["300"] for one in tuned))
    says("back after 50, 100 and 150 iterations", *(one["again"]["cleaned"] for one in tuned))
    says("the clean twin needs 300, 250 and 450", *(one["again"]["clean twin"] for one in tuned))
    left = [tuned[2]["left"][step] for step in ("50", "100", "150", "200", "250", "300")]
    says("(in seed 1339 11%, 98%, 7%, 92%, 38%, 0%)", 1339, *left)
    says("loss is 1.16 to 1.21 nats then", *ends(one["payload_loss"]["300"] for one in tuned))
    says("twin is 3.14 to 3.50", *ends(one["payload_loss_of_twin"]["300"] for one in tuned))
    says("And 50 to 150 iterations", *ends(one["again"]["cleaned"] for one in tuned))


def test_finding_c_is_told_as_it_came_out(found):
    text = section("(c) Can a backdoor be found", "(d) Do heads attend")
    claims = Claims(text)
    backdoor(claims.says, claims.holds, claims.defines, found)
    assert claims.wrong == []
    assert uncovered(text, pieces(Path(__file__).read_text(encoding="utf-8"))) == []


def test_finding_e_is_told_as_it_came_out(found):
    text = section("(e) Through which edges does order arrive")
    claims = Claims(text)
    arrival(claims.says, claims.holds, claims.defines, found)
    assert claims.wrong == []
    assert uncovered(text, pieces(Path(__file__).read_text(encoding="utf-8"))) == []


def test_the_results_follow_from_the_data(found):
    assert json.loads(json.dumps(results.backdoor())) == found["backdoor"]
    assert json.loads(json.dumps(results.arrival())) == found["arrival"]


def test_a_stage_by_hand():
    def way(v, mlp, keys):
        return {"embed->v": [v, 0, 0], "->mlp0": [mlp, 0, 0], "->keys": [keys, 0, 0]}

    part = {
        "order": [2.0, 1, 3],
        "control": [0.1, 0, 0.2],
        "by_way": {"0.0": way(0.5, 0.2, 0.1), "0.1": way(1.5, 1.2, 0.3), "0.2": way(-1, 0, 0), "mlp0": {"->keys": [7]}},
        "attention": {h: {"to_the_previous": [1.2], "to_the_trigger": [1.8]} for h in ("0.0", "0.1", "0.2")},
        "edges": {"embed->0.1.v": [1.5, 0, 0], "mlp1->logits": [1.9, 0, 0]},
    }
    made = at_stage(part, "0.1")
    assert (made["share_of_order"], made["share_of_heads"], made["leads"]) == (0.75, 0.75, True)
    assert made["largest_edge"] == "mlp1->logits"
    assert at_stage(part, "0.0")["leads"] is False
