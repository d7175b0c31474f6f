"""A correlation along a text under every shift, and what the largest of many would be by chance.

If two things that are spread along a text have nothing to do with each other, their agreement is as good when one of
them is shifted along it, around its end. That keeps what each is like by itself: its density, clumps and rhythm. All
shifts at once are one product of Fourier transforms.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_AT_ONCE = 2**24
"""The complex numbers that a product of transforms may have."""


def shifted_sums(
    one: Float[Tensor, "head place back"], other: Float[Tensor, "score place back"]
) -> Float[Tensor, "score head shift"]:
    """The sum over places and `back` of one[place] * other[place + shift], for every shift around the end.

    Args:
        one: what stays where it is.
        other: what is shifted; the first shift is 0.
    """
    n = one.shape[1]
    total = torch.zeros(n // 2 + 1, len(other), len(one), dtype=torch.promote_types(one.dtype, torch.complex64))
    step = max(1, _AT_ONCE // (n * (len(one) + len(other))))
    for i in range(0, one.shape[2], step):
        mine, theirs = (torch.fft.rfft(part[:, :, i : i + step].mT.contiguous()) for part in (one, other))
        total += torch.einsum("hbf,sbf->fsh", mine.conj(), theirs)
    return torch.fft.irfft(total.permute(1, 2, 0), n=n)


def shifted_p(
    shifted: Float[Tensor, "*axes shift"], least: int
) -> tuple[Float[Tensor, "*axes"], Bool[Tensor, " shift"]]:
    """How often the largest value of all, under a shift, is as far above its mean over the shifts as a place's own is.

    Values are compared by their distance from the mean over the shifts, in their standard deviations. The shares are
    corrected for the number of places that way, however these hang together.

    Args:
        shifted: a value for each place and shift; the first shift is none.
        least: shifts by less than that many places, either way, are left out.

    Returns:
        p, at least 1 / (number of shifts + 1), and nan where a place has nan; and which shifts were looked at.
    """
    n = shifted.shape[-1]
    counted = torch.zeros(n, dtype=torch.bool)
    counted[max(1, least) : n - max(1, least) + 1] = True
    null = shifted[..., counted]
    mean = null.mean(-1, keepdim=True)
    deviation = null.std(-1, keepdim=True) if null.shape[-1] > 1 else torch.full_like(mean, torch.nan)
    scale = torch.where(deviation > 1e-12 * mean.abs().clamp(min=1e-12), deviation, torch.inf)
    largest = ((null - mean) / scale).nan_to_num(-torch.inf).flatten(0, -2).amax(0).sort().values
    own = ((shifted[..., :1] - mean) / scale)[..., 0]
    as_large = len(largest) - torch.searchsorted(largest, own - 1e-9)
    return ((as_large + 1) / (len(largest) + 1)).double().where(~own.isnan(), torch.nan), counted
