"""Scores of heads, layer by head: one score, several, and the taxonomy with the heads that carry a name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.heads import HeadTaxonomy
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, is_signed, one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import beside_chance, counted, extremes, said, surely_beyond
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map, heat_maps
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import bar_chart, downwards
from nanogpt_lens.viz.figures.numbers import Measured, bounds, facts, plain

_BARS = 20
_CELLS = 12  # up to so many rows and columns the values stand in the cells


def scores(result: Result, *, kind: Literal["heatmap", "bars"] = "heatmap", k: int | None = None) -> Drawing:
    """One score of every head.

    Args:
        result: values [layer, head].
        kind: "heatmap", or "bars": the `k` largest with their intervals.
        k: how many bars; None for 20.

    Raises:
        ResultError: another kind, or `k` for a heat map.
    """
    return _one(result, None, kind, k)


def several(
    result: Result, *, score: str | None = None, kind: Literal["heatmap", "bars"] = "heatmap", k: int | None = None
) -> Drawing:
    """Several scores of every head, a heat map each.

    Args:
        result: values [score, layer, head].
        score: only this one, large.
        kind: of the figure of one score, see `scores`.
        k: how many bars; None for 20.

    Raises:
        ResultError: no such score; bars, or `k`, of all of them.
    """
    if score is not None:
        return _one(result, score, kind, k)
    one_of("kind", kind, ("heatmap", "bars"))
    if kind == "bars" or k is not None:
        option = "kind='bars'" if kind == "bars" else f"k={k}"
        known = ", ".join(result.labels["score"])
        raise ResultError(f"{option} was given without score=: bars are of one score; expected score= one of {known}")
    names, units = result.labels["score"], result.units
    kept = panels(result)
    maps = [_map(result, {"score": i}, names[i], result.axes) for i in kept]
    low, high = bounds(result.values)
    mixed = len({units.get(name) for name in names}) > 1 or high > 1.05 or low < -1.05
    left_out = [
        f"{words(name)} is minus {words(names[j])}"
        for i, name in enumerate(names)
        if (j := opposite(result, i)) is not None
    ]
    return heat_maps(
        [_with_numbers(picture, large=False) for picture in maps],
        title=_strongest(result, kept, mixed),
        unit="score" if mixed else "score: white at chance",
        x_title="head",
        y_title="layer",
        signed=None if mixed else low < 0,
        scales=[_scale_of_panel(result, i) for i in kept] if mixed else [_scale(result, {"score": i}) for i in kept],
        notes=left_out,
    )


def opposite(result: Result, score: int) -> int | None:
    """The earlier score that a score is minus of; None for none."""
    axis = result.axes.index("score")
    mine = result.values.select(axis, score).double()
    for other in range(score):
        theirs = result.values.select(axis, other).double()
        if torch.allclose(mine, -theirs, atol=1e-9, equal_nan=True) and bool((mine.abs() > 1e-9).any()):
            return other
    return None


def panels(result: Result) -> list[int]:
    """The scores that have a map of their own: not those that are minus another."""
    return [i for i in range(result.shape["score"]) if opposite(result, i) is None]


def _strongest(result: Result, kept: list[int], mixed: bool) -> str:
    """The head that is furthest above chance, of all scores."""
    heads = result.shape["layer"] * result.shape["head"]
    chance = getattr(result, "chance", None)
    if mixed or chance is None:
        return f"{words(result.quantity).capitalize()} of {counted(heads, 'head')}"
    every = Measured.of(result).mapped(
        lambda tensor: torch.stack([_layer_by_head(result, tensor, {"score": i}, result.axes) for i in kept]).double()
    )
    above = every.values - torch.nan if every.chance is None else every.values - every.chance
    if not bool(above.isfinite().any()):
        return f"{words(result.quantity).capitalize()} of {counted(heads, 'head')}"
    beyond = None if every.chance is None else surely_beyond(every, every.chance)
    if beyond is not None:
        above = above.masked_fill(~beyond[0], torch.nan)
        if not bool(beyond[0].any()):
            return f"{words(result.quantity).capitalize()}: no head is surely above chance"
    i, layer, head = torch.unravel_index(above.nan_to_num(-torch.inf).argmax(), above.shape)
    value, name = float(every.values[i, layer, head]), words(result.labels["score"][kept[int(i)]])
    place = f"{places(result, 'layer')[int(layer)]}.{places(result, 'head')[int(head)]}"
    return f"Furthest above chance: {name} of head {place}, {said(value)}"


def _scale_of_panel(result: Result, score: int) -> dict[str, Any]:
    """The colour axis of one of several scores with different units."""
    low, high = bounds(_slice_of(result.values, result, {"score": score}))
    unit = result.unit_of(result.labels["score"][score])
    if low >= -1 and high <= 1 and unit in ("", "attention", "share"):
        return _scale(result, {"score": score})
    return style.colours(low, style.readable_end(max(high, -low)), signed=low < 0 < high)


def _scale(result: Result, selection: dict[str, int]) -> dict[str, Any]:
    """The colour axis of a share or a score from -1 to 1: white at chance, where that is known."""
    low = bounds(_slice_of(result.values, result, selection))[0]
    chance = getattr(result, "chance", None)
    level = math.nan if chance is None else float(_slice_of(chance, result, selection).double().nanmean())
    least = -1.0 if is_signed(result, low) else 0.0
    if least < 0:
        return style.beside_chance(level if level == level else 0.0, low=-1.0, high=1.0)
    beside = 0.0 <= level < 1.0  # a score that chance makes 1, as uniform attention does `broad`, has no room above it
    return style.beside_chance(level) if beside else style.colours(0.0, 1.0, signed=False)


def taxonomy(
    result: HeadTaxonomy,
    *,
    score: str | None = None,
    kind: Literal["heatmap", "bars"] = "heatmap",
    k: int | None = None,
) -> Drawing:
    """The figure of `several`; heads with the name are framed, dotted those that a high score did not name."""
    drawing = replace(several(result, score=score, kind=kind, k=k), intervals_told=True)
    if kind == "bars":
        return drawing
    shown = panels(result) if score is None else [score_of(result, score)]
    layer, head = result.axes.index("layer") - 1, result.axes.index("head") - 1
    for panel, i in enumerate(shown):
        theirs = [i, *(j for j in range(result.shape["score"]) if score is None and opposite(result, j) == i)]
        named = torch.stack([result.carries[j] for j in theirs]).any(0)
        high = torch.stack([result.values[j] > result.least[result.labels["score"][j]] for j in theirs]).any(0)
        for place in (named | high).nonzero().tolist():
            y, x = place[layer], place[head]
            carries = bool(named[tuple(place)])
            which = str(panel + 1) if panel else ""
            drawing.figure.add_shape(
                type="rect",
                x0=x - 0.46,
                x1=x + 0.46,
                y0=y - 0.46,
                y1=y + 0.46,
                xref=f"x{which}",
                yref=f"y{which}",
                line={"color": style.INK, "width": 2.5, "dash": "solid" if carries else "dot"},
                name="carries" if carries else "unnamed",
            )
    unnamed = [one for one in result.unnamed() if score in (None, one[0])]
    told = ["Framed: the head carries the name"]
    if unnamed:
        told.append(f"Dotted: a high score that does not earn it, {len(unnamed)} times; .table() says why")
    title = _names_of(result) if score is None else drawing.title
    return replace(drawing, notes=(*told, *drawing.notes), title=title)


def _names_of(result: HeadTaxonomy) -> str:
    """How many heads carry which name."""
    total, named = result.carries[0].numel(), int(result.carries.any(0).sum())
    if not named:
        return f"None of {counted(total, 'head')} carries a name"
    layer, head = result.axes.index("layer") - 1, result.axes.index("head") - 1
    parts = []
    for i, name in enumerate(result.labels["score"]):
        heads = [
            f"{places(result, 'layer')[p[layer]]}.{places(result, 'head')[p[head]]}"
            for p in result.carries[i].nonzero().tolist()
        ]
        if heads:
            parts.append(f"{words(name)} ({f'head {heads[0]}' if len(heads) == 1 else f'{len(heads)} heads'})")
    return f"{named} of {counted(total, 'head')} {'carries' if named == 1 else 'carry'} a name: {', '.join(parts)}"


def _one(result: Result, score: str | None, kind: str, k: int | None) -> Drawing:
    one_of("kind", kind, ("heatmap", "bars"))
    if kind == "heatmap" and k is not None:
        raise ResultError(f"k={k} was given, but a heat map shows every head; expected kind='bars' as well")
    selection = {} if score is None else {"score": score_of(result, score)}
    name, unit = (result.quantity, "") if score is None else (score, result.units.get(score, ""))
    axes = tuple(axis for axis in result.axes if axis not in selection)
    picture = _with_numbers(_map(result, selection, name, axes), large=True)
    low, high = bounds(picture.z)
    definition = result.explanation(score)
    title = _finding(result, selection, axes, words(result.heading if score is None else score).capitalize())
    called = words(name) + (f" ({unit})" if unit else "")
    if kind == "bars":
        return _bars(
            result, selection, axes, _BARS if k is None else k, title=title, unit=called, definition=definition
        )
    return heat_map(
        picture,
        title=title,
        unit=called,
        x_title="head",
        y_title="layer",
        signed=is_signed(result, low),
        scale=_scale_of_one(result, selection, score, low, high),
        definition=definition,
        notes=_chance_notes(result, selection),
    )


def _finding(result: Result, selection: dict[str, int], axes: tuple[str, ...], what: str) -> str:
    """The title of one score."""
    numbers = Measured.of(result).mapped(lambda tensor: _layer_by_head(result, tensor, selection, axes))
    names = [f"{row}.{head}" for row in places(result, "layer") for head in places(result, "head")]
    flat = numbers.mapped(lambda tensor: tensor.flatten())
    low = bounds(flat.values)[0]
    if numbers.has_chance and not is_signed(result, low):
        return beside_chance(names, flat, what=what)
    return extremes([f"head {name}" for name in names], flat, what=what, signed=is_signed(result, low))


def _scale_of_one(
    result: Result, selection: dict[str, int], score: str | None, low: float, high: float
) -> dict[str, Any] | None:
    """The colour axis of one score: a share's, a cost's, or None for what the values say."""
    unit = result.unit if score is None else result.unit_of(score)
    if unit.startswith("nats") and is_signed(result, low):
        low_, high_ = (getattr(result, end, None) for end in ("low", "high"))
        noise = 0.0 if low_ is None or high_ is None else float((high_ - low_).double().nanmedian()) / 2
        return style.colours(0.0, style.readable_end(high, noise), signed=False, cost=True)
    if low >= -1 and high <= 1 and unit in ("", "attention", "share"):
        return _scale(result, selection)
    return None


def _bars(
    result: Result, selection: dict[str, int], axes: tuple[str, ...], k: int, *, title: str, unit: str, definition: str
) -> Drawing:
    flat = Measured.of(result).mapped(lambda tensor: _layer_by_head(result, tensor, selection, axes).flatten())
    names = [f"{row}.{head}" for row in places(result, "layer") for head in places(result, "head")]
    order = flat.values.abs().nan_to_num(-1).argsort(descending=True, stable=True)[: count("k", k)]
    order = order[downwards(flat.values[order])]
    notes = [f"The {len(order)} heads with the largest magnitude, of {len(names)}"] if len(order) < len(names) else []
    return bar_chart(
        [names[i] for i in order.tolist()],
        flat.at(order),
        title=title,
        unit=unit,
        what="head",
        definition=definition,
        notes=notes,
    )


def _map(result: Result, selection: dict[str, int], name: str, axes: tuple[str, ...]) -> Map:
    kept = tuple(axis for axis in axes if axis not in selection)
    others = {
        other: _layer_by_head(result, tensor, selection, kept)
        for other in ("low", "high", "chance", "threshold")
        if (tensor := getattr(result, other, None)) is not None
    }
    data, told = facts(others.pop("low", None), others.pop("high", None), **others)
    behind = f" {result.units[name]}" if selection and name in result.units else ""
    return Map(
        z=_layer_by_head(result, result.values, selection, kept),
        x=places(result, "head"),
        y=places(result, "layer"),
        data=data,
        hover=f"Head %{{y}}.%{{x}}: {plain(words(name))} %{{z:.4g}}{behind}{told}.",
        name=name,
    )


def _with_numbers(picture: Map, *, large: bool) -> Map:
    """The map with numbers in its cells, if these are few enough."""
    small = max(picture.z.shape) <= (_CELLS if large else 6)
    largest = float(picture.z.abs().nan_to_num(0).max())
    return replace(picture, number=(".2f" if largest < 100 and largest >= 0.01 else ".2g") if small else "")


def _layer_by_head(
    result: Result, tensor: Shaped[Tensor, "*axes"], selection: dict[str, int], axes: tuple[str, ...]
) -> Shaped[Tensor, "layer head"]:
    """A tensor of the result's axes at indices of some of them."""
    kept = " ".join(axis for axis in axes if axis not in selection)
    return rearrange(_slice_of(tensor, result, selection), f"{kept} -> layer head")


def _chance_notes(result: Result, selection: dict[str, int]) -> list[str]:
    """What the caption says of chance; nothing where it is not known."""
    chance = getattr(result, "chance", None)
    if chance is None:
        return []
    low, high = bounds(_slice_of(chance, result, selection))
    if low != low:
        return []
    return [f"Chance: {low:.3g}" if abs(high - low) < 1e-9 else f"Chance: {low:.3g} to {high:.3g}"]


def _slice_of(tensor: Shaped[Tensor, "*axes"], result: Result, selection: dict[str, int]) -> Shaped[Tensor, " ..."]:
    """A tensor of the result's axes at indices of some of them."""
    for axis in sorted(selection, key=result.axes.index, reverse=True):
        tensor = tensor.select(result.axes.index(axis), selection[axis])
    return tensor
