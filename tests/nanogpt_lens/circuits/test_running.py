"""Circuits, run: against plain lines over nanoGPT's weights, and at both ends against the model itself."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.patching.sweeps import activation_patching
from nanogpt_lens.results import CircuitRuns, load_result
from nanogpt_lens.running.metrics import answer_logprob, kl_to, logit_diff, loss
from tests.nanogpt_lens.circuits import plain
from tests.nanogpt_lens.patching.patching_helpers import checkpoint, model, native, texts

METRIC = logit_diff([3, 1, 4], [5, 9, 2], pos=[3, -1])
QUIET = {"progress": False}


def random_circuits(graph, shares=(0.1, 0.5, 0.9), seed=0):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(shares), len(graph.edges), generator=generator) < torch.tensor(shares)[:, None]
    return [[edge for edge, kept in zip(graph.edges, row, strict=True) if kept] for row in draws.tolist()]


def logits_by_hand(edges, clean, other):
    state = checkpoint().state_dict
    return plain.run(state, 2, clean, other, set(map(str, edges)))["logits"]


def test_the_plain_lines_are_nanogpt():
    clean, _ = texts()
    torch.testing.assert_close(
        plain.run(checkpoint().state_dict, 2, clean, None, set())["logits"], native()(clean), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("source", ["other", "zero", "mean"])
def test_any_set_of_edges_is_what_plain_lines_give(source):
    clean, corrupted = texts()
    hooked = model()
    circuits = random_circuits(CircuitGraph(hooked))
    other = plain.run(checkpoint().state_dict, 2, corrupted if source == "other" else clean, None, set())
    if source == "zero":
        other = {name: torch.zeros_like(value) for name, value in other.items()}
    if source == "mean":
        other = {name: value.mean((0, 1)).expand_as(value) for name, value in other.items()}
    result = run_circuit(hooked, circuits, clean, corrupted, METRIC, source=source, **QUIET)
    bound = METRIC.resolved(hooked, clean)
    expected = torch.stack([bound.per_example(logits_by_hand(edges, clean, other)) for edges in circuits])
    torch.testing.assert_close(result.per_example, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(result.values, expected.mean(1), rtol=0, atol=1e-10)
    empty = bound.per_example(logits_by_hand([], clean, other))
    full = bound.per_example(native()(clean))
    expected = (expected.mean(1) - empty.mean()) / (full.mean() - empty.mean())
    torch.testing.assert_close(result.faithfulness, expected, rtol=0, atol=1e-9)
    ratios = ((result.per_example - empty) / (full - empty)).mean(1)
    torch.testing.assert_close(result.mean_of_ratios, ratios, rtol=1e-9, atol=1e-9)
    assert result.n_edges == tuple(map(len, circuits))
    assert not has_hooks(hooked)


@pytest.mark.parametrize("metric", [answer_logprob(4), kl_to(native()(texts()[0]), pos=-1), loss()])
def test_the_whole_graph_is_the_clean_run_and_no_edge_the_corrupted_one(metric):
    clean, corrupted = texts()
    hooked = model()
    graph = CircuitGraph(hooked)
    result = run_circuit(hooked, [[], list(graph.edges)], clean, corrupted, metric, **QUIET)
    bound = metric.resolved(hooked, clean)
    expected = torch.stack([bound.per_example(native()(text)) for text in (corrupted, clean)])
    torch.testing.assert_close(result.per_example, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(result.faithfulness, torch.tensor([0.0, 1.0]).double(), rtol=0, atol=1e-9)


def test_without_all_edges_of_a_sender_it_is_patched():
    """All out-edges of a head at once are the patch of its output z; of an MLP, of its output."""
    clean, corrupted = texts()
    hooked = model()
    graph = CircuitGraph(hooked)
    heads = activation_patching(
        hooked, clean, corrupted, METRIC, activation="z", axes=("layer", "head"), direction="noise", **QUIET
    )
    mlps = activation_patching(
        hooked, clean, corrupted, METRIC, activation="mlp_out", axes=("layer",), direction="noise", **QUIET
    )
    nodes = [node for node in graph.senders if node.kind != "embed"]
    circuits = [[edge for edge in graph.edges if edge.sender != node] for node in nodes]
    result = run_circuit(hooked, circuits, clean, corrupted, METRIC, **QUIET)
    expected = [heads.values[n.layer, n.head] if n.kind == "head" else mlps.values[n.layer] for n in nodes]
    torch.testing.assert_close(result.values, torch.stack(expected), rtol=0, atol=1e-10)


def test_one_by_one_or_together_and_by_name():
    clean, corrupted = texts()
    hooked = model()
    circuits = [["embed->0.1", "0.1->logits"], ["mlp1->logits"]]
    both = run_circuit(hooked, circuits, clean, corrupted, METRIC, memory=1, **QUIET)
    for i, one in enumerate(circuits):
        alone = run_circuit(hooked, one, clean, corrupted, METRIC, **QUIET)
        torch.testing.assert_close(alone.values[0], both.values[i], rtol=0, atol=1e-12)


def test_a_function_of_the_logits_is_a_metric():
    clean, corrupted = texts()
    hooked = model()

    def first(logits):
        return logits[:, 2, 4].mean()

    edges = random_circuits(CircuitGraph(hooked))[1]
    result = run_circuit(hooked, edges, clean, corrupted, first, **QUIET)
    other = plain.run(checkpoint().state_dict, 2, corrupted, None, set())
    torch.testing.assert_close(result.values[0], first(logits_by_hand(edges, clean, other)), rtol=0, atol=1e-10)
    assert result.per_example is None
    assert result.low is None


def test_it_is_saved_and_loaded(tmp_path):
    clean, corrupted = texts()
    result = run_circuit(model(), ["embed->logits"], clean, corrupted, METRIC, **QUIET)
    result.save(tmp_path / "run")
    again = load_result(tmp_path / "run")
    assert isinstance(again, CircuitRuns)
    assert again.n_edges == (1,)
    assert torch.equal(again.faithfulness, result.faithfulness)
    assert "faithfulness" in repr(again)
    assert again.to_dataframe().equals(result.to_dataframe())


def test_bad_input_is_one_sentence():
    clean, corrupted = texts()
    hooked = model()
    with pytest.raises(AnalysisError, match="there is no gap for a circuit to close"):
        run_circuit(hooked, ["embed->logits"], clean, corrupted, lambda logits: 0 * logits.sum(), **QUIET)
    with pytest.raises(AnalysisError, match="the clean and the corrupted text are the same"):
        run_circuit(hooked, ["embed->logits"], clean, clean, METRIC, **QUIET)
    with pytest.raises(AnalysisError, match="mixes edges and lists of edges"):
        run_circuit(hooked, ["embed->logits", ["embed->mlp0"]], clean, corrupted, METRIC, **QUIET)
    with pytest.raises(AnalysisError, match="tokens; expected the same number of tokens"):
        run_circuit(hooked, ["embed->logits"], clean, corrupted[:, :-1], METRIC, **QUIET)
    with pytest.raises(AnalysisError, match="there is no corrupted run"):
        run_circuit(hooked, ["embed->logits"], clean, None, METRIC, **QUIET)
    hooked.add_hook("blocks.0.hook_mlp_out", lambda value, hook: value * 0)
    with pytest.raises(AnalysisError, match="to which no hooks are attached"):
        run_circuit(hooked, ["embed->logits"], clean, corrupted, METRIC, **QUIET)


def test_a_bare_function_of_logits_has_one_value_and_no_interval():
    clean, corrupted = texts()
    hooked = model()
    circuits = random_circuits(CircuitGraph(hooked))
    result = run_circuit(hooked, circuits, clean, corrupted, lambda logits: logits[:, -1, 3].mean(), **QUIET)
    other = plain.run(checkpoint().state_dict, 2, corrupted, None, set())
    expected = torch.stack([logits_by_hand(edges, clean, other)[:, -1, 3].mean() for edges in circuits])
    torch.testing.assert_close(result.values, expected, rtol=0, atol=1e-10)
    full, empty = (native()(text)[:, -1, 3].mean() for text in (clean, corrupted))
    torch.testing.assert_close(result.faithfulness, (expected - empty) / (full - empty), rtol=0, atol=1e-9)
    assert (result.per_example, result.faithfulness_interval, result.mean_of_ratios) == (None, None, None)
    frame = result.to_dataframe()
    assert "faithfulness_low" not in frame
    assert frame["faithfulness"].tolist() == pytest.approx(result.faithfulness.tolist())
