"""Memory that nobody uses any more, given back."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """Free what only knows itself, as a TransformerLens model does, and give freed memory back to the system."""
    gc.collect()
    trim()


def trim() -> None:
    """Give freed memory back to the system.

    The GNU C library keeps what was freed in pieces below 32 MiB, of which a run of a large model leaves hundreds.
    """
    with suppress(OSError, AttributeError):  # another C library, which has its own ways
        ctypes.CDLL(None).malloc_trim(0)
