"""Results of every edge as a table: senders in rows, receivers in columns; grey where there is no edge."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.patching import AttributionResult, PatchingResult

Edged = TypeVar("Edged", PatchingResult, AttributionResult)


def has_edges(result: PatchingResult | AttributionResult) -> bool:
    """Whether each value is of an edge, with a name such as "0.1->1.0.k", at all positions."""
    return result.axes == ("edge",) and all("->" in name for name in result.labels.get("edge", ("",)))


def by_sender_and_receiver(result: Edged) -> Edged:
    """The same result with the axes sender and receiver, in the order of their names' first appearance.

    Examples and intervals are left out; nan where there is no edge.
    """
    pairs = [name.split("->") for name in result.labels["edge"]]
    receivers = list(dict.fromkeys(receiver for _, receiver in pairs))
    seen = dict.fromkeys(sender for sender, _ in pairs)
    order = {name: i for i, name in enumerate(sorted(seen, key=_depth))}

    def table(values: Float[Tensor, " edge"]) -> Float[Tensor, "sender receiver"]:
        grid = torch.full((len(order), len(receivers)), torch.nan, dtype=values.dtype)
        for value, (sender, receiver) in zip(values, pairs, strict=True):
            grid[order[sender], receivers.index(receiver)] = value
        return grid

    changed = {"values": table(result.values), "per_example": None}
    if isinstance(result, PatchingResult):
        changed |= dict.fromkeys(("low", "high", "effect_low", "effect_high", "base_per_example"))
    labels = {"sender": tuple(order), "receiver": tuple(receivers)}
    return replace(result, axes=("sender", "receiver"), labels=labels, **changed)


def _depth(sender: str) -> tuple[int, int, int]:
    """Where a sender stands in the model: the embedding, then by layer the heads, then the MLP."""
    if sender.startswith("mlp"):
        return int(sender.removeprefix("mlp")), 1, 0
    layer, _, head = sender.partition(".")
    return (int(layer), 0, int(head)) if layer.isdigit() and head.isdigit() else (-1, 0, 0)
