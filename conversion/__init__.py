"""nanoGPT checkpoints to TransformerLens models, with proof.

This package stands on its own: it knows checkpoints, vocabularies and models, and nothing
of the analyses in `nanogpt_lens`. Names are imported when they are first used, so that
importing it costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
    from conversion.compact import save_compact
    from conversion.config import NanoGPTConfig
    from conversion.equivalence import check_equivalence
    from conversion.errors import (
        BackendError,
        CheckpointError,
        ConversionError,
        EquivalenceError,
        NanoGPTLensError,
        VocabularyError,
    )
    from conversion.nanogpt_to_bridge import to_bridge
    from conversion.nanogpt_to_hooked import to_hooked_transformer
    from conversion.nanogpt_to_huggingface import from_huggingface, to_huggingface
    from conversion.native import GPT
    from conversion.reloading import reload_weights
    from conversion.report import EquivalenceReport
    from conversion.string_vocabulary import StringVocabulary
    from conversion.token_files import TokenFile
    from conversion.transformerlens_to_nanogpt import to_nanogpt
    from conversion.vocabulary import CharVocabulary, TokenizerVocabulary, read_vocabulary

_HOMES = {
    "GPT": "native",
    "BackendError": "errors",
    "CharVocabulary": "vocabulary",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "ConversionError": "errors",
    "EquivalenceError": "errors",
    "EquivalenceReport": "report",
    "NanoGPTConfig": "config",
    "NanoGPTLensError": "errors",
    "StringVocabulary": "string_vocabulary",
    "TokenFile": "token_files",
    "TokenizerVocabulary": "vocabulary",
    "VocabularyError": "errors",
    "check_equivalence": "equivalence",
    "from_huggingface": "nanogpt_to_huggingface",
    "read_checkpoint": "checkpoint",
    "read_vocabulary": "vocabulary",
    "reload_weights": "reloading",
    "save_checkpoint": "checkpoint",
    "save_compact": "compact",
    "to_bridge": "nanogpt_to_bridge",
    "to_hooked_transformer": "nanogpt_to_hooked",
    "to_huggingface": "nanogpt_to_huggingface",
    "to_nanogpt": "transformerlens_to_nanogpt",
}

__all__ = [
    "GPT",
    "BackendError",
    "CharVocabulary",
    "Checkpoint",
    "CheckpointError",
    "ConversionError",
    "EquivalenceError",
    "EquivalenceReport",
    "NanoGPTConfig",
    "NanoGPTLensError",
    "StringVocabulary",
    "TokenFile",
    "TokenizerVocabulary",
    "VocabularyError",
    "check_equivalence",
    "from_huggingface",
    "read_checkpoint",
    "read_vocabulary",
    "reload_weights",
    "save_checkpoint",
    "save_compact",
    "to_bridge",
    "to_hooked_transformer",
    "to_huggingface",
    "to_nanogpt",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
