"""Which of many sites have an effect, when one looks at all of them and takes the largest?

If nothing has an effect, an example's values are as likely to be turned around, all sites together: so the signs of
the examples are flipped at random, and each time the largest statistic of any site is noted. A site's p is the share
of flips whose largest is at least its own. That is corrected for the number of sites, however they hang together.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.choices import check_choice

Alternative: TypeAlias = Literal["two-sided", "greater", "less"]
"""Which effects count: all, positive ones, or negative ones."""

FLIPS = 4095
"""The number of random flips; up to 12 examples there are no more, and all are made."""

_PIECE = 2**22
_FLIPS_AT_ONCE = 1024
_TIE = 1e-9
"""Statistics, which are at most 1, that differ by no more are equal but for rounding."""


def max_statistic_p(
    per_example: Float[Tensor, "*axes example"],
    *,
    seed: int = 0,
    n_flips: int = FLIPS,
    alternative: Alternative = "two-sided",
    rounding: float = 0.0,
) -> Float[Tensor, "*axes"]:
    """The p of each site's mean over examples being 0, corrected for the number of sites, over all axes.

    The statistic is Student's t, as its equivalent mean / root mean square, which is as large as t is and does not
    change its scale when signs are flipped. p = (flips whose largest statistic is at least the site's + 1) /
    (flips + 1). Where there are no more than `n_flips` + 1 flips, all are made, and p is exact. See `smallest_p`.

    Args:
        per_example: a value for each example, which is 0 without an effect: a paired difference, or a score minus
            its chance level. Their distribution without effect is taken to be symmetric. A site with a nan
            has p nan, and is left out.
        seed: the seed of the flips.
        n_flips: the number of random flips.
        alternative: "two-sided", or whether only positive ("greater") or negative ("less") means count.
        rounding: the magnitude up to which a value is rounding, and counts as 0.

    Returns:
        p in float64; 1 for a site whose values are all 0.

    Source: Westfall and Young 1993 (largest statistic); Nichols and Holmes 2002 (sign flips); Phipson and Smyth
    2010, "Permutation P-values should never be zero".
    """
    check_choice(Alternative, alternative=alternative)
    shape, n = per_example.shape[:-1], per_example.shape[-1]
    flat = per_example.detach().cpu().reshape(-1, n)
    signs, exact = _signs(n, n_flips, seed, alternative)
    largest = torch.full((len(signs),), -torch.inf, dtype=torch.float64)
    statistics = []
    for sites in flat.split(max(1, _PIECE // max(n, _FLIPS_AT_ONCE))):
        scaled = _scaled(sites, rounding, -1.0 if alternative == "less" else 1.0)
        statistics.append(_statistic(scaled.mean(1), alternative))
        usable = scaled[~scaled.isnan().any(1)]
        if len(usable):
            for i in range(0, len(signs), _FLIPS_AT_ONCE):
                flipped = _statistic(signs[i : i + _FLIPS_AT_ONCE] @ usable.T / n, alternative)  # [flip, site]
                largest[i : i + len(flipped)] = largest[i : i + len(flipped)].maximum(flipped.amax(1))
    statistic = torch.cat(statistics) if statistics else flat.new_zeros(0).double()
    as_large = (len(signs) - torch.searchsorted(largest.sort().values, statistic - _TIE)).double()
    p = as_large / len(signs) if exact else (as_large + 1) / (len(signs) + 1)
    return p.where(~statistic.isnan(), torch.nan).reshape(shape)


def smallest_p(n: int, *, n_flips: int = FLIPS, alternative: Alternative = "two-sided") -> float:
    """The smallest p that `max_statistic_p` can give to `n` examples: 0.125 for 4 of them, 0.03125 for 6.

    Two-sided, the flip of all examples is as large as none is, so that it is 2 / 2 ** n where all flips are made.
    """
    flips = _n_different(n, alternative)
    return 1 / (flips if flips <= n_flips + 1 else n_flips + 1)


def p_in_words(*, places: int, n: int) -> str:
    """How a p of `n` examples is corrected, and how small it can be, in a sentence."""
    different = _n_different(n, "two-sided")
    flips = f"the {different:,} different" if different <= FLIPS + 1 else f"{FLIPS:,} random"
    return (
        f"p_corrected is corrected for the {places:,} places that were looked at: the share of {flips} flips of the "
        f"signs of {n:,} examples whose largest t of any place is at least the place's own; {smallest_p(n):.2g} or more"
    )


def _n_different(n: int, alternative: Alternative) -> int:
    """How many flips are different; two-sided, a flip is the same as its opposite."""
    return 2 ** (n - 1 if alternative == "two-sided" else n)


def _signs(n: int, n_flips: int, seed: int, alternative: Alternative) -> tuple[Float[Tensor, "flip example"], bool]:
    """The signs of the examples in each flip, 1 or -1, and whether these are all flips, that of no example included."""
    different = _n_different(n, alternative)
    if different <= n_flips + 1:
        bits = torch.arange(different)[:, None] >> torch.arange(n) & 1
        return 1 - 2 * bits.double(), True
    bits = torch.randint(2, (n_flips, n), generator=torch.Generator().manual_seed(seed))
    return 1 - 2 * bits.double(), False


def _scaled(sites: Float[Tensor, "site example"], rounding: float, sign: float) -> Float[Tensor, "site example"]:
    """The values in float64 with a root mean square of 1, or 0 where they are no more than rounding."""
    values = sign * sites.double()
    values = values.masked_fill(values.abs() <= rounding, 0.0)
    size = values.abs().amax(1, keepdim=True)
    values = values / torch.where(size > 0, size, 1.0)  # so that no square is too small or too large
    square = values.square().mean(1, keepdim=True)
    return values / torch.where(square > 0, square, 1.0).sqrt()


def _statistic(means: Float[Tensor, "*axes"], alternative: Alternative) -> Float[Tensor, "*axes"]:
    """What is the larger, the more the mean speaks for the alternative."""
    return means.abs() if alternative == "two-sided" else means
