"""Bootstrap intervals: resampling of examples (sequences, prompts), which are what is independent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RESAMPLES = 1000
LEVEL = 0.95
ENDS = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
"""The probabilities of both ends of an interval."""

_PIECE = 2**22


def times_drawn(n: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Tensor:
    """How often each of `n` examples is drawn in each resample [resample, example], float64; rows sum to n."""
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())


def bootstrap(per_example: Tensor, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[Tensor, Tensor] | None:
    """The 95% percentile interval of the mean over the last dimension.

    Args:
        per_example: values [..., example].
        seed: of the resampling.
        resamples: how many.

    Returns:
        (low, high), each of the shape [...]; None for fewer than two examples.

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


def sampled(per_example: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """What a result keeps of values [..., example]: `values`, their mean; `low` and `high`; and `per_example`.

    The ends are those of `bootstrap`, None for fewer than two examples.
    """
    low, high = bootstrap(per_example, seed=seed) or (None, None)
    return {"values": per_example.mean(-1), "low": low, "high": high, "per_example": per_example}


def pseudo_values(without: Tensor, value: Tensor) -> Tensor:
    """What each example adds to an estimate, by the jackknife; their mean is the estimate.

    Args:
        without: the estimate without each of the examples [..., example].
        value: the estimate with all of them [...].

    Returns:
        n value - (n - 1) without, shifted to the mean of `value` [..., example]; for a mean the examples' values.

    Source: Tukey 1958, "Bias and confidence in not-quite large samples".
    """
    n = without.shape[-1]
    found = n * value[..., None] - (n - 1) * without
    return found + (value - found.mean(-1))[..., None]
