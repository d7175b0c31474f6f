"""The house style: one font, and the palette, in which a colour means one thing (docs/STYLE.md).

Every colour has a name that says what it is for, and a light and a dark value. Figures are made light; in the dark,
`viz.shades.dark` and the script of a page exchange each of their colours by the table `DARK_OF`.
"""

from __future__ import annotations

import math
from functools import cache
from textwrap import wrap
from typing import Any

from nanogpt_lens.viz.tokens import joined

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

LIGHT = {
    "ink": "#1c2230",  # words
    "muted": "#656c7b",  # words that may be skipped, axes, chance
    "line": "#e7e4de",  # grids and frames
    "edge": "#aab0ba",  # the line at zero
    "paper": "#ffffff",  # behind a figure; where a scale has nothing
    "page": "#faf9f7",  # behind the paper
    "cell": "#f3f1ec",  # behind small things
    "missing": "#d6d2ca",  # not measured, or hidden by the causal mask
    "other": "#9aa1ac",  # out, as trained, one of many
    "accent": "#2b62d9",  # in, with your change; the end of attention, probability, a score from zero
    "teal": "#1f7a8c",  # above zero, above chance
    "rust": "#c8502f",  # below
    "amber": "#e3a23c",  # what a part costs
    "good": "#1a7f5a",
    "bad": "#b3261e",
    "on_pale": "#04060a",  # letters on a cell, see `viz.shades.letters_on`
    "on_middle": "#000102",
    "on_deep": "#fffffe",
}
"""The palette on white paper, by meaning."""

DARK = {
    "ink": "#e9eaef",
    "muted": "#99a1b1",
    "line": "#2a2f3a",
    "edge": "#4a5160",
    "paper": "#1a1d25",
    "page": "#12141a",
    "cell": "#232732",
    "missing": "#3a4150",
    "other": "#727a89",
    "accent": "#7aa2ff",
    "teal": "#4fb3c4",
    "rust": "#f0805c",
    "amber": "#d99a35",
    "good": "#4cc79a",
    "bad": "#ff8a7a",
    "on_pale": "#fefefe",
    "on_middle": "#000102",
    "on_deep": "#000102",
}
"""The same names in the dark."""

INK, MUTED, GRID, PAPER, MISSING = (LIGHT[name] for name in ("ink", "muted", "line", "paper", "missing"))
PAGE, CELL, EDGE, OTHER, ACCENT = (LIGHT[name] for name in ("page", "cell", "edge", "other", "accent"))
TEAL, RUST, AMBER, GOOD, BAD = (LIGHT[name] for name in ("teal", "rust", "amber", "good", "bad"))

SEQUENTIAL = ("#ffffff", "#dae6fb", "#b6ccf6", "#93b3f1", "#7099ea", "#4e7ee2", "#2b62d9")
"""Attention, probability, a score from zero: white to blue. Equal steps in OKLab, as the two below."""

COST = ("#ffffff", "#fbf0e1", "#f7e1c3", "#f2d1a5", "#eec286", "#e8b264", "#e3a23c")
"""Loss, surprise, rise of the loss: white to amber."""

_RUST = ("#c8502f", "#d46f54", "#e08d76", "#eaa998", "#f2c6ba", "#f9e2dc")
_TEAL = ("#dbe8eb", "#b8d2d8", "#95bbc4", "#72a5b1", "#4d8f9f", "#1f7a8c")
DIVERGING = (*_RUST, "#ffffff", *_TEAL)
"""A value with a sign, or a score beside its chance level: rust below, white in the middle, teal above."""

HELPS, AGAINST = TEAL, RUST
"""What a part does for a measure: it falls without the part, or rises with it; or the other way round."""

CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Kinds of things: Okabe and Ito 2008; yellow, too pale on white, is grey here."""

DASHES = ("solid", "dash", "dot", "dashdot")
"""Behind the last colour the first comes back, dashed."""

_DARK_SCALES = {
    SEQUENTIAL: ("#1a1d25", "#283144", "#384666", "#475b8a", "#5872af", "#698ad7", "#7aa2ff"),
    COST: ("#1a1d25", "#36302d", "#534433", "#735937", "#936e39", "#b68439", "#d99a35"),
    _RUST: ("#f0805c", "#c96f54", "#a35e4c", "#7e4d43", "#5b3d39", "#3a2d2f"),
    _TEAL: ("#24333c", "#2e4a55", "#37636f", "#407d8a", "#4897a7", "#4fb3c4"),
    CATEGORIES: ("#3a94d4", "#e8772e", "#1fae85", "#d68fb4", "#e8ab2d", "#7cc4ee", "#9a9a9a", "#f4f5f8"),
}

DARK_OF = {
    **{light: dark for scale in _DARK_SCALES for light, dark in zip(scale, _DARK_SCALES[scale], strict=True)},
    **{LIGHT[name]: DARK[name] for name in LIGHT},
}
"""What each colour of a figure is in the dark: from "#rrggbb" to "#rrggbb"; two more digits, for how opaque, stay."""

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


def stops(colours: tuple[str, ...], low: float = 0.0, high: float = 1.0) -> list[list[Any]]:
    """A Plotly colour scale of colours at equal distances, or of a part of them, from `low` to `high` of 0 to 1.

    Of a part, the ends have the nearest of the colours: every colour of a scale is in `DARK_OF`.
    """
    last = len(colours) - 1
    kept = [i for i in range(last + 1) if low - 1e-9 <= i / last <= high + 1e-9]
    places = [[(i / last - low) / (high - low), colours[i]] for i in kept]
    for end, i in ((0.0, round(low * last)), (1.0, round(high * last))):
        if not any(abs(place - end) < 1e-9 for place, _ in places):
            places.append([end, colours[i]])
    return sorted([[min(1.0, max(0.0, round(place, 6))), colour] for place, colour in places])


def colours(low: float, high: float, *, signed: bool, cost: bool = False, falls_helps: bool = False) -> dict[str, Any]:
    """A colour axis: centred at zero for signed quantities, from zero for others.

    Args:
        low, high: of the values, or the bounds of the quantity; nan where there are none.
        signed: whether negative and positive mean different things.
        cost: whether it is what something costs: amber instead of blue.
        falls_helps: whether values are what parts change by being absent: below zero is what helps, and is teal.
    """
    low, high = (float(f"{value:.5g}") if math.isfinite(value) else 0.0 for value in (low, high))
    if signed:
        bound = max(abs(low), abs(high)) or 1.0
        return {
            "colorscale": stops(DIVERGING[::-1] if falls_helps else DIVERGING),
            "cmin": -bound,
            "cmax": bound,
            "cmid": 0.0,
        }
    scale = stops(COST if cost else SEQUENTIAL)
    if high <= 0 and low < 0:  # all below zero, such as log-probabilities: dark is zero
        return {"colorscale": scale, "cmin": low, "cmax": 0.0}
    return {"colorscale": scale, "cmin": min(0.0, low), "cmax": high if high > 0 else 1.0}


def beside_chance(chance: float, *, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    """A colour axis of a score with a chance level: white at chance, teal up to `high`, rust as far below.

    A score that can hardly fall below chance is hardly ever rust: a distance has one shade on both sides.

    Args:
        chance: between `low` and `high`.
        low, high: the score's bounds.
    """
    chance = min(max(chance, low), high)
    far = max(high - chance, chance - low) or 1.0
    first, last = (0.5 + 0.5 * (end - chance) / far for end in (low, high))
    return {"colorscale": stops(DIVERGING, first, last), "cmin": low, "cmax": high}


def readable_end(largest: float, noise: float = 0.0) -> float:
    """The end of a scale of a quantity without a bound: the next of 1, 2, 5 times a power of ten.

    Args:
        largest: the largest magnitude.
        noise: about half the width of the intervals; the scale reaches four times as far, so that noise is pale.
    """
    wanted = max(largest, 4 * noise)
    if not math.isfinite(wanted) or wanted <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(wanted))
    return float(f"{next(step * power for step in (1, 2, 5, 10) if wanted <= step * power * (1 + 1e-9)):.5g}")


def colour_of(i: int) -> str:
    """The i-th categorical colour; after the last comes the first."""
    return CATEGORIES[i % len(CATEGORIES)]


def dash_of(i: int) -> str:
    """What sets the i-th line apart where colours come back."""
    return DASHES[i // len(CATEGORIES) % len(DASHES)]


def faint(colour: str, opacity: float = 0.18) -> str:
    """A colour, such as "#0072b2", that one can see through, as "#0072b22e": of an interval's band."""
    return f"{colour}{round(255 * opacity):02x}"


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
        "zerolinecolor": EDGE,
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
