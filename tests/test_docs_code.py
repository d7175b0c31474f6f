"""The code of docs/ is true: every Python block, command and line of names.md runs alone, in a fresh folder."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from conversion.backends import resolve_backend
from nanogpt_lens import catalogue
from tests.docs_pages import PAGES, blocks
from tests.nanogpt_lens.cli.test_cli import run

pytestmark = pytest.mark.slow

ELSEWHERE = {"SERVING.md", "reference/command-line.md"}
"""A page whose code has tests of its own, with a server; and one whose blocks are usages, made from the commands."""
TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n" * 20
PYTHON = [(page, i) for page in PAGES if page not in ELSEWHERE for i in range(len(blocks(page, "python")))]
CONSOLE = [
    (page, i)
    for page in PAGES
    if page not in ELSEWHERE
    for i, block in enumerate(blocks(page, "console"))
    if "$ nanogpt-lens" in block
]
ROWS = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", PAGES["names.md"], flags=re.MULTILINE)
SOUGHT = """get_activations patch_activation extract_attention_patterns visualize_attention_head
compute_attention_importance track_attention_flow visualize_prediction_evolution find_max_activating_examples
ablate_neuron analyze_neuron_behavior"""


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An empty folder but for a text; a registered analysis is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "ANALYSES", dict(catalogue.ANALYSES))
    (tmp_path / "input.txt").write_text(TEXT)


def without_sae(code: str) -> bool:
    """Whether the code needs SAELens, and it is not there."""
    return "ngl.sae." in code and (resolve_backend("auto") != "hooked" or find_spec("sae_lens") is None)


@pytest.mark.parametrize(("page", "i"), PYTHON)
def test_a_block_runs(page, i):
    code = blocks(page, "python")[i]
    if without_sae(code):
        pytest.skip("needs SAELens and TransformerLens 3.9")
    exec(compile(code, f"{page}, block {i + 1}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("page", "i"), CONSOLE)
def test_commands_run(page, i):
    """In order within a block; a server is not started, pip installs nothing, and training is cut short."""
    for hypothesis in blocks(page, "yaml"):
        Path("hypothesis.yaml").write_text(hypothesis)
    for line in re.sub(r"\\\n", " ", blocks(page, "console")[i]).splitlines():
        words = shlex.split(line[2:], comments=True) if line.startswith("$ nanogpt-lens") else []
        if not words or words[1] in ("serve", "mcp"):
            continue
        if words[1] == "train" and "--max-iters" not in words:
            words += ["--max-iters", "20", "--eval-interval", "10", "--eval-iters", "2"]
        code, shown, error = run(*words[1:])
        assert code == 0, f"{line}\n{shown}{error}"


@pytest.mark.timeout(600)
def test_every_line_of_the_names_runs():
    names: dict = {"__name__": "__main__"}
    (setup,) = blocks("names.md", "python")
    exec(setup, names)
    assert len(ROWS) > 60
    for line in ROWS:
        if not without_sae(line):
            exec(compile(line, f"names.md: {line}", "exec"), names)


def test_the_names_that_people_look_for_are_there():
    assert {name for name in SOUGHT.split() if f"`{name}`" not in PAGES["names.md"]} == set()
