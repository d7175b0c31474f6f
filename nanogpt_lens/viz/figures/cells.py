"""What stands in the cells of a heat map: letters that can be read on each cell's own shade, in light and in dark.

Plotly has one colour for the letters of a whole map, or chooses a grey that is too pale on a middle shade. So they are
a trace of their own, behind the map in the list, with a colour for each cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from nanogpt_lens.viz import shades, style
from nanogpt_lens.viz.tokens import JOINER

NAME = "cells"
"""The name of the trace of letters."""

_PHONE, _WIDE, _ROOM = 360, 700, 600
_LARGEST, _LEAST = 11, 7  # sizes of letters in pixels


def number(value: float, form: str) -> str:
    """A value in a cell: with its own digits, without "-0.00"; "" for nan."""
    if value != value:
        return ""
    said = format(value, form)
    return said.replace("-", "", 1) if not float(said) and said.startswith("-") else said


def write(figure: go.Figure, heat: Any, text: Sequence[Sequence[str]], *, wide: float, high: float = 26.0) -> None:
    """Put letters into the cells of a heat map of the figure; nothing where they would be too small to read.

    Those that only a wide figure has room for are hidden on a phone, by `for_width` and by the script of a page.

    Args:
        figure: its colour axes are set.
        heat: the map's trace.
        text: [row][column], with "<br>" for several lines; "" for nothing.
        wide: pixels of a cell on a phone.
        high: pixels of a row.
    """
    sizes = [_size(text, width, high) for width in (wide, wide * _WIDE / _PHONE)]
    size = sizes[0] or sizes[1]
    cells = [(i, j) for i, row in enumerate(text) for j, said in enumerate(row) if said]
    if not size or not cells:
        return
    layout: Any = figure.layout
    values = [[float(value) for value in row] for row in heat.z]
    colours = shades.letters(layout[heat.coloraxis].to_plotly_json(), [values[i][j] for i, j in cells])
    figure.add_trace(
        go.Scatter(
            x=[heat.x[j] for _, j in cells],
            y=[heat.y[i] for i, _ in cells],
            text=[text[i][j] for i, j in cells],
            mode="text",
            textfont={"size": size, "color": colours if len(set(colours)) > 1 else colours[0]},
            hoverinfo="skip",
            name=NAME,
            meta={"narrow": sizes[0]},  # 0: not on a phone
            showlegend=False,
            cliponaxis=True,
            xaxis=heat.xaxis,
            yaxis=heat.yaxis,
        )
    )


def for_width(figure: go.Figure, width: int) -> None:
    """Hide the letters for which a figure of this width has no room, and show them where it has."""
    traces: list[Any] = list(figure.select_traces({"name": NAME}))
    for trace in traces:
        if trace.meta and not trace.meta["narrow"]:
            trace.visible = None if width >= _ROOM else False


def width_on_a_phone(columns: int, *, left: int, right: int = 18, beside: int = 1, gap: float = 0.12) -> float:
    """About how many pixels a cell is wide where the figure is as wide as a phone.

    Args:
        columns: of the map.
        left, right: margins.
        beside: maps in a row.
        gap: the space between two of them, as a share of all.
    """
    return (_PHONE - left - right) * (1 - gap * (beside - 1)) / beside / max(1, columns)


def _size(text: Sequence[Sequence[str]], wide: float, high: float) -> int:
    """The size of the letters in pixels; 0 where they would be too small."""
    lines = [line for row in text for said in row for line in said.split("<br>")]
    widest = max((style.extent(line.replace(JOINER, ""), 100) / 100 for line in lines), default=0.0)
    most = max((said.count("<br>") + 1 for row in text for said in row), default=1)
    if not widest:
        return 0
    fits = int(min(_LARGEST, (wide - 2) / widest, (high - 2) / (1.25 * most)))
    return fits if fits >= _LEAST else 0
