"""Sentences and tables for people, at any width: words are wrapped, columns are left out and named, no name is cut."""

from __future__ import annotations

import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.cli.wording import in_words

_GAP, _LEAST_GAP = 2, 1
_NARROWEST = 14  # characters of a column of words, where the terminal is narrow
_NUMBER = re.compile(r"[-+<>=~≤\d]")


def width() -> int:
    """The columns that there are: `COLUMNS`, or the terminal's, or 80."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    from rich.console import Console

    return Console().width


def say(text: Any, *, style: str = "", indent: int = 0) -> None:
    """Print sentences, wrapped between words; a word that is longer than a line, such as a path, stays whole.

    Args:
        text: line breaks in it are kept.
        style: rich's, such as "bold"; seen on a terminal alone.
        indent: spaces before each further line of a sentence.
    """
    from rich.text import Text

    lines = [
        line
        for paragraph in str(text).split("\n")
        for line in textwrap.wrap(
            paragraph,
            width(),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        or [""]
    ]
    _write([Text(line, style=style) for line in lines])


def whole(text: str) -> None:
    """Print a line as it is, however long: what is to be copied."""
    from rich.text import Text

    _write([Text(text)])


def finding(text: Any) -> None:
    """Print what was found, which stands first, as a sentence."""
    say(as_sentence(str(text)), style="bold")


def as_sentence(text: str) -> str:
    """What was found, with a capital letter and a full stop, and in words."""
    said = in_words(text)
    first, dot = said[:1], "" if said[-1:] in ".!?:" else "."
    return (first.upper() if re.match(r"[a-z]+ ", said) else first) + said[1:] + dot


def note(text: Any, *, indent: int = 2) -> None:
    """Print how something was measured, or how to see more."""
    say(in_words(str(text)), style="dim", indent=indent)


def _write(lines: Sequence[Any]) -> None:
    """Print lines of rich's as they are, however long."""
    from rich.console import Console

    WAITING.done()
    console = Console(width=10_000, highlight=False)
    with console.capture() as written:
        for line in lines:
            console.print(line, soft_wrap=True)
    sys.stdout.write(written.get())
    sys.stdout.flush()


@dataclass(frozen=True)
class _Column:
    """A column, its cells, and whether they may be wrapped between words."""

    name: str
    cells: tuple[str, ...]
    wraps: bool

    @property
    def widest(self) -> int:
        """Characters that it needs on one line."""
        from rich.cells import cell_len

        return max(map(cell_len, (self.name, *self.cells)))

    @property
    def least(self) -> int:
        """Characters that it needs at least: the name is wrapped, and the cells where they may be."""
        from rich.cells import cell_len

        words = [word for text in (self.name, *(self.cells if self.wraps else ())) for word in text.split()]
        longest = max(map(cell_len, words), default=1)
        if self.wraps:
            return min(max(longest, min(self.widest, _NARROWEST)), self.widest)
        return max(longest, *map(cell_len, self.cells), 1)

    @property
    def numbers(self) -> bool:
        """Whether all cells that say something are numbers, which stand to the right."""
        said = [cell.strip() for cell in self.cells if cell.strip() not in ("", "-", "none")]
        return bool(said) and all(_NUMBER.match(cell) for cell in said) and not self.wraps


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    drop: Collection[str] = (),
    wrap: Collection[str] = (),
    fold: bool = False,
    more: str = "--csv has them",
    bad: Callable[[Sequence[str]], bool] | None = None,
) -> None:
    """Print a table for people that holds in the terminal.

    Where it is too wide, the header is wrapped first, then the columns in `wrap`; then those in `drop` are left out,
    the first one first, and a line says which and how to see them; if that is not enough, each row is a list.

    Args:
        header: the names of the columns.
        rows: the cells of each.
        drop: columns that can be left out, in this order.
        wrap: columns of words, which may take several lines.
        fold: print the columns that do not fit in further tables below, each with the first column again.
        more: how columns that are left out can be seen.
        bad: whether a row is one that failed, which is red.
    """
    columns = _columns(header, rows, wrap)
    room, hidden = width(), []
    for name in drop:
        if _needed(columns) <= room:
            break
        hidden += [c for c in columns if c.name == name]
        columns = [c for c in columns if c.name != name]
    if not rows:
        return
    failed = [bad is not None and bad(row) for row in rows]
    if fold and _needed(columns) > room and all(_needed([columns[0], c]) <= room for c in columns[1:]):
        _print_folded(columns, room, failed)
        return
    if _needed(columns) > room:
        hidden = []
        _print_rows_as_lists(header, rows)
    else:
        _print_columns(columns, room, failed)
    if hidden:
        note(f"left out for want of room: {'; '.join(c.name for c in hidden if c.name)} ({more}, or a wider window)")


def _print_folded(columns: Sequence[_Column], room: int, failed: Sequence[bool]) -> None:
    """As many tables as it takes, one below the other."""
    first, *rest = columns
    while rest:
        n = max(k for k in range(1, len(rest) + 1) if _needed([first, *rest[:k]]) <= room)
        _print_columns([first, *rest[:n]], room, failed)
        rest = rest[n:]
        if rest:
            say("")


def holds(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table holds in the terminal with all of its columns."""
    return _needed(_columns(header, rows, ())) <= width()


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]], wrap: Collection[str]) -> list[_Column]:
    cells = [tuple(" ".join(str(row[i]).splitlines()) for row in rows) for i in range(len(header))]
    return [_Column(name, column, name in wrap) for name, column in zip(header, cells, strict=True)]


def _needed(columns: Sequence[_Column]) -> int:
    return sum(c.least for c in columns) + _LEAST_GAP * (len(columns) - 1)


def _print_columns(columns: Sequence[_Column], room: int, bad: Sequence[bool]) -> None:
    from rich.table import Table
    from rich.text import Text

    widths = [c.least for c in columns]
    spare = room - _needed(columns)
    gap = _GAP if spare >= (_GAP - _LEAST_GAP) * (len(columns) - 1) else _LEAST_GAP
    spare -= (gap - _LEAST_GAP) * (len(columns) - 1)
    while spare > 0 and (lack := max(c.widest - w for c, w in zip(columns, widths, strict=True))) > 0:
        i = next(i for i, c in enumerate(columns) if c.widest - widths[i] == lack)
        widths[i] += 1
        spare -= 1
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold dim")
    for i, (column, wide, title) in enumerate(zip(columns, widths, _titles(columns, widths), strict=True)):
        right = i > 0 and column.numbers
        table.add_column(Text(title), justify="right" if right else "left", width=wide, overflow="fold")
    for failed, *row in zip(bad, *(c.cells for c in columns), strict=True):
        cells = [_wrapped(cell, w) if c.wraps else cell for c, w, cell in zip(columns, widths, row, strict=True)]
        table.add_row(*map(_text, cells), style="red" if failed else None)
    _write_table(table, room)


def _titles(columns: Sequence[_Column], widths: Sequence[int]) -> list[str]:
    """The names of the columns, wrapped, and down at their rows."""
    lines = [textwrap.wrap(c.name, w, break_long_words=False) for c, w in zip(columns, widths, strict=True)]
    most = max(map(len, lines))
    return ["\n".join([""] * (most - len(some)) + some) for some in lines]


def _wrapped(cell: str, wide: int) -> str:
    """A cell of words on several lines; where it is indented, its further lines are too."""
    indent = len(cell) - len(cell.lstrip())
    further = " " * (indent + 2) if indent else ""
    return "\n".join(textwrap.wrap(cell, wide, subsequent_indent=further, break_on_hyphens=False)) or cell


def _text(cell: str) -> Any:
    """A cell: the numbers that earn a star are bold."""
    from rich.text import Text

    return Text(cell, style="bold" if cell.endswith(" *") else "")


def _write_table(table: Any, room: int) -> None:
    from rich.console import Console

    WAITING.done()
    console = Console(width=room, highlight=False)
    with console.capture() as written:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in written.get().splitlines()))
    sys.stdout.flush()


def _print_rows_as_lists(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Each row below the other, a line for each cell: for terminals that are narrower than the table."""
    label = min(max(map(len, header)), max(width() // 3, 8))
    for row in rows:
        say(row[0], style="bold")
        for name, cell in zip(header[1:], row[1:], strict=True):
            if str(cell).strip():
                say(f"  {name:<{label}}  {' '.join(str(cell).splitlines())}", indent=label + 4)


def fixed(value: Any, digits: int = 2) -> str:
    """A number of a known scale with so many digits, where the next one says nothing; - for nan."""
    plain = float(value)
    written = f"{plain:.{digits}f}"
    return "-" if math.isnan(plain) else written.removeprefix("-") if float(written) == 0 else written


def _digits(size: float) -> int:
    """Digits behind the point that show three of a number of this size, and never none."""
    return max(1, 2 - math.floor(math.log10(size))) if size > 0 else 2


def alike(values: Iterable[Any]) -> list[str]:
    """The numbers of a column, all with as many digits as show three of the largest; - for nan."""
    plain = [float(value) for value in values]
    size = max((abs(x) for x in plain if math.isfinite(x)), default=0.0)
    if 0 < size < 1e-5:
        return ["-" if math.isnan(x) else f"{x:.1e}" for x in plain]
    return [fixed(x, max(2, min(_digits(size), 6))) for x in plain]


def number(value: Any, digits: int = 2) -> str:
    """A number with some digits; with a power of ten where they would all be 0; - for nan."""
    plain_number = float(value)
    if math.isnan(plain_number):
        return "-"
    written = f"{plain_number:.{digits}f}"
    if float(written) != 0:
        return written
    return f"{plain_number:.1e}" if plain_number else f"{0:.{digits}f}"


def p_value(p: Any) -> str:
    """A probability of chance, with three digits; - for nan."""
    return "<0.001" if float(p) < 0.0005 else fixed(p, 3)


def interval(value: Any, low: Any, high: Any, *, scale: float = 0.0) -> str:
    """A value and its interval, where it has one, with as many digits as the interval leaves; - for nan.

    Args:
        value, low, high: the numbers; None for an end that is not known.
        scale: the largest number of the column, beside which further digits say nothing.
    """
    if low is None or high is None:
        return number(value, 3)
    numbers = [float(x) for x in (value, low, high)]
    size = max((abs(x) for x in numbers if math.isfinite(x)), default=0.0)
    wide = numbers[2] - numbers[1]
    finest = wide if math.isfinite(wide) and wide > 0 else size
    digits = max(2, -math.floor(math.log10(finest))) if finest else 2
    digits = min(digits, 1 + _digits(scale)) if scale else digits
    if digits <= 6 or size >= 1e-3:
        middle, *ends = (fixed(x, min(digits, _digits(size))) for x in numbers)
    else:
        middle, *ends = (f"{x:.2e}" if x and not math.isnan(x) else number(x, 1) for x in numbers)
    return middle if ends == ["-", "-"] else f"{middle} [{ends[0]}, {ends[1]}]"
