"""What the package refuses to do; every message says what was expected and what to do."""

from __future__ import annotations

from conversion.errors import NanoGPTLensError

__all__ = ["AnalysisError", "DataError", "NanoGPTLensError", "ResultError", "TrainingError"]


class AnalysisError(NanoGPTLensError):
    """Tokens, axes, metrics or options that an analysis cannot work with; also a ValueError."""


class DataError(NanoGPTLensError):
    """Text or tokens that are missing, damaged, or too short."""


class ResultError(NanoGPTLensError):
    """A saved result that is missing, damaged, or of another kind."""


class TrainingError(NanoGPTLensError):
    """Settings that make no sense, a folder that holds another run, a run that diverged."""
