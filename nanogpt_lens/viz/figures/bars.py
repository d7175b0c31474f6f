"""Named scores as bars, those of one unit in one panel."""

from __future__ import annotations

from collections.abc import Sequence

from plotly.subplots import make_subplots

from nanogpt_lens.results.base import Result
from nanogpt_lens.viz.figures.choices import score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import said
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import add_bars, bar_chart, bars_axes, bars_height
from nanogpt_lens.viz.figures.numbers import Measured

_GAP = 66  # pixels between panels


def scores(result: Result, *, score: str | None = None) -> Drawing:
    """Bars with intervals, a tick where chance is.

    Args:
        result: values [score].
        score: only this one.

    Raises:
        ResultError: no such score.
    """
    kept = list(range(result.shape["score"])) if score is None else [score_of(result, score)]
    names = places(result, "score")
    return bar_chart(
        [names[i] for i in kept],
        Measured.of(result).at(kept),
        title=_title(result, [names[i] for i in kept], Measured.of(result).at(kept)),
        unit=words(result.quantity, longest=80),
    )


def _title(result: Result, names: Sequence[str], numbers: Measured) -> str:
    """The value of one score with its interval and chance; of several their name."""
    name = words(result.title).capitalize() if result.title else "Scores"
    if len(names) != 1 or not bool(numbers.values.isfinite().all()):
        return name
    value, unit = (
        float(numbers.values[0]),
        result.unit_of(result.labels["score"][0]) if "score" in result.labels else "",
    )
    ends = ""
    if numbers.low is not None and numbers.high is not None:
        ends = f" ({said(float(numbers.low[0]))} to {said(float(numbers.high[0]))})"
    return f"{names[0].capitalize()}: {said(value)}{ends} {unit}".rstrip()


def bar_panels(
    groups: Sequence[tuple[str, Sequence[str], Measured]],
    *,
    title: str,
    named: str = "chance",
    notes: Sequence[str] = (),
    definition: str | None = None,
) -> Drawing:
    """Panels of horizontal bars, each with a unit of its own.

    Args:
        groups: for each panel its unit, labels, and values with interval and chance [bar].
        title, notes, definition: see `Drawing`.
        named: what chance is called.
    """
    heights = [bars_height(len(labels)) for _, labels, _ in groups]
    plot = sum(heights) + _GAP * (len(groups) - 1)
    figure = make_subplots(
        rows=len(groups),
        cols=1,
        row_heights=[h / sum(heights) for h in heights],
        vertical_spacing=_GAP / plot if len(groups) > 1 else 0,
    )
    left, told = 60, False
    for row, (unit, labels, numbers) in enumerate(groups, 1):
        add_bars(figure, labels, numbers, named=named, legend=not told, row=row, col=1)
        told = told or numbers.has_chance
        left = max(left, bars_axes(figure, labels, unit=unit, what="", row=row, col=1))
    return Drawing(
        figure=figure,
        title=title,
        notes=tuple(notes),
        definition=definition,
        plot=plot,
        left=left,
        below=50,
        legend=told,
    )
