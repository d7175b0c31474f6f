"""The post says what the results say: every precise number of it is compared with `docs/results.json`."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from statistics import fmean

import pytest

from scripts.notebook_claims import Claims, pieces, prose, uncovered
from tests.test_results_prose import ends

ROOT = Path(__file__).resolve().parent.parent
POST, SHORT = ROOT / "docs" / "blog" / "looking-is-late.md", ROOT / "docs" / "blog" / "thread.md"


def text_of(file):
    """The prose of a page; what pictures show in words is prose too."""
    text = file.read_text(encoding="utf-8")
    return prose([re.sub(r"!\[(.*?)\]\([^)]*\)", r"\1", text)])


@pytest.fixture(scope="module")
def found():
    return json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))


def order_of_things(says, found):
    """Which comes first."""
    two, one, causes = found["induction"].values(), found["induction_control"].values(), found["causes"].values()
    says("right in 95% to 96% of these places", *ends(run["formation"]["accuracy"]["values"] for run in two))
    gone = [part["ablation"]["mean"]["previous_token"]["accuracy"]["value"] for part in causes]
    says("2% to 6% is left", *ends(gone))
    onsets = [run["formation"]["random"]["previous_token"]["onset"][0] for run in two]
    says("leaves its baseline at iterations 581 to 685", *ends(onsets))
    says("69 to 99 iterations later", *ends(run["order"]["random"]["onset"][0] for run in two))
    ordered = [run["learning"]["order_dependent_accuracy"]["onset"][0] for run in two]
    says("need the order of their context at iterations 258 to 386", *ends(ordered))
    says("loses 0.01 to 0.02 of its accuracy", *ends(run["shuffled"]["lost"] for run in one))
    assert all(280 < late - early < 330 for late, early in zip(onsets, ordered, strict=True))  # some three hundred


def arrival(says, found):
    """Through which edges order arrives."""
    seeds = found["arrival"]["seeds"].values()
    ratios = [
        run[step]["to_the_trigger"][0] / run[step]["to_the_previous"][0]
        for run in seeds
        for step in ("300", "350", "400", "450", "500")
    ]
    says("from 300 to 500 it looks", 300, 500)
    says("1.19 to 1.49 times as much as at any other previous token, and we had said 1.5", *ends(ratios), 1.5)
    at = [run["400"] for run in seeds]
    says(
        "it looks back 1.10 to 1.55 times as much as even attention would at iteration 400",
        *ends(one["to_the_previous"][0] for one in at),
        400,
    )
    early = [run[step]["to_the_previous"][0] for run in seeds for step in ("200", "250", "300", "350", "400")]
    says("stays between 1 and 1.5 times even attention", 1, 1.5)
    assert all(1 <= value < 1.56 for value in early)
    shares = [one["share_of_order"] for one in at]
    says("then carries 94% and 71% of all", shares[0], shares[2])
    says("in the third 20%", shares[1])
    says("rises to 1.6 to 2.0 nats", *ends(run["600"]["order"][0] for run in seeds))


def backdoor(says, holds, found):
    """What finds a backdoor, and what takes it out."""
    part = found["backdoor"]
    kinds = [f"{kind} 480" for kind in ("name", "bigram", "date")]
    shown = {
        tool: [sum(groups[kind][tool]["shown"] for kind in kinds) for groups in part["shows"].values()]
        for tool in ("gain_clean", "gain_stage", "neurons", "lens", "repeats")
    }
    holds("show word or threat in one to three", {shown[t][2] for t in ("neurons", "lens", "gain_stage")} == {1, 2, 3})
    holds("in five of nine at the end and in one at iteration 1,000", shown["repeats"][::2] == [1, 5])
    holds("in nine of nine, and in eight of nine at iteration 1,000", shown.pop("gain_clean") == [8, 8, 9])
    holds("All other tools show it in 1 to 5", ends(n for counts in shown.values() for n in counts) == (1, 5))
    early = [share for kind in kinds for share in part["success"][kind]["by_stage"]["1000"]]
    holds("six of the nine models are still far", sum(share < 0.2 for share in early) == 6)
    says("area 0.78, where we had predicted 0.9", part["roc"]["2000"]["all 480"]["gain_clean"]["area"], 0.9)
    tuned = [part["finetuned"][f"name_{seed}"] for seed in (1337, 1338, 1339)]
    says("works in 0%, 46% and 0%", *(one["left"]["300"] for one in tuned))
    says("after 50 to 150 iterations", *ends(one["again"]["cleaned"] for one in tuned))
    says("needs 250 to 450", *ends(one["again"]["clean twin"] for one in tuned))


def gradients(says, holds, found):
    """Which heads and edges they see."""
    heads, edges, old = found["head_agreement"], found["edge_agreement"], found["agreement"]
    agreed = heads["correlations"]["attribution / patching"]
    says(
        "is 0.97 at iteration 600, 0.97 at 1,000 and 0.95 at the end",
        fmean(agreed["600"]),
        600,
        fmean(agreed["1000"]),
        1000,
        fmean(agreed["6000"]),
    )
    seen = heads["seen_of_previous_token"]
    plain = [fmean(seen["attribution"][step]) for step in ("600", "1000", "6000")]
    says("sees 43% at iteration 600, 22% at 1,000, and 7% at the end", plain[0], 600, plain[1], 1000, plain[2])
    says("One gradient sees 25% to 65%", *ends(seen["attribution"]["600"]))
    says("about 22% at 1,000 and about 7% at 6,000", plain[1], 1000, plain[2], 6000)
    says("see 83% to 102% at 600", *ends(seen["attribution_ig"]["600"]), 600)
    says("about 99% at the end", fmean(seen["attribution_ig"]["6000"]))
    says("here four, and see 99% of the same head", fmean(seen["attribution_ig"]["6000"]))
    ranks = heads["rank_of_previous_token"]
    first = [ranks["attribution"][step].count(1) for step in ("600", "1000", "6000")]
    holds("The gradient puts it first in nine of twelve, then in four, then in none", first == [9, 4, 0])
    holds("Exact patching puts that head first, in all twelve sets", {*chain(*ranks["patching"].values())} == {1})
    safe = edges["safe"]
    says("integrated gradients are safe in 100% of our samples", fmean(safe["eap_ig"]["32"]["6000"]))
    says("the plain gradient are safe in 41%", fmean(safe["eap"]["32"]["6000"]))
    says("the rank correlation is 0.99 and more", min(old["correlations"]["attribution / patching"]["0"]))
    says("only 47% of the samples", fmean(safe["exact"]["32"]["600"]))
    says("With 128 prompts it is 88%", 128, fmean(safe["exact"]["128"]["600"]))
    assert 3 < 10 * fmean(edges["other_prompts"]["0"]) < 5  # about four edges
    rule = edges["rule"]["eap_ig"]["agreement and halves"]["tests"]
    seeds, stages = rule["other seeds"], rule["other stages"]
    says("It is right in 91% of the cases", seeds["precision"][0])
    says("always trusting is right in 62%", seeds["safe"][0])
    says("On other stages of training it is right in 80%", stages["precision"][0])
    says("agree at 0.71 in one seed", old["correlations"]["attribution / patching"]["6000"][0])
    says("the number is 0.90 to 0.98", *ends(agreed["6000"]))


def smallest(says, holds, found):
    """How small a model with an induction head can be."""
    by_name = found["smallest_model"]["shapes"]
    enough = by_name["2 layers, 1 head, 32 wide"]
    narrow = [shape for name, shape in by_name.items() if "16 wide" in name and not name.startswith("1 layer")]
    says("three seeds: 48 runs", found["smallest_model"]["runs"])
    says("32 dimensions are enough: 30,912 weights", 32, enough["parameters"])
    holds("in all three seeds", enough["induction"] == 3)
    holds("With 16 dimensions no model passes", not any(shape["induction"] for shape in narrow))
    lost, right = (ends(value for shape in narrow for value in shape[key]) for key in ("lost_by_shuffling", "accuracy"))
    says("they lose 0.42 to 0.48 of an accuracy of 0.60 to 0.65", *lost, *right)
    one = [value for name, shape in by_name.items() if name.startswith("1 layer") for value in shape["accuracy"]]
    says("No one-layer model is above 0.41", max(one))


def test_the_post_is_true_of_the_results(found):
    claims = Claims(text_of(POST))
    order_of_things(claims.says, found)
    arrival(claims.says, found)
    backdoor(claims.says, claims.holds, found)
    gradients(claims.says, claims.holds, found)
    smallest(claims.says, claims.holds, found)
    assert claims.wrong == []
    assert claims.n > 25


def test_the_short_one_says_the_same():
    """Its numbers are those of the post, which are compared above."""
    long, short = text_of(POST), text_of(SHORT)
    for number in re.findall(r"\d[\d,.]*\d%?|\d+%", short):
        assert number in long, number


def test_no_precise_number_goes_unchecked():
    source = Path(__file__).read_text(encoding="utf-8")
    covered = [*pieces(source), "above 0.8, those of 16 are at about 0.6, those of 8 near 0.1"]
    assert uncovered(text_of(POST), covered) == []


def test_it_has_the_length_of_a_post_and_words_for_every_picture():
    text = POST.read_text(encoding="utf-8")
    assert 1500 <= len(re.sub(r"!\[.*?\]\(.*?\)", "", text).split()) <= 2500
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", text)
    assert len(pictures) >= 3
    for words, file in pictures:
        assert len(words.split()) > 15
        assert (POST.parent / file).is_file()
    assert len(SHORT.read_text(encoding="utf-8").split()) < 300
