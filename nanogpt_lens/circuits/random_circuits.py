"""Random circuits, as controls: unions of random ways from the embedding to the logits."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph, Edge


def random_circuits(
    graph: CircuitGraph, n: int, *, n_edges: int, generator: torch.Generator
) -> Bool[Tensor, "circuit edge"]:
    """Circuits of at least `n_edges` edges, in each of which every edge is on a way from embedding to logits.

    Ways are added until there are so many edges, so a circuit may have a few more: that is to its advantage.
    """
    circuits = torch.zeros(n, len(graph.edges), dtype=torch.bool)
    for row in circuits:
        while int(row.sum()) < n_edges:
            row |= random_way(graph, generator)
    return circuits


def random_way(graph: CircuitGraph, generator: torch.Generator) -> Bool[Tensor, " edge"]:
    """The edges of one way: each step backwards goes to a random sender, into a random one of a node's receivers."""
    receiver, way = graph.receivers[-1], list[Edge]()
    while True:
        sender = graph.senders[int(torch.randint(graph.n_before(receiver), (1,), generator=generator))]
        way.append(Edge(sender, receiver))
        if sender.kind == "embed":
            return graph.flags(way)
        into = graph.into(sender)
        receiver = into[int(torch.randint(len(into), (1,), generator=generator))]
