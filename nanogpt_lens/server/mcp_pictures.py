"""A result as an image, where a browser to draw it with is installed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from nanogpt_lens.core.errors import NanoGPTLensError

WIDTH = 760


def png_of(result: Any) -> tuple[bytes | None, str]:
    """The picture of a result, and "png"; or None, and why there is none in a sentence."""
    from nanogpt_lens.viz.export import to_png

    with tempfile.TemporaryDirectory(prefix="nanogpt-lens-") as folder:
        try:
            return to_png(result, Path(folder) / "picture.png", width=WIDTH, scale=1.5).read_bytes(), "png"
        except (NanoGPTLensError, OSError) as error:
            return None, f"no image: {' '.join(str(error).split())}"
