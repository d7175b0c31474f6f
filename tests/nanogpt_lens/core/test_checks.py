"""Options that count: what is one, and the sentence for what is none."""

from __future__ import annotations

import numpy as np
import pytest

from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError


@pytest.mark.parametrize(
    ("least", "option", "words"),
    [
        (0, {"seed": -1}, "seed is -1; expected a whole number, 0 or more"),
        (2, {"n": 1}, "n is 1; expected a whole number, 2 or more"),
        (0, {"n": 2.0}, "n is 2.0; expected a whole number, 0 or more"),
        (0, {"n": True}, "n is True; expected a whole number, 0 or more"),
        (0, {"n": "3"}, "n is '3'; expected a whole number, 0 or more"),
        (0, {"k": 1, "n": None}, "n is None; expected a whole number, 0 or more"),
        (0, {"seed": 2**63}, "seed is 9223372036854775808; expected a whole number below 2**63"),
    ],
)
def test_what_counts_nothing_is_named(least, option, words):
    with pytest.raises(AnalysisError) as caught:
        check_whole(least, **option)
    assert str(caught.value) == words


def test_whole_numbers_of_every_kind_pass():
    check_whole(3, n=3, k=np.int64(4), seed=2**63 - 1)
    check_whole(n=2**70)


def test_the_usual_number_is_cut_to_what_there_is_room_for_and_never_to_none():
    assert [default_of(None, 8, most) for most in (20, 8, 5, 0)] == [8, 8, 5, 1]
    assert default_of(50, 8, 5) == 50
