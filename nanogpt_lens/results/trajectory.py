"""One measure over the checkpoints of a training run, and the steps at which it changes, as results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

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
    """

    measure: str = ""
    files: tuple[str, ...] = ()

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

    `values`, `low` and `high` are iterations, float64, and nan where nothing has formed. `change_points` says
    how they are defined, and that the interval is at least the two stages around the crossing.

    Attributes:
        formed: the verdict.
        p_value: of the permutation test.
        baseline, final: the curve at the beginning and at the end, in its own unit.
        reason: why it has formed, or has not, in a sentence.
    """

    formed: bool
    p_value: float
    baseline: float
    final: float
    reason: str

    @property
    def verdict(self) -> str:
        """Such as "formed at 1,150 (1,000 to 1,200)", the half-way point with its interval, or "not reached"."""
        if (mark := self.mark) is None:
            return "not reached"
        step, low, high = mark
        return f"formed at {step:,.0f} ({low:,.0f} to {high:,.0f})"

    @property
    def mark(self) -> tuple[float, float, float] | None:
        """The half-way point as (step, low, high), for the figure of the curve: `curve.plot(mark=...)`."""
        if not self.formed or self.low is None or self.high is None:
            return None
        half = self._index("point", "half")
        return float(self.values[half]), float(self.low[half]), float(self.high[half])

    def _summary(self) -> list[str]:
        return [f"{self.verdict}: {self.reason}"]
