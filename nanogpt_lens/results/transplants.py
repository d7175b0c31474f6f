"""How much of the difference between two models' behaviour moves along with each component's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd

TransplantDirection: TypeAlias = Literal["a into b", "b into a"]
"""Whose components are put into whose place."""

SMALLEST, RANDOM = "size", "parameters"
"""The controls of a set: random sets of as many components, and of about as many parameters."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Transplants(Result):
    """The share of the difference between two models that moves with each component.

    The axes are direction, measure and component. The measure "kl" is how like the donor's the output is,
    1 - KL(donor, hybrid) / KL(donor, receiver); "loss" or "metric" is
    (hybrid - receiver) / (donor - receiver) of that number. 1 is the donor, 0 the receiver; below 0 is farther away
    than the receiver. Both are ratios of means over the sequences.

    Attributes:
        values: the shares of single components; nan where the models do not surely differ.
        low, high: their 95% intervals over the sequences.
        gap, gap_low, gap_high: the difference that there is to move: KL(donor, receiver) in nats, or donor - receiver.
        measured: what the second measure is, in words.
        n_parameters: how many parameters each component has.
        changed: whether any of them differs; what does not differ moves nothing.
        moved: the norm of the difference of a component's parameters, as a share of the norm of a's.
        cosine: the mean cosine of the models' matrices, by which they share a start; 1 where they are equal.
        by: the measure that the sets were searched by.
        enough: the share that they are to move.
        chosen: for each direction, the smallest set found; None where there was no search.
        order: the components that differ, as the search took them, those of the set first; -1 behind the last.
        search_share: the share of the set on the sequences that it was searched on, by the measure `by`.
        set_share, set_low, set_high: that of the other sequences, by every measure.
        random_share: that of random sets, by `by`, on these other sequences; nan for one that has the set found in it,
            which is no control.
        set_p: how often such a set does as well as the one that was found; nan where there is no other set.
        sizes: how many components the sets of the curves have.
        curve, curve_low, curve_high: the share of the first components of `order`, on the other sequences.
        random_curve: the share of the first components of random orders.
        n_search, n_held_out: how many sequences there were to search on, and others.
    """

    low: Float[Tensor, "direction measure component"]
    high: Float[Tensor, "direction measure component"]
    gap: Float[Tensor, "direction measure"]
    gap_low: Float[Tensor, "direction measure"]
    gap_high: Float[Tensor, "direction measure"]
    measured: str
    n_parameters: Int[Tensor, " component"]
    changed: Bool[Tensor, " component"]
    moved: Float[Tensor, " component"]
    cosine: float
    by: str
    enough: float
    chosen: Bool[Tensor, "direction component"] | None = None
    order: Int[Tensor, "direction place"] | None = None
    search_share: Float[Tensor, " direction"] | None = None
    set_share: Float[Tensor, "direction measure"] | None = None
    set_low: Float[Tensor, "direction measure"] | None = None
    set_high: Float[Tensor, "direction measure"] | None = None
    random_share: Float[Tensor, "direction control draw"] | None = None
    set_p: Float[Tensor, "direction control"] | None = None
    sizes: Int[Tensor, " size"] | None = None
    curve: Float[Tensor, "direction size"] | None = None
    curve_low: Float[Tensor, "direction size"] | None = None
    curve_high: Float[Tensor, "direction size"] | None = None
    random_curve: Float[Tensor, "direction shuffle size"] | None = None
    n_search: int = 0
    n_held_out: int = 0

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the components."""
        return self.labels["component"]

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures."""
        return self.labels["measure"]

    def smallest_set(self, direction: TransplantDirection) -> tuple[str, ...]:
        """The smallest set that the search found; there may be a smaller one.

        Raises:
            ResultError: there was no search, or there is no such direction.
        """
        if self.chosen is None:
            raise ResultError("no set was searched; call transplant(..., search=True), with a measure that has a gap")
        flags = self.chosen[self._index("direction", direction)].tolist()
        return tuple(name for name, flag in zip(self.components, flags, strict=True) if flag)

    def share(self, component: str, direction: TransplantDirection, measure: str | None = None) -> float:
        """The share that moves with one component, by the measure `by` where none is named.

        Raises:
            ResultError: there is no such component, direction or measure.
        """
        return float(self.at(direction=direction, measure=measure or self.by, component=component))

    def table(self, direction: TransplantDirection, measure: str | None = None) -> pd.DataFrame:
        """A row for each component that differs, those with the largest share first.

        Raises:
            ResultError: there is no such direction or measure.
        """
        import pandas as pd

        place = self._index("direction", direction), self._index("measure", measure or self.by)
        columns = {"share": self.values[place], "low": self.low[place], "high": self.high[place]}
        frame = pd.DataFrame({"component": self.components, **{k: v.double().numpy() for k, v in columns.items()}})
        frame["moved"], frame["n_parameters"] = self.moved.double().numpy(), self.n_parameters.numpy()
        if self.chosen is not None:
            frame["in_set"] = self.chosen[place[0]].numpy()
        frame = frame.loc[self.changed.numpy()]
        return frame.sort_values(by="share", ascending=False, kind="stable", ignore_index=True)

    def sentence(self) -> str:
        """What moves with which component, in both directions, in a few sentences."""
        return "; ".join(self._of_direction(direction) for direction in self.labels["direction"])

    def _of_direction(self, direction: str) -> str:
        """The sentence of one direction."""
        i, by = self._index("direction", direction), self._index("measure", self.by)
        gap = float(self.gap[i, by])
        if bool(self.values[i, by].isnan().all()):
            ends = f"{float(self.gap_low[i, by]):.3g} to {float(self.gap_high[i, by]):.3g}"
            return f"{direction}: the models do not surely differ in {self._quantity} ({gap:.3g}, {ends})"
        if self.chosen is None or self.set_share is None or self.set_low is None or self.set_high is None:
            best = int(self.values[i, by].argmax())
            ends = f"{float(self.low[i, by, best]):.0%} to {float(self.high[i, by, best]):.0%}"
            share = float(self.values[i, by, best])
            return f"{direction}: {self.components[best]} alone moves most, {share:.0%} ({ends}) of {self._quantity}"
        names, n = self.smallest_set(direction), int(self.changed.sum())  # type: ignore[arg-type]
        ends = f"{float(self.set_low[i, by]):.0%} to {float(self.set_high[i, by]):.0%}"
        weights = float(self.n_parameters[self.chosen[i]].sum()) / float(self.n_parameters[self.changed].sum())
        of = f"{len(names)} of {n} components ({_listed(names)}; {weights:.0%} of the parameters)"
        return (
            f"{direction}: {of} move {float(self.set_share[i, by]):.0%} ({ends}) of {self._quantity}"
            f"{self._against_random(i)}"
        )

    def _against_random(self, direction: int) -> str:
        """What random sets move, in words; "" where there are none."""
        if self.random_share is None or self.set_p is None or bool(self.set_p[direction].isnan().all()):
            return ""
        said = []
        for control, name in enumerate(("components", "parameters")):
            if not bool(self.set_p[direction, control].isnan()):
                mean, p = float(self.random_share[direction, control].nanmean()), float(self.set_p[direction, control])
                said.append(f"random sets of as many {name} {mean:.0%} (p = {p:.2g})")
        return ", " + ", ".join(said)

    @property
    def _quantity(self) -> str:
        return "the difference in output" if self.by == "kl" else f"the difference in {self.measured}"

    def _summary(self) -> list[str]:
        lines = [self.sentence()]
        for direction in self.labels["direction"]:
            frame = self.table(direction).head(5)  # type: ignore[arg-type]
            lines += [direction, *frame.round(3).to_string(index=False).splitlines()]
        return lines


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TransplantedEdges(Result):
    """The share of the difference between two models that moves along each edge, with the axes direction and edge.

    1 is the donor, 0 the receiver, whose run is changed. Shares of several edges need not add up.

    Attributes:
        values: the shares; nan where the models do not surely differ.
        low, high: their 95% intervals over the sequences.
        effect: what the measure changes by along an edge: KL(donor, changed) in nats, the loss, or the metric.
        effect_low, effect_high: their intervals, each sequence against itself.
        base: the measure of the receiver.
        gap, gap_low, gap_high: that of the donor less that of the receiver.
        measured: what is measured, in words: "output", "loss", or a metric's definition.
        cosine: the mean cosine of the models' matrices, by which they share a start.
        by: "kl", "loss" or "metric".
    """

    low: Float[Tensor, "direction edge"]
    high: Float[Tensor, "direction edge"]
    effect: Float[Tensor, "direction edge"]
    effect_low: Float[Tensor, "direction edge"]
    effect_high: Float[Tensor, "direction edge"]
    base: Float[Tensor, " direction"]
    gap: Float[Tensor, " direction"]
    gap_low: Float[Tensor, " direction"]
    gap_high: Float[Tensor, " direction"]
    measured: str
    cosine: float
    by: str

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of the edges."""
        return self.labels["edge"]

    def share(self, edge: str, direction: TransplantDirection) -> float:
        """The share that moves along one edge.

        Raises:
            ResultError: there is no such edge or direction.
        """
        return float(self.at(direction=direction, edge=edge))

    def table(self, direction: TransplantDirection) -> pd.DataFrame:
        """A row for each edge, those with the largest share first.

        Raises:
            ResultError: there is no such direction.
        """
        import pandas as pd

        place = self._index("direction", direction)
        names = ("values", "low", "high", "effect", "effect_low", "effect_high")
        columns = {name: getattr(self, name)[place].double().numpy() for name in names}
        columns = {"share": columns.pop("values"), **columns}
        frame = pd.DataFrame({"edge": self.edges, **columns})
        return frame.sort_values(by="share", ascending=False, kind="stable", ignore_index=True)

    def sentence(self) -> str:
        """Along which edges most moves, in both directions."""
        said = []
        for i, direction in enumerate(self.labels["direction"]):
            if bool(self.values[i].isnan().all()):
                said.append(
                    f"{direction}: the models do not surely differ in {self.measured} ({float(self.gap[i]):.3g}, "
                    f"{float(self.gap_low[i]):.3g} to {float(self.gap_high[i]):.3g})"
                )
                continue
            most = self.values[i].argsort(descending=True, stable=True)[:3].tolist()
            named = [f"{self.edges[j]} {float(self.values[i, j]):.0%}{self._ends(i, j)}" for j in most]
            said.append(f"{direction}: most of the difference in {self.measured} moves along {', '.join(named)}")
        return "; ".join(said)

    def _ends(self, direction: int, edge: int) -> str:
        low, high = float(self.low[direction, edge]), float(self.high[direction, edge])
        return "" if low != low else f" ({low:.0%} to {high:.0%})"

    def _summary(self) -> list[str]:
        lines = [self.sentence()]
        for direction in self.labels["direction"]:
            frame = self.table(direction)[["edge", "share", "low", "high"]].head(5)  # type: ignore[arg-type]
            lines += [direction, *frame.round(3).to_string(index=False).splitlines()]
        return lines


def _listed(names: tuple[str, ...], most: int = 6) -> str:
    """Some names; how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
