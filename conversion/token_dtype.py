"""How a file keeps one token; a word that the command line needs before anything else is imported."""

from __future__ import annotations

from typing import Literal

TokenDtype = Literal["uint8", "uint16", "uint32", "int32", "int64"]
"""How a file keeps one token, in numpy's word; always with the lowest byte first."""
