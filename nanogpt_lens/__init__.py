"""Open up nanoGPT checkpoints with TransformerLens.

    import nanogpt_lens as ngl

    model = ngl.load("out-shakespeare-char")
    ngl.check("out-shakespeare-char").raise_if_failed()

Names are imported when they are first used, so that `nanogpt-lens --help` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
    from conversion.errors import (
        BackendError,
        CheckpointError,
        ConversionError,
        EquivalenceError,
        VocabularyError,
    )
    from conversion.report import EquivalenceReport
    from conversion.transformerlens_to_nanogpt import to_nanogpt
    from nanogpt_lens.datasets import encode_corpus, read_data
    from nanogpt_lens.loading import check, load, shipped_checkpoints
    from nanogpt_lens.sampling import generate
    from nanogpt_lens.training import train
    from nanogpt_lens.training_config import TrainConfig

_HOMES = {
    "BackendError": "conversion.errors",
    "Checkpoint": "conversion.checkpoint",
    "CheckpointError": "conversion.errors",
    "ConversionError": "conversion.errors",
    "EquivalenceError": "conversion.errors",
    "EquivalenceReport": "conversion.report",
    "TrainConfig": "nanogpt_lens.training_config",
    "VocabularyError": "conversion.errors",
    "check": "nanogpt_lens.loading",
    "encode_corpus": "nanogpt_lens.datasets",
    "generate": "nanogpt_lens.sampling",
    "load": "nanogpt_lens.loading",
    "read_checkpoint": "conversion.checkpoint",
    "read_data": "nanogpt_lens.datasets",
    "save_checkpoint": "conversion.checkpoint",
    "shipped_checkpoints": "nanogpt_lens.loading",
    "to_nanogpt": "conversion.transformerlens_to_nanogpt",
    "train": "nanogpt_lens.training",
}

__all__ = [
    "BackendError",
    "Checkpoint",
    "CheckpointError",
    "ConversionError",
    "EquivalenceError",
    "EquivalenceReport",
    "TrainConfig",
    "VocabularyError",
    "check",
    "encode_corpus",
    "generate",
    "load",
    "read_checkpoint",
    "read_data",
    "save_checkpoint",
    "shipped_checkpoints",
    "to_nanogpt",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("nanogpt-lens")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
