"""The stylesheet that the lab and the report share: the palette as variables, light and dark, and what looks alike."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from nanogpt_lens.viz.style import DARK, FONT, LIGHT, MONOSPACE

_OF_PALETTE = {
    "bg": "page",
    "card": "paper",
    "ink": "ink",
    "mut": "muted",
    "line": "line",
    "edge": "missing",
    "cell": "cell",
    "acc": "accent",
    "pos": "teal",
    "neg": "rust",
    "heat": "amber",
    "good": "good",
    "bad": "bad",
}
"""The variables that are colours of the palette, without their two dashes."""

_LIGHT = {
    "on": "#ffffff",
    "deep": "#1c2230",
    "was": "#d8d4cb",
    "beside": "#9a6bd1",
    "shadow": "0 1px 2px #1c22300f, 0 6px 20px #1c22300a",
    "most": "1",  # how much of a colour a cell takes at most: words on it stay readable
}
_DARK = {
    "on": "#0f1116",
    "deep": "#0f1116",
    "was": "#4a5160",
    "beside": "#b48ef0",
    "shadow": "none",
    "most": ".5",
}


def variables(place: str, *, follows: bool) -> str:
    """The rules that set the variables.

    Args:
        place: the selector of the element that has them; `[data-theme="dark"]` or "light" on it chooses.
        follows: without such a choice, the dark follows the system.
    """
    light = f"{place}{{{_declared(LIGHT, _LIGHT)};--font:{FONT};--mono:{MONOSPACE};color-scheme:light}}"
    dark = f"{_declared(DARK, _DARK)};color-scheme:dark"
    chosen = f'{place}[data-theme="dark"]{{{dark}}}'
    system = f"@media (prefers-color-scheme:dark){{{place}:not([data-theme]){{{dark}}}}}" if follows else ""
    return "\n".join([light, chosen, system])


@cache
def house_style(place: str, *, follows: bool = False) -> str:
    """The variables, see `variables`, and the rules that the lab and the report share."""
    text = (files("nanogpt_lens.viz") / "web" / "house.css").read_text("utf-8").replace("\r\n", "\n")
    return f"{variables(place, follows=follows)}\n{text}"


def _declared(palette: dict[str, str], more: dict[str, str]) -> str:
    values = {name: palette[meaning] for name, meaning in _OF_PALETTE.items()} | more
    return ";".join(f"--{name}:{value}" for name, value in values.items())
