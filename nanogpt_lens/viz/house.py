"""The stylesheet that the lab and the report share: the palette as variables, light and dark, and what looks alike."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from nanogpt_lens.viz.style import FONT, MONOSPACE

LIGHT = {
    "bg": "#faf9f7",
    "card": "#ffffff",
    "ink": "#1c2230",
    "mut": "#656c7b",
    "line": "#e7e4de",
    "edge": "#d6d2ca",
    "cell": "#f3f1ec",
    "acc": "#2b62d9",
    "pos": "#1f7a8c",
    "neg": "#c8502f",
    "heat": "#e3a23c",
    "good": "#1a7f5a",
    "bad": "#b3261e",
    "on": "#ffffff",
    "deep": "#1c2230",
    "was": "#d8d4cb",
    "beside": "#9a6bd1",
    "shadow": "0 1px 2px #1c22300f, 0 6px 20px #1c22300a",
    "most": "1",  # how much of a colour a cell takes at most: words on it stay readable
}
"""The variables on paper, without their two dashes."""

DARK = {
    "bg": "#12141a",
    "card": "#1a1d25",
    "ink": "#e9eaef",
    "mut": "#99a1b1",
    "line": "#2a2f3a",
    "edge": "#3a4150",
    "cell": "#232732",
    "acc": "#7aa2ff",
    "pos": "#4fb3c4",
    "neg": "#f0805c",
    "heat": "#d99a35",
    "good": "#4cc79a",
    "bad": "#ff8a7a",
    "on": "#0f1116",
    "deep": "#0f1116",
    "was": "#4a5160",
    "beside": "#b48ef0",
    "shadow": "none",
    "most": ".56",
}
"""The same in the dark."""


def variables(place: str, *, follows: bool) -> str:
    """The rules that set the variables.

    Args:
        place: the selector of the element that has them; `[data-theme="dark"]` or "light" on it chooses.
        follows: without such a choice, the dark follows the system.
    """
    light = f"{place}{{{_declared(LIGHT)};--font:{FONT};--mono:{MONOSPACE};color-scheme:light}}"
    dark = f"{_declared(DARK)};color-scheme:dark"
    chosen = f'{place}[data-theme="dark"]{{{dark}}}'
    system = f"@media (prefers-color-scheme:dark){{{place}:not([data-theme]){{{dark}}}}}" if follows else ""
    return "\n".join([light, chosen, system])


@cache
def house_style(place: str, *, follows: bool = False) -> str:
    """The variables, see `variables`, and the rules that the lab and the report share."""
    text = (files("nanogpt_lens.viz") / "web" / "house.css").read_text("utf-8").replace("\r\n", "\n")
    return f"{variables(place, follows=follows)}\n{text}"


def _declared(values: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in values.items())
