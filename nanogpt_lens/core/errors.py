"""What an analysis refuses to do; every message says what was expected and what to do."""

from __future__ import annotations

from conversion.errors import ConversionError


class AnalysisError(ConversionError):
    """Tokens, axes, metrics or options that an analysis cannot work with; also a ValueError."""


class ResultError(ConversionError):
    """A saved result that is missing, damaged, or of another kind."""
