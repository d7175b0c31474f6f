"""A figure whose title stands elsewhere: on a page, as a sentence above it."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

_LINE, _ABOVE = 19, 10  # pixels of a line of the title, and those that only a figure with a title has, see `drawing`


def untitled(figure: go.Figure) -> go.Figure:
    """The figure without its title and the room for it; changed in place.

    Args:
        figure: one of ours, without its caption.
    """
    layout: Any = figure.layout
    text = layout.title.text
    if not text:
        return figure
    room = _ABOVE + _LINE * (text.count("<br>") + 1)
    figure.update_layout(
        title={"text": None}, margin={"t": max(6, layout.margin.t - room)}, height=layout.height - room
    )
    if layout.coloraxis.colorbar.yref == "container":
        layout.coloraxis.colorbar.y = max(0.0, 1 - (layout.margin.t + 8) / layout.height)
    return figure
