"""The change point of a score in training: its onset, its half-way point, and whether it changes at all.

A curve has one value y for each of n >= 4 steps; a step is a stage of training whose checkpoint was
measured. For `direction="fall"`, y stands for the negated curve in all that follows.

Ends. w = max(1, n // 8) steps at each end. The baseline is the mean of the first w values, the final
value that of the last w, the change is final - baseline. A curve that still rises when the run ends has no
plateau: its final value is where it is then, and its half-way point is half of that.

Existence of a change. Two things that are no transition have to be ruled out, noise and drift, and both for the
best of the curves that were looked at: a head that is chosen as the highest of 16 is the best of 16.

- Noise: values that are new at every stage, in whatever order the stages come. The statistic is the maximum over
  splits k = 1 ... n - 1 of

      sqrt(k (n - k) / n) * (mean of the last n - k values - mean of the first k values)

  divided by the standard deviation of y (Page 1955, cumulative sums). It is compared with the largest statistic of
  any curve looked at in each of `permutations` random orders of the steps, the same order for all curves:
  `p_noise` = (1 + number of orders that are at least as large) / (1 + permutations); 1 for a constant curve.
- Drift: a random walk, with noise or without. `p_drift` is from a likelihood ratio and simulated walks, corrected
  for the number of curves as if they were independent, see `drift`.

`p_value` is the larger of both. The curve has formed if

    p_value <= level, and change >= least, and the lower end of the change's 95% interval over sequences is above 0,
    and the last value is above the half-way point;

the third only where the value of each sequence is known.

Half. The half-way point is baseline + change / 2. Its crossing is where y stays above it for good: on the
line, in iterations, between the last stage below (`stage_before`) and the next one (`stage_after`). Onset: the same
for baseline + change / 10.

Interval, where the value of each sequence is known. It covers, in at least 95 of 100 cases, the place where the
curve that infinitely many sequences would give, without noise from stage to stage, passes that share of its own
change for good. Its ends are stages: nothing was measured between them. `low` is the last stage up to which all
stages are surely below the level, `high` the one after the last that is not surely above it. "Surely" is by Student's
95% interval, over sequences, of the value's distance from the level, which has the errors of both ends in it, and is
widened where the mean curve is rougher than its sequences explain. Where even the first stage is not surely below,
`low` is the first stage, and `high` is the last one where it is not surely above at the end. An onset, at a tenth of
the change, has a wide interval as soon as the noise is of that size. Tests simulate steps and sigmoids, with noise of
sequences and of all of them: 0.98 to 1.00 of the intervals hold the truth, which is more than promised, because each
end is a whole stage.

Where the value of each sequence is not known there is no interval, and `low` and `high` are None: the crossing of the
values as they were measured lies between `stage_before` and `stage_after`, and how far noise has moved it is unknown.
(With noise of a tenth of a step's height these two hold the step's onset in 78 of 100 cases, of a sigmoid in 45.)

What this method cannot do:

- With fewer than 7 stages `p_noise` cannot be below 0.05: a clean step in the middle of n = 4, 6, 8 stages has the p
  of its one order among all, 1/6, 1/20, 1/70.
- A rise in the last of n stages alone has a `p_noise` of about 1 / n, whatever its size, and so has a rise after the
  first stage alone: at the level of 0.05 it takes more than 20 stages, or 8 and one more after the rise.
- A slow rise in noise of a tenth of its height is like a walk, and is not told from one.
- A step is like one large increment: of a walk with heavy tails, `p_drift` is too small.
- A curve that rises and falls again has no change between its ends, and has not formed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.results import ChangePoint, Scores
from nanogpt_lens.runs.crossings import SHARES, crossing, crossing_interval, ends
from nanogpt_lens.runs.drift import drift_p

Direction: TypeAlias = Literal["rise", "fall"]
"""Whether a curve is to rise or to fall."""

POINTS = ("onset", "half")

LEAST_STEPS = 4
TELLING_STEPS = 7
"""The smallest number of stages with which p can be below 0.05, so that there can be a verdict."""

PARTS = ("layer", "head", "neuron", "feature", "component", "sender_layer", "sender_head")
"""The axes whose places are parts of the model: one curve among theirs is the best of all that were looked at."""

_NUMBERS = 2**22


def find_change_point(
    curve: Scores,
    *,
    least: float = 0.1,
    direction: Direction = "rise",
    level: float = 0.05,
    permutations: int = 1000,
    looked_at: Sequence[str] | None = None,
    seed: int = 0,
    **places: int | str,
) -> ChangePoint:
    """The steps at which a score leaves its baseline for good and is half-way to its final value, and whether it does.

    The module's docstring has the definitions, and what they cannot do.

    Args:
        curve: scores with an axis `step`, whose labels are iterations; if it has `per_example`, of two
            sequences or more, the same at every step, there is an interval over the sequences.
        least: the smallest change that counts, in the unit of the curve.
        direction: "rise" or "fall".
        level: the level of the tests.
        permutations: the number of random orders of the steps.
        looked_at: the axes on which all places were looked at before this one was chosen, over whose curves the tests
            are corrected; None for those that name parts of the model, see `PARTS`, such as layer and head. Give ()
            for a curve that was chosen before anything was measured.
        seed: the seed of the permutations.
        places: an index or a label on every other axis, such as score="induction", layer=1, head=2.

    Returns:
        "onset" and "half" on the axis `point`, in iterations, with the stages around them; intervals where the value
        of each sequence is known; verdict and reason.

    Raises:
        AnalysisError: the curve has no axis `step`, fewer than 4 steps, steps that are no numbers or not in order,
            another axis without a place, a value that is not finite, or `per_example` of another shape; the
            direction is unknown; `looked_at` names no axis; or a number is out of its range.
        ResultError: an axis has no such place.
    """
    check_options(least, level, permutations, seed, direction)
    steps, curve_values, examples = _one_curve(curve, places)
    sign = 1.0 if direction == "rise" else -1.0
    values = sign * curve_values
    examples = None if examples is None or examples.shape[1] < 2 else sign * examples
    others = sign * _curves_looked_at(curve, places, looked_at)
    p_noise = _p_value(values, others, permutations, seed)
    p_drift = float(drift_p(values[None], looked_at=len(others)))
    p = max(p_noise, p_drift)
    among = f" among {len(others)} curves" if len(others) > 1 else ""
    refusal = _refusal(values, examples, p_noise, p_drift, among, least=least, level=level, direction=direction)
    baseline, final = (float(end) for end in ends(curve_values))
    columns = _columns(steps, values, examples, formed=refusal is None)
    place = ", ".join(f"{axis} {index}" for axis, index in places.items())
    return ChangePoint(
        **columns,
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
                "looked_at": None if looked_at is None else list(looked_at),
                "seed": seed,
            },
        },
        formed=refusal is None,
        p_value=p,
        p_noise=p_noise,
        p_drift=p_drift,
        n_curves=len(others),
        baseline=baseline,
        final=final,
        reason=refusal or f"{direction}s from {baseline:.3g} to {final:.3g}, p = {p:.2g}{among}",
    )


def check_options(least: float, level: float, permutations: int, seed: int, direction: str = "rise") -> None:
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


def _curves_looked_at(
    curve: Scores, places: Mapping[str, int | str], looked_at: Sequence[str] | None
) -> Float[Tensor, "curve step"]:
    """The curves among which the one at `places` was chosen, that one included; those that are not finite are not."""
    if looked_at is None:
        looked_at = [axis for axis in curve.axes if axis in PARTS]
    wrong = looked_at if isinstance(looked_at, str) else ", ".join(str(a) for a in looked_at if a not in places)
    if wrong:
        raise AnalysisError(
            f"looked_at is {wrong!r}; expected a list of axes of the curve that have a place, some of "
            f"{', '.join(places) or 'none, as it has no axis but step'}"
        )
    axes, values = list(curve.axes), curve.values.double()
    for axis, place in places.items():
        if axis not in looked_at:
            values = values.select(axes.index(axis), curve._index(axis, place))
            axes.remove(axis)
    curves = values.movedim(axes.index("step"), -1).reshape(-1, curve.shape["step"])
    return curves[curves.isfinite().all(1)]


def _columns(
    steps: Float[Tensor, " step"],
    values: Float[Tensor, " step"],
    examples: Float[Tensor, "step example"] | None,
    *,
    formed: bool,
) -> dict[str, Any]:
    """The result's tensors [point]; nan where the curve has not formed. A fall comes negated."""
    names = ("values", "stage_before", "stage_after", *(("low", "high") if examples is not None else ()))
    if not formed:
        return {name: torch.full((len(POINTS),), math.nan, dtype=torch.float64) for name in names}
    interval = crossing_interval(steps, examples) if examples is not None else ()
    return dict(zip(names, (*crossing(steps, values), *interval), strict=True))


@lru_cache(maxsize=4)
def _orders(n: int, permutations: int, seed: int) -> Int[Tensor, "order step"]:
    """Random orders of `n` steps."""
    keys = torch.rand(permutations, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return keys.argsort(1)


def _p_value(
    values: Float[Tensor, " step"], curves: Float[Tensor, "curve step"], permutations: int, seed: int
) -> float:
    """The p-value of a rise, among the largest rises of all curves in random orders of the steps."""
    if values.max() == values.min():
        return 1.0
    n = len(values)
    orders = _orders(n, permutations, seed)
    before = torch.arange(1, n, dtype=torch.float64)
    weight = (n / (before * (n - before))).sqrt()

    def statistic(orders: Float[Tensor, "*orders step"]) -> Float[Tensor, "*orders"]:
        """The statistic of centred curves; their sum is 0, so that the part before a split suffices."""
        return (-orders.cumsum(-1)[..., :-1] * weight).amax(-1)

    def scaled(curves: Float[Tensor, "*curves step"]) -> Float[Tensor, "*curves step"]:
        return (curves - curves.mean(-1, keepdim=True)) / curves.std(-1, keepdim=True)

    changing = curves[curves.amax(1) > curves.amin(1)]
    largest = torch.full((permutations,), -torch.inf, dtype=torch.float64)
    for some in scaled(changing).split(max(1, _NUMBERS // (permutations * n))):
        largest = largest.maximum(statistic(some[:, orders]).amax(0))
    as_large = largest >= statistic(scaled(values)) - 1e-9  # equal ones differ by rounding
    return (1 + int(as_large.sum())) / (1 + permutations)


def _refusal(
    values: Float[Tensor, " step"],
    examples: Float[Tensor, "step example"] | None,
    p_noise: float,
    p_drift: float,
    among: str,
    *,
    least: float,
    level: float,
    direction: Direction,
) -> str | None:
    """Why the curve has not formed; None if it has. A fall comes negated, as a rise."""
    baseline, final = ends(values)
    change = float(final - baseline)
    if p_noise > level:
        return f"no {direction} that differs from noise, p = {p_noise:.2g}{among}"
    if change <= 0:
        return f"no {direction}: the last stages are not {'above' if direction == 'rise' else 'below'} the first"
    if change < least * (1 - 1e-6):  # 0.1 in float32 is 0.1
        return f"the {direction} of {change:.4g} is below the least of {least:.4g}"
    if p_drift > level:
        return f"no {direction} that differs from the drift of a random walk, p = {p_drift:.2g}{among}"
    if examples is not None:
        first, last = ends(examples.T)
        low, high = t_interval(last - first) or (last[0], last[0])  # of two sequences or more there is one
        if low <= 0:
            return f"the {direction} of {change:.3g} may be none, its interval is {low:.2g} to {high:.2g}"
    if values[-1] < baseline + SHARES[1] * change:
        return f"the {direction} of {change:.3g} has more than half gone again at the last step"
    return None
