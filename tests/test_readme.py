"""The README is true: its Python and its commands run, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nanogpt_lens.cli.test_cli import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ANALYSES = (ROOT / "docs" / "ANALYSES.md").read_text()
LENSES = (ROOT / "docs" / "LENSES_AND_NEURONS.md").read_text()
PICTURES = (ROOT / "docs" / "PICTURES.md").read_text()
REPORT = (ROOT / "docs" / "REPORT.md").read_text()
DYNAMICS = (ROOT / "docs" / "TRAINING_DYNAMICS.md").read_text()
CIRCUITS = (ROOT / "docs" / "CIRCUITS.md").read_text()
LAB = (ROOT / "docs" / "LAB.md").read_text()
COMPARING = (ROOT / "docs" / "COMPARING.md").read_text()
SERVING = (ROOT / "docs" / "SERVING.md").read_text()
FILES = re.sub(
    r"\n## (Vocabularies|Exports and their clients)\n.*?(?=\n## )",  # tests/test_files_document.py has these
    "",
    (ROOT / "docs" / "FILES.md").read_text(),
    flags=re.DOTALL,
)
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
DOCS = ARCHITECTURE + DYNAMICS + ANALYSES + LENSES + PICTURES + REPORT + FILES + CIRCUITS + LAB + COMPARING + SERVING


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_first_sixty_lines_say_it_all():
    top = "\n".join(README.splitlines()[:60])
    for word in ("nanoGPT", "TransformerLens", "```python", "ngl.load", "ngl.check", "pip install", "PROVEN EQUAL"):
        assert word in top


def python_of(text):
    """The Python of a document as one script; a lens is trained for few steps, heads are scored on few sequences."""
    code = "\n".join(blocks("python", text)).replace("head_taxonomy(model)", "head_taxonomy(model, n=8)")
    code = re.sub(r"(train_tuned_lens\(.*?\bsteps=)\d+", r"\g<1>8", code)
    assert "ngl.load" in code or "ngl.compare" in code
    return code


@pytest.mark.slow
@pytest.mark.parametrize("block", range(len(blocks("python"))))
def test_each_block_of_the_readme_runs_alone_in_an_empty_folder_and_a_fresh_process(tmp_path, block):
    code = python_of(f"```python\n{blocks('python')[block]}```")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short_and_says_what_whom_and_why():
    assert len(README.splitlines()) < 150
    for word in ("**For** ", "Why not just TransformerLens?", "git clone ", "discussions", "CITATION.cff"):
        assert word in README


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch):
    """Every `$ nanogpt-lens` line; edits at every hook are in the README's own snippet."""
    shown = [line for block in blocks("console") for line in block.splitlines()]
    lines = [line.removeprefix("$ ") for line in shown if line.startswith("$ nanogpt-lens")]
    assert len(lines) >= 3
    monkeypatch.chdir(tmp_path)
    for line in lines:
        words = shlex.split(line, comments=True)
        words += {"heads": ["--n", "8"], "check": ["--no-edits"]}.get(words[1], [])
        code, out, error = run(*words[1:])
        assert code == 0, f"{line}\n{out}{error}"


def test_every_file_it_names_is_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", DOCS):
        assert (ROOT / "docs" / link).exists(), link


def test_every_name_it_uses_is_public():
    import nanogpt_lens as ngl

    for name in set(re.findall(r"\bngl\.(\w+)", README + DOCS)):
        assert hasattr(ngl, name), name


def test_the_tables_name_public_functions():
    import nanogpt_lens as ngl

    rows = [line for line in README.splitlines() if line.startswith("| ") and "?" in line]
    names = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert len(names) > 15
    assert names <= set(ngl.__all__)


def test_the_thresholds_are_those_of_the_code():
    from nanogpt_lens.heads.naming import THRESHOLDS

    rows = [line for line in ANALYSES.splitlines() if line.startswith("| `") and line.count("|") == 5]
    found = {name: float(row.split("|")[4]) for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert found == THRESHOLDS


def test_the_diagram_is_that_of_the_code(monkeypatch):
    from scripts import architecture

    monkeypatch.setattr(sys, "argv", ["architecture", "--check"])
    assert architecture.main() == 0, "run `python -m scripts.architecture`"
