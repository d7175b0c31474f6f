"""Unbiased CKA: against the definition over all quadruples, its invariances, its bias, and its interval's coverage."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from nanogpt_lens.compare.cka import cka, gram, hsic, in_random_order
from nanogpt_lens.core.intervals import pseudo_values, t_interval


def rows(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_quadruples(x, y):
    """HSIC as the U-statistic over all ordered quadruples of different rows, from the definition (Song et al. 2012)."""
    k, m = (np.asarray(z) @ np.asarray(z).T for z in (x, y))
    found = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(len(k)), 4)]
    return float(np.mean(found))


def textbook(x, y):
    """HSIC_1 as its formula is printed."""
    k, m = (np.asarray(z) @ np.asarray(z).T for z in (x, y))
    n, one = len(k), np.ones(len(k))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    first = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((first - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))


def scaled(x):
    """As `gram` has them, so that HSIC is of the same size."""
    centred = x - x.mean(0)
    return centred / centred.square().mean().sqrt()


@pytest.mark.parametrize(("n", "d", "e"), [(8, 3, 5), (9, 20, 2), (6, 1, 1)])
def test_hsic_is_that_over_all_quadruples_and_the_textbooks(n, d, e):
    x, y = rows(n, d, 0), rows(n, e, 1) + 0.5 * rows(n, d, 0)[:, :1]
    found = hsic(gram(x), gram(y))
    assert len(found) == n + 1
    assert float(found[0]) == pytest.approx(textbook(scaled(x), scaled(y)), abs=1e-12)
    assert float(found[0]) == pytest.approx(by_quadruples(scaled(x), scaled(y)), abs=1e-12)
    moved = textbook(scaled(x) + 7, scaled(y) - 3)  # the estimator does not see where the middle is
    assert float(found[0]) == pytest.approx(moved, abs=1e-10)
    for i in range(n):
        kept = [j for j in range(n) if j != i]
        assert float(found[i + 1]) == pytest.approx(textbook(scaled(x)[kept], scaled(y)[kept]), abs=1e-12)


def test_the_interval_is_the_jackknife_over_rows():
    x, y = rows(20, 4, 0), rows(20, 6, 1) + rows(20, 4, 0)[:, :1]
    found = cka([gram(x)], [gram(y)])

    def value(kept):
        pairs = ((x, y), (x, x), (y, y))
        both, one, other = (textbook(scaled(p)[kept], scaled(q)[kept]) for p, q in pairs)
        return both / (one * other) ** 0.5

    whole = torch.tensor(value(list(range(20))), dtype=torch.float64)
    without = torch.tensor([value([j for j in range(20) if j != i]) for i in range(20)], dtype=torch.float64)
    low, high = t_interval(pseudo_values(without, whole))
    assert float(found.values) == pytest.approx(float(whole), abs=1e-10)
    assert (float(found.low), float(found.high)) == pytest.approx((float(low), float(high)), abs=1e-9)


def test_the_same_is_one_exactly_and_rotation_scale_and_shift_change_nothing():
    x, y = rows(40, 12, 0), rows(40, 9, 1) + rows(40, 12, 0)[:, :9]
    same = cka([gram(x)], [gram(x.clone())])
    assert (float(same.values), float(same.low), float(same.high)) == (1, 1, 1)
    turn, _ = torch.linalg.qr(rows(12, 12, 2))
    turned = cka([gram(x)], [gram(3.7 * x @ turn + 5)])
    assert float(turned.values) == pytest.approx(1, abs=1e-12)
    plain, moved = (cka([gram(z)], [gram(y)]) for z in (x, -0.01 * x @ turn + 2))
    for one, other in ((plain.values, moved.values), (plain.low, moved.low), (plain.high, moved.high)):
        assert float(one) == pytest.approx(float(other), abs=1e-9)
    stretched = cka([gram(x)], [gram(x * torch.arange(1, 13))])
    assert float(stretched.values) < 0.95  # not under any linear map


def test_what_does_not_vary_has_no_similarity():
    found = cka([gram(rows(10, 3, 0)), gram(torch.ones(10, 3))], [gram(rows(10, 3, 1))])
    assert found.values.isnan().tolist() == [[False], [True]]
    drawn = in_random_order([gram(torch.ones(10, 3))], [gram(rows(10, 3, 1))], torch.randperm(10)[None])
    assert bool(drawn.isnan().all())


def biased(x, y):
    """CKA as it is mostly computed, with HSIC_0: centred Gram matrices."""
    k, m = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    return float((k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt())


def test_independent_rows_have_zero_where_the_biased_estimator_has_a_half():
    """As many rows as features: over repetitions the mean is 0, and the intervals hold 0 in 95 of 100 and more."""
    n, d, times = 32, 32, 200
    found, inflated, inside = [], [], 0
    for seed in range(times):
        x, y = rows(n, d, 2 * seed), rows(n, d, 2 * seed + 1)
        measured = cka([gram(x)], [gram(y)])
        found.append(float(measured.values))
        inflated.append(biased(x, y))
        inside += float(measured.low) <= 0 <= float(measured.high)
    assert abs(np.mean(found)) < 3 * np.std(found) / times**0.5
    assert np.mean(inflated) > 0.45
    assert inside / times >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("n", [32, 100])
def test_intervals_hold_the_true_similarity(n):
    """Rows that share a part: the value of very many rows is inside in about 95 of 100 intervals."""

    def drawn(size, seed):
        shared, own, other = (rows(size, 6, 3 * seed + i) for i in range(3))
        mix = rows(6, 6, 999_999)
        return shared + 0.7 * own, (shared + 0.7 * other) @ mix

    x, y = drawn(4000, 500_000)
    truth = float(cka([gram(x)], [gram(y)]).values)
    assert 0.1 < truth < 0.9
    times = 300
    measured = [cka([gram(x)], [gram(y)]) for x, y in (drawn(n, seed) for seed in range(times))]
    inside = sum(float(m.low) <= truth <= float(m.high) for m in measured) / times
    assert 0.9 <= inside <= 0.99
    assert abs(np.mean([float(m.values) for m in measured]) - truth) < 0.02


def test_random_orders_are_cka_of_the_moved_rows():
    one, other = ([rows(15, d, i) for i, d in enumerate(widths)] for widths in ((3, 4), (5, 2, 3)))
    orders = torch.stack([torch.randperm(15, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    found = in_random_order([gram(x) for x in one], [gram(y) for y in other], orders)
    assert found.shape == (4, 2, 3)
    for i, order in enumerate(orders):
        expected = cka([gram(x) for x in one], [gram(y[order]) for y in other]).values
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-5)
