"""Tests of what a circuit claims, from the hypotheses that Shi et al. 2024 state.

"Hypothesis Testing the Circuit Hypothesis in LLMs". Their package differs from what they state: the equivalence test
counts by mean differences, p can be 0, and the minimality test does not correct for the number of edges. Here p is
(b + 1) / (B + 1) wherever something is drawn, ties are left out, and several tests are corrected by Holm 1979.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def equivalence_p(differences: Float[Tensor, " example"], *, margin: float = 0.1) -> float:
    """The p of circuit and model being as often better as the other, within a margin.

    H0: the probability that the circuit's metric is above the model's, of the prompts on which they differ, is within
    `margin` of 1/2. p is that of a share of such prompts at least as far from 1/2 as the one seen, under the H0 for
    which that is likeliest. 1 where they never differ.
    """
    from scipy.stats import binom  # takes a third of a second, which a report does without

    size = float(differences.abs().max()) if len(differences) else 0.0
    differ = differences[differences.abs() > 1e-9 * max(1.0, size)]
    n, above = len(differ), int((differ > 0).sum())
    if n == 0:
        return 1.0
    far = abs(2 * above - n)
    counts = torch.arange(n + 1)
    extreme = counts[(2 * counts - n).abs() >= far].numpy()
    return float(min(1.0, binom.pmf(extreme, n, 0.5 + margin).sum()))


def independence_p(
    one: Float[Tensor, " example"], two: Float[Tensor, " example"], *, draws: int, generator: torch.Generator
) -> float:
    """The p of two numbers of each prompt being independent.

    The statistic is HSIC with Gaussian kernels, as wide as the median distance (Gretton et al. 2007); the null is made
    by permuting the prompts. 1 for fewer than four prompts, or where one of them does not vary.
    """
    n = len(one)
    if n < 4 or float(one.std()) == 0 or float(two.std()) == 0:
        return 1.0
    first, second = _centred_kernel(one), _centred_kernel(two)
    seen = (first * second).sum()
    orders = [torch.randperm(n, generator=generator) for _ in range(draws)]
    drawn = torch.stack([(first * second[order][:, order]).sum() for order in orders])
    return share_at_least(drawn, float(seen) * (1 - 1e-12))


def share_at_least(drawn: Float[Tensor, " draw"], seen: float) -> float:
    """(b + 1) / (B + 1), where b of B drawn values are at least as large as the one seen."""
    return (int((drawn >= seen).sum()) + 1) / (len(drawn) + 1)


def holm(p: Float[Tensor, " test"]) -> Float[Tensor, " test"]:
    """Each p, corrected for all of them; Holm 1979, "A simple sequentially rejective multiple test procedure"."""
    order: Int[Tensor, " test"] = p.argsort()
    factors = torch.arange(len(p), 0, -1, dtype=p.dtype)
    out = torch.empty_like(p)
    out[order] = (p[order] * factors).cummax(0).values.clamp_max(1.0)
    return out


def _centred_kernel(values: Float[Tensor, " example"]) -> Float[Tensor, "example example"]:
    """A Gaussian kernel of the distances, centred in rows and columns."""
    distances = (values[:, None] - values).double().abs()
    above = distances[torch.ones_like(distances).triu(1).bool()]
    width = above.median()
    width = width if width > 0 else above.mean()
    kernel = torch.exp(-(distances**2) / (2 * width**2))
    kernel = kernel - kernel.mean(0)
    return kernel - kernel.mean(1, keepdim=True)
