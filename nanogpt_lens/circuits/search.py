"""How faithful sets of edges are, for searches that ask it many thousand times.

Faithfulness is (circuit - no edge) / (all edges - no edge), of the metric's means over the prompts. Sets are flags over
all edges of the graph. Runs that agree on the first layers share them, so sets are asked in the graph's order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.prepared import Prepared
from nanogpt_lens.circuits.running import check_gap, values_of
from nanogpt_lens.core.intervals import ratio_per_example

Distance: TypeAlias = Callable[[Bool[Tensor, "set edge"]], Float[Tensor, " set"]]
"""How far the runs of some sets are from that of all edges; 0 is none."""


class Search:
    """The runs of one search.

    Args:
        ready: both texts, run.
        tolerance: how far from 1 the faithfulness of a circuit may be.
        memory: the bytes for the runs of a chunk.

    Attributes:
        empty, full: the metric of each example with no edge, and with all.

    Raises:
        AnalysisError: with all edges the metric is what it is with none.
    """

    def __init__(self, ready: Prepared, *, tolerance: float = 0.1, memory: int) -> None:
        self.ready, self.tolerance, self.memory = ready, tolerance, memory
        self.empty, self.full = ready.ends().double()
        check_gap(float(self.empty.mean()), float(self.full.mean()))

    @property
    def gap(self) -> float:
        """The metric's mean with all edges, less that with none."""
        return float(self.full.mean() - self.empty.mean())

    @property
    def graph(self) -> CircuitGraph:
        """The graph of the model."""
        return self.ready.graph

    @property
    def everything(self) -> Bool[Tensor, " edge"]:
        """All edges."""
        return torch.ones(len(self.graph.edges), dtype=torch.bool)

    @property
    def n_runs(self) -> float:
        """How many forward passes have been made; a run from a later layer on is a part of one."""
        return self.ready.runs.layer_passes / self.graph.n_layers

    def values(self, kept: Bool[Tensor, "set edge"]) -> Float[Tensor, "set example"]:
        """The metric of each set, for each example."""
        return values_of(self.ready, self.graph.masks(kept), memory=self.memory, progress=False).double()

    def faithfulness(self, kept: Bool[Tensor, "set edge"]) -> Float[Tensor, " set"]:
        """The faithfulness of each set."""
        empty = self.empty.mean()
        return (self.values(kept).mean(1) - empty) / (self.full.mean() - empty)

    def parts(self, values: Float[Tensor, "*sets example"]) -> Float[Tensor, "*sets example"]:
        """Each example's part of the faithfulness of runs with these metrics, whose mean it is; for intervals."""
        return ratio_per_example(values - self.empty, self.full - self.empty)

    def off(self, kept: Bool[Tensor, "set edge"]) -> Float[Tensor, " set"]:
        """How far the faithfulness of each set is from 1."""
        return (self.faithfulness(kept) - 1).abs()

    def metric_distance(self, kept: Bool[Tensor, "set edge"]) -> Float[Tensor, " set"]:
        """How far the metric's mean of each set is from that of all edges, in its own unit."""
        return (self.values(kept).mean(1) - self.full.mean()).abs()

    def divergence(self, kept: Bool[Tensor, "set edge"]) -> Float[Tensor, " set"]:
        """The mean KL divergence of each set's output from that of all edges, in nats, where the metric reads."""
        expected = self.ready.runs.logits.log_softmax(-1)

        def kl_by_set(logits: Float[Tensor, "set example read d_vocab"]) -> Shaped[Tensor, "set _"]:
            gone = expected - logits.log_softmax(-1)
            return (expected.exp() * gone).sum(-1).mean(-1)

        masks = self.graph.masks(kept)
        return values_of(self.ready, masks, memory=self.memory, progress=False, measure=kl_by_set).double().mean(1)

    def without_each(self, kept: Bool[Tensor, " edge"]) -> Float[Tensor, " edge"]:
        """The faithfulness of a set without each of its edges, each alone; nan for the edges that it does not have."""
        places = kept.nonzero()[:, 0]
        out = torch.full(kept.shape, torch.nan, dtype=torch.float64)
        if len(places):
            out[places] = self.faithfulness(without(kept, places[:, None]))
        return out

    def curve(self, order: Int[Tensor, " edge"]) -> Float[Tensor, " size"]:
        """The faithfulness of the first n edges of an order, for every n from 0 to all."""
        sets = torch.zeros(len(order) + 1, len(order), dtype=torch.bool)
        for n, edge in enumerate(order.tolist()):
            sets[n + 1] = sets[n]
            sets[n + 1, edge] = True
        return self.faithfulness(sets)


def without(kept: Bool[Tensor, " edge"], places: Int[Tensor, "set gone"]) -> Bool[Tensor, "set edge"]:
    """Copies of a set, each without some edges."""
    sets = kept.repeat(len(places), 1)
    sets.scatter_(1, places, False)
    return sets
