"""The command circuit compare: the numbers of the function, circuits from folders and files, and what does not go."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.text.task_pairs import pairs_by_name
from tests.nanogpt_lens.cli.test_cli import run

MODEL = "handmade_induction"
TASK = ("--task", "induction", "--n", 6, "--seq-len", 12)
FEW = ("--splits", 0, "--n-random", 5)


@pytest.fixture(scope="module")
def model() -> Any:
    return ngl.load(MODEL)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A folder that `circuit find` saved, and a file with what it printed of a circuit of another size."""
    folder = tmp_path_factory.mktemp("circuits")
    words = ("circuit", "find", MODEL, *TASK, "--method", "exact", "--orders", 0)
    assert run(*words, "-o", folder / "found")[0] == 0
    (folder / "more.json").write_text(run(*words, "--n-edges", 6, "--json")[1])
    return folder / "found", folder / "more.json"


def prompts(model: Any, seed: int = 0) -> tuple[Any, ...]:
    pairs = pairs_by_name(model, "induction", n=6, seq_len=12, seed=seed)
    return pairs.clean, pairs.corrupted, ngl.metrics.logit_diff(pairs.answer, pairs.wrong)


def test_on_their_own_prompts_by_the_function(saved, model, tmp_path):
    words = ("circuit", "compare", *saved, "--model", MODEL, *FEW, "--json", "-o", tmp_path / "kept")
    code, shown, _ = run(*words)
    assert code == 0
    found = json.loads(shown)["comparison"]
    circuits = [ngl.results.Circuit.load(saved[0]), json.loads(saved[1].read_text())["circuit"]["edges"]]
    things = [(model, circuit, *prompts(model)) for circuit in circuits]
    expected = ngl.compare_circuits(*things, names=("found", "more"), splits=0, n_random=5, progress=False)
    rows = {(row["score_label"], row["one_label"], row["other_label"]): row for row in found["rows"]}
    for i, score in enumerate(expected.labels["score"]):
        assert rows[score, "found", "more"]["value"] == pytest.approx(float(expected.values[i, 0, 1]), abs=1e-6)
    assert found["sentence"] == expected.sentence()
    assert found["match"] == "numbers"
    assert rows["transfer", "found", "more"]["in_sample"] is True
    assert isinstance(ngl.load_result(tmp_path / "kept"), ngl.results.CircuitComparison)


def test_prompts_given_anew_and_a_picture(saved, model, tmp_path):
    picture = tmp_path / "compared.html"
    words = ("circuit", "compare", *saved, "--model", MODEL, *FEW, *TASK, "--seed", 4, "--plot", picture)
    code, shown, said = run(*words, "--name", "few", "--name", "many")
    assert code == 0
    assert shown.splitlines()[0].startswith("Edge effects correlate 1.00 in ranks")
    edges = ngl.results.Circuit.load(saved[0]).edges
    home = ngl.run_circuit(model, list(edges), *prompts(model, 4), progress=False)
    row = next(line.split() for line in shown.splitlines() if line.split()[:2] == ["few", "many"] and "[" in line)
    assert row
    assert f"{float(home.faithfulness[0]):.2f}" in shown
    assert f"picture written to {picture}" in said
    assert "In each other's place circuits do" in picture.read_text()


def test_csv_has_a_row_for_each_score_of_each_pair(saved):
    _, shown, _ = run("circuit", "compare", *saved, "--model", MODEL, "--model", MODEL, *FEW, "--csv")
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert len(rows) == 4 * 2 * 2
    assert {"score_label", "one_label", "other_label", "value", "chance", "p"} <= set(rows[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("FOUND", "--model", MODEL), "1 circuit was given; expected two or more"),
        (("FOUND", "MORE"), "--model"),
        (("FOUND", "MORE", "FOUND", "--model", MODEL, "--model", MODEL), "there are 2 --model for 3 circuits"),
        (("FOUND", "MORE", "--model", MODEL, "--source", "zero"), "--source was given without prompts"),
        (("FOUND", "MORE", "--model", MODEL, "--match", "names"), "--match is 'names'"),
        (("FOUND", "MORE", "--model", MODEL, "--json", "--csv"), "--json and --csv were both given"),
        (("FOUND", "MORE", "--model", MODEL, "--name", "one"), "expected 2 different ones"),
        (("FOUND", "nowhere.json", "--model", MODEL), "nowhere.json does not exist"),
        (("FOUND", "MORE", "--model", MODEL, "--model", "induction"), "another vocabulary"),
        (("FOUND", "MORE", "--model", MODEL, "--plot", "picture.gif"), "expected a picture"),
    ],
)
def test_what_does_not_go_is_one_sentence(saved, words, said):
    places = {"FOUND": saved[0], "MORE": saved[1]}
    code, shown, told = run("circuit", "compare", *(places.get(word, word) for word in words))
    assert code == 2
    assert not shown
    assert said in " ".join(told.split())


def test_a_circuit_that_does_nothing_where_it_is_run_is_warned_of(saved, tmp_path):
    code, _, said = run("circuit", "compare", *saved, "--model", MODEL, *FEW)
    assert (code, said) == (0, "")
    kept = json.loads(saved[1].read_text())
    kept["circuit"]["edges"] = ["embed->logits"]  # as if it had been found in another model
    other = tmp_path / "other.json"
    other.write_text(json.dumps(kept))
    code, _, said = run("circuit", "compare", saved[0], other, "--model", MODEL, *FEW)
    assert code == 0
    assert "with a --model for each circuit" in said
