"""Scores with their chance level, intervals and p, as results."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.tested import Tested, rounding_of


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scores(Tested, Result):
    """Measured scores, with what chance would give.

    Attributes:
        chance: the value under uniform attention, or of the control that `definition` names; None where there is
            no such thing.
        low, high: 95% interval over the sequences, see `interval`; None where nothing was sampled.
        per_example: the value of each sequence, whose mean is `values`; jackknife pseudo-values of a score that is
            no mean over sequences. None where they were not kept.
        chance_per_example: the chance level of each sequence; None where it is the same, or was not kept.
        tested: what `p` is against: "chance", the chance level; "zero", no effect; "" where nothing is tested.
        untested: the scores that do not vary with the examples, and have no p.
    """

    chance: Shaped[Tensor, "*axes"] | None = None
    low: Shaped[Tensor, "*axes"] | None = None
    high: Shaped[Tensor, "*axes"] | None = None
    per_example: Shaped[Tensor, " ..."] | None = None
    chance_per_example: Shaped[Tensor, " ..."] | None = None
    tested: str = ""
    untested: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "untested", tuple(self.untested))

    def differences(self) -> tuple[Shaped[Tensor, "*axes example"], float] | None:
        """What is 0 but for chance, see `Tested`."""
        if not self.tested or self.per_example is None:
            return None
        each, chance = self.per_example, None
        if self.tested == "chance":
            if self.chance is None:
                return None
            chance = self.chance[..., None] if self.chance_per_example is None else self.chance_per_example
            each = each - chance
        if self.untested:
            places = [self.labels["score"].index(name) for name in self.untested]
            each = each.index_fill(self._axis("score"), torch.tensor(places), torch.nan)
        return each, 0.0 if chance is None else rounding_of(self.per_example, chance, exact=False)

    def as_fields(self) -> dict[str, Any]:
        """All that scores say, by field name, for a result that says more of the same scores."""
        return {f.name: getattr(self, f.name) for f in fields(Scores)}

    def score(self, name: str) -> Shaped[Tensor, " ..."]:
        """The values of one of several scores, by name, such as `scores.score("induction")` [layer, head]."""
        return self.at(score=name)
