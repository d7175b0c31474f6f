"""Colours of values, as CircuitsVis has them: white at zero, blue above, red below; and pictures made of them."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

POSITIVE = (
    (255, 255, 255),
    (247, 240, 255),
    (238, 226, 255),
    (229, 211, 255),
    (220, 196, 255),
    (210, 182, 255),
    (200, 168, 255),
    (190, 153, 255),
    (179, 139, 255),
    (167, 125, 255),
    (155, 111, 255),
    (141, 96, 255),
    (126, 82, 255),
    (109, 66, 255),
    (89, 50, 255),
    (63, 31, 255),
    (0, 0, 255),
)
NEGATIVE = (
    (255, 255, 255),
    (255, 243, 239),
    (255, 231, 222),
    (255, 219, 207),
    (255, 207, 191),
    (255, 195, 175),
    (255, 183, 160),
    (255, 170, 144),
    (255, 158, 129),
    (255, 145, 114),
    (255, 132, 100),
    (255, 118, 85),
    (255, 104, 70),
    (255, 88, 55),
    (255, 70, 40),
    (255, 47, 23),
    (255, 0, 0),
)
"""CircuitsVis mixes blue or red with white in CIELAB: 17 steps of that."""

MASKED = (200, 200, 200)
"""CircuitsVis' grey of what a causal mask hides."""


def ramp(anchors: tuple[tuple[int, int, int], ...], steps: int = 256) -> UInt8[np.ndarray, "step 3"]:
    """Red, green and blue from 0 to 255, linear between the anchors."""
    places = np.linspace(0, len(anchors) - 1, steps)
    table = np.array(anchors, dtype=float)
    return np.stack([np.interp(places, range(len(anchors)), table[:, c]) for c in range(3)], 1).round().astype(np.uint8)


def css_colours(values: list[float], low: float, high: float) -> list[tuple[str, str]]:
    """Background and text colour of each value, from red at `low` < 0 over white to blue at `high` > 0; nan is grey."""
    up, down = ramp(POSITIVE), ramp(NEGATIVE)
    colours = []
    for value in values:
        if not np.isfinite(value):
            colours.append(("#e4e7ec", "#1f2430"))
            continue
        share = min(abs(value) / abs(high if value >= 0 else low), 1.0)
        r, g, b = (up if value >= 0 else down)[round(share * 255)].tolist()
        dark = 0.299 * r + 0.587 * g + 0.114 * b < 140
        colours.append((f"#{r:02x}{g:02x}{b:02x}", "#ffffff" if dark else "#1f2430"))
    return colours


def as_bytes(values: Float[Tensor, "*axes"], largest: float) -> UInt8[np.ndarray, "*axes"]:
    """Values from 0 to `largest` as bytes; the error is at most largest / 510."""
    return (values.double().clamp(0, largest) / largest * 255).round().to(dtype=torch.uint8).numpy()


def heat_map(values: UInt8[np.ndarray, "dest_pos src_pos"], *, causal: bool) -> str:
    """A PNG of bytes as a data address, a pixel for each; without any imaging library."""
    palette = np.concatenate([ramp(POSITIVE, 255), np.array([MASKED], np.uint8)])
    shades = np.minimum(values, 254)
    if causal:
        shades = np.where(np.tri(*values.shape, dtype=bool), shades, 255).astype(np.uint8)
    height, width = values.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), shades], 1).tobytes()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        png += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return "data:image/png;base64," + base64.b64encode(png).decode()
