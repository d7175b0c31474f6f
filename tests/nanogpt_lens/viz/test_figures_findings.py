"""Titles say what the numbers say, and are silent where these are not sure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nanogpt_lens.results import AttentionPatterns, NeuronAblation, Scores
from nanogpt_lens.viz.figures import figure
from nanogpt_lens.viz.figures.findings import counted, said, surely_beyond
from nanogpt_lens.viz.figures.numbers import Measured
from tests.hostile import plain
from tests.nanogpt_lens.viz.figure_helpers import result


def title(made: Scores, **options: object) -> str:
    return plain(figure(made, **options).layout.title.text.replace("<br>", " "))


def heads(values: list[list[float]], half: float | None, chance: float | None = None) -> Scores:
    tensor = torch.tensor(values)
    return Scores(
        values=tensor,
        axes=("layer", "head"),
        quantity="score, 0 to 1",
        title="score",
        definition="made up",
        low=None if half is None else tensor - half,
        high=None if half is None else tensor + half,
        chance=None if chance is None else torch.full_like(tensor, chance),
    )


@pytest.mark.parametrize(
    ("values", "half", "expected"),
    [
        ([[0.9, 0.1], [0.1, 0.1]], 0.05, "Score: head 0.0 alone is above chance, 0.90"),
        ([[0.9, 0.1], [0.1, 0.7]], 0.05, "Score: 2 of 4 heads are above chance; head 0.0 has the most, 0.90"),
        ([[0.9, 0.8], [0.8, 0.7]], 0.05, "Score: all 4 heads are above chance; head 0.0 has the most, 0.90"),
        ([[0.12, 0.1], [0.1, 0.1]], 0.05, "Score: no head is surely above chance"),
        ([[0.9, 0.1], [0.1, 0.1]], None, "Score: head 0.0 has the most, 0.90 (chance 0.10)"),
        ([[0.9]], 0.05, "Score: the only head, 0.0, is above chance, 0.90"),
        ([[float("nan")]], 0.05, "Score: no value"),
    ],
)
def test_a_score_beside_chance(values, half, expected):
    assert title(heads(values, half, 0.1)) == expected


def test_a_signed_score_has_two_ends_of_which_only_sure_ones_are_named():
    assert title(heads([[0.9, -0.5]], 0.1)) == "Score: most at head 0.0, 0.90; least at head 0.1, −0.50"
    assert title(heads([[0.9, -0.05]], 0.1)) == "Score: most at head 0.0, 0.90"
    assert title(heads([[0.05, -0.5]], 0.1)) == "Score: least at head 0.1, −0.50"
    assert title(heads([[0.05, -0.05]], 0.1)) == "Score: nowhere surely other than 0"


def test_many_intervals_have_to_hold_together():
    """One interval of 95% leaves 0 out; of a hundred such, some do by chance alone, and none is named."""
    value, half = torch.tensor([0.11]), torch.tensor([0.1])
    one = surely_beyond(Measured(value, value - half, value + half))
    many = surely_beyond(Measured(*(t.expand(100) for t in (value, value - half, value + half))))
    assert one is not None
    assert many is not None
    assert bool(one[0].all())
    assert not bool(many[0].any())
    assert surely_beyond(Measured(value)) is None


def test_the_second_copy_is_compared_with_new_text():
    def losses(gain: float) -> Scores:
        noise = 0.01 * torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
        each = 3 + noise
        each[0, 5:] -= gain
        each[0, 4] += 5  # the first token of the second half, which nothing can tell, is not counted
        return Scores(
            values=each.mean(-1),
            axes=("condition", "pos"),
            labels={"condition": ("repeated", "unrepeated")},
            quantity="loss",
            definition="made up",
            per_example=each,
        )

    assert title(losses(0.5)) == "The second copy of a text costs 0.50 nats per token less than new text"
    assert title(losses(-0.5)) == "The second copy of a text costs 0.50 nats per token more than new text"
    assert title(losses(0.0)) == "The second copy of a text: no gain that could be measured"


def test_numbers_in_a_sentence():
    assert [said(x) for x in (0.0, 0.0183, 0.31, -0.972, 12.34, -1234.5)] == [
        "0", "0.018", "0.31", "−0.97", "12.3", "−1,234",
    ]  # fmt: skip
    assert said(1.85, "logits") == "1.85 logits"
    assert [counted(1, "head"), counted(3, "head")] == ["one head", "3 heads"]


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        (0.05, "Furthest above chance: b of head 0.1, 0.50"),
        (0.8, "Score, 0 to 1: no head is surely above chance"),
        (None, "Furthest above chance: a of head 0.0, 0.90"),
    ],
)
def test_the_head_furthest_above_chance_of_several_scores_is_surely_above_it(half, expected):
    tensor = torch.tensor([[[0.9, 0.1]], [[0.1, 0.5]]])
    width = None if half is None else torch.full_like(tensor, half)
    if width is not None and half == 0.05:
        width[0, 0, 0] = 0.85  # the highest is not sure
    made = Scores(
        values=tensor,
        axes=("score", "layer", "head"),
        labels={"score": ("a", "b")},
        quantity="score, 0 to 1",
        definition="made up",
        low=None if width is None else tensor - width,
        high=None if width is None else tensor + width,
        chance=torch.full_like(tensor, 0.1),
    )
    assert title(made) == expected


@pytest.mark.parametrize(
    ("taken", "rise", "half", "expected"),
    [
        ("1.251", 0.012, 0.004, "Without neuron 1.251 the loss rises by 0.012 nats per token"),
        ("0.3+1.251", -0.5, 0.1, "Without neurons 0.3 and 1.251 the loss falls by 0.50 nats per token"),
        ("1.251", 0.012, 0.02, "Without neuron 1.251 the loss does not surely change"),
        ("+".join(f"0.{i}" for i in range(40)), 1.5, 0.1, "Without 40 neurons the loss rises by 1.50 nats per token"),
    ],
)
def test_what_is_lost_without_neurons(taken, rise, half, expected):
    values = torch.tensor([[rise]])
    nothing = torch.zeros(0)
    made = NeuronAblation(
        values=values, low=values - half, high=values + half, axes=("ablated", "score"), definition="made up",
        labels={"ablated": (taken,), "score": ("rise",)}, controls_as_strong=torch.tensor([torch.nan]),
        hit_values=nothing, hit_losses=torch.zeros(0, 2), hit_positions=nothing.long(), hit_texts=(),
    )  # fmt: skip
    assert title(made) == expected


def test_lenses_and_their_training_say_what_came_out():
    lens = result("train_tuned_lens")
    first, best = float(lens.curve[0].mean()), float(lens.curve.min(0).values.mean())
    assert title(lens, kind="training") == (
        f"Training brings the tuned lens from a KL of {said(first)} to {said(best)} nats, on average over depths"
    )
    row = lens.labels["score"].index("gain")
    assert title(lens, score="gain").endswith(f"{said(float(lens.values[row].nan_to_num(-9).max()))} nats")


@pytest.mark.parametrize("name", ["logit_lens", "logit_lens, two texts"])
def test_from_where_on_the_lens_is_near_the_output(name):
    lens = result(name)
    said_from = title(lens, kind="curves").split("from ")[1].split(" on within")[0]
    means = [(place, float(lens.kl[i, j].double().mean())) for i, j, place in lens.in_depth_order()]
    at = [place for place, _ in means].index(said_from)
    assert all(value < 0.5 for _, value in means[at:])
    assert at == 0 or means[at - 1][1] >= 0.5


def test_longer_texts_have_some_tokens_at_the_outer_maps():
    n, heads = 30, 6
    tokens = tuple(chr(97 + i % 26) for i in range(n))
    made = AttentionPatterns(
        values=torch.ones(1, heads, n, n).tril() / torch.arange(1, n + 1)[:, None],
        axes=("layer", "head", "dest_pos", "src_pos"),
        labels={"dest_pos": tokens, "src_pos": tokens}, quantity="attention", definition="made up",
        tokens=torch.arange(n), layers=(0,),
    )  # fmt: skip
    layout: Any = figure(made).layout
    kept = list(range(0, n, 5))
    for name in ("xaxis3", "xaxis4", "xaxis5", "xaxis6"):  # the last map of each of four columns
        assert list(layout[name].ticktext) == [tokens[i] for i in kept]
        assert [layout[name].categoryarray.index(place) for place in layout[name].tickvals] == kept
    for name in ("yaxis", "yaxis5"):
        assert list(layout[name].ticktext) == [f"{i} {tokens[i]}" for i in kept]
    assert not any(layout[name].showticklabels for name in ("xaxis", "xaxis2", "yaxis2", "yaxis6"))
