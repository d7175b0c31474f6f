"""What patching changes: heat maps with token labels, bars with intervals, estimates beside exact effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.patching import AttributionResult, PatchingResult, ScreeningResult
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.edges import by_sender_and_receiver, has_edges
from nanogpt_lens.viz.figures.findings import extremes
from nanogpt_lens.viz.figures.grids import Layout, grid_of, site_names
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import index_of, places, spot
from nanogpt_lens.viz.figures.lines import bar_chart, downwards
from nanogpt_lens.viz.figures.numbers import Measured, bounds, facts

Value = Literal["recovery", "effect", "value", "estimate"]

_UNITS = {
    "recovery": "recovery (0: corrupted run, 1: clean run)",
    "effect": "change of the metric",
    "value": "metric after the patch",
    "estimate": "estimated change of the metric",
}
_TITLES = {"recovery": "Recovery", "effect": "Effect", "value": "Metric", "estimate": "Estimate"}


@dataclass(frozen=True, kw_only=True)
class _Value(Measured):
    """One kind of value of a patching result, and which."""

    name: str = ""


def effects(
    result: PatchingResult,
    *,
    value: Value | None = None,
    kind: Literal["heatmap", "bars"] | None = None,
    k: int = 20,
    **selection: Any,
) -> Drawing:
    """The sites that matter: a heat map of two axes, or bars with intervals.

    Args:
        result: of activation or path patching, any axes.
        value: "recovery", "effect", "value" (the metric), or "estimate" of a screening; None for recovery where there
            is one, else effect, and for edges effect.
        kind: "heatmap" or "bars" (the `k` largest effects, with intervals); None for bars where there is one axis,
            but of edges a map of senders and receivers.
        k: how many bars.
        selection: an index or a label for any axis, such as layer=1.

    Raises:
        ResultError: another word, or a place that is not there.
    """
    if has_edges(result) and kind in (None, "heatmap"):
        result, value, kind = by_sender_and_receiver(result), value or "effect", "heatmap"
    quantity = _quantity(result, value or ("effect" if result.patched == "edges" else None))
    grid = grid_of(result, selection, strength=result.effect)
    kind = "bars" if kind is None and grid.columns is None else kind or "heatmap"
    one_of("kind", kind, ("heatmap", "bars"))
    title = _title(result, quantity, selection, grid)
    notes = _runs(result, quantity)
    told = quantity.name == "recovery" and quantity.low is not None
    if kind == "bars" or grid.columns is None:
        drawing = _bars(result, quantity, selection, result.effect, k, title=title, notes=notes)
        return replace(drawing, intervals_told=told or isinstance(result, ScreeningResult))
    drawing = replace(_heatmap(result, grid, quantity, title=title, notes=notes), intervals_told=told)
    if isinstance(result, ScreeningResult):
        _add_dots(drawing.figure, grid.rearranged(result.verified), grid)
    return drawing


def estimates(
    result: AttributionResult, *, kind: Literal["heatmap", "bars"] | None = None, k: int = 20, **selection: Any
) -> Drawing:
    """Estimates by gradient, see `effects`."""
    if has_edges(result) and kind in (None, "heatmap"):
        result, kind = by_sender_and_receiver(result), "heatmap"
    quantity = _Value(values=result.values, name="estimate")
    grid = grid_of(result, selection, strength=result.values)
    kind = "bars" if kind is None and grid.columns is None else kind or "heatmap"
    one_of("kind", kind, ("heatmap", "bars"))
    notes = [f"The metric of the run at which the gradient was taken is {result.base:.4g}"]
    if kind == "bars" or grid.columns is None:
        return _bars(
            result, quantity, selection, result.values, k, title=_title(result, quantity, selection, grid), notes=notes
        )
    return _heatmap(result, grid, quantity, title=_title(result, quantity, selection, grid), notes=notes)


def _title(result: Result, quantity: _Value, selection: dict[str, Any], grid: Layout) -> str:
    """Where patching does most."""
    patched = getattr(result, "patched", "")
    what = _TITLES[quantity.name] + (" of an edge" if patched == "edges" else f" of {patched}" if patched else "")
    fixed = {axis: index_of(result, axis, i) for axis, i in selection.items() if i is not None} | dict(grid.fixed)
    _, _, place = site_names(result, fixed)

    def names(site: int) -> str:
        at = torch.unravel_index(place[site], result.values.shape)
        each = {axis: int(i) for axis, i in zip(result.axes, at, strict=True) if axis not in fixed}
        if "layer" in each and "head" in each:
            head = f"head {places(result, 'layer')[each.pop('layer')]}.{places(result, 'head')[each.pop('head')]}"
            return ", ".join([head, *([spot(result, **each)] if each else [])])
        return spot(result, **each)

    flat = quantity.mapped(lambda tensor: tensor.flatten()[place])
    return extremes(names, flat, what=what, signed=quantity.name != "value")


def _quantity(result: PatchingResult, value: str | None) -> _Value:
    """The values asked for, with their interval."""
    recovery = result.recovery
    usable = recovery is not None and bool(recovery.isfinite().any())
    known = ["effect", "value", *(["recovery"] if usable else [])]
    known += ["estimate"] if isinstance(result, ScreeningResult) else []
    name = value or ("recovery" if usable else "effect")
    if name == "recovery" and not usable:
        reason = "there is no corrupted run" if recovery is None else "both runs have the same metric"
        raise ResultError(f"there is no recovery, because {reason}; expected one of {', '.join(known)}")
    one_of("value", name, known)
    low, high = result.effect_low, result.effect_high
    if name == "value":
        return _Value(values=result.values, low=result.low, high=result.high, name=name)
    if name == "estimate" and isinstance(result, ScreeningResult):
        return _Value(values=result.estimate, name=name)
    if name == "effect" or recovery is None or result.corrupted is None:
        return _Value(values=result.effect, low=low, high=high, name="effect")
    gap, base = result.clean - result.corrupted, 0.0 if result.direction == "denoise" else 1.0
    if low is None or high is None:
        return _Value(values=recovery, name=name)
    ends = [base + low / gap, base + high / gap]
    least, most = ends if gap > 0 else ends[::-1]
    return _Value(values=recovery, low=least, high=most, name=name)


def _runs(result: PatchingResult, quantity: _Value) -> list[str]:
    """What the caption says of the runs and of the values."""
    said = f"Metric of the clean run {result.clean:.4g}"
    said += "" if result.corrupted is None else f", of the corrupted run {result.corrupted:.4g}"
    notes = [f"{result.quantity}. {said}"]
    if quantity.name == "recovery":
        notes.append("Recovery: (metric - corrupted) / (clean - corrupted)")
        if quantity.low is not None:
            notes.append(f"{interval_of(result)}, the gap taken as given")
    if isinstance(result, ScreeningResult):
        notes.append("A dot marks what was patched exactly; elsewhere the gradient's estimate")
    return notes


def _heatmap(result: Result, grid: Layout, quantity: _Value, *, title: str, notes: Sequence[str]) -> Drawing:
    low, high = (None if t is None else grid.rearranged(t) for t in (quantity.low, quantity.high))
    data, said = facts(low, high)
    z = grid.rearranged(quantity.values)
    picture = Map(
        z=z,
        x=grid.x,
        y=grid.y,
        data=data,
        downwards=grid.downwards,
        hover=f"{grid.hover}: {quantity.name} %{{z:.4g}}{said}.",
        number=".2f" if max(z.shape) <= 10 and float(z.abs().nan_to_num(0).max()) >= 0.05 else "",
    )
    signed = quantity.name != "value" or bounds(z)[0] < 0
    falls_helps = _falls_helps(result, quantity)
    return heat_map(
        picture,
        title=title,
        unit=_unit(quantity, falls_helps),
        x_title=grid.x_title,
        y_title=grid.y_title,
        signed=signed,
        falls_helps=falls_helps,
        top=1.0 if quantity.name == "recovery" and bounds(z)[1] <= 1 and bounds(z)[0] >= -1 else None,
        notes=[*grid.notes, *notes],
    )


def _falls_helps(result: Result, quantity: _Value) -> bool:
    """Whether values are what the sites change by being taken away, so that those below zero help."""
    return (
        quantity.name in ("effect", "estimate")
        and isinstance(result, PatchingResult | AttributionResult)
        and result.falls_helps
    )


def _unit(quantity: _Value, falls_helps: bool) -> str:
    return _UNITS[quantity.name] + (" (teal: it falls, because what was there helped)" if falls_helps else "")


def _add_dots(figure: go.Figure, verified: Bool[Tensor, "row column"], grid: Layout) -> None:
    """Put a dot on each site that was patched exactly, where there are others."""
    rows, columns = verified.nonzero(as_tuple=True)
    if verified.all() or verified.numel() > 4000:
        return
    figure.add_trace(
        go.Scatter(
            x=[grid.x[i] for i in columns.tolist()],
            y=[grid.y[i] for i in rows.tolist()],
            mode="markers",
            marker={"size": 4, "color": style.INK},
            hoverinfo="skip",
            name="patched exactly",
            showlegend=False,
        )
    )
    figure.update_xaxes(range=[-0.5, len(grid.x) - 0.5])
    ends = [-0.5, len(grid.y) - 0.5]
    figure.update_yaxes(range=ends[::-1] if grid.downwards else ends, autorange=False)


def _bars(
    result: Result,
    quantity: _Value,
    selection: dict[str, Any],
    strength: Float[Tensor, "*axes"],
    k: int,
    *,
    title: str,
    notes: list[str],
) -> Drawing:
    names, chosen, place = site_names(result, selection)
    size = strength.flatten()[place].abs().nan_to_num(-1)
    order = size.argsort(descending=True, stable=True)[: count("k", k)]
    everything = len(order) == len(names)
    flat = Measured(quantity.values, quantity.low, quantity.high).mapped(lambda tensor: tensor.flatten()[place])
    order = order.sort().values if everything else order[downwards(flat.values[order])]
    cut = [f"The {len(order)} sites with the largest effect, of {len(names)}"] if not everything else []
    falls_helps = _falls_helps(result, quantity)
    if isinstance(result, ScreeningResult):
        cut.append("Without an interval: estimated by gradient")
    return bar_chart(
        [names[i] for i in order.tolist()],
        flat.at(order),
        title=title,
        unit=_unit(quantity, falls_helps),
        what=chosen,
        falls_helps=falls_helps,
        notes=[*cut, *notes],
    )
