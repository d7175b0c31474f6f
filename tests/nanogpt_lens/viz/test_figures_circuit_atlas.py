"""An atlas as a film, small multiples and a timeline: the same places and widths at every step, and what is said."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import CircuitAtlas
from nanogpt_lens.viz.figures import figure
from tests.browser import launched
from tests.nanogpt_lens.viz.circuit_helpers import NAMES

STEPS = (0, 500, 1000, 2000)
CURVES = {"embed->0.1.v": (0.0, -1.0, -4.0, -4.0), "0.1->1.0.k": (0.0, 0.0, 0.0, -1.0), "1.0->logits": (0.0, 0, 1, 1)}
HALF = {"embed->0.1.v": (700.0, 500.0, 1000.0), "0.1->1.0.k": (1500.0, 1000.0, 2000.0), "1.0->logits": (750.0, 0, 1000)}
FORMED = ("embed->0.1.v", "0.1->1.0.k")


@cache
def made(**changed: Any) -> CircuitAtlas:
    """Two edges that appear, one that has changed, and many that do nothing."""
    values = torch.tensor([CURVES.get(name, (0.0,) * 4) for name in NAMES], dtype=torch.float64).T
    points = torch.tensor([HALF.get(name, (math.nan,) * 3) for name in NAMES], dtype=torch.float64)
    half, low, high = points.T
    formed = torch.tensor([name in FORMED for name in NAMES])
    group = torch.tensor([FORMED.index(name) if name in FORMED else -1 for name in NAMES])
    fields: dict[str, Any] = {
        "values": values,
        "axes": ("step", "edge"),
        "labels": {"step": tuple(map(str, STEPS)), "edge": NAMES},
        "quantity": "effect on the logit difference",
        "definition": "made up",
        "unit": "logits",
        "signed": True,
        "low": values - 0.01,
        "high": values + 0.01,
        "changed": ~half.isnan(),
        "shrunk": torch.zeros_like(formed),
        "formed": formed,
        **{
            f"{point}{end}": t for point in ("onset", "half") for end, t in (("", half), ("_low", low), ("_high", high))
        },
        **dict.fromkeys(("p_value", "p_noise", "p_drift"), torch.where(formed, 0.01, 0.5).double()),
        "n_curves": 6,
        "baseline": values[0],
        "final": values[-1],
        "group": group,
        "spans": torch.tensor([[500.0, 1000.0], [1000.0, 2000.0]]),
        "files": tuple(f"ckpt_{step}.pt" for step in STEPS),
        "least": 0.1,
        "level": 0.05,
    }
    return CircuitAtlas(**(fields | changed))


def lines(shapes: Any, panel: str | None = None) -> dict[str, Any]:
    return {s.name: s for s in shapes if s.type == "path" and panel in (None, s.xref)}


def test_the_film_has_a_frame_for_every_step_and_begins_at_the_last():
    drawn = figure(made(), kind="film")
    assert [frame.name for frame in drawn.frames] == [str(step) for step in STEPS]
    slider = drawn.layout.sliders[0]
    assert [s.label for s in slider.steps] == ["0", "500", "1,000", "2,000"]
    assert [s.args[0][0] for s in slider.steps] == [frame.name for frame in drawn.frames]
    assert slider.active == len(STEPS) - 1
    assert drawn.layout.shapes == drawn.frames[-1].layout.shapes


def test_places_and_the_scale_of_widths_are_the_same_at_every_step():
    frames = figure(made(), kind="film").frames
    shown = [lines(frame.layout.shapes) for frame in frames]
    for step in shown:
        assert set(step) == set(CURVES)
        assert {name: s.path for name, s in step.items()} == {name: s.path for name, s in shown[0].items()}
    widest, finest = 7.0, 0.8
    for i, step in enumerate(shown):
        for name, curve in CURVES.items():
            expected = finest + (widest - finest) * math.sqrt(abs(curve[i]) / 4)
            assert step[name].line.width == pytest.approx(expected, abs=0.01)
    boxes = [[(s.x0, s.y0, s.x1, s.y1) for s in f.layout.shapes if s.type == "rect"] for f in frames]
    assert all(places == boxes[0] for places in boxes)


def test_what_counts_is_seen_at_the_step_where_it_does():
    frames = figure(made(), kind="film").frames
    pale = [{name for name, s in lines(f.layout.shapes).items() if s.opacity < 0.5} for f in frames]
    assert pale == [set(CURVES), {"0.1->1.0.k", "1.0->logits"}, {"0.1->1.0.k"}, set()]
    fills = [{s.name: s.fillcolor for s in f.layout.shapes if s.type == "rect"} for f in frames]
    assert fills[0]["embed"] != fills[1]["embed"]
    assert fills[2]["1.0"] == fills[1]["0.1"] != fills[1]["1.0"]
    colours = lines(frames[-1].layout.shapes)
    assert colours["embed->0.1.v"].line.color == colours["0.1->1.0.k"].line.color != colours["1.0->logits"].line.color


def test_hover_texts_are_of_the_step():
    frames = figure(made(), kind="film").frames
    said = [set(frame.data[0].text) for frame in frames]
    assert "embed->0.1.v at step 500: -1 (-1.01 to -0.99); half-way at 700 (500 to 1,000)" in said[1]
    assert "embed->0.1.v at step 1,000: -4 (-4.01 to -3.99); half-way at 700 (500 to 1,000)" in said[2]


def test_multiples_are_the_frames_of_the_film():
    film, still = figure(made(), kind="film"), figure(made(), kind="multiples", stages=(500, 2000))
    for panel, step in (("x", 1), ("x2", 3)):
        small, large = lines(still.layout.shapes, panel), lines(film.frames[step].layout.shapes)
        assert {n: s.path for n, s in small.items()} == {n: s.path for n, s in large.items()}
        assert {n: s.opacity for n, s in small.items()} == {n: s.opacity for n, s in large.items()}
        for name, shape in small.items():
            assert shape.line.width == pytest.approx(0.6 * large[name].line.width, abs=0.01)
    headings = [note.text for note in still.layout.annotations if note.name != "caption"]
    assert headings == ["<b>step 500</b>", "<b>step 2,000</b>"]
    assert len(figure(made(), kind="multiples").layout.annotations) == len(STEPS) + 1


def test_the_timeline_has_the_intervals_by_group():
    drawn = figure(made())
    labels = list(drawn.layout.yaxis.ticktext)
    assert labels == ["embed->0.1.v", "0.1->1.0.k", "1.0->logits"]
    assert list(drawn.data[0].x) == [700.0, 1500.0, 750.0]
    assert [(s.x0, s.x1) for s in drawn.layout.shapes] == [(500.0, 1000.0), (1000.0, 2000.0), (0.0, 1000.0)]
    colours = drawn.data[0].marker.color
    assert colours[0] == colours[1] != colours[2]
    headings = [note.text for note in drawn.layout.annotations if "<b>" in note.text]
    assert headings == [
        "<b>perhaps at once, in 500 to 1,000</b>",
        "<b>perhaps at once, in 1,000 to 2,000</b>",
        "<b>noise or drift might do that</b>",
    ]


def test_titles_say_what_appears():
    assert figure(made()).layout.title.text.replace("<br>", " ") == (
        f"2 of {len(NAMES)} edges appear, embed->0.1.v first, half-way at step 700"
    )
    none = replace(made(), formed=torch.zeros(len(NAMES), dtype=torch.bool), spans=torch.zeros(0, 2).double())
    assert "3 of" in figure(none, kind="film").layout.title.text
    assert "none in a transition" in figure(none, kind="film").layout.title.text.replace("<br>", " ")


def test_the_number_of_edges():
    assert len(lines(figure(made(), kind="film", edges=2).layout.shapes)) == 2
    assert len(lines(figure(made(), kind="film", edges=7).layout.shapes)) == 7
    assert list(figure(made(), edges=1).layout.yaxis.ticktext) == ["embed->0.1.v"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "movie"}, "kind is 'movie'; expected one of appearance, film, multiples"),
        ({"edges": 0}, "edges is 0; expected a whole number"),
        ({"kind": "multiples", "stages": (7,)}, "there is no step 7; expected some of 0, 500, 1000, 2000"),
        ({"kind": "multiples", "stages": ()}, "stages is (); expected a list of steps"),
        ({"stages": (500,)}, "this picture is of all"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(ResultError) as caught:
        figure(made(), **options)
    assert said in str(caught.value)


def test_nothing_to_show_in_time():
    nothing = torch.zeros(len(NAMES), dtype=torch.bool)
    with pytest.raises(ResultError, match="no edge has changed for good"):
        figure(replace(made(), formed=nothing, changed=nothing, spans=torch.zeros(0, 2).double()))


@pytest.mark.slow
def test_the_slider_moves_the_drawing_in_a_browser(tmp_path):
    """One offline file: what is on the screen after the slider's step is what the frame says."""
    file = tmp_path / "film.html"
    file.write_text(figure(made(), kind="film").to_html(include_plotlyjs=True, auto_play=False))
    widths = "[...document.querySelectorAll('.shapelayer path')].map(p => p.style.strokeWidth)"
    with launched() as browser:
        context = browser.new_context(viewport={"width": 400, "height": 800}, offline=True)
        page = context.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector(".slider-container")
        assert "7px" in page.evaluate(widths)
        box = page.locator(".slider-rail-touch-rect").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
        page.wait_for_function("document.querySelector('.slider-label').textContent === 'step 500'")
        page.wait_for_function(f"!{widths}.includes('7px')")
        assert "3.9px" in page.evaluate(widths)  # half of the way between the finest and the widest
