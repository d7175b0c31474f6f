"""Sums under every shift, one by one, and how often the largest of many is large by chance."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.core import shifts
from nanogpt_lens.core.shifts import shifted_p, shifted_sums


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("at_once", [1, 2**24])
@pytest.mark.parametrize("n", [30, 31])
def test_sums_are_those_of_every_shift_by_itself(n, at_once, monkeypatch):
    monkeypatch.setattr(shifts, "_AT_ONCE", at_once)
    one, other = random(2, n, 5), (random(3, n, 5, seed=1) > 0.6).double()
    found = shifted_sums(one, other)
    for shift in range(n):
        moved = torch.stack([other[:, (place + shift) % n] for place in range(n)], 1)
        expected = torch.einsum("hpb,spb->sh", one, moved)
        assert torch.allclose(found[..., shift], expected, atol=1e-12)


def test_p_is_the_share_of_shifts_with_a_larger_largest():
    values = random(2, 3, 40)
    p, counted = shifted_p(values, 4)
    assert counted.nonzero().flatten().tolist() == list(range(4, 37))
    null = values[..., 4:37]
    z = (values - null.mean(-1, keepdim=True)) / null.std(-1, keepdim=True)
    largest = z[..., 4:37].reshape(6, -1).max(0).values
    for i in range(2):
        for j in range(3):
            assert p[i, j] == pytest.approx((1 + (largest >= z[i, j, 0]).sum().item()) / 34)


def test_what_does_not_vary_or_is_unknown():
    values = random(3, 40)
    values[0], values[1] = 0.25, torch.nan
    p, _ = shifted_p(values, 4)
    assert p[0] > 0.5
    assert p[1].isnan()
    assert 0 < p[2] <= 1


def test_the_largest_of_many_is_below_five_percent_in_five_percent():
    below = [(shifted_p(random(20, 200, seed=seed), 1)[0] < 0.05).any().item() for seed in range(400)]
    assert 0.025 < sum(below) / len(below) < 0.08
