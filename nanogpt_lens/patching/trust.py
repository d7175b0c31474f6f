"""How far a screening can be trusted: which of the largest effects it may have left unpatched.

Nobody knows the effect of a site that was not patched. Two things are known: that a random sample of the sites behind
the first ranks holds so many large effects, which is counted without any assumption but says little as long as the
sample is small; and how far estimate and effect are apart where both are known, which says much, if the others are
like them. The bound of the recall takes the better of both.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.special import pdtr, stdtr
from torch import Tensor

from nanogpt_lens.core.intervals import count_at_most

_SURE = 0.975
"""The quantile of the number of sites left out; more than 95%, because the spread of the errors is estimated."""

_LEAST = 1e-6
"""A share of the k-th largest effect that is no effect, for logarithms."""


def trust_of(
    guess: Float[Tensor, " site"],
    index: Int[Tensor, " patched"],
    effect: Float[Tensor, " patched"],
    *,
    size: Float[Tensor, " site"] | None = None,
    n_first: int,
    k: int,
) -> dict[str, Any]:
    """What `ScreeningResult` says of recall, missed sites and correlation.

    Args:
        guess: all estimates.
        index: the sites that were patched, the `n_first` first ranks in front.
        effect: their exact effects.
        size: the magnitudes by which sites were ranked; None for those of `guess`.
        n_first: the number of sites that are verified by rank.
        k: the number of top sites.
    """
    largest = effect.abs().double()
    n_rest, n_sample = len(guess) - n_first, len(index) - n_first
    best = largest.argsort(descending=True, stable=True)[:k]
    curve = (best[None] < torch.arange(1, n_first + 1)[:, None]).double().mean(1)
    missed, most = 0.0, 0
    if n_rest:
        threshold = largest[:n_first].sort(descending=True).values[k - 1]
        hits = int((largest[n_first:] > threshold).sum())
        missed = n_rest * hits / n_sample if n_sample else math.nan
        most = count_at_most(hits, n_sample, n_rest)
    pair = torch.stack([guess[index[n_first:]].double(), effect[n_first:].double()])
    spread = n_sample > 2 and bool((pair.std(1) > 0).all())
    ranked_by = (guess.abs() if size is None else size).double()
    return {
        "recall_among_patched": float(curve[-1]),
        "recall_low": 1 - min(k, _left_out(ranked_by, index, largest, n_first=n_first, k=k)) / k,
        "recall_curve": curve,
        "missed": missed,
        "missed_high": float(most),
        "correlation": float(torch.corrcoef(pair)[0, 1]) if spread else math.nan,
    }


def _left_out(
    size: Float[Tensor, " site"],
    index: Int[Tensor, " patched"],
    effect: Float[Tensor, " patched"],
    *,
    n_first: int,
    k: int,
) -> int:
    """How many unpatched sites have a larger effect than the k-th of those that were patched, at most.

    The arguments are those of `trust_of`, magnitudes alone.
    """
    others = torch.ones(len(size), dtype=torch.bool).index_fill(0, index, False)
    if not others.any():
        return 0
    needed = effect.sort(descending=True).values[k - 1]
    sampled = effect[n_first:]
    hits = int((sampled > needed).sum())
    counted = count_at_most(hits, len(sampled), int(others.sum()) + len(sampled)) - hits
    if len(sampled) < 3:
        return counted
    none = _LEAST * float(needed) or 1e-300
    known, unknown = size[index], size[others]
    ratio = ((effect + none) / (known + none)).log()
    needed_ratio = ((needed + none) / (unknown + none)).log()
    error, needed_error = sampled - known[n_first:], needed - unknown
    chances = [
        _chance_beyond(needed_ratio, ratio, df=len(sampled) - 1),
        _chance_beyond(needed_ratio, ratio[n_first:], df=len(sampled) - 1),
        _chance_beyond(needed_error, error, df=len(sampled) - 1),
    ]
    return min(counted, _poisson_quantile(float(torch.stack(chances).amax(0).sum())))


def _chance_beyond(needed: Float[Tensor, " site"], seen: Float[Tensor, " seen"], *, df: int) -> Float[Tensor, " site"]:
    """The chance that a new value, normal as the seen ones, is beyond what each site needs (Student's prediction)."""
    scale = max(float(seen.std()) * (1 + 1 / len(seen)) ** 0.5, 1e-12)
    return torch.from_numpy(stdtr(df, ((seen.mean() - needed) / scale).numpy()))


def _poisson_quantile(mean: float) -> int:
    """The number that a Poisson variable does not exceed with probability `_SURE`."""
    number = 0
    while pdtr(number, mean) < _SURE:
        number += 1
    return number
