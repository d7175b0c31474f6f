"""What every edge of a model's graph does at every stage of training, and when each appears."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitAtlas(Result):
    """The effect of every edge at every step, with the axes step and edge, and when each edge appears.

    What the appearance of an edge is, its interval, and the groups say `runs.atlas` and `runs.change_points`.

    Attributes:
        values: the effects.
        low, high: their 95% intervals over the prompts.
        changed: whether the effect of an edge at the end is `least` or more away from zero, and on that side of its
            effect at the beginning by `least` or more, surely over the prompts, for good.
        shrunk: whether it is there from the start, and at the end nearer to zero by `least` or more, surely over the
            prompts, for good; such an edge has not changed.
        formed: whether an edge appears: whether it has changed in a transition, neither by noise nor by drift.
        onset, onset_low, onset_high: the step at which an edge that has changed is past a tenth of the way for good,
            with its 95% interval over the prompts, whose ends are stages; nan for the others.
        half, half_low, half_high: the same for half of the way.
        p_value, p_noise, p_drift: of the appearance, corrected for all curves; the first is the larger.
        n_curves: how many these are: two, for both signs, of each edge whose effects differ enough to appear.
        baseline, final: the mean effect at the first and at the last stages.
        group: for each edge that appears, which of the fewest moments it may have appeared at, from 0; -1 for others.
        spans: from which step to which each of these moments may be.
        files: the checkpoint of each step.
        least: the smallest change of an effect that counts.
        level: of the tests.
    """

    low: Float[Tensor, "step edge"]
    high: Float[Tensor, "step edge"]
    changed: Bool[Tensor, " edge"]
    shrunk: Bool[Tensor, " edge"]
    formed: Bool[Tensor, " edge"]
    onset: Float[Tensor, " edge"]
    onset_low: Float[Tensor, " edge"]
    onset_high: Float[Tensor, " edge"]
    half: Float[Tensor, " edge"]
    half_low: Float[Tensor, " edge"]
    half_high: Float[Tensor, " edge"]
    p_value: Float[Tensor, " edge"]
    p_noise: Float[Tensor, " edge"]
    p_drift: Float[Tensor, " edge"]
    n_curves: int
    baseline: Float[Tensor, " edge"]
    final: Float[Tensor, " edge"]
    group: Int[Tensor, " edge"]
    spans: Float[Tensor, "group 2"]
    files: tuple[str, ...]
    least: float
    level: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "files", tuple(self.files))  # a list, in a file
        if self.axes != ("step", "edge") or not all(label.isdecimal() for label in self.labels.get("step", ("?",))):
            raise ResultError(f"an atlas has the axes {self.axes}; expected step, labelled by iterations, and edge")

    @property
    def steps(self) -> tuple[int, ...]:
        """The iterations, in order."""
        return tuple(map(int, self.labels["step"]))

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of all edges."""
        return self.labels["edge"]

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The edges that appear, by their half-way points."""
        return self._by_half(self.formed)

    @cached_property
    def order_of_changes(self) -> tuple[str, ...]:
        """The edges that have changed, whether they appear or drift, by their half-way points."""
        return self._by_half(self.changed)

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """For each of the fewest moments, the edges that may have appeared at it, by their half-way points."""
        at = dict(zip(self.edges, self.group.tolist(), strict=True))
        return tuple(tuple(edge for edge in self.order if at[edge] == i) for i in range(len(self.spans)))

    @property
    def faded(self) -> tuple[str, ...]:
        """The edges that came and went: they have not changed for good, nor were they there from the start.

        At the stage where their effect is largest its interval is beyond `least`, on one side of zero; at the first
        stage and, on average, at the last stages it is below half of that.
        """
        peak, places = self.values.abs().max(0)
        near = torch.minimum(self.low.abs(), self.high.abs()).gather(0, places[None])[0]
        one_sided = (self.low * self.high > 0).gather(0, places[None])[0]
        small = (self.values[0].abs() < peak / 2) & (self.final.abs() < peak / 2)
        return self._named((near > self.least) & one_sided & small & ~self.changed)

    @property
    def diminished(self) -> tuple[str, ...]:
        """The edges that have shrunk."""
        return self._named(self.shrunk)

    def half_of(self, edge: str) -> tuple[float, float, float]:
        """The half-way point of an edge, and both ends of its interval; nan where it has not changed.

        Raises:
            ResultError: there is no such edge.
        """
        i = self._index("edge", edge)
        return float(self.half[i]), float(self.half_low[i]), float(self.half_high[i])

    def surely_before(self, edge: str, other: str) -> bool:
        """Whether the interval of one edge's half-way point ends before that of another begins, or where it does.

        Raises:
            ResultError: there is no such edge.
        """
        return self.half_of(edge)[2] <= self.half_of(other)[1]  # nan is not

    @cached_property
    def moving_together(self) -> Float[Tensor, "edge edge"]:
        """Pearson's correlation of what two edges' effects change by from stage to stage, each towards its end.

        nan for an edge that never changes.
        """
        towards = torch.where(self.final < self.baseline, -1.0, 1.0).to(self.values)
        changes = (self.values * towards).diff(dim=0).double()
        changes = changes - changes.mean(0)
        return (changes.T @ changes) / (changes.norm(dim=0)[:, None] * changes.norm(dim=0))

    def togetherness(self) -> tuple[float, float]:
        """The mean of `moving_together` over pairs of edges of one group, and over pairs of different groups."""
        places = self.formed.nonzero()[:, 0]
        groups, together = self.group[places], self.moving_together[places][:, places]
        pairs = torch.ones_like(together).triu(1).bool()
        same = groups[:, None] == groups
        return float(together[pairs & same].nanmean()), float(together[pairs & ~same].nanmean())

    def table(self) -> pd.DataFrame:
        """One row for each edge, first those that appear, then those that have changed, by their half-way points."""
        import pandas as pd

        names = (
            "formed",
            "changed",
            "shrunk",
            "baseline",
            "final",
            "onset",
            "onset_low",
            "onset_high",
            "half",
            "half_low",
            "half_high",
        )
        columns = {name: getattr(self, name) for name in (*names, "p_value", "p_noise", "p_drift", "group")}
        frame = pd.DataFrame({"edge": self.edges, **{name: column.numpy() for name, column in columns.items()}})
        order = ["formed", "changed", "half"]
        return frame.sort_values(order, ascending=[False, False, True], kind="stable", ignore_index=True)

    def sentence(self) -> str:
        """What appears, when, and in which order, in a sentence or two."""
        n, every, changed = len(self.order), len(self.edges), int(self.changed.sum())
        gone = f"; {len(self.diminished)} shrank for good" if self.diminished else ""
        gone += f"; {len(self.faded)} came and went" if self.faded else ""
        if not n:
            return f"of {every} edges {changed} change for good, and none in a transition{gone}"
        when = {edge: "{:,.0f} ({:,.0f} to {:,.0f})".format(*self.half_of(edge)) for edge in self.order}
        first, last = self.order[0], self.order[-1]
        said = (
            f"of {every} edges {changed} change for good, {n} in a transition: first {first}, half-way at {when[first]}"
        )
        if n > 1:
            moments = f"at no fewer than {len(self.spans)} moments" if len(self.spans) > 1 else "perhaps at one moment"
            said += f", last {last}, at {when[last]}, {moments}"
        return said + gone

    def _named(self, flags: Bool[Tensor, " edge"]) -> tuple[str, ...]:
        return tuple(edge for edge, flag in zip(self.edges, flags.tolist(), strict=True) if flag)

    def _by_half(self, flags: Bool[Tensor, " edge"]) -> tuple[str, ...]:
        places = flags.nonzero()[:, 0]
        return tuple(self.edges[i] for i in places[self.half[places].argsort(stable=True)].tolist())

    def _summary(self) -> list[str]:
        columns = ["edge", "formed", "final", "half", "half_low", "half_high", "p_value", "group"]
        shown = self.table().loc[lambda frame: frame["changed"], columns].head(8)
        return [self.sentence(), *(shown.round(3).to_string(index=False).splitlines() if len(shown) else [])]
