"""The change point of a score in training: its onset, its half-way point, and whether it changes at all.

A curve has one value y for each of n >= 4 steps; a step is a stage of training whose checkpoint was
measured. For `direction="fall"`, y stands for the negated curve in all that follows.

Ends. w = max(1, n // 8) steps at each end. The baseline is the mean of the first w values, the final
value that of the last w, the change is final - baseline. A curve that still rises when the run ends has no
plateau: its final value is where it is then, and its half-way point is half of that.

Existence of a change. The statistic is the maximum over splits k = 1 ... n - 1 of

    sqrt(k (n - k) / n) * (mean of the last n - k values - mean of the first k values)

divided by the standard deviation of y (Page 1955, cumulative sums). It is compared with the same for
`permutations` random orders of the steps: p = (1 + number that are at least as large) / (1 + permutations);
1 for a constant curve. The curve has formed if

    p <= level, and change >= least, and the lower end of the change's 95% interval over sequences is above 0,
    and the last value is above the half-way point;

the third only where the value of each sequence is known.

Half. The half-way point is baseline + change / 2. Its crossing is where y stays above it for good: on the
line, in iterations, between the last step below and the next one. Onset: the same for baseline +
change / 10, or 3 standard errors (of the baseline over sequences) above the baseline if that is more, but
never above the half-way point, so that onset <= half.

Interval. Sequences are drawn with replacement, the same for all steps, and ends and crossings are computed
anew; only the standard error of the onset stays. `low` is the 2.5% quantile of the last step below the crossing,
`high` the 97.5% quantile of the step after it. A resample that does not cross counts as the end of the run.
The interval is thus never narrower than the two stages between which the crossing lies, and is just these
where the value of each sequence is not known: nothing was measured between them.

What this method cannot do:

- Exchangeable steps are the null hypothesis: noise that is independent from stage to stage. A curve that
  drifts (a random walk) has a small p more often than `level` says. `least` protects against that. The
  sequences protect as far as they drift apart; a drift that they share is a change of the model, and
  whether it matters is what `least` says. With `least=0` on a drifting curve the verdict means little.
- With fewer than 7 stages p cannot be below 0.05: a clean step in the middle of n = 4, 6, 8 stages has the p
  of its one order among all, 1/6, 1/20, 1/70.
- A rise in the last of n stages alone has a p of about 1 / n, whatever its size, and so has a rise after the
  first stage alone: at the level of 0.05 it takes more than 20 stages, or 8 and one more after the rise.
- A curve that rises and falls again has no change between its ends, and has not formed.
- Noise from stage to stage that all sequences share (of the optimiser, not of the measurement) is not in the
  interval. The onset is most open to it: at a tenth of the change, noise of that size moves it by a stage or two.
- A curve that is chosen as the largest of many (one head of all) has too small a p: lower `level`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import ENDS, times_drawn
from nanogpt_lens.results import ChangePoint, Scores

Direction: TypeAlias = Literal["rise", "fall"]
"""Whether a curve is to rise or to fall."""

POINTS = ("onset", "half")
SHARES = (0.1, 0.5)
"""The share of the change that the curve has made at each of the points."""

LEAST_STEPS = 4
TELLING_STEPS = 7
"""The smallest number of stages with which p can be below 0.05, so that there can be a verdict."""

_ERRORS = 3
"""How many standard errors the onset is above the baseline, at least."""


def find_change_point(
    curve: Scores,
    *,
    least: float = 0.1,
    direction: Direction = "rise",
    level: float = 0.05,
    permutations: int = 1000,
    seed: int = 0,
    **places: int | str,
) -> ChangePoint:
    """The steps at which a score leaves its baseline for good and is half-way to its final value, and whether it does.

    The module's docstring has the definitions, and what they cannot do.

    Args:
        curve: scores with an axis `step`, whose labels are iterations; if it has `per_example`, of two
            sequences or more, the same at every step, the interval is over the sequences too.
        least: the smallest change that counts, in the unit of the curve.
        direction: "rise" or "fall".
        level: the level of the permutation test.
        permutations: the number of random orders of the steps.
        seed: the seed of permutations and resamples.
        places: an index or a label on every other axis, such as score="induction", layer=1, head=2.

    Returns:
        "onset" and "half" on the axis `point`, in iterations, with intervals; verdict and reason.

    Raises:
        AnalysisError: the curve has no axis `step`, fewer than 4 steps, steps that are no numbers or not in order,
            another axis without a place, a value that is not finite, or `per_example` of another shape; the
            direction is unknown; or a number is out of its range.
        ResultError: an axis has no such place.
    """
    _check_options(least, direction, level, permutations, seed)
    steps, curve_values, examples = _one_curve(curve, places)
    sign = 1.0 if direction == "rise" else -1.0
    values, error, resampled = sign * curve_values, 0.0, None
    if examples is not None and (n := examples.shape[1]) > 1:
        first = examples[: _width(len(steps))].mean(0)
        error = float(first.std()) / math.sqrt(n)
        resampled = sign * (times_drawn(n, seed=seed) / n) @ examples.T  # [resample, step]
    p = _p_value(values, permutations, seed)
    baseline, final = (float(end) for end in _ends(curve_values))
    refusal = _refusal(values, resampled, p=p, least=least, level=level, direction=direction)
    no_points = torch.full((3, len(POINTS)), math.nan, dtype=torch.float64)
    step, low, high = no_points if refusal else _crossings(steps, values, resampled, error)
    place = ", ".join(f"{axis} {index}" for axis, index in places.items())
    return ChangePoint(
        values=step,
        low=low,
        high=high,
        axes=("point",),
        labels={"point": POINTS},
        quantity="step, iterations",
        definition=f"where the {direction} of {curve.quantity}{f' ({place})' if place else ''} is past a tenth (onset) "
        "and half of the way for good, from the mean of the first eighth of the stages to that of the last",
        title="step",
        unit="iterations",
        sample=curve.sample,
        provenance={
            **curve.provenance,
            "change_point": {
                "where": dict(places),
                "least": least,
                "direction": direction,
                "level": level,
                "permutations": permutations,
                "seed": seed,
            },
        },
        formed=refusal is None,
        p_value=p,
        baseline=baseline,
        final=final,
        reason=refusal or f"{direction}s from {baseline:.3g} to {final:.3g}, p = {p:.2g}",
    )


def _check_options(least: float, direction: str, level: float, permutations: int, seed: int) -> None:
    """Raise AnalysisError unless the options of `find_change_point` are in their ranges."""
    if direction not in get_args(Direction):
        raise AnalysisError(f"direction is {direction!r}; expected {' or '.join(get_args(Direction))}")
    check_whole(1, permutations=permutations)
    check_whole(seed=seed)
    if not _is_number(least) or least < 0:
        raise AnalysisError(f"least is {least!r}; expected a number, 0 or more, in the unit of the curve")
    if not _is_number(level) or not 0 < level < 1:
        raise AnalysisError(f"level is {level!r}; expected a probability between 0 and 1, such as 0.05")
    if level * (1 + permutations) < 1:
        raise AnalysisError(
            f"permutations is {permutations}, with which p is {1 / (1 + permutations):.2g} at least; expected "
            f"{math.ceil(1 / level) - 1} or more for the level of {level:g}"
        )


def _is_number(value: object) -> bool:
    """Whether `value` is a finite real number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _one_curve(
    curve: Scores, places: dict[str, int | str]
) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"], Float[Tensor, "step example"] | None]:
    """The steps, the value at each step and, if they are known, the examples' values, at these places; float64."""
    if not isinstance(curve, Scores) or "step" not in curve.axes:
        axes = f"the axes {', '.join(curve.axes) or 'none'}" if isinstance(curve, Scores) else type(curve).__name__
        raise AnalysisError(f"the curve has {axes}; expected Scores with an axis 'step', such as a trajectory")
    if "step" in places:
        raise AnalysisError("step= was given, but the steps are what is searched; expected places on other axes")
    index: list[Any] = [slice(None)] * len(curve.axes)
    for axis, place in places.items():
        dim = curve._axis(axis)
        index[dim] = curve._index(axis, place)
    if left := [axis for axis in curve.axes if axis != "step" and axis not in places]:
        raise AnalysisError(
            f"the curve has several values per step, on {', '.join(left)}; expected one: give a place on each, "
            f"such as {left[0]}=0"
        )
    steps = _steps(curve.labels.get("step"))
    values, examples = curve.values[tuple(index)].double(), curve.per_example
    if examples is not None:
        if examples.shape[:-1] != curve.values.shape:
            raise AnalysisError(
                f"per_example has the shape {list(examples.shape)}; expected {[*curve.values.shape, 'example']}"
            )
        examples = examples[tuple(index)].double()
        examples = None if examples.isnan().all() else examples  # another score of the same result has them
    for name, tensor in (("value", values), ("example", examples)):
        if tensor is not None and not (good := tensor.reshape(len(steps), -1).isfinite().all(1)).all():
            bad = int(steps[~good][0])
            raise AnalysisError(f"the curve has no finite {name} at step {bad:,}; expected one for every step")
    return steps, values, examples


def _steps(labels: tuple[str, ...] | None) -> Float[Tensor, " step"]:
    """The iterations of the axis `step`, in float64; AnalysisError unless there are enough, in order."""
    if labels is None or not all(label.isdecimal() for label in labels):
        raise AnalysisError(f"the labels of the axis 'step' are {labels}; expected iterations, such as '500'")
    if len(labels) < LEAST_STEPS:
        raise AnalysisError(f"the curve has {len(labels)} steps; expected at least {LEAST_STEPS}: measure more stages")
    numbers = [int(label) for label in labels]
    for before, after in pairwise(numbers):
        if before >= after:
            raise AnalysisError(f"step {after} comes after step {before}; expected every step once, in order")
    return torch.tensor(numbers, dtype=torch.float64)


def _width(n_steps: int) -> int:
    """The number of steps at each end that a mean is taken over."""
    return max(1, n_steps // 8)


def _ends(curves: Float[Tensor, "*axes step"]) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """The baseline and the final value of each curve."""
    width = _width(curves.shape[-1])
    return curves[..., :width].mean(-1), curves[..., -width:].mean(-1)


def _p_value(values: Float[Tensor, " step"], permutations: int, seed: int) -> float:
    """The p-value of a rise, among random orders of the steps."""
    if values.max() == values.min():
        return 1.0
    n = len(values)
    scaled = (values - values.mean()) / values.std()
    keys = torch.rand(permutations, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    before = torch.arange(1, n, dtype=torch.float64)
    weight = (n / (before * (n - before))).sqrt()

    def statistic(orders: Float[Tensor, "*orders step"]) -> Float[Tensor, "*orders"]:
        """The statistic of centred curves; their sum is 0, so that the part before a split suffices."""
        return (-orders.cumsum(-1)[..., :-1] * weight).amax(-1)

    observed = statistic(scaled)
    as_large = statistic(scaled[keys.argsort(1)]) >= observed - 1e-9  # equal ones differ by rounding
    return (1 + int(as_large.sum())) / (1 + permutations)


def _refusal(
    values: Float[Tensor, " step"],
    resampled: Float[Tensor, "resample step"] | None,
    *,
    p: float,
    least: float,
    level: float,
    direction: Direction,
) -> str | None:
    """Why the curve has not formed; None if it has. A fall comes negated, as a rise."""
    baseline, final = _ends(values)
    change = float(final - baseline)
    if p > level:
        return f"no {direction} that differs from noise, p = {p:.2g}"
    if change <= 0:
        return f"no {direction}: the last stages are not {'above' if direction == 'rise' else 'below'} the first"
    if change < least * (1 - 1e-6):  # 0.1 in float32 is 0.1
        return f"the {direction} of {change:.4g} is below the least of {least:.4g}"
    if resampled is not None:
        first, last = _ends(resampled)
        low, high = torch.quantile(last - first, ENDS).tolist()
        if low <= 0:
            return f"the {direction} of {change:.3g} may be none, its interval is {low:.2g} to {high:.2g}"
    if values[-1] < baseline + SHARES[1] * change:
        return f"the {direction} of {change:.3g} has more than half gone again at the last step"
    return None


def _last_below(
    curves: Float[Tensor, "*axes step"], error: float
) -> tuple[Float[Tensor, "*axes point"], Int[Tensor, "*axes point"]]:
    """The levels of the curves at the points, and the index of the last step below each; n - 1 for no change."""
    baseline, final = (end[..., None] for end in _ends(curves))
    n, change = curves.shape[-1], final - baseline
    half = SHARES[1] * change
    above = torch.cat([(SHARES[0] * change).clamp(min=_ERRORS * error).minimum(half), half], -1)
    levels = baseline + above
    below = curves[..., None, :] < levels[..., None]
    last = (below * torch.arange(1, n + 1)).amax(-1) - 1
    return levels, last.where(change > 0, n - 1)


def _crossings(
    steps: Float[Tensor, " step"],
    values: Float[Tensor, " step"],
    resampled: Float[Tensor, "resample step"] | None,
    error: float,
) -> tuple[Float[Tensor, " point"], Float[Tensor, " point"], Float[Tensor, " point"]]:
    """The crossings of a curve that has formed, and both ends of their intervals, in iterations."""
    levels, last = _last_below(values, error)
    before, after = steps[last], steps[last + 1]
    share = (levels - values[last]) / (values[last + 1] - values[last])
    crossing = before + share * (after - before)
    if resampled is None:
        return crossing, before, after
    _, each = _last_below(resampled, error)  # [resample, point]
    next_one = (each + 1).clamp(max=len(steps) - 1)
    low = torch.quantile(steps[each], float(ENDS[0]), dim=0, interpolation="lower")
    high = torch.quantile(steps[next_one], float(ENDS[1]), dim=0, interpolation="higher")
    return crossing, low.minimum(before), high.maximum(after)
