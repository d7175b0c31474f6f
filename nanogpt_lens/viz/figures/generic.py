"""Any other result, by the number of its axes: bars, lines or a heat map."""

from __future__ import annotations

from typing import Any, Literal

from nanogpt_lens.results.base import Result
from nanogpt_lens.viz.figures.choices import count, is_signed, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import extremes
from nanogpt_lens.viz.figures.grids import grid_of, site_names
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import words
from nanogpt_lens.viz.figures.lines import bar_chart, largest
from nanogpt_lens.viz.figures.numbers import Measured, bounds, facts


def anything(
    result: Result, *, kind: Literal["heatmap", "bars"] | None = None, k: int = 20, **selection: Any
) -> Drawing:
    """A heat map of two axes, or bars of the largest values.

    Args:
        result: with any axes.
        kind: "heatmap" or "bars"; None for bars where one axis is left.
        k: how many bars.
        selection: an index or a label for any axis.

    Raises:
        ResultError: another kind, or a place that is not there.
    """
    grid = grid_of(result, selection, strength=result.values)
    kind = "bars" if kind is None and grid.columns is None else kind or "heatmap"
    one_of("kind", kind, ("heatmap", "bars"))
    unit, title = words(result.quantity, longest=80), words(result.quantity, longest=60).capitalize()
    every = Measured.of(result)
    if kind == "bars" or grid.columns is None:
        names, chosen, place = site_names(result, selection)
        flat = every.mapped(lambda tensor: tensor.flatten()[place])
        order = largest(flat.values, count("k", k))
        cut = [f"The {len(order)} with the largest magnitude, of {len(names)}"] if len(order) < len(names) else []
        numbers = flat.at(order)
        alone = [words(result.heading, longest=30)] if not result.axes else None
        what = words(result.heading, longest=40).capitalize()
        signed = is_signed(result, bounds(numbers.values)[0])
        if not alone and len(order) and len({result.unit, *result.units.values()}) <= 1:
            title = extremes([names[i] for i in order.tolist()], numbers, what=what, signed=signed)
        return bar_chart(
            alone or [names[i] for i in order.tolist()], numbers, title=title, unit=unit, what=chosen, notes=cut
        )
    numbers = every.mapped(grid.rearranged)
    data, said = facts(numbers.low, numbers.high, chance=numbers.chance)
    z = numbers.values
    return heat_map(
        Map(z=z, x=grid.x, y=grid.y, data=data, downwards=grid.downwards, hover=f"{grid.hover}: %{{z:.4g}}{said}."),
        title=title,
        unit=unit,
        x_title=grid.x_title,
        y_title=grid.y_title,
        signed=is_signed(result, bounds(z)[0]),
        notes=grid.notes,
    )
