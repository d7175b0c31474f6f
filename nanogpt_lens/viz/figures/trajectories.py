"""Scores over training: lines by step, intervals as bands, a transition marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import plotly.graph_objects as go
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import said
from nanogpt_lens.viz.figures.labels import POSITIONS, index_of, places, spot, title_of, words
from nanogpt_lens.viz.figures.lines import add_chance, add_line
from nanogpt_lens.viz.figures.numbers import Measured, plain

_BESIDE = ("layer", "head")


def over_steps(
    result: Result,
    *,
    x: Literal["linear", "log"] = "linear",
    y: Literal["linear", "log"] = "linear",
    mark: float | tuple[float, float, float] | None = None,
    k: int = 8,
    **selection: Any,
) -> Drawing:
    """A line for each place of the other axes; where there are more than `k`, those that change most have colours.

    Args:
        result: with an axis "step", whose labels are iterations.
        x: scale of the steps; on a logarithmic one step 0 stands at half the first step after it.
        y: scale of the values.
        mark: a step where something changes, or (step, low, high) with its interval.
        k: how many lines have a colour and a name.
        selection: an index or a label for any axis, such as score="induction".

    Raises:
        ResultError: labels that are no numbers, a mark that is none, another word, or a place that is not there.
    """
    one_of("x", x, ("linear", "log"))
    one_of("y", y, ("linear", "log"))
    steps = _steps(result)
    at = _on_axis(steps, x)
    if selection.pop("step", None) is not None:
        raise ResultError("step= was given, but the steps are the x axis; expected a place on another axis")
    fixed = {axis: index_of(result, axis, place) for axis, place in selection.items() if place is not None}
    lines, left = _lines(result, fixed)
    figure, names = go.Figure(), _names(result, left)
    spread = torch.stack([_spread(line.values) for line in lines])
    ranked = spread.argsort(descending=True, stable=True)[: count("k", k)].tolist()
    loud = sorted(ranked)
    for i in (i for i in range(len(lines)) if i not in ranked):
        _quiet(figure, at, steps, lines[i].values, names[i])
    for n, i in enumerate(loud):
        add_line(
            figure,
            at,
            lines[i],
            name=names[i],
            what="step",
            texts=[f"step {step:,}" for step in steps],
            colour=style.colour_of(n),
            dash=style.dash_of(n),
        )
    _draw_chance(figure, at, [lines[i].chance for i in loud])
    _axes(figure, result, steps, at, x, y)
    notes = [f"Shown: {spot(result, **fixed)}"] if fixed else []
    if len(loud) < len(lines):
        notes.append(f"In colour the {len(loud)} lines that change most, of {len(lines)}")
    about_mark = _draw_mark(figure, mark, x, steps)
    title = _moves(result, lines, names, steps, ranked)
    return Drawing(
        figure=figure,
        title=title,
        notes=(*notes, *about_mark),
        intervals_told=isinstance(mark, tuple | list) and mark[1] < mark[2],
        plot=300,
        legend=True,
    )


def _moves(
    result: Result, lines: Sequence[Measured], names: Sequence[str], steps: Sequence[int], ranked: Sequence[int]
) -> str:
    """Which line changes most, from where to where."""
    heading = words(result.heading, longest=50)
    known = [
        (step, float(value))
        for step, value in zip(steps, lines[ranked[0]].values.tolist(), strict=True)
        if value == value
    ]
    if len(known) < 2:
        return f"{heading.capitalize()} over training"
    (_, first), (_, last) = known[0], known[-1]
    head = "head " if {"layer", "head"} <= set(result.axes) and names[ranked[0]][:1].isdecimal() else ""
    who = f" of {head}{names[ranked[0]]}" if len(lines) > 1 else ""
    return f"{heading.capitalize()}{who} goes from {said(first)} to {said(last)} in training"


def _steps(result: Result) -> list[int]:
    labels = result.labels.get("step")
    if labels is None or not all(label.isdecimal() for label in labels):
        raise ResultError(f"the labels of the axis 'step' are {labels}; expected iterations, such as '500'")
    return [int(label) for label in labels]


def _on_axis(steps: Sequence[int], x: str) -> list[float]:
    if x == "linear":
        return [float(step) for step in steps]
    least = min((step for step in steps if step > 0), default=1)
    return [float(step) if step > 0 else least / 2 for step in steps]


def _lines(result: Result, fixed: dict[str, int]) -> tuple[list[Measured], list[str]]:
    """The values [step] of each place of the remaining axes, with interval and chance; and those axes."""
    left = [axis for axis in result.axes if axis not in (*fixed, "step")]

    def rows(tensor: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "line step"]:
        axes = list(result.axes)
        for axis, i in fixed.items():
            tensor = tensor.select(axes.index(axis), i)
            axes.remove(axis)
        return tensor.permute([axes.index(axis) for axis in (*left, "step")]).reshape(-1, result.shape["step"])

    every = Measured.of(result).mapped(rows)
    return [every.at(i) for i in range(len(every.values))], left


def _names(result: Result, left: Sequence[str]) -> list[str]:
    """The name of each line, by its place on the axes that are left."""
    if not left:
        return [words(result.heading, longest=50)]
    each = [places(result, axis) for axis in left]
    units = [i for i, axis in enumerate(left) if axis in _BESIDE]
    names = []
    for combination in product(*each):
        short = ".".join(combination[i] for i in units)
        alone = f"{title_of(left[units[0]])} {short}" if len(left) == 1 and units else short
        rest = [
            f"position {label}" if left[i] in POSITIONS else label
            for i, label in enumerate(combination)
            if i not in units
        ]
        names.append(", ".join([*([alone] if alone else []), *rest]))
    return names


def _spread(values: Shaped[Tensor, " step"]) -> Float[Tensor, ""]:
    """The difference between the largest and the least value; -1 where there is none."""
    finite = values[values.isfinite()].double()
    return finite.max() - finite.min() if len(finite) else torch.tensor(-1.0, dtype=torch.float64)


def _quiet(
    figure: go.Figure, at: Sequence[float], steps: Sequence[int], values: Shaped[Tensor, " step"], name: str
) -> None:
    """A thin grey line without a name in the legend."""
    add_line(
        figure,
        at,
        Measured(values),
        name=name,
        what="step",
        texts=[f"step {step:,}" for step in steps],
        colour=style.OTHER,
        legend=False,
        markers=False,
    )
    line: Any = figure.data[-1]
    line.line.width = 1


def _draw_chance(figure: go.Figure, at: Sequence[float], levels: Sequence[Float[Tensor, " step"] | None]) -> None:
    """One line where all have the same chance, else one for each."""
    known = [level for level in levels if level is not None and bool(level.isfinite().any())]
    different: list[Float[Tensor, " step"]] = []
    for level in known:
        if not any(torch.allclose(level, other, equal_nan=True) for other in different):
            different.append(level)
    for i, level in enumerate(different[:8]):
        add_chance(figure, at, level, legend=i == 0)


def _axes(figure: go.Figure, result: Result, steps: Sequence[int], at: Sequence[float], x: str, y: str) -> None:
    figure.update_xaxes(title_text=title_of("step"), type=x, showgrid=True)
    figure.update_yaxes(title_text=words(result.quantity, longest=60), type=y)
    if x == "log":
        high = max(steps)
        decades = [10**n for n in range(12) if min(at) <= 10**n <= high]
        extra = [min(at)] if 0 in steps else []
        figure.update_xaxes(
            tickmode="array",
            tickvals=[*extra, *decades],
            ticktext=[*(["0"] if extra else []), *(f"{d:,}" for d in decades)],
        )


def _draw_mark(figure: go.Figure, mark: Any, x: str, steps: Sequence[int]) -> list[str]:
    """Draw the transition as a line and its interval as a band; what the caption says of it comes back."""
    if mark is None:
        return []
    numbers = mark if isinstance(mark, tuple | list) else (mark, mark, mark)
    good = len(numbers) == 3 and all(isinstance(i, int | float) and not isinstance(i, bool) for i in numbers)
    if not good or not numbers[1] <= numbers[0] <= numbers[2] or numbers[1] < 0:
        raise ResultError(f"mark is {mark!r}; expected a step, or (step, low, high) with low <= step <= high")
    step, low, high = _on_axis([round(number) for number in numbers], x)
    if low < high:
        figure.add_vrect(x0=low, x1=high, fillcolor=style.faint(style.CATEGORIES[4], 0.22), line_width=0, layer="below")
    figure.add_vline(x=step, line={"color": style.INK, "width": 1.5, "dash": "dot"}, name="mark")
    interval = f" (interval {numbers[1]:,.0f} to {numbers[2]:,.0f})" if low < high else ""
    return [plain(f"Dotted: step {numbers[0]:,.0f}{interval}")]
