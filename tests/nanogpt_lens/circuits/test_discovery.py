"""Circuits that are found: the handmade one and nothing else, the smallest of all subsets, and the certificate."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch

from nanogpt_lens.circuits.connected import without_dangling
from nanogpt_lens.circuits.discovery import find_circuit
from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.estimates import edge_attribution
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results import Circuit, load_result
from nanogpt_lens.running.metrics import logit_diff
from nanogpt_lens.text.prompts import induction_pairs
from tests.handmade import handmade_model
from tests.nanogpt_lens.circuits import asking

QUIET = {"progress": False}
TOKEN = ("embed->0.1.v", "0.1->1.0.k", "1.0->logits")
WHOLE = ("embed->0.1.q", "embed->0.1.k", "embed->0.1.v", "embed->1.0.q", "0.1->1.0.k", "embed->1.0.v", "1.0->logits")


def find(**options):
    clean, corrupted = asking.texts()
    return find_circuit(asking.model(), clean, corrupted, asking.METRIC, **{"orders": 0, **QUIET, **options})


@pytest.fixture(scope="module")
def subsets():
    """The faithfulness of all 8,192 subsets of the small model's edges, by the number of the subset."""
    from nanogpt_lens.circuits.running import run_circuit

    clean, corrupted = asking.texts()
    names = list(map(str, CircuitGraph(asking.model()).edges))
    every = [[name for i, name in enumerate(names) if code >> i & 1] for code in range(2 ** len(names))]
    values = run_circuit(asking.model(), every, clean, corrupted, asking.METRIC, **QUIET).faithfulness
    return names, values


def number(names, circuit):
    return sum(1 << names.index(name) for name in circuit)


@pytest.mark.parametrize("method", ["greedy", "exact", "acdc"])
@pytest.mark.parametrize(("source", "expected"), [("other", TOKEN), ("zero", WHOLE), ("mean", WHOLE)])
def test_the_handmade_circuit_and_nothing_else(method, source, expected):
    """Where only the first A is another, its token alone matters; where all is taken away, all that the weights say."""
    model = handmade_model()
    pairs = induction_pairs(model, n=8, seq_len=12)
    metric = logit_diff(pairs.answer, pairs.wrong)
    circuit = find_circuit(model, pairs.clean, pairs.corrupted, metric, method=method, source=source, orders=3, **QUIET)
    assert circuit.edges == expected
    assert circuit.is_minimal
    assert circuit.different == (expected,)
    assert circuit.core == expected
    assert circuit.overlap == 1
    assert not has_hooks(model)


def greedy_by_hand(names, values, tolerance):
    """Leave out the edge without which the faithfulness is nearest to 1, until that is outside the tolerance."""
    kept = {*names}
    while True:
        off = {name: abs(float(values[number(names, kept - {name})]) - 1) for name in names if name in kept}
        least = min(off, key=off.__getitem__)
        if off[least] > tolerance:
            return kept
        kept -= {least}


@pytest.mark.parametrize("tolerance", [0.05, 0.2, 0.4])
def test_greedy_is_the_plain_algorithm_and_exchanges_make_it_no_larger(subsets, tolerance):
    names, values = subsets
    sizes = torch.tensor([code.bit_count() for code in range(len(values))])
    smallest = int(sizes[(values - 1).abs() <= tolerance].min())
    plain = find(faithfulness=1 - tolerance, exchanges=0, at_once=0.01)
    assert {*plain.edges} == greedy_by_hand(names, values, tolerance)
    for circuit in (plain, find(faithfulness=1 - tolerance, at_once=0.01), find(faithfulness=1 - tolerance)):
        assert smallest <= circuit.n_edges
        off = [abs(float(values[number(names, {*circuit.edges} - {edge})]) - 1) for edge in circuit.edges]
        assert circuit.is_minimal == (min(off) > tolerance)
        assert circuit.holds
        assert circuit.is_minimal
    assert find(faithfulness=1 - tolerance, at_once=0.01).n_edges <= plain.n_edges


@pytest.mark.parametrize(("tolerance", "found", "smallest", "how_many"), [(0.05, 11, 7, 1), (0.2, 9, 5, 4)])
def test_smaller_circuits_exist_than_are_found(subsets, tolerance, found, smallest, how_many):
    """By accident, in a random model; docs/CIRCUITS.md has these numbers."""
    _, values = subsets
    sizes = torch.tensor([code.bit_count() for code in range(len(values))])[(values - 1).abs() <= tolerance]
    assert (int(sizes.min()), int((sizes == sizes.min()).sum())) == (smallest, how_many)
    circuit = find(faithfulness=1 - tolerance)
    assert circuit.n_edges == found
    assert circuit.is_minimal


def test_faithfulness_is_that_of_plain_lines(subsets):
    names, values = subsets
    for code in (0b1011011101101, 0b11111, 0b1110001110001):
        edges = [name for i, name in enumerate(names) if code >> i & 1]
        assert float(values[code]) == pytest.approx(asking.faithfulness(edges), abs=1e-9)
    circuit = find(faithfulness=0.8)
    assert circuit.faithfulness == pytest.approx(asking.faithfulness(circuit.edges), abs=1e-9)
    for name, without in zip(names, circuit.without.tolist(), strict=True):
        if name in circuit.edges:
            assert without == pytest.approx(asking.faithfulness(set(circuit.edges) - {name}), abs=1e-9)
        else:
            assert math.isnan(without)


@pytest.mark.parametrize("source", ["zero", "mean"])
def test_other_sources_against_plain_lines(source):
    circuit = find(source=source, faithfulness=0.8, method="exact")
    assert circuit.faithfulness == pytest.approx(asking.faithfulness(circuit.edges, source), abs=1e-9)


def test_other_minimal_circuits_are_minimal_and_counted(subsets):
    names, values = subsets
    circuit = find(faithfulness=0.8, orders=6)
    for row, faithful in zip(circuit.other_circuits, circuit.other_faithfulness.tolist(), strict=True):
        edges = {name for name, flag in zip(names, row.tolist(), strict=True) if flag}
        assert faithful == pytest.approx(float(values[number(names, edges)]), abs=1e-9)
        assert abs(faithful - 1) <= 0.2
        assert all(abs(float(values[number(names, edges - {edge})]) - 1) > 0.2 for edge in edges)
    assert len(circuit.different) == len({tuple(row) for row in circuit.other_circuits.tolist()}) > 1
    one, two = ({*circuit.different[i]} for i in (0, 1))
    rows = [
        tuple(name for name, flag in zip(names, row, strict=True) if flag) for row in circuit.other_circuits.tolist()
    ]
    i, j = rows.index(circuit.different[0]), rows.index(circuit.different[1])
    assert float(circuit.replaced[i, j]) == pytest.approx(
        float(values[number(names, {*names} - (one - two))]), abs=1e-9
    )
    every = [{*circuit.edges}, *map(set, rows)]
    jaccard = [len(a & b) / len(a | b) for a, b in itertools.combinations(every, 2)]
    assert circuit.overlap == pytest.approx(sum(jaccard) / len(jaccard))
    assert {*circuit.core} == set.intersection(*every)


def acdc_by_hand(names, values, threshold):
    """One edge after the other, from the logits down, in a few lines."""
    kept, whole = {*names}, 1.0
    for name in reversed(names):
        grown = abs(float(values[number(names, kept - {name})]) - whole) - abs(
            float(values[number(names, kept)]) - whole
        )
        if grown < threshold:
            kept -= {name}
    return tuple(name for name in names if name in kept)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_acdc_is_the_plain_algorithm(subsets, share):
    names, values = subsets
    everything = find(method="exact", n_edges=len(names))
    gap = float(everything.full.mean() - everything.empty.mean())
    circuit = find(method="acdc", threshold=share * abs(gap))
    kept = torch.tensor([name in acdc_by_hand(names, values, share) for name in names])
    graph = CircuitGraph(asking.model())
    pruned = without_dangling(graph, kept, "other")
    assert torch.equal(circuit.kept, pruned)
    assert circuit.n_dangling == int(kept.sum() - pruned.sum())


def test_acdc_at_the_ends_and_by_kl():
    n = asking.EDGES
    assert find(method="acdc", threshold=math.inf).n_edges == 0
    assert find(method="acdc", threshold=0.0).n_edges <= n
    by_kl = find(method="acdc", divergence="kl", faithfulness=0.8)
    assert by_kl.holds
    assert torch.equal(by_kl.rank.sort().values, torch.arange(n))


def test_rankings_take_the_largest():
    clean, corrupted = asking.texts()
    effects = edge_effects(asking.model(), clean, corrupted, asking.METRIC, **QUIET).effect.double()
    estimates = edge_attribution(asking.model(), clean, corrupted, asking.METRIC, **QUIET).values.double()
    for method, scores in (("exact", effects), ("eap", estimates)):
        circuit = find(method=method, n_edges=5)
        torch.testing.assert_close(circuit.values, scores)
        order = sorted(range(len(scores)), key=lambda i, s=scores: -abs(float(s[i])))
        assert circuit.rank.tolist() == [order.index(i) for i in range(len(order))]
        assert circuit.n_edges + circuit.n_dangling == 5
        for n in (0, 3, 7, 13):
            names = [circuit.labels["edge"][i] for i in order[:n]]
            assert circuit.faithfulness_at(n) == pytest.approx(asking.faithfulness(names), abs=1e-9)
        least = sorted(scores.abs().tolist())[-4]
        assert find(method=method, threshold=least).n_edges + find(method=method, threshold=least).n_dangling == 4
    assert find(method="greedy", n_edges=4).n_edges <= 4
    assert find(method="weights", faithfulness=0.5).signed is False
    assert find(method="attention", faithfulness=0.5).holds


def test_dangling_edges_are_those_on_no_way():
    """Against a search for ways through the circuit, in plain lines."""
    graph = CircuitGraph(asking.model())
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        kept = torch.rand(len(graph.edges), generator=generator) < 0.4
        names = {str(edge) for edge, flag in zip(graph.edges, kept.tolist(), strict=True) if flag}
        on_a_way = set()

        def follow(node, way, names=names, on_a_way=on_a_way):
            if node == "logits":
                on_a_way.update(way)
            for name in names:
                sender, receiver = name.split("->")
                if sender == node:
                    follow(receiver.rsplit(".", 1)[0] if receiver.count(".") == 2 else receiver, [*way, name])

        follow("embed", [])
        found = without_dangling(graph, kept, "other")
        assert {str(e) for e, flag in zip(graph.edges, found.tolist(), strict=True) if flag} == on_a_way


def test_it_is_saved_loaded_and_read(tmp_path):
    circuit = find(orders=2, faithfulness=0.8)
    circuit.save(tmp_path / "circuit")
    again = load_result(tmp_path / "circuit")
    assert isinstance(again, Circuit)
    assert again.edges == circuit.edges
    assert again.faithfulness == circuit.faithfulness
    assert again.is_minimal == circuit.is_minimal
    assert again.different == circuit.different
    frame = circuit.to_dataframe()
    assert frame["kept"][: circuit.n_edges].all()
    assert not frame["kept"][circuit.n_edges :].any()
    assert circuit.in_sample
    assert circuit.sentence() in repr(circuit)
    low, high = circuit.faithfulness_interval
    assert low < circuit.faithfulness < high
    rows = circuit.to_json()["rows"]
    assert {row["edge_label"] for row in rows if row["kept"]} == {*circuit.edges}
    with pytest.raises(ResultError, match="n_edges is 14; expected 0 to 13"):
        circuit.faithfulness_at(14)


def test_a_function_of_the_logits_is_a_metric():
    clean, corrupted = asking.texts()
    model = asking.model()
    circuit = find_circuit(model, clean, corrupted, lambda logits: logits[:, -1, 3].mean(), orders=1, **QUIET)
    assert circuit.holds
    assert circuit.faithfulness_interval is None
    assert circuit.n_examples is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "best"}, "method is 'best'"),
        ({"n_edges": 3, "threshold": 0.1}, "both n_edges and threshold are given"),
        ({"n_edges": 14}, "n_edges is 14; expected at most 13"),
        ({"n_edges": -1}, "n_edges is -1"),
        ({"threshold": 0.1}, "threshold is 0.1 for the method 'greedy'"),
        ({"method": "eap", "threshold": -1}, "threshold is -1"),
        ({"faithfulness": 1.5}, "faithfulness is 1.5; expected a number above 0 and at most 1"),
        ({"at_once": 0}, "at_once is 0"),
        ({"orders": -1}, "orders is -1"),
        ({"divergence": "l2"}, "divergence is 'l2'"),
        ({"method": "eap_ig", "source": "zero"}, "expected 'other'"),
    ],
)
def test_bad_input_is_one_sentence(options, said):
    with pytest.raises(AnalysisError, match=said):
        find(**options)


def test_texts_without_a_gap_are_refused():
    clean, corrupted = asking.texts()
    with pytest.raises(AnalysisError, match="there is no gap for a circuit to close"):
        find_circuit(asking.model(), clean, corrupted, lambda logits: 0 * logits.sum(), **QUIET)
    with pytest.raises(AnalysisError, match="there is no corrupted run"):
        find_circuit(asking.model(), clean, None, asking.METRIC, method="attention", **QUIET)


def test_zero_is_another_thing_with_processed_weights():
    """Value biases are folded into the output's: zero is refused, and other sources give the same as without."""
    clean, corrupted = asking.texts()
    folded = asking.model(process_weights=True)
    for ask in (find_circuit, edge_effects):
        with pytest.raises(AnalysisError, match="source is 'zero', and this model's weights are processed"):
            ask(folded, clean, corrupted, asking.METRIC, source="zero", **QUIET)
    for source in ("other", "mean"):
        one, two = (
            edge_effects(model, clean, corrupted, asking.METRIC, source=source, **QUIET).effect
            for model in (asking.model(), folded)
        )
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_hashes_of_python_decide_nothing():
    """ACDC as others wrote it goes through a set, and gives another circuit in another process."""
    code = (
        "import nanogpt_lens as ngl; m = ngl.load('handmade_induction'); p = ngl.induction_pairs(m, n=4, seq_len=12);"
        "ask = lambda how: ngl.find_circuit(m, p.clean, p.corrupted, ngl.metrics.logit_diff(p.answer, p.wrong), "
        "method=how, orders=2, progress=False); print([(c.edges, c.rank.tolist(), c.different) for c in "
        "map(ask, ('acdc', 'greedy'))])"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert "embed->0.1.v" in said[0]
