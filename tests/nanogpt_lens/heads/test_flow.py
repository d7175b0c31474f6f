"""Rollout and flow against graphs worked out by hand, path sums, and networkx."""

from __future__ import annotations

from itertools import product

import networkx as nx
import pytest
import torch
from torch import Tensor

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.attention import attention_patterns, pattern_hook
from nanogpt_lens.heads.flow import attention_flow, attention_rollout
from tests.conftest import convert
from tests.handmade import handmade_model
from tests.making import write

TOKENS = [3, 1, 4, 1, 5, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("random"), vocab_size=11, n_layer=3, seed=5)
    return convert(read_checkpoint(path), dtype=torch.float64)


def mixed_by_hand(model, residual: float, heads: str) -> Tensor:
    """One matrix for each layer, entry by entry."""
    patterns = attention_patterns(model, TOKENS).values
    n_layers, n_heads, n, _ = patterns.shape
    found = torch.zeros(n_layers, n, n, dtype=torch.float64)
    for layer, i, j in product(range(n_layers), range(n), range(n)):
        each = [float(patterns[layer, head, i, j]) for head in range(n_heads)]
        one = max(each) if heads == "max" else sum(each) / n_heads
        found[layer, i, j] = residual * (i == j) + (1 - residual) * one
    for layer, i in product(range(n_layers), range(n)):
        found[layer, i] /= float(found[layer, i].sum())
    return found


@pytest.mark.parametrize(("residual", "heads"), [(0.5, "mean"), (0.2, "max"), (0.0, "mean")])
class TestBoth:
    def test_rollout_is_the_sum_over_paths(self, model, residual, heads):
        found = attention_rollout(model, TOKENS, residual=residual, heads=heads)
        a = mixed_by_hand(model, residual, heads)
        n = len(TOKENS)
        for i, j in product(range(n), range(n)):
            paths = sum(a[2, i, x] * a[1, x, y] * a[0, y, j] for x in range(n) for y in range(n))
            assert float(found.at(layer=2, dest_pos=i, src_pos=j)) == pytest.approx(float(paths), abs=1e-12)
        torch.testing.assert_close(found.at(layer=0), a[0])
        torch.testing.assert_close(found.values.sum(-1), torch.ones(3, n, dtype=torch.float64))

    def test_flow_is_that_of_networkx(self, model, residual, heads):
        found = attention_flow(model, TOKENS, pos=None, layer=None, residual=residual, heads=heads, progress=False)
        a = mixed_by_hand(model, residual, heads)
        graph = nx.DiGraph()
        for layer, i, j in product(range(3), range(6), range(6)):
            graph.add_edge((layer + 1, i), (layer, j), capacity=float(a[layer, i, j]))
        assert found.axes == ("layer", "dest_pos", "src_pos")
        for layer, i, j in product(range(3), range(6), range(6)):
            expected = nx.maximum_flow_value(graph, (layer + 1, i), (0, j))
            assert float(found.at(layer=layer, dest_pos=i, src_pos=j)) == pytest.approx(expected, abs=1e-8)


def hands_on(model, layers: list[list[list[float]]]):
    """Both heads of each layer replaced by a given pattern."""
    wanted = [torch.tensor(rows, dtype=torch.float64) for rows in layers]

    def replace(rows: Tensor):
        return lambda value, hook: rows.expand(value.shape).clone()

    return model.hooks(fwd_hooks=[(pattern_hook(i), replace(rows)) for i, rows in enumerate(wanted)])


def test_a_graph_worked_out_by_hand():
    """Two layers, two tokens: attention (1; 3/4, 1/4), then (1; 1/2, 1/2), the residual stream one half.

    Mixed, the last rows are (3/8, 5/8) and (1/4, 3/4). From the last position, token 0 is reached
    over position 0, 1/4, and over position 1, min(3/4, 3/8): together 5/8. Token 1 is reached over
    position 1 alone: min(3/4, 5/8). Rollout: 1/4 + 3/4 * 3/8 and 3/4 * 5/8.
    """
    model = handmade_model()
    first, second = [[1.0, 0.0], [0.75, 0.25]], [[1.0, 0.0], [0.5, 0.5]]
    with hands_on(model, [first, second]):
        rollout, flow = attention_rollout(model, [1, 2]), attention_flow(model, [1, 2], progress=False)
    torch.testing.assert_close(rollout.at(layer=1, dest_pos=1), torch.tensor([17 / 32, 15 / 32]).double())
    torch.testing.assert_close(flow.values, torch.tensor([5 / 8, 5 / 8]).double(), atol=1e-8, rtol=0)
    assert flow.axes == ("src_pos",)
    assert flow.labels["src_pos"] == ("1", "2")


def test_the_handmade_model_reaches_back_two_positions():
    """Without the residual stream and other heads, previous-token twice goes two positions back."""
    model = handmade_model()
    shift = torch.eye(6, dtype=torch.float64).roll(-1, 1).tril().tolist()
    shift[0][0] = 1.0
    with hands_on(model, [shift, shift]):
        assert attention_rollout(model, TOKENS, residual=0).at(layer=1, dest_pos=5, src_pos=3) == 1
        flow = attention_flow(model, TOKENS, residual=0, progress=False)
    assert flow.values.tolist() == [0, 0, 0, 1, 0, 0]


def test_only_the_residual_stream():
    model = handmade_model()
    flow = attention_flow(model, TOKENS, residual=1, pos=None, progress=False)
    assert flow.axes == ("dest_pos", "src_pos")
    assert torch.equal(flow.values, torch.eye(6, dtype=torch.float64))


def test_some_of_all(model):
    everything = attention_flow(model, TOKENS, pos=None, layer=None, progress=False)
    one = attention_flow(model, TOKENS, pos=2, layer=1, progress=False)
    assert torch.equal(one.values, everything.at(layer=1, dest_pos=2))
    assert "from position 2 after layer 1" in one.definition
    layers = attention_flow(model, TOKENS, layer=None, progress=False)
    assert layers.axes == ("layer", "src_pos")
    assert torch.equal(layers.values, everything.at(dest_pos=5))


def test_rollout_of_several_texts(model):
    both = attention_rollout(model, [TOKENS, TOKENS[::-1]])
    assert both.axes == ("example", "layer", "dest_pos", "src_pos")
    torch.testing.assert_close(both.at(example=0), attention_rollout(model, TOKENS).values)


def test_what_they_refuse(model):
    for residual in (-0.1, 1.5, float("nan"), True, "half"):
        with pytest.raises(AnalysisError, match="residual is .* a number from 0 to 1"):
            attention_rollout(model, TOKENS, residual=residual)
    with pytest.raises(AnalysisError, match="heads is 'min'; expected mean or max"):
        attention_flow(model, TOKENS, heads="min")
    with pytest.raises(AnalysisError, match="pos is 6; expected -6 to 5"):
        attention_flow(model, TOKENS, pos=6)
    with pytest.raises(AnalysisError, match="layer is -4; expected -3 to 2"):
        attention_flow(model, TOKENS, layer=-4)
    with pytest.raises(AnalysisError, match="there are 2 texts; expected one"):
        attention_flow(model, [TOKENS, TOKENS])
