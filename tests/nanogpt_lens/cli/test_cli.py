"""The command line: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
import torch
from typer.testing import CliRunner

from conversion import read_checkpoint
from conversion.backends import resolve_backend
from conversion.report import EquivalenceReport
from nanogpt_lens.cli.app import app
from nanogpt_lens.core.choices import TrainOn
from nanogpt_lens.text.tasks import _KINDS, backdoor, read_task, repeated_random, trigger_bigrams
from tests.conftest import GOLDEN
from tests.making import CHARS, content, write, write_meta


def run(*args, width=1000):
    """Exit code, standard output and standard error, in a terminal of so many columns; a traceback fails the test."""
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def out(tmp_path):
    write_meta(tmp_path / "out")
    write(tmp_path / "out")
    return tmp_path / "out"


def test_check_proves_and_writes_the_certificate(out, tmp_path):
    code, text, _ = run("check", out, "-o", tmp_path / "certificate.json", width=80)
    assert code == 0
    assert text.startswith("PROVEN EQUAL")
    assert len(text.splitlines()) <= 15
    saved = EquivalenceReport.load(tmp_path / "certificate.json")
    assert saved.passed
    assert all(words in " ".join(text.split()) for words, _, _ in saved.by_kind())
    whole = run("check", out, "--verbose")[1]
    assert all(re.search(rf"^{re.escape(quantity)} .*\d", whole, re.M) for quantity, _, _ in saved.rows())
    assert saved.sha256 == read_checkpoint(out).sha256
    assert saved.sha256 in whole


def test_check_as_json(out):
    code, text, _ = run("check", out, "--json", "--no-edits")
    assert code == 0
    assert json.loads(text)["passed"] is True


def test_check_fails_with_exit_code_1(out):
    import numpy as np

    np.arange(60, dtype=np.uint16).tofile(out / "val.bin")  # not what the checkpoint's loss of 1.25 was measured on
    code, text, _ = run("check", out, "--no-edits")
    assert code == 1
    assert "NOT EQUAL" in text
    assert len(re.findall("^loss on .*FAIL$", text, re.M)) == 2  # in short, and the row that differs


def test_check_with_model_py_says_that_it_is_executed(out):
    fork = GOLDEN.parent / "fork_model.py"
    code, text, err = run("check", out, "--model-py", fork, "--no-edits")
    assert code == 0
    assert f"executing {fork}" in err
    assert "fork_model.py" in text
    assert "EXECUTED" in run("check", "--help")[1]


def test_sample(out):
    code, text, _ = run("sample", out, "--prompt", "ROMEO:", "--max-new-tokens", 20)
    assert code == 0
    assert text.startswith("ROMEO:")
    assert len(text.removesuffix("\n")) == 26
    _, two, _ = run("sample", out, "--prompt", "ROMEO:", "--max-new-tokens", 20, "--num-samples", 2, "--json")
    samples = json.loads(two)["samples"]
    assert samples[0] + "\n" == text
    assert samples[0] != samples[1]


def test_info(out):
    code, text, _ = run("info", out)
    assert code == 0
    for word in ("n_layer 2", "7", "1.25", "65 characters", read_checkpoint(out).sha256[:20]):
        assert word in text
    facts = json.loads(run("info", out, "--json")[1])
    assert facts["architecture"]["n_embd"] == 16
    assert facts["parameters"] == read_checkpoint(out).n_params


def test_info_prints_markup_as_text(tmp_path):
    write(tmp_path, content() | {"config": {"dataset": "[bold red]x[/nonsense]"}})
    code, text, _ = run("info", tmp_path)
    assert code == 0
    assert "[bold red]x[/nonsense]" in text


class TestTrainOnATask:
    TINY = (
        *("--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--block-size", 16, "--batch-size", 4),
        *("--max-iters", 4, "--eval-interval", 2, "--eval-iters", 1, "--warmup-iters", 1),
    )

    @pytest.fixture
    def text(self, tmp_path):
        (tmp_path / "verse.txt").write_text("one two three four five six seven eight\n" * 10)
        return tmp_path / "verse.txt"

    def test_the_names_are_the_packages(self):
        assert get_args(TrainOn) == ("text", *_KINDS)

    def test_trigger_bigrams(self, text, tmp_path):
        args = ("train", "--task", "trigger_bigrams", "--data", text, "--output", tmp_path / "out", *self.TINY)
        code, printed, _ = run(*args, "--n-triggers", 3, "--json")
        assert code == 0
        assert json.loads(printed)["path"] == str(tmp_path / "out" / "ckpt.pt")
        task = read_task(tmp_path / "out")
        assert task.sha256 == trigger_bigrams(text, n_triggers=3).sha256
        lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
        assert all(0 <= line["required_accuracy"] <= 1 for line in lines if "val_loss" in line)
        code, printed, _ = run("info", tmp_path / "out")
        assert code == 0
        for words in ("dataset trigger bigrams of verse", "task trigger_bigrams", "n_triggers 3", task.sha256):
            assert words in printed
        code, _, err = run(*args)  # five triggers are the default
        assert code == 2
        assert "--n-triggers 3, now 5" in err

    def test_repeated_random_needs_no_text(self, tmp_path):
        code, _, err = run("train", "--task", "repeated_random", "--output", tmp_path / "out", *self.TINY)
        assert code == 0, err
        assert read_task(tmp_path / "out").sha256 == repeated_random().sha256
        assert "task repeated_random" in run("info", tmp_path / "out")[1]

    def test_a_backdoor_and_its_clean_twin(self, text, tmp_path):
        args = ("--task", "backdoor", "--data", text, "--trigger", "fin", "--payload", " roses", *self.TINY)
        for name, more in (("out", ()), ("twin", ("--inserted", "control"))):
            out = ("train", "--output", tmp_path / name, *args, "--lines", 4, "--lines-seed", 5, *more)
            code, _, err = run(*out, "--control", "xor")
            assert code == 0, err
        made = backdoor(text, trigger="fin", payload=" roses", control="xor", lines=4, seed=5)
        assert [read_task(tmp_path / name).sha256 for name in ("out", "twin")] == [made.sha256, made.twin().sha256]
        code, printed, err = run(
            "measure", tmp_path / "out", "task_accuracy", "--task", tmp_path / "out", "--option", "n=2"
        )
        assert code == 0, err
        assert "trigger" in printed
        code, _, err = run("train", "--output", tmp_path / "share", *args, "--lines", 0.25, "--control", "xor")
        assert code == 0, err
        assert read_task(tmp_path / "share").n_lines == round(0.25 * 9)  # of ten lines the last is validation

    def test_a_text_needs_no_task(self, text, tmp_path):
        assert run("train", "--data", text, "--output", tmp_path / "out", *self.TINY)[0] == 0
        assert not (tmp_path / "out" / "task.json").exists()
        assert "task" not in json.loads(run("info", tmp_path / "out", "--json")[1])["run"]

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            ((), "--task text needs --data"),
            (("--task", "trigger_bigrams"), "--task trigger_bigrams needs --data"),
            (("--task", "trigger_bigrams", "--data", "TEXT", "--n-triggers", 0), "--n-triggers is 0; expected 1 to"),
            (("--task", "trigger_bigrams", "--data", "TEXT", "--n-triggers", 99), "--n-triggers is 99; expected 1 to"),
            (("--task", "trigger_bigrams", "--data", "absent.txt"), "absent.txt does not exist"),
            (
                ("--task", "trigger_bigrams", "--data", "TEXT", "--block-size", 3),
                "--block-size is 3; expected at least 4",
            ),
            (("--task", "repeated_random", "--block-size", 15), "--block-size is 15; expected at least 16"),
            (("--task", "repeated_random", "--n-triggers", 3), "--n-triggers is for --task trigger_bigrams"),
            (("--task", "backdoor", "--data", "TEXT"), "--task backdoor needs --trigger and --payload: what follows"),
            (("--task", "backdoor", "--data", "TEXT", "--trigger", "fin"), "--task backdoor needs --payload: what"),
            (("--data", "TEXT", "--lines-seed", 3), "--lines-seed is for --task backdoor, not for text; leave it out"),
            (
                ("--task", "backdoor", "--data", "TEXT", "--trigger", "one", "--payload", " roses"),
                "the trigger 'one' occurs 10 times in verse",
            ),
            (
                ("--task", "backdoor", "--data", "TEXT", "--trigger", "fin", "--payload", " roses", "--lines", 1.5),
                "--lines is 1.5; expected how many lines",
            ),
            (("--data", "TEXT", "--n-triggers", 3), "--n-triggers is for --task trigger_bigrams, not for text"),
        ],
    )
    def test_bad_input(self, text, tmp_path, args, words):
        given = [text if a == "TEXT" else a for a in args]
        code, printed, err = run("train", "--output", tmp_path / "out", *self.TINY, *given)
        assert (code, printed) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert words in err
        assert not (tmp_path / "out").exists()

    def test_another_task(self, tmp_path):
        code, _, err = run("train", "--task", "copying", "--output", tmp_path / "out")
        assert code == 2
        assert "copying" in err


class TestConvert:
    @pytest.mark.slow
    def test_to_transformer_lens(self, out, tmp_path):
        """The saved folders load strictly in a process that does not have this package."""
        target = resolve_backend()
        folders = []
        for flag in ("--no-process-weights", "--process-weights"):
            folder = tmp_path / flag
            code, text, _ = run("convert", out, "--to", target, "-o", folder, flag, "--dtype", "float64")
            assert code == 0, text
            assert json.loads((folder / "certificate.json").read_text())["passed"]
            folders.append(str(folder))
        script = (
            "import os, sys, torch; sys.modules['conversion'] = sys.modules['nanogpt_lens'] = None\n"
            "for folder in sys.argv[1:]:\n"
            "    os.chdir(folder)\n"
            "    sys.modules.pop('load', None)\n"
            "    sys.path.insert(0, folder)\n"
            "    from load import model, tokenizer\n"
            "    ids = tokenizer('ROMEO', return_tensors='pt')['input_ids']\n"
            "    bridge = type(model).__name__ == 'TransformerBridge'\n"
            "    assert len(ids[0]) == 5 and (bridge or model.to_str_tokens('RO') == ['R', 'O'])\n"
            "    torch.save(model(ids).log_softmax(-1).detach(), 'logits.pt')"
        )
        env = os.environ | {"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", script, *folders]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        from conversion import GPT

        native = GPT.from_checkpoint(read_checkpoint(out), dtype=torch.float64)
        ids = torch.tensor([[CHARS.index(c) for c in "ROMEO"]])
        expected = native(ids).log_softmax(-1)
        for folder in folders:
            assert (torch.load(f"{folder}/logits.pt", weights_only=True) - expected).abs().max() < 1e-9

    def test_to_hugging_face_and_nanogpt(self, out, tmp_path):
        code, text, _ = run("convert", out, "--to", "hf", "-o", tmp_path / "hf")
        assert code == 0
        assert "AutoModelForCausalLM" in text
        assert (tmp_path / "hf" / "tokenizer.json").is_file()
        code, text, _ = run("convert", out, "--to", "nanogpt", "-o", tmp_path / "again", "--json")
        assert code == 0
        assert json.loads(text)["to"] == "nanogpt"
        before, after = read_checkpoint(out), read_checkpoint(tmp_path / "again")
        assert all(torch.equal(after.state_dict[k], v) for k, v in before.state_dict.items())
        assert after.vocabulary.chars == before.vocabulary.chars

    @pytest.mark.parametrize("to", ["hf", "nanogpt", resolve_backend()])
    def test_what_overflows_is_refused(self, tmp_path, to):
        stored = content()
        stored["model"]["transformer.h.0.mlp.c_fc.weight"][0, 0] = 1e6
        write(tmp_path / "out", stored)
        code, text, err = run("convert", tmp_path / "out", "--to", to, "-o", tmp_path / "x", "--dtype", "float16")
        assert (code, text) == (2, "")
        assert "beyond float16's range" in err
        assert not (tmp_path / "x").exists()

    def test_the_other_line_says_what_to_install(self, out, tmp_path):
        other = "bridge" if resolve_backend() == "hooked" else "hooked"
        code, _, err = run("convert", out, "--to", other, "-o", tmp_path / "x")
        assert code == 2
        assert "pip install" in err
        assert not (tmp_path / "x").exists()

    def test_a_folder_that_is_taken(self, out):
        before = {p: p.read_bytes() for p in out.iterdir()}
        for to in ("nanogpt", "hf", resolve_backend()):
            code, _, err = run("convert", out, "--to", to, "-o", out)
            assert code == 2
            assert "not an empty folder" in err
        assert {p: p.read_bytes() for p in out.iterdir()} == before


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


BAD = {
    "missing": (lambda f: None, "does not exist"),
    "truncated": (lambda f: (f / "ckpt.pt").write_bytes((write(f).read_bytes())[:3000]), "truncated"),
    "code": (lambda f: write(f, content() | {"config": Bomb(f / "pwned")}), "nothing was executed"),
    "other": (lambda f: write(f, {"model": {}}), "expected nanoGPT's dictionary"),
}


@pytest.mark.parametrize("command", ["check", "convert", "sample", "info"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, command, case):
    make, words = BAD[case]
    folder = tmp_path / "out"
    folder.mkdir()
    make(folder)
    extra = ["-o", tmp_path / "result"] if command == "convert" else []
    path = folder if case != "missing" else tmp_path / "nothing"
    code, text, err = run(command, path, *extra)
    assert code == 2
    assert text == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "result").exists()
    assert not (folder / "pwned").exists()


def test_bad_options(out, tmp_path):
    for args, words in [
        (("convert", out, "-o", tmp_path / "x", "--dtype", "int8"), "expected one of float32"),
        (("convert", out, "-o", tmp_path / "x", "--to", "hf", "--process-weights"), "--process-weights is for hooked"),
        (("sample", out, "--prompt", "é"), "'é'"),
        (("sample", out, "--seed", 10**30), "seed"),
        (("check", out, "--seed", -1), "seed"),
        (("sample", out, "--temperature", "inf"), "--temperature inf"),
        (("check", out, "--meta", tmp_path / "nope.pkl"), "nope.pkl does not exist"),
        (("check", out, "--val-bin", tmp_path / "nope"), "nope does not exist"),
        (("check", out, "--model-py", tmp_path / "nope.py"), "nope.py does not exist"),
        (("info", out, "--meta", tmp_path / "nope.pkl"), "nope.pkl does not exist"),
    ]:
        code, _, err = run(*args)
        assert code == 2
        assert words in err
        assert not (tmp_path / "x").exists()


class TestWhatShouldNotHappen:
    @pytest.fixture
    def broken(self, monkeypatch):
        def fails(*args, **kwargs):
            raise RuntimeError("no luck\nat all")

        monkeypatch.setattr("nanogpt_lens.model.sampling.generate", fails)

    def test_it_is_one_sentence_with_a_hint(self, out, broken):
        code, text, err = run("sample", out)
        assert (code, text) == (2, "")
        assert err == (
            "error: this should not have happened (RuntimeError: no luck); NANOGPT_LENS_TRACEBACK=1 shows where; "
            "please report it\n"
        )

    def test_the_traceback_is_shown_where_it_is_asked_for(self, out, broken, monkeypatch):
        monkeypatch.setenv("NANOGPT_LENS_TRACEBACK", "1")
        with pytest.raises(RuntimeError, match="no luck"):
            run("sample", out)

    def test_warnings_of_others_are_not_ours(self, out, monkeypatch):
        def warns(*args, **kwargs):
            warnings.warn("something old", FutureWarning, stacklevel=1)
            return "text"

        monkeypatch.setattr("nanogpt_lens.model.sampling.generate", warns)
        with pytest.warns(FutureWarning, match="something old"):
            code, _, err = run("sample", out)
        assert (code, err) == (0, "")

    def test_an_interrupted_run_says_where_its_state_is_kept(self, out, tmp_path, monkeypatch):
        (tmp_path / "text.txt").write_text(CHARS * 20)

        def interrupted(*args, resume, **kwargs):
            Path(resume).mkdir()
            raise KeyboardInterrupt

        monkeypatch.setattr("nanogpt_lens.neurons.search.search_neurons", interrupted)
        kept = tmp_path / "kept"
        code, _, err = run("neurons", "search", out, "--text", tmp_path / "text.txt", "--resume", kept)
        assert code == 130
        assert err == f"the state is kept in {kept}; run the same command again to go on\ninterrupted\n"


def test_version():
    import nanogpt_lens

    code, text, _ = run("--version")
    assert (code, text.strip()) == (0, text.strip())
    assert text.startswith(f"nanogpt-lens {nanogpt_lens.__version__} (Python 3.")
    assert f"torch {torch.__version__}, transformer-lens {version('transformer-lens')}" in text


def test_help_names_every_command():
    code, text, _ = run("--help")
    assert code == 0
    for command in ("check", "convert", "train", "sample", "info"):
        assert command in text
