"""What stands in the cells of a table: numbers, intervals, several of them; and the table around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: Any, digits: int = 3) -> str:
    """A number, or a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def ends(of: Mapping[str, Any], digits: int = 3) -> str:
    """A value with its interval; `value` or `values`."""
    return three([of.get("value", of.get("values")), of.get("low"), of.get("high")], digits)


def three(of: Sequence[float | None] | None, digits: int = 0) -> str:
    """A value and both ends of its interval."""
    if of is None or of[0] is None:
        return "–"
    return number(of[0], digits) + ("" if of[1] is None else f" ({of[1]:,.{digits}f} to {of[2]:,.{digits}f})")


def several(values: Sequence[Any], digits: int) -> str:
    """Numbers with commas between."""
    return ", ".join(number(v, digits) for v in values)
