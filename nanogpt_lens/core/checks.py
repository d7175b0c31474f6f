"""Options that count something, such as seeds and numbers of sequences, must be whole numbers."""

from __future__ import annotations

from numbers import Integral

from nanogpt_lens.core.errors import AnalysisError


def check_whole(least: int = 0, **options: object) -> None:
    """Refuse options that are no whole numbers from `least` on.

    Raises:
        AnalysisError: one is not; it is named.
    """
    for name, value in options.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise AnalysisError(f"{name} is {value!r}; expected a whole number, {least} or more")
        if name == "seed" and value >= 2**63:
            raise AnalysisError(f"seed is {value}; expected a whole number below 2**63")
