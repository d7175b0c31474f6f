"""Heat maps: one with a colour bar above it, or several small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float32, Shaped
from plotly.subplots import make_subplots
from torch import Tensor

from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import words
from nanogpt_lens.viz.figures.numbers import bounds, digits, missing

BAR = 56
"""Pixels of a colour bar with its title and ticks."""

_HIGHEST = 900  # pixels of a heat map of many rows
_NO_VALUE = "Grey: no value"


@dataclass(frozen=True, kw_only=True)
class Map:
    """One heat map, rows from the bottom up unless `downwards`.

    Attributes:
        z: the values.
        x, y: distinct labels.
        hover: a template for the hover text.
        data: custom data for it.
        text: [row][column], what stands in the cells; None for nothing.
        number: a format for the values in the cells, such as ".2f".
    """

    z: Shaped[Tensor, "row column"]
    x: Sequence[str]
    y: Sequence[str]
    hover: str
    data: Float32[np.ndarray, "row column fact"] | None = None
    text: Sequence[Sequence[str]] | None = None
    number: str = ""
    downwards: bool = False
    name: str = ""

    def trace(self, **options: Any) -> go.Heatmap:
        """The map as Plotly's."""
        few = max(self.z.shape) <= 40
        inside = "%{text}" if self.text is not None else f"%{{z:{self.number}}}" if self.number else None
        return go.Heatmap(
            z=digits(self.z),
            x=list(self.x),
            y=list(self.y),
            customdata=self.data,
            text=self.text,
            texttemplate=inside,
            hovertemplate=f"{self.hover}<extra></extra>",
            hoverongaps=False,
            xgap=1 if few else 0,
            ygap=1 if few else 0,
            name=words(self.name),
            **options,
        )


def height_of(rows: int, *, most: int = 26, least: int = 5) -> int:
    """Pixels of so many rows, within reason."""
    each = min(most if rows <= 14 else most - 6, max(least, _HIGHEST // max(rows, 1)))
    return max(90, min(_HIGHEST, rows * each))


def bar(**options: Any) -> dict[str, Any]:
    """A colour bar above the plot, without its title, see `name_bar`; `drawing.captioned` gives it its y.

    It is placed in the container, because one placed on the plot drives the figure's title and those of the axes from
    their places (plotly.js 4.1).
    """
    return {
        "orientation": "h",
        "thickness": 9,
        "len": 1,
        "x": 0,
        "xanchor": "left",
        "yref": "container",
        "y": 1,
        "yanchor": "bottom",
        "xpad": 0,
        "ypad": 0,
        "outlinewidth": 0,
        "ticks": "outside",
        "ticklen": 3,
        "nticks": 6,
        "tickfont": {"size": style.SMALL},
        **options,
    }


def name_bar(figure: go.Figure, unit: str, *, lift: int = 39) -> None:
    """The title of the colour bar, `lift` pixels above the plot: an annotation called "unit"."""
    figure.add_annotation(
        name="unit",
        text=unit,
        xref="paper",
        yref="paper",
        x=0,
        y=1,
        xanchor="left",
        yanchor="bottom",
        yshift=lift,
        showarrow=False,
        align="left",
        font={"size": style.SMALL},
    )


def heat_map(
    picture: Map,
    *,
    title: str,
    unit: str,
    x_title: str,
    y_title: str,
    signed: bool,
    top: float | None = None,
    notes: Sequence[str] = (),
    definition: str | None = None,
) -> Drawing:
    """One heat map, its colour bar named by `unit`; `top` is the largest possible value, if that is the scale's end."""
    low, high = bounds(picture.z)
    scale = style.colours(low, high if top is None else top, signed=signed)
    figure = go.Figure(picture.trace(coloraxis="coloraxis"))
    figure.update_layout(coloraxis={**scale, "colorbar": bar()}, plot_bgcolor=style.MISSING)
    name_bar(figure, unit)
    below = axis_below(figure, picture.x, x_title)
    left = axis_left(figure, picture.y, y_title, downwards=picture.downwards)
    said = [*notes, *([_NO_VALUE] if missing(picture.z) else [])]
    return Drawing(
        figure=figure,
        title=title,
        notes=tuple(said),
        definition=definition,
        plot=height_of(len(picture.y)),
        above=BAR,
        below=below,
        left=left,
    )


def axis_below(figure: go.Figure, labels: Sequence[str], title: str, **place: Any) -> int:
    """A category axis below; returns the pixels that it takes."""
    longest = max((style.wide(label, style.SMALL) for label in labels), default=0.0)
    upright = len(labels) * (longest + 6) > 250
    figure.update_xaxes(
        type="category",
        title_text=title,
        tickangle=-90 if upright else 0,
        showgrid=False,
        zeroline=False,
        categoryorder="array",
        categoryarray=list(labels),
        **place,
    )
    return int((min(longest, 150) if upright else 14) + (30 if title else 10) + 6)


def axis_left(figure: go.Figure, labels: Sequence[str], title: str, *, downwards: bool = False, **place: Any) -> int:
    """A category axis on the left; returns the pixels that it takes."""
    longest = max((style.wide(label, style.SMALL) for label in labels), default=0.0)
    figure.update_yaxes(
        type="category",
        title_text=title,
        showgrid=False,
        zeroline=False,
        categoryorder="array",
        categoryarray=list(labels),
        autorange="reversed" if downwards else True,
        **place,
    )
    return int(longest + (32 if title else 12) + 6)


def heat_maps(
    maps: Sequence[Map],
    *,
    title: str,
    unit: str,
    x_title: str,
    y_title: str,
    signed: bool | None,
    columns: int = 2,
    each: int = 0,
    top: float | None = None,
    ticks: bool = True,
    notes: Sequence[str] = (),
    definition: str | None = None,
) -> Drawing:
    """Several heat maps; one colour bar for all, or where `signed` is None one above each, because units differ.

    Args:
        maps: of one shape, with their names.
        title, unit, x_title, y_title, notes, definition: as for `heat_map`.
        signed: of all of them; None to take each by itself.
        columns: maps beside each other.
        each: height of one in pixels; 0 to go by the rows.
        top: the scale's end.
        ticks: whether the axes have labels.
    """
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    high = each or max(70, min(300, height_of(len(maps[0].y), most=24)))
    gap = 22 + (34 if ticks else 0) + (30 if signed is None else 0)
    plot = rows * high + (rows - 1) * gap
    figure = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=0.12 if ticks else 0.03,
        vertical_spacing=min(gap / plot, 1 / max(rows - 1, 1) - 1e-6) if rows > 1 else 0,
    )
    for i, picture in enumerate(maps):
        row, column = i // columns + 1, i % columns + 1
        figure.add_trace(picture.trace(coloraxis=f"coloraxis{i + 1 if signed is None and i else ''}"), row, column)
        _panel_axes(figure, row, column, picture, ticks, plot, lifted=signed is None)
    if ticks:
        figure.update_xaxes(title_text=x_title, row=rows)
        if len(maps) % columns and rows > 1:
            for column in range(len(maps) % columns + 1, columns + 1):
                figure.update_xaxes(title_text=x_title, row=rows - 1, col=column)
        figure.update_yaxes(title_text=y_title, col=1)
    _panel_scales(figure, maps, signed, top, unit)
    figure.update_layout(plot_bgcolor=style.MISSING)
    said = [*notes, *([_NO_VALUE] if missing(*(picture.z for picture in maps)) else [])]
    return Drawing(
        figure=figure,
        title=title,
        notes=tuple(said),
        definition=definition,
        plot=plot,
        left=52 if ticks else 14,
        above=46 if signed is None else BAR + 20,
        below=50 if ticks else 12,
    )


def _panel_axes(
    figure: go.Figure, row: int, column: int, picture: Map, ticks: bool, plot: int, *, lifted: bool
) -> None:
    axis_below(figure, picture.x, "", row=row, col=column)
    axis_left(figure, picture.y, "", downwards=picture.downwards, row=row, col=column)
    figure.update_xaxes(showticklabels=ticks, ticks="outside" if ticks else "", row=row, col=column, tickangle=0)
    figure.update_yaxes(showticklabels=ticks, ticks="outside" if ticks else "", row=row, col=column)
    trace: Any = figure.data[-1]
    x, y = trace.xaxis, trace.yaxis
    figure.add_annotation(
        text=words(picture.name),
        xref=f"{x} domain",
        yref=f"{y} domain",
        x=0,
        y=1,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": style.TEXT},
        yshift=26 if lifted else 0,
    )


def _panel_scales(figure: go.Figure, maps: Sequence[Map], signed: bool | None, top: float | None, unit: str) -> None:
    if signed is not None:
        low, high = bounds(*(picture.z for picture in maps))
        scale = style.colours(low, high if top is None else top, signed=signed)
        figure.update_layout(coloraxis={**scale, "colorbar": bar(ypad=18)})
        name_bar(figure, unit, lift=57)
        return
    for i, picture in enumerate(maps):
        low, high = bounds(picture.z)
        trace: Any = figure.data[i]
        layout: Any = figure.layout
        xaxis, yaxis = (
            layout[f"{axis[0]}axis{axis[1:]}"] for axis in (str(trace.xaxis or "x"), str(trace.yaxis or "y"))
        )
        left, right = xaxis.domain
        scale_bar = bar(yref="paper", x=left, len=right - left, y=yaxis.domain[1], ypad=3, thickness=6, nticks=4)
        scale_bar["tickfont"] = {"size": 9}
        scale = style.colours(low, high, signed=low < 0 < high)
        figure.update_layout({f"coloraxis{i + 1 if i else ''}": {**scale, "colorbar": scale_bar}})
