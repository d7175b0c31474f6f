"""Scores at some places, and several scores beside one another."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.results import Sample, Scores


def scores(scale=1.0, **changes):
    each = scale * torch.arange(24.0, dtype=torch.float64).view(2, 3, 4)  # [score, head, example]
    given = {
        "values": each.mean(-1),
        "low": each.amin(-1),
        "high": each.amax(-1),
        "chance": torch.full((2, 3), 0.25),
        "per_example": each,
        "axes": ("score", "head"),
        "labels": {"score": ("a", "loss")},
        "units": {"loss": "nats"},
        "scores": {"a": "one thing", "loss": "another"},
        "quantity": "something",
        "definition": "as hand-made",
        "interval": "t",
        "tested": "zero",
        "sample": Sample(corpus="hand-made", n=4, seed=0),
    }
    return Scores(**(given | changes))


def test_what_belongs_to_a_place_comes_along():
    head = scores().select(score="loss", head=1)
    assert (float(head.values), float(head.low), float(head.high)) == (17.5, 16.0, 19.0)
    assert head.per_example.tolist() == [16.0, 17.0, 18.0, 19.0]
    assert (head.axes, dict(head.labels), head.unit, dict(head.scores)) == ((), {}, "nats", {"loss": "another"})
    assert head.quantity == "loss"
    row = scores().select(head=-1)
    assert (row.axes, dict(row.labels), row.values.tolist()) == (("score",), {"score": ("a", "loss")}, [9.5, 21.5])
    assert row.chance.tolist() == [0.25, 0.25]


def test_a_p_that_was_corrected_for_all_places_is_not_that_of_some():
    assert scores().p is not None
    assert scores().select(head=0).p is None


def test_of_a_trajectory_the_curve_of_one_head_is_left():
    whole = ngl.results.Trajectory(
        values=torch.tensor([[0.0, 0.1], [0.5, 0.2]]),
        axes=("step", "head"),
        labels={"step": ("0", "100")},
        quantity="something",
        definition="as hand-made",
    )
    curve = whole.select(head=1)
    assert curve.axes == ("step",)
    assert curve.values.tolist() == pytest.approx([0.1, 0.2])


def test_side_by_side_is_a_new_axis():
    one, two = scores(), scores(2.0)
    both = Scores.side_by_side({"one": one, "two": two}, axis="model", quantity="of two")
    assert both.axes == ("score", "head", "model")
    assert both.labels["model"] == ("one", "two")
    assert torch.equal(both.values[..., 1], 2 * both.values[..., 0])
    assert torch.equal(both.at(model="two"), two.values)
    assert torch.equal(both.low[..., 0], one.low)
    assert (both.quantity, both.definition, both.interval) == ("of two", "as hand-made", "t")


def test_what_one_of_them_lacks_is_left_out():
    both = Scores.side_by_side({"one": scores(), "two": scores(chance=None, interval="bootstrap")})
    assert both.chance is None
    assert both.low is not None
    assert both.interval == ""


@pytest.mark.parametrize(
    ("several", "axis", "words"),
    [
        ({}, "curve", "nothing to put side by side"),
        ({"one": scores(), "two": scores().select(head=0)}, "curve", "'two' has the axes .*`select` takes some away"),
        ({"one": scores()}, "head", "an axis 'head' already"),
    ],
)
def test_what_does_not_fit_is_one_sentence(several, axis, words):
    with pytest.raises(ngl.errors.ResultError, match=words):
        Scores.side_by_side(several, axis=axis)


def test_a_place_that_is_not_there():
    for places, words in (({"layer": 0}, "no axis 'layer'"), ({"head": 3}, "no head 3"), ({"score": "b"}, "'b'")):
        with pytest.raises(ngl.errors.ResultError, match=words):
            scores().select(**places)
