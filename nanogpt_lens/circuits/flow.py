"""What the senders of a batch of runs have written so far, as differences from what is put in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Shared:
    """Differences that all sets of a batch have in common.

    Attributes:
        n_layers: how many layers have been computed.
        senders: the places of the senders in the graph.
        differences: what each wrote, less what is put in its place.
    """

    n_layers: int
    senders: list[int]
    differences: Float[Tensor, "sender example pos d_model"]


@dataclass(eq=False)
class Flow:
    """What the runs of a batch have written so far.

    Attributes:
        masks: the sets.
        probes: by the name of a receiver, what is added to its input.
        shared: the differences that all sets have in common.
        senders: the places of the senders whose differences are each set's own.
    """

    masks: Float[Tensor, "set receiver sender *pos"]
    probes: Mapping[str, Float[Tensor, ...]]
    shared: Shared
    senders: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        edges = (self.masks != 0).flatten(3).any(-1).any(0) if self.masks.dim() == 4 else (self.masks != 0).any(0)
        self.is_read: list[bool] = edges.any(0).tolist()
        self._reads: list[bool] = edges.any(1).tolist()
        self._parts: list[Float[Tensor, "set sender example pos d_model"]] = []

    def needs(self, sender: int, receivers: Sequence[int]) -> bool:
        """Whether a sender is read by some set, and reads something itself through one of its receivers."""
        return self.is_read[sender] and any(self._reads[receiver] for receiver in receivers)

    def add(self, senders: list[int], differences: Float[Tensor, "set sender example pos d_model"]) -> None:
        """Add what some senders wrote, in every set something else."""
        self.senders = self.senders + senders
        self._parts.append(differences)

    def add_shared(self, senders: list[int], differences: Float[Tensor, "sender example pos d_model"]) -> None:
        """Add what some senders wrote, in all sets the same."""
        old = self.shared
        self.shared = Shared(old.n_layers, old.senders + senders, torch.cat([old.differences, differences]))

    def differences(self) -> Float[Tensor, "set sender example pos d_model"]:
        """The differences that are each set's own, in the order of `senders`."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts, 1)]
        return self._parts[0]

    def first_set(self) -> Shared:
        """The differences of all senders so far in the first set, in the order of the graph."""
        senders, differences = self.shared.senders, self.shared.differences
        if self.senders:
            senders, differences = senders + self.senders, torch.cat([differences, self.differences()[0]])
        order = sorted(range(len(senders)), key=senders.__getitem__)
        return Shared(self.shared.n_layers, [senders[i] for i in order], differences[order])
