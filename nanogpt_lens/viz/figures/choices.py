"""Options that every figure checks alike: words, numbers, ranges of positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result


def one_of(name: str, value: Any, expected: Sequence[str]) -> str:
    """The value, if it is one of the words.

    Raises:
        ResultError: it is not.
    """
    if not isinstance(value, str) or value not in expected:
        raise ResultError(f"{name} is {value!r}; expected one of {', '.join(expected)}")
    return value


def count(name: str, value: Any) -> int:
    """The value, if it is a whole number from 1 on.

    Raises:
        ResultError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ResultError(f"{name} is {value!r}; expected a whole number, 1 or more")
    return value


def span(name: str, value: Any, n: int, *, most: int) -> range:
    """The positions from `start` to before `stop`, negative ones from the end; None for the first `most`.

    Raises:
        ResultError: no pair of whole numbers, one beyond the `n` places, or nothing between them.
    """
    if value is None:
        return range(min(n, most))
    pair = value if isinstance(value, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(i, int) and not isinstance(i, bool) for i in pair):
        raise ResultError(f"{name} is {value!r}; expected a pair (start, stop), such as (0, {min(n, most)})")
    if not all(-n <= i <= n for i in pair):
        raise ResultError(f"{name} is {value!r}, but there are {n}; expected a pair (start, stop) such as (0, {n})")
    positions = range(*slice(pair[0], pair[1]).indices(n))
    if not positions:
        raise ResultError(f"there is nothing from {pair[0]} to {pair[1]}; expected places among the {n} of {name}")
    return positions


def score_of(result: Result, score: Any) -> int:
    """The index of a score.

    Raises:
        ResultError: there is none of that name.
    """
    return result._index("score", score)


def is_signed(result: Result, low: float) -> bool:
    """Whether negative and positive values mean different things; a value below zero says so too."""
    return result.signed or low < 0
