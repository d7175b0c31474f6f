"""Scores of heads, layer by head: one score, several, and the taxonomy with the heads that carry a name."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.heads import HeadTaxonomy
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, is_signed, one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map, heat_maps
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import bar_chart, downwards
from nanogpt_lens.viz.figures.numbers import Measured, bounds, facts, plain

_BARS = 20
_REASONS = 4  # so many are in a caption
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
    maps = [_map(result, {"score": i}, name, result.axes) for i, name in enumerate(names)]
    low, high = bounds(result.values)
    mixed = len({units.get(name) for name in names}) > 1 or high > 1.05 or low < -1.05
    return heat_maps(
        [_with_numbers(picture, large=False) for picture in maps],
        title=words(result.quantity).capitalize(),
        unit="score",
        x_title="head",
        y_title="layer",
        signed=None if mixed else low < 0,
        top=None if mixed else 1.0,
    )


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
    panels = range(result.shape["score"]) if score is None else [score_of(result, score)]
    layer, head = result.axes.index("layer") - 1, result.axes.index("head") - 1
    for panel, i in enumerate(panels):
        high = result.values[i] > result.least[result.labels["score"][i]]
        for place in (result.carries[i] | high).nonzero().tolist():
            y, x = place[layer], place[head]
            carries = bool(result.carries[i][tuple(place)])
            which = str(panel + 1) if panel else ""
            drawing.figure.add_shape(
                type="rect",
                x0=x - 0.46,
                x1=x + 0.46,
                y0=y - 0.46,
                y1=y + 0.46,
                xref=f"x{which}",
                yref=f"y{which}",
                line={"color": style.CATEGORIES[1], "width": 3, "dash": "solid" if carries else "dot"},
                name="carries" if carries else "unnamed",
            )
    named = int(result.carries.any(0).sum())
    said = f"Framed: the head carries the name ({named} of {result.carries[0].numel()} heads carry one or more)"
    shown = {result.labels["score"][i] for i in panels}
    unnamed = [one for one in result.unnamed() if one[0] in shown]
    why = [f"{layer}.{head} {words(name)} {reason}" for name, layer, head, reason in unnamed[:_REASONS]]
    more = f"; and {len(unnamed) - _REASONS} more, see .table()" if len(unnamed) > _REASONS else ""
    notes = (said, f"Dotted: a high score without the name: {'; '.join(why)}{more}") if unnamed else (said,)
    return _with_notes(drawing, *notes, title="Head taxonomy" if score is None else None)


def _with_notes(drawing: Drawing, *notes: str, title: str | None) -> Drawing:
    return replace(drawing, notes=(*notes, *drawing.notes), title=title or drawing.title)


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
    title = f"{words(result.heading).capitalize()} of each head" if score is None else f"Head scores: {words(score)}"
    called = words(name) + (f" ({unit})" if unit else "")
    if kind == "bars":
        return _bars(
            result, selection, axes, _BARS if k is None else k, title=title, unit=called, definition=definition
        )
    fraction = low >= 0 and high <= 1 and not unit and not is_signed(result, low)
    return heat_map(
        picture,
        title=title,
        unit=called,
        x_title="head",
        y_title="layer",
        signed=is_signed(result, low),
        top=1.0 if fraction and high > 0.5 else None,
        definition=definition,
        notes=_chance_notes(result, selection),
    )


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
    data, said = facts(others.pop("low", None), others.pop("high", None), **others)
    behind = f" {result.units[name]}" if selection and name in result.units else ""
    return Map(
        z=_layer_by_head(result, result.values, selection, kept),
        x=places(result, "head"),
        y=places(result, "layer"),
        data=data,
        hover=f"Head %{{y}}.%{{x}}: {plain(words(name))} %{{z:.4g}}{behind}{said}.",
        name=name,
    )


def _with_numbers(picture: Map, *, large: bool) -> Map:
    """The map with numbers in its cells, if these are few enough."""
    small = max(picture.z.shape) <= (_CELLS if large else 6)
    largest = float(picture.z.abs().nan_to_num(0).max())
    return replace(picture, number=(".2f" if largest < 100 and largest >= 0.05 else ".2g") if small else "")


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
