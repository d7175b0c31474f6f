"""Clean and corrupted prompts, which differ in what they call for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Clean and corrupted prompts.

    Attributes:
        clean, corrupted: the prompts as ids.
        answer: the token that each clean prompt calls for.
        wrong: another token of each.
        chosen: how they were chosen of more, by what a model does on them; "" where all that were drawn are here.
            `metrics.logit_diff_of` says so in every result.
    """

    clean: Int[Tensor, "example pos"]
    corrupted: Int[Tensor, "example pos"]
    answer: Int[Tensor, " example"]
    wrong: Int[Tensor, " example"]
    chosen: str = ""

    def at(self, places: Int[Tensor, " example"]) -> Pair:
        """Some of them, by their places."""
        return replace(
            self, **{name: getattr(self, name)[places] for name in ("clean", "corrupted", "answer", "wrong")}
        )

    @staticmethod
    def together(some: Sequence[Pair], *, chosen: str) -> Pair:
        """All pairs of several, which say how they were chosen."""
        names = ("clean", "corrupted", "answer", "wrong")
        return Pair(**{name: torch.cat([getattr(one, name) for one in some]) for name in names}, chosen=chosen)
