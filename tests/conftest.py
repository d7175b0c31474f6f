"""What the tests share: the golden cases, and conversion with whatever TransformerLens is installed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

from tests.shapes import check_where_stated

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may need a download
check_where_stated()
install_import_hook(("conversion", "nanogpt_lens"), "tests.shapes.shapes")  # before either is imported

import pytest
import torch

from conversion.backends import resolve_backend
from conversion.checkpoint import Checkpoint, read_checkpoint

GOLDEN = Path(__file__).parent / "golden"
CASES = ("bias", "no_bias", "compiled", "old_mask_buffers")


FIGURES = ("nanogpt_lens/viz/test_figures", "nanogpt_lens/viz/test_prose_is_for_people.py")
"""Files that draw the same results."""
SERVER = "nanogpt_lens/server/"
"""A folder whose tests share an application, and the process in which its workers are born."""
LONGEST = (
    FIGURES[0],
    SERVER,
    "nanogpt_lens/reporting/test_report.py",
    "test_readme.py",
    "nanogpt_lens/runs/test_change_points.py",
    "conversion/test_equivalence.py",
    "nanogpt_lens/viz/test_export.py",
    "nanogpt_lens/cli/test_cli.py",
)
"""Groups of tests that begin first: a long one that began last would leave the other process without work."""


def _group(item: pytest.Item) -> str:
    """The tests that one process runs, for they share what is expensive: a file; figures; the server."""
    name = item.path.relative_to(Path(__file__).parent).as_posix()
    if name.startswith(SERVER):
        return SERVER
    return FIGURES[0] if name.startswith(FIGURES) else name


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests, the longest group first; skip, with a reason, what this TransformerLens cannot do."""
    items.sort(key=lambda item: LONGEST.index(_group(item)) if _group(item) in LONGEST else len(LONGEST))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    backend = resolve_backend("auto")
    for item in items:
        if item.get_closest_marker("hooked") and backend != "hooked":
            item.add_marker(pytest.mark.skip(reason="needs TransformerLens 3.9"))
        if item.get_closest_marker("bridge") and backend != "bridge":
            item.add_marker(pytest.mark.skip(reason="needs TransformerLens 4"))
        if item.get_closest_marker("sae") and (backend != "hooked" or find_spec("sae_lens") is None):
            item.add_marker(pytest.mark.skip(reason="needs SAELens and TransformerLens 3.9"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Raise UsageError where pytest-xdist did not see the groups: every process would make what tests share."""
    grouped = hasattr(session.config, "workerinput") and session.config.getoption("loadgroup", False)
    if grouped and session.items and "@" not in session.items[0].nodeid:
        raise pytest.UsageError("pytest-xdist sees no groups of tests; expected pytest 9.1, see constraints.txt")


@dataclass
class Golden:
    """A checkpoint of the original nanoGPT, and what the original nanoGPT computed from it."""

    name: str
    folder: Path
    checkpoint: Checkpoint
    expected: dict[str, torch.Tensor]


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = GOLDEN / request.param
    expected = torch.load(folder / "expected.pt", weights_only=True)
    return Golden(request.param, folder, read_checkpoint(folder), expected)


def convert(checkpoint: Checkpoint, **options: Any) -> Any:
    """The checkpoint as a model of the installed TransformerLens."""
    from nanogpt_lens.model.loading import convert as to_transformer_lens

    return to_transformer_lens(checkpoint, **options)
