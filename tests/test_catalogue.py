"""The catalogue: every analysis is in it, and one that is registered appears everywhere by itself."""

import inspect
import json
import shlex
from dataclasses import replace
from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens import results
from nanogpt_lens.catalogue import ANALYSES, find, options_from_words, register
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.reporting.blocks import Table
from nanogpt_lens.results import Result, Scores
from nanogpt_lens.text.corpus import windows
from nanogpt_lens.text.tasks import trigger_bigrams
from tests.making import CHARS, content, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.model.test_exports_for_nanogpt import run_line
from tests.nanogpt_lens.reporting.report_helpers import text

NOT_OF_ONE_MODEL = {"trajectory", "find_change_point", "match_heads", "compare_circuits", "compare", "load_result"}


def test_every_public_function_that_returns_a_result_is_in_it():
    kinds = {name for name in results.__all__ if inspect.isclass(getattr(results, name))}
    public = (getattr(ngl, name) for name in ngl.__all__)
    functions = {
        f.__name__ for f in public if inspect.isfunction(f) and inspect.signature(f).return_annotation in kinds
    }
    assert len(functions) > 25
    assert functions - NOT_OF_ONE_MODEL <= set(ANALYSES)


@pytest.mark.parametrize("name", ANALYSES)
def test_a_row_is_true(name):
    analysis = find(name)
    parameters = list(inspect.signature(analysis.function).parameters)
    assert parameters[0] == "model"
    assert analysis.function.__name__ == name
    assert hasattr(results, analysis.result)
    for source in ("corpus", "task", "text"):
        if analysis.looks_at == source:
            assert parameters[1] == source
    if analysis.looks_at == "prompts":
        start = parameters.index("clean")  # behind the edges of run_circuit
        assert parameters[start : start + 3] == ["clean", "corrupted", "metric"]
    if analysis.looks_at in ("weights", "random tokens"):
        assert not analysis.needs()


def test_commands_of_the_catalogue_exist():
    for analysis in ANALYSES.values():
        if analysis.command:
            assert run(*analysis.command.split(), "--help")[0] == 0


def norms_of_heads(model: Hooked, *, power: int = 2) -> Scores:
    """The norm of what each head writes: an analysis that somebody wrote in a notebook."""
    values = model.W_O.detach().double().norm(dim=(-2, -1)) ** power
    return Scores(values=values, axes=("layer", "head"), quantity="norm of W_O", definition=f"to the power of {power}")


@pytest.fixture
def registered():
    register(norms_of_heads, looks_at="weights", about="norms of what heads write", in_report=True)
    yield find("norms_of_heads")
    del ANALYSES["norms_of_heads"]


def test_a_registered_analysis_is_followed_over_training(registered, tmp_path):
    for step in (0, 10):
        file = write(tmp_path / "run", {**content(seed=step), "iter_num": step})
        file.rename(tmp_path / "run" / f"ckpt_{step}.pt")
    curve = ngl.trajectory(tmp_path / "run", "norms_of_heads", power=1, progress=False)
    assert curve.axes == ("step", "layer", "head")
    for i, step in enumerate((0, 10)):
        model = ngl.load(tmp_path / "run" / f"ckpt_{step}.pt")
        assert torch.equal(curve.values[i], norms_of_heads(model, power=1).values)


def test_a_registered_analysis_has_a_command(registered, tmp_path):
    write(tmp_path / "out")
    code, printed, _ = run("measure", tmp_path / "out", "norms_of_heads", "--option", "power=1", "--json")
    assert code == 0
    rows = json.loads(printed)["norms_of_heads"]["rows"]
    expected = norms_of_heads(ngl.load(tmp_path / "out"), power=1).values
    assert [row["value"] for row in rows] == pytest.approx(expected.flatten().tolist())
    code, printed, _ = run("measure", tmp_path / "out", "norms_of_heads", "--rows", 1, "-o", tmp_path / "kept")
    assert code == 0
    assert "norm of W_O" in printed
    assert isinstance(ngl.load_result(tmp_path / "kept"), Result)
    assert "norms_of_heads" in run("analyses")[1]


def test_a_registered_analysis_has_a_section_in_the_report(registered, tmp_path):
    write_meta(tmp_path / "out")
    write(tmp_path / "out")
    report = ngl.report(tmp_path / "out", corpus=text(500), sections=["summary", "norms_of_heads"], progress=False)
    section = report.sections[-1]
    assert (section.key, section.status) == ("norms_of_heads", "done")
    assert section.title == "Norms of what heads write"
    assert "norms_of_heads" in section.commands[0]
    assert "Norms of what heads write" in report.html


def losses_of_windows(model: Hooked, corpus: Any, *, seq_len: int = 4, seed: int = 0) -> Scores:
    """The losses of a corpus' first windows, in an order that the seed makes."""
    first = windows(model, corpus, seq_len=seq_len, n=3, seed=seed)
    losses = [model(row[None], return_type="loss").item() for row in first]
    return Scores(values=torch.tensor(losses), axes=("window",), quantity="loss", definition="of three windows")


def triggers_of(model: Hooked, task: Any) -> Scores:
    """How many triggers the run's task has."""
    return Scores(values=torch.tensor([float(task.n_triggers)]), axes=("task",), quantity="triggers", definition="n")


def number_of_heads(model: Hooked) -> int:
    """What is no result."""
    return model.cfg.n_heads


class TestSectionsOfRegisteredAnalyses:
    @pytest.fixture(autouse=True)
    def cleaned(self, tmp_path):
        write_meta(tmp_path / "out")
        write(tmp_path / "out")
        (tmp_path / "words.txt").write_text(text(2000))
        before = dict(ANALYSES)
        yield
        ANALYSES.clear()
        ANALYSES.update(before)

    def section(self, folder, name, **options):
        return ngl.report(folder, sections=["summary", name], progress=False, **options).sections[-1]

    def test_one_that_looks_at_a_corpus_is_made_again_by_its_line(self, tmp_path, monkeypatch):
        register(losses_of_windows, looks_at="corpus", about="losses of windows", in_report=True)
        made = self.section(tmp_path / "out", "losses_of_windows", corpus=tmp_path / "words.txt", seed=5)
        result = run_line(made.commands[0], tmp_path, monkeypatch)
        expected = losses_of_windows(ngl.load("out"), "words.txt", seq_len=12, seed=5).values
        assert torch.equal(result.values, expected)
        table = next(block for block in made.body if isinstance(block, Table))
        assert sorted(row[-1] for row in table.rows) == sorted(f"{value:.3f}" for value in expected.tolist())
        given = self.section(tmp_path / "out", "losses_of_windows", corpus=text(2000))
        assert given.commands[0].endswith(".call(model, corpus, seed=0, seq_len=12)  # corpus: the text that was given")

    def test_one_that_needs_a_corpus_where_there_is_none(self, tmp_path):
        register(losses_of_windows, looks_at="corpus", about="losses of windows", in_report=True)
        made = self.section(tmp_path / "out", "losses_of_windows")
        assert (made.status, made.error) == ("does not apply", "losses_of_windows needs a text; give one")

    def test_one_that_looks_at_the_task_of_the_run(self, tmp_path, monkeypatch):
        register(triggers_of, looks_at="task", about="triggers", in_report=True)
        made = self.section(tmp_path / "out", "triggers_of")
        assert made.status == "does not apply"
        assert "triggers_of needs the run's task: " in made.error
        assert "expected the task that `train --task` keeps" in made.error
        (tmp_path / "out" / "task.json").write_text(trigger_bigrams(tmp_path / "words.txt", n_triggers=3).to_json())
        made = self.section(tmp_path / "out", "triggers_of")
        assert made.status == "done"
        assert run_line(made.commands[0], tmp_path, monkeypatch).values.tolist() == [3.0]

    def test_one_that_returns_no_result(self, tmp_path):
        register(number_of_heads, looks_at="weights", about="heads", in_report=True)
        made = self.section(tmp_path / "out", "number_of_heads")
        assert (made.status, made.error) == ("does not apply", "number_of_heads returns a int, which has no picture")
        code, _, error = run("measure", tmp_path / "out", "number_of_heads")
        assert (code, error) == (
            2,
            "error: number_of_heads returns a int, which cannot be printed; call it in Python\n",
        )

    @pytest.mark.parametrize("name", ["text_loss", "head_importance"])
    def test_one_of_this_package_is_made_again_by_its_command(self, tmp_path, monkeypatch, name):
        ANALYSES[name] = replace(find(name), in_report=True)
        made = self.section(tmp_path / "out", name, corpus=tmp_path / "words.txt", seed=2)
        assert made.status == "done", made.error
        monkeypatch.chdir(tmp_path)
        program, *words = shlex.split(made.commands[0], comments=True)
        code, printed, error = run(*words, "--json")
        assert (program, code) == ("nanogpt-lens", 0), error
        table = next(block for block in made.body if isinstance(block, Table))
        shown = sorted(row[-1].replace("−", "-") for row in table.rows)
        assert shown == sorted(f"{row['value']:.3f}" for row in json.loads(printed)[name]["rows"])


def test_the_list_of_analyses_for_programs():
    code, printed, _ = run("analyses", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(printed)}
    assert list(rows) == list(ANALYSES)
    assert rows["text_loss"]["looks_at"] == "corpus"
    assert rows["text_loss"]["command"] == "measure PATH text_loss"
    assert rows["head_taxonomy"]["command"] == "heads PATH"
    assert rows["path_patching"]["command"] == "(in Python)"


def test_analyses_of_every_source_are_measured_by_name(tmp_path):
    write_meta(tmp_path / "out")
    write(tmp_path / "out", block_size=16)
    (tmp_path / "words.txt").write_text(text(600) + CHARS)
    (tmp_path / "out" / "task.json").write_text(trigger_bigrams(tmp_path / "words.txt", n_triggers=3).to_json())
    for words in (
        ("task_accuracy", "--task", tmp_path / "out", "--option", "n=8"),
        ("composition_scores", "--option", "mode=V", "--option", "samples=8"),
        ("attention_statistics", "--text", tmp_path / "words.txt", "--option", "n=4"),
        ("attention_rollout", "--prompt", "the king"),
    ):
        code, printed, error = run("measure", tmp_path / "out", *words, "--json")
        assert code == 0, error
        assert json.loads(printed)[words[0]]["rows"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing",), "there is no analysis 'nothing'; expected one of score_heads"),
        (("activation_patching",), "needs clean, corrupted, metric, activation, axes; use `nanogpt-lens patch`"),
        (("path_patching",), "path_patching needs clean, corrupted, metric, senders, receivers; call it in Python"),
        (("search_neurons",), "search_neurons looks at a corpus; give --text"),
        (("composition_scores", "--prompt", "a"), "--prompt was given, but composition_scores looks at weights"),
        (("text_loss", "--option", "m=1"), "text_loss has no option m; expected seq_len, n, seed"),
        (("text_loss", "--option", "n"), "the option 'n' has no name or no value; expected --option name=value"),
        (("train_tuned_lens", "--option", "steps=0", "--text", "words.txt"), "steps is 0"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    write_meta(tmp_path / "out")
    write(tmp_path / "out")
    (tmp_path / "words.txt").write_text(text(3000))
    code, _, error = run("measure", "out", *words)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_what_cannot_be_registered():
    with pytest.raises(AnalysisError, match="there is an analysis 'text_loss' already; give another name="):
        register(ngl.text_loss, looks_at="corpus", about="again")
    with pytest.raises(AnalysisError, match="looks_at is 'sky'; expected one of weights"):
        register(norms_of_heads, looks_at="sky", about="nothing")
    with pytest.raises(AnalysisError, match="cannot be registered as '<lambda>'; expected a named function"):
        register(lambda model: 1, looks_at="weights", about="nothing")
    assert "norms_of_heads" not in ANALYSES


def test_options_are_read_as_json_where_they_are():
    assert options_from_words(["n=16", "source=mean", "layers=[0, 1]", "each=true", "a=b=c"]) == {
        "n": 16,
        "source": "mean",
        "layers": [0, 1],
        "each": True,
        "a": "b=c",
    }
