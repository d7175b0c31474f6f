"""Scores of heads, layer by head: one score, several, and the taxonomy with the heads that carry a name."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.heads import HeadTaxonomy
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, is_signed, one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map, heat_maps
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import downwards, ranked
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
        given = "kind='bars'" if kind == "bars" else f"k={k}"
        known = ", ".join(result.labels["score"])
        raise ResultError(f"{given} was given without score=: bars are of one score; expected score= one of {known}")
    names, units = result.labels["score"], result.units
    maps = [_map(result, {"score": i}, name, result.axes) for i, name in enumerate(names)]
    low, high = bounds(result.values)
    mixed = len({units.get(name) for name in names}) > 1 or high > 1.05 or low < -1.05
    return heat_maps(
        [_marked(shown, numbers=False) for shown in maps],
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
    """As `several`; heads that carry the name are framed."""
    drawing = replace(several(result, score=score, kind=kind, k=k), intervals_told=True)
    if kind == "bars":
        return drawing
    shown = range(result.shape["score"]) if score is None else [score_of(result, score)]
    layer, head = result.axes.index("layer") - 1, result.axes.index("head") - 1
    for panel, i in enumerate(shown):
        for place in result.carries[i].nonzero().tolist():
            y, x = place[layer], place[head]
            which = str(panel + 1) if panel else ""
            drawing.figure.add_shape(
                type="rect",
                x0=x - 0.46,
                x1=x + 0.46,
                y0=y - 0.46,
                y1=y + 0.46,
                xref=f"x{which}",
                yref=f"y{which}",
                line={"color": style.CATEGORIES[1], "width": 3},
                name="carries",
            )
    named = int(result.carries.any(0).sum())
    said = f"Framed: the head carries the name ({named} of {result.carries[0].numel()} heads carry one or more)"
    return _with_notes(drawing, said, title="Head taxonomy" if score is None else None)


def _with_notes(drawing: Drawing, *notes: str, title: str | None) -> Drawing:
    return replace(drawing, notes=(*notes, *drawing.notes), title=title or drawing.title)


def _one(result: Result, score: str | None, kind: str, k: int | None) -> Drawing:
    one_of("kind", kind, ("heatmap", "bars"))
    if kind == "heatmap" and k is not None:
        raise ResultError(f"k={k} was given, but a heat map shows every head; expected kind='bars' as well")
    where = {} if score is None else {"score": score_of(result, score)}
    name, unit = (result.quantity, "") if score is None else (score, result.units.get(score, ""))
    axes = tuple(axis for axis in result.axes if axis not in where)
    shown = _marked(_map(result, where, name, axes), numbers=True)
    low, high = bounds(shown.z)
    definition = result.explanation(score)
    title = f"{words(result.heading).capitalize()} of each head" if score is None else f"Head scores: {words(score)}"
    called = words(name) + (f" ({unit})" if unit else "")
    if kind == "bars":
        return _bars(result, where, axes, _BARS if k is None else k, title=title, unit=called, definition=definition)
    fraction = low >= 0 and high <= 1 and not unit and not is_signed(result, low)
    return heat_map(
        shown,
        title=title,
        unit=called,
        x_title="head",
        y_title="layer",
        signed=is_signed(result, low),
        top=1.0 if fraction and high > 0.5 else None,
        definition=definition,
        notes=_chance_notes(result, where),
    )


def _bars(
    result: Result, where: dict[str, int], axes: tuple[str, ...], k: int, *, title: str, unit: str, definition: str
) -> Drawing:
    flat = Measured.of(result).mapped(lambda tensor: _oriented(result, tensor, where, axes).flatten())
    names = [f"{row}.{head}" for row in places(result, "layer") for head in places(result, "head")]
    order = flat.values.abs().nan_to_num(-1).argsort(descending=True, stable=True)[: count("k", k)]
    order = order[downwards(flat.values[order])]
    notes = [f"The {len(order)} heads with the largest magnitude, of {len(names)}"] if len(order) < len(names) else []
    return ranked(
        [names[i] for i in order.tolist()],
        flat.at(order),
        title=title,
        unit=unit,
        what="head",
        definition=definition,
        notes=notes,
    )


def _map(result: Result, where: dict[str, int], name: str, axes: tuple[str, ...]) -> Map:
    kept = tuple(axis for axis in axes if axis not in where)
    given = {
        other: _oriented(result, tensor, where, kept)
        for other in ("low", "high", "chance", "threshold")
        if (tensor := getattr(result, other, None)) is not None
    }
    data, said = facts(given.pop("low", None), given.pop("high", None), **given)
    behind = f" {result.units[name]}" if where and name in result.units else ""
    return Map(
        z=_oriented(result, result.values, where, kept),
        x=places(result, "head"),
        y=places(result, "layer"),
        data=data,
        hover=f"Head %{{y}}.%{{x}}: {plain(words(name))} %{{z:.4g}}{behind}{said}.",
        name=name,
    )


def _marked(shown: Map, *, numbers: bool) -> Map:
    small = max(shown.z.shape) <= (_CELLS if numbers else 6)
    largest = float(shown.z.abs().nan_to_num(0).max())
    return replace(shown, number=(".2f" if largest < 100 and largest >= 0.05 else ".2g") if small else "")


def _oriented(result: Result, tensor: Tensor, where: dict[str, int], axes: tuple[str, ...]) -> Tensor:
    """A tensor of the result's axes at indices of some of them, [layer, head]."""
    picked = _selected(tensor, result, where)
    kept = tuple(axis for axis in axes if axis not in where)
    return picked if kept.index("layer") < kept.index("head") else picked.mT


def _chance_notes(result: Result, where: dict[str, int]) -> list[str]:
    chance = getattr(result, "chance", None)
    if chance is None:
        return []
    low, high = bounds(_selected(chance, result, where))
    if low != low:
        return []
    return [f"Chance: {low:.3g}" if abs(high - low) < 1e-9 else f"Chance: {low:.3g} to {high:.3g}"]


def _selected(tensor: Tensor, result: Result, where: dict[str, int]) -> Tensor:
    for axis in sorted(where, key=result.axes.index, reverse=True):
        tensor = tensor.select(result.axes.index(axis), where[axis])
    return tensor
