"""Results of many axes as a table: positions in columns, everything else in rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.viz.figures.labels import POSITIONS, distinct, index_of, places, spot, title_of

MOST_ROWS = 48
"""Beyond so many rows only the strongest are shown."""

_COLUMNS = ("src_pos", "pos", "dest_pos", "receiver", "head", "neuron", "token")
"""What goes into columns: the first of these axes that there is."""

_BESIDE = ("layer", "head", "neuron", "sender_layer", "sender_head")
"""Axes whose labels are short: several of them make one name, such as "0.1"."""


@dataclass(frozen=True)
class Layout:
    """How a result's axes become rows and columns.

    Attributes:
        rows: the axes in rows; columns: the axis in columns, None for none.
        x, y: distinct labels.
        notes: for the caption: what was chosen, what was left out.
    """

    axes: tuple[str, ...]
    fixed: Mapping[str, int]
    rows: tuple[str, ...]
    columns: str | None
    x: list[str]
    y: list[str]
    kept: Int[Tensor, " row"]
    notes: tuple[str, ...] = ()
    downwards: bool = False
    hover: str = "%{y}, %{x}"
    x_title: str = ""
    y_title: str = ""

    def rearranged(self, values: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "row column"]:
        """A tensor with the result's axes, as the table has it."""
        axes = list(self.axes)
        for axis, i in self.fixed.items():
            values = values.select(axes.index(axis), i)
            axes.remove(axis)
        order = [*self.rows, *([self.columns] if self.columns else [])]
        values = values.permute([axes.index(axis) for axis in order])
        width = values.shape[-1] if self.columns else 1
        return values.reshape(-1, width)[self.kept]


def title_of_all(result: Result, axes: tuple[str, ...]) -> str:
    """Several axes as one title: "layer.head"."""
    joint = "." if all(axis in _BESIDE for axis in axes) else ", "
    return joint.join(title_of(axis, result) for axis in axes)


def grid_of(result: Result, selection: Mapping[str, Any], *, strength: Shaped[Tensor, "*axes"]) -> Layout:
    """The table of a result.

    Args:
        result: with any axes.
        selection: indices or labels of axes that the user chose.
        strength: its magnitude decides what is shown where not all can be.

    Raises:
        ResultError: a place that is not there.
    """
    fixed = {axis: index_of(result, axis, place) for axis, place in selection.items() if place is not None}
    notes: list[str] = []
    if fixed:
        notes.append(f"Shown: {spot(result, **fixed)}")
    axes = [axis for axis in result.axes if axis not in fixed]
    alone = {axis: 0 for axis in axes if result.shape[axis] == 1 and len(axes) > 2}
    if alone:
        notes.append(f"All of {spot(result, **alone)}")
        fixed |= alone
        axes = [axis for axis in axes if axis not in alone]
    if "dest_pos" in axes and "src_pos" in axes and len(axes) > 2:
        rest = [axis for axis in axes if axis not in POSITIONS]
        chosen = _strongest(result.axes, fixed, strength, rest)
        notes.append(f"Shown: {spot(result, **chosen)}, where the effect is largest")
        fixed |= chosen
        axes = ["dest_pos", "src_pos"]
    columns = next((axis for axis in _COLUMNS if axis in axes), None) if len(axes) > 1 else None
    rows = tuple(axis for axis in axes if axis != columns)
    labels = _labels(result, rows)
    every = torch.arange(len(labels))
    grid = Layout(
        result.axes,
        fixed,
        rows,
        columns,
        places(result, columns) if columns else [""],
        labels,
        every,
        downwards=rows == ("dest_pos",),
        hover=_hover(result, rows, columns),
        x_title=title_of(columns, result) if columns else "",
        y_title=title_of_all(result, rows),
    )
    if len(labels) > MOST_ROWS and rows != ("dest_pos",):
        size = grid.rearranged(strength).abs().nan_to_num(-1).amax(1)
        kept = size.argsort(descending=True, stable=True)[:MOST_ROWS].sort().values
        notes.append(f"The {MOST_ROWS} rows with the largest magnitude, of {len(labels)}")
        grid = replace(grid, y=[labels[i] for i in kept.tolist()], kept=kept)
    return replace(grid, notes=tuple(notes))


def site_names(result: Result, selection: Mapping[str, Any]) -> tuple[list[str], str, Int[Tensor, " site"]]:
    """Every site's name, what such a name is made of, and the sites' places in the flattened values."""
    fixed = {axis: index_of(result, axis, place) for axis, place in selection.items() if place is not None}
    axes = tuple(axis for axis in result.axes if axis not in fixed)
    place = torch.arange(result.values.numel()).view(result.values.shape)
    for axis in sorted(fixed, key=result.axes.index, reverse=True):
        place = place.select(result.axes.index(axis), fixed[axis])
    units = tuple(axis for axis in axes if axis in _BESIDE)
    order = (*units, *(axis for axis in axes if axis not in units))
    place = place.permute([axes.index(axis) for axis in order])
    made_of = [title_of_all(result, units), *(title_of(axis, result) for axis in order[len(units) :])]
    return _labels(result, order), ", ".join(filter(None, made_of)), place.flatten()


def _labels(result: Result, axes: tuple[str, ...]) -> list[str]:
    """A label for each combination of places, the last axis fastest."""
    units = [i for i, axis in enumerate(axes) if axis in _BESIDE]
    each = [places(result, axis, longest=10) for axis in axes]
    labels = []
    for combination in product(*each):
        short = ".".join(combination[i] for i in units)
        labels.append(
            ", ".join([*([short] if short else []), *(c for i, c in enumerate(combination) if i not in units)])
        )
    return distinct(labels)


def _strongest(
    axes: tuple[str, ...], fixed: Mapping[str, int], strength: Shaped[Tensor, "*axes"], rest: list[str]
) -> dict[str, int]:
    """The indices of the axes `rest` at which the strongest of all values stands."""
    size, left = strength.abs().nan_to_num(-1), list(axes)
    for axis, i in fixed.items():
        size = size.select(left.index(axis), i)
        left.remove(axis)
    for axis in ("dest_pos", "src_pos"):
        size = size.amax(left.index(axis))
        left.remove(axis)
    place = torch.unravel_index(size.argmax(), size.shape)
    return {axis: int(i) for axis, i in zip(left, place, strict=True) if axis in rest}


def _hover(result: Result, rows: tuple[str, ...], columns: str | None) -> str:
    """The beginning of a hover text: row and column by name."""
    across = "position" if columns == "pos" else title_of(columns or "").split(":")[0]
    return f"{title_of_all(result, rows).split(':')[0].capitalize()} %{{y}}, {across} %{{x}}"
