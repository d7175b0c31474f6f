"""The commands circuit grade and validate: the numbers of the functions, and options that do not go together."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.cli.tables import as_sentence
from tests.nanogpt_lens.cli.test_cli import run

MODEL = "handmade_induction"
TASK = ("--task", "induction", "--n", 4, "--seq-len", 12)
FEW = ("--n-random", 10)


def prompts(model: Any, seed: int = 0) -> tuple[Any, ...]:
    pairs = ngl.induction_pairs(model, n=4, seq_len=12, seed=seed)
    return pairs.clean, pairs.corrupted, ngl.metrics.logit_diff(pairs.answer, pairs.wrong)


@pytest.fixture(scope="module")
def model() -> Any:
    return ngl.load(MODEL)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> tuple[Path, Path]:
    """The folder that `circuit find` saved, and a file with what it printed."""
    folder = tmp_path_factory.mktemp("circuit")
    words = ("circuit", "find", MODEL, *TASK, "--method", "exact", "--orders", 0, "--json", "-o", folder / "kept")
    (folder / "circuit.json").write_text(run(*words)[1])
    return folder / "kept", folder / "circuit.json"


class TestGrade:
    @pytest.fixture(scope="class")
    def expected(self, model: Any) -> Any:
        options: dict[str, Any] = {"methods": ["exact", "eap", "weights"], "k": 3, "direction": "denoise"}
        return ngl.grade_circuit_methods(model, *prompts(model), progress=False, **options)

    WORDS = ("circuit", "grade", MODEL, *TASK, "--methods", "exact,eap, weights", "--k", 3, "--direction", "denoise")

    def test_the_grades_are_those_of_the_function(self, expected, tmp_path):
        code, shown, said = run(*self.WORDS, "--json", "-o", tmp_path / "kept", "--plot", tmp_path / "x.html")
        assert code == 0
        grades = json.loads(shown)["grades"]
        numbers = {(row["method_label"], row["score_label"]): row["value"] for row in grades["rows"]}
        for method in ("exact", "eap", "weights"):
            for score in ("top_k_overlap", "average_precision", "cpr", "cmd", "n_edges", "n_runs"):
                assert numbers[method, score] == pytest.approx(float(expected.at(method=method, score=score)), rel=1e-5)
        assert grades["verdict"] == expected.verdict()
        assert [row["edge"] for row in grades["worst"][:3]] == expected.worst("eap", 3)["edge"].tolist()
        assert torch.equal(ngl.load_result(tmp_path / "kept").exact, expected.exact)
        assert "picture written to" in said
        assert "match" in (tmp_path / "x.html").read_text()

    def test_it_prints_the_verdict_the_table_and_the_worst_edges(self, expected):
        code, shown, _ = run(*self.WORDS, "--rows", 2)
        assert code == 0
        lines = shown.splitlines()
        assert lines[0] == as_sentence(expected.verdict())
        assert [line.split()[0] for line in lines[1:5]] == ["method", "exact", "eap", "weights"]
        assert lines[5] == "intervals over the prompts:"
        assert lines[6].split("  ")[0] == "method"
        assert [line.split()[0] for line in lines[7:9]] == ["eap", "weights"]
        low, high = (float(end[expected.row_of("eap"), 0]) for end in (expected.low, expected.high))
        assert f"[{low:.2f}, {high:.2f}]" in lines[7].replace("-0.00", "0.00")
        assert "few examples: n = 4" in shown
        worst = lines.index("the edges on which eap is farthest off:")
        assert [line.split()[0] for line in lines[worst + 2 : -1]] == expected.worst("eap", 2)["edge"].tolist()

    def test_a_row_per_grade_as_csv(self, expected):
        code, shown, _ = run(*self.WORDS, "--csv")
        assert code == 0
        assert len(list(csv.DictReader(io.StringIO(shown)))) == expected.values.numel()

    def test_without_names_all_methods_that_apply(self):
        grades = json.loads(run("circuit", "grade", MODEL, *TASK, "--source", "zero", "--json")[1])["grades"]
        assert grades["labels"]["method"] == ["greedy", "exact", "acdc", "eap", "weights", "attention"]

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (("--methods", "guess"), "--methods is 'guess'; expected one of greedy, exact"),
            (("--methods", ","), "--methods is empty; expected some of"),
            (("--k", 999), "--k is 999; expected at most 46"),
            (("--plot", "x.pdf"), "x.pdf ends in '.pdf'; expected a picture"),
            (("--json", "--csv"), "--json and --csv were both given"),
            (("--answer", "o"), "--answer was given with --task, which makes its own"),
        ],
    )
    def test_bad_input_gives_one_sentence(self, words, sentence):
        code, shown, said = run("circuit", "grade", MODEL, *TASK, *words)
        assert (code, shown, said.count("\n")) == (2, "", 1)
        assert sentence in said


class TestValidate:
    @pytest.mark.parametrize("kind", [0, 1])
    def test_a_saved_circuit_on_its_own_prompts(self, saved, model, kind):
        code, shown, _ = run("circuit", "validate", MODEL, saved[kind], *FEW, "--json")
        assert code == 0
        found = json.loads(shown)["validation"]
        circuit = ngl.results.Circuit.load(saved[0])
        expected = ngl.validate_circuit(model, circuit, *prompts(model), n_random=10)
        assert found["verdict"] == expected.verdict()
        assert found["edges"] == list(circuit.edges)
        assert found["sample"]["seen_share"] == 1
        numbers = {row["check_label"]: row["value"] for row in found["rows"]}
        for name in ("faithfulness", "complement", "completeness_greedy", "minimality", "random_circuits"):
            assert numbers[name] == pytest.approx(expected.check(name), rel=1e-4, abs=1e-5)
        assert [row["faithfulness"] for row in found["robustness_table"]] == pytest.approx(
            expected.robustness.tolist(), rel=1e-4, abs=1e-5
        )

    def test_other_prompts_from_another_seed(self, saved, model):
        words = ("circuit", "validate", MODEL, saved[1], *TASK, *FEW, "--held-out-seed", 5)
        found = json.loads(run(*words, "--json")[1])["validation"]
        runs = ngl.run_circuit(model, found["edges"], *prompts(model, 5), progress=False)
        held_out = next(row["value"] for row in found["rows"] if row["check_label"] == "held_out")
        assert held_out == pytest.approx(float(runs.mean_of_ratios[0]), rel=1e-4)
        code, shown, _ = run(*words)
        assert code == 0
        lines = shown.splitlines()
        assert lines[0] == as_sentence(found["verdict"])
        assert lines[1].split() == ["check", "value", "p"]
        assert f"held out {held_out:.2f} [" in " ".join(next(li for li in lines if li.startswith("held out")).split())
        start = lines.index("the same edges, run in other ways:")
        assert len(lines[start + 2 :]) - 3 == len(found["robustness_table"])
        assert lines[-2].startswith("in sample: the search has seen 100%")

    def test_one_is_found_where_none_is_given(self, saved, tmp_path):
        words = ("circuit", "validate", MODEL, *TASK, *FEW, "--method", "exact")
        code, shown, _ = run(*words, "--csv", "-o", tmp_path / "kept")
        assert code == 0
        kept = ngl.load_result(tmp_path / "kept")
        assert isinstance(kept, ngl.results.CircuitValidation)
        assert kept.edges == ngl.results.Circuit.load(saved[0]).edges
        table = {row["check_label"]: row["value"] for row in csv.DictReader(io.StringIO(shown))}
        assert float(table["faithfulness"]) == pytest.approx(kept.check("faithfulness"), rel=1e-5)

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ((), "no prompts are given"),
            (("SAVED", "--method", "exact"), "--method was given with the saved circuit"),
            (("SAVED", "--source", "zero"), "--source was given without prompts"),
            (("SAVED", "--held-out-seed", 3), "--held-out-seed was given without --task"),
            ((*TASK, "--held-out-seed", 0), "--held-out-seed is 0, the seed of the prompts themselves"),
            (("none.json",), "none.json does not exist"),
            ((*TASK, "--method", "guess"), "--method is 'guess'; expected one of greedy"),
            (("SAVED", "--plot", "x.pdf"), "x.pdf ends in '.pdf'; expected a picture"),
        ],
    )
    def test_bad_input_gives_one_sentence(self, saved, words, sentence):
        code, shown, said = run("circuit", "validate", MODEL, *(saved[1] if w == "SAVED" else w for w in words))
        assert (code, shown, said.count("\n")) == (2, "", 1)
        assert sentence in said
