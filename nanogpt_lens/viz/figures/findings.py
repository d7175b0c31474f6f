"""Titles that say what to see: sentences made of a result's numbers, silent where these are not sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.viz.figures.numbers import Measured


def said(value: float, unit: str = "") -> str:
    """A number with the digits that it deserves, and a true minus: "0.018", "1.85", "−23"."""
    size = abs(value)
    if size >= 100:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 0.1 or size == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.2g}"
    text = "0" if not size else text.replace("-", "−")
    return f"{text} {unit}".rstrip()


def counted(n: int, what: str) -> str:
    """A number of things: "one head", "3 heads"."""
    return f"one {what}" if n == 1 else f"{n:,} {what}s"


def surely_beyond(
    numbers: Measured, level: Float[Tensor, "*places"] | float = 0.0
) -> tuple[Bool[Tensor, "*places"], Bool[Tensor, "*places"]] | None:
    """Where values are surely above a level, and where below; None where there are no intervals.

    The 95% intervals are widened so that all of them hold together (Bonferroni, by the normal distribution).
    """
    if numbers.low is None or numbers.high is None:
        return None
    values, low, high = (tensor.double() for tensor in (numbers.values, numbers.low, numbers.high))
    n = max(1, int(values.isfinite().sum()))
    wider = NormalDist().inv_cdf(1 - 0.025 / n) / NormalDist().inv_cdf(0.975)
    return values - (values - low) * wider > level, values + (high - values) * wider < level


def largest_of(values: Float[Tensor, " place"]) -> int | None:
    """The place of the largest value; None where there is none."""
    known = values.double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return int(known.argmax()) if len(known) and bool(known.isfinite().any()) else None


def extremes(
    names: Sequence[str] | Callable[[int], str], numbers: Measured, *, what: str, unit: str = "", signed: bool = True
) -> str:
    """What is highest and, of a signed quantity, lowest: "Recovery: most at 0.0, 0.51; least at 2.3, −0.07".

    Where there are intervals, what is not surely other than 0 is not named.

    Args:
        names: of the places, or what gives the name of one.
        numbers: values and interval [place].
        what: the quantity, which begins the sentence.
        unit: behind the numbers.
        signed: whether values below zero are the opposite.
    """
    name_of = names if callable(names) else names.__getitem__
    values = numbers.values.double().flatten()
    flat = numbers.mapped(lambda tensor: tensor.flatten())
    beyond = surely_beyond(flat) if signed else None
    highest, lowest = largest_of(values), largest_of(-values)
    if highest is None or lowest is None:
        return f"{what}: no value"
    up = values[highest] > 0 and (beyond is None or bool(beyond[0][highest]))
    down = signed and values[lowest] < 0 and (beyond is None or bool(beyond[1][lowest]))
    if up and down:
        first = f"most at {name_of(highest)}, {said(float(values[highest]), unit)}"
        return f"{what}: {first}; least at {name_of(lowest)}, {said(float(values[lowest]), unit)}"
    if up or not signed:
        return f"{what}: most at {name_of(highest)}, {said(float(values[highest]), unit)}"
    if down:
        return f"{what}: least at {name_of(lowest)}, {said(float(values[lowest]), unit)}"
    return f"{what}: nowhere surely other than 0"


def beside_chance(names: Sequence[str], numbers: Measured, *, what: str, thing: str = "head") -> str:
    """How many places are surely above chance, and which is highest.

    Args:
        names: of the places.
        numbers: values, interval, chance [place].
        what: the score, which begins the sentence.
        thing: what a place is.
    """
    flat = numbers.mapped(lambda tensor: tensor.double().flatten())
    highest = largest_of(flat.values)
    if highest is None or flat.chance is None:
        return f"{what}: no value"
    top = f"{thing} {names[highest]} has the most, {said(float(flat.values[highest]))}"
    beyond = surely_beyond(flat, flat.chance)
    if beyond is None:
        level = float(flat.chance[highest])
        return f"{what}: {top}" + (f" (chance {said(level)})" if level == level else "")
    above = [names[i] for i in beyond[0].nonzero().flatten().tolist()]
    if not above:
        return f"{what}: no {thing} is surely above chance"
    if len(names) == 1:
        return f"{what}: the only {thing}, {names[0]}, is above chance, {said(float(flat.values[0]))}"
    if len(above) == len(names):
        return f"{what}: all {len(names)} {thing}s are above chance; {top}"
    if len(above) == 1:
        return f"{what}: {thing} {above[0]} alone is above chance, {said(float(flat.values[names.index(above[0])]))}"
    return f"{what}: {len(above)} of {len(names)} {thing}s are above chance; {top}"
