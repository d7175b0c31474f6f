"""When is the cheap method safe: the file holds what the shipped weights give, and the verdicts follow from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from scripts.notebook_claims import Claims
from scripts.replication import rule, safe
from scripts.replication.edge_agreement import OUT, Place, by_nodes, effects, order_of, some_of
from tests.test_replication import close
from tests.test_results_prose import text_of

ROOT = Path(__file__).parent.parent
DATA = json.loads(OUT.read_text()) if OUT.is_file() else {}
FOUND = json.loads((ROOT / "docs" / "results.json").read_text()).get("edge_agreement")


def test_the_verdicts_follow_from_the_data():
    assert close(json.loads(json.dumps(rule.summary(DATA))), FOUND)


def near(one, other):
    """How much two rows of a sample differ; a share is counted in tenths of a list."""
    return {name: abs(one[name] - other[name]) for name in one}


@pytest.mark.parametrize(
    ("where", "sample"),
    [
        (Place(task="random", seed="1337", step=6000), 0),
        (Place(task="handmade", seed="0", step=0), 3),
        pytest.param(Place(task="random", seed="1338", step=6000), 5, marks=pytest.mark.slow),
        pytest.param(Place(task="random", seed="1337", step=600), 15, marks=pytest.mark.slow),
        pytest.param(Place(task="own", seed="1339", step=6000), 2, marks=pytest.mark.slow),
        pytest.param(Place(task="shakespeare", seed="1337", step=2000), 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_sample_measured_again_is_that_of_the_file(where, sample, tmp_path):
    kept = DATA["models"][where.name]
    model = where.load(tmp_path)
    pair = some_of(where.pairs(model, 0), slice(32 * sample, 32 * (sample + 1)))
    found = {name: each.double() for name, each in effects(model, pair).items()}
    edges = DATA["edges"][str(len(found["exact"]))]
    out = [i for i, edge in enumerate(edges) if edge.startswith("embed->")]
    again = safe.of_sample(found, torch.tensor(kept["means"]["exact"]).double(), out)
    there = {name: column[sample] for name, column in kept["samples"].items()}
    assert again.keys() == there.keys()
    apart = near(again, there)
    assert all(apart[name] <= 1 for name in again if name.startswith("captured"))
    assert all(apart[name] <= 10 for name in again if name.startswith(("agreement", "halves")))
    assert all(apart[name] <= 0.11 for name in again if name.startswith(("size", "completeness")))
    assert sum(apart[name] for name in again if name.startswith("safe")) <= 1


@pytest.mark.slow
def test_the_grades_of_512_prompts_are_those_of_the_package():
    """`grade_circuit_methods`, which knows nothing of this script."""
    where = Place(task="random", seed="1337", step=6000)
    model = where.load(ROOT)
    pair = where.pairs(model, 0)
    metric = ngl.metrics.logit_diff_of(pair)
    grades = ngl.grade_circuit_methods(
        model, pair.clean, pair.corrupted, metric, methods=["eap", "eap_ig", "attention", "weights"], progress=False
    )
    kept = DATA["models"][where.name]["grades"][0]
    for method in ("eap", "eap_ig", "attention", "weights"):
        for score in ("spearman", "top_k_overlap"):
            assert float(grades.at(method=method, score=score)) == pytest.approx(kept[method][score][0], abs=2e-3)


def test_what_a_list_captures_by_hand():
    truth = torch.tensor([4.0, -3.0, 2.0, 1.0, *[0.0] * 12])
    scores = torch.zeros(16)
    scores[[0, 2, *range(4, 12)]] = 1.0
    assert safe.captured(scores, truth) == pytest.approx(6 / 10)
    assert not safe.safe(scores, truth, scores)
    assert safe.safe(truth, truth, truth)
    assert not safe.safe(truth, truth, truth.abs())  # the wrong sign of an edge that matters
    assert safe.captured(-truth, truth) == pytest.approx(1.0)


def test_rates_by_hand():
    said, right = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    found = {name: float(v[0]) for name, v in rule.rates(said, right, np.ones((1, 5))).items()}
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["gain"] == pytest.approx(2 / 3 - 3 / 5)
    assert found["youden"] == pytest.approx(2 / 3 + 1 / 2 - 1)


def test_a_rule_is_fitted_by_recall_among_those_that_are_precise_enough():
    """Two models: what agrees is safe from 0.8 on, and the halves say nothing."""
    rows = {
        "agreement": list(range(10, 101, 10)) * 4,
        "halves_eap": [100] * 40,
        "size": [1] * 40,
        "completeness_eap": [1] * 40,
        "safe_eap": ([0] * 7 + [1] * 3) * 4,
    }
    models = {name: {"samples": rows} for name in ("one", "two")}
    samples = rule.Samples(models, ["one", "two"], "eap")
    assert rule.fit(samples, "agreement and halves")[0] == 80
    found = rule.tested(samples, "agreement and halves", (80, 50))
    assert found["precision"][0] == 1.0
    assert found["recall"][0] == 1.0
    assert found["works"]
    assert rule.within_models(samples, samples.said("agreement", (80,))) == {"models": 2, "youden": 1.0}


def test_a_node_whose_output_is_the_corrupted_one_is_a_patch_of_the_node():
    """The product of what both ends are worth, against `activation_patching` of heads."""
    from nanogpt_lens.circuits.prepared import prepare
    from nanogpt_lens.circuits.search import Search
    from nanogpt_lens.patching.runner import MEMORY

    model = ngl.load("handmade_induction")
    pair = ngl.induction_pairs(model, n=8, seq_len=12)
    metric = ngl.metrics.logit_diff_of(pair)
    ready = prepare(model, pair.clean, pair.corrupted, metric, source="other", reference=None, seed=0)
    search = Search(ready, memory=MEMORY)
    found = dict(zip(map(str, search.graph.edges), by_nodes(search).tolist(), strict=True))
    patched = ngl.activation_patching(
        model, pair.corrupted, pair.clean, metric, activation="z", axes=("layer", "head"), progress=False
    )
    worth = {f"{i}.{j}": abs(float(patched.effect[i, j])) for i in range(2) for j in range(2)}
    for edge, value in found.items():
        sender, receiver = edge.split("->")
        if sender in worth and receiver == "logits":
            assert value == pytest.approx(worth[sender], abs=1e-3)
        if sender in worth and receiver[:3] in worth:
            expected = worth[sender] * worth[receiver[:3]] / abs(search.gap)
            assert value == pytest.approx(expected, abs=1e-3)
    assert order_of(by_nodes(search)).tolist()[0] == int(by_nodes(search).abs().argmax())


def test_what_the_results_say_of_it_is_so():
    """Every number of the finding's sentences, from `results.json`."""
    claims = Claims(text_of("RESULTS.md"))
    said_of_lists(claims.says, claims.holds)
    said_of_the_rule(claims.says, claims.holds)
    said_of_heads(claims.says, claims.holds)
    assert claims.wrong == []
    assert claims.n > 20


def said_of_lists(says, holds):
    safe_, mean = FOUND["safe"], np.mean
    late = ("1000", "2000", "6000")
    says(
        "safe in 98% of the samples, those of exact effects in 99%",
        *(mean([safe_[way]["32"][step] for step in late]) for way in ("eap_ig", "exact")),
    )
    ways = ("eap_ig", "exact")
    says("At 600 they are in 43% and 47%", 600, *(mean(safe_[way]["32"]["600"]) for way in ways))
    says("at 400 in 8% and 8%", 400, *(mean(safe_[way]["32"]["400"]) for way in ways))
    says("With 128 of them 88% are safe at 600", 128, mean(safe_["eap_ig"]["128"]["600"]), 600)
    says("safe in 41% of the samples of 32 prompts", mean(safe_["eap"]["32"]["6000"]), 32)
    holds("is still not safe in two of three seeds", sum(FOUND["all_prompts"]["eap"]["6000"]) == 1)
    unexplained = [
        np.median(DATA["models"][f"random {seed} 6000"]["samples"]["completeness_eap"]) for seed in FOUND["seeds"]
    ]
    says("It leaves 92% of the gap unexplained", mean(unexplained))
    at_end = {name: [v[0] for v in FOUND["graded"][name]["spearman"]["6000"]] for name in ("eap", "eap_ig")}
    says("a rank correlation with the exact effects, 0.80", mean(at_end["eap"]))
    says("(EAP-IG: 0.82)", mean(at_end["eap_ig"]))
    tops = {name: [v[0] for v in FOUND["graded"][name]["top_k_overlap"]["6000"]] for name in FOUND["graded"]}
    says("ACDC finds 9 or 10 of the ten", 10 * min(tops["acdc"]), 10 * max(tops["acdc"]))
    says(
        "Patching both nodes finds 2 or 3, attention 2, the weights none",
        10 * min(tops["patched nodes"]),
        10 * max(tops["patched nodes"]),
        10 * mean(tops["attention"]),
    )
    holds("the weights none", max(tops["weights"]) == 0)
    gaps = [safe_["exact"]["32"][step][i] - safe_["eap_checked"]["32"][step][i] for step in late for i in range(3)]
    holds("worse in five of nine trained models, by 6 to 25 points", sum(gap > 0.05 for gap in gaps) == 5)
    says("by 6 to 25 points", 100 * min(gap for gap in gaps if gap > 0.05), 100 * max(gaps))
    many = FOUND["sensitivity"]
    apart = [abs(many["exact"][c][s] - many["eap_ig"][c][s]) for c in ("80", "95") for s in many["exact"][c]]
    holds("within 4 points of exact effects at every stage", max(apart) <= 0.04)
    holds(
        "EAP stays below both",
        all(many["eap"][c][s] <= min(many[way][c][s] for way in ways) for c in ("80", "95") for s in many["eap"][c]),
    )


def said_of_the_rule(says, holds):
    first = "agreement and halves"
    ig, plain = (FOUND["rule"][method][first] for method in ("eap_ig", "eap"))
    tests = ig["tests"]
    seeds, stages = tests["other seeds"], tests["other stages"]
    holds("at least half of their first ten edges", ig["thresholds"] == {"agreement": 10, "halves": 50})
    says("(74% to 98%), where always trusting is right in 62%", *seeds["precision"][1:], seeds["safe"][0])
    says("it is right in 91% of the cases", seeds["precision"][0])
    says("and it misses 6% of the safe ones", 1 - seeds["recall"][0])
    holds("So it works there as we had defined it", seeds["works"] and not stages["works"])
    says("it is right in 80%", stages["precision"][0])
    halves = np.array(DATA["models"]["random 1337 400"]["samples"]["halves_eap_ig"])
    holds("lets a quarter of the samples through", (halves >= 50).mean() == 0.25)
    holds("there is nothing to find out", all(tests[t]["safe"][0] == 1 for t in ("another task", "another model")))
    holds("EAP-IG name the same ten, and halves share 0.6", plain["thresholds"] == {"agreement": 100, "halves": 60})
    says("says so in 3% of the samples of other seeds", plain["tests"]["other seeds"]["said"][0])
    trained = [of["precision"][0] for name, of in plain["tests"].items() if name != "handmade"]
    holds("is never wrong on trained models", all(value in (1, None) for value in trained))
    handmade = plain["tests"]["handmade"]
    holds("it always says safe, and is always wrong", handmade["said"][0] == 1 and handmade["precision"][0] == 0)
    moved = FOUND["other_thresholds"]["eap_ig"]["60"]
    says("97% right, 92% of the safe ones found", moved["precision"], moved["recall"])
    says("is 0.09, where between all it is 0.78", seeds["within_models"]["youden"], seeds["youden"][0])
    holds("Within the three models", seeds["within_models"]["models"] == 3)
    size = FOUND["rule"]["eap_ig"]["size"]["tests"]["other seeds"]
    says("(0.75; difference 0.03, -0.10 to 0.15)", size["youden"][0], *size["main_is_better_by"])


def said_of_heads(says, holds):
    found = json.loads((ROOT / "docs" / "results.json").read_text())["head_agreement"]
    pairs = found["correlations"]
    plain, integrated = (np.array(list(pairs[f"{m} / patching"].values())) for m in ("attribution", "attribution_ig"))
    says("agree at 0.95 at the end (0.90 to 0.98, all twelve)", plain[-1].mean(), plain[-1].min(), plain[-1].max())
    better = [int((np.sign(integrated - plain) == sign).sum()) for sign in (1, 0, -1)]
    says("better 11 times, equal 14, worse 11 of 36", *better, plain.size)
    itself = found["patching_with_itself"]["600"]
    says("already at 600 (0.74 to 0.98)", 600, min(itself), max(itself))
    seen = [found["seen_of_previous_token"][m]["6000"] for m in ("attribution", "attribution_ig")]
    says("sees 5% to 8% of the previous-token head", min(seen[0]), max(seen[0]))
    says("integrated gradients see 97% to 102%", min(seen[1]), max(seen[1]))
    ranks = found["rank_of_previous_token"]
    holds("ranks it behind another in all twelve", all(rank in (2, 3) for rank in ranks["attribution"]["6000"]))
    holds("and put it first", set(ranks["attribution_ig"]["6000"]) == {1})
