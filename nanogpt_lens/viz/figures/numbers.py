"""Numbers for figures: a few digits, in arrays that are small as JSON; and what a hover text says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from nanogpt_lens.results.base import Result

DIGITS = 5
"""Significant digits of every number in a figure."""


def digits(values: Any) -> Float32[np.ndarray, " ..."]:
    """Float32, rounded to `DIGITS` significant digits; nan and infinity stay."""
    wide = np.asarray(values.detach().double().numpy() if isinstance(values, Tensor) else values, dtype=np.float64)
    with np.errstate(all="ignore"):
        power = DIGITS - 1 - np.floor(np.log10(np.abs(wide)))
        scale = np.power(10.0, np.clip(power, -300, 300))
        rounded = np.where((wide == 0) | ~np.isfinite(wide), wide, np.round(wide * scale) / scale)
    return rounded.astype(np.float32)


def bounds(*tensors: Shaped[Tensor, " ..."] | None) -> tuple[float, float]:
    """The least and the largest finite value; nan for none."""
    flat = [t.double().flatten() for t in tensors if t is not None]
    every = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
    finite = every[every.isfinite()]
    return (float(finite.min()), float(finite.max())) if len(finite) else (float("nan"), float("nan"))


@dataclass(frozen=True)
class Measured:
    """Values with what belongs to them: interval and chance; None where there is none."""

    values: Shaped[Tensor, "*axes"]
    low: Float[Tensor, "*axes"] | None = None
    high: Float[Tensor, "*axes"] | None = None
    chance: Float[Tensor, "*axes"] | None = None

    @classmethod
    def of(cls, result: Result) -> Measured:
        """All of a result."""
        return cls(result.values, *(getattr(result, name, None) for name in ("low", "high", "chance")))

    def mapped(self, change: Callable[[Shaped[Tensor, " ..."]], Shaped[Tensor, " ..."]]) -> Measured:
        """The same change of each of them, such as the choice of some places."""
        others = (None if t is None else change(t) for t in (self.low, self.high, self.chance))
        return Measured(change(self.values), *others)

    def at(self, places: Any) -> Measured:
        """Some places, by any index that a tensor takes."""
        return self.mapped(lambda tensor: tensor[places])

    @property
    def has_interval(self) -> bool:
        """Whether both ends are there."""
        return self.low is not None and self.high is not None

    @property
    def has_chance(self) -> bool:
        """Whether chance is known anywhere."""
        return self.chance is not None and bool(self.chance.isfinite().any())


def facts(
    low: Float[Tensor, "*axes"] | None = None,
    high: Float[Tensor, "*axes"] | None = None,
    **others: Shaped[Tensor, "*axes"] | None,
) -> tuple[Float32[np.ndarray, "*axes fact"] | None, str]:
    """What a hover text adds to a value: its interval, and others by name.

    Returns:
        custom data, None for none; and the text that reads it, to be put behind the value.
    """
    columns: list[Shaped[Tensor, "*axes"]] = []
    said: list[str] = []
    if low is not None and high is not None:
        said.append(" (95% interval %{customdata[0]:.4g} to %{customdata[1]:.4g})")
        columns += [low, high]
    for name, tensor in others.items():
        if tensor is not None:
            said.append(f"; {name.replace('_', ' ')} %{{customdata[{len(columns)}]:.4g}}")
            columns.append(tensor)
    if not columns:
        return None, ""
    return digits(torch.stack([column.double() for column in columns], -1)), "".join(said)


def plain(text: str) -> str:
    """A label for a hover or text template: nothing in it is taken for a variable."""
    return text.replace("%{", "%\u2060{")


def missing(*tensors: Shaped[Tensor, " ..."]) -> bool:
    """Whether a value is nan."""
    return any(bool(tensor.isnan().any()) for tensor in tensors)
