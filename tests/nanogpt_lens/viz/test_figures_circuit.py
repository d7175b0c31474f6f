"""A circuit as a drawing: which edges, how wide, in which colour, around which nodes, and what is said of them."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures import figure
from nanogpt_lens.viz.figures.circuit_layout import CircuitLayout, ends_of
from tests.hostile import HOSTILE
from tests.nanogpt_lens.viz.circuit_helpers import KEPT, NAMES, made
from tests.nanogpt_lens.viz.figure_helpers import named, result
from tests.nanogpt_lens.viz.test_figures_hostile import check


def lines(drawn: Any) -> dict[str, Any]:
    """The shapes of edges by their names."""
    return {shape.name: shape for shape in drawn.layout.shapes if shape.type == "path"}


def boxes(drawn: Any) -> dict[str, Any]:
    """The shapes of nodes by their names."""
    return {s.name: s for s in drawn.layout.shapes if s.type == "rect" and not s.name.startswith("layer")}


def legend(drawn: Any) -> list[str]:
    return [trace.name for trace in drawn.data if trace.showlegend]


def numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]


def test_the_edges_of_the_circuit_by_width_and_colour():
    drawn = figure(made())
    shown = lines(drawn)
    assert set(shown) == set(KEPT)
    widths = [shown[name].line.width for name in KEPT]
    assert widths[0] == 7.0
    finest = 0.8
    assert [round((w - finest) / (7 - finest), 2) for w in widths] == [1.0, 0.5, 0.25], "square roots of 4 : 1 : 1/4"
    assert [shown[name].line.color for name in KEPT] == [style.TEAL, style.TEAL, style.RUST]
    assert legend(drawn) == ["helps: without it the metric falls", "works against: without it the metric rises"]
    loss = figure(made(full=torch.tensor([1.0, 1.0]), empty=torch.tensor([5.0, 7.0])))  # whose rise is a harm
    assert [lines(loss)[name].line.color for name in KEPT] == [style.RUST, style.RUST, style.TEAL]
    assert legend(loss) == ["helps: without it the metric rises", "works against: without it the metric falls"]


def test_an_edge_goes_from_its_sender_to_its_receivers_part():
    drawn = figure(made())
    places = boxes(drawn)
    start, *_, stop = numbers(lines(drawn)["0.1->1.0.k"].path)
    sender, receiver = places["0.1"], places["1.0"]
    assert start[1] == sender.y1
    assert sender.x0 < start[0] < sender.x1
    assert stop == (pytest.approx((receiver.x0 + receiver.x1) / 2), receiver.y0)
    letters = named(drawn, "q, k, v")
    assert sorted(zip(letters.text, letters.x.tolist(), strict=True)) == [
        ("k", pytest.approx(stop[0])),
        ("v", pytest.approx(numbers(lines(drawn)["embed->0.1.v"].path)[-1][0])),
    ]


def test_nodes_are_in_the_models_order_and_those_without_an_edge_are_pale():
    drawn = figure(made())
    places = boxes(drawn)
    heights = [places[node].y0 for node in ("embed", "0.0", "mlp0", "1.0", "mlp1", "logits")]
    assert heights == sorted(heights)
    assert places["1.0"].x1 < places["1.1"].x0
    pale = {name for name, box in places.items() if box.fillcolor == places["0.0"].fillcolor}
    assert pale == {"0.0", "1.1", "mlp0", "mlp1"}
    names = named(drawn, "nodes")
    said = dict(zip(names.text, names.customdata, strict=True))
    assert said["0.1"] == "reads embed (v); is read by 1.0.k"
    assert said["mlp0"] == "reads nothing; is read by nothing"


def test_pointing_at_an_edge_gives_its_numbers():
    trace = named(figure(made(), edges="all"), "edges")
    said = set(trace.text)
    assert "0.1->1.0.k: score -1, rank 2; without it the circuit's faithfulness is 0.2" in said
    assert "embed->logits: score 0.01, rank 4; not in the circuit" in said
    assert len(said) == len(NAMES)


@pytest.mark.parametrize(("edges", "expected"), [("all", NAMES), (1, KEPT[:1]), (4, (*KEPT, "embed->logits"))])
def test_which_edges_are_drawn(edges, expected):
    drawn = figure(made(), edges=edges)
    shown = lines(drawn)
    assert set(shown) == set(expected)
    inside, outside = ({shown[n].opacity for n in shown if (n in KEPT) == kept} for kept in (True, False))
    assert not outside or max(outside) < min(inside) / 2
    assert f"Drawn are {len(expected)} of {len(NAMES)} edges" in drawn.layout.meta["caption"]


@pytest.mark.parametrize("edges", [0, -1, True, "some", 1.5])
def test_another_number_or_word(edges):
    with pytest.raises(ResultError, match="edges is"):
        figure(made(), edges=edges)
    with pytest.raises(ResultError, match="kind is 'graph'"):
        figure(made(), kind="graph")


def test_titles():
    assert figure(made()).layout.title.text.replace("<br>", " ") == "3 of 46 edges do 90% of the work; none can go"
    one, two = (
        made(without=torch.tensor([1.0 if n in KEPT[:i] else math.nan for n in NAMES]).double()) for i in (1, 2)
    )
    assert figure(one).layout.title.text.replace("<br>", " ").endswith("; one could go")
    assert figure(two).layout.title.text.replace("<br>", " ").endswith("; 2 could go, each alone")
    far = made(per_example=torch.tensor([0.0, 0.0]))
    assert figure(far).layout.title.text.replace("<br>", " ") == "3 of 46 edges do 40% of the work: outside 85% to 115%"


def test_one_colour_without_signs_and_scores_that_are_no_numbers():
    values = made().values.clone()
    values[0] = math.nan
    drawn = figure(made(values=values.abs(), signed=False), edges="all")
    assert len({shape.line.color for shape in lines(drawn).values()}) == 1
    assert lines(drawn)[NAMES[0]].line.width == 0.8
    empty = figure(made(kept=()))
    assert lines(empty) == {}
    assert legend(empty) == []


def test_widths_where_scores_are_infinite_or_only_an_order():
    values = made().values.abs()
    values[NAMES.index(KEPT[2])] = math.inf
    endless = lines(figure(made(values=values, signed=False, method="acdc")))
    assert [endless[name].line.width == 7.0 for name in KEPT] == [True, False, True]
    without = made().without.clone()
    without[NAMES.index(KEPT[1])] = 0.9 - 0.7 / 4
    order = figure(made(values=torch.arange(46.0).double(), signed=False, method="greedy", without=without))
    widths = {name: (line.line.width - 0.8) / 6.2 for name, line in lines(order).items()}
    assert widths == pytest.approx({KEPT[0]: 1.0, KEPT[1]: 0.5, KEPT[2]: 1.0}, abs=0.01)
    assert "the more faithfulness changes without it" in order.layout.meta["caption"]
    assert "score" not in " ".join(named(order, "edges").text)


def sampled(path: str) -> np.ndarray:
    """Many points of a way that is written as M, C, L, C, ..."""
    points, t = np.array(numbers(path)).reshape(-1, 4, 1, 2), np.linspace(0, 1, 41)[:, None]
    weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    return np.add.reduce([w * points[:, k] for k, w in enumerate(weights)]).reshape(-1, 2)


def test_no_edge_runs_through_a_node_and_none_on_another():
    circuit = result("find_circuit")
    drawn = figure(circuit, edges="all")
    places, paths = boxes(drawn), {name: shape.path for name, shape in lines(drawn).items()}
    assert len(set(paths.values())) == len(paths) == 479
    corners = {node: (box.x0, box.y0, box.x1, box.y1) for node, box in places.items()}
    for name, path in paths.items():
        x, y = sampled(path).T
        inside = [n for n, (x0, y0, x1, y1) in corners.items() if ((x > x0) & (x < x1) & (y > y0) & (y < y1)).any()]
        assert not inside, (name, inside)
    assert len(str(drawn.to_json())) < 400_000
    for lower, upper in pairwise(("embed", "0.0", "mlp0", "1.0", "mlp1", "2.0", "mlp2", "3.0", "mlp3", "logits")):
        assert places[lower].y1 + 20 < places[upper].y0


def test_of_a_real_circuit():
    circuit = result("find_circuit")
    drawn = figure(circuit)
    assert set(lines(drawn)) == set(circuit.edges)
    assert f"{circuit.n_edges} of 479 edges" in drawn.layout.title.text.replace("<br>", " ")


def test_a_large_model_is_drawn_within_bounds():
    senders = ["embed", *(f"{i}.{h}" for i in range(12) for h in range(12)), *(f"mlp{i}" for i in range(12))]
    names = tuple(f"{sender}->logits" for sender in senders)
    layout = CircuitLayout.of([ends_of(name) for name in names])
    assert layout.size[1] < 1400
    drawn = figure(made(names, names[:40]), edges="all")
    assert len(lines(drawn)) == len(names)


@pytest.mark.parametrize("name", [*HOSTILE, "0.1->1.0", "embed->embed", "0.1.k->logits", "1->2", "0.1234->logits"])
def test_names_that_are_no_edges_are_not_drawn(name):
    with pytest.raises(ResultError, match="is no edge of a circuit; expected a name such as"):
        figure(made((name, *NAMES[1:])))


def test_edges_that_lead_down_and_models_without_end_are_not_drawn():
    with pytest.raises(ResultError, match=r"mlp1->0\.0 does not lead upwards"):
        figure(made(("mlp1->0.0.q", *NAMES[1:])))
    with pytest.raises(ResultError, match="not drawn; expected at most 2048 heads"):
        figure(made(("999.999->logits", *NAMES[1:])))


def test_nothing_of_it_is_taken_for_html():
    check(figure(made(), edges="all"))
    check(figure(made(), kind="curve"))
