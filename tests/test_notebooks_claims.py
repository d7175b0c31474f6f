"""A number of a text that is not what the run gives is found, and so is one that nobody checks."""

from __future__ import annotations

import pytest

from scripts.notebook_claims import Claims, is_near, numbers, pieces, precise, prose, uncovered

TEXT = prose(
    ["**Head 0.0** is worth 0.37\nnats,", "heads 1.2 and 1.3 5% of `0.99`; chance is [−0.5](a_1.5.md). 1,232 steps."]
)


def test_numbers_are_what_a_run_gives():
    assert numbers(TEXT) == ["0.37", "5%", "−0.5", "1,232"]
    assert precise(TEXT) == ["0.37", "5%", "−0.5"]
    assert numbers("a 95% interval of 3 (2.5 to 3.5), head 0.1, layers 1 to 3, MLP 0, resid_pre1, ```\n0.7\n```") == [
        "3",
        "2.5",
        "3.5",
    ]


@pytest.mark.parametrize(
    ("said", "value", "near"),
    [
        ("0.37", 0.374, True),
        ("0.37", 0.381, False),
        ("5%", 0.05, True),
        ("5%", 0.07, False),
        ("−0.5", -0.52, True),
        ("-0.5", 0.5, False),
        ("1,232", 1232.4, True),
        ("+1.85", 1.85, True),
        ("0.37", float("nan"), False),
    ],
)
def test_a_number_is_near_if_it_is_the_value_rounded(said, value, near):
    assert is_near(said, value) is near


def test_what_is_not_so_is_listed_with_what_is():
    claims = Claims(TEXT)
    claims.says("is worth 0.37 nats", 0.371)
    claims.holds("Head 0.0", True)
    claims.defines("chance is")
    assert (claims.n, claims.wrong) == (3, [])
    claims.says("is worth 0.37 nats", 0.52)
    claims.says("is worth 0.37 nats", 0.37, 1.0)
    claims.says("is worth 0.38 nats", 0.38)
    claims.holds("1,232 steps", False)
    assert [words.partition("”")[2] for words in claims.wrong] == [
        ": it is 0.52",
        " has the numbers 0.37, and 2 values are given",
        " is not in the text",
        ": it does not hold",
    ]


def test_a_number_that_nobody_checks_is_found():
    checks = """says("is worth 0.37 nats", 1)\nif found:\n    holds("heads 1.2 and 1.3 5% of", True)"""
    assert list(pieces(checks)) == ["is worth 0.37 nats", "heads 1.2 and 1.3 5% of"]
    (left,) = uncovered(TEXT, pieces(checks))
    assert left.startswith("−0.5 in “")
    assert uncovered(TEXT, [*pieces(checks), "chance is [−0.5"]) == []
    with pytest.raises(AssertionError, match="line 1: the piece has to be a plain string"):
        list(pieces("says(piece, 1)"))
