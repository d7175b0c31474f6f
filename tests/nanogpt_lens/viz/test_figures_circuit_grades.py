"""Methods that find circuits beside each other: curves, the table of grades, estimates against the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.circuits.grading import SCORES
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import CircuitGrades
from nanogpt_lens.results.grades import HIGHER_IS_BETTER
from nanogpt_lens.viz.figures import figure
from tests.hostile import HOSTILE
from tests.nanogpt_lens.viz.figure_helpers import named, result, shown
from tests.nanogpt_lens.viz.test_figures_hostile import check

NAN = float("nan")


def made(**changed: Any) -> CircuitGrades:
    """Four methods on four edges: EAP-IG is all but exact, EAP has a wrong sign, attention knows none."""
    exact = torch.tensor([-4.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    fields: dict[str, Any] = {
        "values": torch.tensor(
            [[1.0, 0.0, 2.0, NAN], [0.9, 0.01, 2.0, 5.0], [0.5, 0.3, 4.0, 2.0], [NAN, 0.3, 4.0, 2.0]],
            dtype=torch.float64,
        ),
        "axes": ("method", "score"),
        "labels": {
            "method": ("exact", "eap_ig", "eap", "attention"),
            "score": ("spearman", "mean_regret", "n_edges", "n_runs"),
        },
        "quantity": "grades",
        "definition": "made up",
        "exact": exact,
        "estimates": torch.stack([exact, exact * 1.1, torch.tensor([-4, 0.1, 1, 0.5]), torch.tensor([1, 0, 3, 2])]),
        "curves": torch.tensor(
            [[0, 0.5, 0.95, 1, 1], [0, 0.5, 0.9, 1, 1], [0, 0.5, 0.2, 0.6, 1], [0, 0, -2, 0, 1]], dtype=torch.float64
        ),
        "edges": ("embed->0.0.q", "embed->0.1.v", "0.1->logits", "embed->logits"),
        "k": 2,
        "wrong_signs": torch.tensor([0.0, 0.0, 1.0, NAN], dtype=torch.float64),
        "missed": torch.tensor([0.0, 0.0, 1.0, 2.0], dtype=torch.float64),
        "gap": 6.0,
        "tolerance": 0.15,
    }
    return CircuitGrades(**(fields | changed))


def title(drawn: Any) -> str:
    return drawn.layout.title.text.replace("<br>", " ").replace("\u2060", "")


class TestCurves:
    def test_every_size_of_every_method_the_exact_order_strongest_and_on_top(self):
        drawn = figure(made())
        assert drawn.data[-1].name == "exact effects"
        assert all(drawn.data[-1].line.width > trace.line.width for trace in drawn.data[:-1])
        for name, i in (("exact effects", 0), ("EAP-IG", 1), ("EAP", 2), ("attention alone", 3)):
            line = named(drawn, name)
            assert list(line.x) == [1, 2, 3, 4]
            assert np.asarray(line.y) == pytest.approx(made().curves[i, 1:].numpy())
        assert len({(trace.line.color, trace.line.dash) for trace in drawn.data}) == 4

    def test_the_band_is_the_tolerance_where_that_is_known(self):
        (band,) = figure(made()).layout.shapes
        assert (band.y0, band.y1) == (pytest.approx(0.85), pytest.approx(1.15))
        assert not figure(made(tolerance=None)).layout.shapes

    def test_what_is_far_away_does_not_flatten_the_rest_and_is_said(self):
        drawn = figure(made())
        assert drawn.layout.yaxis.range[0] > -1.1
        assert "1 value is beyond -1 to 2.5 and not seen" in drawn.layout.meta["caption"]

    def test_the_title_says_who_nearly_matches(self):
        assert title(figure(made())) == "EAP-IG nearly matches exact effects; EAP and attention alone do not"
        few = made().values.clone()
        few[:, 2] = 2
        near = made(curves=made().curves[[0, 1, 1, 3]], values=few)
        assert title(figure(near)) == "EAP-IG and EAP nearly match exact effects; attention alone does not"
        every = made(curves=made().curves[[0, 0, 0, 0]], values=few)
        assert title(figure(every)).endswith("attention alone nearly match exact effects")
        many = made(curves=made().curves[[0, 1, 1, 3]])  # EAP needs four edges where two are enough
        assert title(figure(many)) == "EAP-IG nearly matches exact effects; EAP and attention alone do not"
        assert title(figure(made(curves=made().curves[[0, 3, 3, 3]]))).endswith(
            "does not match exact effects, nor nearly"
        )

    def test_without_the_exact_order(self):
        whole = made()
        labels = whole.labels | {"method": ("acdc", "eap_ig", "eap", "weights")}
        assert title(figure(replace(whole, labels=labels))) == "Of these, ACDC takes the fewest edges"


class TestTable:
    def test_colours_go_by_rank_towards_what_is_better(self):
        cells = shown(figure(made(), kind="table"))
        assert [cells[name, "rank correlation"] for name in ("exact effects", "EAP-IG", "EAP")] == [1, 0.5, 0]
        assert np.isnan(cells["attention", "rank correlation"])
        assert [cells[name, "mean regret"] for name in ("exact effects", "EAP-IG")] == [
            1,
            pytest.approx(2 / 3, rel=1e-4),
        ]
        assert cells["EAP", "mean regret"] == cells["attention", "mean regret"] == pytest.approx(1 / 6, rel=1e-4)
        assert cells["EAP-IG", "forward passes"] == 0

    def test_the_numbers_stand_in_the_cells(self):
        text = figure(made(), kind="table").data[0].text
        assert [list(row) for row in text][:2] == [["1", "0", "2", ""], [".90", ".01", "2", "5"]]

    def test_it_is_known_of_every_grade_what_is_better(self):
        assert set(HIGHER_IS_BETTER) == set(SCORES)

    def test_the_title(self):
        assert title(figure(made(), kind="table")) == "EAP-IG finds 2 of the top 2 edges, attention alone 0"


class TestScatter:
    def test_every_edge_by_name_and_wrong_signs_apart(self):
        drawn = figure(made(), kind="scatter", method="eap")
        wrong, others = named(drawn, "the wrong sign"), named(drawn, "other edges")
        assert (list(wrong.text), list(wrong.x), list(wrong.y)) == (["0.1->logits"], [-1], [1])
        assert list(others.text) == ["embed->0.0.q", "embed->0.1.v", "embed->logits"]
        assert title(drawn) == (
            "EAP finds 1 of the top 2 edges, 1 of them with the wrong sign; it is farthest off at 0.1->logits"
        )

    def test_the_first_method_that_estimates_effects_is_taken(self):
        drawn = figure(made(), kind="scatter")
        assert title(drawn).startswith("EAP-IG finds all of the top 2 edges, all signs right")
        assert drawn.layout.yaxis.title.text == "estimate of EAP-IG"

    def test_a_method_without_unit_has_sizes_and_no_line(self):
        drawn = figure(made(), kind="scatter", method="attention")
        assert [trace.name for trace in drawn.data] == ["edges"]
        assert list(drawn.data[0].x) == [4, 2, 1, 0.5]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "bars"}, "^kind is 'bars'; expected one of curves, table, scatter$"),
        ({"method": "eap"}, "^method is 'eap', but this picture is of all; leave it out, or give kind='scatter'$"),
        (
            {"kind": "scatter", "method": "acdc"},
            "^'acdc' was not graded; expected one of exact, eap_ig, eap, attention$",
        ),
    ],
)
def test_what_is_wrong_is_refused(options, sentence):
    with pytest.raises(ResultError, match=sentence):
        figure(made(), **options)


@pytest.mark.parametrize("kind", ["curves", "table", "scatter"])
def test_names_that_try_something_are_text(kind):
    names = tuple(HOSTILE)[:4]
    labels = {"method": ("exact", *names[:3]), "score": names}
    labels["score"] = ("n_edges", *names[:3])
    drawn = figure(made(labels=labels, edges=names), kind=kind)
    check(drawn)


def test_of_real_grades():
    grades = result("grade_circuit_methods")
    drawn = grades.plot()
    for i, name in enumerate(trace.name for trace in drawn.data[:-1]):
        assert np.asarray(named(drawn, name).y) == pytest.approx(
            grades.curves[[m for m in range(7) if grades.methods[m] != "exact"][i], 1:].numpy(), rel=1e-4, abs=1e-6
        )
    assert grades.tolerance == pytest.approx(0.1)
    points = named(grades.plot(kind="scatter", method="exact"), "edges")
    assert np.asarray(points.x) == pytest.approx(grades.exact.numpy(), rel=1e-4, abs=1e-6)
    assert np.asarray(points.x) == pytest.approx(np.asarray(points.y), rel=1e-4, abs=1e-6)
