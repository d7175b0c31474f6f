"""Estimates of edges by gradients: against differences of plain runs, sums over a sender, and where they are exact."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.circuits.estimates import edge_attribution
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.patching.attribution import attribution_patching
from nanogpt_lens.running.metrics import logit_diff
from tests.nanogpt_lens.patching.patching_helpers import model, texts

METRIC = logit_diff([3, 1, 4], [5, 9, 2], pos=[3, -1])
QUIET = {"progress": False}


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_it_is_the_slope_of_the_exact_run(direction):
    """An edge that carries a small share of the other value: central differences of masked runs."""
    clean, corrupted = texts()
    hooked = model()
    result = edge_attribution(hooked, clean, corrupted, METRIC, direction=direction, **QUIET)
    ready = prepare(hooked, clean, corrupted, METRIC, direction=direction, source="other", reference=None, seed=0)
    graph, step = ready.graph, 1e-5
    whole = graph.all_edges.double()
    for i, edge in enumerate(graph.edges[::7]):
        one = graph.mask([edge]).double() * step
        with torch.no_grad():
            less, more = ready.metric(ready.runs(torch.stack([whole - one, whole + one])))
        slope = (less - more) / (2 * step)
        torch.testing.assert_close(result.per_example[7 * i], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_a_senders_edges_add_up_to_its_attribution(direction):
    """The sum over a sender's edges is the attribution of what it writes, which the package makes elsewhere."""
    clean, corrupted = texts()
    hooked = model()
    result = edge_attribution(hooked, clean, corrupted, METRIC, direction=direction, **QUIET)
    options = {"direction": direction, **QUIET}
    heads = attribution_patching(
        hooked, clean, corrupted, METRIC, activation="z", axes=("layer", "head"), **options
    ).values
    mlps = attribution_patching(hooked, clean, corrupted, METRIC, activation="mlp_out", axes=("layer",), **options)
    for node in CircuitGraph(hooked).senders[1:]:
        own = torch.tensor([name.startswith(f"{node}->") for name in result.labels["edge"]])
        expected = heads[node.layer, node.head] if node.kind == "head" else mlps.values[node.layer]
        torch.testing.assert_close(result.values[own].sum(), expected, rtol=0, atol=1e-10)


def test_integrated_gradients_are_complete():
    """The embedding's edges add up to the whole change, the better the more steps (Sundararajan et al. 2017)."""
    clean, corrupted = texts()
    errors = []
    for steps in (1, 5, 40):
        result = edge_attribution(model(), clean, corrupted, METRIC, method="eap_ig", steps=steps, **QUIET)
        start = torch.tensor([name.startswith("embed->") for name in result.labels["edge"]])
        errors.append(abs(float(result.values[start].sum()) - (result.target - result.base)))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.01 * abs(result.target - result.base)


def test_positions_add_up():
    clean, corrupted = texts()
    for metric in (METRIC, logit_diff(3, 5, pos=4)):
        whole = edge_attribution(model(), clean, corrupted, metric, **QUIET)
        each = edge_attribution(model(), clean, corrupted, metric, positions="each", **QUIET)
        assert each.shape == {"edge": len(whole.values), "pos": clean.shape[1]}
        torch.testing.assert_close(each.values.sum(1), whole.values, rtol=0, atol=1e-12)


def test_bad_input_is_one_sentence():
    clean, corrupted = texts()
    for options, said in (
        ({"method": "acdc"}, "method is 'acdc'"),
        ({"method": "eap_ig", "steps": 0}, "steps is 0"),
        ({"method": "eap_ig", "source": "zero"}, "goes from one text to the other"),
    ):
        with pytest.raises(AnalysisError, match=said):
            edge_attribution(model(), clean, corrupted, METRIC, **options, **QUIET)
    with pytest.raises(AnalysisError, match="the metric has no gradient"):
        edge_attribution(model(), clean, corrupted, lambda logits: (logits.argmax(-1) == 3).double().mean(), **QUIET)
