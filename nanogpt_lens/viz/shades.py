"""Shades of a scale, the letters that can be read on them, and figures in the dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import plotly.graph_objects as go

from nanogpt_lens.viz import style

ENOUGH = 4.5
"""The least contrast between letters and what is behind them (WCAG 2.2)."""

DARK_TEMPLATE = f"{style.TEMPLATE}_dark"
"""The name of our Plotly template in the dark."""


def luminance(colour: str) -> float:
    """The relative luminance of "#rrggbb", from 0 to 1."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """How well one colour is read on another, from 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def shade(scale: Sequence[Sequence[Any]], share: float, *, dark: bool = False) -> str:
    """The colour of a Plotly scale at a share of it, as Plotly mixes it; in the dark by `style.DARK_OF`."""
    share = min(max(share, 0.0), 1.0)
    places = [float(place) for place, _ in scale]
    i = max(j for j, place in enumerate(places) if place <= share or j == 0)
    if i == len(places) - 1:
        i -= 1
    ends = [style.DARK_OF[colour] if dark else colour for _, colour in (scale[i], scale[i + 1])]
    part = (share - places[i]) / (places[i + 1] - places[i])
    a, b = ([int(end[c : c + 2], 16) for c in (1, 3, 5)] for end in ends)
    return "#" + "".join(f"{round(x + (y - x) * part):02x}" for x, y in zip(a, b, strict=True))


def letters_on(light: str, dark: str) -> str:
    """The colour of letters on a cell that is `light` on white paper and `dark` in the dark: read in both.

    It is one of the palette's three, which differ in what they become in the dark.
    """
    pairs = [(style.LIGHT[name], style.DARK[name]) for name in ("on_pale", "on_deep", "on_middle")]
    return max(pairs, key=lambda pair: min(contrast(pair[0], light), contrast(pair[1], dark), ENOUGH))[0]


def letters(axis: Mapping[str, Any], values: Sequence[float]) -> list[str]:
    """The colour of the letters on each cell of a heat map.

    Args:
        axis: the colour axis: `colorscale`, `cmin`, `cmax`.
        values: of the cells; nan for none.
    """
    scale = tuple((float(place), str(colour)) for place, colour in axis["colorscale"])
    low, high = float(axis["cmin"]), float(axis["cmax"])
    return [_letters(scale, round((value - low) / (high - low), 3) if value == value else None) for value in values]


@cache
def _letters(scale: tuple[tuple[float, str], ...], share: float | None) -> str:
    if share is None:
        return letters_on(style.MISSING, style.DARK_OF[style.MISSING])
    return letters_on(shade(scale, share), shade(scale, share, dark=True))


def dark(figure: go.Figure) -> go.Figure:
    """A copy of one of our figures with dark paper; other colours than the palette's stay."""
    plain = figure.to_plotly_json()
    template = plain.get("layout", {}).pop("template", None)
    made = go.Figure(_exchanged(plain, within_colour=False))
    if template is not None:
        _dark_template()
        made.update_layout(template=DARK_TEMPLATE)
    return made


def in_the_dark(colour: str) -> str:
    """A colour in the dark, "#rrggbb" or with two more digits for how opaque it is; one that is not ours as it is."""
    known = style.DARK_OF.get(colour[:7].lower())
    return colour if known is None or len(colour) not in (7, 9) else known + colour[7:]


@cache
def _dark_template() -> go.layout.Template:
    import plotly.io as pio

    made = go.layout.Template(_exchanged(style.template().to_plotly_json(), within_colour=False))
    pio.templates[DARK_TEMPLATE] = made
    return made


def _exchanged(value: Any, *, within_colour: bool) -> Any:
    """The value, its colours exchanged: those below a key that has "color" in it; a label is not taken for one."""
    if isinstance(value, str):
        return in_the_dark(value) if within_colour else value
    if isinstance(value, Mapping):
        return {key: _exchanged(part, within_colour=within_colour or _is_colour(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_exchanged(part, within_colour=within_colour) for part in value]
    return value


def _is_colour(key: str) -> bool:
    return "color" in key and not key.startswith(("colorbar", "coloraxis"))
