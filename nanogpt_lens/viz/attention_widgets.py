"""Attention as widgets: CircuitsVis' charts for a few small heads, our canvas for more."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import Result
from nanogpt_lens.viz.choosing import finite, one_example, own_numbers, places
from nanogpt_lens.viz.colours import POSITIVE, as_bytes, heat_map
from nanogpt_lens.viz.style import ACCENT, EDGE, FONT, RUST
from nanogpt_lens.viz.tokens import harmless, visible
from nanogpt_lens.viz.widget import Widget

CANVAS_ABOVE = 25_000
"""Cells (heads x T^2) above which a canvas draws: CircuitsVis makes a chart element of each, 22 s for 12 x 128^2."""

Engine = Literal["auto", "circuitsvis", "canvas"]

_SLACK = 1e-3  # half precision's rounding


def attention_heads(
    patterns: Result,
    *,
    layer: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    example: int = 0,
    engine: Engine = "auto",
    max_value: float = 1.0,
) -> Widget:
    """A small picture of every head; the one chosen is shown large.

    Args:
        patterns: attention [layer, head, dest_pos, src_pos], with or without `example` in front; or a rollout or a
            flow [layer, dest_pos, src_pos], or one matrix [dest_pos, src_pos].
        layer: the layers' own numbers; None for all.
        head: heads of each of these layers; None for all.
        example: which text.
        engine: "circuitsvis", "canvas", or "auto": the canvas above `CANVAS_ABOVE` cells.
        max_value: the attention that has the full colour; numbers are shown as they are.

    Raises:
        ResultError: no such layer, head, example or engine, no attention in the result, or values that are none.
    """
    chosen = _matrices(patterns, layer, head, example)
    return _widget("AttentionHeads", patterns, chosen, engine, max_value, example)


def attention_pattern(
    patterns: Result,
    *,
    layer: int = 0,
    head: int = 0,
    example: int = 0,
    engine: Engine = "auto",
    max_value: float = 1.0,
) -> Widget:
    """One head's attention, large.

    Args:
        patterns, example, engine, max_value: see `attention_heads`.
        layer: the layer's own number.
        head: which head of it.

    Raises:
        ResultError: see `attention_heads`.
    """
    chosen = _matrices(patterns, layer, head if "head" in patterns.axes else None, example)
    return _widget("AttentionPattern", patterns, chosen, engine, max_value, example)


def _matrices(patterns: Result, layer: Any, head: Any, example: int) -> dict[str, Float[Tensor, "dest_pos src_pos"]]:
    """The attention of each head or layer chosen, by name."""
    if patterns.axes[-2:] != ("dest_pos", "src_pos"):
        raise ResultError(
            f"the result has the axes {', '.join(patterns.axes)}; expected dest_pos and src_pos last, as attention has"
        )
    values = one_example(patterns, patterns.values, example)
    axes = [axis for axis in patterns.axes if axis != "example"]
    with_heads = "head" in axes and "layer" in axes
    if head is not None and not with_heads:
        raise ResultError("the result has no axis head; leave head out")
    if "layer" not in axes:
        return {patterns.quantity: values}
    numbers = own_numbers(patterns, "layer")
    layers = places(layer, numbers, "layer")
    if not with_heads:
        return {f"after layer {numbers[i]}": values[i] for i in layers}
    heads = places(head, range(patterns.shape["head"]), "head")
    return {f"{numbers[i]}.{j}": values[i, j] for i in layers for j in heads}


def _widget(
    component: str,
    patterns: Result,
    chosen: dict[str, Float[Tensor, "dest_pos src_pos"]],
    engine: Engine,
    max_value: float,
    example: int,
) -> Widget:
    if engine not in get_args(Engine):
        raise ResultError(f"engine is {engine!r}; expected {', '.join(get_args(Engine))}")
    number = isinstance(max_value, int | float) and not isinstance(max_value, bool) and math.isfinite(max_value)
    if not chosen or not number or not max_value > 0:
        raise ResultError(f"{len(chosen)} heads and max_value {max_value!r}; expected at least one, and more than 0")
    size = next(iter(chosen.values())).shape[-1]
    tokens = _tokens(patterns, size, example)
    every = finite(torch.stack(list(chosen.values())), patterns.quantity)
    if every.min() < -_SLACK or every.max() > 1 + _SLACK:
        raise ResultError(
            f"the values go from {float(every.min()):.4g} to {float(every.max()):.4g}; expected attention, from 0 "
            "to 1: draw other values with .plot()"
        )
    causal = bool((every.triu(1) == 0).all())
    names = list(chosen)
    canvas = engine == "canvas" or (engine == "auto" and every.numel() > CANVAS_ABOVE)
    caption = _caption(patterns, names, size, max_value, causal)
    static = _static(as_bytes(every, max_value), names, tokens, causal)
    if canvas:
        return Widget(
            component="attention",
            props=_canvas_props(every, names, tokens, causal, max_value),
            static=static,
            caption=caption,
            height=900 if len(names) > 1 else 760,
        )
    rounded = [[[round(v, 3) for v in row] for row in matrix] for matrix in every.double().tolist()]
    labels = [harmless(token, longest=14) for token in tokens]
    common = {
        "positiveColor": ACCENT,
        "negativeColor": RUST,
        "tokens": labels,
        "maxValue": max_value,
        "minValue": -max_value,
        "maskUpperTri": causal,
    }
    if component == "AttentionPattern":
        props = {"attention": rounded[0], "showAxisLabels": True, "zoomed": True, **common}
    else:
        props = {"attention": rounded, "attentionHeadNames": [harmless(name, spaces=False) for name in names], **common}
    height = 320 + min(100 * size, 600)
    return Widget(component=component, props=props, static=static, caption=caption, height=height)


def _tokens(patterns: Result, size: int, example: int) -> list[str]:
    """The text of every position; numbers where there is none."""
    labels = patterns.labels.get("src_pos") or patterns.labels.get("dest_pos")
    if labels:
        return list(labels)
    tokens = getattr(patterns, "tokens", None)
    if isinstance(tokens, Tensor):
        return [str(token) for token in (tokens[example] if tokens.dim() == 2 else tokens).tolist()]
    return [str(i) for i in range(size)]


def _canvas_props(
    every: Float[Tensor, "head dest_pos src_pos"], names: list[str], tokens: list[str], causal: bool, max_value: float
) -> dict[str, Any]:
    """What the canvas draws: bytes of the lower triangle, row after row, head after head.

    Without a causal mask they are those of all cells.

    A byte of 255 is `largest`, the largest attention shown; `max` is the attention that has the full colour.
    """
    size, largest = every.shape[-1], max(float(every.max()), 1e-7)
    shades = as_bytes(every, largest)
    kept = shades[:, np.tri(size, dtype=bool)] if causal else shades
    return {
        "values": base64.b64encode(kept.tobytes()).decode(),
        "size": size,
        "causal": causal,
        "largest": largest,
        "max": max_value,
        "names": [visible(name, spaces=False) for name in names],
        "tokens": [visible(token, longest=14) for token in tokens],
        "anchors": [list(colour) for colour in POSITIVE],
    }


def _static(
    shades: UInt8[np.ndarray, "head dest_pos src_pos"], names: list[str], tokens: list[str], causal: bool
) -> str:
    """HTML that needs no script: every head as a picture with its name, and the text."""
    width = 110 if len(names) > 1 else 360
    pictures = "".join(
        f'<figure style="margin:0;width:{width}px"><img alt="attention of {html.escape(visible(name, spaces=False))}: '
        f'destination down, source across" src="{heat_map(matrix, causal=causal)}" style="width:100%;display:block;'
        f'border:1px solid {EDGE};image-rendering:pixelated"><figcaption style="font:12px {FONT}">'
        f"{html.escape(visible(name, spaces=False))}</figcaption></figure>"
        for name, matrix in zip(names, shades, strict=True)
    )
    text = html.escape(" | ".join(visible(token, longest=14) for token in tokens))
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{pictures}</div>'
        f'<p style="font:12px/1.5 {FONT};overflow-wrap:anywhere">Tokens, from left to right and from top to bottom: '
        f"{text}</p>"
    )


def _caption(patterns: Result, names: list[str], size: int, max_value: float, causal: bool) -> str:
    """What the rows, columns and colours mean."""
    what = f"{len(names)} heads (layer.head)" if len(names) > 1 else names[0]
    mask = "; grey: later than the destination, masked" if causal else ""
    return (
        f"{patterns.quantity}: {what}, {size} tokens; a row is a destination, a column a source, from white (0) "
        f"to blue ({max_value:g}){mask}. {patterns.explanation()}"
    )
