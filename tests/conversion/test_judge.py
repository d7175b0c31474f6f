"""The judge of the certificate on numbers worked out by hand: errors, what they are relative to, what excuses them."""

from __future__ import annotations

import math

import pytest
import torch

from conversion.judge import Judge, distance

INF, NAN = math.inf, math.nan


def doubles(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize(
    ("got", "expected", "max_abs", "size"),
    [
        ((1.0, -4.0), (1.5, -4.0), 0.5, 4.0),
        ((0.0,), (2e-4,), 2e-4, 1e-3),  # relative to no less than a thousandth
        ((1.0, -INF), (1.0, -INF), 0.0, 1.0),  # a masked score
        ((1.0, 0.0), (1.0, -INF), INF, 1.0),
        ((1.0, INF), (1.0, -INF), INF, 1.0),
        ((1.0, -1.7976931348623157e308), (1.0, -INF), INF, 1.0),  # the lowest number is not minus infinity
        ((1.0, NAN), (1.0, NAN), 0.0, 1.0),
        ((1.0, 0.0), (1.0, NAN), INF, 1.0),  # zero is not nan
        ((1.0, NAN), (1.0, 2.0), INF, 2.0),
        ((INF,), (2.0,), INF, 2.0),
        ((-INF, -INF), (-INF, -INF), 0.0, 1.0),
        ((3.0, -INF), (-INF, -INF), INF, 1.0),
        ((), (), 0.0, 1.0),
    ],
)
def test_distances_by_hand(got, expected, max_abs, size):
    assert distance(doubles(*got), doubles(*expected)) == (max_abs, size)


@pytest.mark.parametrize(
    ("dtype", "error", "passed"),
    [
        (torch.float64, 0.9e-9, True),
        (torch.float64, 1.1e-9, False),
        (torch.float32, 1.8e-5, True),
        (torch.float32, 2.2e-5, False),
        (torch.float16, 1.9e-3, True),  # twice its distance of numbers, 2**-10
        (torch.float16, 2.1e-3, False),
        (torch.bfloat16, 1.5e-2, True),
        (torch.bfloat16, 1.6e-2, False),
    ],
)
def test_errors_are_relative_to_the_largest_value(dtype, error, passed):
    judge, expected = Judge("raw", dtype), doubles(8.0, 0.0)
    found = judge("output", "logits", expected + doubles(0.0, 8 * error), expected)
    assert found.passed is passed
    assert (found.max_abs, found.max_rel) == pytest.approx((8 * error, error), rel=1e-6)
    assert found.precision == str(dtype).removeprefix("torch.")
    scaled = judge("gradient", "w", expected + doubles(0.0, 8 * error), expected, scale=80.0)
    assert scaled.passed
    assert scaled.max_rel == pytest.approx(error / 10)


def test_rounding_of_the_native_model_excuses_sixteen_times_as_much_and_not_in_float64():
    exact = doubles(1.0, 2.0)
    native = exact + doubles(0.0, 1e-4)  # what rounding makes of it
    for times, passed in ((15.9, True), (16.1, False)):
        got = native - doubles(0.0, times * 1e-4)
        found = Judge("raw", torch.float32)("activation", "x", got, native, lambda: exact)
        assert found.passed is passed
        assert found.tolerance == pytest.approx(16e-4 / 2.0001)
        assert not Judge("raw", torch.float64)("activation", "x", got, native, lambda: exact).passed


def test_the_exact_value_is_only_computed_where_it_can_excuse_something():
    def never():
        raise AssertionError("it was asked for")

    assert Judge("raw", torch.float32)("activation", "x", doubles(1.0), doubles(1.0), never).passed
    assert not Judge("raw", torch.float64)("activation", "x", doubles(1.1), doubles(1.0), never).passed


def test_what_is_not_there_or_has_another_shape_fails_and_says_so():
    judge = Judge("raw", torch.float32)
    for compare in (judge, judge.identical):
        absent, longer = (
            compare("weight", "w", None, doubles(1.0)),
            compare("weight", "w", doubles(1.0, 2.0), doubles(1.0)),
        )
        assert (absent.passed, absent.max_rel, absent.detail) == (False, INF, "the converted model does not have it")
        assert (longer.passed, longer.max_rel, longer.detail) == (False, INF, "shape [2], expected [1]")


def test_not_one_bit_of_what_must_be_identical_may_differ():
    judge = Judge("raw", torch.float32)
    assert judge.identical("weight", "w", doubles(1.0), doubles(1.0)).passed
    found = judge.identical("weight", "w", doubles(1.0), doubles(1.0 + 2**-52))
    assert (found.passed, found.max_abs, found.tolerance) == (False, 2**-52, 0.0)


def test_processed_logits_may_differ_by_a_constant_and_raw_ones_may_not():
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mode, passed in (("processed", True), ("raw", False)):
        judge = Judge(mode, torch.float64)
        assert judge("output", "logits", judge.visible(logits + 3), judge.visible(logits)).passed is passed


def test_a_greedy_text_with_and_without_ties():
    judge = Judge("raw", torch.float64)
    same, other = judge.greedy(0, 20, 2), judge.greedy(3, 20, 0)
    assert (same.passed, same.detail) == (True, "20 of 20 tokens, 2 ties")
    assert (other.passed, other.max_rel, other.detail) == (False, 0.15, "17 of 20 tokens")
