"""What every figure has: title, axes, caption, one template, safe and small JSON, options that are checked."""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens import results
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import Result, Scores
from nanogpt_lens.viz import shades, style
from nanogpt_lens.viz.figures import captioned, figure, options_of, uncaptioned
from nanogpt_lens.viz.figures.numbers import digits
from tests.hostile import plain
from tests.nanogpt_lens.viz.figure_helpers import RESULTS, bars, result, shown, shown_of, texts

ALL = pytest.mark.parametrize("name", RESULTS)


def test_every_public_function_that_returns_a_result_is_tested_here():
    kinds = {name for name in results.__all__ if inspect.isclass(getattr(results, name))} - {"Excerpt", "NeuronPage"}
    kinds -= {"ModelComparison"}  # drawn as one of its parts
    functions = {
        name
        for name in ngl._HOMES
        if inspect.isfunction(found := getattr(ngl, name)) and inspect.signature(found).return_annotation in kinds
    }
    assert len(functions) > 25
    tested = {name.split(",")[0] for name in RESULTS}
    assert functions - {"load_result", "evaluate_sae"} <= tested


@cache
def drawn_of(name: str) -> go.Figure:
    """The figure of a result, drawn once for the tests that only read it."""
    return figure(result(name))


def captions(drawn: go.Figure) -> list[Any]:
    return [note for note in drawn.layout.annotations if note.name == "caption"]


@ALL
def test_the_caption_says_what_and_on_what(name):
    made, drawn = result(name), drawn_of(name)
    caption, short = drawn.layout.meta["caption"], drawn.layout.meta["short"]
    assert drawn.layout.meta.keys() == {"caption", "short"}
    (note,) = captions(drawn)
    assert plain(note.text).replace("<br>", " ").split() == short.split()
    assert plain(note.hovertext).replace("<br>", " ").split() == caption.split()
    assert len(short) <= len(caption) + 2
    assert not re.search(r"SHA-256|seed \d", short), "what only a repetition needs"
    arguments = made.provenance.get("arguments", {})
    if isinstance(arguments.get("seed"), int):
        assert f"seed {arguments['seed']}" in caption
        assert made.sample.seed == arguments["seed"]
    if isinstance(arguments.get("n"), int):
        assert f"{arguments['n']} sequences" in caption
        assert made.sample.n == arguments["n"]
    checkpoint = made.provenance.get("checkpoint")
    if checkpoint:
        called = checkpoint if checkpoint in ("run", "the checkpoint") else "shakespeare_char"
        assert f"Checkpoint {called}" in caption
        assert "/" not in caption.split("Checkpoint ")[1]
    if digest := made.provenance.get("checkpoint_sha256"):
        assert f"(SHA-256 {digest[:12]})" in caption
    others = ("grade_circuit_methods", "validate_circuit", "compare_outputs")
    no_scores = name in others  # their first pictures show none of the scores, or one
    words = re.findall(r"\w{5,}", made.definition if no_scores else made.explanation())
    assert sum(word.lower() in caption.lower() for word in words) >= 0.9 * len(words)
    assert note.yshift == -drawn.layout.margin.b + 14 * (note.text.count("<br>") + 1) + 12


@ALL
def test_titles_axes_and_size(name):
    drawn = drawn_of(name)
    assert drawn.layout.title.text
    lines = drawn.layout.title.text.split("<br>")
    assert all(style.extent(line, 15) <= 328 - 10 for line in lines), "too wide for the report on a phone of 360 pixels"
    assert drawn.layout.width is None
    assert 150 < drawn.layout.height < 1500
    cartesian = [trace for trace in drawn.data if trace.type != "sankey"]
    if cartesian:
        x = [axis.title.text for axis in drawn.select_xaxes()]
        y = [axis.title.text for axis in drawn.select_yaxes()]
        named_by_panels = name.startswith("attention_patterns")  # thumbnails say it in the bar's title
        assert any(x) or named_by_panels or name == "induction_accuracy"
        assert any(y) or len(y) > 1 or any(drawn.data[0].y) or named_by_panels
    if any(trace.type == "heatmap" for trace in drawn.data) and drawn.layout.coloraxis.colorbar.yref == "container":
        (unit,) = [note for note in drawn.layout.annotations if note.name == "unit"]
        assert unit.text


@ALL
def test_the_same_result_gives_the_same_small_json_with_our_template_and_not_the_default(name):
    before = pio.templates.default
    first, again = drawn_of(name), figure(result(name))
    assert pio.templates.default == before
    text = first.to_json(engine="json")
    assert text == again.to_json(engine="json")
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert len(text) < 200_000
    ours = pio.templates[style.TEMPLATE]
    assert again.layout.template.layout.font.family == style.FONT == ours.layout.font.family
    assert list(again.layout.template.layout.colorway) == list(style.CATEGORIES)


@ALL
def test_category_axes_keep_every_label_apart(name):
    drawn = drawn_of(name)
    for trace in drawn.data:
        if trace.type == "heatmap":
            for labels in (trace.x, trace.y):
                assert len(set(labels)) == len(labels)
                assert all(isinstance(label, str) for label in labels)
            for axis, label in (("xaxis", trace.xaxis), ("yaxis", trace.yaxis)):
                assert drawn.layout[axis + (label or "x")[1:]].type == "category"


BESIDE_CHANCE = (
    "score_heads", "head_taxonomy", "prefix_matching", "find_induction_heads", "task_heads", "copying_score",
    "copying_score, logits", "composition_scores", "attention_statistics", "syntax_attention",
)  # fmt: skip


@ALL
def test_scales_are_white_at_zero_or_chance_and_hold_all_values(name):
    drawn = drawn_of(name)
    for trace in drawn.data:
        if trace.type != "heatmap":
            continue
        scale = drawn.layout[trace.coloraxis]
        z = np.asarray(trace.z)[np.isfinite(trace.z)]
        if len(z) == 0:
            continue
        amber = scale.colorscale[-1][1] == style.COST[-1]
        assert scale.cmax >= z.max() - 1e-6 * abs(z.max())
        assert amber or scale.cmin <= z.min() + 1e-6 * abs(z.min())
        white = [place for place, colour in scale.colorscale if colour == "#ffffff"]
        assert white, "nothing is white"
        if name in BESIDE_CHANCE and scale.colorscale[-1][1] != style.SEQUENTIAL[-1] and not amber:
            assert (scale.cmin, scale.cmax) in ((0, 1), (-1, 1))
        elif amber or scale.colorscale[-1][1] == style.SEQUENTIAL[-1]:
            assert scale.cmin == 0
            assert white == [0]
        else:
            assert scale.cmid == 0
            assert scale.cmin == -scale.cmax


def test_a_share_has_the_scale_of_a_share_however_small_it_is():
    drawn = drawn_of("prefix_matching")
    axis, chance = drawn.layout.coloraxis, float(result("prefix_matching").chance.mean())
    assert (axis.cmin, axis.cmax) == (0, 1)
    assert np.asarray(drawn.data[0].z).max() < 0.1, "this model has no such head"
    at = [shades.shade(axis.colorscale, float(value)) for value in np.asarray(drawn.data[0].z).ravel()]
    assert min(int(colour[1:3], 16) for colour in at) > 240, "a map in which nothing happens looks empty"
    assert shades.shade(axis.colorscale, chance) == "#ffffff"
    assert "no head is surely above chance" in drawn.layout.title.text.replace("<br>", " ")


@ALL
def test_letters_in_cells_are_read_in_light_and_in_dark(name):
    """Every letter has a contrast of 4.5 to the shade of its cell, worked out from what is in the figure."""
    drawn = drawn_of(name)
    letters = [trace for trace in drawn.data if trace.name == "cells"]
    assert all(trace.texttemplate is None for trace in drawn.data if trace.type == "heatmap"), "Plotly would choose"
    for trace in letters:
        (heat,) = [t for t in drawn.data if t.type == "heatmap" and (t.xaxis, t.yaxis) == (trace.xaxis, trace.yaxis)]
        axis, cells = drawn.layout[heat.coloraxis], shown_of(heat)
        colours = trace.textfont.color
        colours = [colours] * len(trace.text) if isinstance(colours, str) else colours
        assert trace.textfont.size >= 7
        for x, y, colour in zip(trace.x, trace.y, colours, strict=True):
            value = cells[y, x]
            share = (value - axis.cmin) / (axis.cmax - axis.cmin)
            for dark in (False, True):
                back = style.DARK_OF[style.MISSING] if dark else style.MISSING
                back = back if math.isnan(value) else shades.shade(axis.colorscale, share, dark=dark)
                assert shades.contrast(style.DARK_OF[colour] if dark else colour, back) > 4.45, (x, y, value)


@ALL
def test_every_hover_text_reads_what_is_there(name):
    for trace in drawn_of(name).data:
        if trace.hoverinfo == "skip":
            continue
        template = trace.node.hovertemplate if trace.type == "sankey" else trace.hovertemplate
        assert template, trace.name
        assert template.endswith(".<extra></extra>")
        if trace.type == "sankey":
            assert trace.link.hovertemplate.endswith(".<extra></extra>")
            continue
        facts = [int(i) for i in re.findall(r"customdata\[(\d+)\]", template)]
        if facts:
            assert np.asarray(trace.customdata).shape[-1] == max(facts) + 1


@ALL
def test_without_caption_only_the_caption_is_gone(name):
    drawn = drawn_of(name)
    bare, caption = uncaptioned(drawn)
    assert caption == drawn.layout.meta["caption"]
    assert not captions(bare)
    assert captions(drawn), "the figure itself has changed"
    assert len(bare.layout.annotations) == len(drawn.layout.annotations) - 1
    lines = 1 + captions(drawn)[0].text.count("<br>")
    assert drawn.layout.height - bare.layout.height == drawn.layout.margin.b - bare.layout.margin.b == 14 * lines + 12
    again = captioned(go.Figure(drawn), 690, legend=360)
    assert again == drawn


@ALL
def test_unknown_options_and_their_values_are_refused_in_a_sentence(name):
    made = result(name)
    with pytest.raises(ResultError, match=r"has no option 'colour_of_sky'; expected .* or height$") as refused:
        figure(made, colour_of_sky="blue")
    assert all(option in str(refused.value) for option in options_of(made))
    for option in set(options_of(made)) & {"kind", "value", "score", "layer", "head", "which", "colour", "x", "y"}:
        with pytest.raises(ResultError, match=r"expected|give an index"):
            figure(made, **{option: "nowhere"})


def test_sizes():
    made = result("prefix_matching")
    drawn = figure(made, width=360, height=300, title="<b>Mine</b>")
    assert (drawn.layout.width, drawn.layout.height) == (360, 300)
    assert plain(drawn.layout.title.text) == "<b>Mine</b>"
    assert drawn.layout.title.text != "<b>Mine</b>"
    assert captions(drawn)[0].text.count("<br>") > captions(figure(made))[0].text.count("<br>")
    for wrong in (100, 3.5, "wide", True):
        with pytest.raises(ResultError, match="expected pixels"):
            figure(made, width=wrong)


def test_a_result_plots_itself_with_options():
    made = result("prefix_matching")
    assert made.plot(kind="bars").to_json() == figure(made, kind="bars").to_json()


def test_subclasses_and_loaded_results_are_drawn_alike(tmp_path):
    made = result("activation_patching")
    made.save(tmp_path / "kept")
    assert figure(ngl.load_result(tmp_path / "kept")).to_json() == figure(made).to_json()


def test_missing_values_stay_missing():
    values = torch.tensor([[0.5, float("nan")], [-1.0, 0.25]])
    made = Scores(values=values, axes=("layer", "head"), quantity="score", definition="made up")
    drawn = figure(made)
    cells = shown(drawn)
    assert math.isnan(cells["0", "1"])
    assert cells["1", "0"] == -1
    assert drawn.layout.plot_bgcolor == style.MISSING
    assert "no value" in drawn.layout.meta["caption"]
    assert drawn.data[0].hoverongaps is False
    assert json.loads(drawn.to_json())["data"][0]["z"]["dtype"] == "f4"
    listed = bars(figure(made, kind="bars"))
    assert list(listed) == ["0.0", "1.1", "1.0", "0.1"]


def test_all_missing_all_zero_and_a_single_value_are_drawn():
    for values in (torch.full((2, 2), float("nan")), torch.zeros(2, 2), torch.ones(1, 1)):
        for kind in ("heatmap", "bars"):
            made = Scores(values=values, axes=("layer", "head"), quantity="score", definition="made up")
            drawn = figure(made, kind=kind)
            json.loads(drawn.to_json())
            if kind == "heatmap":
                assert drawn.layout.coloraxis.cmin < drawn.layout.coloraxis.cmax


def test_results_that_have_no_figure_of_their_own():
    made = result("five axes")
    with pytest.raises(ResultError, match="there is no case 2"):
        figure(made, case=2)
    drawn = figure(made, case=1, layer=0)
    cells = shown(drawn)
    assert cells["2", "3"] == pytest.approx(float(made.values[0, 2, 1, 3]), rel=1e-4)
    assert len(cells) == 12
    listed = bars(figure(made, kind="bars", k=5))
    assert max(map(abs, listed.values())) == pytest.approx(float(made.values.abs().max()), rel=1e-4)
    assert len(listed) == 5
    alone = Result(values=torch.tensor(2.5), axes=(), quantity="a number", definition="made up")
    assert list(bars(figure(alone)).values()) == [2.5]


def test_five_significant_digits():
    exact = torch.tensor([0.0, 1.23456789, -123456.789, 1e-30, 3.00001e10, float("nan"), float("inf")])
    kept = digits(exact)
    assert kept.dtype == np.float32
    expected = [0.0, 1.2346, -123460.0, 1e-30, 3.0e10, math.nan, math.inf]
    np.testing.assert_allclose(kept, np.array(expected, dtype=np.float32), rtol=1e-7)


def test_no_text_of_a_figure_is_a_number_format_of_its_own():
    drawn = figure(result("activation_patching, residual"))
    assert not [text for text in texts(drawn.to_dict()) if "nan" in text.split()]


def test_captions_of_few_words_and_of_long_ones():
    long = "word " * 400
    made = Scores(values=torch.ones(2, 2), axes=("layer", "head"), quantity="score", definition=long)
    for width, room in ((360, 340), (760, 740), (None, 680)):
        drawn = figure(replace(made), width=width)
        (note,) = captions(drawn)
        assert max(style.extent(line, style.SMALL) for line in note.text.split("<br>")) <= room
        assert len(note.text) < 300, "short"
        assert len(drawn.layout.meta["caption"].split()) == 400
