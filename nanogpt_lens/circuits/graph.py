"""The graph of a model: who writes into the residual stream, who reads it, and the edges between them.

Senders are the embedding (of token and position together), every head and every MLP; receivers are the query, key and
value of every head, every MLP, and the logits. A receiver reads what all senders before it wrote, so a model of 4
layers with 4 heads has 479 edges. Biases belong to no node and flow always. The graph is that of Hanna et al. 2024
("Have Faith in Faithfulness"), but for the position's embedding, which there belongs to no node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.nodes import Edge, Node, edges_named
from nanogpt_lens.model.access import Hooked

Edges: TypeAlias = str | Edge | Iterable[str | Edge]
"""One edge or several, by name or as they are; "0.1->1.0" is the head's three."""


class CircuitGraph:
    """The graph of one model.

    Args:
        model: the model whose layers and heads there are.
    """

    def __init__(self, model: Hooked) -> None:
        self.model = model
        self.n_layers: int = model.cfg.n_layers
        self.n_heads: int = model.cfg.n_heads

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """All senders, in the order in which the model computes them."""
        layers = range(self.n_layers)
        blocks = [[*(Node("head", i, head) for head in range(self.n_heads)), Node("mlp", i)] for i in layers]
        return (Node("embed", -1), *(node for block in blocks for node in block))

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        """All receivers, in the order in which the model computes them; queries before keys and values."""
        blocks = [[*self.attention_inputs(i), Node("mlp", i)] for i in range(self.n_layers)]
        return (*(node for block in blocks for node in block), Node("logits", self.n_layers))

    def attention_inputs(self, layer: int) -> list[Node]:
        """The receivers of a layer's attention."""
        return [Node("head", layer, head, part) for part in "qkv" for head in range(self.n_heads)]

    def n_before(self, receiver: Node) -> int:
        """How many senders a receiver reads; they are the first of `senders`."""
        if receiver.kind == "logits":
            return len(self.senders)
        return 1 + receiver.layer * (self.n_heads + 1) + (self.n_heads if receiver.kind == "mlp" else 0)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, by receiver, and for each receiver by sender."""
        return tuple(Edge(s, r) for r in self.receivers for s in self.senders[: self.n_before(r)])

    def layers_behind(self, edge: Edge) -> float:
        """What follows an edge, as a part of a forward pass: a layer is as much as all others, an MLP half of one."""
        end = edge.receiver
        return (self.n_layers - end.layer - (0.5 if end.kind == "mlp" else 0.0)) / self.n_layers

    def node_of(self, receiver: Node) -> Node:
        """The sender that computes from what a receiver reads; the logits themselves."""
        return replace(receiver, part="")

    def into(self, node: Node) -> list[Node]:
        """The receivers of a node: a head's three, an MLP's or the logits' one, none of the embedding."""
        return [receiver for receiver in self.receivers if self.node_of(receiver) == node]

    @cached_property
    def index(self) -> dict[Edge, int]:
        """The place of each edge among all."""
        return {edge: i for i, edge in enumerate(self.edges)}

    @cached_property
    def all_edges(self) -> Bool[Tensor, "receiver sender"]:
        """The mask of the whole graph: which receiver reads which sender."""
        before = torch.tensor([self.n_before(receiver) for receiver in self.receivers])
        return torch.arange(len(self.senders)) < before[:, None]

    def mask(self, edges: Iterable[Edge]) -> Bool[Tensor, "receiver sender"]:
        """The mask of some edges."""
        return self.masks(self.flags(edges)[None])[0]

    def flags(self, edges: Iterable[Edge]) -> Bool[Tensor, " edge"]:
        """For each of all edges, whether it is one of these."""
        flags = torch.zeros(len(self.edges), dtype=torch.bool)
        flags[[self.index[edge] for edge in edges]] = True
        return flags

    def masks(self, kept: Bool[Tensor, "set edge"]) -> Bool[Tensor, "set receiver sender"]:
        """The masks of sets that are given as flags."""
        masks = torch.zeros(len(kept), *self.all_edges.shape, dtype=torch.bool)
        masks[:, self.all_edges] = kept
        return masks

    def read(self, edges: Edges) -> list[Edge]:
        """The edges that are named, each once, in the order of the graph.

        Raises:
            AnalysisError: a name that is no edge, or an edge that this model does not have.
        """
        some = [edges] if isinstance(edges, str | Edge) else list(edges)
        found = {edge for one in some for edge in ([one] if isinstance(one, Edge) else edges_named(self.model, one))}
        for edge in found:
            if edge not in self.index:
                raise AnalysisError(
                    f"{str(edge)!r} is no edge of this model of {self.n_layers} layers with {self.n_heads} heads each: "
                    "a receiver reads what was written before it"
                )
        return sorted(found, key=self.index.__getitem__)


def names_of(edges: Sequence[Edge]) -> tuple[str, ...]:
    """The names of edges."""
    return tuple(map(str, edges))
