"""What the tests share: the golden cases, and conversion with whatever TransformerLens is installed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401 - the hook below names it

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may need a download
install_import_hook(("conversion", "nanogpt_lens"), "tests.shapes.shapes")  # before either is imported

import pytest
import torch

from conversion.backends import resolve_backend
from conversion.checkpoint import Checkpoint, read_checkpoint

GOLDEN = Path(__file__).parent / "golden"
CASES = ("bias", "no_bias", "compiled", "old_mask_buffers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason, what the installed TransformerLens cannot do."""
    backend = resolve_backend("auto")
    for item in items:
        if item.get_closest_marker("hooked") and backend != "hooked":
            item.add_marker(pytest.mark.skip(reason="needs TransformerLens 3.9"))
        if item.get_closest_marker("bridge") and backend != "bridge":
            item.add_marker(pytest.mark.skip(reason="needs TransformerLens 4"))
        if item.get_closest_marker("sae") and (backend != "hooked" or find_spec("sae_lens") is None):
            item.add_marker(pytest.mark.skip(reason="needs SAELens and TransformerLens 3.9"))


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
