"""What `docs/RESULTS.md` says between its tables is what `docs/results.json` holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.notebook_claims import Claims, pieces, prose, uncovered

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ("1337", "1338", "1339")


def text_of(document):
    """The prose of a document, and its verdicts, without the tables that are filled."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    text = re.sub(r"<!-- table: \w+ -->.*?<!-- end -->", "", text, flags=re.DOTALL)
    return prose([re.sub(r"<[^>]*>", " ", text)])


def ends(values):
    """The least and the largest."""
    values = list(values)
    return min(values), max(values)


@pytest.fixture(scope="module")
def found():
    return json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def text():
    return text_of("RESULTS.md")


def replication(says, holds, defines, found):
    two, one, causes = found["induction"], found["induction_control"], found["causes"]
    formed = [run["formation"] for run in two.values()]
    says(
        "previous-token head ends at 0.77 to 0.79, the best induction head at 0.42 to 0.45",
        *ends(run["random"]["previous_token"]["values"] for run in formed),
        *ends(run["random"]["induction"]["values"] for run in formed),
    )
    says("the model is right in 95% to 96% of the places", *ends(run["accuracy"]["values"] for run in formed))
    says("it is right in 44% to 46%", *ends(run["formation"]["accuracy"]["values"] for run in one.values()))
    says("loses 0.01 to 0.02 of its accuracy", *ends(run["shuffled"]["lost"] for run in one.values()))
    says("two layers lose 0.90 to 0.91", *ends(run["shuffled"]["lost"] for run in two.values()))
    last = [run["whose_outputs"]["6000"] for run in two.values()]
    says("10 times as often as at a random position", sum(run["per_own"] for run in last) / len(last))
    holds("never at what followed other triggers", all(run["per_other"] < 0.05 for run in last))
    orders = [run["order"] for run in two.values()]
    says("baseline 69 to 99 iterations before the induction score", *ends(o["random"]["onset"][0] for o in orders))
    holds("with intervals above zero", all(o["random"]["onset"][1] > 0 for o in orders))
    half = {seed: run["order"]["random"]["half"][0] for seed, run in two.items()}
    says("111 and 52 iterations earlier in two seeds and 168 later", -half["1337"], -half["1339"], half["1338"])
    says("comes 327 to 392 iterations before", *ends(-o["task"]["onset"][0] for o in orders))
    learned = [run["learning"] for run in two.values()]
    says(
        "begin to rise at iterations 167 to 177",
        *ends(run[of]["onset"][0] for run in learned for of in ("accuracy", "gain")),
    )
    says("either head's score (581 and later)", min(run["random"]["previous_token"]["onset"][0] for run in formed))
    alone = [run["learning"][of]["onset"][0] for run in one.values() for of in ("accuracy", "gain")]
    says("at 120 to 140", *ends(alone))
    says("comes later, at 258 to 386", *ends(run["order_dependent_accuracy"]["onset"][0] for run in learned))
    without = [part["ablation"]["mean"] for part in causes.values()]
    says("right in 1% of the places", sum(part["induction_at_work"]["accuracy"]["value"] for part in without) / 3)
    says(
        "without its previous-token head in 2% to 6%", *ends(p["previous_token"]["accuracy"]["value"] for p in without)
    )
    holds(
        "Taking out all other heads of layer 0 costs nothing",
        all(abs(p["others"]["accuracy"]["value"] - p["nothing"]["accuracy"]["value"]) < 0.004 for p in without),
    )
    paths = [
        part["paths"]["task"][way] | {"head": part["paths"]["previous_token"]}
        for part in causes.values()
        for way in ("noise", "denoise")
    ]
    says(
        "the induction heads (0.83 to 1.00 of the effect)",
        *ends(way["through"][way["head"]]["keys"]["share"]["value"] for way in paths),
    )
    says(
        "with the MLPs frozen 0.01 to 0.03 is left",
        *ends(way["through_frozen"][way["head"]]["keys"]["share"]["value"] for way in paths),
    )
    lenses = [part["prompts"]["lens_on_task"] for part in causes.values()]
    says("lens in 73% to 75% of prompts", *ends(lens["resid_mid 1"]["top"]["value"] for lens in lenses))
    says("and in 1% before", max(lens["resid_post 0"]["top"]["value"] for lens in lenses))
    says(
        "the model is right in 21% to 25%",
        *ends(part["prompts"]["clean"]["accuracy"]["value"] for part in causes.values()),
    )
    holds("there is no one place", all(part["prompts"]["lens"]["appears"] is None for part in causes.values()))
    carried = [part["carry_over"][size] for part in causes.values() for size in ("16", "32", "50", "64")]
    says("accuracy is 0.26 to 0.30", *ends(part["accuracy"]["value"] for part in carried))
    says("chance 0.06 and less", max(part["chance"] for part in carried))
    says("23% to 30% of what it is above chance", *ends(part["share"]["value"] for part in carried))
    holds("stays above that of a uniform guess", all(part["loss"]["value"] > 4.17 for part in carried))
    scores = [part["prefix_matching"] for part in found["shakespeare"]["seeds"].values()]
    says("the highest prefix matching is 0.012 to 0.016", *ends(score["values"] for score in scores))
    holds("no more than chance", all(score["high"] < score["chance"] for score in scores))
    defines("accuracy is 0.95 and little more, and the highest prefix matching is below the 0.54 that a pilot run")
    defines("(ln 65 = 4.17 nats)")
    defines("puts the emergence at about 14 million tokens; this run saw 1.5 million")
    defines("The law of arXiv 2511.16893")
    defines("Intervals are 95% intervals")


def shapes(says, holds, defines, found):
    """Finding (a)."""
    part = found["smallest_model"]
    by_name, judged = part["shapes"], part["predictions"]
    enough = by_name["2 layers, 1 head, 32 wide"]
    narrow = [shape for name, shape in by_name.items() if "16 wide" in name and not name.startswith("1 layer")]
    says("one head each, 32 dimensions: 30,912 weights", 32, enough["parameters"])
    holds("forms one in all three seeds", enough["induction"] == 3)
    says("is right in 88% to 91% of the places", *ends(enough["accuracy"]))
    holds("With one layer none of 9 models does", judged["1"]["found"] == 0 and judged["1"]["runs"] == 9)
    holds("nor with 8 or 16 dimensions", not any(shape["induction"] for shape in narrow))
    wide = [shape for name, shape in by_name.items() if name.endswith(("32 wide", "64 wide")) and name[0] != "1"]
    says("all models of 32 and 64 dimensions are above 0.8 and filled", 32, 64, 0.8)
    holds("above 0.8 and filled", all(a > 0.8 for s in wide for a in s["accuracy"]))
    holds("above 0.8 and filled", all(s["induction"] == len(s["seeds"]) for s in wide))
    says("No one-layer model is above 0.41", judged["1"]["best_accuracy"])
    says("0 of 9 (0% to 34%); the best is right in 41%", 0, 9, 0, judged["1"]["high"], judged["1"]["best_accuracy"])
    says("3 of 3 (29% to 100%)", judged["2"]["found"], judged["2"]["runs"], judged["2"]["low"], judged["2"]["high"])
    says("0 of 9 (0% to 34%) and 0 of 3", 0, 9, 0, judged["3"]["16"]["high"], 0, judged["3"]["8"]["runs"])
    each = [iterations for pair in judged["4"]["later_at_32"].values() for iterations in pair["each"]]
    says("in 9 of 9 pairs", sum(iterations > 0 for iterations in each), len(each))
    says("by 207 to 1,343 iterations", *ends(each))
    for name, key, width in (("5", "one_later_than_four", "64"), ("6", "two_later_than_three", "64")):
        holds("no difference to see", judged[name][key][width]["low"] < 0 < judged[name][key][width]["high"])
    holds("32 dimensions are needed with either", judged["6"]["least_width"] == {"2": 32, "3": 32})
    lost, right = (
        ends(v for s in narrow for v in s["lost_by_shuffling"]),
        ends(v for s in narrow for v in s["accuracy"]),
    )
    says("they lose 0.42 to 0.48 of their accuracy of 0.60 to 0.65", *lost, *right)
    score = ends(value for shape in narrow for value in shape["prefix_matching"])
    says("reach a prefix matching of 0.04 to 0.05", *score)
    holds("were still rising", all(shape["still_rising"]["value"] > 0.01 for shape in narrow))
    says("after 16 million tokens", 4000 * part["tokens_per_iteration"] / 1e6)
    defines("those of 8 near 0.1")
    defines("those of 16 are at about 0.6 and hollow")
    defines("(a change of 0.1, and 0.8 accuracy)")


def test_the_replication_is_told_as_it_came_out(text, found):
    claims = Claims(text)
    replication(claims.says, claims.holds, claims.defines, found)
    assert claims.wrong == []
    shapes(claims.says, claims.holds, claims.defines, found)
    assert claims.wrong == []
    assert claims.n > 50


def test_a_number_that_is_not_so_would_be_found(text, found):
    claims = Claims(text.replace("0.77 to 0.79", "0.72 to 0.79"))
    replication(claims.says, claims.holds, claims.defines, found)
    assert [wrong[:30] for wrong in claims.wrong] == ["“previous-token head ends at 0.77"[:30]]


def test_no_precise_number_goes_unchecked():
    source = Path(__file__).read_text(encoding="utf-8")
    text = text_of("RESULTS.md").partition("(b) Do the methods agree?")[0]
    assert uncovered(text, pieces(source)) == []
