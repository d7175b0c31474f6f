"""Where a curve passes a level for good, between which stages, and with which certainty.

Ends, levels and crossings are defined in `change_points`, and so is what the interval covers.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit
from torch import Tensor

from nanogpt_lens.core.intervals import LEVEL

SHARES = (0.1, 0.5)
"""The share of the change that the curve has made at each of the points, onset and half."""

_SHARED = 2.0
"""How many times as large as the sequences explain the roughness of a curve must be to count as noise of all."""


def width(n_steps: int) -> int:
    """The number of steps at each end that a mean is taken over."""
    return max(1, n_steps // 8)


def ends(curves: Float[Tensor, "*axes step"]) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """The baseline and the final value of each curve."""
    wide = width(curves.shape[-1])
    return curves[..., :wide].mean(-1), curves[..., -wide:].mean(-1)


def above_levels(curves: Float[Tensor, "*axes step"]) -> Float[Tensor, "*axes point step"]:
    """How far each curve is above its own level of each point, at each step; linear in the curve."""
    baseline, final = (end[..., None] for end in ends(curves))
    shares = torch.tensor(SHARES, dtype=curves.dtype)
    return curves[..., None, :] - (baseline + shares * (final - baseline))[..., None]


def crossing(
    steps: Float[Tensor, " step"], values: Float[Tensor, " step"]
) -> tuple[Float[Tensor, " point"], Float[Tensor, " point"], Float[Tensor, " point"]]:
    """Where a curve that ends above its levels crosses each for good, and the stages before and after that."""
    above = above_levels(values)
    last = _last(above < 0)
    before, after = steps[last], steps[last + 1]
    points = torch.arange(len(SHARES))
    low, high = above[points, last], above[points, last + 1]
    return before + low / (low - high) * (after - before), before, after


def crossing_interval(
    steps: Float[Tensor, " step"], examples: Float[Tensor, "step example"]
) -> tuple[Float[Tensor, " point"], Float[Tensor, " point"]]:
    """Both ends of the interval of each crossing, which are stages; see `change_points`.

    `low` is the last stage up to which all are below the level, each with an upper end of its interval below 0;
    `high` is the stage after the last one whose lower end is not above 0. Each is wrong with a probability of at
    most 2.5%, as it rests on one stage alone: the first that is not below the level, and the last that is.
    """
    each = above_levels(examples.T)  # [example, point, step]
    mean, half = each.mean(0), _half_width(examples, each)
    surely_below, surely_above = mean + half < 0, mean - half > 0
    low = surely_below.long().cumprod(-1).sum(-1) - 1
    high = _last(~surely_above) + 1
    return steps[low.clamp(min=0)], steps[high.clamp(max=len(steps) - 1)]


def _half_width(
    examples: Float[Tensor, "step example"], each: Float[Tensor, "example point step"]
) -> Float[Tensor, "point step"]:
    """Half of the 95% interval of the mean of `each`: over sequences, and over noise that all sequences share."""
    n = len(each)
    quantile = (1 + LEVEL) / 2
    of_sequences = float(stdtrit(n - 1, quantile)) * each.std(0) / math.sqrt(n)
    n_steps, wide = len(examples), width(len(examples))
    terms = torch.tensor([1 + (1 - s) ** 2 / wide + s**2 / wide for s in SHARES], dtype=each.dtype)
    shared = float(stdtrit(max(1.0, (n_steps - 2) / 3), quantile)) ** 2 * _shared_variance(examples) * terms
    return (of_sequences.square() + shared[:, None]).sqrt()


def _shared_variance(examples: Float[Tensor, "step example"]) -> float:
    """The variance of noise that is new at each stage and the same for all sequences, from how rough the mean is.

    Second differences of the mean, which a smooth curve has hardly any of, are as large as this noise and that of
    the sequences make them; their median does not see a transition of a few stages.
    """
    rough = (examples[:-2] - 2 * examples[1:-1] + examples[2:]) / math.sqrt(6)
    observed = float(rough.mean(-1).abs().quantile(0.5) / 0.6745) ** 2
    of_sequences = float((rough.var(-1) / examples.shape[1]).quantile(0.5))
    return observed - of_sequences if observed > _SHARED * of_sequences else 0.0


def _last(where: Bool[Tensor, "*axes step"]) -> Int[Tensor, "*axes"]:
    """The index of the last step at which it is true; -1 for none."""
    return (where * torch.arange(1, where.shape[-1] + 1)).amax(-1) - 1
