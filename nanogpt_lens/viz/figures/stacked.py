"""Rows whose words stand above their dots, so that long ones have the whole width; rows may hang from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import plotly.graph_objects as go

from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.dots import Dot, DotRows
from nanogpt_lens.viz.tokens import joined, visible

_LINE, _DOT, _GAP, _HEADING = 15, 10, 5, 22  # pixels of a line of words, of a dot, between rows, of a heading
_EDGE = 10  # pixels on the left of all words
_STEP, _DEEPEST = 14, 84  # pixels by which a row stands in, and all of them together
_PHONE = 304  # pixels of a line of words: a figure does not know how wide it will be
_MOST_LINES = 2


@dataclass(frozen=True, kw_only=True)
class StackedRow:
    """Words and the dots below them.

    Attributes:
        name: the first words, which are bold; plain text.
        text: what follows; plain text.
        dots: from the top down, each in a line of its own.
        written: for each dot, a number beside it; "" for none.
        depth: how many steps it stands in.
        parent: the row of its group that it hangs from; None for none.
    """

    name: str
    text: str
    dots: Sequence[Dot]
    written: Sequence[str] = ()
    depth: int = 0
    parent: int | None = None


@dataclass(frozen=True, kw_only=True)
class StackedGroup:
    """Rows below a heading.

    Attributes:
        heading: words of ours.
        keys: words of ours with a colour each, which say what the dots are.
        rows: the rows.
    """

    heading: str
    rows: Sequence[StackedRow]
    keys: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class _Parts:
    """Words and lines of a figure, which are put into it at once: one by one they cost the square of their number."""

    notes: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class StackedRows:
    """The rows of a picture, group by group.

    Attributes:
        groups: the groups, from the top down.
        low, high: what is seen; a dot beyond is a triangle at the edge.
    """

    groups: Sequence[StackedGroup]
    low: float
    high: float

    @property
    def height(self) -> int:
        """Pixels of all rows."""
        return int(self._placed[-1][1] + self._room(self._placed[-1][0])) + 4

    @property
    def left(self) -> int:
        """Pixels on the left of the dots, into which rows stand in."""
        return int(_EDGE + 14 + self._step * self._deepest)

    @property
    def note(self) -> str:
        """What is beyond the range, for the caption; "" for nothing."""
        return self._dots.note

    def draw(self) -> go.Figure:
        """The figure with its y axis; the x axis has no title yet."""
        figure = go.Figure()
        every: list[tuple[Dot, float]] = []
        parts = _Parts()
        for thing, top in self._placed:
            if isinstance(thing, StackedGroup):
                self._add_heading(parts, thing, top)
                continue
            lines = self._lines(thing)
            self._add_words(parts, "<br>".join(lines), top, thing.depth)
            first = top + _LINE * len(lines)
            heights = [-(first + _DOT * (i + 0.5)) for i in range(len(thing.dots))]
            every += zip(thing.dots, heights, strict=True)
            numbers = thing.written or [""] * len(thing.dots)
            for dot, y, number in zip(thing.dots, heights, numbers, strict=True):
                self._add_number(parts, dot, y, number)
        self._add_branches(parts)
        figure.update_layout(annotations=parts.notes, shapes=parts.lines)
        self._dots.add_dots(figure, every)
        figure.update_traces(marker={"size": 7})
        figure.update_yaxes(range=[-self.height, 0], showticklabels=False, ticks="", showgrid=False, zeroline=False)
        figure.update_xaxes(range=[self.low, self.high], zeroline=False, nticks=7)
        return figure

    @cached_property
    def _dots(self) -> DotRows:
        return DotRows(
            [("", [dot for group in self.groups for row in group.rows for dot in row.dots])], self.low, self.high
        )

    @cached_property
    def _deepest(self) -> int:
        return max((row.depth for group in self.groups for row in group.rows), default=0)

    @property
    def _step(self) -> float:
        """Pixels of a step, fewer where the rows stand in many times."""
        return min(_STEP, _DEEPEST / max(1, self._deepest))

    @cached_property
    def _placed(self) -> list[tuple[StackedGroup | StackedRow, float]]:
        """Every heading and row with its upper edge, in pixels from the top."""
        placed: list[tuple[StackedGroup | StackedRow, float]] = []
        edge = 0.0
        for group in self.groups:
            for thing in (group, *group.rows):
                placed.append((thing, edge))
                edge += self._room(thing)
        return placed

    def _room(self, thing: StackedGroup | StackedRow) -> float:
        """The pixels of a heading with its keys, or of a row."""
        if isinstance(thing, StackedGroup):
            return _HEADING + _LINE * len(thing.keys) + _GAP
        return _LINE * len(self._lines(thing)) + _DOT * len(thing.dots) + _GAP

    def _lines(self, row: StackedRow) -> list[str]:
        """The words of a row in lines that a phone shows, the name bold; nothing in them is taken for HTML."""
        name, text = (visible(words, spaces=False, longest=160) if words else "" for words in (row.name, row.text))
        room = _PHONE - self._step * row.depth
        lines, bold = style.fitted(f"{name} {text}".rstrip(), room, style.SMALL).split("<br>"), joined(name)
        if len(lines) <= _MOST_LINES and lines[0].startswith(bold):
            return [f"<b>{bold}</b>{lines[0][len(bold) :]}", *lines[1:]]
        (first,) = _fitted(name, room - 20, most=1)  # bold is wider
        return [f"<b>{first}</b>", *(_fitted(text, room - 12, most=_MOST_LINES) if text else [])]

    def _x(self, depth: int) -> float:
        """Where words of a depth begin, in pixels from the left edge of the plot."""
        return _EDGE + self._step * depth - self.left

    def _add_heading(self, parts: _Parts, group: StackedGroup, top: float) -> None:
        _annotate(parts, f"<b>{group.heading}</b>", y=-(top + 4), xshift=self._x(0), colour=style.INK, size=style.TEXT)
        for i, (text, colour) in enumerate(group.keys):
            y = -(top + _HEADING + _LINE * i)
            _annotate(parts, f"● {text}", y=y, xshift=self._x(0), colour=colour, size=style.SMALL)

    def _add_words(self, parts: _Parts, text: str, top: float, depth: int) -> None:
        _annotate(parts, text, y=-top, xshift=self._x(depth), colour=style.INK, size=style.SMALL)

    def _add_number(self, parts: _Parts, dot: Dot, y: float, number: str) -> None:
        """A number behind the interval of a dot, or before it where there is no room behind."""
        if not number or not self.low <= dot.value <= self.high:
            return
        ends = [max(min(end, self.high), self.low) if end == end else dot.value for end in (dot.low, dot.high)]
        behind = ends[1] < self.low + 0.8 * (self.high - self.low)
        parts.notes.append(
            {
                "text": f"<b>{number}</b>",
                "x": ends[1] if behind else ends[0],
                "xshift": 6 if behind else -6,
                "xanchor": "left" if behind else "right",
                "y": y,
                "yanchor": "middle",
                "showarrow": False,
                "bgcolor": style.PAPER,
                "borderpad": 0,
                "font": {"size": style.SMALL, "color": dot.colour},
            }
        )

    def _add_branches(self, parts: _Parts) -> None:
        """Lines from each row down to those that hang from it."""
        tops = {id(thing): top for thing, top in self._placed}
        for group in self.groups:
            lowest: dict[int, float] = {}
            for row in group.rows:
                if row.parent is None:
                    continue
                y = -(tops[id(row)] + _LINE / 2 + 1)
                trunk = self._x(group.rows[row.parent].depth) + 4
                _line(parts, (trunk, self._x(row.depth) - 3), (y, y))
                lowest[row.parent] = y
            for parent, y in lowest.items():
                row = group.rows[parent]
                trunk = self._x(row.depth) + 4
                _line(parts, (trunk, trunk), (-(tops[id(row)] + _LINE * len(self._lines(row)) + 1), y))


def _fitted(text: str, room: float, *, most: int) -> list[str]:
    """The text in lines of so many pixels, at most `most`; the last one says where it is cut."""
    lines = style.fitted(text, room, style.SMALL).split("<br>")
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]}…"]


def _annotate(parts: _Parts, text: str, *, y: float, xshift: float, colour: str, size: int) -> None:
    """Words on paper that hide the grid behind them, their upper edge at a height."""
    parts.notes.append(
        {
            "text": text,
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "xshift": xshift,
            "y": y,
            "yanchor": "top",
            "align": "left",
            "showarrow": False,
            "borderpad": 0,
            "bgcolor": style.PAPER,
            "font": {"size": size, "color": colour},
        }
    )


def _line(parts: _Parts, x: tuple[float, float], y: tuple[float, float]) -> None:
    """A line whose ends are so many pixels from the left edge of the plot."""
    parts.lines.append(
        {
            "type": "line",
            "xref": "paper",
            "xsizemode": "pixel",
            "xanchor": 0,
            "x0": x[0],
            "x1": x[1],
            "y0": y[0],
            "y1": y[1],
            "line": {"width": 1, "color": style.EDGE},
        }
    )
