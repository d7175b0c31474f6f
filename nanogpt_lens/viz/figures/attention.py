"""Attention: every head small, one head large with its tokens, rollout; and the ways through all layers."""

from __future__ import annotations

from typing import Any, Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.heads import AttentionPatterns
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.flow import through_layers
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map, heat_maps
from nanogpt_lens.viz.figures.labels import index_of, places, spot, title_of, words
from nanogpt_lens.viz.figures.numbers import plain

_MOST_HEADS = 48
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
        return _large(result, one, title=f"Attention of head {name}", unit="attention probability", notes=notes)
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
    return heat_maps(
        maps,
        title="Attention of each head",
        unit="attention probability; rows: query, columns: key",
        x_title="",
        y_title="",
        signed=False,
        columns=4,
        each=120,
        ticks=False,
        notes=notes,
    )


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
    name = result.quantity.capitalize()
    return _large(result, fixed, title=name, unit=words(result.quantity), notes=notes)


def _large(result: Result, fixed: dict[str, int], *, title: str, unit: str, notes: list[str]) -> Drawing:
    picture = _map(result, fixed, "", unit, "")
    return heat_map(
        picture,
        title=title,
        unit=unit,
        x_title=title_of("src_pos", result),
        y_title=title_of("dest_pos", result),
        signed=False,
        notes=notes,
    )


def _map(result: Result, fixed: dict[str, int], name: str, what: str, before: str) -> Map:
    values = _matrix(result, fixed)
    return Map(
        z=values,
        x=places(result, "src_pos"),
        y=places(result, "dest_pos"),
        downwards=True,
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
