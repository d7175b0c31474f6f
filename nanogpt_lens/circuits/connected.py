"""Edges of a circuit that do nothing in it: they lead nowhere, or carry only what is put in place anyway."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.core.choices import Source


def without_dangling(graph: CircuitGraph, kept: Bool[Tensor, " edge"], source: Source) -> Bool[Tensor, " edge"]:
    """The edges that are on a way to the logits, and on one from the embedding.

    A node that reads nothing writes what it writes in the other run, so that with the sources "other" and "resample"
    its edges carry no difference. With "zero" and "mean" they do, and stay.
    """
    owners = _owners(graph)
    mask = graph.masks(kept[None])[0]
    while True:
        before = mask.clone()
        read = mask.any(0)
        mask[(owners >= 0) & ~read[owners.clamp_min(0)]] = False
        if source in ("other", "resample"):
            reading = torch.zeros_like(read)
            reading[0] = True
            reading[owners[mask.any(1) & (owners >= 0)]] = True
            mask[:, ~reading] = False
        if bool((mask == before).all()):
            return mask[graph.all_edges]


def _owners(graph: CircuitGraph) -> Int[Tensor, " receiver"]:
    """By receiver the place of the sender that computes from it; -1 for the logits."""
    places = {node: i for i, node in enumerate(graph.senders)}
    return torch.tensor([places.get(graph.node_of(receiver), -1) for receiver in graph.receivers])
