"""What makes reports cheap in tests: pairs of prompts are looked for in few windows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

WINDOWS, TRIED = 128, 24
"""Windows that are looked at, and of them those whose edits are tried; `test_report.py` has the usual ones."""


@pytest.fixture(autouse=True, scope="module")
def few_windows(request: pytest.FixtureRequest) -> Iterator[None]:
    """Look for pairs in few windows, in every file but that about the whole report."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name != "test_report.py":
            patch.setattr("nanogpt_lens.reporting.subject.LOOKED_AT", WINDOWS)
            patch.setattr("nanogpt_lens.text.pairs._TRIED", TRIED)
        yield
