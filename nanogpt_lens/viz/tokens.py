"""Tokens and labels as people may see them: visible, recognisable, and unable to run anything.

A vocabulary is untrusted. A token may be `</script><script>...`, an `<img onerror=...>`, a mark that turns the
line around, or nothing at all. Each place that shows one takes it through here:

    visible     text for a page that escapes it (Jinja, textContent), a file, a terminal
    harmless    text for libraries that read HTML in it (CircuitsVis, Plotly): neither a tag nor an entity is left
    safe_json   data inside a <script type="application/json">
    file_name   part of a file's name
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

JOINER = "\u2060"
"""WORD JOINER: invisible; behind "<" and "&" it leaves neither a tag nor an entity, in innerHTML and as plain text."""

MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥", " ": "·", "\u00a0": "⍽"}
"""What stands for white space."""

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_WIDE_JOINER = "\u200d"


def visible(text: str, *, spaces: bool = True, breaks: bool = False, longest: int = 40) -> str:
    """A token with its white space, control and direction characters made visible.

    Args:
        text: the token.
        spaces: show a space as a middle dot; otherwise it stays a space.
        breaks: keep a newline behind its mark.
        longest: characters after which it is cut.

    Returns:
        "∅" for the empty token; characters without a picture as their code, such as ⟨202E⟩.
    """
    characters = [_character(text, i, spaces=spaces, breaks=breaks) for i in range(min(len(text), longest))]
    return ("".join(characters) or "∅") + ("…" if len(text) > longest else "")


def _character(text: str, i: int, *, spaces: bool, breaks: bool) -> str:
    char = text[i]
    if char == " " and not spaces:
        return char
    if char in MARKS:
        return MARKS[char] + ("\n" if char == "\n" and breaks else "")
    if char == _WIDE_JOINER and 0 < i < len(text) - 1 and unicodedata.category(text[i + 1]) == "So":
        return char  # inside one emoji
    kind = unicodedata.category(char)
    if kind in _HIDDEN or (kind == "Zs" and char != " "):
        return f"⟨{ord(char):04X}⟩"
    if kind == "Mn" and i == 0:
        return f"◌{char}"  # a mark needs something to stand on
    return char


def harmless(text: str, *, spaces: bool = True, breaks: bool = False, longest: int = 40) -> str:
    """The text as `visible` has it, for libraries that take labels for HTML: "<" and "&" cannot begin anything."""
    return joined(visible(text, spaces=spaces, breaks=breaks, longest=longest))


def joined(text: str) -> str:
    """Text of ours around a label (a title, a caption), with "<" and "&" unable to begin anything."""
    return text.replace("<", "<" + JOINER).replace("&", "&" + JOINER)


def numbered(tokens: Iterable[str], *, longest: int = 12) -> list[str]:
    """Distinct axis labels for the tokens of a text, "3 ·the"; equal tokens stay apart, none is taken for a number."""
    return [f"{i} {harmless(token, longest=longest)}" for i, token in enumerate(tokens)]


def safe_json(data: Any) -> str:
    """JSON that may stand inside a <script> element; numbers with few digits are the caller's business.

    Raises:
        ValueError: nan or infinity.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def rounded(value: float, digits: int = 4) -> float | None:
    """A number with a few significant digits; None for nan and infinity."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def file_name(text: str, *, longest: int = 60) -> str:
    """A safe part of a file's name: letters, digits, dots, dashes, underscores; never empty, hidden or a path."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:longest].strip("-._")
    return kept or "unnamed"
