"""The files around the code agree with it: addresses, versions, templates, workflow targets."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())


def ours():
    """All texts of the project that may name an address."""
    kept = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.*"), ROOT / "CITATION.cff"]
    return [path for path in [*kept, *ROOT.glob("notebooks/*.*"), *ROOT.glob("mkdocs.yml")] if path.is_file()]


def test_every_address_of_the_repository_is_the_projects():
    named = {
        (path.name, address)
        for path in ours()
        for address in re.findall(r"https://github\.com/[\w.-]+/nanogpt-lens", path.read_text(encoding="utf-8"))
    }
    assert {"README.md", "CITATION.cff", "config.yml"} <= {name for name, _ in named}
    assert {address for _, address in named} == {ADDRESS}


def test_version_and_licence_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)


def test_the_workflow_runs_targets_and_pythons_that_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = {
        t for job in WORKFLOW["jobs"].values() for t in job.get("strategy", {}).get("matrix", {}).get("target", [])
    }
    asked |= {
        step["run"].split()[1]
        for job in WORKFLOW["jobs"].values()
        for step in job["steps"]
        if step.get("run", "").startswith("make ") and "{{" not in step["run"].split()[1]
    }
    assert {"test", "test-tl4", "test-slow", "docs", "test-install"} <= asked <= targets
    pythons = WORKFLOW["jobs"]["suite"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13"]
    supported = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert supported == pythons


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem)
def test_issue_templates_are_forms(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert any(link["url"].endswith("/discussions") for link in form["contact_links"])
        return
    assert form["name"]
    assert form["description"]
    asked = [part["id"] for part in form["body"]]
    assert len(asked) == len(set(asked)) >= 2
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_pre_commit_runs_what_make_check_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = " ".join(hook["entry"] for hook in hooks)
    assert "ruff check" in entries
    assert "ruff format" in entries
    assert all(hook["language"] == "system" for hook in hooks), "a hook may not download"


def test_everything_that_the_code_imports_is_declared():
    """A third-party import without a declaration works here, and fails in an empty environment."""
    texts = [*PROJECT["dependencies"], *(t for extra in PROJECT["optional-dependencies"].values() for t in extra)]
    declared = {re.match(r"[\w-]+", text)[0].lower().replace("-", "_") for text in texts}
    declared |= {"yaml", "nanogpt_lens", "conversion"}  # pyyaml's name, and ours
    brought = {  # by a declared package, whose own types and errors these are
        "jinja2": {"markupsafe"},
        "transformers": {"huggingface_hub"},
        "fastapi": {"starlette", "pydantic", "pydantic_core"},
        "uvicorn": {"h11"},
        "mcp": {"anyio"},
        "typer": {"click"},
        "anywidget": {"traitlets"},
        "ipykernel": {"IPython"},
    }
    declared |= {name for names in brought.values() for name in names}
    imported = {
        name.partition(".")[0]
        for folder in (ROOT / "nanogpt_lens", ROOT / "conversion")
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {"torch", "transformer_lens", "plotly"} <= imported
    assert imported - set(sys.stdlib_module_names) - declared == set()
