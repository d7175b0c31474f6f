"""The faithfulness of every number of edges as a figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.viz.figures import figure
from tests.nanogpt_lens.viz.circuit_helpers import made
from tests.nanogpt_lens.viz.figure_helpers import named, result


def test_the_curve_the_band_and_the_circuit():
    drawn = figure(made(), kind="curve")
    line = named(drawn, "the first edges by rank")
    assert list(line.x[:4]) == [1, 2, 3, 4]
    assert np.asarray(line.y[:4]) == pytest.approx([0.1, -3.0, 0.9, 1.0])
    assert len(line.x) == len(made().kept)
    marker = named(drawn, "the circuit")
    assert (marker.x[0], marker.y[0]) == (3, pytest.approx(0.9))
    (band,) = drawn.layout.shapes
    assert (band.y0, band.y1) == (pytest.approx(0.85), pytest.approx(1.15))
    assert drawn.layout.xaxis.type == "log"
    assert drawn.layout.title.text == "3 edges do the work, the first by rank"


def test_what_is_far_away_does_not_flatten_the_rest_and_is_said():
    drawn = figure(made(), kind="curve")
    low, high = drawn.layout.yaxis.range
    assert -1.1 < low < 0 < 1.15 < high < 1.5
    assert "1 sizes are beyond" not in drawn.layout.meta["caption"]
    assert "1 size is beyond -1 to 2.5 and not seen" in drawn.layout.meta["caption"]


def test_the_title_says_when_the_order_alone_needs_more():
    curve = made().curve.clone()
    curve[5] = 0.5
    title = figure(made(curve=curve), kind="curve").layout.title.text.replace("<br>", " ")
    assert title == "3 edges do the work; by rank alone it takes 3, and 6 to stay there"
    far = made(per_example=torch.tensor([0.0, 0.0]))
    title = figure(far, kind="curve").layout.title.text.replace("<br>", " ")
    assert title.startswith("3 edges do 40% of the work; by rank")


def test_of_a_real_circuit():
    circuit = result("find_circuit")
    drawn = figure(circuit, kind="curve")
    line = named(drawn, "the first edges by rank")
    assert np.asarray(line.y) == pytest.approx(circuit.curve[1:].numpy(), rel=1e-4, abs=1e-6)
    assert named(drawn, "the circuit").y[0] == pytest.approx(circuit.faithfulness, rel=1e-4)


def test_edges_are_not_chosen():
    with pytest.raises(ResultError, match="edges is 3, but the curve is of all"):
        figure(made(), kind="curve", edges=3)


def test_several_in_one_picture():
    other = made(curve=made().curve.flip(0), method="eap", rank=made().rank.flip(0))
    drawn = figure(made(), kind="curve", beside={"EAP": other, "again %{x}": made()})
    lines = [trace for trace in drawn.data if trace.showlegend is not False]
    assert [line.name for line in lines][1:] == ["EAP", "again %\u2060{x}"]
    assert len({line.line.color for line in lines}) == 3
    assert np.asarray(lines[1].y) == pytest.approx(other.curve[1:].numpy(), rel=1e-4, abs=1e-6)
    diamonds = [trace for trace in drawn.data if trace.showlegend is False]
    assert [(d.x[0], d.marker.color) for d in diamonds] == [(3, line.line.color) for line in lines]
    assert drawn.layout.title.text.replace("<br>", " ").startswith("Edges that they take: ")
    assert "3 values are beyond" in drawn.layout.meta["caption"]
    assert "each on its own prompts" in drawn.layout.meta["caption"]


def test_what_cannot_stand_beside_it():
    for beside in ({}, ["EAP"], {"EAP": 3}, {3: made()}):
        with pytest.raises(ResultError, match="expected circuits by name, such as"):
            figure(made(), kind="curve", beside=beside)
    with pytest.raises(ResultError, match="is of a model with .* other edges, this one of"):
        figure(made(), kind="curve", beside={"real": result("find_circuit")})
    with pytest.raises(ResultError, match="beside was given, but the drawing is of one circuit"):
        figure(made(), beside={"EAP": made()})
