"""The corrected p against simulations without and with an effect, and against all flips made one by one."""

import itertools

import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.permutation import max_statistic_p, smallest_p


def heads_of_noise(shape, seed, common=0.7):
    """Heavy-tailed values [..., example] of correlated heads [..., head, example]."""
    generator = torch.Generator().manual_seed(seed)
    *repeats, n_heads, n = shape
    shared = torch.randn(*repeats, 1, n, generator=generator, dtype=torch.float64)
    own = torch.randn(*repeats, n_heads, n, generator=generator, dtype=torch.float64)
    size = torch.rand(*repeats, n_heads, 1, generator=generator) + 0.01
    return size * (common * shared + (1 - common**2) ** 0.5 * own) ** 3


@pytest.mark.parametrize("n", [8, 32])
def test_of_sixteen_heads_of_noise_the_best_is_significant_in_one_case_of_twenty(n):
    runs = heads_of_noise((500, 16, n), seed=0)
    best = torch.stack([max_statistic_p(run, n_flips=299).min() for run in runs])
    assert 0.02 <= float((best <= 0.05).double().mean()) <= 0.08


def test_without_correction_the_best_head_of_noise_would_often_be_significant():
    runs = heads_of_noise((60, 16, 16), seed=1, common=0.2)
    best = torch.stack([torch.stack([max_statistic_p(head, n_flips=99) for head in run]).min() for run in runs])
    assert float((best <= 0.05).double().mean()) > 0.3


def test_a_head_with_an_effect_is_told_from_noise():
    runs = heads_of_noise((100, 16, 32), seed=2)
    runs[:, 5] += 1.5 * runs[:, 5].std(-1, keepdim=True)
    p = torch.stack([max_statistic_p(run.view(4, 4, 32), n_flips=299) for run in runs])
    assert p.shape == (100, 4, 4)
    assert float((p[:, 1, 1] <= 0.05).double().mean()) > 0.9
    others = p.flatten(1)[:, [i for i in range(16) if i != 5]]
    assert float((others.amin(1) <= 0.05).double().mean()) <= 0.08


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_p_of_few_examples_is_that_of_all_flips(alternative):
    values = heads_of_noise((3, 5), seed=3) + 0.1
    side = {"two-sided": torch.abs, "greater": lambda t: t, "less": torch.neg}[alternative]

    def statistic(flipped):
        return side(flipped.mean(1) / (flipped.std(1) / 5**0.5))

    largest = torch.stack(
        [statistic(values * torch.tensor(flip)).max() for flip in itertools.product([1.0, -1.0], repeat=5)]
    )
    expected = (largest[None] >= statistic(values)[:, None] - 1e-9).double().mean(1)
    torch.testing.assert_close(max_statistic_p(values, alternative=alternative), expected)
    sampled = max_statistic_p(values.repeat(1, 5), n_flips=50, alternative=alternative)
    assert bool(((sampled * 51 - (sampled * 51).round()).abs() < 1e-9).all())  # (b + 1) / (B + 1)


@pytest.mark.parametrize(
    ("n", "alternative", "least"),
    [
        (1, "two-sided", 1.0),
        (4, "two-sided", 1 / 8),
        (4, "less", 1 / 16),
        (6, "two-sided", 1 / 32),
        (50, "less", 1 / 4096),
    ],
)
def test_the_smallest_p_is_that_of_an_effect_alike_in_all_examples(n, alternative, least):
    values = torch.full((1, n), -2.0) - torch.arange(n) / 100
    assert smallest_p(n, alternative=alternative) == least
    assert float(max_statistic_p(values, alternative=alternative)) == least


def test_a_site_without_any_effect_has_p_1_and_takes_no_power_from_others():
    effect = torch.arange(1.0, 9.0)
    values = torch.stack([torch.zeros(8), effect, torch.full((8,), torch.nan), 1e-9 * effect])
    p = max_statistic_p(values, rounding=1e-6)
    assert p[0] == p[3] == 1.0
    assert p[2].isnan()
    assert p[1] == smallest_p(8)
    assert max_statistic_p(values)[3] == smallest_p(8)  # size alone is no reason
    assert max_statistic_p(values[:1], alternative="greater").tolist() == [1.0]


def test_an_unknown_alternative_is_refused():
    with pytest.raises(AnalysisError, match="alternative is 'both'; expected one of two-sided, greater, less"):
        max_statistic_p(torch.ones(2, 3), alternative="both")
