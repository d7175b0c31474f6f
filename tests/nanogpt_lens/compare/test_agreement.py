"""The rank correlation of effects: its interval covers what it should, its chance is refused as often as said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import binom, spearmanr

from nanogpt_lens.compare.agreement import Correlations
from nanogpt_lens.compare.halves import spearman_brown
from nanogpt_lens.compare.renumbering import Renumbering
from nanogpt_lens.core.intervals import ENDS
from tests.nanogpt_lens.compare.renamed import graph

PLAIN = Renumbering(graph())
N_EDGES = len(graph().edges)


def side(each: Any, *, effects: Any = None, signed: bool = True, prompts: object = None) -> Any:
    """A side with these effects in each example, on prompts of its own where no others are named."""
    made = SimpleNamespace(per_example=each, effects=each.mean(1) if effects is None else effects, signed=signed)
    made.prompts = prompts or made
    made.has_prompts_of = lambda other: other.prompts is made.prompts
    return made


def correlations(*sides: Any, draws: int = 19, seed: int = 0) -> Correlations:
    return Correlations(sides=sides, renumbering=PLAIN, draws=draws, seed=seed)


def of(one: Any, other: Any, generator: Any = None, **options: Any) -> Any:
    some = torch.Generator().manual_seed(0) if generator is None else generator
    return correlations(one, other, **options).of(0, 1, PLAIN.plain, some, chosen=False)


def noisy(truth: Any, noise: float, generator: Any, n: int = 32) -> Any:
    """Effects of `n` prompts that differ in difficulty, and in each edge."""
    difficulty = (0.7 * torch.randn(n, generator=generator, dtype=torch.float64)).exp()
    draws = torch.randn(len(truth), n, generator=generator, dtype=torch.float64)
    return truth[:, None] * difficulty / difficulty.mean() + 0.7 * noise * (0.3 + truth.abs()[:, None]) * draws


def true_effects(rho: float, generator: Any) -> Any:
    """What all edges of two models do, with few large effects; correlated in ranks by about rho."""
    z = torch.randn(2, N_EDGES, generator=generator, dtype=torch.float64)
    z[1] = rho * z[0] + (1 - rho**2) ** 0.5 * z[1]
    return z.sign() * (1.2 * z.abs()).exp() - z.sign()


def test_the_value_is_that_of_spearman():
    generator = torch.Generator().manual_seed(1)
    one, other = (side(torch.randn(N_EDGES, 8, generator=generator, dtype=torch.float64)) for _ in range(2))
    assert of(one, other).value == pytest.approx(spearmanr(one.effects, other.effects).statistic)
    other.signed = False
    assert of(one, other).value == pytest.approx(spearmanr(one.effects.abs(), other.effects.abs()).statistic)


def test_the_same_prompts_are_drawn_together():
    """Two measurements on the same prompts share their noise: of a thing with itself the interval has no width."""
    each = noisy(true_effects(0, torch.Generator().manual_seed(2))[0], 4, torch.Generator().manual_seed(3))
    paired = of(side(each, prompts="some"), side(each, prompts="some"))
    assert (paired.low, paired.value, paired.high) == pytest.approx((1, 1, 1))
    apart = of(side(each), side(each))
    assert apart.high - apart.low > 0 or apart.low == 1


def test_without_examples_there_is_no_interval():
    effects = torch.randn(N_EDGES, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = of(side(None, effects=effects), side(None, effects=effects))
    assert found.value == pytest.approx(1)
    assert found.low != found.low


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "noise"), [(0.0, 4), (0.4, 4), (0.8, 1), (0.8, 4)])
def test_the_interval_covers_the_correlation_of_the_true_effects(rho, noise):
    """In 83 to 100 of 100 cases, where the percentile bootstrap covers it in less than half of the noisy ones."""
    generator, covered, percentile = torch.Generator().manual_seed(5), 0, 0
    for i in range(100):
        truth = true_effects(rho, generator)
        each = [noisy(row, noise, generator) for row in truth]
        expected = float(spearmanr(*truth).statistic)
        some = correlations(side(each[0]), side(each[1]), draws=1, seed=3 * i)
        found = some.of(0, 1, PLAIN.plain, generator, chosen=False)
        assert found.low <= found.value <= found.high
        covered += found.low <= expected <= found.high
        drawn = (some._resampled[0, True] * some._resampled[1, True]).sum(1).quantile(ENDS)
        percentile += float(drawn[0]) <= expected <= float(drawn[1])
    assert covered >= 80
    if rho and noise == 4:
        assert percentile < 50


def test_a_match_that_looked_at_nothing_is_refused_as_often_as_said():
    """Random heads in both models, each with busy and idle ones: p is at most 0.1 in 10 of 100 pairs, or about."""
    generator, small = torch.Generator().manual_seed(6), 0
    for _ in range(150):
        rows = torch.randn(2, N_EDGES, generator=generator, dtype=torch.float64).abs()
        for row in rows:
            size = torch.randn(2, 4, generator=generator, dtype=torch.float64).exp()
            for i, edge in enumerate(graph().edges):
                for node in (edge.sender, edge.receiver):
                    row[i] *= size[node.layer, node.head] if node.kind == "head" else 1
        one, other = (side(None, effects=row) for row in rows)
        small += of(one, other, generator, draws=39).p <= 0.1
    assert binom.ppf(0.0005, 150, 0.1) <= small <= binom.ppf(0.9995, 150, 0.1)


def test_spearman_and_brown():
    """Two halves with noise as large as what they measure correlate by 1/2, and two wholes by 2/3."""
    assert spearman_brown(torch.tensor([0.5, 1.0, -0.2])).tolist() == pytest.approx([2 / 3, 1, 0])
    generator = torch.Generator().manual_seed(7)
    truth = torch.randn(20000, 1, generator=generator, dtype=torch.float64)
    each = truth + 2 * torch.randn(20000, 8, generator=generator, dtype=torch.float64)
    again = truth + 2 * torch.randn(20000, 8, generator=generator, dtype=torch.float64)
    halves = torch.corrcoef(torch.stack([each[:, :4].mean(1), each[:, 4:].mean(1)]))[0, 1]
    wholes = torch.corrcoef(torch.stack([each.mean(1), again.mean(1)]))[0, 1]
    assert float(spearman_brown(halves)) == pytest.approx(float(wholes), abs=0.02)
