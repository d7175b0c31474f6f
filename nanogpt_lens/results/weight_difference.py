"""What differs between the weights of two models of one shape, and whether they come from one start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.base import Result

OriginVerdict: TypeAlias = Literal["identical", "shared start", "separate starts", "other shape"]
"""Whether two models come from one start."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Origin(Result):
    """Whether two models come from one start: the cosine of each matrix of b with that of a, with the axis matrix.

    Attributes:
        values: the cosines.
        verdict: "identical" (every parameter is equal), "shared start", "separate starts", "other shape".
        chance_low, chance_high: the range that 95% of the orders of the residual dimensions give.
        cosine: the mean of all matrices, which decides; nan for models of other shapes.
        chance_mean, chance_deviation: the mean and the standard deviation of that over the orders.
        p: of separate starts having a mean cosine at least as large.
        level: the p from which on down the start counts as shared: the share of separate starts that is mistaken.
        different: the sizes that differ, in words; "" where none does.
    """

    verdict: OriginVerdict
    chance_low: Float[Tensor, " matrix"]
    chance_high: Float[Tensor, " matrix"]
    cosine: float
    chance_mean: float
    chance_deviation: float
    p: float
    level: float
    different: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether the two come from one start, or are equal."""
        return self.verdict in ("identical", "shared start")

    def sentence(self) -> str:
        """The verdict, with the numbers that it hangs on."""
        if self.verdict == "other shape":
            return f"a and b have other shapes: {self.different}"
        if self.verdict == "identical":
            return "a and b are identical, parameter by parameter"
        numbers = (
            f"the mean cosine of their matrices is {self.cosine:.3f}, by chance {self.chance_mean:.3f} with a "
            f"deviation of {self.chance_deviation:.3f} (p = {self.p:.2g})"
        )
        said = "come from one start" if self.is_shared else "show no common start"
        return f"a and b {said}: {numbers}"

    def _summary(self) -> list[str]:
        frame = self.to_dataframe().drop(columns="matrix") if len(self.values) else None
        return [self.sentence(), *([] if frame is None else frame.round(3).to_string(index=False).splitlines()[:12])]
