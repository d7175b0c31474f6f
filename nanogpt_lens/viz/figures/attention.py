"""Attention: every head small, one head large with its tokens, rollout; and the ways through all layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import plotly.graph_objects as go
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.heads import AttentionPatterns
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import counted, largest_of
from nanogpt_lens.viz.figures.flow import through_layers
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map, heat_maps
from nanogpt_lens.viz.figures.labels import index_of, places, spot, title_of, words
from nanogpt_lens.viz.figures.numbers import plain
from nanogpt_lens.viz.tokens import harmless

_MOST_HEADS = 48
_TOKENS = 14  # so many stand at the axes of small maps; of more some, at the outer axes alone
_COLUMNS, _SOME = 4, 7  # of maps with more tokens: beside each other; tokens at an axis
_HOVER = "Query %{y}, key %{x}"


def patterns(
    result: AttentionPatterns,
    *,
    layer: int | str | None = None,
    head: int | str | None = None,
    example: int = 0,
    kind: Literal["heads", "rollout"] = "heads",
    pos: int | str = -1,
    residual: float = 0.5,
    links: int = 40,
) -> Drawing:
    """Attention of all heads, of a layer's heads, or of one head with its tokens; or the strongest ways as a Sankey.

    Args:
        result: of one text or several.
        layer: only this one; with `head`, one large heat map.
        head: of the layer; without one, of the first.
        example: which text.
        kind: "heads", or "rollout": a Sankey from a position back through all layers to the input tokens.
        pos: the position at which the rollout ends.
        residual: weight of the residual stream, as in `ngl.attention_rollout`.
        links: how many of the strongest links are drawn.

    Raises:
        ResultError: another kind, or a place that is not there.
    """
    kind = "rollout" if kind == "flow" else kind  # its name in the first notebooks
    one_of("kind", kind, ("heads", "rollout"))
    fixed = {"example": index_of(result, "example", example)} if "example" in result.axes else {}
    if kind == "rollout":
        return through_layers(result, fixed.get("example"), pos, residual, count("links", links))
    notes = [f"Example {fixed['example']} of {result.shape['example']}"] if fixed else []
    if head is not None:
        at = index_of(result, "layer", 0 if layer is None else layer)
        one = {**fixed, "layer": at, "head": index_of(result, "head", head)}
        name = f"{result.layers[at]}.{one['head']}"
        title = _looks_at({name: _matrix(result, one)}) or f"Attention of head {name}"
        return _large(result, one, title=title, unit="attention, 0 to 1", notes=notes)
    layers = range(result.shape["layer"]) if layer is None else [index_of(result, "layer", layer)]
    heads = result.shape["head"]
    if len(layers) * heads > _MOST_HEADS:
        n = max(1, _MOST_HEADS // heads)
        notes.append(f"The first {n} of {len(layers)} layers; others by layer=")
        layers = layers[:n]
    maps = []
    for i in layers:
        for j in range(heads):
            called = f"{result.layers[i]}.{j}"
            maps.append(_map(result, {**fixed, "layer": i, "head": j}, called, "attention", f"Head {called}. "))
    few = result.shape["src_pos"] <= _TOKENS
    drawing = heat_maps(
        maps,
        title=_looks_at({m.name: m.z for m in maps}) or f"Attention of {counted(len(maps), 'head')}",
        unit="attention, 0 to 1; rows: query, columns: key",
        x_title="",
        y_title="",
        signed=False,
        top=1.0,
        columns=3 if few else _COLUMNS,
        each=(116 if few else 120),
        ticks=few,
        notes=notes,
    )
    if few:
        _put_tokens(drawing.figure, result, fixed.get("example", 0))
        return replace(drawing, left=22, right=8, below=24)
    _put_some_tokens(drawing.figure, result, fixed.get("example", 0), len(maps))
    return replace(drawing, left=48, right=8, below=40)


def _put_tokens(figure: go.Figure, result: AttentionPatterns, example: int) -> None:
    """Tokens at the small maps' axes, without their numbers."""
    labels = list(result.labels.get("src_pos", ()))
    short = [harmless(label, longest=3) for label in labels] or [str(i) for i in range(result.shape["src_pos"])]
    size = 9 if len(short) <= 12 else 8
    every = places(result, "src_pos")
    look = {"tickmode": "array", "tickvals": every, "ticktext": short, "tickfont": {"size": size}, "ticks": ""}
    names = [key for key in figure.layout.to_plotly_json() if key[1:].startswith("axis")]
    figure.update_layout(dict.fromkeys(names, look))


def _put_some_tokens(figure: go.Figure, result: AttentionPatterns, example: int, n: int) -> None:
    """Some tokens, at even distances, at the left of the first column and below the last map of each column."""
    every = places(result, "src_pos")
    kept = range(0, len(every), -(-len(every) // _SOME))
    tokens = result.labels.get("src_pos")
    short = [harmless(tokens[i], longest=3) if tokens else str(i) for i in kept]
    look = {
        "showticklabels": True, "tickmode": "array", "tickvals": [every[i] for i in kept], "ticktext": short,
        "tickfont": {"size": 9}, "tickangle": 0, "ticks": "outside", "ticklen": 2,
    }  # fmt: skip
    beside = look | {"ticktext": [f"{i} {one}" for i, one in zip(kept, short, strict=True)] if tokens else short}
    figure.update_traces(xgap=0, ygap=0)  # which would cover half of so small a cell
    for i in range(n):
        number = "" if i == 0 else str(i + 1)
        if i % _COLUMNS == 0:
            figure.update_layout({f"yaxis{number}": beside})
        if i + _COLUMNS >= n:
            figure.update_layout({f"xaxis{number}": look})


def _looks_at(heads: dict[str, Float[Tensor, "dest_pos src_pos"]]) -> str:
    """Which head looks most at one kind of place: the token before, the first one, itself; "" for a short text."""
    found = []
    for name, values in heads.items():
        each = values.double()
        if len(each) < 4:
            return ""
        for what, share in (
            ("the token before", each.diagonal(-1).mean()),
            ("the first token", each[1:, 0].mean()),
            ("the token itself", each.diagonal()[1:].mean()),
        ):
            found.append((float(share.nan_to_num(-1)), name, what))
    share, name, what = max(found)
    return f"Head {name} looks most at {what}: {share:.0%} of its attention" if 0 <= share <= 1 else ""


def mixed(result: Result, *, layer: int | str | None = None, example: int = 0) -> Drawing:
    """Rollout, or flow from every position: how much of each position comes from each input token.

    Args:
        result: values [layer, dest_pos, src_pos], perhaps with `example`, or without `layer`.
        layer: after which layer; None for the last.
        example: which text.

    Raises:
        ResultError: a place that is not there.
    """
    fixed, notes = {}, []
    if "example" in result.axes:
        fixed["example"] = index_of(result, "example", example)
        notes.append(f"Example {fixed['example']} of {result.shape['example']}")
    if "layer" in result.axes:
        fixed["layer"] = index_of(result, "layer", -1 if layer is None else layer)
        notes.append(f"After {spot(result, layer=fixed['layer'])}")
    elif layer is not None:
        index_of(result, "layer", layer)
    return _large(result, fixed, title=_mostly(result, fixed), unit=f"{words(result.quantity)}, 0 to 1", notes=notes)


def _mostly(result: Result, fixed: dict[str, int]) -> str:
    """From which input token most of the last position comes."""
    last = _matrix(result, fixed)[-1].double()
    best, tokens = largest_of(last), places(result, "src_pos")
    name = result.quantity.capitalize()
    if best is None or float(last.sum()) <= 0:
        return name
    return f"{name}: position {tokens[-1]} comes mostly from {tokens[best]}, {float(last[best] / last.sum()):.0%}"


def _large(result: Result, fixed: dict[str, int], *, title: str, unit: str, notes: list[str]) -> Drawing:
    picture = _map(result, fixed, "", unit, "")
    return heat_map(
        picture,
        top=1.0,
        title=title,
        unit=unit,
        x_title=title_of("src_pos", result),
        y_title=title_of("dest_pos", result),
        signed=False,
        notes=notes,
    )


def _map(result: Result, fixed: dict[str, int], name: str, what: str, before: str) -> Map:
    values = _matrix(result, fixed)
    causal = values.shape[0] > 1 and bool((values.triu(1) == 0).all())
    hidden = torch.ones_like(values, dtype=torch.bool).triu(1)  # by the causal mask: grey
    return Map(
        z=values.masked_fill(hidden, torch.nan) if causal else values,
        x=places(result, "src_pos"),
        y=places(result, "dest_pos"),
        downwards=True,
        grey="hidden by the causal mask",
        name=name,
        hover=f"{before}{_HOVER}: {plain(what)} %{{z:.4g}}.",
    )


def _matrix(result: Result, fixed: dict[str, Any]) -> Float[Tensor, "dest_pos src_pos"]:
    """The values at indices of all other axes."""
    axes, values = list(result.axes), result.values
    for axis, i in fixed.items():
        values = values.select(axes.index(axis), i)
        axes.remove(axis)
    return rearrange(values, f"{' '.join(axes)} -> dest_pos src_pos")
