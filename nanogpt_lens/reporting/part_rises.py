"""How much the loss rises without a part, and the sentence on the largest rise: one for all that say it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.simultaneous import sure_low
from nanogpt_lens.reporting.words import NEGLIGIBLE, at, list_of, measured
from nanogpt_lens.results import Scores

_FAR = 2.0  # times the upper end of every other part: a part that stands out
_NAMED = 3  # parts that are named at most


@dataclass(frozen=True, kw_only=True)
class PartRise:
    """A head or MLP, and the rise of the loss without it.

    Attributes:
        name: head 0.3, MLP 1.
        value: the rise; nan where it was not measured.
        low, high: its own 95% interval.
        sure_low, sure_high: an interval that holds for all parts together, because the best of many is spoken of.
    """

    name: str
    value: float
    low: float
    high: float
    sure_low: float
    sure_high: float

    @property
    def nats(self) -> str:
        """The rise with the digits that its interval leaves."""
        return measured(self.value, self.low, self.high)


def parts_of(heads: Scores, mlps: Scores | None = None) -> Iterator[PartRise]:
    """Every part, by layer.

    Args:
        heads: the rises [layer, head].
        mlps: the rises [layer]; None where there is no MLP, or only heads are asked for.
    """
    n = heads.values.numel() + (0 if mlps is None else mlps.values.numel())
    of_heads, of_mlps = _together(heads, n), None if mlps is None else _together(mlps, n)
    for layer in range(heads.shape["layer"]):
        for head in range(heads.shape["head"]):
            yield _part(f"head {layer}.{head}", heads, of_heads, (layer, head))
        if mlps is not None and of_mlps is not None:
            yield _part(f"MLP {layer}", mlps, of_mlps, (layer,))


_Ends = tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]


def _together(rises: Scores, looked_at: int) -> _Ends:
    """Ends of intervals that hold for so many parts together; infinite where nothing is known."""
    if rises.per_example is not None:
        each = rises.per_example
        return sure_low(each, looked_at=looked_at), -sure_low(-each, looked_at=looked_at)
    values = rises.values.double()
    if rises.low is None or rises.high is None:
        return values - math.inf, values + math.inf
    wider = NormalDist().inv_cdf(1 - 0.025 / looked_at) / NormalDist().inv_cdf(0.975)
    return values - (values - rises.low.double()) * wider, values + (rises.high.double() - values) * wider


def _part(name: str, rises: Scores, together: _Ends, place: tuple[int, ...]) -> PartRise:
    value = float(rises.values[place])
    low, high = at(rises.low, *place), at(rises.high, *place)
    return PartRise(
        name=name,
        value=value,
        low=math.nan if low is None else low,
        high=math.nan if high is None else high,
        sure_low=float(together[0][place]),
        sure_high=float(together[1][place]),
    )


def largest_rise(
    parts: Sequence[PartRise], *, kind: Literal["part", "head"] = "part", room: float = math.inf
) -> tuple[str, tuple[PartRise, ...]]:
    """The part without which the loss rises most, as a sentence, and the parts that it is about.

    Only a part whose rise is sure is named, and it is called the first only where it surely is.

    Args:
        parts: of which it is the largest.
        kind: what they are.
        room: from the model's loss to that of a uniform guess.
    """
    known = sorted((part for part in parts if not math.isnan(part.value)), key=lambda part: -part.value)
    needed = [part for part in known if part.sure_low > 0 and part.value >= NEGLIGIBLE]
    if not known:
        return f"What each {kind} is worth could not be measured.", ()
    if not needed:
        said = f"No single {kind} is surely needed: without any one of them the loss does not measurably rise."
        return said, (known[0],)
    first = needed[0]
    others = [part for part in known if part is not first]
    most = max((part.sure_high for part in others), default=-math.inf)
    past = first.sure_low > room
    rise = f"the loss rises by {first.nats} nats{', past that of a uniform guess' if past else ''}"
    name = _capital(first.name)
    if not others or first.sure_low > _FAR * max(0.0, most):
        stands = "Nearly all of it stands on" if past else "It needs"
        rather = "" if past or not others else f" more than any other {kind}"
        return f"{stands} {first.name}{rather}: without it {rise}.", (first,)
    if first.sure_low > most:
        if len(needed) == 1:
            return f"{name} matters most: without it {rise}.", (first,)
        second = needed[1]
        said = f"{name} matters most: without it {rise}, without {second.name}, the next, by {second.nats}."
        return said, (first, second)
    return _several(needed, rise, kind)


def _several(needed: Sequence[PartRise], rise: str, kind: str) -> tuple[str, tuple[PartRise, ...]]:
    """That the first of the parts that are surely needed is not surely the first of all."""
    first = needed[0]
    alike = [part for part in needed if part.sure_high >= first.sure_low]
    name = _capital(first.name)
    if len(alike) == 1:
        return f"{name} surely matters: without it {rise}. Another {kind} may matter more.", (first,)
    if len(alike) == 2:
        second = alike[1]
        said = f"{name} and {second.name} matter, and which one more is not sure: without the one {rise}, without the "
        return f"{said}other by {second.nats}.", (first, second)
    names = [part.name for part in alike[:_NAMED]]
    names += [f"{len(alike) - _NAMED} more"] if len(alike) > _NAMED else []
    said = f"Several {kind}s matter, and which one most is not sure, {list_of(names)}: without {first.name} {rise}."
    return said, tuple(alike[:_NAMED])


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
