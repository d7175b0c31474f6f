"""Dots with intervals in rows under headings, with what lies beyond a readable range at its edge, and said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.numbers import digits, plain

_ROW, _HEADING = 19, 24  # pixels
_BEYOND = "beyond the edge"


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row.

    Attributes:
        label: on the left; needs not be distinct.
        value, low, high: the dot and its interval; nan for no interval.
        colour: of both.
        ideal: where a tick stands, for what would be perfect; nan for none.
        beside: a few words at the right edge.
        hover: what is pointed at, in words; the numbers follow.
        hollow: whether it is a ring, for what says less than it seems to.
    """

    label: str
    value: float
    low: float
    high: float
    colour: str
    hover: str
    ideal: float = math.nan
    beside: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class DotRows:
    """The rows of a picture, group by group.

    Attributes:
        groups: a heading, which may be "", and the dots below it.
        low, high: what is seen; a dot beyond is a triangle at the edge.
        ideal: whether ticks are drawn where a dot would be perfect.
    """

    groups: Sequence[tuple[str, Sequence[Dot]]]
    low: float
    high: float
    ideal: bool = False

    @property
    def height(self) -> int:
        """Pixels of all rows."""
        return int(-self._depths[-1] + 6)

    @property
    def left(self) -> int:
        """Pixels of the labels."""
        return int(max(style.extent(dot.label, style.SMALL) for _, dots in self.groups for dot in dots)) + 14

    @property
    def n_beyond(self) -> int:
        """How many dots lie beyond what is seen."""
        return sum(self._beyond(dot) for _, dots in self.groups for dot in dots)

    @property
    def n_cut(self) -> int:
        """How many intervals of dots that are seen go on beyond it."""
        seen = [dot for _, dots in self.groups for dot in dots if not self._beyond(dot)]
        return sum(dot.low < self.low or dot.high > self.high for dot in seen)

    @property
    def note(self) -> str:
        """What is beyond the range, for the caption; "" for nothing."""
        said = []
        if self.n_beyond:
            said.append(f"{self.n_beyond} value{'s' if self.n_beyond > 1 else ''}, as triangles with numbers")
        if self.n_cut:
            said.append(f"{self.n_cut} interval{'s go' if self.n_cut > 1 else ' goes'} on")
        return f"Beyond {self.low:g} to {self.high:g}: {' and '.join(said)}" if said else ""

    def draw(self) -> go.Figure:
        """The figure, with its y axis; the x axis has no title yet."""
        figure = go.Figure()
        places = dict(zip(self._keys(), self._depths, strict=True))
        every = [(dot, places[i, j]) for i, (_, dots) in enumerate(self.groups) for j, dot in enumerate(dots)]
        self.add_dots(figure, every)
        for (i, j), y in places.items():
            if j < 0:
                _add_text(figure, f"<b>{self.groups[i][0]}</b>", y=y, x=0, anchor="left", colour=style.INK)
        for dot, y in every:
            if dot.beside:
                _add_text(figure, dot.beside, y=y, x=1, anchor="right", colour=style.MUTED)
        figure.update_yaxes(
            range=[-self.height, 0],
            tickvals=[y for _, y in every],
            ticktext=[dot.label for dot, _ in every],
            showgrid=False,
            zeroline=False,
        )
        figure.update_xaxes(range=[self.low, self.high], zeroline=True, nticks=7)
        return figure

    def add_dots(self, figure: go.Figure, every: Sequence[tuple[Dot, float]]) -> None:
        """Draw dots with their intervals, each at its height."""
        lines = [line for dot, y in every for line in self._interval(dot, y)]
        layout: Any = figure.layout
        figure.update_layout(shapes=[*layout.shapes, *lines])  # at once: one by one they cost their square
        if self.ideal:
            self._ideals(figure, every)
        for beyond in (False, True):
            some = [(dot, y) for dot, y in every if self._beyond(dot) is beyond]
            if some:
                figure.add_trace(self._dots(some, beyond))

    def _keys(self) -> list[tuple[int, int]]:
        """(group, row) from the top down; row -1 is the heading."""
        keys = []
        for i, (heading, dots) in enumerate(self.groups):
            keys += [*([(i, -1)] if heading else []), *((i, j) for j in range(len(dots)))]
        return keys

    @property
    def _depths(self) -> list[float]:
        """The middle of each row, in pixels from the top; downwards is negative."""
        depths, edge = [], 0.0
        for _, j in self._keys():
            size = _HEADING if j < 0 else _ROW
            depths.append(-(edge + size / 2 + (2 if j < 0 else 0)))
            edge += size
        return depths

    def _beyond(self, dot: Dot) -> bool:
        return not self.low <= dot.value <= self.high

    def _interval(self, dot: Dot, y: float) -> list[dict[str, Any]]:
        """The line of an interval, as far as it is seen; none for a dot that is not, whose number stands there."""
        low, high = max(dot.low, self.low), min(dot.high, self.high)
        if self._beyond(dot) or not low < high:  # nan is not
            return []
        line = {"width": 1.8, "color": dot.colour}
        return [{"type": "line", "x0": low, "x1": high, "y0": y, "y1": y, "line": line, "opacity": 0.6}]

    def _ideals(self, figure: go.Figure, every: Sequence[tuple[Dot, float]]) -> None:
        some = [(dot.ideal, y) for dot, y in every if not math.isnan(dot.ideal)]
        figure.add_trace(
            go.Scatter(
                x=digits([x for x, _ in some]),
                y=[y for _, y in some],
                mode="markers",
                marker={"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": style.INK}},
                name="perfect",
                showlegend=False,
                hoverinfo="skip",
            )
        )

    def _dots(self, some: Sequence[tuple[Dot, float]], beyond: bool) -> go.Scatter:
        """Dots where they are, or triangles at the edge that they lie beyond."""
        middle = (self.low + self.high) / 2
        room = 0.015 * (self.high - self.low)
        x = [min(max(dot.value, self.low + room), self.high - room) if beyond else dot.value for dot, _ in some]
        left = [dot.value < middle for dot, _ in some]
        rings = ["circle-open" if dot.hollow else "circle" for dot, _ in some] if any(d.hollow for d, _ in some) else []
        symbols = ["triangle-left" if at else "triangle-right" for at in left] if beyond else rings or "circle"
        return go.Scatter(
            x=digits(x),
            y=[y for _, y in some],
            mode="markers+text" if beyond else "markers",
            marker={"size": 9 if beyond else 8, "symbol": symbols, "color": [dot.colour for dot, _ in some]},
            text=[f"{dot.value:.3g}".replace("-", "−") for dot, _ in some] if beyond else None,
            textposition=["middle right" if at else "middle left" for at in left] if beyond else None,
            textfont={"size": style.SMALL, "color": [dot.colour for dot, _ in some]} if beyond else None,
            customdata=[[_said(dot)] for dot, _ in some],
            hovertemplate="%{customdata[0]}.<extra></extra>",
            name=_BEYOND if beyond else "measured",
            showlegend=False,
        )


def _said(dot: Dot) -> str:
    """What the hover text says of a dot."""
    numbers = f"{dot.value:.4g}"
    if not math.isnan(dot.low):
        numbers += f" ({dot.low:.4g} to {dot.high:.4g})"
    return plain(f"{dot.hover}: {numbers}")


def _add_text(figure: go.Figure, text: str, *, y: float, x: int, anchor: str, colour: str) -> None:
    """Words in a row, at an edge of the plot."""
    figure.add_annotation(
        text=text,
        xref="paper",
        x=x,
        xanchor=anchor,
        y=y,
        yanchor="middle",
        showarrow=False,
        font={"size": style.SMALL, "color": colour},
    )
