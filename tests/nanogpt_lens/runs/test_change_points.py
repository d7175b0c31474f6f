"""Change points: known places on synthetic curves; and each number by a second method.

How often intervals hold the truth, and how often noise and walks are called a change, is in `test_coverage`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.stats
import torch

import nanogpt_lens as ngl
from nanogpt_lens.results import Result, Scores
from nanogpt_lens.runs.change_points import ChangePoint, find_change_point

LOG = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 3000, 5000, 7000, 10000)
LINEAR = tuple(range(0, 1600, 100))
SPACINGS = pytest.mark.parametrize("steps", [LOG, LINEAR], ids=["log", "linear"])
N, SEQUENCES = 100, 64
ALLOWED = 0.05 + 2 * math.sqrt(0.05 * 0.95 / N)


def curve(values, steps=None, examples=None, **changes):
    """One curve; of `examples` [step, example] their means."""
    values = torch.as_tensor(values) if examples is None else examples.mean(-1)
    steps = range(0, 100 * len(values), 100) if steps is None else steps
    given = {
        "values": values,
        "axes": ("step",),
        "labels": {"step": tuple(str(step) for step in steps)},
        "quantity": "induction score",
        "definition": "made",
        "per_example": examples,
        "provenance": {"seed": 5},
    }
    return Scores(**(given | changes))


def noise(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread(means, sd, seed):
    """Sequences around given means [step], independent, so that their mean has the standard deviation `sd`."""
    return means[:, None] + sd * math.sqrt(SEQUENCES) * noise(len(means), SEQUENCES, seed=seed)


def random_steps(steps, kind):
    """Step curves of random height and place, from the third stage to the third from the end; and the true gap."""
    chosen = np.random.default_rng(steps[-1])
    n, at = len(steps), torch.tensor(steps, dtype=torch.float64)
    for seed in range(N):
        gap = int(chosen.integers(2, n - 3))  # the step lies between this stage and the next
        place, height = chosen.uniform(steps[gap], steps[gap + 1]), chosen.uniform(0.3, 1.0)
        means = height * (at > place).double() + chosen.uniform(-0.2, 0.2)
        if kind == "of all":  # noise that all sequences share, and their own
            means = means + 0.1 * height * noise(n, seed=steps[-1] + 10_000 + seed)
        yield gap, place, curve(None, steps, spread(means, 0.1 * height, steps[-1] + seed))


# Verdicts


@pytest.mark.parametrize("sd", [0.02, 0.3], ids=["below least", "above least"])
def test_noise_is_rarely_called_a_change(sd):
    made = [curve(0.2 + sd * noise(16, seed=int(1e4 * sd) + seed), LOG) for seed in range(N)]
    small = [find_change_point(one, least=0, seed=i) for i, one in enumerate(made)]
    assert 0.01 <= np.mean([one.p_noise <= 0.05 for one in small]) <= ALLOWED  # the test is neither lax nor idle
    assert np.mean([one.formed for one in small]) <= ALLOWED
    for options in ({}, {"direction": "fall"}):
        alarms = [find_change_point(one, **options).formed for one in made[:50]]
        assert np.mean(alarms) <= ALLOWED
        assert sd > 0.1 or not any(alarms)


def test_noise_of_sequences_is_rarely_called_a_change():
    made = [curve(None, LOG, spread(torch.full((16,), 0.2), 0.3, seed)) for seed in range(N)]
    assert np.mean([find_change_point(one, least=0).formed for one in made]) <= ALLOWED


def test_a_constant_curve_has_no_change():
    for value in (0.0, 0.1, -3.7):
        found = find_change_point(curve([value] * 12), least=0)
        assert (found.formed, found.p_value, found.verdict, found.mark) == (False, 1.0, "not reached", None)
        assert found.values.isnan().all()
        assert found.stage_before.isnan().all()
        assert found.low is found.high is None
        assert found.reason == "no rise that differs from noise, p = 1"


def test_the_test_against_noise_alone_takes_walks_for_changes():
    """Steps of a walk are not exchangeable, whether all sequences share it or each has its own."""
    walks = [noise(16, SEQUENCES, seed=seed).cumsum(0) for seed in range(N)]
    found = [find_change_point(curve(walk.mean(-1)), least=0, permutations=200) for walk in walks]
    assert np.mean([one.p_noise <= 0.05 for one in found]) > 0.3
    assert np.mean([one.formed for one in found]) <= ALLOWED
    assert any(one.reason.startswith("no rise that differs from the drift of a random walk, p = ") for one in found)
    of_each = [find_change_point(curve(None, LINEAR, walk), least=0, permutations=200).formed for walk in walks]
    assert np.mean(of_each) <= ALLOWED


# Places


@pytest.mark.parametrize("kind", ["of sequences", "of all"])
@SPACINGS
def test_steps_are_located_and_their_intervals_hold_them(steps, kind):
    gaps, in_gap, near, held = [], [], [], []
    for gap, place, one in random_steps(steps, kind):
        found = find_change_point(one)
        gaps.append(found.formed)
        if not found.formed:
            continue
        onset, half = found.values.tolist()
        in_gap.append(steps[gap] <= half <= steps[gap + 1])
        near.append(steps[gap - 1] <= onset <= half <= steps[gap + 2])
        held.append(bool(((found.low <= place) & (place <= found.high)).all()))
        assert found.low[0] <= onset <= found.high[0]
        assert found.low[1] <= half <= found.high[1]
    assert np.mean(gaps) >= (0.99 if kind == "of sequences" else 0.85)
    for rate, least in ((in_gap, 0.95), (near, 0.85), (held, 0.95)):  # an onset is at the noise's own height here
        assert np.mean(rate) >= least


def test_the_interval_is_wide_where_sequences_disagree():
    """Half of the sequences change late: the mean may cross where the first or where the second half does."""
    at = torch.arange(16.0)[:, None]
    place = torch.where(torch.arange(SEQUENCES) < SEQUENCES // 2, 4.5, 10.5)
    examples = (at > place).double() + 0.01 * noise(16, SEQUENCES, seed=1)
    assert find_change_point(curve(None, LINEAR, examples)).p_drift > 0.05  # two steps are like two of a walk
    found = find_change_point(curve(None, LINEAR, examples), level=0.5)
    assert found.mark is not None
    assert found.mark[1:] == (400.0, 1100.0)


@SPACINGS
def test_the_middle_of_a_ramp(steps):
    chosen, n = np.random.default_rng(3), len(steps)
    for seed in range(N):
        first, last = sorted(chosen.choice(np.arange(2, n - 2), 2, replace=False))
        means = ((torch.arange(n).double() - first) / (last - first)).clamp(0, 1)
        found = find_change_point(curve(None, steps, spread(means, 0.02, seed)))
        middle = (first + last) / 2
        onset, half = found.values.tolist()
        assert found.formed
        assert onset < half
        assert steps[max(0, math.floor(middle) - 1)] <= half <= steps[math.ceil(middle) + 1]


def test_a_ramp_over_the_whole_run():
    """Ends are means of two of 16 values: 0.5 / 15 and 14.5 / 15 of the height, half is in the middle."""
    found = find_change_point(curve(torch.arange(16) / 15, LINEAR))
    assert found.formed
    assert found.values.tolist() == pytest.approx([50 + 0.1 * 1400, 750])


def test_what_rises_and_falls_again_has_not_formed():
    rates = []
    for seed in range(N):
        means = 0.1 + 0.6 * torch.exp(-((torch.arange(16.0) - 4 - seed % 8) ** 2) / 4).double()
        means[[0, 1, 14, 15]] = 0.1
        found = find_change_point(curve(None, LOG, spread(means, 0.02, seed)), permutations=200)
        rates.append(found.formed)
    assert np.mean(rates) == 0
    late = find_change_point(curve([0.0] * 8 + [1.0] * 6 + [1.6, 0.3]))
    assert not late.formed
    assert late.reason == "the rise of 0.95 has more than half gone again at the last step"
    below = find_change_point(curve([0.5] * 2 + [0.0] * 6 + [1.0] * 6 + [0.4] * 2), least=0)
    assert below.p_noise <= 0.05
    assert below.reason == "no rise: the last stages are not above the first"


def test_a_change_at_the_last_stage_alone_is_not_told_from_noise():
    """The module says so: p is about 1 / n."""
    last = find_change_point(curve([0.0] * 15 + [1.0]), permutations=20_000)
    assert last.p_noise == pytest.approx(1 / 16, abs=0.006)
    assert not last.formed
    assert find_change_point(curve([0.0] * 14 + [1.0, 1.0])).formed
    assert find_change_point(curve([0.0] * 6 + [1.0, 1.0])).formed  # p is 1 / 28
    assert find_change_point(curve([0.0, 0, 1, 1]), permutations=20_000).p_noise == pytest.approx(1 / 6, abs=0.011)
    assert find_change_point(curve([0.0] * 29 + [1.0])).formed


def test_a_fall_is_a_rise_of_the_negative():
    examples = spread(torch.tensor([0.0] * 7 + [0.4] + [1.0] * 8), 0.1, 3)
    rise, fall = (
        find_change_point(curve(None, LOG, sign * examples), direction=direction)
        for sign, direction in ((1, "rise"), (-1, "fall"))
    )
    assert fall.formed
    assert find_change_point(curve(None, LOG, -examples)).formed is False
    for name in ("values", "low", "high"):
        assert torch.equal(getattr(rise, name), getattr(fall, name))
    assert (fall.baseline, fall.final) == (-rise.baseline, -rise.final)
    assert fall.p_value == rise.p_value
    assert fall.reason.startswith(f"falls from {fall.baseline:.3g} to {fall.final:.3g}, p = ")


# Numbers by a second method


def test_interpolation_by_hand():
    """Half, 0.5 of 0.2 to 1 between 200 and 400; onset, 0.1 of 0 to 0.2 between 100 and 200."""
    steps = (0, 50, 100, 200, 400, 800, 1600, 3200, 6400)
    found = find_change_point(curve([0, 0, 0, 0.2, 1, 1, 1, 1, 1], steps))
    assert found.values.tolist() == pytest.approx([150, 275])
    assert found.stage_before.tolist() == [100, 200]
    assert found.stage_after.tolist() == [200, 400]
    assert found.low is found.high is None  # two stages around a crossing are no interval
    assert (found.baseline, found.final, found.formed) == (0, 1, True)
    assert found.verdict == "formed at 275, between stages 200 and 400"
    assert found.mark == pytest.approx(275)
    assert "formed at 275, between stages 200 and 400: rises from 0 to 1, p = 0.0" in repr(found)
    dip = find_change_point(curve([0, 0, 0, 0.8, 0.3, 1, 1, 1, 1], steps), level=0.5)  # below half once more, at 400
    assert dip.values.tolist() == pytest.approx([100 + 100 * 0.1 / 0.8, 400 + 400 * 0.2 / 0.7])


def test_both_ends_are_means_of_an_eighth():
    values = [1, 3] + [2] * 6 + [10] * 6 + [9, 11]
    found = find_change_point(curve([float(value) for value in values], LINEAR))
    assert (found.baseline, found.final) == (2, 10)
    assert found.values[1].item() == pytest.approx(750)
    for n, width in ((4, 1), (15, 1), (23, 2), (24, 3)):
        found = find_change_point(curve(torch.arange(float(n))))
        assert (found.baseline, found.final) == ((width - 1) / 2, n - 1 - (width - 1) / 2)


def test_the_p_value_is_that_of_all_orders():
    chosen = np.random.default_rng(0)
    for _ in range(5):
        values = chosen.normal(size=6) + np.repeat([0, 1], 3)

        def statistic(y):
            splits = [math.sqrt(k * (6 - k) / 6) * (np.mean(y[k:]) - np.mean(y[:k])) for k in range(1, 6)]
            return max(splits) / np.std(y, ddof=1)

        every = [statistic(np.array(order)) for order in itertools.permutations(values)]
        exact = np.mean(np.array(every) >= statistic(values) - 1e-9)
        found = find_change_point(curve(values), permutations=20_000)
        assert found.p_noise == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000) + 1e-4)


def test_the_interval_by_a_loop_over_stages():
    """The same by numpy and scipy, one stage at a time, with noise that all sequences share."""
    steps = np.array(LOG, dtype=float)
    means = torch.tensor([0.0] * 6 + [0.1, 0.3, 0.6, 0.9] + [1.0] * 6) + 0.02 * noise(16, seed=1)
    examples = spread(means, 0.01, 4)
    found = find_change_point(curve(None, LOG, examples))
    each = examples.numpy()
    rough = [(each[k - 1] - 2 * each[k] + each[k + 1]) / math.sqrt(6) for k in range(1, 15)]
    shared = (np.median(np.abs([r.mean() for r in rough])) / 0.6745) ** 2
    shared -= np.median([r.var(ddof=1) / SEQUENCES for r in rough])
    assert shared > 1e-4
    for point, share in enumerate((0.1, 0.5)):
        base, final = each[:2].mean(0), each[-2:].mean(0)
        above = each - (base + share * (final - base))
        mean = above.mean(1)
        i = max(i for i in range(16) if mean[i] < 0)
        exact = steps[i] + mean[i] / (mean[i] - mean[i + 1]) * (steps[i + 1] - steps[i])
        assert found.values[point].item() == pytest.approx(exact)
        assert (found.stage_before[point], found.stage_after[point]) == (steps[i], steps[i + 1])
        error = scipy.stats.sem(above, axis=1) * scipy.stats.t.ppf(0.975, SEQUENCES - 1)
        all_share = scipy.stats.t.ppf(0.975, 14 / 3) ** 2 * shared * (1 + (1 - share) ** 2 / 2 + share**2 / 2)
        half = np.sqrt(error**2 + all_share)
        first_doubt = next(i for i in range(16) if mean[i] + half[i] >= 0)
        last_doubt = max(i for i in range(16) if mean[i] - half[i] <= 0)
        assert found.low[point] == steps[max(0, first_doubt - 1)]
        assert found.high[point] == steps[last_doubt + 1]
    assert (found.low < found.stage_before).any()


def test_onset_is_never_after_half():
    """Errors of the baseline that are wider than half of the change."""
    examples = spread(torch.tensor([0.0] * 8 + [0.2] * 8), 0.05, 2)
    for seed in range(20):
        examples = spread(torch.tensor([0.0] * 8 + [0.2] * 8), 0.05, seed)
        found = find_change_point(curve(None, LINEAR, examples), least=0)
        assert not found.formed or found.values[0] <= found.values[1]
        assert not found.formed or found.low[0] <= found.low[1]


def test_a_change_that_sequences_do_not_agree_on_has_not_formed():
    """One sequence in 64 makes all of the change: the resamples without it have none."""
    examples = torch.zeros(16, SEQUENCES, dtype=torch.float64)
    examples[8:, 5] = 64
    found = find_change_point(curve(None, LINEAR, examples))
    assert found.p_value < 0.01
    assert not found.formed
    assert found.reason == "the rise of 1 may be none, its interval is -1 to 3"  # Student's: 1 +- 2 standard errors
    assert find_change_point(curve(examples.mean(-1), LINEAR)).formed


# Places on other axes, saving, bad input


def every_head():
    """[score, step, layer, head]; head 1.2 alone changes, in the second score."""
    examples = 0.01 * noise(2, 16, 2, 3, 8, seed=0)
    examples[1, 9:, 1, 2] += 0.5
    labels = {"score": ("previous_token", "induction"), "step": tuple(map(str, LOG))}
    return curve(None, None, examples, axes=("score", "step", "layer", "head"), labels=labels)


def test_a_place_on_every_other_axis():
    found = find_change_point(every_head(), score="induction", layer=1, head=2)
    assert found.mark is not None
    assert 200 < found.mark[0] < 500
    assert found.mark[1:] == (200, 500)
    assert "induction score (score induction, layer 1, head 2)" in found.definition
    for head in range(2):
        assert not find_change_point(every_head(), score="induction", layer=1, head=head).formed
    assert not find_change_point(every_head(), score=0, layer=1, head=2).formed
    unknown = every_head().per_example.clone()
    unknown[1] = math.nan  # of this score nothing is known but the mean
    unknown = find_change_point(replace(every_head(), per_example=unknown), score="induction", layer=1, head=2)
    assert torch.equal(unknown.values, found.values)
    assert unknown.stage_after.tolist() == [500, 500]
    assert unknown.low is None
    with pytest.raises(ngl.AnalysisError, match="several values per step, on layer, head; expected one"):
        find_change_point(every_head(), score="induction")
    for where in ({"score": "copying", "layer": 1, "head": 2}, {"score": 0, "layer": 2, "head": 2}, {"pos": 1}):
        with pytest.raises(ngl.errors.ResultError):
            find_change_point(every_head(), **where)
    with pytest.raises(ngl.AnalysisError, match="the steps are what is searched"):
        find_change_point(every_head(), score=0, layer=1, head=2, step=3)


@pytest.mark.parametrize("formed", [True, False])
def test_it_is_the_same_again_and_after_saving(tmp_path, formed):
    examples = spread(torch.tensor([0.0] * 8 + [0.5 * formed] * 8), 0.03, 1)
    one, two = (find_change_point(curve(None, LOG, examples), seed=4) for _ in range(2))
    one.save(tmp_path / "c")
    loaded = Result.load(tmp_path / "c")
    assert isinstance(loaded, ChangePoint)
    for other in (two, loaded):
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor.nan_to_num(-1), other.tensors()[name].nan_to_num(-1)), name
        for field in fields(one):
            if field.name not in one.tensors():
                assert getattr(other, field.name) == getattr(one, field.name), field.name
        assert (other.verdict, other.mark) == (one.verdict, one.mark)
    assert one.formed is formed
    assert one.shape == {"point": 2}
    assert one.provenance["seed"] == 5
    assert one.provenance["change_point"]["seed"] == 4
    other_seed = find_change_point(curve(None, LOG, examples), seed=5)
    assert other_seed.p_noise != one.p_noise or formed
    assert one.plot() is not None
    drawn = curve(None, LOG, examples).plot(mark=one.mark)
    assert any(shape.type == "line" for shape in drawn.layout.shapes) is formed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: curve([0, 0, 1]), "has 3 steps; expected at least 4"),
        (lambda: curve([0, 0, 1, 1], (0, 5, 5, 9)), "step 5 comes after step 5"),
        (lambda: curve([0, 0, 1, 1], (0, 500, 50, 900)), "step 50 comes after step 500"),
        (lambda: curve([0, 0, 1, 1], ("0", "1k", "2k", "3k")), "expected iterations, such as '500'"),
        (lambda: curve([0, 0, 1, 1], labels={}), "labels of the axis 'step' are None"),
        (lambda: curve([0, math.nan, 1, 1]), "no finite value at step 100"),
        (lambda: curve([0, 0, 1000, math.inf]), "no finite value at step 300"),
        (lambda: curve(None, examples=torch.tensor([[0.0, 1], [0, 1], [1, math.nan], [0, 1]])), "no finite value at"),
        (
            lambda: curve([0, 0, 1, 1], per_example=torch.zeros(4)),
            r"per_example has the shape \[4\]; expected \[4, 'ex",
        ),
        (lambda: curve([0, 0, 1, 1], axes=("layer",), labels={}), "has the axes layer; expected Scores with an axis"),
        (lambda: torch.zeros(8), "the curve has Tensor; expected Scores"),
    ],
)
def test_curves_that_cannot_be_read(make, words):
    with pytest.raises(ngl.AnalysisError, match=words):
        find_change_point(make())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"direction": "up"}, "direction is 'up'; expected rise or fall"),
        ({"least": -0.1}, "least is -0.1"),
        ({"least": math.nan}, "least is nan"),
        ({"least": "much"}, "least is 'much'"),
        ({"level": 0}, "level is 0"),
        ({"level": 1.0}, "level is 1.0"),
        ({"permutations": 0}, "permutations is 0"),
        ({"permutations": 10}, "with which p is 0.091 at least; expected 19 or more for the level of 0.05"),
        ({"looked_at": ["head"]}, "looked_at is 'head'; expected a list of axes of the curve that have a place"),
        ({"looked_at": "step"}, "looked_at is 'step'; expected a list"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(ngl.AnalysisError, match=words):
        find_change_point(curve([0.0] * 8 + [1.0] * 8), **options)


def test_least_and_the_number_of_permutations_that_just_do():
    values = torch.tensor([0.6] * 8 + [0.7] * 8, dtype=torch.float32)
    assert values[-1].double() - values[0].double() < 0.1  # by rounding alone
    found = find_change_point(curve(values), permutations=19)
    assert (found.formed, found.p_value) == (True, 0.05)
    found = find_change_point(curve(values), least=0.11)
    assert found.reason == "the rise of 0.1 is below the least of 0.11"
