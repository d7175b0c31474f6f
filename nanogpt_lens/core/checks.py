"""Checks of options that count something, such as seeds and numbers of sequences."""

from __future__ import annotations

from numbers import Integral

from nanogpt_lens.core.errors import AnalysisError


def check_whole(least: int = 0, **options: object) -> None:
    """Raise AnalysisError unless every option is a whole number of at least `least`; the message names the option."""
    for name, value in options.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise AnalysisError(f"{name} is {value!r}; expected a whole number, {least} or more")
        if name == "seed" and value >= 2**63:
            raise AnalysisError(f"seed is {value}; expected a whole number below 2**63")


def check_share(**options: object) -> None:
    """Raise AnalysisError unless every option is a number above 0 and at most 1; the message names the option."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise AnalysisError(f"{name} is {value!r}; expected a number above 0 and at most 1, such as 0.9")


def default_of(given: int | None, usual: int, most: int) -> int:
    """What was asked for; where nothing was, the usual number, or as many as a small model or text has room for."""
    return max(1, min(usual, most)) if given is None else given
