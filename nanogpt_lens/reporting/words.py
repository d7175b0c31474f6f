"""How the report writes numbers, names and commands."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.viz.tokens import visible

NEGLIGIBLE = 0.0005
"""What is smaller is written as 0.000 and not called a difference."""


def number(value: Any, digits: int = 3) -> str:
    """A number with some digits after the point; a dash for nan and None. Minus is a minus sign."""
    plain = math.nan if value is None else float(value)
    if math.isnan(plain):
        return "–"
    text = f"{plain:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "−")


def interval(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    """A value and its interval: 1.598 (1.590 to 1.606)."""
    if low is None or high is None or math.isnan(float(low)):
        return number(value, digits)
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def at(tensor: Shaped[Tensor, " ..."] | None, *place: int) -> float | None:
    """One number of a tensor that need not be there."""
    return None if tensor is None else float(tensor[place])


def count(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}"


def percent(share: Any, digits: int = 0) -> str:
    """A share of 1 in percent."""
    return f"{100 * float(share):.{digits}f}%"


def share(value: Any) -> str:
    """A share of 1 in percent, with the digits that it deserves: whole from 10% on, below with one behind the point."""
    plain = float(value)
    if math.isnan(plain):
        return "–"
    text = f"{100 * plain:.{0 if abs(plain) >= 0.0995 else 1}f}%".replace("-", "−")
    return "0%" if text in ("0.0%", "−0.0%") else text


def measured(value: Any, low: Any = None, high: Any = None) -> str:
    """A number with as many digits as its interval leaves, at most three behind the point; two where there is none."""
    if low is None or high is None or not math.isfinite(float(high) - float(low)):
        return number(value, 2)
    half = (float(high) - float(low)) / 2
    return number(value, 3 if half <= 0 else max(0, min(3, math.ceil(-math.log10(half) - 1e-9))))


def heads_named(pairs: Iterable[tuple[int, int]], *, most: int = 3) -> str:
    """Heads in a sentence, which are no numbers: head 0.3; heads 0.3 and 1.2; heads 0.3, 1.2, 1.3 and 5 more."""
    names = [f"{layer}.{head}" for layer, head in pairs]
    if len(names) == 1:
        return f"head {names[0]}"
    shown = names if len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return f"heads {list_of(shown)}"


def plural(n: int, one: str, several: str = "") -> str:
    """A number and its noun: 1 head, 3 heads."""
    return f"{n} {one if n == 1 else several or one + 's'}"


def list_of(parts: Sequence[str], *, last: str = "and") -> str:
    """Words as a list: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""


def quoted(token: str, *, longest: int = 40) -> str:
    """A token between quotes, every character visible."""
    return f"“{visible(token, longest=longest)}”"


def line_of(text: str, *, longest: int = 2000) -> str:
    """A text of any length on one line, every character visible; spaces stay."""
    return visible(text, spaces=False, longest=longest)


def shell(argument: str) -> str:
    """An argument for bash; what cannot be printed is escaped, so that it survives copying."""
    if argument.isprintable():
        return shlex.quote(argument)
    escapes = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}

    def escape(char: str) -> str:
        if char in escapes:
            return escapes[char]
        if char.isprintable():
            return char
        code = ord(char)
        return f"\\x{code:02x}" if code < 128 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"

    return f"$'{''.join(map(escape, argument))}'"


def command(*parts: str) -> str:
    """A line for bash; the first two words are ours, the rest is quoted."""
    return " ".join(shell(part) for part in parts)


def short_path(path: str | Path) -> str:
    """A path for a reader elsewhere: as it was given where it is relative, else its last part (two for ckpt.pt)."""
    place = Path(path).expanduser()
    if not place.is_absolute():
        return str(path)
    parts = place.parts[-2:] if place.suffix == ".pt" else place.parts[-1:]
    return str(Path(*[part for part in parts if part != place.anchor])) or str(path)


def without_folders(text: str, folders: Iterable[Path]) -> str:
    """A message without the folders of this machine that stand in front of its file names."""
    for folder in sorted({str(folder) for folder in folders}, key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(f"{folder}/", "")
    return text


def anchor(text: str) -> str:
    """Part of an id: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
