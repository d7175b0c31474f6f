"""How a measured number is written down: rounded, with its 95% interval, how many examples it is from, and the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nanogpt_lens.core.intervals import ENDS, ratio_per_example, t_interval, times_drawn
from nanogpt_lens.results import Scores

Numbers: TypeAlias = dict[str, Any]
"""Numbers, words, lists, and more of the kind: what JSON can hold."""


def rounded(value: float | Tensor, digits: int = 4) -> float | None:
    """A number as JSON can hold it; None for what is none, such as a share of nothing."""
    number = float(value)
    return round(number, digits) if math.isfinite(number) else None


def mean_and_ends(per_example: Tensor) -> list[float | None]:
    """The mean of values [example] and both ends of Student's interval, which fewer than two do not have: None."""
    each = per_example.double()
    low, high = t_interval(each) or (math.nan, math.nan)
    return [rounded(number) for number in (each.mean(), low, high)]


def mean(per_example: Tensor, *, seed: int) -> Numbers:
    """The mean of values [example], with Student's interval over the examples; `seed` is noted."""
    numbers = zip(("value", "low", "high"), mean_and_ends(per_example), strict=True)
    return {**dict(numbers), "n": per_example.shape[-1], "seed": seed}


def ratio(above: Tensor, below: Tensor, *, seed: int) -> Numbers:
    """The sum of some values [example] as a share of the sum of others, of the same examples."""
    weights = times_drawn(len(above), seed=seed)
    drawn = (weights @ above.double()) / (weights @ below.double())
    low, high = torch.quantile(drawn, ENDS)
    return {
        "value": rounded(above.double().sum() / below.double().sum()),
        "low": rounded(low),
        "high": rounded(high),
        "n": len(above),
        "seed": seed,
    }


def ratio_of_means(above: Tensor, below: Tensor, *, seed: int) -> Numbers:
    """The mean of some values [example] as a share of that of others, of other examples, drawn on their own."""
    drawn = [times_drawn(len(x), seed=seed + i) @ x.double() / len(x) for i, x in enumerate((above, below))]
    low, high = torch.quantile(drawn[0] / drawn[1], ENDS)
    return {
        "value": rounded(above.double().mean() / below.double().mean()),
        "low": rounded(low),
        "high": rounded(high),
        "n": len(above),
        "seed": seed,
    }


def entry(scores: Scores, index: Sequence[int], *, n: int, seed: int) -> Numbers:
    """One place of some scores, with its interval, and its chance level where there is one."""
    at = tuple(index)
    found = {name: getattr(scores, name) for name in ("low", "high", "chance")}
    kept = {name: rounded(column[at]) for name, column in found.items() if column is not None}
    return {"value": rounded(scores.values[at]), **kept, "n": n, "seed": seed}


def where(per_position: Tensor, mask: Tensor) -> Tensor:
    """Values [..., example, pos] at the places of a mask [example, pos] as [..., example], whose mean is theirs."""
    sums = (per_position.double() * mask).sum(-1)
    return ratio_per_example(sums, mask.sum(-1).double())
