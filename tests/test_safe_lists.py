"""When is the cheap method safe: the file holds what the shipped weights give, and the verdicts follow from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from scripts.replication import rule, safe
from scripts.replication.edge_agreement import OUT, Place, by_nodes, effects, order_of, some_of
from tests.test_replication import close

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
        pytest.param(Place(task="shakespeare", seed="1337", step=500), 1, marks=pytest.mark.slow),
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
