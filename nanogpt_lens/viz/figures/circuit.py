"""A circuit as a drawing: the model upwards, and the edges that do the work, as wide as their scores are large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.found_circuits import Circuit
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.circuit_curve import curve
from nanogpt_lens.viz.figures.circuit_layout import CircuitLayout, Ends, Point, Way, ends_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.numbers import digits

MOST = 2000
"""Edges that are drawn at most."""

WIDEST, FINEST = 7.0, 0.8  # pixels of an edge
_UNSIGNED = style.ACCENT
_OUTSIDE = 0.25  # opacity of edges that do not belong to the circuit
LAYER, NODE, PALE, PALE_INK = style.PAGE, style.SEQUENTIAL[1], style.PAPER, style.OTHER
_LISTED = 8  # neighbours of a node in its hover text
_HOVERED = 1500  # places to point at, in all


def circuit(
    result: Circuit,
    *,
    kind: Literal["drawing", "curve"] = "drawing",
    edges: Literal["circuit", "all"] | int | None = None,
    beside: Mapping[str, Circuit] | None = None,
) -> Drawing:
    """The circuit within its model, or the faithfulness of every number of edges.

    Args:
        result: of `ngl.find_circuit`.
        kind: "drawing", or "curve".
        edges: which are drawn: "circuit"; "all"; or a number, for so many of the first by rank. None for "circuit".
        beside: other circuits by name, whose curves are drawn in the same picture; with kind="curve".

    Raises:
        ResultError: another kind or word, a number that counts nothing, names that are none of edges.
    """
    one_of("kind", kind, ("drawing", "curve"))
    if kind == "curve":
        if edges is not None:
            raise ResultError(f"edges is {edges!r}, but the curve is of all; leave it out, or give kind='drawing'")
        return curve(result, beside)
    if beside is not None:
        raise ResultError("beside was given, but the drawing is of one circuit; leave it out, or give kind='curve'")
    return _Picture(result, _chosen(result, "circuit" if edges is None else edges)).drawing()


def _chosen(result: Circuit, edges: str | int) -> tuple[int, ...]:
    """The edges that are drawn, by rank."""
    order = result.rank.argsort(stable=True).tolist()
    if isinstance(edges, int):
        if isinstance(edges, bool) or edges < 1:
            raise ResultError(f"edges is {edges!r}; expected 'circuit', 'all', or how many of the first by rank")
        return tuple(order[: min(edges, MOST)])
    one_of("edges", edges, ("circuit", "all"))
    return tuple([i for i in order if edges == "all" or bool(result.kept[i])][:MOST])


@dataclass(frozen=True)
class _Picture:
    """The drawing of one circuit.

    Attributes:
        result: the circuit.
        shown: the edges that are drawn, by rank.
    """

    result: Circuit
    shown: tuple[int, ...]

    @cached_property
    def every(self) -> list[Ends]:
        """The ends of all edges of the model."""
        return [ends_of(name) for name in self.result.labels["edge"]]

    @cached_property
    def layout(self) -> CircuitLayout:
        """Where the nodes are."""
        return CircuitLayout.of(self.every)

    @cached_property
    def ways(self) -> list[Way]:
        """The way of each edge that is drawn."""
        return self.layout.ways([self.every[i] for i in self.shown])

    @cached_property
    def within(self) -> list[Ends]:
        """The edges of the circuit."""
        return [self.every[i] for i in self.result.kept.nonzero()[:, 0].tolist()]

    @property
    def some_outside(self) -> bool:
        """Whether edges are drawn that do not belong to the circuit."""
        return not bool(self.result.kept[list(self.shown)].all())

    def drawing(self) -> Drawing:
        """Layers, then edges, then nodes above them."""
        figure = go.Figure([self._edges_hover(), self._letters(), self._names(), *self._legend()])
        shapes = [*self._layers(), *self._lines(), *self._boxes()]
        figure.update_layout(shapes=shapes)
        name_layers(figure, self.layout)
        return Drawing(
            figure=figure,
            title=_title(self.result),
            notes=self._notes(),
            plot=int(self.layout.size[1]),
            left=64,
            below=26,
            legend=self.result.signed or self.some_outside,
        )

    def _notes(self) -> tuple[str, ...]:
        n, every = len(self.shown), len(self.every)
        wide = "more faithfulness changes without it" if self.by_rank_alone else "larger its score"
        notes = [f"Upwards, as the model computes; an edge is the wider, the {wide}. Pale: not in the circuit"]
        if n != self.result.n_edges or self.some_outside:
            notes.append(f"Drawn are {n:,} of {every:,} edges" + ("" if n == every else ", the first by rank"))
        return tuple(notes)

    def _layers(self) -> list[go.layout.Shape]:
        """A band behind each layer."""
        (low, high), _ = self.layout.size
        boxes, beyond = self.layout.boxes, 0.32 * self.layout.gap
        return [
            rect(f"layer {i}", low, boxes[f"{i}.0"].bottom - beyond, high, boxes[f"mlp{i}"].top + beyond, LAYER, None)
            for i in range(self.layout.n_layers)
        ]

    def _lines(self) -> list[go.layout.Shape]:
        """The edges, those of the circuit above the others, fine ones above wide ones."""
        kept = self.result.kept.tolist()
        widths, scores = self._widths(), self.result.values.tolist()
        order = sorted(range(len(self.shown)), key=lambda i: (kept[self.shown[i]], -widths[i]))
        return [
            go.layout.Shape(
                name=self._name(self.shown[i]),
                type="path",
                path=self.ways[i].path(),
                line={"width": widths[i], "color": self._colour(scores[self.shown[i]])},
                opacity=0.85 if kept[self.shown[i]] else _OUTSIDE,
                layer="below",
            )
            for i in order
        ]

    @property
    def by_rank_alone(self) -> bool:
        """Whether the scores say no more than the order, so that widths are what the circuit loses without an edge."""
        return self.result.method == "greedy"

    def _sizes(self) -> Float[Tensor, " edge"]:
        """What each edge's width stands for; an infinite score, of an edge that never goes, counts as the largest."""
        result = self.result
        sizes = ((result.without - result.faithfulness) if self.by_rank_alone else result.values).double().abs()
        finite = sizes[sizes.isfinite()]
        largest = float(finite.max()) if len(finite) else 1.0
        return sizes.nan_to_num(0.0, largest, largest)[list(self.shown)]

    def _widths(self) -> list[float]:
        """Pixels of each edge, by the square root of its size; many edges, or many heads, make them finer."""
        sizes = self._sizes()
        largest = float(sizes.max()) if len(sizes) else 0.0
        widest = WIDEST * min(1.0, math.sqrt(60 / max(60, len(sizes))), 8 / self.layout.n_heads)
        share = (sizes / largest).sqrt() if largest > 0 else sizes
        return [round(width, 2) for width in (FINEST + (widest - FINEST) * share).tolist()]

    def _colour(self, score: float) -> str:
        if not self.result.signed:
            return _UNSIGNED
        return style.HELPS if (score < 0) == self.result.falls_helps else style.AGAINST

    def _boxes(self) -> list[go.layout.Shape]:
        """The nodes, those without an edge of the circuit pale."""
        used = {node for edge in self.within for node in edge[:2]}
        shapes = []
        for node, box in self.layout.boxes.items():
            ends = (box.x - box.width / 2, box.bottom, box.x + box.width / 2, box.top)
            fill, line = (NODE, style.MUTED) if node in used else (PALE, style.GRID)
            shapes.append(rect(node, *ends, fill, line))
        return shapes

    def _names(self) -> go.Scatter:
        """The names of the nodes, and what each reads and writes, for the hover text."""
        reads: dict[str, list[str]] = {}
        writes: dict[str, list[str]] = {}
        for sender, receiver, part in self.within:
            reads.setdefault(receiver, []).append(sender + (f" ({part})" if part else ""))
            writes.setdefault(sender, []).append(receiver + (f".{part}" if part else ""))
        nodes, places = list(self.layout.boxes), []
        for node, box in self.layout.boxes.items():
            places.append((box.x, box.y + (0.16 * box.height if "." in node else 0)))
        return go.Scatter(
            x=digits([x for x, _ in places]),
            y=digits([y for _, y in places]),
            mode="text",
            text=nodes,
            textfont={
                "size": style.TEXT if self.layout.n_heads <= 8 else 9,
                "color": [style.INK if node in reads or node in writes else PALE_INK for node in nodes],
            },
            customdata=[f"reads {_listed(reads.get(n))}; is read by {_listed(writes.get(n))}" for n in nodes],
            hovertemplate="%{text} %{customdata}.<extra></extra>",
            name="nodes",
            showlegend=False,
        )

    def _letters(self) -> go.Scatter:
        """The letters q, k and v where the circuit reads them."""
        ports = sorted({(node, part) for _, node, part in self.within if part})
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

    def _edges_hover(self) -> go.Scatter:
        """Places on the edges to point at, which are not seen."""
        most = max(2, min(8, _HOVERED // max(1, len(self.shown))))
        points: list[Point] = []
        texts: list[str] = []
        for i, way in zip(self.shown, self.ways, strict=True):
            points += (some := way.points(most))
            texts += [self._said(i)] * len(some)
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

    def _said(self, i: int) -> str:
        """What the hover text says of an edge."""
        score = "" if self.by_rank_alone else f"score {float(self.result.values[i]):.4g}, "
        said = f"{self._name(i)}: {score}rank {int(self.result.rank[i]) + 1}"
        if not self.result.kept[i]:
            return f"{said}; not in the circuit"
        return f"{said}; without it the circuit's faithfulness is {float(self.result.without[i]):.4g}"

    def _name(self, i: int) -> str:
        sender, receiver, part = self.every[i]
        return f"{sender}->{receiver}" + (f".{part}" if part else "")

    def _legend(self) -> list[go.Scatter]:
        """What the colours mean."""
        scores = self.result.values[list(self.shown)]
        entries = []
        helps = (scores < 0) == self.result.falls_helps
        one, other = ("falls", "rises") if self.result.falls_helps else ("rises", "falls")
        if self.result.signed and bool(helps.any()):
            entries.append((f"helps: without it the metric {one}", style.HELPS, 1.0))
        if self.result.signed and not bool(helps.all()):
            entries.append((f"works against: without it the metric {other}", style.AGAINST, 1.0))
        if self.some_outside:
            entries.append(("not in the circuit", style.MUTED, _OUTSIDE))
        look = {"x": [None], "y": [None], "mode": "lines", "hoverinfo": "skip", "showlegend": True}
        return [
            go.Scatter(name=name, opacity=opacity, line={"width": 4, "color": colour}, **look)
            for name, colour, opacity in entries
        ]


def _title(result: Circuit) -> str:
    """What the circuit does, and whether anything can go."""
    said = f"{result.n_edges:,} of {len(result.kept):,} edges do {result.faithfulness:.0%} of the work"
    if not result.holds:
        return f"{said}: outside {1 - result.tolerance:.0%} to {1 + result.tolerance:.0%}"
    n = len(result.removable)
    return f"{said}; {'none can go' if not n else 'one could go' if n == 1 else f'{n:,} could go, each alone'}"


def _listed(names: Sequence[str] | None) -> str:
    """The first of some names."""
    if not names:
        return "nothing"
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def rect(name: str, x0: float, y0: float, x1: float, y1: float, fill: str, line: str | None) -> go.layout.Shape:
    """A rectangle behind all traces, with a line or without."""
    return go.layout.Shape(
        name=name,
        type="rect",
        x0=round(x0, 3),
        y0=round(y0, 1),
        x1=round(x1, 3),
        y1=round(y1, 1),
        fillcolor=fill,
        line={"width": 0 if line is None else 1, "color": line or fill},
        layer="below",
    )


def name_layers(figure: go.Figure, layout: CircuitLayout) -> None:
    """Give the axes of a circuit's drawing their range, and the layers their names."""
    (low, high), height = layout.size
    bare = {"ticks": "", "showgrid": False, "zeroline": False}
    layers = range(layout.n_layers)
    figure.update_xaxes(
        range=[low, high], showticklabels=False, title_text="a head's query (q), key (k), value (v)", **bare
    )
    figure.update_yaxes(
        range=[0, height],
        tickvals=[layout.boxes[f"{i}.0"].y for i in layers],
        ticktext=[f"layer {i}" for i in layers],
        ticklabelstandoff=6,
        **bare,
    )
