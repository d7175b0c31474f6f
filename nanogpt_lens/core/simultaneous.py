"""Which of many means are surely above something, when the ones that are pointed out are the best of all?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from nanogpt_lens.core.intervals import LEVEL, mean_and_deviation


def sure_low(per_example: Float[Tensor, "*axes example"], *, looked_at: int) -> Float[Tensor, "*axes"]:
    """The lower ends of intervals of means over examples that hold for all of them together, in float64.

    Each is Student's, at a level so much higher (Bonferroni) that with a probability of at least 97.5% no mean of all
    that were looked at is below its end: the lower half of a 95% interval, for the whole family.

    Args:
        per_example: a value for each example.
        looked_at: how many means there are to choose from.

    Returns:
        The ends; minus infinity for fewer than two examples, of which nothing is sure.

    Source: Dunn 1961, "Multiple comparisons among means".
    """
    n = per_example.shape[-1]
    if n < 2:
        return torch.full(per_example.shape[:-1], -torch.inf, dtype=torch.float64)
    mean, deviation = mean_and_deviation(per_example)
    return mean - float(stdtrit(n - 1, 1 - (1 - LEVEL) / 2 / looked_at)) * (deviation / n**0.5)
