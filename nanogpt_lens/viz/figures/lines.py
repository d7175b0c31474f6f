"""Lines with bands, bars and points with intervals, and dashed lines of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.numbers import Measured, digits, facts, plain

_ROW = 21  # pixels of a horizontal bar
_HIGHEST = 900


def add_line(
    figure: go.Figure,
    x: Sequence[float],
    numbers: Measured,
    *,
    name: str,
    what: str,
    colour: str = style.CATEGORIES[0],
    unit: str = "",
    dash: str = "solid",
    legend: bool = True,
    markers: bool | None = None,
    texts: Sequence[str] | None = None,
    **panel: Any,
) -> None:
    """A line, and its interval as a band; chance is in the hover text only, see `add_chance`.

    Args:
        figure: to add to.
        x: the place of each value.
        numbers: values, interval, chance [x].
        name: in the legend.
        what: what x is, for the hover text: "step", "position".
        colour, dash: of the line.
        unit: behind the value.
        legend: whether it is in the legend.
        markers: points as well; None where there are few.
        texts: names of the places for the hover text, in place of x.
        panel: row and col, where there are several.
    """
    if numbers.low is not None and numbers.high is not None:
        _band(figure, x, numbers.low, numbers.high, name=name, colour=colour, **panel)
    data, said = facts(numbers.low, numbers.high, chance=numbers.chance)
    place = "%{text}" if texts is not None else f"{what} %{{x}}"
    few = len(x) <= 40 if markers is None else markers
    figure.add_trace(
        go.Scatter(
            x=np.asarray(x),
            y=digits(numbers.values),
            name=name,
            legendgroup=name,
            showlegend=legend,
            customdata=data,
            text=None if texts is None else list(texts),
            mode="lines+markers" if few else "lines",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 5, "color": colour},
            hovertemplate=f"{plain(name)}, {place}: %{{y:.4g}}{unit}{said}.<extra></extra>",
        ),
        **panel,
    )


def _band(
    figure: go.Figure,
    x: Sequence[float],
    low: Float[Tensor, " x"],
    high: Float[Tensor, " x"],
    *,
    name: str,
    colour: str,
    **panel: Any,
) -> None:
    """The area between the ends of an interval, one shape for each run of places that have one."""
    there = (low.isfinite() & high.isfinite()).numpy()
    ends = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int)))
    places, below, above = np.asarray(x), digits(low), digits(high)
    for start, stop in zip(ends[::2], ends[1::2], strict=True):
        piece = slice(start, stop)
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([places[piece], places[piece][::-1]]),
                y=np.concatenate([above[piece], below[piece][::-1]]),
                fill="toself",
                fillcolor=style.faint(colour),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                name=f"{name}, 95% interval",
                legendgroup=name,
                showlegend=False,
            ),
            **panel,
        )


def add_chance(
    figure: go.Figure,
    x: Sequence[float],
    values: Float[Tensor, " x"],
    *,
    name: str = "chance",
    colour: str = style.MUTED,
    legend: bool = True,
    **panel: Any,
) -> None:
    """A dashed line at the level of chance."""
    figure.add_trace(
        go.Scatter(
            x=np.asarray(x),
            y=digits(values),
            name=name,
            legendgroup=name,
            showlegend=legend,
            mode="lines",
            line={"color": colour, "width": 1.5, "dash": "5px,4px"},
            hovertemplate=f"{plain(name)}: %{{y:.4g}}.<extra></extra>",
        ),
        **panel,
    )


def errors(numbers: Measured, *, colour: str = style.INK) -> dict[str, Any]:
    """Plotly's error bars from an interval; {} for none."""
    if numbers.low is None or numbers.high is None:
        return {}
    middle = digits(numbers.values)
    above, below = digits(numbers.high) - middle, middle - digits(numbers.low)
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def bar_chart(
    labels: Sequence[str],
    numbers: Measured,
    *,
    title: str,
    unit: str,
    what: str = "",
    others: dict[str, Float[Tensor, " bar"]] | None = None,
    notes: Sequence[str] = (),
    definition: str | None = None,
    named: str = "chance",
    falls_helps: bool = False,
) -> Drawing:
    """Horizontal bars from the top down, with intervals, and a tick where chance is.

    Where some are below zero they are rust, those above teal; else all are blue.

    Args:
        labels: distinct, one for each bar.
        numbers: values, interval, chance [bar].
        title, notes, definition: see `Drawing`.
        unit: title of the x axis.
        what: title of the y axis.
        others: more facts for the hover text.
        named: what chance is called.
        falls_helps: see `style.colours`.
    """
    figure = go.Figure()
    add_bars(figure, labels, numbers, others=others, named=named, falls_helps=falls_helps)
    left = bars_axes(figure, labels, unit=unit, what=what)
    return Drawing(
        figure=figure,
        title=title,
        notes=tuple(notes),
        definition=definition,
        plot=bars_height(len(labels)),
        left=left,
        legend=numbers.has_chance,
        below=50,
    )


def largest(values: Shaped[Tensor, " place"], k: int) -> Int[Tensor, " largest"]:
    """Places of the `k` values of largest magnitude, the highest first; where there are no more, in their own order."""
    if len(values) <= k:
        return torch.arange(len(values))
    order = values.double().abs().nan_to_num(-1).argsort(descending=True, stable=True)[:k]
    return order[downwards(values[order])]


def downwards(values: Shaped[Tensor, " place"]) -> Int[Tensor, " place"]:
    """Places of the values, the highest first and nan last."""
    return values.double().nan_to_num(-torch.inf, torch.inf, -torch.inf).argsort(descending=True, stable=True)


def bars_height(n: int) -> int:
    """Pixels of so many horizontal bars."""
    return max(80, min(_HIGHEST, _ROW * n + 12))


def bars_axes(figure: go.Figure, labels: Sequence[str], *, unit: str, what: str, **panel: Any) -> int:
    """The axes of horizontal bars; returns the pixels of the left margin."""
    longest = max((style.wide(label, style.SMALL) for label in labels), default=0.0)
    figure.update_yaxes(
        type="category",
        autorange="reversed",
        categoryorder="array",
        categoryarray=list(labels),
        title_text=what,
        showgrid=False,
        tickmode="array" if len(labels) <= 45 else "auto",
        tickvals=list(labels),
        **panel,
    )
    figure.update_xaxes(title_text=unit, zeroline=True, rangemode="tozero", nticks=7, **panel)
    return int(min(longest, 170) + (34 if what else 14))


def add_bars(
    figure: go.Figure,
    labels: Sequence[str],
    numbers: Measured,
    *,
    others: dict[str, Float[Tensor, " bar"]] | None = None,
    named: str = "chance",
    legend: bool = True,
    falls_helps: bool = False,
    **panel: Any,
) -> None:
    """Horizontal bars into a figure, or into one of its panels."""
    data, said = facts(numbers.low, numbers.high, **{named: numbers.chance}, **(others or {}))
    below, above = (style.HELPS, style.AGAINST) if falls_helps else (style.RUST, style.TEAL)
    above = above if falls_helps or bool((numbers.values < 0).any()) else style.ACCENT
    colours = [below if value < 0 else above for value in numbers.values.tolist()]
    figure.add_trace(
        go.Bar(
            y=list(labels),
            x=digits(numbers.values),
            orientation="h",
            marker={"color": colours},
            customdata=data,
            error_x=errors(numbers),
            name="measured",
            showlegend=False,
            hovertemplate=f"%{{y}}: %{{x:.4g}}{said}.<extra></extra>",
        ),
        **panel,
    )
    if numbers.chance is not None and numbers.has_chance:
        called = named.replace("_", " ")
        figure.add_trace(
            go.Scatter(
                y=list(labels),
                x=digits(numbers.chance),
                mode="markers",
                name=called,
                legendgroup=called,
                showlegend=legend,
                hovertemplate=f"%{{y}}: {called} %{{x:.4g}}.<extra></extra>",
                marker={"symbol": "line-ns", "size": 7, "line": {"width": 2.5, "color": style.INK}},
            ),
            **panel,
        )


def histogram(
    figure: go.Figure,
    edges: Float[np.ndarray, " edge"],
    counts: Shaped[np.ndarray, " bin"],
    *,
    name: str,
    colour: str = style.ACCENT,
    what: str,
    **panel: Any,
) -> None:
    """Bars of counts between edges."""
    figure.add_trace(
        go.Bar(
            x=digits((edges[:-1] + edges[1:]) / 2),
            y=digits(counts),
            width=digits(np.diff(edges)),
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            showlegend=False,
            customdata=digits(np.stack([edges[:-1], edges[1:]], -1)),
            hovertemplate=f"from %{{customdata[0]:.4g}} to %{{customdata[1]:.4g}}: %{{y:,}} {plain(what)}."
            "<extra></extra>",
        ),
        **panel,
    )
    figure.update_layout(bargap=0)


def log_axis(figure: go.Figure, low: float, high: float) -> None:
    """A logarithmic y axis with a few plain numbers: 1, 2, 5 and so on, or only powers of ten over many decades."""
    low, high = (low, high) if 0 < low <= high else (1.0, 10.0)
    least, most = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if most - least <= 3 else (1,)
    ticks = [step * 10.0**n for n in range(least, most + 1) for step in steps]
    figure.update_yaxes(type="log", tickmode="array", tickvals=ticks, ticktext=[f"{tick:,.6g}" for tick in ticks])


def upright(
    figure: go.Figure,
    at: float,
    *,
    name: str,
    colour: str = style.INK,
    dash: str = "5px,4px",
    legend: bool = True,
    top: float = 1.0,
) -> None:
    """A vertical line up to `top`, in the legend."""
    figure.add_trace(
        go.Scatter(
            x=digits([at, at]),
            y=digits([0.0, top]),
            mode="lines",
            name=name,
            showlegend=legend,
            line={"color": colour, "width": 1.6, "dash": dash},
            hovertemplate=f"{plain(name)}: %{{x:.4g}}.<extra></extra>",
        )
    )
