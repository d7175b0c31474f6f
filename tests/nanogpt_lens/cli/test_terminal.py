"""What a terminal sees beside tables: completion, mistyped words, the line while waiting, Ctrl-C, a closed pipe."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from typing import get_args

import pytest

from nanogpt_lens.circuits.ranking import SearchMethod
from nanogpt_lens.cli import completing
from nanogpt_lens.cli.options import check_text
from nanogpt_lens.cli.typos import meant
from nanogpt_lens.cli.waiting import Waiting, short
from nanogpt_lens.compare.comparing import PARTS
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.reporting.making import SECTIONS
from nanogpt_lens.text.task_pairs import NAMES
from tests.nanogpt_lens.cli.test_cli import run


class TestCompletion:
    def test_the_words_are_the_packages(self):
        assert tuple(SECTIONS) == completing.SECTIONS
        assert (NAMES, PARTS) == (completing.TASKS, completing.PARTS)
        assert set(get_args(SearchMethod)) == set(completing.METHODS)

    def test_names_that_begin_so(self):
        assert "shakespeare_char" in completing.checkpoints("shake")
        assert completing.texts("") == ["backdoor", "backdoor_control", "shakespeare_char"]
        assert [name for name, _ in completing.analyses("score")] == ["score_heads"]
        assert "edge_effects" in dict(completing.measures(""))
        assert "activation_patching" not in dict(completing.measures(""))
        assert completing.one_of(completing.TASKS)("in") == ["induction"]

    def test_names_with_commas_each_once(self):
        complete = completing.some_of(("loss", "lens", "heads"))
        assert complete("l") == ["loss", "lens"]
        assert complete("loss,l") == ["loss,lens"]
        assert complete("nothing,x") == []

    def test_a_shell_gets_them_without_torch(self):
        script = (
            "import sys; sys.argv = ['nanogpt-lens']\nfrom nanogpt_lens.__main__ import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print('torch' in sys.modules)"
        )
        words = "nanogpt-lens heads induction_"
        asks = {"_NANOGPT_LENS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}
        done = subprocess.run([sys.executable, "-c", script], env=os.environ | asks, capture_output=True, text=True)
        assert done.stdout.split() == ["induction_control", "False"]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("heds", "induction"), "Did you mean 'heads'?"),
        (("convert", "induction", "--to", "hoked", "-o", "x"), "did you mean 'hooked'?"),
        (("heads", "induction", "--text", "shakespere_char"), "did you mean 'shakespeare_char'?"),
        (("circuit", "edges", "induction", "--task", "inductoin"), "did you mean 'induction'?"),
        (("neurons", "find", "induction", "uper_case", "--text", "shakespeare_char"), "did you mean 'upper_case'?"),
        (("patch", "induction", "--clean", "a", "--corrupted", "b", "--answer", "a", "--axes", "layr"), "'layer'?"),
    ],
)
def test_the_nearest_word_is_named(words, near):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert near in " ".join(err.split())


def test_what_is_far_from_all_words_has_no_nearest():
    assert meant("'xyz' is not one of 'a', 'b'.") == "'xyz' is not one of 'a', 'b'"
    assert meant("Missing argument") == "Missing argument"


@pytest.mark.parametrize(
    "words",
    [
        ("lens", "induction", "--tuned", "nowhere"),
        ("scrub", "induction", "nowhere.yaml"),
        ("neurons", "page", "induction", "0.1", "--search", "nowhere"),
        ("circuit", "validate", "induction", "nowhere"),
        ("circuit", "check", "nowhere", "induction"),
        ("measure", "induction", "text_loss", "--text", "nowhere"),
    ],
)
def test_what_is_not_there_is_refused_before_a_model_is_loaded(words, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.model.reading.Reading.checkpoint", lambda *_, **__: 1 / 0)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: nowhere")
    assert "does not exist; expected " in err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("measure", "induction", "headtaxonomy"), "no analysis 'headtaxonomy': did you mean 'head_taxonomy'?"),
        (("circuit", "find", "induction", "--task", "inductoin"), "did you mean 'induction'?"),
        (("report", "induction", "--sections", "los", "-o", "page.html"), "no section 'los': did you mean 'loss'?"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_before_a_model_is_loaded(words, near, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.model.reading.Reading.checkpoint", lambda *_, **__: 1 / 0)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert near in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("neurons", "page", "induction", "0", "4"), "did you mean 0.4?"),
        (("lens", "induction", "To be, or"), "it takes PATH: did you mean --prompt 'To be, or'?"),
        (("heads", "induction", "0.1"), "it takes PATH: did you mean --text 0.1?"),
        (("heads", __file__, "induction"), f"the wrong way round: did you mean induction --text {__file__}?"),
        (("train", __file__, "out"), f"Missing option '--output' / '-o'. Did you mean --data {__file__} --output out?"),
        (("train", "out"), "Missing option '--output' / '-o'. Did you mean --output out?"),
        (("train", __file__, "-o", "out"), f"it takes no argument: did you mean --data {__file__}?"),
        (("neurons", "page", "induction", "0.4", __file__), f"it takes PATH NEURON: did you mean --text {__file__}?"),
    ],
)
def test_a_word_too_much_may_be_meant_for_something_else(words, hint):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", re.sub(r"\x1b\[[0-9;]*m", "", err)).split())
    assert hint.replace(" ", "") in said.replace(" ", ""), said


def test_a_missing_option_suggests_nothing_where_nothing_stands_for_it():
    code, _, err = run("train", "--task", "trigger_bigrams")
    assert code == 2
    assert "Missing option '--output'" in err
    assert "Did you mean" not in err


def test_a_folder_alone_is_the_output(tmp_path):
    _, _, err = run("train", tmp_path)
    assert "--data" not in err
    assert "Did you mean --output" in " ".join(err.replace("│", " ").split())


def test_a_text_called_like_a_checkpoint_is_a_text(tmp_path):
    text = tmp_path / "europarl.pt"
    text.write_text("Senhor Presidente\n")
    check_text(text)
    for name, begins in (("a.pt", b"PK\x03\x04"), ("b.ckpt", b"\x80\x02}q"), ("c.safetensors", b"12345678{")):
        (tmp_path / name).write_bytes(begins)
        with pytest.raises(AnalysisError, match=f"{name} is a checkpoint; expected a text"):
            check_text(tmp_path / name)


def test_a_checkpoint_behind_text_is_named():
    code, out, err = run("heads", __file__, "--text", "checkpoints/induction")
    assert (code, out) == (2, "")
    assert "checkpoints/induction is a checkpoint; expected a text: give the checkpoint first" in " ".join(err.split())


def test_a_log_says_each_section_of_a_report(monkeypatch):
    monkeypatch.setattr(sys, "stderr", heard := io.StringIO())
    waiting = Waiting()
    waiting.speak()
    log = logging.getLogger("nanogpt_lens.made_up")
    waiting.follow(log.name)
    log.info("section %d of %d, %s", 1, 2, "heads")
    log.debug("not this")
    assert heard.getvalue() == "section 1 of 2, heads ...\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    waiting.follow(other := "nanogpt_lens.made_up_too")
    assert logging.getLogger(other).handlers == []  # a bar says it there


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestTheLineWhileWaiting:
    def test_a_log_gets_each_line_once_and_a_program_none(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", log := io.StringIO())
        waiting = Waiting()
        waiting.doing("reading a/b")
        assert log.getvalue() == ""  # tests and notebooks hear nothing
        waiting.speak()
        waiting.doing("reading a/b", for_programs=True)
        assert log.getvalue() == ""
        waiting.doing("reading a/b")
        waiting.doing("importing")
        waiting.done()
        waiting.doing("reading a/b")
        assert log.getvalue() == "reading a/b ...\nimporting ...\n"  # each once

    def test_on_a_terminal_it_goes_away(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("TERM", "xterm")
        waiting = Waiting()
        waiting.speak()
        waiting.doing("reading a/b", for_programs=True)
        waiting.doing("importing")
        waiting.done()
        said = sys.stderr.getvalue()
        assert "reading a/b ..." in said
        assert said.endswith(("\x1b[2K", "\x1b[?25h"))  # the line is erased, and the cursor is back

    def test_other_processes_say_nothing(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", log := io.StringIO())
        monkeypatch.setenv("RANK", "1")
        waiting = Waiting()
        waiting.speak()
        waiting.doing("reading a/b")
        assert log.getvalue() == ""

    def test_a_file_has_its_folder(self):
        assert short("/very/long/out/ckpt.pt") == "out/ckpt.pt"
        assert short("ckpt.pt") == "ckpt.pt"


def test_ctrl_c_is_one_line(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanogpt_lens.model.reading.Reading.checkpoint", interrupted)
    for words in (("info", "induction"), ("heads", "induction"), ("trajectory", "induction")):
        code, out, err = run(*words)
        assert (code, out) == (130, "")
        assert err in ("interrupted\n", "")  # once in a process


def test_a_closed_pipe_is_no_error(monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("nanogpt_lens.cli.tables._write", closed)
    code, out, err = run("info", "induction")
    assert (code, out, err) == (141, "", "")  # 1 would mean "not equal"
