"""Figures of transplants, weights and starts: every number where it belongs, and what is framed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.viz.figures import figure
from tests.nanogpt_lens.viz.figure_helpers import bars, heats, result, shown

MINUS = str.maketrans("−", "-")


def title(drawn: Any) -> str:
    return drawn.layout.title.text.replace("<br>", " ").replace("\u2060", "")


def test_every_component_has_its_share_in_its_cell():
    made = result("transplant, no search")
    drawn = figure(made)
    assert len(heats(drawn)) == 4  # layers and rest, twice
    for direction in range(2):
        layers, rest = shown(drawn, 2 * direction), shown(drawn, 2 * direction + 1)
        for i, name in enumerate(made.components):
            cell = {"0.0": ("0", "0"), "mlp3": ("3", "mlp")}.get(name)
            value = rest["rest", name] if cell is None else layers[cell]
            assert value == pytest.approx(float(made.values[direction, 0, i]), rel=1e-4, abs=1e-6)
        assert np.isnan(layers["0", "mlp"])
    texts = [text for trace in heats(drawn) for row in trace.text for text in row if text]
    assert len(texts) == 8
    first = made.components.index("embed")
    said = f"{float(made.values[0, 0, first]):.0%}<br>±{50 * float(made.high[0, 0, first] - made.low[0, 0, first]):.0f}"
    assert said in [text.translate(MINUS) for text in texts]
    assert not [shape for shape in drawn.layout.shapes if shape.name == "in the set"]


def test_the_set_is_framed_and_in_the_title():
    made = result("transplant")
    drawn = figure(made)
    framed = [shape for shape in drawn.layout.shapes if shape.name == "in the set"]
    assert len(framed) == int(made.chosen.sum())
    n = int(made.chosen[0].sum())
    assert f"{n} carry {float(made.set_share[0, 0]):.0%} of the difference in output (a into b)" in title(drawn)


def test_sets_beside_random_sets():
    made = result("transplant")
    drawn = figure(made, kind="set")
    found = [trace for trace in drawn.data if trace.name == "the set that was found"]
    assert [float(trace.y[0]) for trace in found] == pytest.approx(made.set_share[:, 0].tolist(), rel=1e-4)
    random = [trace for trace in drawn.data if trace.name == "random sets of as many"]
    assert list(random[1].y) == pytest.approx(made.random_share[1, 0].tolist(), rel=1e-4, abs=1e-6, nan_ok=True)
    order = [trace for trace in drawn.data if trace.name == "in the order of the search"]
    assert list(order[0].x) == made.sizes.tolist()
    assert list(order[0].y) == pytest.approx(made.curve[0].tolist(), rel=1e-4, abs=1e-6)
    assert sum(trace.name == "in random orders" for trace in drawn.data) == 20


def test_edges_by_sender_and_receiver():
    made = result("transplant_edges")
    drawn = figure(made)
    for direction in range(2):
        cells = shown(drawn, direction)
        for edge, value in zip(made.edges, made.values[direction].tolist(), strict=True):
            assert cells[tuple(edge.split("->"))] == pytest.approx(value, rel=1e-4, abs=1e-6)
        assert np.isnan(cells["mlp3", "0.0.q"])
    assert len(figure(made, direction="b into a").data) == 1


def test_weights_and_tokens():
    made = result("compare_weights")
    drawn = figure(made, k=4)
    top = made.values.argsort(descending=True)[:4].tolist()
    assert list(bars(drawn).values()) == pytest.approx(made.values[top].tolist(), rel=1e-4)
    assert "components have changed; shared start" in title(drawn)
    tokens = bars(figure(made, kind="embed", k=3))
    assert max(tokens.values()) == pytest.approx(float(made.token_moved[0].max()), rel=1e-4)


def test_a_start():
    made = result("shared_start")
    drawn = figure(made)
    assert list(bars(drawn).values()) == pytest.approx(made.values.tolist(), rel=1e-4)
    assert "come from one start" in title(drawn)


def test_refusals():
    for name, option in (
        ("transplant", {"kind": "bars"}),
        ("transplant", {"measure": "metric"}),
        ("transplant", {"kind": "set", "measure": "kl"}),
        ("transplant, no search", {"kind": "set"}),
        ("transplant_edges", {"direction": "a"}),
        ("compare_weights", {"kind": "tokens"}),
        ("compare_weights", {"k": 0}),
    ):
        with pytest.raises(ResultError, match="expected|sets have one"):
            figure(result(name), **option)


def test_directions_are_called_by_the_models_names():
    made = result("transplant")
    drawn = figure(made, names=("<b>base</b>", "tuned"))
    said = drawn.to_json()
    assert "into tuned" in said
    assert "a into b" not in said
    assert "<b>base</b>" not in said
    assert "old into new" in figure(result("transplant_edges"), names=["old", "new"], direction="a into b").to_json()
    with pytest.raises(ResultError, match="expected those of the two models"):
        figure(made, names="base")
