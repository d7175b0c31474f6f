"""The house style: one font, palettes that colour-blind people can read, scales centred at zero."""

from __future__ import annotations

import math
from functools import cache
from textwrap import wrap
from typing import Any

from nanogpt_lens.viz.tokens import joined

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

INK, MUTED, GRID, PAPER = "#1f2430", "#5c6370", "#e4e7ec", "#ffffff"

MISSING = "#cfd3da"
"""Behind a heat map: a cell without a value is grey, which neither colour scale has."""

CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Okabe and Ito 2008; yellow, too pale on white, is grey here."""

DASHES = ("solid", "dash", "dot", "dashdot")
"""Behind the last colour the first comes back, dashed."""

SEQUENTIAL = "Blues"
"""The colours from nothing (white) upwards."""

DIVERGING = "RdBu"
"""Red is negative, blue positive, as in CircuitsVis and TransformerLens' demonstrations; white is zero."""

WIDTH, HEIGHT = 760, 420
"""The size of a figure in pixels, where it does not take the width of its place."""

TEMPLATE = "nanogpt_lens"
"""The name of our Plotly template; figures carry it, Plotly's default stays as it is."""

_EXTENT = {
    char: width
    for width, chars in (
        (0.34, " ijlI.,|'·"),
        (0.42, "ft-:;()[]/\\!rJ"),
        (0.55, 'sczv?_*"“”'),
        (0.60, "kyxLF"),
        (0.64, "abdeghnopqu0123456789PTSEY$"),
        (0.70, "ABCKRVXZ"),
        (0.79, "DGHNOQU&"),
        (0.84, "w+=<>~#^"),
        (1.0, "mMW%@"),
    )
    for char in chars
}
"""Widths of letters in parts of their size, rounded upwards by classes."""

TEXT, SMALL = 12, 11
"""Sizes of letters in pixels: ticks and axes; captions and what stands in cells."""


def centred(largest: float) -> dict[str, Any]:
    """A Plotly colour scale that is white at zero, for values up to `largest` in magnitude."""
    bound = largest if largest > 0 else 1.0
    return {"colorscale": DIVERGING, "zmin": -bound, "zmax": bound, "zmid": 0.0}


def colours(low: float, high: float, *, signed: bool) -> dict[str, Any]:
    """A colour axis: centred at zero for signed quantities, from zero for others.

    Args:
        low, high: of the values; nan where there are none.
        signed: whether negative and positive mean different things.
    """
    low, high = (float(f"{value:.5g}") if math.isfinite(value) else 0.0 for value in (low, high))
    if signed:
        bound = max(abs(low), abs(high)) or 1.0
        return {"colorscale": DIVERGING, "cmin": -bound, "cmax": bound, "cmid": 0.0}
    if high <= 0 and low < 0:  # all below zero, such as log-probabilities: dark is zero
        return {"colorscale": SEQUENTIAL, "cmin": low, "cmax": 0.0}
    return {"colorscale": SEQUENTIAL, "cmin": min(0.0, low), "cmax": high if high > 0 else 1.0}


def colour_of(i: int) -> str:
    """The i-th categorical colour; after the last comes the first."""
    return CATEGORIES[i % len(CATEGORIES)]


def dash_of(i: int) -> str:
    """What sets the i-th line apart where colours come back."""
    return DASHES[i // len(CATEGORIES) % len(DASHES)]


def faint(colour: str, opacity: float = 0.18) -> str:
    """A colour, such as "#0072b2", that one can see through: of an interval's band."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def broken(text: str, width: int = 108) -> str:
    """Text for a figure, in lines; nothing in it is taken for HTML."""
    return "<br>".join(joined(line) for line in wrap(text, width, break_long_words=True) or [""])


def wide(text: str, size: int = TEXT) -> float:
    """About how many pixels a text is wide, on the safe side."""
    return sum(size if ord(char) > 0x2E80 else 0.6 * size for char in text)


def fitted(text: str, pixels: float, size: int = TEXT) -> str:
    """The text as `broken` has it, in lines that are at most so many pixels wide."""
    lines = [""]
    for word in text.split():
        if lines[-1] and extent(f"{lines[-1]} {word}", size) <= pixels:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for char in word:  # a word that is wider than a line
            if lines[-1] and extent(lines[-1] + char, size) > pixels:
                lines.append("")
            lines[-1] += char
    return "<br>".join(joined(line) for line in lines if line)


def extent(text: str, size: int = TEXT) -> float:
    """How many pixels a text is wide in DejaVu Sans, the widest of `FONT`; marks and emoji count as a wide letter."""
    return size * sum(_EXTENT.get(char, 1.0 if ord(char) > 0x7F else 0.66) for char in text)


@cache
def template() -> Any:
    """Our Plotly template, registered as `TEMPLATE`; a figure takes it with `template=style.TEMPLATE`."""
    import plotly.graph_objects as go
    import plotly.io as pio

    axis = {
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zerolinecolor": "#aab0ba",
        "zerolinewidth": 1,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": MUTED,
        "automargin": True,
        "tickfont": {"size": SMALL},
        "title": {"standoff": 8, "font": {"size": TEXT}},
    }
    made = go.layout.Template(
        layout={
            "font": {"family": FONT, "size": TEXT, "color": INK},
            "title": {
                "font": {"size": 15},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "yref": "container",
                "y": 1,
                "yanchor": "top",
                "pad": {"l": 10, "t": 10},
            },
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": list(CATEGORIES),
            "xaxis": axis,
            "yaxis": axis,
            "hovermode": "closest",
            "bargap": 0.25,
            "hoverlabel": {
                "align": "left",
                "bgcolor": PAPER,
                "font": {"family": FONT, "size": TEXT, "color": INK},
                "namelength": -1,
            },
            "coloraxis": {"colorbar": {"outlinewidth": 0, "ticks": "outside", "ticklen": 3, "tickcolor": MUTED}},
        }
    )
    pio.templates[TEMPLATE] = made
    return made
