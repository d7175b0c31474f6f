"""What masked runs save: shared layers, silent nodes, nodes that nobody reads; and edges at some positions alone."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.running import values_of
from nanogpt_lens.patching.runner import MEMORY
from tests.nanogpt_lens.circuits import asking, plain
from tests.nanogpt_lens.circuits.test_running import METRIC
from tests.nanogpt_lens.patching.patching_helpers import checkpoint, model, texts


def prepared(source="other"):
    clean, corrupted = texts()
    return prepare(model(), clean, corrupted, METRIC, source=source, reference=None, seed=0)


def by_hand(ready, edges, source="other"):
    clean, corrupted = texts()
    state = checkpoint().state_dict
    other = plain.run(state, 2, corrupted if source == "other" else clean, None, set())
    if source == "zero":
        other = {name: torch.zeros_like(value) for name, value in other.items()}
    return METRIC.resolved(ready.runs.model, clean).per_example(plain.run(state, 2, clean, other, edges)["logits"])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_sets_that_agree_on_the_first_layers_share_them(layer):
    """Sets that differ from one layer on: the numbers are the plain lines', and the layers below are run once."""
    ready = prepared()
    graph = ready.graph
    generator = torch.Generator().manual_seed(layer)
    half = torch.rand(len(graph.edges), generator=generator) < 0.5
    later = torch.tensor([edge.receiver.layer >= layer for edge in graph.edges])
    sets = [half ^ (later & (torch.rand(len(half), generator=generator) < 0.3)) for _ in range(4)]
    before = ready.runs.layer_passes
    found = values_of(ready, graph.masks(torch.stack(sets)), memory=MEMORY, progress=False)
    assert ready.runs.layer_passes - before == 4 * (3 - layer) + layer
    for value, kept in zip(found, sets, strict=True):
        edges = {str(edge) for edge, flag in zip(graph.edges, kept.tolist(), strict=True) if flag}
        torch.testing.assert_close(value, by_hand(ready, edges), rtol=0, atol=1e-10)


def test_what_is_shared_is_not_taken_for_another_set():
    """Two batches that differ in the first layer, one after the other, and the first again."""
    ready = prepared()
    graph = ready.graph
    one, two = (
        torch.stack(
            [graph.flags(graph.read([first, "0.1->1.0.v", "1.0->logits", *more])) for more in ([], ["mlp1->mlp2"])]
        )
        for first in ("embed->0.1.v", "embed->0.1.k")
    )
    values = [values_of(ready, graph.masks(some), memory=MEMORY, progress=False) for some in (one, two, one)]
    torch.testing.assert_close(values[0], values[2], rtol=0, atol=0)
    for some, found in zip((one, two), values, strict=False):
        for kept, value in zip(some, found, strict=True):
            edges = {str(edge) for edge, flag in zip(graph.edges, kept.tolist(), strict=True) if flag}
            torch.testing.assert_close(value, by_hand(ready, edges), rtol=0, atol=1e-10)


@pytest.mark.parametrize("source", ["other", "zero"])
@pytest.mark.parametrize(
    "edges",
    [
        {"mlp1->logits", "0.1->logits"},  # senders that read nothing
        {"embed->0.1.v", "embed->mlp1", "0.0->1.1.q"},  # nodes that nobody reads
        {"embed->0.0.v", "0.0->1.1.v", "1.1->mlp2", "mlp2->logits", "mlp0->logits"},
    ],
)
def test_silent_and_unread_nodes(edges, source):
    ready = prepared(source)
    mask = ready.graph.mask(ready.graph.read(edges))
    found = values_of(ready, mask[None], memory=MEMORY, progress=False)[0]
    torch.testing.assert_close(found, by_hand(ready, edges, source), rtol=0, atol=1e-10)


def test_edges_at_some_positions_alone():
    ready = prepared()
    graph, n_pos = ready.graph, texts()[0].shape[1]
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(len(graph.edges), n_pos, generator=generator) < 0.6
    mask = torch.zeros(1, *graph.all_edges.shape, n_pos, dtype=torch.bool)
    mask[:, graph.all_edges] = kept
    with torch.no_grad():
        found = ready.metric(ready.runs(mask))[0]
    live = {str(edge): places for edge, places in zip(graph.edges, kept, strict=True)}
    torch.testing.assert_close(found, by_hand(ready, live), rtol=0, atol=1e-10)


def test_the_small_model_has_thirteen_edges():
    assert len(CircuitGraph(asking.model()).edges) == asking.EDGES
