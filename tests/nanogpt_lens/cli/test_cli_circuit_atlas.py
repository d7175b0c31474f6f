"""`circuit atlas`, and `trajectory` on prompt pairs: the numbers of the functions, the film, exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from nanogpt_lens.cli.tables import as_sentence
from nanogpt_lens.results import CircuitAtlas, load_result
from nanogpt_lens.runs.atlas import circuit_atlas
from nanogpt_lens.runs.trajectory import trajectory
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.runs.stage_helpers import NAMES, make_run

ASKED = ("--n", 4, "--seed", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Any:
    return make_run(tmp_path_factory.mktemp("atlas") / "run")


@pytest.fixture(scope="module")
def effects(folder: Any) -> Any:
    return trajectory(folder, "edge_effects", n=4, seed=2, seq_len=10, progress=False)


def test_the_numbers_of_the_function_and_the_film(folder, effects, tmp_path):
    words = ("circuit", "atlas", folder, *ASKED, "--seq-len", 10, "--least", 0.001)
    film = tmp_path / "film.html"
    code, shown, _ = run(*words, "-o", tmp_path / "kept", "--plot", film, "--kind", "film")
    expected = circuit_atlas(effects, least=0.001, seed=2)
    kept = load_result(tmp_path / "kept")
    assert code == 0
    assert isinstance(kept, CircuitAtlas)
    assert torch.equal(kept.values, effects.values)
    assert kept.table().equals(expected.table())
    assert as_sentence(expected.sentence()) in shown
    assert (
        f"4 checkpoints; intervals over 4 prompts; p of a transition, corrected for {expected.n_curves} curves" in shown
    )
    text = film.read_text()
    assert "Plotly.addFrames" in text
    assert "Plotly.animate('" not in text  # it waits for its reader


def test_json_has_a_row_for_each_step_and_edge(folder, effects):
    code, shown, _ = run("circuit", "atlas", folder, *ASKED, "--seq-len", 10, "--json")
    assert code == 0
    rows = json.loads(shown)["atlas"]["rows"]
    assert len(rows) == effects.values.numel()
    assert rows[0]["value"] == pytest.approx(float(effects.values[0, 0]), abs=1e-6)


def test_trajectory_takes_pairs(folder):
    code, shown, _ = run("trajectory", folder, "--measure", "edge_effects", *ASKED, "--pairs", "induction", "--json")
    expected = trajectory(folder, "edge_effects", pairs="induction", n=4, seed=2, progress=False)
    assert code == 0
    values = [row["value"] for row in json.loads(shown)["edge_effects"]["rows"]]
    torch.testing.assert_close(torch.tensor(values), expected.values.flatten().float(), rtol=0, atol=1e-6)
    assert len(values) == len(NAMES) * expected.shape["edge"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--level", "2"), "level is 2.0; expected a probability"),
        (("--level", "0"), "level is 0.0; expected a probability"),
        (("--least", "inf"), "least is inf; expected a number, 0 or more"),
        (("--kind", "film", "--plot", "x.png"), "a film has a slider; expected .html, or --kind multiples"),
        (("--least", "nan"), "nan"),  # some versions of click refuse it themselves
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(folder, words, said, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.runs.trajectory.trajectory", None)
    code, _, error = run("circuit", "atlas", folder, *ASKED, *words)
    assert code == 2
    assert said in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("circuit", "atlas", "handmade_induction"), "expected at least"),
        (("trajectory", "{folder}", "--measure", "prefix_matching", "--pairs", "induction"), "--pairs"),
    ],
)
def test_refusals(folder, words, said):
    code, _, error = run(*(word.format(folder=folder) for word in words))
    assert code == 2
    assert said in error
