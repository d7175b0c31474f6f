"""What circuits do, as results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitRuns(Result):
    """The metric of circuits: of the model in which only some edges carry what the clean text makes of them.

    Attributes:
        values: the metric of each circuit, averaged over the examples.
        n_edges: how many edges each has.
        full, empty: the metric of each example with all edges, and with none; one value where the metric is a bare
            callable.
        per_example: the metric of each circuit for each example; None for a bare callable.
        low, high: 95% interval of `values` over the examples; None for fewer than two.
        interval: the kind of that interval.
        faithfulness: (circuit - no edge) / (all edges - no edge), of the means over the examples: 1 is the whole
            model, 0 none of it. (Wang et al. 2022; the mean of ratios is another number.)
    """

    n_edges: tuple[int, ...]
    full: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]
    per_example: Float[Tensor, "circuit example"] | None = None
    low: Float[Tensor, " circuit"] | None = None
    high: Float[Tensor, " circuit"] | None = None
    interval: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "n_edges", tuple(self.n_edges))  # a list, in a file

    @cached_property
    def faithfulness(self) -> Float[Tensor, " circuit"]:
        """(circuit - no edge) / (all edges - no edge)."""
        empty = self.empty.mean()
        return (self.values - empty) / (self.full.mean() - empty)

    @cached_property
    def faithfulness_interval(self) -> tuple[Float[Tensor, " circuit"], Float[Tensor, " circuit"]] | None:
        """Both ends of the 95% interval of `faithfulness` over the examples, the ratio linearised; None for one."""
        if self.per_example is None:
            return None
        gap = self.full - self.empty
        return t_interval(ratio_per_example(self.per_example - self.empty, gap.expand_as(self.per_example)))

    @cached_property
    def mean_of_ratios(self) -> Float[Tensor, " circuit"] | None:
        """The mean over the examples of each one's own faithfulness; infinite where an example has no gap."""
        if self.per_example is None:
            return None
        return ((self.per_example - self.empty) / (self.full - self.empty)).mean(-1)

    def _summary(self) -> list[str]:
        ends = f"all edges {float(self.full.mean()):.4f}, no edge {float(self.empty.mean()):.4f}"
        return [ends, *self.to_dataframe().head(10).round(4).to_string(index=False).splitlines()]

    def to_dataframe(self) -> pd.DataFrame:
        """The rows of `Result.to_dataframe`, with `n_edges` and `faithfulness`."""
        frame = super().to_dataframe()
        frame["n_edges"] = list(self.n_edges)
        frame["faithfulness"] = self.faithfulness.double().numpy()
        if self.faithfulness_interval is not None:
            low, high = self.faithfulness_interval
            frame["faithfulness_low"], frame["faithfulness_high"] = low.double().numpy(), high.double().numpy()
        return frame
