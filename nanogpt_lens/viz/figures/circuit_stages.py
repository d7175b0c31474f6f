"""A model's graph at stages of training: the same drawing for all, its edges as wide as their effects are there.

As a film the drawing has a slider over the steps, and as small multiples some steps stand beside each other. Places,
lanes and the scale of the widths are the same at every stage, so that what changes is the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.circuit_atlas import CircuitAtlas
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count
from nanogpt_lens.viz.figures.circuit import (
    FINEST,
    LAYER,
    NODE,
    PALE,
    PALE_INK,
    WIDEST,
    name_layers,
    rect,
)
from nanogpt_lens.viz.figures.circuit_layout import CircuitLayout, Ends, Point, Way, ends_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.numbers import digits

MOST, USUAL = 400, 40
"""Edges that are drawn at most, and where nothing else is said."""

_ASLEEP = 0.1  # opacity of an edge that does less than counts
_SECONDS = 0.7  # of each stage when the film plays
_COLUMNS, _PANELS = 2, 6
_PANEL, _BETWEEN = 250, 30  # pixels of a small picture, and above it
_SMALL = 9  # pixels of letters in a small picture


def film(result: CircuitAtlas, title: str, edges: int | None) -> Drawing:
    """The drawing with a slider over the steps and a button that plays them, at the last stage to begin with."""
    picture = StagePicture.of(result, edges)
    n = len(result.steps)
    figure = go.Figure(
        [picture.hover(n - 1), picture.letters(), picture.names(), *picture.legend()],
        frames=[
            go.Frame(name=str(step), data=[picture.hover(i)], traces=[0], layout={"shapes": picture.shapes(i)})
            for i, step in enumerate(result.steps)
        ],
    )
    figure.update_layout(shapes=picture.shapes(n - 1), sliders=[_slider(result)], updatemenus=[_buttons()])
    name_layers(figure, picture.layout)
    return Drawing(
        figure=figure,
        title=title,
        notes=("Upwards, as the model computes", *picture.notes()),
        plot=int(picture.layout.size[1]),
        left=64,
        above=92,
        below=26,
        legend=True,
    )


def multiples(result: CircuitAtlas, title: str, edges: int | None, stages: Sequence[int] | None) -> Drawing:
    """The drawing at some of the steps, beside each other.

    Raises:
        ResultError: there is no such step.
    """
    chosen = _places(result, stages)
    picture = StagePicture.of(result, edges)
    n_rows = -(-len(chosen) // _COLUMNS)
    (low, high), height = picture.layout.size
    figure, whole = go.Figure(), n_rows * (_PANEL + _BETWEEN)
    shapes, notes = list[go.layout.Shape](), list[go.layout.Annotation]()
    for k, i in enumerate(chosen):
        row, column = divmod(k, _COLUMNS)
        top = 1 - (row * (_PANEL + _BETWEEN) + _BETWEEN) / whole
        left = column / _COLUMNS + 0.01 * column
        axes = {"xaxis": f"x{k + 1}", "yaxis": f"y{k + 1}"}
        figure.add_trace(picture.names(_SMALL).update(axes))
        figure.add_trace(picture.hover(i).update(axes))
        bare = {"visible": False, "fixedrange": True}
        figure.update_layout(
            {
                f"xaxis{k + 1}": {"domain": [left, left + 0.49], "range": [low, high], "anchor": f"y{k + 1}", **bare},
                f"yaxis{k + 1}": {
                    "domain": [max(0.0, top - _PANEL / whole), top],
                    "range": [0, height],
                    "anchor": f"x{k + 1}",
                    **bare,
                },
            }
        )
        shapes += [shape.update({"xref": f"x{k + 1}", "yref": f"y{k + 1}"}) for shape in picture.shapes(i, 0.6)]
        notes.append(_heading(f"step {result.steps[i]:,}", left, top))
    figure.add_traces(picture.legend())
    figure.update_layout(shapes=shapes, annotations=notes)
    return Drawing(
        figure=figure,
        title=title,
        notes=("Each picture upwards, as the model computes", *picture.notes()),
        plot=whole,
        left=12,
        right=12,
        below=8,
        legend=True,
    )


@dataclass(frozen=True)
class StagePicture:
    """The drawing of an atlas at any of its stages.

    Attributes:
        result: the atlas.
        shown: the edges that are drawn, those with the largest effects at any stage.
    """

    result: CircuitAtlas
    shown: tuple[int, ...]

    @classmethod
    def of(cls, result: CircuitAtlas, edges: int | None) -> StagePicture:
        """The drawing of so many edges; None for those whose effects count, and `USUAL` at most."""
        largest = result.values.double().abs().amax(0).nan_to_num(0.0)
        order = largest.argsort(descending=True, stable=True).tolist()
        if edges is not None:
            return cls(result, tuple(order[: min(count("edges", edges), MOST)]))
        counting = [i for i in order if float(largest[i]) >= result.least][:USUAL]
        return cls(result, tuple(counting or order[:1]))

    @cached_property
    def every(self) -> list[Ends]:
        """The ends of all edges of the model."""
        return [ends_of(name) for name in self.result.edges]

    @cached_property
    def layout(self) -> CircuitLayout:
        """Where the nodes are."""
        return CircuitLayout.of(self.every)

    @cached_property
    def ways(self) -> list[Way]:
        """The way of each edge that is drawn."""
        return self.layout.ways([self.every[i] for i in self.shown])

    @cached_property
    def effects(self) -> Float[Tensor, "step shown"]:
        """The effects of the edges that are drawn; 0 for what is not finite."""
        return self.result.values.double()[:, list(self.shown)].nan_to_num(0.0, 0.0, 0.0)

    @cached_property
    def widths(self) -> Float[Tensor, "step shown"]:
        """Pixels of each edge at each step, by the square root of its effect, of the largest of all steps."""
        sizes = self.effects.abs()
        widest = WIDEST * min(1.0, math.sqrt(60 / max(60, len(self.shown))), 8 / self.layout.n_heads)
        largest = float(sizes.max())
        return FINEST + (widest - FINEST) * ((sizes / largest).sqrt() if largest > 0 else sizes)

    def awake(self, step: int) -> list[bool]:
        """Which of the edges that are drawn do at least what counts."""
        return (self.effects[step].abs() >= self.result.least * (1 - 1e-6)).tolist()

    def shapes(self, step: int, scale: float = 1.0) -> list[go.layout.Shape]:
        """Layers, then edges, fine ones above wide ones, then nodes: those without an edge that counts are pale.

        Args:
            step: the place of the step.
            scale: of the widths.
        """
        awake, widths = self.awake(step), (scale * self.widths[step]).tolist()
        effects, boxes, beyond = self.effects[step].tolist(), self.layout.boxes, 0.32 * self.layout.gap
        (low, high), _ = self.layout.size
        shapes = [
            rect(f"layer {i}", low, boxes[f"{i}.0"].bottom - beyond, high, boxes[f"mlp{i}"].top + beyond, LAYER, None)
            for i in range(self.layout.n_layers)
        ]
        for i in sorted(range(len(self.shown)), key=lambda i: (awake[i], -widths[i])):
            shapes.append(
                go.layout.Shape(
                    name=self.result.edges[self.shown[i]],
                    type="path",
                    path=self.ways[i].path(),
                    line={"width": round(widths[i], 2), "color": style.HELPS if effects[i] < 0 else style.AGAINST},
                    opacity=0.85 if awake[i] else _ASLEEP,
                    layer="below",
                )
            )
        used = {node for i, flag in zip(self.shown, awake, strict=True) if flag for node in self.every[i][:2]}
        for node, box in boxes.items():
            fill, line = (NODE, style.MUTED) if node in used else (PALE, style.GRID)
            ends = (box.x - box.width / 2, box.bottom, box.x + box.width / 2, box.top)
            shapes.append(rect(node, *ends, fill, line))
        return shapes

    def names(self, size: int = style.TEXT) -> go.Scatter:
        """The names of the nodes; above the middle of a head, where letters stand below."""
        used = {node for i in self.shown for node in self.every[i][:2]}
        up = 0.16 if size > _SMALL else 0.0
        boxes = self.layout.boxes
        return go.Scatter(
            x=digits([box.x for box in boxes.values()]),
            y=digits([box.y + (up * box.height if "." in node else 0) for node, box in boxes.items()]),
            mode="text",
            text=list(boxes),
            textfont={
                "size": size if self.layout.n_heads <= 8 else _SMALL,
                "color": [style.INK if node in used else PALE_INK for node in boxes],
            },
            hoverinfo="skip",
            name="nodes",
            showlegend=False,
        )

    def letters(self) -> go.Scatter:
        """The letters q, k and v where an edge that is drawn arrives."""
        ports = sorted({self.every[i][1:] for i in self.shown if self.every[i][2]})
        places = [self.layout.port(node, part) for node, part in ports]
        return go.Scatter(
            x=digits([x for x, _ in places]),
            y=digits([y + 8 for _, y in places]),
            mode="text",
            text=[part for _, part in ports],
            textfont={"size": 10 if self.layout.n_heads <= 8 else 8, "color": style.MUTED},
            hoverinfo="skip",
            name="q, k, v",
            showlegend=False,
        )

    def hover(self, step: int) -> go.Scatter:
        """Places on the edges to point at, which are not seen, with the effects at a step."""
        points, texts = list[Point](), list[str]()
        for i, way in zip(self.shown, self.ways, strict=True):
            points += (some := way.points(4))
            texts += [self._said(i, step)] * len(some)
        return go.Scatter(
            x=digits([x for x, _ in points]),
            y=digits([y for _, y in points]),
            mode="markers",
            marker={"size": 9, "opacity": 0},
            text=texts,
            hovertemplate="%{text}.<extra></extra>",
            name="edges",
            showlegend=False,
        )

    def _said(self, i: int, step: int) -> str:
        """What the hover text says of an edge."""
        result = self.result
        value, low, high = (float(t[step, i]) for t in (result.values, result.low, result.high))
        said = f"{result.edges[i]} at step {result.steps[step]:,}: {value:.3g} ({low:.3g} to {high:.3g})"
        half, first, last = (float(t[i]) for t in (result.half, result.half_low, result.half_high))
        return said if math.isnan(half) else f"{said}; half-way at {half:,.0f} ({first:,.0f} to {last:,.0f})"

    def legend(self) -> list[go.Scatter]:
        """What colours and opacity mean, at any stage."""
        look: dict[str, Any] = {"x": [None], "y": [None], "mode": "lines", "hoverinfo": "skip", "showlegend": True}
        counted = self.effects[self.effects.abs() >= self.result.least]
        entries = [("helps: effect below 0", style.HELPS, 1.0)] if bool((counted < 0).any()) else []
        entries += [("works against: above 0", style.AGAINST, 1.0)] if bool((counted > 0).any()) else []
        entries.append((f"less than {self.result.least:g} {self.result.unit}".rstrip(), style.MUTED, 0.3))
        return [go.Scatter(name=name, opacity=o, line={"width": 4, "color": c}, **look) for name, c, o in entries]

    def notes(self) -> tuple[str, ...]:
        """What is drawn, in sentences."""
        n, every = len(self.shown), len(self.every)
        largest = float(self.effects.abs().max())
        said = f"An edge is the wider, the larger its effect; the widest line is {largest:.3g}, the same at every step"
        return (said,) if n == every else (said, f"Drawn are the {n:,} largest of {every:,} edges")


def _slider(result: CircuitAtlas) -> dict[str, Any]:
    """A slider over the steps, above the drawing; at its top the step, beside the buttons."""
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {
        "active": len(result.steps) - 1,
        "x": 0,
        "len": 1,
        "y": 1,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 4},
        "currentvalue": {"prefix": "step ", "font": {"size": 14, "color": style.INK}, "xanchor": "left"},
        "font": {"size": style.SMALL, "color": style.MUTED},
        "bgcolor": style.GRID,
        "borderwidth": 0,
        "steps": [{"label": f"{step:,}", "method": "animate", "args": [[str(step)], at_once]} for step in result.steps],
    }


def _buttons() -> dict[str, Any]:
    """Buttons that play the film from its beginning, and stop it."""
    milliseconds = int(1000 * _SECONDS)
    play = {"frame": {"duration": milliseconds, "redraw": True}, "transition": {"duration": 0}, "mode": "immediate"}
    stop = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate"}
    return {
        "type": "buttons",
        "direction": "left",
        "showactive": False,
        "x": 1,
        "xanchor": "right",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 56, "l": 0, "r": 0},
        "font": {"size": style.TEXT},
        "buttons": [
            {"label": "▶", "method": "animate", "args": [None, play]},
            {"label": "❚❚", "method": "animate", "args": [[None], stop]},
        ],
    }


def _places(result: CircuitAtlas, stages: Sequence[int] | None) -> list[int]:
    """The places of the steps that are shown; without a choice, some from the first to the last."""
    n = len(result.steps)
    if stages is None:
        k = min(_PANELS, n)
        return sorted({round(i * (n - 1) / max(1, k - 1)) for i in range(k)})
    if isinstance(stages, str) or not isinstance(stages, Sequence) or not stages:
        raise ResultError(f"stages is {stages!r}; expected a list of steps, such as {list(result.steps[:2])}")
    if wrong := [step for step in stages if step not in result.steps]:
        raise ResultError(f"there is no step {wrong[0]!r}; expected some of {', '.join(map(str, result.steps))}")
    return [result.steps.index(step) for step in stages]


def _heading(text: str, x: float, y: float) -> go.layout.Annotation:
    """The step above a small picture."""
    return go.layout.Annotation(
        text=f"<b>{text}</b>",
        x=x + 0.005,
        y=y,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": style.TEXT, "color": style.INK},
    )
