"""Transplants: where in the model the difference to another one sits, what small sets of components move, and edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

import nanogpt_lens.viz.figures.cells as cells
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.transplants import TransplantedEdges, Transplants
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import BAR, Map, axis_below, axis_left, bar, heat_maps, name_bar
from nanogpt_lens.viz.figures.numbers import bounds, facts
from nanogpt_lens.viz.figures.transplant_curves import curves
from nanogpt_lens.viz.tokens import harmless

_UNIT = "share that moves: 100% is the donor, 0% the receiver"
_BESIDE = ("b_O", "ln1", "ln2")
_CELLS = 12
"""Up to so many columns the values stand in the cells, with half of their intervals."""

AnyTransplants = TypeVar("AnyTransplants", Transplants, TransplantedEdges)

_LONG = {"kl": "output", "loss": "loss"}


def transplants(
    result: Transplants,
    *,
    kind: Literal["grid", "set"] = "grid",
    measure: str | None = None,
    names: tuple[str, str] | None = None,
) -> Drawing:
    """The share of the difference that moves with each component's weights, or with sets of them.

    Args:
        result: of `ngl.transplant`.
        kind: "grid", layers by heads and MLP with the rest below; "set", the share by the size of the set.
        measure: of the grid: "kl", "loss" or "metric"; None for that of the search.
        names: of the two models; None for "a" and "b".

    Raises:
        ResultError: no such kind or measure, a measure for sets, or sets where none were searched.
    """
    one_of("kind", kind, ("grid", "set"))
    result = _with_names(result, names)
    if kind == "set":
        if measure is not None:
            raise ResultError(f"measure is {measure!r}, and sets have one, {result.by}, by which they were searched")
        return curves(result)
    return _grids(result, one_of("measure", measure or result.by, result.measures))


def _with_names(result: AnyTransplants, names: Any) -> AnyTransplants:
    """The result, its directions called by the models' names."""
    if names is None:
        return result
    if not isinstance(names, tuple | list) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ResultError(f"names is {names!r}; expected those of the two models, such as ('before', 'after')")
    a, b = (harmless(name, spaces=False, longest=24) for name in names)
    called = {"a into b": f"{a} into {b}", "b into a": f"{b} into {a}"}
    labels = {**result.labels, "direction": tuple(called.get(way, way) for way in result.labels["direction"])}
    return replace(result, labels=labels)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Components as rows and columns; nan where there is none.

    Attributes:
        x, y: labels.
        places: which component stands where; -1 for none.
    """

    x: list[str]
    y: list[str]
    places: Tensor

    def values(self, per_component: Float[Tensor, " component"]) -> Float[Tensor, "row column"]:
        """Values of components in their places."""
        return torch.where(self.places >= 0, per_component[self.places.clamp_min(0)], torch.nan)


def _tables(names: Sequence[str]) -> list[_Table]:
    """The components of layers, and those of none; without rows and columns of which there is no component."""
    inside: dict[tuple[str, str], int] = {}
    outside: dict[str, int] = {}
    for i, name in enumerate(names):
        layer, _, part = name.partition(".")
        if name.startswith("mlp"):
            inside[name[3:], "mlp"] = i
        elif part:
            inside[layer, part] = i
        else:
            outside[name] = i
    found = []
    if inside:
        heads = sorted({part for _, part in inside if part.isdecimal()}, key=int)
        parts = {part for _, part in inside}
        x = heads + [part for part in ("mlp", *_BESIDE) if part in parts]
        y = sorted({layer for layer, _ in inside}, key=int)
        places = [[inside.get((layer, part), -1) for part in x] for layer in y]
        found.append(_Table(x=x, y=y, places=torch.tensor(places)))
    if outside:
        found.append(_Table(x=list(outside), y=["rest"], places=torch.tensor([list(outside.values())])))
    return found


def _grids(result: Transplants, measure: str) -> Drawing:
    """Both directions below each other, each as the layers and the rest."""
    tables, at = _tables(result.components), result.measures.index(measure)
    few = max(len(table.x) for table in tables) <= _CELLS
    each = 34 if few else 24
    heights = [each * len(table.y) for table in tables] * 2
    gap = 46
    plot = sum(heights) + gap * (len(heights) - 1)
    figure = make_subplots(
        rows=len(heights), cols=1, row_heights=[h / plot for h in heights], vertical_spacing=gap / plot
    )
    left = 0
    for panel in range(len(heights)):
        direction, table = divmod(panel, len(tables))
        left = max(left, _panel(figure, panel, result, direction, at, tables[table], few))
        if table == 0:
            _heading(figure, panel, f"{result.labels['direction'][direction]}{_gap(result, direction, at)}")
    figure.update_xaxes(title_text="component", row=len(heights))
    low, _ = bounds(result.values[:, at])
    scale = style.colours(max(low, -1.0), 1.0, signed=low < 0)
    figure.update_layout(coloraxis={**scale, "colorbar": bar(ypad=18, tickformat=".0%")}, plot_bgcolor=style.MISSING)
    name_bar(figure, _UNIT, lift=57)
    panels: list[Any] = list(figure.data)
    for heat in panels:
        wide = cells.width_on_a_phone(len(heat.x), left=left)
        cells.write(
            figure, heat, [list(row) for row in heat.text] if heat.text is not None else [], wide=wide, high=each
        )
    return Drawing(
        figure=figure,
        title=_title(result, at),
        notes=_notes(result, few, low),
        intervals_told=few,
        plot=plot,
        above=BAR + 20,
        left=left,
        below=50,
    )


def _panel(
    figure: go.Figure, panel: int, result: Transplants, direction: int, measure: int, table: _Table, few: bool
) -> int:
    """One direction's layers, or rest; returns the pixels of the labels on the left."""
    place = direction, measure
    values, low, high = (table.values(t[place].double()) for t in (result.values, result.low, result.high))
    moved, count = table.values(result.moved.double()), table.values(result.n_parameters.double())
    data, said = facts(low, high, weights_moved_by=moved, parameters=count)
    picture = Map(
        z=values,
        x=table.x,
        y=table.y,
        hover=f"{'%{x}' if table.y == ['rest'] else 'Layer %{y}, %{x}'}: %{{z:.4g}}{said}.",
        data=data,
        text=_texts(values, low, high, table.values(result.changed.double())) if few else None,
        downwards=True,
    )
    figure.add_trace(picture.trace(coloraxis="coloraxis"), panel + 1, 1)
    axis_below(figure, table.x, "", row=panel + 1, col=1)
    figure.update_xaxes(tickangle=0, row=panel + 1, col=1)
    if result.chosen is not None:
        _frame(figure, panel, table, result.chosen[direction])
    title = "" if table.y == ["rest"] else "layer"
    return axis_left(figure, table.y, title, downwards=True, row=panel + 1, col=1)


def _texts(*tensors: Float[Tensor, "row column"]) -> list[list[str]]:
    """What stands in the cells, from shares, both ends of their intervals, and whether a component differs."""
    return [
        [_cell(*cell) for cell in zip(*rows, strict=True)]
        for rows in zip(*(tensor.tolist() for tensor in tensors), strict=True)
    ]


def _cell(value: float, low: float, high: float, changed: float) -> str:
    """A share, and half of its interval below it."""
    if math.isnan(value):
        return ""
    if not changed:
        return "="
    said = f"{value:.0%}".replace("-0%", "0%").replace("-", "−")
    return said if math.isnan(low) else f"{said}<br>±{50 * (high - low):.0f}"


def _frame(figure: go.Figure, panel: int, table: _Table, chosen: Bool[Tensor, " component"]) -> None:
    """Frame the components of the smallest set."""
    which = str(panel + 1) if panel else ""
    for y, x in ((table.places >= 0) & chosen[table.places.clamp_min(0)]).nonzero().tolist():
        figure.add_shape(
            type="rect",
            x0=x - 0.47,
            x1=x + 0.47,
            y0=y - 0.46,
            y1=y + 0.46,
            xref=f"x{which}",
            yref=f"y{which}",
            line={"color": style.INK, "width": 2.5},
            name="in the set",
        )


def _heading(figure: go.Figure, panel: int, text: str) -> None:
    """A line above a panel."""
    which = str(panel + 1) if panel else ""
    figure.add_annotation(
        text=text,
        xref=f"x{which} domain",
        yref=f"y{which} domain",
        x=0,
        y=1,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": style.TEXT},
    )


def _gap(result: Transplants, direction: int, measure: int) -> str:
    """That there is no gap, where that is so."""
    return "" if bool(result.values[direction, measure].isfinite().any()) else ": the two do not surely differ"


def _notes(result: Transplants, few: bool, low: float) -> tuple[str, ...]:
    """What is framed, what stands in the cells, and what colours leave out."""
    notes = ["Numbered columns are heads"] if any(name.split(".")[-1].isdecimal() for name in result.components) else []
    if few and not bool(result.changed.all()):
        notes.append("=: equal in both")
    if result.chosen is not None:
        notes.append(f"Framed: the smallest set found that moves {result.enough:.0%}")
    if few:
        notes.append("Below each share half of its 95% interval")
    if low < -1:
        notes.append("Shares below -1, farther from the donor than the receiver is by far, have the colour of -1")
    return tuple(notes)


def _title(result: Transplants, measure: int) -> str:
    """What small sets move, or the component that alone moves most."""
    name = result.measures[measure]
    of = f"the difference in {_LONG.get(name, 'the metric')}"
    if result.set_share is None or result.chosen is None:
        if not bool(result.values[:, measure].isfinite().any()):
            return f"The two do not surely differ in {_LONG.get(name, 'the metric')}"
        values = result.values[:, measure].nan_to_num(-math.inf)
        direction, best = divmod(int(values.argmax()), len(result.components))
        share = float(values[direction, best])
        into = result.labels["direction"][direction]
        part = result.components[best]
        head = "Head " if part[:1].isdecimal() and "." in part else ""
        return f"{head}{part} alone moves {share:.0%} of {of} ({into})"
    n = int(result.changed.sum())
    said = [
        f"{int(chosen.sum())} carry {share:.0%}{of} ({direction})"
        for direction, chosen, share, of in zip(
            result.labels["direction"],
            result.chosen,
            result.set_share[:, measure].tolist(),
            (f" of {of}", ""),
            strict=True,
        )
        if not math.isnan(share)
    ]
    if not said:
        return f"The two do not surely differ in {_LONG.get(name, 'the metric')}"
    return f"Of {n} components that differ, {' and '.join(said)}"


def edges(result: TransplantedEdges, *, direction: str | None = None, names: tuple[str, str] | None = None) -> Drawing:
    """The share that moves along each edge: senders in rows, receivers in columns; grey where there is no edge.

    Args:
        result: of `ngl.transplant_edges`.
        direction: "a into b" or "b into a" alone; None for both.
        names: of the two models; None for "a" and "b".

    Raises:
        ResultError: there is no such direction.
    """
    every = result.labels["direction"]
    shown = every if direction is None else (one_of("direction", direction, every),)
    result = _with_names(result, names)
    maps = [_edge_map(result, every.index(one)) for one in shown]
    drawing = heat_maps(
        maps,
        title=_edges_title(result, [every.index(one) for one in shown]),
        unit=_UNIT,
        x_title="receiver",
        y_title="sender",
        signed=True,
        columns=1,
        each=max(120, 16 * len(maps[0].y)),
    )
    widest = max((style.wide(name, style.SMALL) for name in maps[0].y), default=0.0)
    drawing.figure.update_layout(coloraxis={"colorbar": {"tickformat": ".0%"}})
    upright: dict[str, Any] = {"tickangle": -90}
    drawing.figure.update_xaxes(**upright)
    if len(maps) > 1:
        drawing.figure.update_xaxes(showticklabels=False, row=1)
    return replace(drawing, left=int(widest + 38), below=86, intervals_told=False)


def _edge_map(result: TransplantedEdges, direction: int) -> Map:
    """One direction's senders and receivers."""
    pairs = [name.split("->") for name in result.edges]
    senders = sorted({sender for sender, _ in pairs}, key=_depth)
    receivers = list(dict.fromkeys(receiver for _, receiver in pairs))
    rows = torch.tensor([senders.index(sender) for sender, _ in pairs])
    columns = torch.tensor([receivers.index(receiver) for _, receiver in pairs])

    def table(values: Float[Tensor, " edge"]) -> Float[Tensor, "sender receiver"]:
        grid = torch.full((len(senders), len(receivers)), torch.nan, dtype=torch.float64)
        grid[rows, columns] = values.double()
        return grid

    low, high, effect = (table(t[direction]) for t in (result.low, result.high, result.effect))
    data, said = facts(low, high, effect=effect)
    return Map(
        z=table(result.values[direction]),
        x=receivers,
        y=senders,
        hover=f"%{{y}} to %{{x}}: %{{z:.4g}}{said}.",
        data=data,
        downwards=True,
        name=result.labels["direction"][direction],
    )


def _depth(sender: str) -> tuple[int, int, int]:
    """Where a sender stands in the model."""
    if sender.startswith("mlp"):
        return int(sender[3:]), 1, 0
    layer, _, head = sender.partition(".")
    return (int(layer), 0, int(head)) if head else (-1, 0, 0)


def _edges_title(result: TransplantedEdges, shown: Sequence[int]) -> str:
    """The edge along which most moves."""
    values = result.values[list(shown)]
    if not bool(values.isfinite().any()):
        return "The two do not surely differ on this text"
    values = values.nan_to_num(-math.inf)
    row, best = divmod(int(values.argmax()), values.shape[1])
    into = result.labels["direction"][shown[row]]
    return f"Most of the difference moves along {result.edges[best]}: {float(values[row, best]):.0%} ({into})"
