"""One measure over the checkpoints of a training run, and the steps at which it changes, as results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.scores import Scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Trajectory(Scores):
    """What a measure gives at each step of training: the axes ("step", and those of the measure).

    Attributes:
        measure: its name.
        files: the checkpoint of each step.
        threshold, sure_low: of measures that name heads, such as `find_induction_heads` and `head_taxonomy`: what the
            lower end of the interval has to exceed at each step, and that end; None for other measures.
    """

    measure: str = ""
    files: tuple[str, ...] = ()
    threshold: Float[Tensor, "*axes"] | None = None
    sure_low: Float[Tensor, "*axes"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "files", tuple(self.files))
        if self.axes[:1] != ("step",) or not all(label.isdecimal() for label in self.labels.get("step", ("?",))):
            raise ResultError(f"a trajectory has the axes {self.axes}; expected 'step' first, labelled by iterations")

    @property
    def steps(self) -> tuple[int, ...]:
        """The iterations, in order."""
        return tuple(map(int, self.labels["step"]))

    def at_step(self, step: int) -> Scores:
        """The measure at one iteration, as a result without the axis "step".

        Raises:
            ResultError: there is no such step.
        """
        i = self._index("step", str(step))
        return Scores(
            values=self.values[i],
            axes=self.axes[1:],
            labels={axis: labels for axis, labels in self.labels.items() if axis != "step"},
            **self.meaning(),
            provenance={**self.provenance, "step": step},
            chance=None if self.chance is None else self.chance[i],
            low=None if self.low is None else self.low[i],
            high=None if self.high is None else self.high[i],
            per_example=None if self.per_example is None else self.per_example[i],
        )

    @property
    def carries(self) -> Bool[Tensor, "*axes"] | None:
        """By the rule of the measure itself, whether each head has the name at each step; None where it has no rule."""
        return None if self.threshold is None or self.sure_low is None else self.sure_low > self.threshold

    def changes(self, k: int = 8) -> pd.DataFrame:
        """The places that change most: a column for each other axis, and the values at every step.

        Args:
            k: how many.
        """
        import pandas as pd

        frame = self.to_dataframe()
        axes = list(self.axes[1:])
        names = [f"{axis}_label" if axis in self.labels else axis for axis in axes]
        if not axes:
            return pd.DataFrame([dict(zip(self.steps, self.values.tolist(), strict=True))])
        wide = frame.pivot_table(index=axes + [n for n in names if n not in axes], columns="step", values="value")
        wide.columns = list(self.steps)
        order = (wide.max(axis=1) - wide.min(axis=1)).rank(method="first", ascending=False)
        return wide.loc[order.sort_values().index[:k]].reset_index()

    def _summary(self) -> list[str]:
        table = self.changes(5)
        steps = [step for step in table.columns if isinstance(step, int)]
        if len(steps) > 8:
            kept = {steps[round(i)] for i in torch.linspace(0, len(steps) - 1, 8).tolist()}
            table = table[[c for c in table.columns if c in kept or not isinstance(c, int)]]
        return table.round(3).to_string(index=False).splitlines()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ChangePoint(Scores):
    """The steps at which a curve changes: its onset and its half-way point, on the axis `point`.

    `values` are iterations, float64, and nan where nothing has formed; so are the stages around them. `low` and `high`
    are the ends of a 95% interval, and None where the value of each sequence is not known. `runs.change_points` says
    how all of them are defined, and what the interval covers.

    Attributes:
        stage_before, stage_after: the stages between which the curve, as it was measured, passes the point.
        formed: the verdict.
        p_value: the larger of `p_noise` and `p_drift`.
        p_noise, p_drift: of the rise among random orders of the steps, and among random walks, for the best of the
            curves that were looked at.
        n_curves: how many these are.
        baseline, final: the curve at the beginning and at the end, in its own unit.
        reason: why it has formed, or has not, in a sentence.
    """

    stage_before: Float[Tensor, " point"]
    stage_after: Float[Tensor, " point"]
    formed: bool
    p_value: float
    p_noise: float
    p_drift: float
    n_curves: int
    baseline: float
    final: float
    reason: str

    @property
    def verdict(self) -> str:
        """Such as "formed at 1,150 (1,000 to 1,200)", the half-way point with its interval, or "not reached".

        Without an interval it is "formed at 1,150, between stages 1,000 and 1,200".
        """
        if not self.formed:
            return "not reached"
        half = self._index("point", "half")
        said = f"formed at {self.values[half]:,.0f}"
        if self.low is not None and self.high is not None:
            return f"{said} ({self.low[half]:,.0f} to {self.high[half]:,.0f})"
        return f"{said}, between stages {self.stage_before[half]:,.0f} and {self.stage_after[half]:,.0f}"

    @property
    def mark(self) -> tuple[float, float, float] | float | None:
        """The half-way point for the figure of the curve, `curve.plot(mark=...)`: (step, low, high).

        The step alone where there is no interval; None where nothing has formed.
        """
        if not self.formed:
            return None
        half = self._index("point", "half")
        if self.low is None or self.high is None:
            return float(self.values[half])
        return float(self.values[half]), float(self.low[half]), float(self.high[half])

    def _summary(self) -> list[str]:
        return [f"{self.verdict}: {self.reason}"]
