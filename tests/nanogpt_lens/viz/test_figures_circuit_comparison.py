"""Circuits compared: the numbers in the cells, white at chance, and what stands on the diagonals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import CircuitComparison
from nanogpt_lens.viz.figures import figure
from tests.nanogpt_lens.viz.figure_helpers import heats
from tests.nanogpt_lens.viz.test_figures_hostile import TOKENS, check

NAN = float("nan")
SCORES = ("rank_correlation", "jaccard", "above_chance", "transfer")


def made(names: tuple[str, ...] = ("seed 1", "seed 2"), **changed: Any) -> CircuitComparison:
    """Two circuits that agree in ranks less than chance, share half, and do 80 and 70% in each other's place."""
    n = len(names)
    values = torch.ones(4, n, n, dtype=torch.float64)
    chance = torch.full((4, n, n), NAN, dtype=torch.float64)
    for i, (value, by_chance) in enumerate(((0.25, 0.4), (0.5, 0.125), (0.45, 0.0), (0.8, -0.01))):
        off = ~torch.eye(n, dtype=torch.bool)
        values[i][off], chance[i][off] = value, by_chance
    values[3, 1, 0] = 0.7
    chance[3].fill_diagonal_(0.0)
    values[3].fill_diagonal_(0.95)
    pairs = torch.zeros(n, n, dtype=torch.float64)
    fields: dict[str, Any] = {
        "values": values,
        "axes": ("score", "one", "other"),
        "labels": {"score": SCORES, "one": names, "other": names},
        "quantity": "agreement",
        "definition": "made up",
        "low": torch.full_like(values, NAN),
        "high": torch.full_like(values, NAN),
        "chance": chance,
        "p": torch.full_like(values, 0.01),
        "ceiling": torch.full_like(values, 0.9),
        "match": "behaviour",
        "partner": torch.arange(4).expand(n, n, 2, 4).clone(),
        "n_edges": (12,) * n,
        "gap": torch.ones(n, dtype=torch.float64),
        "shared": torch.zeros(n, n, dtype=torch.long),
        "expected": pairs,
        "renumbered": pairs,
        "renumbered_p": pairs,
        **{f"half_{name}": pairs[:, :2] for name in ("correlation", "jaccard", "above_chance", "transfer")},
        "n_prompts": (32,) * n,
    }
    return CircuitComparison(**(fields | changed))


def title(drawn: Any) -> str:
    return drawn.layout.title.text.replace("<br>", " ").replace("\u2060", "")


def test_three_matrices_whose_colours_are_what_is_above_chance():
    ranks, shared, transfer = heats(figure(made()))
    assert [list(row) for row in ranks.text] == [["0.90", "0.25"], ["0.25", "0.90"]]
    assert [list(row) for row in transfer.text] == [["0.95", "0.80"], ["0.70", "0.95"]]
    assert np.asarray(ranks.z) == pytest.approx(np.array([[0.5, -0.15], [-0.15, 0.5]]), abs=1e-5)
    assert np.asarray(shared.z)[0, 1] == pytest.approx(0.375, abs=1e-5)
    assert np.asarray(transfer.z)[0, 1] == pytest.approx(0.81, abs=1e-5)


def test_white_is_chance():
    axis = figure(made()).layout.coloraxis
    assert (axis.cmid, axis.cmin) == (0, -axis.cmax)
    assert axis.colorscale[len(axis.colorscale) // 2] == (0.5, "#ffffff")


def test_the_title_is_what_circuits_do_in_each_others_place():
    expected = (
        "In each other's place circuits do 70 to 80% of the whole model's work, in their own 95%; random circuits -1%"
    )
    assert title(figure(made())) == expected


def test_what_the_diagonals_are_is_said():
    assert "which is the ceiling" in figure(made()).layout.meta["caption"]
    bare = made(ceiling=torch.full((4, 2, 2), NAN, dtype=torch.float64))
    drawn = figure(bare)
    assert "On the first two diagonals nothing, since no ceiling was measured" in drawn.layout.meta["caption"]
    assert drawn.data[0].text[0][0] == ""
    assert "ceiling" not in drawn.data[0].hovertemplate


@pytest.mark.parametrize("score", SCORES)
def test_one_score_alone(score):
    (only,) = heats(figure(made(), score=score))
    assert only.text[0][1] == f"{float(made().score(score)[0, 1]):.2f}"
    assert list(only.x) == ["seed 1", "seed 2"]


def test_another_score_is_refused():
    with pytest.raises(ResultError, match="score is 'overlap'"):
        figure(made(), score="overlap")


def test_hostile_names_stay_apart():
    check(figure(made(names=TOKENS[:6])))
