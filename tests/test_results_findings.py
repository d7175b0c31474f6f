"""What `docs/RESULTS.md` says of findings (c) and (e) is what `docs/results.json` holds, and follows from the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import results
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
    holds(
        "the head that becomes the previous-token head",
        {s: p["heads"]["previous_token"] for s, p in found["causes"].items()} == PREVIOUS,
    )
    says("looks at the previous token 1.10 to 1.55 times", *ends(one["to_the_previous"][0] for one in at["400"]))
    shares = [one["share_of_order"] for one in at["400"]]
    says("already carries 94% and 71%", shares[0], shares[2])
    says("In the third seed it carries 20% then", shares[1])
    says("10 to 11 times as", *ends(one["to_mlp"][0] / one["to_keys"][0] for one in at["400"]))
    holds("until iteration 450", at["400"][1]["leads"] is False and at["450"][1]["leads"])
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


def test_finding_e_is_told_as_it_came_out(found):
    text = section("(e) Through which edges does order arrive")
    claims = Claims(text)
    arrival(claims.says, claims.holds, claims.defines, found)
    assert claims.wrong == []
    assert uncovered(text, pieces(Path(__file__).read_text(encoding="utf-8"))) == []


def test_the_results_follow_from_the_data(found):
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
