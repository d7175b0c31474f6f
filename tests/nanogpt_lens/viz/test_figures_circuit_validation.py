"""What was checked of a circuit as pictures: every way of running it, and the checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.circuits.robustness import CHOICES
from nanogpt_lens.circuits.validation import CHECKS
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import CircuitValidation
from nanogpt_lens.results.validation import IDEAL
from nanogpt_lens.viz.figures import figure
from tests.hostile import HOSTILE
from tests.nanogpt_lens.viz.figure_helpers import named, result
from tests.nanogpt_lens.viz.test_figures_hostile import check

NAN = float("nan")
USUAL = ("edges", "heads and MLPs", "other", "all", "ablate", "circuit")


def way(**changed: str) -> tuple[str, ...]:
    return tuple(changed.get(name, usual) for name, usual in zip(CHOICES, USUAL, strict=True))


def made(**changed: Any) -> CircuitValidation:
    """Five ways of running a circuit, one far beyond what is seen; six checks."""
    fields: dict[str, Any] = {
        "values": torch.tensor([0.95, -0.02, 0.8, 0.1, 0.7, 9.0], dtype=torch.float64),
        "axes": ("check",),
        "labels": {
            "check": ("faithfulness", "complement", "independence", "random_circuits", "held_out", "task other")
        },
        "quantity": "checks",
        "definition": "made up",
        "low": torch.tensor([0.9, -0.1, NAN, 0.0, 0.5, NAN], dtype=torch.float64),
        "high": torch.tensor([1.0, 0.1, NAN, 0.2, 0.9, NAN], dtype=torch.float64),
        "p": torch.tensor([NAN, NAN, 0.0004, 0.02, NAN, NAN], dtype=torch.float64),
        "edges": ("embed->mlp0", "mlp0->logits"),
        "edge_p": torch.tensor([0.01, 0.02], dtype=torch.float64),
        "choices": (
            way(),
            way(part="complement"),
            way(granularity="nodes", ablation="zero"),
            way(direction="restore", components="heads alone"),
            way(positions="where it matters"),
        ),
        "choice_names": CHOICES,
        "robustness": torch.tensor([0.95, -3.0, 0.3, 1.1, 0.9], dtype=torch.float64),
        "robustness_low": torch.tensor([0.9, -5.0, -0.9, NAN, 0.8], dtype=torch.float64),
        "robustness_high": torch.tensor([1.0, -1.0, 0.6, NAN, 1.0], dtype=torch.float64),
    }
    return CircuitValidation(**(fields | changed))


def title(drawn: Any) -> str:
    return drawn.layout.title.text.replace("<br>", " ").replace("\u2060", "")


def ticks(drawn: Any) -> dict[str, float]:
    return dict(zip(drawn.layout.yaxis.ticktext, drawn.layout.yaxis.tickvals, strict=True))


class TestRobustness:
    def test_a_dot_for_every_way_from_the_top_down(self):
        drawn = figure(made())
        dots = named(drawn, "measured")
        assert np.asarray(dots.x) == pytest.approx([0.95, 0.3, 1.1, 0.9])
        assert list(drawn.layout.yaxis.ticktext) == ["edges", "complement", "nodes", "heads alone", "edges"]
        depths = list(drawn.layout.yaxis.tickvals)
        assert depths == sorted(depths, reverse=True)
        assert [depths[i] for i in (0, 2, 3, 4)] == list(dots.y)
        assert dots.customdata[1][0] == "nodes, heads and MLPs, zero, all, ablate, circuit: 0.3 (-0.9 to 0.6)"

    def test_ways_are_under_headings_that_say_what_they_share(self):
        drawn = figure(made())
        headings = {note.text: note.y for note in drawn.layout.annotations if note.text.startswith("<b>")}
        assert list(headings) == [
            "<b>others carry the corrupted run's values</b>",
            "<b>others carry zero</b>",
            "<b>put back into the corrupted run</b>",
            "<b>edges kept where it matters</b>",
        ]
        depths = list(drawn.layout.yaxis.tickvals)
        first, zero, back, kept = headings.values()
        assert first > depths[0] > depths[1] > zero > depths[2] > back > depths[3] > kept > depths[4]

    def test_what_is_beyond_is_at_the_edge_with_its_number_and_said(self):
        drawn = figure(made())
        beyond = named(drawn, "beyond the edge")
        assert (list(beyond.text), list(beyond.y)) == (["−3"], [ticks(drawn)["complement"]])
        assert -0.5 < beyond.x[0] < -0.4
        assert (
            "Beyond -0.5 to 1.5: 1 value, as triangles with numbers and 1 interval goes on"
            in (drawn.layout.meta["caption"])
        )

    def test_intervals_are_lines_as_far_as_they_are_seen(self):
        drawn = figure(made())
        lines = [(s.x0, s.x1, s.y0) for s in drawn.layout.shapes if s.name != "all edges"]
        depths = list(drawn.layout.yaxis.tickvals)
        assert lines == [(0.9, 1.0, depths[0]), (-0.5, 0.6, depths[2]), (0.8, 1.0, depths[4])]

    def test_the_title_is_the_circuits_spread_without_its_complement(self):
        assert made().spread == pytest.approx((0.3, 1.1, 4))
        assert title(figure(made())) == "The circuit does 30% to 110% of the work, by how it is run: 4 ways"
        assert (
            "run in 4 ways that are in use it does 30% to 110%"
            in made(
                p=made().p.nan_to_num(0.9), labels={"check": (*made().labels["check"][:5], "equivalence")}
            ).verdict()
        )


class TestChecks:
    def test_every_check_with_its_p_and_where_a_perfect_circuit_is(self):
        drawn = figure(made(), kind="checks")
        places = ticks(drawn)
        dots = named(drawn, "measured")
        assert dict(zip(dots.y, map(float, dots.x), strict=True)) == pytest.approx(
            {
                places["faithfulness"]: 0.95,
                places["its complement"]: -0.02,
                places["independence (r)"]: 0.8,
                places["random circuits"]: 0.1,
                places["held-out prompts"]: 0.7,
            }
        )
        perfect = named(drawn, "perfect")
        assert dict(zip(perfect.y, perfect.x, strict=True)) == {
            places["faithfulness"]: 1,
            places["its complement"]: 0,
            places["independence (r)"]: 0,
            places["held-out prompts"]: 1,
        }
        notes = {note.text: note.y for note in drawn.layout.annotations if note.text.startswith("p ")}
        assert notes == {"p under 0.001": places["independence (r)"], "p = 0.020": places["random circuits"]}
        assert list(named(drawn, "beyond the edge").text) == ["9"]

    def test_the_title_is_made_of_numbers(self):
        said = "The circuit does 95% of the work, 70% on other prompts; random ones 10%"
        assert title(figure(made(), kind="checks")) == said

    def test_the_ideal_is_of_checks_that_there_are(self):
        assert set(IDEAL) <= set(CHECKS)


def test_another_kind_is_refused():
    with pytest.raises(ResultError, match="^kind is 'table'; expected one of robustness, checks$"):
        figure(made(), kind="table")


@pytest.mark.parametrize("kind", ["robustness", "checks"])
def test_names_that_try_something_are_text(kind):
    names = tuple(HOSTILE)[:6]
    drawn = figure(made(labels={"check": names}, choices=(names,) * 5), kind=kind)
    check(replace_bold(drawn))


def replace_bold(drawn: Any) -> Any:
    """The figure with our own <b> taken off its headings."""
    for note in drawn.layout.annotations:
        note.text = note.text.replace("<b>", "").replace("</b>", "")
    return drawn


@pytest.mark.parametrize("kind", ["robustness", "checks"])
def test_of_a_real_circuit(kind):
    validation = result("validate_circuit")
    drawn = validation.plot(kind=kind)
    dots = [trace for trace in drawn.data if trace.name in ("measured", "beyond the edge")]
    values = validation.robustness if kind == "robustness" else validation.values
    assert sum(len(trace.x) for trace in dots) == int((~values.isnan()).sum())
    assert set(np.round(named(drawn, "measured").x, 3)) <= set(np.round(values.numpy(), 3).astype(np.float32))
