"""From a drawing to a finished figure: title, margins, legend, and a short caption below it all.

The caption says what is needed to read the picture; the whole of it, with what a repetition needs, is in
`figure.layout.meta["caption"]` and behind the short one, as a hover text.

A drawing says how high its plotting area is and what stands around it, in pixels. So everything has its place
whatever the width: nothing is put where Plotly's automatic margins would have to move it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

import nanogpt_lens.viz.figures.cells as cells
from nanogpt_lens.viz import style
from nanogpt_lens.viz.tokens import JOINER, visible

_LINE = 14  # pixels of a line of the caption
_TITLE, _TITLE_SIZE = 19, 15  # pixels of a line of the title, and of its letters
_ENTRY = 20  # of a row of the legend
_NARROW = 360  # a phone
_ANYWHERE = 690  # pixels of a caption whose figure has no width: Plotly's own `write_image` makes 700
_PHONE_TITLE, _OWN_TITLE = 318, 376  # pixels of a line of the title where the figure has no width, see `_title_lines`


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure without its frame.

    Attributes:
        figure: traces and axes.
        title: short; may hold labels, as they are.
        notes: sentences for the caption that say what is shown.
        definition: what the numbers are; None for the result's own.
        intervals_told: whether the notes, or the definition, say what the intervals are.
        plot: height of the plotting area, in pixels.
        left, right: margins for ticks and their axis' title.
        above: between title and plot: a colour bar, titles of panels.
        below: ticks and title of the x axis.
        legend: whether there is one; it stands below.
    """

    figure: go.Figure
    title: str
    notes: tuple[str, ...] = ()
    definition: str | None = None
    intervals_told: bool = False
    plot: int = 300
    left: int = 64
    right: int = 18
    above: int = 10
    below: int = 48
    legend: bool = False


def figure_of(
    drawing: Drawing, caption: str, short: str, *, title: str | None, width: int | None, height: int | None
) -> go.Figure:
    """The figure with its frame; without `width` it takes the width of its place.

    Args:
        drawing: what is in the frame.
        caption: the whole of it.
        short: what of it stands below the figure.
        title: in place of the drawing's; None for that.
        width, height: in pixels; None for that of its place, and for what it needs.
    """
    style.template()
    figure = drawing.figure
    heading = _visible_lines(drawing.title if title is None else title)
    lines = _title_lines(heading, width, users=title is not None)
    top = (16 + _TITLE * (lines.count("<br>") + 1) if lines else 6) + drawing.above
    below = drawing.below + _LINE * _wrapped_axes(figure, drawing)
    figure.update_layout(
        template=style.TEMPLATE,
        title={"text": lines, "pad": {"t": _title_pad(lines)}},
        showlegend=drawing.legend,
        margin={"l": drawing.left, "r": drawing.right, "t": top, "b": below},
        height=top + drawing.plot + below,
        width=width,
        meta={"caption": _visible_lines(caption), "short": _visible_lines(short)},
    )
    return captioned(figure, width or _ANYWHERE, height, legend=width or _NARROW)


def captioned(figure: go.Figure, width: int, height: int | None = None, *, legend: int | None = None) -> go.Figure:
    """The figure with legend and caption arranged for a width in pixels; changed in place.

    Args:
        figure: one of ours, with its caption or without.
        width: of the whole figure.
        height: of the whole figure; None for what the plotting area needs.
        legend: the width that it is arranged for; None for `width`.
    """
    bare, caption, below = _taken_off(figure)
    layout: Any = bare.layout
    cells.for_width(bare, width)
    lines = style.fitted((layout.meta or {}).get("short", caption), width - 20, style.SMALL)
    keys = _add_room(bare, below, legend or width)
    margin, high = layout.margin, _caption_height(lines)
    note = go.layout.Annotation(
        name="caption",
        text=lines,
        showarrow=False,
        align="left",
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        xanchor="left",
        yanchor="top",
        xshift=10 - margin.l,
        yshift=-margin.b,
        font={"size": style.SMALL, "color": style.MUTED},
        hovertext=style.fitted(caption, _NARROW, style.SMALL),
        captureevents=True,
        ay=below,  # without an arrow it is ours: see `_taken_off`
    )
    layout.annotations = (*layout.annotations, note)
    bare.update_layout(height=height or layout.height + high, margin={"b": margin.b + high})
    _place_around(bare, high + keys)
    return bare


def retitled(figure: go.Figure, width: int) -> go.Figure:
    """The figure with its title in lines for a width in pixels; a title that the user wrapped stays. Changed in place.

    A figure without a width has its title in lines for a phone: a picture of a known width has more room.
    """
    layout: Any = figure.layout
    text = layout.title.text or ""
    heading = text.replace("<br>", " ").replace(JOINER, "")
    lines = _title_lines(heading, width)
    if text == lines or text not in (_title_lines(heading, layout.width, users=users) for users in (False, True)):
        return figure
    grown = _TITLE * (lines.count("<br>") - text.count("<br>"))
    figure.update_layout(
        title={"text": lines, "pad": {"t": _title_pad(lines)}},
        margin={"t": layout.margin.t + grown},
        height=layout.height + grown,
    )
    return figure


def uncaptioned(figure: go.Figure) -> tuple[go.Figure, str]:
    """A copy without the caption and the room for it, and the caption as plain text."""
    bare, caption, below = _taken_off(go.Figure(figure))
    layout: Any = bare.layout
    _place_around(bare, _add_room(bare, below, layout.width or _NARROW))
    return bare, caption


def _add_room(figure: go.Figure, below: int, width: int) -> int:
    """Make room for the legend, under the axes' `below` pixels; returns how much it is."""
    layout: Any = figure.layout
    legend = _legend_height(figure, width) if layout.showlegend else 0
    figure.update_layout(height=layout.height + legend, margin={"b": below + legend})
    return legend


def _taken_off(figure: go.Figure) -> tuple[go.Figure, str, int]:
    """The same figure without caption and legend below the axes, the caption, and the pixels of the axes below."""
    layout: Any = figure.layout
    caption = (layout.meta or {}).get("caption", "")
    others, notes = [], []
    for note in layout.annotations:
        (notes if note.name == "caption" else others).append(note)
    if not notes:
        return figure, caption, int(layout.margin.b)
    below = int(notes[0].ay)
    layout.annotations = tuple(others)
    figure.update_layout(height=layout.height - (layout.margin.b - below), margin={"b": below})
    return figure, caption, below


def _place_around(figure: go.Figure, top: int) -> None:
    """The legend below the axes, its upper edge `top` pixels above the bottom; the colour bar on top of the plot."""
    layout: Any = figure.layout
    for name in [key for key in layout if key.startswith("coloraxis")]:
        if layout[name].colorbar.yref == "container":
            layout[name].colorbar.y = max(0.0, 1 - (layout.margin.t + 8) / layout.height)
    if layout.showlegend:
        figure.update_layout(
            legend={
                "orientation": "h",
                "xref": "container",
                "x": 0.01,
                "xanchor": "left",
                "yref": "container",
                "y": min(1.0, max(0.0, (top - 6) / layout.height)),
                "yanchor": "top",
                "font": {"size": style.TEXT},
                "itemsizing": "trace",
                "tracegroupgap": 0,
            }
        )


def _wrapped_axes(figure: go.Figure, drawing: Drawing) -> int:
    """Wrap the axes' titles, those below for a phone; returns by how many lines that at the bottom grew."""
    across, most = _NARROW - drawing.left - drawing.right, 0

    def below(axis: Any) -> None:
        nonlocal most
        if axis.title.text:
            axis.title.text = style.broken(axis.title.text, max(18, int(across * _part(axis) / (0.56 * style.TEXT))))
            most = max(most, axis.title.text.count("<br>"))

    def beside(axis: Any) -> None:
        if axis.title.text:
            room = drawing.plot * _part(axis)
            axis.title.text = style.broken(axis.title.text, max(14, int(room / (0.56 * style.TEXT))))

    figure.for_each_xaxis(below)
    figure.for_each_yaxis(beside)
    return most


def _part(axis: Any) -> float:
    """The share of the plotting area that an axis spans."""
    domain = axis.domain or (0.0, 1.0)
    return max(0.05, domain[1] - domain[0])


def _legend_height(figure: go.Figure, width: int) -> int:
    """Pixels of a horizontal legend: in one row if all entries fit, else in columns as wide as the widest."""
    traces: Any = figure.data
    names = [str(trace.name) for trace in traces if trace.showlegend is not False and trace.name]
    if not names:
        return 0
    each = [58 + style.wide(name) for name in names]
    rows = 1 if sum(each) <= width - 20 else math.ceil(len(names) / max(1, int((width - 20) // max(each))))
    return 16 + _ENTRY * rows


def _caption_height(lines: str | None) -> int:
    return _LINE * ((lines or "").count("<br>") + 1) + 12


def _title_lines(heading: str, width: int | None, *, users: bool = False) -> str:
    """A title in lines; without a width ours fit the report on a phone, the `users` have about 44 letters."""
    return style.fitted(heading, (_OWN_TITLE if users else _PHONE_TITLE) if width is None else width - 20, _TITLE_SIZE)


def _title_pad(lines: str) -> int:
    """Pixels above a title; Plotly moves one of several lines up, by as much whatever their number."""
    return 22 if "<br>" in lines else 10


def _visible_lines(text: str) -> str:
    """Words of ours around labels, every character visible; white space stays."""
    return visible(text.replace(JOINER, ""), spaces=False, longest=6000)
