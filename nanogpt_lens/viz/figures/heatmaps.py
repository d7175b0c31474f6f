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

import nanogpt_lens.viz.figures.cells as cells
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import words
from nanogpt_lens.viz.figures.numbers import bounds, digits, missing

BAR = 56
"""Pixels of a colour bar with its title and ticks."""

_LABELS = 24  # so many labels are below a map on a phone
_HIGHEST = 900  # pixels of a heat map of many rows


@dataclass(frozen=True, kw_only=True)
class Map:
    """One heat map, rows from the bottom up unless `downwards`.

    Attributes:
        z: the values.
        x, y: distinct labels.
        hover: a template for the hover text.
        data: custom data for it.
        text: [row][column], what stands in the cells; None for nothing.
        grey: what a cell without a value is.
        number: a format for the values in the cells, such as ".2f".
    """

    z: Shaped[Tensor, "row column"]
    x: Sequence[str]
    y: Sequence[str]
    hover: str
    data: Float32[np.ndarray, "row column fact"] | None = None
    text: Sequence[Sequence[str]] | None = None
    number: str = ""
    grey: str = "no value"
    downwards: bool = False
    name: str = ""

    def trace(self, **options: Any) -> go.Heatmap:
        """The map as Plotly's."""
        few = max(self.z.shape) <= 40
        return go.Heatmap(
            z=digits(self.z),
            x=list(self.x),
            y=list(self.y),
            customdata=self.data,
            text=self.text,
            hovertemplate=f"{self.hover}<extra></extra>",
            hoverongaps=False,
            xgap=1 if few else 0,
            ygap=1 if few else 0,
            name=words(self.name),
            **options,
        )

    @property
    def inside(self) -> list[list[str]]:
        """What stands in the cells: `text`, or the numbers; [] for nothing."""
        if self.text is not None:
            return [list(row) for row in self.text]
        return [[cells.number(v, self.number) for v in row] for row in self.z.tolist()] if self.number else []


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
    falls_helps: bool = False,
    top: float | None = None,
    scale: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    definition: str | None = None,
) -> Drawing:
    """One heat map, its colour bar named by `unit`.

    Args:
        picture: the map.
        title, notes, definition: see `Drawing`.
        unit, x_title, y_title: what stands at the colour bar and the axes.
        signed: whether below and above zero are opposite.
        falls_helps: see `style.colours`.
        top: the largest possible value, if that is the scale's end.
        scale: the colour axis, if none of these says it.
    """
    scale = _scale_of([picture], signed, top, falls_helps) if scale is None else scale
    figure = go.Figure(picture.trace(coloraxis="coloraxis"))
    figure.update_layout(coloraxis={**scale, "colorbar": bar()}, plot_bgcolor=style.MISSING)
    name_bar(figure, unit)
    below = axis_below(figure, picture.x, x_title)
    left = axis_left(figure, picture.y, y_title, downwards=picture.downwards)
    height = height_of(len(picture.y))
    wide = cells.width_on_a_phone(len(picture.x), left=left)
    cells.write(figure, figure.data[0], picture.inside, wide=wide, high=height / max(1, len(picture.y)))
    said = [*notes, *([f"Grey: {picture.grey}"] if missing(picture.z) else [])]
    return Drawing(
        figure=figure,
        title=title,
        notes=tuple(said),
        definition=definition,
        plot=height,
        above=BAR,
        below=below,
        left=left,
    )


def _scale_of(maps: Sequence[Map], signed: bool, top: float | None, falls_helps: bool = False) -> dict[str, Any]:
    """The colour axis of values, up to `top` or to a round number."""
    low, high = bounds(*(picture.z for picture in maps))
    if top is None and (signed or high > 0):
        top = style.readable_end(max(high, -low) if signed else high)
        return style.colours(-top if signed else low, top, signed=signed, falls_helps=falls_helps)
    return style.colours(low, high if top is None else top, signed=signed, falls_helps=falls_helps)


def axis_below(figure: go.Figure, labels: Sequence[str], title: str, **place: Any) -> int:
    """A category axis below; returns the pixels that it takes."""
    longest = max((style.wide(label, style.SMALL) for label in labels), default=0.0)
    upright = len(labels) * (longest + 6) > 250
    figure.update_xaxes(_categories(labels), title_text=title, tickangle=-90 if upright else 0, **place)
    if len(labels) > _LABELS:  # the last one, such as "logits", is always there
        step = -(-len(labels) // _LABELS)
        kept = list(labels)[::-1][::step][::-1]
        figure.update_xaxes(tickmode="array", tickvals=kept, ticktext=kept, **place)
    return int((min(longest, 150) if upright else 14) + (30 if title else 10) + 6)


def axis_left(figure: go.Figure, labels: Sequence[str], title: str, *, downwards: bool = False, **place: Any) -> int:
    """A category axis on the left; returns the pixels that it takes."""
    longest = max((style.wide(label, style.SMALL) for label in labels), default=0.0)
    figure.update_yaxes(_categories(labels, downwards=downwards), title_text=title, **place)
    return int(longest + (32 if title else 12) + 6)


def _categories(labels: Sequence[str], *, downwards: bool = False) -> dict[str, Any]:
    """An axis of labels, each at its own place."""
    ends = [-0.5, len(labels) - 0.5]
    return {
        "type": "category",
        "showgrid": False,
        "zeroline": False,
        "categoryorder": "array",
        "categoryarray": list(labels),
        "range": ends[::-1] if downwards else ends,
    }


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
    scales: Sequence[dict[str, Any]] | None = None,
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
        scales: the colour axis of each map; of one unit, the widest has the bar for all.
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
    axes: list[tuple[str, str]] = []
    for i, picture in enumerate(maps):
        own = i and (signed is None or scales is not None)
        trace = picture.trace(coloraxis=f"coloraxis{i + 1 if own else ''}")
        figure.add_trace(trace, i // columns + 1, i % columns + 1)
        added: Any = figure.data[-1]
        axes.append((added.xaxis or "x", added.yaxis or "y"))
    _panel_axes(figure, maps, axes, columns, ticks, (x_title, y_title), lifted=signed is None)
    _panel_scales(figure, maps, signed, top, unit, scales)
    figure.update_layout(plot_bgcolor=style.MISSING)
    left = 52 if ticks else 14
    wide = cells.width_on_a_phone(len(maps[0].x), left=left, beside=columns, gap=0.12 if ticks else 0.03)
    for heat, picture in zip(tuple(figure.data), maps, strict=True):
        cells.write(figure, heat, picture.inside, wide=wide, high=high / max(1, len(picture.y)))
    said = [*notes, *([f"Grey: {maps[0].grey}"] if missing(*(picture.z for picture in maps)) else [])]
    return Drawing(
        figure=figure,
        title=title,
        notes=tuple(said),
        definition=definition,
        plot=plot,
        left=left,
        above=46 if signed is None else BAR + 20,
        below=50 if ticks else 12,
    )


def _panel_axes(
    figure: go.Figure,
    maps: Sequence[Map],
    axes: Sequence[tuple[str, str]],
    columns: int,
    ticks: bool,
    titles: tuple[str, str],
    *,
    lifted: bool,
) -> None:
    """The axes and the names of all maps, all at once: one by one they cost the square of their number."""
    look: dict[str, Any] = {"showticklabels": ticks, "ticks": "outside" if ticks else ""}
    layout: dict[str, Any] = {}
    names: list[dict[str, Any]] = []
    for i, (picture, (x, y)) in enumerate(zip(maps, axes, strict=True)):
        lowest = i + columns >= len(maps)  # nothing is below it
        across = {"tickangle": 0, "title": {"text": titles[0] if ticks and lowest else ""}}
        upwards = {"title": {"text": titles[1] if ticks and i % columns == 0 else ""}}
        layout[f"xaxis{x[1:]}"] = {**_categories(picture.x), **look, **across}
        layout[f"yaxis{y[1:]}"] = {**_categories(picture.y, downwards=picture.downwards), **look, **upwards}
        names.append(
            {
                "text": words(picture.name),
                "xref": f"{x} domain",
                "yref": f"{y} domain",
                "x": 0,
                "y": 1,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": style.TEXT},
                "yshift": 26 if lifted else 0,
            }
        )
    figure.update_layout(annotations=names, **layout)


def _panel_scales(
    figure: go.Figure,
    maps: Sequence[Map],
    signed: bool | None,
    top: float | None,
    unit: str,
    scales: Sequence[dict[str, Any]] | None,
) -> None:
    if scales is not None and signed is not None:
        widest = min(range(len(scales)), key=lambda i: (scales[i]["cmin"], i))  # its bar has the colours of all
        for i, scale in enumerate(scales):
            shown = {"colorbar": bar(ypad=18)} if i == widest else {"showscale": False}
            figure.update_layout({f"coloraxis{i + 1 if i else ''}": {**scale, **shown}})
        name_bar(figure, unit, lift=57)
        return
    if signed is not None:
        figure.update_layout(coloraxis={**_scale_of(maps, signed, top), "colorbar": bar(ypad=18)})
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
        scale = style.colours(low, high, signed=low < 0 < high) if scales is None else scales[i]
        figure.update_layout({f"coloraxis{i + 1 if i else ''}": {**scale, "colorbar": scale_bar}})
