"""`nanogpt-lens mcp` before it serves: what is missing is one sentence, and nothing is on standard output."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from nanogpt_lens.cli.app import app


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "mcp.server", raising=False)
    monkeypatch.delitem(sys.modules, "mcp.server.mcpserver", raising=False)
    done = CliRunner().invoke(app, ["mcp", "induction"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.strip().endswith("pip install 'mcp>=2,<3'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere"], "nowhere does not exist"), (["induction", "induction"], "was given twice")],
)
def test_a_model_that_is_not_there_is_one_sentence(arguments, said):
    pytest.importorskip("mcp")
    done = CliRunner().invoke(app, ["mcp", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_text_that_is_not_there_is_one_sentence(tmp_path):
    done = CliRunner().invoke(app, ["mcp", "induction", "--text", str(tmp_path / "no.txt")])
    assert done.exit_code == 2
    assert "does not exist" in done.stderr
