"""Intervals against simulations whose true mean is known, and against scipy."""

import numpy as np
import pytest
import scipy.stats
import torch

from nanogpt_lens.core.intervals import (
    ENDS,
    count_at_most,
    few_examples,
    mean_fields,
    pseudo_values,
    ratio_per_example,
    t_interval,
    times_drawn,
)
from nanogpt_lens.core.simultaneous import sure_low

REPEATS = 8000


def effects(shape, share, mean, deviation):
    """Most effects are small, a share is large and positive on average: heavy, skewed tails; and the true mean."""
    generator = torch.Generator().manual_seed(0)
    rare = torch.rand(shape, generator=generator) < share
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.where(rare, mean + deviation * noise, 0.1 * noise), share * mean


def coverage(ends, truth):
    low, high = ends
    return float(((low <= truth) & (truth <= high)).double().mean())


@pytest.mark.parametrize("n", [4, 8, 16, 32])
@pytest.mark.parametrize("tails", [(0.1, 0.2, 0.6), (0.05, 0.3, 1.0)])
def test_the_interval_covers_the_mean_of_effects_with_heavy_tails(n, tails):
    values, truth = effects((REPEATS, n), *tails)
    assert scipy.stats.kurtosis(effects((10**6,), *tails)[0], fisher=False) > 18
    assert coverage(t_interval(values), truth) >= 0.93
    bootstrap = torch.quantile(values[:2000] @ times_drawn(n).T / n, ENDS, dim=1)
    assert coverage(bootstrap, truth) < 0.93  # so that the test can tell


def test_the_interval_covers_a_normal_mean_as_often_as_it_says():
    values = torch.randn(REPEATS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert coverage(t_interval(values), 0.0) == pytest.approx(0.95, abs=0.01)


def test_the_interval_is_scipys():
    values = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = scipy.stats.t.interval(0.95, 6, values.mean(1), scipy.stats.sem(values, axis=1))
    np.testing.assert_allclose(torch.stack(t_interval(values)), np.stack(expected), rtol=1e-12)


@pytest.mark.parametrize("looked_at", [1, 40])
def test_ends_that_hold_for_all_that_were_looked_at_are_scipys_at_a_higher_level(looked_at):
    values = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    level = 1 - 0.05 / looked_at
    expected, _ = scipy.stats.t.interval(level, 6, values.mean(1), scipy.stats.sem(values, axis=1))
    np.testing.assert_allclose(sure_low(values, looked_at=looked_at), expected, rtol=1e-9)
    assert sure_low(values[:, :1], looked_at=looked_at).tolist() == [-np.inf] * 3  # of one example nothing is sure


def test_the_interval_of_one_example_is_none_and_of_equal_ones_has_no_width():
    assert t_interval(torch.tensor([[1.0]])) is None
    values = torch.tensor([[0.0] * 3, [0.1] * 3], dtype=torch.float64)
    low, high = t_interval(values)
    assert low.tolist() == high.tolist() == [0.0, 0.1]
    assert mean_fields(values[:, :1])["interval"] == ""
    assert mean_fields(values)["interval"] == "t"


@pytest.mark.parametrize("n", [8, 32])
def test_the_interval_of_a_ratio_covers_it(n):
    generator = torch.Generator().manual_seed(3)
    counts = torch.randint(1, 9, (REPEATS, n), generator=generator).double()
    sums = counts * (0.3 + 0.1 * torch.randn(REPEATS, n, generator=generator, dtype=torch.float64)) + 0.1 * counts**2
    truth = 0.3 + 0.1 * (np.arange(1, 9) ** 2).sum() / np.arange(1, 9).sum()
    each = ratio_per_example(sums, counts)
    torch.testing.assert_close(each.mean(1), sums.sum(1) / counts.sum(1))
    assert coverage(t_interval(each), truth) >= 0.92
    without = (sums.sum(1, keepdim=True) - sums) / (counts.sum(1, keepdim=True) - counts)
    assert coverage(t_interval(pseudo_values(without, each.mean(1))), truth) >= 0.92


@pytest.mark.parametrize(
    ("n", "kind", "words"),
    [
        (2, "t", "hardly any examples: n = 2"),
        (4, "t", "few examples: n = 4"),
        (10, "t", ""),
        (10, "bootstrap", "few examples: n = 10"),
        (50, "bootstrap", ""),
        (4, "", ""),
        (None, "t", ""),
    ],
)
def test_few_examples_are_said(n, kind, words):
    assert few_examples(n, kind) == words


@pytest.mark.parametrize(("hits", "drawn", "n"), [(0, 20, 964), (1, 20, 84), (7, 8, 30), (0, 1, 5)])
def test_the_largest_number_of_hits_is_that_of_the_hypergeometric_tail(hits, drawn, n):
    most = count_at_most(hits, drawn, n)
    assert scipy.stats.hypergeom.cdf(hits, n, most, drawn) > 0.05
    assert most == n - drawn + hits or scipy.stats.hypergeom.cdf(hits, n, most + 1, drawn) <= 0.05
    assert count_at_most(hits, n, n) == hits
    assert count_at_most(0, 0, n) == n
