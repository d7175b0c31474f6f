"""The errors of the package; every message says what was expected and what to do."""

from __future__ import annotations

from conversion.errors import (
    BackendError,
    CheckpointError,
    ConversionError,
    EquivalenceError,
    NanoGPTLensError,
    VocabularyError,
)

__all__ = [
    "AnalysisError",
    "BackendError",
    "CheckpointError",
    "ConversionError",
    "DataError",
    "EquivalenceError",
    "NanoGPTLensError",
    "ResultError",
    "TrainingError",
    "VocabularyError",
]


class AnalysisError(NanoGPTLensError):
    """Raised for tokens, axes, metrics or options that an analysis cannot work with; also a ValueError."""


class DataError(NanoGPTLensError):
    """Raised for text or tokens that are missing, damaged, or too short."""


class ResultError(NanoGPTLensError):
    """Raised for a saved result that is missing, damaged, or of another kind."""


class TrainingError(NanoGPTLensError):
    """Raised for settings that make no sense, a folder that holds another run, or a run that diverged."""
