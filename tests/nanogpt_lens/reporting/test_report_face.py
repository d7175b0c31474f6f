"""The first screen: its sentences follow their rule, its numbers are those of the analyses, and it fits every model."""

from __future__ import annotations

import math

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.patching.importance import mlp_importance
from nanogpt_lens.reporting.class_neurons import class_neuron
from nanogpt_lens.reporting.looks import induction, labelled_head, largest_part, looks_of
from nanogpt_lens.reporting.making import report
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.worth import Worth, grid_of
from nanogpt_lens.results import Sample, Scores, SeparatingNeurons
from tests.nanogpt_lens.reporting.report_helpers import hostile, read, section, small, text


def rises(values, half=0.01):
    tensor = torch.tensor(values, dtype=torch.float64)
    axes = ("layer", "head") if tensor.ndim == 2 else ("layer",)
    about = {"quantity": "rise", "definition": "rise", "axes": axes, "sample": Sample(n=32, seq_len=8)}
    return Scores(values=tensor, low=tensor - half, high=tensor + half, **about)


def worth(heads, mlps, *, loss=1.0, uniform=3.0, half=0.01):
    return Worth(heads=rises(heads, half), mlps=mlps and rises(mlps, half), loss=loss, uniform=uniform)


GUESS = "past that of a uniform guess"


@pytest.mark.parametrize(
    ("heads", "mlps", "said"),
    [
        ([[0.1, 0.0]], [2.5], f"Nearly all of it stands on MLP 0: without it the loss rises by 2.50 nats, {GUESS}."),
        ([[0.9, 0.1]], [0.2], "It needs head 0.0 more than any other part: without it the loss rises by 0.90 nats."),
        (
            [[0.5, 0.1]],
            [0.4],
            "Head 0.0 matters most: without it the loss rises by 0.50 nats, without MLP 0, the next, by 0.40.",
        ),
        (
            [[0.5, 0.1], [0.49, 0.0]],
            [0.4, 0.0],
            "Head 0.0 and head 1.0 matter, and which one more is not sure: without the one the loss rises by 0.50 "
            "nats, without the other by 0.49.",
        ),
        (
            [[0.005, -0.2]],
            [0.001],
            "No single part is surely needed: without any one of them the loss does not measurably rise.",
        ),
        ([[0.9]], None, "It needs head 0.0: without it the loss rises by 0.90 nats."),
    ],
)
def test_the_first_sentence_is_about_the_largest_part(heads, mlps, said):
    look = largest_part(worth(heads, mlps))
    assert look.sentence == said
    bars = look.sketch.bars
    largest = max(max(map(max, heads)), max(mlps or [0]))
    assert [bar.value for bar in bars[:2]] == ["1.00", f"{1 + largest:.2f}"]
    assert bars[1].share / bars[0].share == pytest.approx(1 + largest, rel=1e-5)
    assert look.sketch.line == pytest.approx(3.0 / max(3.0, 1 + largest))
    assert look.sketch.line_words.startswith("loss in nats per token of the 32 sequences that parts are measured on")


def share_of(rise):
    """The log of the rise and 0.05 nats, from 0 to 5 nats: as the page says it."""
    return pytest.approx(min(1.0, math.log((max(rise, 0.0) + 0.05) / 0.05) / math.log(5.05 / 0.05)), abs=1e-3)


def test_the_colour_tells_large_from_larger_and_the_scale_says_where():
    grid = grid_of(worth([[0.47, 3.97], [0.047, 9.0]], [0.0, 0.0]), None, "a text")
    large, larger, small, most = (cell.share for row in reversed(grid.rows) for cell in row.heads)
    assert most == 1.0
    assert larger - large > 0.3
    assert large - small > 0.3
    assert [tick for _, tick in grid.ticks] == ["0", "0.1", "0.5", "1", "2", "5 and more"]
    for share, tick in grid.ticks:
        assert share == share_of(float(tick.split()[0]))
    assert "from 0 to 5 nats" in grid.how


def test_the_grid_has_every_part_and_its_colour_is_not_stretched():
    grid = grid_of(worth([[0.25, -0.1], [0.004, 1.0]], [0.5, 0.0]), None, "a text")
    assert [row.layer for row in grid.rows] == [1, 0]
    first = grid.rows[1]
    assert [(c.name, c.value, c.share, c.sure) for c in (*first.heads, first.mlp)] == [
        ("0.0", "0.25", share_of(0.25), True),
        ("0.1", "−0.10", 0.0, True),
        ("MLP 0", "0.50", share_of(0.5), True),
    ]
    assert grid.rows[0].heads[0].sure is False  # the interval holds zero
    assert first.heads[0].words == "Head 0.0: the loss rises by 0.250 (0.240 to 0.260) nats without it."


def test_it_says_that_an_induction_head_is_one():
    look = induction(ngl.find_induction_heads(ngl.load("handmade_induction"), n=8))
    assert look.sentence.startswith("Head 1.0 is an induction head: 100% of its attention goes to")
    assert look.sketch.value > look.sketch.threshold > look.sketch.chance


def test_it_says_that_there_is_none():
    found = ngl.find_induction_heads(ngl.load("shakespeare_char"), n=8)
    look = induction(found)
    best = float(found.values.max())
    place = divmod(int(found.values.argmax()), 4)
    assert look.sentence.startswith(f"It has no induction head: the best one, head {place[0]}.{place[1]}, ")
    assert look.sketch.value == pytest.approx(best)
    assert look.sketch.chance == pytest.approx(float(found.chance[0, 0]))


def test_a_head_that_looks_back_is_named_with_its_share():
    taxonomy = ngl.head_taxonomy(ngl.load("handmade_induction"), n=8)
    look = labelled_head(taxonomy)
    layer, head = taxonomy.heads("previous_token")[0]
    value = float(taxonomy.at(score="previous_token", layer=layer, head=head))
    assert look.sentence.startswith(f"Head {layer}.{head} looks at the token before: {100 * value:.0f}% of")


def separating(held_out, low, *, sign=1, chance=0.6):
    """Two layers of three neurons, of which 1.2 separates best."""
    auroc = torch.tensor([[0.5, 0.55, 0.6], [0.5, 0.6, 0.9]])
    of = {"separation": auroc, "values": auroc, "p": torch.ones(2, 3), "null": torch.tensor([chance])}
    of |= {name: torch.full((2, 3), math.nan) for name in ("held_out", "low", "high")}
    of["held_out"][1, 2], of["low"][1, 2], of["high"][1, 2] = held_out, low, 1.0
    about = {"axes": ("layer", "neuron"), "labels": {"layer": ("0", "1")}, "quantity": "AUROC", "definition": "AUROC"}
    counts = {"n_tokens": (10, 10), "n_class": (5, 5), "chance": chance}
    return SeparatingNeurons(sign=torch.full((2, 3), sign), **of, **about, **counts)


def test_a_neuron_is_named_only_where_it_is_surely_better_than_chance():
    assert class_neuron(separating(0.884, 0.8), "names").sentence == (
        "Neuron 1.2 tells names apart: it is higher on them than on other tokens in 88% of pairs, on text that did not "
        "choose it."
    )
    assert "lower on them" in class_neuron(separating(0.884, 0.8, sign=-1), "names").sentence
    assert class_neuron(separating(0.884, 0.59), "names") is None
    assert class_neuron(separating(math.nan, math.nan), "names") is None


def test_what_is_missing_of_three_is_filled_from_the_sections_in_order():
    def made(key, *findings):
        return Section(key=key, title=key, reading="", status="done", commands=(), findings=findings)

    looks = looks_of(worth([[0.9]], None), [made("a", "A.", "not this."), made("b"), made("c", "C."), made("d", "D.")])
    assert [(look.sentence, look.section) for look in looks[1:]] == [("A.", "a"), ("C.", "c")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of a small random model, and the checkpoint and text that it is about."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "input.txt").write_text(text(3000))
    model = small(folder / "out")
    return report(model, corpus=folder / "input.txt", sections=["summary", "heads"], progress=False), model, folder


def test_the_numbers_of_the_grid_are_those_of_the_analyses(made):
    page, path, folder = made
    model = ngl.load(path)
    options = {"n": 32, "seq_len": 16, "progress": False}
    heads = ngl.head_importance(model, folder / "input.txt", **options)
    mlps = mlp_importance(model, folder / "input.txt", **options)
    front = section(read(page.html), "summary")
    shown = {b.all("b")[0].text: b for b in front.all("button")}
    assert len(shown) == heads.values.numel() + len(mlps.values)
    for layer in range(heads.shape["layer"]):
        parts = [(f"{layer}.{i}", heads, (layer, i)) for i in range(heads.shape["head"])] + [
            (f"MLP {layer}", mlps, (layer,))
        ]
        for name, found, place in parts:
            falls = float(found.values[place]) <= -0.0005
            ends = (found.values, found.high, found.low) if falls else (found.values, found.low, found.high)
            value, low, high = (f"{(-1 if falls else 1) * float(t[place]):.3f}".replace("-", "−") for t in ends)
            assert abs(float(shown[name].all("i")[0].text.replace("−", "-")) - float(found.values[place])) <= 0.0051
            assert f"{value} ({low} to {high})" in shown[name].attributes["data-words"] or "−0.000" in (
                value,
                low,
                high,
            )
            share = float(shown[name].attributes["style"].removeprefix("--share:"))
            assert share == share_of(float(found.values[place]))


def test_three_sentences_and_a_card_for_every_section(made):
    page, _, _ = made
    front = section(read(page.html), "summary")
    sentences = [p.text for p in front.all("p", class_="s")]
    assert sentences == list(page.sections[0].findings)
    assert 1 <= len(sentences) <= 3
    cards = front.all("nav")[0].all("a")
    assert [a.attributes["href"] for a in cards] == [f"#{s.key}" for s in page.sections[1:]]


def test_lines_hashes_and_versions_stand_at_the_end_alone(made):
    page, _, _ = made
    whole = read(page.html)
    last = section(whole, "again")
    lines = [code.text for code in last.all("code")]
    assert lines == [line for s in page.sections for line in s.commands]
    assert "transformer-lens" in last.text
    assert "Files stand here as they were named when this page was made" in last.text
    assert "The SHA-256 below tells whether a checkpoint is the same" in last.text
    for key in ("summary", "heads"):
        assert not section(whole, key).all("code")


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8},
        {"n_layer": 12, "n_head": 12, "n_embd": 48},
        {"vocab_size": 5, "block_size": 8},
    ],
    ids=["one head", "twelve by twelve", "five tokens"],
)
def test_it_fits_other_sizes_without_text_or_vocabulary(tmp_path, sizes):
    page = report(small(tmp_path / "out", vocabulary=False, **sizes), sections=["summary"], progress=False)
    front = section(read(page.html), "summary")
    n = sizes.get("n_layer", 2) * (sizes.get("n_head", 2) + 1)
    assert len(front.all("button")) == n
    assert page.sections[0].findings
    assert math.isfinite(float(front.all("span", class_="num")[0].text))
    assert "text drawn from the model itself" in front.text or "own text" in front.text


def test_hostile_names_and_tokens_stay_text_on_the_first_screen(tmp_path):
    folder = hostile(tmp_path / "<img src=x onerror=window.pwned=1>")
    ids = torch.randint(25, (600,), generator=torch.Generator().manual_seed(0))
    page = report(folder, corpus=ids, sections=["summary", "neurons"], progress=False)
    whole = read(page.html)
    assert whole.all("h1")[0].text == "<img src=x onerror=window.pwned=1>"
    assert not whole.all("img")
    assert not section(whole, "summary").all("script")
