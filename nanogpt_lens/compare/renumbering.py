"""Other numbers for the heads of each layer, and what becomes of a model's edges: which head is which?

The number of a head means nothing across seeds, so that edges of two models correspond only once their heads do. An
order says for each head of the one model which head of the same layer corresponds to it in the other.

Taking the best of all orders finds agreement between anything (`Renumbering.best`). Renumbering the heads at random
and taking the best again is no null for it: the best of all orders is the same whatever the numbers were. So its null
is `Renumbering.unrelated`: for each kind of edge (what writes and what reads, of which layers) the heads are renumbered
on their own, so that a head is no longer the same head from one kind of edge to the next, while what a kind of edge is
like stays. That is all it tests: two models each of which has busy and idle heads differ from it, whatever these do.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import combinations, permutations, product

import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.interventions.nodes import Node

MOST_ORDERS = 1000
"""Up to so many orders all are tried: 576 for two layers of four heads."""

STARTS = 8
"""From so many random orders exchanges of two heads are tried where there are more."""


class Renumbering:
    """What becomes of a graph's edges when heads get other numbers.

    Args:
        graph: of both models.
    """

    def __init__(self, graph: CircuitGraph) -> None:
        self.graph, self.n_layers, self.n_heads = graph, graph.n_layers, graph.n_heads
        senders = {node: i for i, node in enumerate(graph.senders)}
        receivers = {node: i for i, node in enumerate(graph.receivers)}
        self._sender = torch.tensor([senders[edge.sender] for edge in graph.edges])
        self._receiver = torch.tensor([receivers[edge.receiver] for edge in graph.edges])
        self._table = torch.full((len(receivers), len(senders)), -1)
        self._table[self._receiver, self._sender] = torch.arange(len(graph.edges))

    @property
    def plain(self) -> Int[Tensor, "layer head"]:
        """The order in which every head keeps its number."""
        return torch.arange(self.n_heads).expand(self.n_layers, self.n_heads).clone()

    def moved(self, orders: Int[Tensor, "order layer head"]) -> Int[Tensor, "order edge"]:
        """The place of the other model's edge that corresponds to each of the one's."""
        n_heads, n = self.n_heads, len(orders)
        senders = torch.arange(len(self.graph.senders)).repeat(n, 1)
        receivers = torch.arange(len(self.graph.receivers)).repeat(n, 1)
        for layer in range(self.n_layers):
            first = 1 + layer * (n_heads + 1)
            senders[:, first : first + n_heads] = first + orders[:, layer]
            for part in range(3):
                row = layer * (3 * n_heads + 1) + part * n_heads
                receivers[:, row : row + n_heads] = row + orders[:, layer]
        return self._table[receivers[:, self._receiver], senders[:, self._sender]]

    def random(self, n: int, generator: torch.Generator) -> Int[Tensor, "order layer head"]:
        """Random orders of the heads of each layer."""
        return torch.rand(n, self.n_layers, self.n_heads, generator=generator).argsort(-1)

    @cached_property
    def kinds(self) -> list[Int[Tensor, " edge"]]:
        """The places of the edges of each kind: those that are alike but for the numbers of their heads."""
        groups: dict[tuple[tuple[str, int, str], ...], list[int]] = {}
        for i, edge in enumerate(self.graph.edges):
            groups.setdefault(tuple(map(_kind, (edge.sender, edge.receiver))), []).append(i)
        return [torch.tensor(places) for places in groups.values()]

    def unrelated(self, n: int, generator: torch.Generator) -> Int[Tensor, "draw edge"]:
        """Places of edges, as `moved` gives them, where heads are renumbered for each kind of edge on its own."""
        places = torch.empty(n, len(self.graph.edges), dtype=torch.long)
        for kind in self.kinds:
            places[:, kind] = self.moved(self.random(n, generator))[:, kind]
        return places

    @cached_property
    def every(self) -> Int[Tensor, "order layer head"] | None:
        """All orders; None where there are more than `MOST_ORDERS`."""
        if math.factorial(self.n_heads) ** self.n_layers > MOST_ORDERS:
            return None
        one = list(permutations(range(self.n_heads)))
        return torch.tensor(list(product(one, repeat=self.n_layers)))

    def best(
        self,
        one: Float[Tensor, " edge"],
        others: Float[Tensor, "set edge"],
        generator: torch.Generator,
    ) -> tuple[Int[Tensor, "set layer head"], Float[Tensor, " set"]]:
        """The order of the heads of each of some others that makes the sum of products with `one` the largest.

        All orders are tried where there are few. Else two heads of a layer are exchanged as long as that helps, the
        best exchange first, from `STARTS` random orders, so that a better order may be missed.

        Args:
            one: a number for each edge, such as its rank.
            others: the same of other models.
            generator: of the random orders.

        Returns:
            the orders, and the sums.
        """
        if self.every is not None:
            sums = self._sums(one, others, self.every)
            best = sums.argmax(1)
            return self.every[best], sums.gather(1, best[:, None])[:, 0]
        orders, best = self.random(len(others), generator), torch.full((len(others),), -torch.inf).to(one)
        for _ in range(STARTS):
            climbed, sums = self._climbed(one, others, self.random(len(others), generator))
            better = sums > best
            orders[better], best[better] = climbed[better], sums[better]
        return orders, best

    def _sums(
        self, one: Float[Tensor, " edge"], others: Float[Tensor, "set edge"], orders: Int[Tensor, "order layer head"]
    ) -> Float[Tensor, "set order"]:
        """The sum of products of `one` with each of the others under each order."""
        places = self.moved(orders)
        there = torch.zeros(places.shape, dtype=one.dtype).scatter_(1, places, one.expand(places.shape))
        return others @ there.T

    def _climbed(
        self,
        one: Float[Tensor, " edge"],
        others: Float[Tensor, "set edge"],
        orders: Int[Tensor, "set layer head"],
    ) -> tuple[Int[Tensor, "set layer head"], Float[Tensor, " set"]]:
        """The orders after all exchanges of two heads that help, and the sums then."""
        pairs = [(layer, *two) for layer in range(self.n_layers) for two in combinations(range(self.n_heads), 2)]
        orders = orders.clone()
        sums = (others.gather(1, self.moved(orders)) * one).sum(1)
        climbing = torch.ones(len(others), dtype=torch.bool)
        while bool(climbing.any()):
            some = climbing.nonzero()[:, 0]
            tried = orders[some].repeat_interleave(len(pairs), 0).unflatten(0, (len(some), len(pairs)))
            for i, (layer, a, b) in enumerate(pairs):
                tried[:, i, layer, [a, b]] = tried[:, i, layer, [b, a]]
            values = torch.stack(
                [(others[row].take(self.moved(these)) * one).sum(1) for row, these in zip(some, tried, strict=True)]
            )
            best = values.argmax(1)
            found = values.gather(1, best[:, None])[:, 0]
            better = found > sums[some] + 1e-9 * sums[some].abs().clamp_min(1.0)
            rows = some[better]
            orders[rows], sums[rows] = tried[better, best[better]], found[better]
            climbing[some[~better]] = False
        return orders, sums


def inverse(orders: Int[Tensor, "*set layer head"]) -> Int[Tensor, "*set layer head"]:
    """The orders the other way round."""
    return orders.argsort(-1)


def then(first: Int[Tensor, "layer head"], second: Int[Tensor, "layer head"]) -> Int[Tensor, "layer head"]:
    """One order after the other."""
    return second.gather(-1, first)


def ranks(values: Float[Tensor, "*set edge"]) -> Float[Tensor, "*set edge"]:
    """The ranks along the edges, equal values sharing theirs, with mean 0 and norm 1: products are Spearman's rho.

    All zero where all values are equal.
    """
    ranked = torch.from_numpy(rankdata(values.double().numpy(), axis=-1))
    ranked = ranked - ranked.mean(-1, keepdim=True)
    norm = ranked.norm(dim=-1, keepdim=True)
    return ranked / torch.where(norm > 0, norm, 1.0)


def _kind(node: Node) -> tuple[str, int, str]:
    """What a node is like, but for the number of its head."""
    return node.kind, node.layer, node.part
