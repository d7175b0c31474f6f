"""How often change points are right, against the truth of simulations: intervals, and verdicts among many heads."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from nanogpt_lens.runs.change_points import find_change_point
from nanogpt_lens.runs.crossings import SHARES, crossing, crossing_interval
from nanogpt_lens.runs.drift import drift_p
from tests.nanogpt_lens.runs.test_change_points import curve, noise

pytestmark = pytest.mark.slow  # hundreds of simulated curves

N, STAGES, SEQUENCES, HEADS = 400, 16, 64, 16
LEAST_COVERAGE, MOST_ALARMS = 0.93, 0.08
STAGE = torch.arange(STAGES, dtype=torch.float64)


def step(place):
    return (place < STAGE).double(), (place, place)


def sigmoid(place, width=1.0):
    """The curve, and where it has a tenth and half of its own change, by the inverse of the logistic function."""
    values = torch.sigmoid((STAGE - place) / width)
    base, final = values[:2].mean().item(), values[-2:].mean().item()
    levels = [base + share * (final - base) for share in SHARES]
    return values, tuple(place + width * math.log(level / (1 - level)) for level in levels)


CURVES = {"step": step, "sigmoid": sigmoid, "slow sigmoid": partial(sigmoid, width=2.0)}


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize(
    ("of_sequences", "of_all", "n_sequences"),
    [(0.1, 0.0, SEQUENCES), (0.02, 0.0, SEQUENCES), (0.02, 0.05, SEQUENCES), (0.1, 0.1, SEQUENCES), (0.05, 0.0, 4)],
)
def test_intervals_hold_the_true_onset_and_half_way_point(kind, of_sequences, of_all, n_sequences):
    """Noise of a share of the height: of the mean over the sequences, and of all sequences alike at a stage."""
    held, places = torch.zeros(2), np.random.default_rng(1).uniform(3, STAGES - 4, N)
    each = of_sequences * math.sqrt(n_sequences) * noise(N, STAGES, n_sequences, seed=1)
    shared = of_all * noise(N, STAGES, 1, seed=2)
    for i, place in enumerate(places):
        values, truth = CURVES[kind](place)
        low, high = crossing_interval(STAGE, values[:, None] + shared[i] + each[i])
        held += (low <= torch.tensor(truth)) & (torch.tensor(truth) <= high)
    assert (held / N >= LEAST_COVERAGE).all(), held / N


def test_two_stages_around_a_crossing_hold_the_true_onset_too_rarely_for_an_interval():
    """What the module says of them, and why they are no `low` and `high`."""
    shares = {}
    for kind in ("step", "sigmoid"):
        places, held = np.random.default_rng(2).uniform(3, STAGES - 4, N), 0
        for i, place in enumerate(places):
            values, truth = CURVES[kind](place)
            _, before, after = crossing(STAGE, values + 0.1 * noise(STAGES, seed=i))
            held += bool(before[0] <= truth[0] <= after[0])
        shares[kind] = held / N
    assert 0.6 < shares["step"] < 0.9
    assert 0.3 < shares["sigmoid"] < 0.6


def heads(curves):
    """A result [step, layer, head] of 4 by 4 heads, from curves [head, step]."""
    labels = {"step": tuple(str(100 * i) for i in range(STAGES))}
    return curve(curves.T.reshape(STAGES, 4, 4), axes=("step", "layer", "head"), labels=labels)


def best(curves, **options):
    """The change point of the head that rises most, which is what a user looks at."""
    layer, head = divmod(int((curves[:, -2:].mean(1) - curves[:, :2].mean(1)).argmax()), 4)
    return find_change_point(heads(curves), layer=layer, head=head, permutations=200, least=0, **options)


@pytest.mark.parametrize("kind", ["white noise", "random walks", "walks with noise"])
def test_the_best_of_sixteen_heads_that_do_not_change_is_rarely_called_formed(kind):
    made = noise(200, HEADS, STAGES, seed=3)
    if kind != "white noise":
        made = made.cumsum(-1) + (noise(200, HEADS, STAGES, seed=4) if kind == "walks with noise" else 0)
    corrected = [best(curves) for curves in made]
    assert np.mean([found.formed for found in corrected]) <= MOST_ALARMS
    assert {found.n_curves for found in corrected} == {HEADS}
    if kind == "white noise":  # and the test is not idle
        assert np.mean([found.p_noise <= 0.05 for found in corrected]) >= 0.01
        assert np.mean([best(curves, looked_at=()).p_noise <= 0.05 for curves in made[:50]]) > 0.2
    if kind == "random walks":  # the same for any head, not only the highest
        assert (drift_p(made.flatten(0, 1), looked_at=HEADS).view(200, HEADS) <= 0.05).any(1).double().mean() <= 0.08
        assert (drift_p(made.flatten(0, 1)) <= 0.05).double().mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("others", ["white noise", "random walks"])
def test_a_head_that_forms_is_found_among_sixteen(others):
    right = []
    for seed in range(50):
        values, _ = sigmoid(3 + seed % 8)
        curves = 0.05 * noise(HEADS, STAGES, seed=seed)
        curves = curves.cumsum(1) if others == "random walks" else curves
        curves[5] = 0.6 * values + 0.015 * noise(STAGES, seed=1000 + seed)
        found = find_change_point(heads(curves), layer=1, head=1, permutations=400)
        right.append(found.formed and found.n_curves == HEADS and "among 16 curves" in found.reason)
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("n", [8, 31])
def test_the_test_against_drift_has_its_level_at_other_numbers_of_stages(n):
    walks = noise(2000, n, seed=n).cumsum(1)
    assert (drift_p(walks) <= 0.05).double().mean() == pytest.approx(0.05, abs=0.015)
    assert (drift_p(3 - 7 * walks) <= 0.05).double().mean() == pytest.approx(0.05, abs=0.015)
    assert (drift_p(walks, looked_at=100) <= 0.05).double().mean() <= 0.002  # in the tail, beyond 1 of 2,000
    assert drift_p(torch.ones(1, n, dtype=torch.float64)).item() == pytest.approx(1)
