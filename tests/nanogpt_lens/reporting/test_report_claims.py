"""The sentences claim no more than was measured: what is unsure, missing, equal or negative is said to be so."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.reporting.class_neurons import first_class_neuron
from nanogpt_lens.reporting.induction_verdict import induction_says
from nanogpt_lens.reporting.looks import induction, labelled_head, largest_part, looks_of
from nanogpt_lens.reporting.making import report
from nanogpt_lens.reporting.neuron_table import _classes
from nanogpt_lens.reporting.part_rises import largest_rise, parts_of
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.sections.attention import _finding as attention_finding
from nanogpt_lens.reporting.sections.neurons import _findings
from nanogpt_lens.reporting.sections.patching_in_words import finding, head_says, over_pairs
from nanogpt_lens.reporting.worth import Worth, grid_of, worth_of
from nanogpt_lens.results import HeadTaxonomy, InductionHeads, PatchingResult, Scores, SeparatingNeurons
from tests.nanogpt_lens.reporting.report_helpers import read, section, small, text

NAN = math.nan
ABOUT = {"quantity": "q", "definition": "d"}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def heads_of(values, low, high, **more):
    ends = {"low": double([low]), "high": double([high])}
    return Scores(values=double([values]), **ends, axes=("layer", "head"), **ABOUT, **more)


def said_of(*parts):
    """What is said of heads, each (value, low, high)."""
    return largest_part(Worth(heads=heads_of(*zip(*parts, strict=True)), mlps=None, loss=1.5, uniform=4.0)).sentence


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            [(0.10, -0.01, 0.21), (0.09, 0.08, 0.10)],
            "Head 0.1 surely matters: without it the loss rises by 0.09 nats. Another part may matter more.",
        ),
        (
            [(0.5, 0.45, 0.55)] * 3,
            "Several parts matter, and which one most is not sure, head 0.0, head 0.1 and head 0.2: without "
            "head 0.0 the loss rises by 0.50 nats.",
        ),
        (
            [(0.5, 0.45, 0.55)] * 5,
            "Several parts matter, and which one most is not sure, head 0.0, head 0.1, head 0.2 and 2 more: without "
            "head 0.0 the loss rises by 0.50 nats.",
        ),
        (
            [(0.5, 0.45, 0.55), (0.1, 0.09, 0.11), (0.09, -0.5, 0.7)],
            "Head 0.0 surely matters: without it the loss rises by 0.50 nats. Another part may matter more.",
        ),
        (
            [(0.5, 0.45, 0.55), (0.3, -0.1, 0.4)],
            "Head 0.0 matters most: without it the loss rises by 0.50 nats.",
        ),
        ([(NAN, NAN, NAN), (0.3, 0.29, 0.31)], "It needs head 0.1: without it the loss rises by 0.30 nats."),
        ([(0.3, 0.29, 0.31), (NAN, NAN, NAN)], "It needs head 0.0: without it the loss rises by 0.30 nats."),
        ([(NAN, NAN, NAN)], "What each part is worth could not be measured."),
    ],
)  # fmt: skip
def test_a_part_is_the_first_only_where_it_surely_is(parts, said):
    assert said_of(*parts) == said


def test_the_best_of_many_parts_is_not_sure_by_its_own_interval_alone():
    noise = torch.randn(1, 200, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, half = noise.mean(-1), 2.04 * noise.std(-1) / 32**0.5
    heads = heads_of(mean[0].tolist(), (mean - half)[0].tolist(), (mean + half)[0].tolist(), per_example=noise)
    assert bool((heads.low > 0).any())  # by chance alone
    said, _ = largest_rise(list(parts_of(heads)), kind="head")
    assert said == "No single head is surely needed: without any one of them the loss does not measurably rise."


def test_a_cell_says_that_the_loss_falls_and_what_was_not_measured():
    heads = heads_of([-0.3, NAN, -0.3], [-0.4, NAN, -0.7], [-0.2, NAN, 0.1])
    grid = grid_of(Worth(heads=heads, mlps=None, loss=1.0, uniform=3.0), None, "a text")
    falls, unknown, unsure = grid.rows[0].heads
    assert falls.words == "Head 0.0: the loss falls by 0.300 (0.200 to 0.400) nats without it."
    assert (falls.value, falls.share, falls.falls, falls.sure) == ("−0.30", 0.0, True, True)
    assert unknown.words == "Head 0.1: not measured."
    assert (unknown.share, unknown.known) == (0.0, False)
    assert (unsure.falls, unsure.sure) == (False, False)
    assert "Rust edge" in grid.how
    assert "Hatched" in grid.how


def test_heads_and_mlps_are_measured_exactly_on_the_same_sequences(tmp_path, monkeypatch):
    (tmp_path / "input.txt").write_text(text(3000))
    subjects = []

    def kept(subject, heads=None):
        subjects.append(worth_of(subject, heads))
        return subjects[-1]

    monkeypatch.setattr("nanogpt_lens.reporting.sections.summary.worth_of", kept)
    monkeypatch.setattr("nanogpt_lens.reporting.worth._WORK", 1.0)  # as a large model is
    page = report(small(tmp_path / "out"), corpus=tmp_path / "input.txt", sections=["summary"], progress=False)
    (made,) = subjects
    assert (made.heads.sample.n, made.heads.sample.seq_len) == (made.mlps.sample.n, made.mlps.sample.seq_len) == (8, 16)
    assert "gradients" not in made.heads.definition
    how = section(read(page.html), "summary").text
    assert "Heads and MLPs are measured on 8 sequences of 16 tokens of input.txt, seed 0." in how
    assert "fewer" not in how


def matching(values, sure, threshold=0.4, chance=0.02):
    tensor, low = double([values]), double([sure])
    ends = {"low": tensor - 0.01, "high": tensor + 0.01, "chance": torch.full_like(tensor, chance)}
    limits = {"threshold": torch.full_like(tensor, threshold), "sure_low": low, "carries": low > threshold}
    return InductionHeads(values=tensor, axes=("layer", "head"), **ABOUT, **ends, **limits)


BEST = "the best one, head 0.0, "


@pytest.mark.parametrize(
    ("found", "said", "ends"),
    [
        (
            matching([0.6, 0.1], [0.35, 0.0]),
            f"No head is surely an induction head: {BEST}gives 60% of its attention to the right place (35% to 85%, "
            "for all heads together), where more than 40% is needed.",
            (0.35, 0.85, 0.4),
        ),
        (
            matching([0.45, 0.1], [0.35, 0.0], threshold=0.7),
            f"It has no induction head: {BEST}gives 45% of its attention to the right place, where chance is 2.0%.",
            (0.35, 0.55, 0.7),
        ),
        (
            matching([0.1, 0.05], [0.01, 0.0]),
            f"It has no induction head: {BEST}gives 10% of its attention to the right place, not surely more than "
            "chance does, 2.0%.",
            (0.01, 0.19, 0.4),
        ),
        (
            matching([0.015, 0.01], [0.0, 0.0]),
            f"It has no induction head: {BEST}looks at the right place no more than chance does.",
            (0.0, 0.03, 0.4),
        ),
        (
            matching([NAN, 0.1], [NAN, 0.09]),
            "It has no induction head: the best one, head 0.1, gives 10% of its attention to the right place, where "
            "chance is 2.0%.",
            (0.09, 0.11, 0.4),
        ),
    ],
)  # fmt: skip
def test_no_induction_head_is_said_only_where_that_is_sure(found, said, ends):
    look = induction(found)
    assert look.sentence == said
    assert (look.sketch.low, look.sketch.high, look.sketch.threshold) == pytest.approx(ends)
    assert not look.sketch.low > look.sketch.threshold


def test_induction_that_was_not_measured_has_no_percentage():
    look = induction(matching([NAN], [NAN]))
    assert (look.sentence, look.sketch) == (
        "Induction could not be measured: no head's attention to the right place is a number.", None,
    )  # fmt: skip


def test_the_first_screen_says_what_the_section_says_of_induction():
    model = ngl.load("handmade_induction")
    found, accuracy = ngl.find_induction_heads(model, n=8), ngl.induction_accuracy(model, n=32)
    losses = ngl.repeated_sequence_loss(model, n=8)
    worse = replace(losses, values=losses.values[[1, 0, 2]])  # as if order made it dearer
    results = {"find_induction_heads": found, "induction_accuracy": accuracy, "repeated_sequence_loss": worse}
    verdict, has = induction_says(found, accuracy=accuracy, repeated=worse)
    about = {"title": "t", "reading": "", "status": "done", "commands": ()}
    (look,) = looks_of(None, [Section(key="induction", findings=(verdict,), results=results, **about)])
    assert verdict.startswith("The evidence for induction is mixed: heads look at the right place")
    assert not has
    assert look.sentence == verdict


def separating(held_out, low, *, chance=0.81, separation=((0.6, 0.9),)):
    auroc = double(separation)
    of = {"separation": auroc, "values": auroc, "p": torch.ones_like(auroc), "null": double([chance])}
    of |= {name: torch.full_like(auroc, value) for name, value in (("held_out", held_out), ("low", low), ("high", 1.0))}
    about = {"axes": ("layer", "neuron"), "labels": {"layer": ("0",)}, "n_tokens": (9, 9), "n_class": (3, 3)}
    return SeparatingNeurons(sign=torch.ones_like(auroc), chance=chance, **of, **about, **ABOUT)


def test_the_section_tells_the_neuron_of_the_first_screen_and_no_more():
    unsure, sure = separating(0.93, 0.8), separating(0.884, 0.86)
    both = {"speaker_name": unsure, "upper_case": sure}
    assert _findings(both) == (
        "Neuron 0.1 tells upper-case letters apart: it is higher on them than on other tokens in 88% of pairs, on text "
        "that did not choose it.",
        "Chance stays at or below 81% in 95 of 100 shifts of the class, and 50% says nothing.",
    )
    assert first_class_neuron(both).sentence == _findings(both)[0]
    said = "No neuron surely tells speakers' names or line breaks apart."
    assert _findings({"speaker_name": unsure, "newline": unsure}) == (said,)
    assert _findings({}) == ()


def test_a_neuron_of_capitals_is_no_neuron_of_names():
    """It is surely higher on names, and surely higher still on capitals."""
    names, capitals = separating(0.87, 0.85), separating(0.97, 0.96)
    assert first_class_neuron({"speaker_name": names, "upper_case": capitals}).what == "upper-case letters"
    assert first_class_neuron({"speaker_name": names}).what == "speakers' names"
    unsure = separating(0.97, 0.8)
    assert first_class_neuron({"speaker_name": names, "upper_case": unsure}).what == "speakers' names"


def test_heads_that_look_as_far_as_even_attention_are_not_ranked():
    def said(distances, chance=15.8):
        of = {"values": double([[distances]]), "chance": double([[[chance] * len(distances)]])}
        labels = {"score": ("distance",), "layer": ("0",), "head": tuple(map(str, range(len(distances))))}
        about = {"axes": ("score", "layer", "head"), "labels": labels, "quantity": "tokens", "definition": "d"}
        statistics = Scores(**of, **about)
        values = statistics.score("distance")
        near, far = ((0, int(values.argmin())), (0, int(values.argmax())))
        return attention_finding(statistics, near, far)

    assert said([16.0, 15.5]) == "All heads look about as far back as even attention would, 15.8 tokens."
    assert said([16.0, 3.0]).startswith("Head 0.0 looks farthest back, 16.0 tokens on average; head 0.1 looks nearest")


def test_the_class_of_a_neuron_is_the_one_furthest_above_its_own_chance():
    easy = separating(0.9, 0.9, chance=0.85, separation=((0.9, 0.9),))
    hard = separating(0.8, 0.8, chance=0.6, separation=((0.8, 0.55),))
    _, best = _classes({"easy": easy, "hard": hard}, lambda tensor: tensor.flatten())
    assert np.array_equal(best["class"], [1, 0])


def patched(effects, **more):
    """A result of one layer from effects [head, pair], of which 1 restores everything."""
    each = double([effects])
    runs = {"clean": 1.0, "corrupted": 0.0, "direction": "denoise"}
    about = {"axes": ("layer", "head"), "per_example": each, "base_per_example": torch.zeros(each.shape[-1])}
    return PatchingResult(values=each.mean(-1), **runs, **about, **ABOUT, **more)


def test_heads_restore_something_for_all_of_them_together():
    noise = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    said = "Over 8 pairs no head surely restores anything; what one pair shows may hang on its prompt."
    assert over_pairs(patched(noise.tolist()), 8) == said
    noise[3] = 50 + noise[3]
    assert over_pairs(patched(noise.tolist()), 8) == "Over 8 pairs head 0.3 surely restores something."


def test_what_one_pair_shows_is_said_of_that_pair():
    whole = patched([[0.4], [0.1]])
    stream = replace(whole, values=double([[0.0, 1.0]]), axes=("layer", "pos"), per_example=None, base_per_example=None)
    clean, corrupted = torch.tensor([1, 2]), torch.tensor([0, 2])
    assert finding(clean, corrupted, stream, whole) == (
        "On this pair, from layer 0 on the last token carries all of the decision; head 0.0 alone carries 40% of it."
    )
    assert head_says(whole) == "On this pair head 0.0 alone restores 40% of the clean answer."
    assert "no head alone restores a share" in head_says(patched([[0.0], [0.0]]))


def labels(**scores):
    """A stand-in for a taxonomy of one head for each label that it carries."""
    names = list(scores)
    values = double(
        [[[value if i == j else 0.0 for j in range(len(names))]] for i, value in enumerate(scores.values())]
    )
    about = SimpleNamespace(
        labels={"score": names},
        heads=lambda label: [(0, names.index(label))],
        at=lambda score, layer, head: values[names.index(score), layer, head],
        chance=torch.zeros_like(values), low=values - 0.1, high=values + 0.1,
    )  # fmt: skip
    assert hasattr(HeadTaxonomy, "heads")
    return about


def test_copying_is_not_compared_with_shares_of_attention():
    assert labelled_head(labels(previous_token=0.5, copying=0.99)).sentence == (
        "Head 0.0 looks at the token before: 50% of its attention goes there."
    )
    assert labelled_head(labels(copying=0.99)).sentence == (
        "Head 0.0 copies what it looks at: its weights raise that token's logit."
    )
