"""Colours of values outside of figures, by the palette: coloured tokens, and attention as a picture of pixels."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nanogpt_lens.viz import style
from nanogpt_lens.viz.shades import contrast, in_the_dark

Kind: TypeAlias = Literal["signed", "share", "cost"]
"""What values are: with a sign (rust and teal), from zero (blue), or what something costs (amber)."""

Anchors: TypeAlias = tuple[tuple[int, int, int], ...]


def anchors(colours: tuple[str, ...]) -> Anchors:
    """Colours such as "#2b62d9" as red, green and blue from 0 to 255."""
    return tuple((int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for c in colours)


POSITIVE = anchors(style.SEQUENTIAL)
"""Attention: white to blue."""

MASKED = anchors((style.MISSING,))[0]
"""The grey of what a causal mask hides."""

_ABOVE = {"signed": style.DIVERGING[6:], "share": style.SEQUENTIAL, "cost": style.COST}
_BELOW = style.DIVERGING[6::-1]


def ramp(anchors: Anchors, steps: int = 256) -> UInt8[np.ndarray, "step 3"]:
    """Red, green and blue from 0 to 255, linear between the anchors."""
    places = np.linspace(0, len(anchors) - 1, steps)
    table = np.array(anchors, dtype=float)
    return np.stack([np.interp(places, range(len(anchors)), table[:, c]) for c in range(3)], 1).round().astype(np.uint8)


def css_colours(
    values: list[float], low: float, high: float, *, kind: Kind = "signed", dark: bool = False
) -> list[tuple[str, str]]:
    """Background and letters of each value: what is below zero is rust at `low`; nan is grey.

    Args:
        values: in any order.
        low, high: below and above zero, where the colours are full.
        kind: what stands above zero.
        dark: whether for a dark page.
    """

    def theirs(colours: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(in_the_dark(c) for c in colours) if dark else colours

    up, down = ramp(anchors(theirs(_ABOVE[kind]))), ramp(anchors(theirs(_BELOW)))
    pale, deep = ("#ffffff", "#000102") if dark else (style.INK, "#ffffff")
    colours = []
    for value in values:
        if not np.isfinite(value):
            colours.append((theirs((style.CELL,))[0], theirs((style.INK,))[0]))
            continue
        share = min(abs(value) / abs(high if value >= 0 else low), 1.0)
        r, g, b = (up if value >= 0 else down)[round(share * 255)].tolist()
        back = f"#{r:02x}{g:02x}{b:02x}"
        colours.append((back, max((pale, deep, "#000102"), key=lambda ink: min(contrast(ink, back), 4.5))))
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
