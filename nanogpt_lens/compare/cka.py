"""Linear CKA with an unbiased estimator, its interval by the jackknife, and its values where rows are in random order.

HSIC_1 is unbiased for n rows of any widths, where the usual one is inflated unless n is far above the widths. With the
diagonals of both Gram matrices K and L set to 0 it is

    [tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L1] / (n (n - 3))

and CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), which is estimated part by part, and may leave 0 to 1 by a little.
What is left of each sum without one row takes no more than the sums over that row, so that the jackknife costs no more
than the value itself. Its intervals hold the true value in 95 to 98 of 100 cases; where nothing is shared HSIC_1 is
degenerate, and they are too wide: they hold 0 in 99 of 100. A bootstrap would draw rows twice, which are then perfectly
alike: it is biased here.

Sources: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited"; Song et al. 2012, "Feature
Selection via Dependence Maximization" (HSIC_1); Nguyen, Raghu, Kornblith 2021 (for CKA); Arvesen 1969, "Jackknifing
U-Statistics".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.intervals import pseudo_values, t_interval

LEAST = 8
"""The smallest number of rows: without one of them HSIC_1 needs four, and an interval of fewer says nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gram:
    """The inner products of rows, with zeros on the diagonal.

    Attributes:
        rows: the rows, centred, and scaled to a mean square of 1.
        products: of all pairs of rows.
        sums: the sum of each row of these.
    """

    rows: Float[Tensor, "row d"]
    products: Float[Tensor, "row row"]
    sums: Float[Tensor, " row"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """CKA of each representation of one list with each of another, with 95% intervals over the rows."""

    values: Float[Tensor, "one other"]
    low: Float[Tensor, "one other"]
    high: Float[Tensor, "one other"]


def gram(rows: Float[Tensor, "row d"]) -> Gram:
    """The Gram matrix of some rows, in float64.

    Centring changes no HSIC_1, and scale no CKA, but both keep numbers small.
    """
    centred = rows.double() - rows.double().mean(0)
    size = centred.square().mean().sqrt()
    centred = centred / size if float(size) > 0 else centred
    products = (centred @ centred.T).fill_diagonal_(0)
    return Gram(rows=centred, products=products, sums=products.sum(1))


def cka(one: Sequence[Gram], other: Sequence[Gram]) -> Similarity:
    """CKA of every pair; nan where one of the two does not vary over the rows."""
    own = [[hsic(g, g) for g in grams] for grams in (one, other)]
    found = [[_similarity(hsic(g, h), own[0][i], own[1][j]) for j, h in enumerate(other)] for i, g in enumerate(one)]
    ends = torch.tensor(found, dtype=torch.float64)
    return Similarity(values=ends[..., 0], low=ends[..., 1], high=ends[..., 2])


def hsic(k: Gram, m: Gram) -> Float[Tensor, " left_out"]:
    """HSIC_1 of all n rows, and behind it that without each of them: n + 1 values."""
    n = len(k.sums)
    both = (k.products * m.products).sum(1)  # of each row its part of tr(K L)
    products = k.sums * m.sums
    mixed = m.products @ k.sums + k.products @ m.sums  # what the other rows' sums lose of 1'K L1
    trace = torch.cat([both.sum()[None], both.sum() - 2 * both])
    ones = [torch.cat([sums.sum()[None], sums.sum() - 2 * sums]) for sums in (k.sums, m.sums)]
    cross = torch.cat([products.sum()[None], products.sum() - products - mixed + both])
    return _hsic(trace, ones[0], ones[1], cross, torch.tensor([n] + [n - 1] * n, dtype=torch.float64))


def _hsic(
    trace: Float[Tensor, "*axes"],
    k: Float[Tensor, "*axes"],
    m: Float[Tensor, "*axes"],
    cross: Float[Tensor, "*axes"],
    n: Float[Tensor, "*axes"] | int,
) -> Float[Tensor, "*axes"]:
    """HSIC_1 from its sums."""
    return (trace + k * m / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


def _similarity(
    both: Float[Tensor, " left_out"], one: Float[Tensor, " left_out"], other: Float[Tensor, " left_out"]
) -> tuple[float, float, float]:
    """The value and the ends of its interval."""
    same = (both == one) & (both == other)  # without the rounding of the root
    values = torch.where(same, 1.0, both / (one * other).sqrt())
    if not bool(((one > _NOTHING) & (other > _NOTHING)).all()):
        return torch.nan, torch.nan, torch.nan
    ends = t_interval(pseudo_values(values[1:], values[0]))
    assert ends is not None
    return float(values[0]), float(ends[0]), float(ends[1])


_NOTHING = 1e-18
"""HSIC of a representation with itself, scaled to a mean square of 1, that is rounding."""


def in_random_order(
    one: Sequence[Gram], other: Sequence[Gram], orders: Int[Tensor, "order row"]
) -> Float[Tensor, "order one other"]:
    """CKA of every pair with the rows of the other in each order; nan where one does not vary.

    Only what depends on the order is computed anew, and tr(K L) from the rows, since ||X'Y||^2 is the trace of both
    Gram matrices with their diagonals; in float32.
    """
    n = orders.shape[1]
    rows = [torch.cat([g.rows for g in grams], 1).float() for grams in (one, other)]
    squares = [torch.stack([g.rows.square().sum(1) for g in grams]) for grams in (one, other)]
    sums = [torch.stack([g.sums for g in grams]) for grams in (one, other)]
    ones = sums[0].sum(1)[:, None].expand(-1, len(other)), sums[1].sum(1).expand(len(one), -1)
    own = [torch.stack([hsic(g, g)[0] for g in grams]) for grams in (one, other)]
    scale = (own[0][:, None] * own[1]).sqrt()
    scale = scale.masked_fill((own[0] <= _NOTHING)[:, None] | (own[1] <= _NOTHING), torch.nan)
    widths = [[g.rows.shape[1] for g in grams] for grams in (one, other)]
    found = []
    for order in orders:
        square = (rows[0].T @ rows[1][order]).double().square()
        blocks = [part.split(widths[1], 1) for part in square.split(widths[0], 0)]
        trace = torch.stack([torch.stack([block.sum() for block in row]) for row in blocks])
        trace = trace - squares[0] @ squares[1][:, order].T
        found.append(_hsic(trace, *ones, sums[0] @ sums[1][:, order].T, n) / scale)
    return torch.stack(found)
