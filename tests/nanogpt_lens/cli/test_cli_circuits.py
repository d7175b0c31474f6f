"""The commands circuit edges, find and check: the numbers of the functions, prompts in three ways, exit codes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.text.pairs import find_prompt_pairs
from nanogpt_lens.text.task_pairs import pairs_by_name
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.neurons.neuron_helpers import play

INDUCTION = ("--task", "induction", "--n", 8, "--seq-len", 24)
QUICK = ("--method", "exact", "--orders", 0)
ESTIMATED = ("--method", "eap", "--orders", 0, "--n-edges", 9)
PROMPT = ("--clean", "ROMEO: I l", "--corrupted", "JULIE: I h", "--answer", "o", "--wrong", "a")
TWO = ("--clean", "ROMEO: I l", "--clean", "HENRY: I l", "--corrupted", "JULIE: I h", "--corrupted", "MARCI: I h")


@pytest.fixture(scope="module")
def model() -> Any:
    return ngl.load("induction")


@pytest.fixture(scope="module")
def asked(model: Any) -> tuple[Any, ...]:
    pairs = ngl.induction_pairs(model, n=8, seq_len=24)
    return model, pairs.clean, pairs.corrupted, ngl.metrics.logit_diff(pairs.answer, pairs.wrong)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> tuple[Path, Path]:
    """The folder that `circuit find` saved, and a file with what it printed."""
    folder = tmp_path_factory.mktemp("circuit")
    code, printed, _ = run("circuit", "find", "induction", *INDUCTION, *QUICK, "--json", "-o", folder / "kept")
    assert code == 0
    (folder / "circuit.json").write_text(printed)
    return folder / "kept", folder / "circuit.json"


def test_edges_are_those_of_the_function(asked, tmp_path):
    expected = ngl.edge_effects(*asked, direction="denoise", progress=False)
    words = ("circuit", "edges", "induction", *INDUCTION, "--direction", "denoise")
    code, shown, _ = run(*words, "--rows", 3, "-o", tmp_path / "kept")
    assert code == 0
    best = expected.top(1, by="effect").iloc[0]
    header, first = shown.splitlines()[2:4]
    assert header.split() == ["edge", "metric", "effect"]
    assert first.split()[:2] == [best["edge_label"], f"{best['value']:.3f}"]
    assert "107 edges with smaller effects" in shown
    assert torch.equal(ngl.load_result(tmp_path / "kept").values, expected.values)
    code, shown, _ = run(*words, "--csv")
    table = list(csv.DictReader(io.StringIO(shown)))
    assert {row["edge_label"]: float(row["value"]) for row in table} == pytest.approx(
        dict(zip(expected.labels["edge"], expected.values.tolist(), strict=True)), rel=1e-5, abs=1e-7
    )


def test_the_found_circuit_is_as_faithful_as_its_own_run_says(asked, saved):
    folder, file = saved
    found = json.loads(file.read_text())["circuit"]
    runs = ngl.run_circuit(asked[0], found["edges"], *asked[1:], progress=False)
    assert found["faithfulness"] == pytest.approx(float(runs.faithfulness[0]), rel=1e-5)
    assert (found["full"], found["empty"]) == pytest.approx(
        (float(runs.full.mean()), float(runs.empty.mean())), rel=1e-5
    )
    kept = ngl.results.Circuit.load(folder)
    assert list(kept.edges) == found["edges"]
    assert sorted(row["edge_label"] for row in found["rows"] if row["kept"]) == sorted(kept.edges)
    answers = ngl.induction_pairs(asked[0], n=8, seq_len=24)
    assert kept.asks["metric"] == {
        "name": "logit_diff",
        "answer": answers.answer.tolist(),
        "wrong": answers.wrong.tolist(),
        "pos": -1,
    }


def test_find_prints_the_sentence_the_edges_by_rank_and_other_circuits(tmp_path):
    picture = tmp_path / "circuit.html"
    words = ("circuit", "find", "handmade_induction", "--task", "induction", "--method", "exact", "--orders", 2)
    code, shown, said = run(*words, "--plot", picture)
    assert code == 0
    lines = shown.splitlines()
    assert lines[0].startswith("3 of 46 edges do 100% of what all do (exact); without any one of them it is outside")
    start = next(i for i, line in enumerate(lines) if line.split()[:3] == ["rank", "edge", "score"])
    table = [line.split()[:2] for line in lines[start + 1 : start + 4]]
    assert sorted(edge for _, edge in table) == ["0.1->1.0.k", "1.0->logits", "embed->0.1.v"]
    assert [rank for rank, _ in table] == ["1", "2", "3"]
    assert any(line.startswith("2 random orders found") for line in lines)
    assert f"picture written to {picture}" in said
    assert "3 of 46 edges" in picture.read_text()
    assert "2 more edges: --rows" in run(*words, "--rows", 1)[1]


class TestCheck:
    @pytest.mark.parametrize("kind", [0, 1])
    def test_on_the_same_checkpoint_it_holds(self, saved, kind):
        code, shown, said = run("circuit", "check", saved[kind], "induction")
        assert code == 0
        faithfulness = json.loads(saved[1].read_text())["circuit"]["faithfulness"]
        assert shown.count(f"{faithfulness:.3f}") == 2
        assert "holds here" in shown
        assert said == ""

    def test_near_by_it_holds_and_the_number_is_that_of_a_run(self, saved, asked):
        path = Path("checkpoints/induction/ckpt_003400.pt")
        code, shown, _ = run("circuit", "check", saved[1], path, "--json")
        found = json.loads(shown)
        runs = ngl.run_circuit(ngl.load(path), found["edges"], *asked[1:], progress=False)
        assert found["faithfulness"] == pytest.approx(float(runs.faithfulness[0]), rel=1e-5)
        assert found["holds"] is (code == 0) is True

    def test_before_induction_formed_it_does_not(self, saved):
        path = "checkpoints/induction/ckpt_000200.pt"
        code, shown, said = run("circuit", "check", saved[0], path)
        assert code == 1
        assert shown.count("\n") == 1
        assert "does not hold here: faithfulness" in shown
        assert "expected 0.90 to 1.10" in shown
        assert "where the circuit was found: faithfulness is a share of that and says little" in said
        code, shown, _ = run("circuit", "check", saved[0], path, "--json")
        assert (code, json.loads(shown)["holds"]) == (1, False)

    def test_a_model_without_such_an_edge(self, saved):
        code, shown, said = run("circuit", "check", saved[0], "induction_control")
        assert (code, shown) == (2, "")
        assert said == "error: '1.0.k' is not in this model of 1 layers with 4 heads each\n"

    def test_another_vocabulary_or_a_shorter_context(self, saved, tmp_path):
        code, _, said = run("circuit", "check", saved[0], "handmade_induction")
        assert code == 2
        assert said.startswith("error: this model has another vocabulary than the one on which the circuit of")
        whole = json.loads(saved[1].read_text())
        whole["circuit"]["provenance"]["arguments"]["clean"] = [[1] * 5000]
        (tmp_path / "long.json").write_text(json.dumps(whole))
        code, _, said = run("circuit", "check", tmp_path / "long.json", "induction")
        assert code == 2
        assert "was found on prompts of 5000 tokens, and this model's context is" in said

    def test_prompts_given_anew(self, saved, asked):
        code, shown, _ = run("circuit", "check", saved[0], "induction", *INDUCTION[:4], "--seq-len", 20, "--json")
        pairs = ngl.induction_pairs(asked[0], n=8, seq_len=20)
        metric = ngl.metrics.logit_diff(pairs.answer, pairs.wrong)
        found = json.loads(shown)
        runs = ngl.run_circuit(asked[0], found["edges"], pairs.clean, pairs.corrupted, metric, progress=False)
        assert found["faithfulness"] == pytest.approx(float(runs.faithfulness[0]), rel=1e-5)
        assert code == (0 if abs(found["faithfulness"] - 1) <= found["tolerance"] else 1)

    def test_a_metric_that_cannot_be_written_down(self, asked, tmp_path):
        options: dict[str, Any] = {"method": "eap", "n_edges": 9, "orders": 0, "progress": False}
        bare = ngl.find_circuit(*asked[:3], lambda logits: logits[:, -1].max(-1).values.mean(), **options)
        assert bare.asks == {}
        bare.save(tmp_path / "bare")
        code, _, said = run("circuit", "check", tmp_path / "bare", "induction")
        assert code == 2
        assert "does not say what the metric was" in said
        assert "give the prompts and the answer anew" in said
        assert run("circuit", "check", tmp_path / "bare", "induction", *INDUCTION)[0] in (0, 1)

    def test_another_source_needs_prompts(self, saved):
        code, _, said = run("circuit", "check", saved[0], "induction", "--source", "zero")
        assert (code, said.startswith("error: --source was given without prompts")) == (2, True)


def changed(**fields: Any) -> Any:
    """A change of some fields of the circuit."""
    return lambda whole: whole["circuit"].update(fields)


def argument(**fields: Any) -> Any:
    return lambda whole: whole["circuit"]["provenance"]["arguments"].update(fields)


def metric(**fields: Any) -> Any:
    return lambda whole: whole["circuit"]["asks"]["metric"].update(fields)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (changed(kind="Scores"), "holds no circuit"),
        (changed(edges="0.1->1.0.k"), "has no list of edges by name"),
        (changed(edges=["x" * 41]), "has no list of edges by name"),
        (changed(edges=["<b>->logits"]), "'<b>' is no sender"),
        (changed(edges=["1.0->0.1.k"]), "is no edge of this model"),
        (changed(tolerance=2), "has the tolerance 2; expected 0 or more"),
        (changed(tolerance="0.1"), "has the tolerance '0.1'; expected a number"),
        (changed(faithfulness=None), "has the faithfulness 'None'; expected a number"),
        (changed(full=True), "has the full 'True'; expected a number"),
        (changed(provenance=[]), "does not say on what the circuit was found"),
        (changed(asks=[1]), "does not say on what the circuit was found"),
        (changed(asks={"metric": {"name": "loss"}}), "is no metric; expected one such as"),
        (metric(answer={"a": 1}), "is no metric; expected one such as"),
        (metric(answer=[2**80]), "is no metric; expected one such as"),
        (metric(answer=[9999]), "answer has"),
        (metric(pos=99), "the metric reads position 99"),
        (metric(more=1), "is no metric; expected one such as"),
        (argument(clean=None), "has no clean prompts"),
        (argument(clean=[[1, 2], [3]]), "has clean prompts that are no rows of token ids of one length"),
        (argument(clean=[["a"]]), "has clean prompts that are no rows"),
        (argument(corrupted=[[2**40]]), "has corrupted prompts that are no rows"),
        (argument(corrupted=[[1, 2]]), "clean texts and 1 corrupted text; expected the same number of examples"),
        (argument(source="nothing"), "source is 'nothing'"),
    ],
)
def test_damaged_files_give_one_sentence(saved, tmp_path, damage, sentence):
    whole = json.loads(saved[1].read_text())
    damage(whole)
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps(whole))
    code, shown, said = run("circuit", "check", file, "induction")
    assert (code, shown) == (2, "")
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert "should not have happened" not in said


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3", "[]", '{"circuit": 4}', "\x80\x04K\x01."])
def test_files_that_are_something_else(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    code, shown, said = run("circuit", "check", tmp_path / "x.json", "induction")
    assert (code, shown, said.count("\n")) == (2, "", 1)
    assert "expected a folder that `circuit.save` wrote, or the output of `circuit find --json`" in said


def test_folders_that_are_something_else(saved, tmp_path):
    code, _, said = run("circuit", "check", tmp_path, "induction")
    assert (code, "cannot be read" in said) == (2, True)
    code, _, said = run("circuit", "check", tmp_path / "none", "induction")
    assert (code, "does not exist; expected a folder that `circuit find` saved" in said) == (2, True)
    for name, value in (("labels", 3), ("tolerance", []), ("per_example", 1), ("axes", 7), ("asks", 3)):
        copy = tmp_path / name
        copy.mkdir()
        for file in saved[0].iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        plain = json.loads((copy / "result.json").read_text())
        (copy / "result.json").write_text(json.dumps(plain | {name: value}))
        code, _, said = run("circuit", "check", copy, "induction")
        assert (code, said.count("\n")) == (2, 1), said
        assert "should not have happened" not in said


class TestPrompts:
    def test_several_written_out(self):
        shown = run("circuit", "find", "shakespeare_char", *TWO, "--answer", "o", *ESTIMATED, "--json")[1]
        found = json.loads(shown)["circuit"]
        model = ngl.load("shakespeare_char")
        texts = ["ROMEO: I l", "HENRY: I l"], ["JULIE: I h", "MARCI: I h"]
        runs = ngl.run_circuit(model, found["edges"], *texts, ngl.metrics.answer_logprob("o"), progress=False)
        assert found["faithfulness"] == pytest.approx(float(runs.faithfulness[0]), rel=1e-4, abs=1e-6)

    def test_found_in_a_text(self, tmp_path):
        file = tmp_path / "text.txt"
        file.write_text(play(1500))
        words = ("circuit", "edges", "induction", "--text", file, "--n", 3, "--seq-len", 6, "--json")
        found = json.loads(run(*words)[1])["edges"]
        pairs = find_prompt_pairs(ngl.load("induction"), file, k=3, seq_len=6)
        assert len(pairs) == 3
        assert found["provenance"]["arguments"]["clean"] == [pair.clean.tolist() for pair in pairs]
        assert found["clean"] == pytest.approx(sum(pair.clean_logit_diff for pair in pairs) / 3, rel=1e-4)

    @pytest.mark.parametrize("task", ["trigger_bigrams", "repeated_random", "checkpoints/induction"])
    def test_of_a_task(self, task):
        words = ("circuit", "edges", "induction", "--task", task, "--n", 4, "--seq-len", 16, "--json")
        code, shown, _ = run(*words)
        pairs = pairs_by_name(ngl.load("induction"), task, n=4, seq_len=16)
        arguments = json.loads(shown)["edges"]["provenance"]["arguments"]
        assert code == 0
        assert arguments["clean"] == pairs.clean.tolist()
        assert arguments["corrupted"] == pairs.corrupted.tolist()

    def test_those_that_the_model_answers_are_said_to_be_chosen(self, tmp_path):
        words = ("circuit", "find", "induction", "--task", "induction", "--n", 4, "--seq-len", 16, *QUICK, "--solved")
        code, shown, _ = run(*words, "-o", tmp_path / "kept")
        model = ngl.load("induction")
        pairs = ngl.induction_pairs(model, n=4, seq_len=16, solved_by=model)
        assert code == 0
        assert pairs.chosen in shown
        code, shown, _ = run("circuit", "check", tmp_path / "kept", "induction", "--json")
        assert (code, pairs.chosen in shown) == (0, True)

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ((), "no prompts are given; expected --clean with --corrupted and --answer, or --task"),
            (("--task", "text"), "the task text has no prompt pairs, since nothing marks what a text calls for: give"),
            (
                ("--task", "trigger_bigrams"),
                "this model was not trained on trigger_bigrams, whose bigrams",
            ),
            (("--task", "no/such/run"), "cannot be read"),
            ((*PROMPT, "--solved"), "--solved was given with --clean, whose texts are as they are"),
            ((*PROMPT, "--task", "induction"), "--clean and --task were both given; expected"),
            (("--task", "induction", "--text", __file__), "--task and --text were both given"),
            (("--task", "induction", "--answer", "o"), "--answer was given with --task, which makes its own"),
            (("--text", __file__, "--corrupted", "o"), "--corrupted was given with --text, which finds its own"),
            (("--corrupted", "o"), "no prompts are given"),
            ((*PROMPT, "--n", 3), "--n was given with --clean, whose texts are as they are"),
            (PROMPT[:4], "--clean was given without --answer"),
            ((*PROMPT[:2], *PROMPT[4:]), "--clean was given without --corrupted"),
            ((*PROMPT, "--clean", "HENRY: I l"), "there are 2 --clean and 1 --corrupted"),
            ((*PROMPT, "--method", "guess"), "--method is 'guess'; expected one of greedy, exact"),
            ((*PROMPT, "--n-edges", 3, "--threshold", 1), "both --n-edges and threshold are given"),
            ((*PROMPT, "--n-edges", 999), "--n-edges is 999; expected at most"),
            ((*PROMPT, "--plot", "x.pdf"), "x.pdf ends in '.pdf'; expected a picture"),
            ((*PROMPT, "--json", "--csv"), "--json and --csv were both given"),
        ],
    )
    def test_bad_input_gives_one_sentence(self, words, sentence):
        code, shown, said = run("circuit", "find", "shakespeare_char", *words)
        assert (code, shown) == (2, "")
        assert sentence in said
        assert said.count("\n") == 1
