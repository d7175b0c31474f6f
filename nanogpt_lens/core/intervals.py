"""Bootstrap intervals, which resample examples (sequences, prompts), because these are independent of each other."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

RESAMPLES = 1000
LEVEL = 0.95
ENDS = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
"""The probabilities of both ends of an interval."""

_PIECE = 2**22


def times_drawn(n: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Float[Tensor, "resample example"]:
    """How often each of `n` examples is drawn in each resample, in float64; rows sum to n."""
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())


def bootstrap(
    per_example: Float[Tensor, "*axes example"], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]] | None:
    """The two ends of the 95% percentile interval of the mean over examples; None for fewer than two examples.

    Args:
        per_example: a value for each example.
        seed: the seed of the resampling.
        resamples: the number of resamples.

    Source: Efron 1979; percentile method.
    """
    n = per_example.shape[-1]
    if n < 2:
        return None
    weights = times_drawn(n, seed=seed, resamples=resamples) / n
    flat = per_example.detach().double().cpu().reshape(-1, n)
    step = max(1, _PIECE // resamples)
    ends = [torch.quantile(flat[i : i + step] @ weights.T, ENDS, dim=1) for i in range(0, len(flat), step)]
    low, high = torch.cat(ends, dim=1).reshape(2, *per_example.shape[:-1]).to(per_example.dtype)
    return low, high


def sampled(per_example: Float[Tensor, "*axes example"], *, seed: int = 0) -> dict[str, Any]:
    """The fields of a result that come from a value for each example.

    They are `values`, the mean over examples; `low` and `high`, the ends of the mean's `bootstrap` interval, or
    None; and `per_example`.
    """
    low, high = bootstrap(per_example, seed=seed) or (None, None)
    return {"values": per_example.mean(-1), "low": low, "high": high, "per_example": per_example}


def pseudo_values(
    without: Float[Tensor, "*axes example"], value: Float[Tensor, "*axes"]
) -> Float[Tensor, "*axes example"]:
    """What each example adds to an estimate, by the jackknife; the mean over examples is the estimate.

    Args:
        without: the estimate without each of the examples.
        value: the estimate with all of them.

    Returns:
        n value - (n - 1) without, shifted so that the mean is `value`; if the estimate is a mean, the examples' values.

    Source: Tukey 1958, "Bias and confidence in not-quite large samples".
    """
    n = without.shape[-1]
    unshifted = n * value[..., None] - (n - 1) * without
    return unshifted + (value - unshifted.mean(-1))[..., None]
