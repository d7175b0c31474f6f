"""A circuit, or what every edge does, as a widget: the model upwards, its edges by size, and a table beside them.

Python says where everything stands and what the numbers are; `assets/circuit.js` draws it for the width that there is.
An edge keeps its place whatever is chosen, so that a circuit can be seen to grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import AttributionResult, Circuit, PatchingResult
from nanogpt_lens.viz.choosing import finite
from nanogpt_lens.viz.figures.circuit_layout import PORTS, CircuitLayout, Ends, Way, ends_of
from nanogpt_lens.viz.style import AGAINST, HELPS, INK, MUTED, PAPER
from nanogpt_lens.viz.tokens import rounded, visible
from nanogpt_lens.viz.widget import Widget

MOST = 600
"""Edges that a widget carries; more could not be told apart."""

_FIRST = 24  # edges that are shown at first
_STATIC_WIDTH = 640  # pixels of the static picture
_LONGEST = 24  # characters of a token

EdgeEffects: TypeAlias = PatchingResult | AttributionResult


def of_edges(result: PatchingResult | AttributionResult) -> bool:
    """Whether each value is of an edge, with a name such as "0.1->1.0.k", at all positions or at each."""
    named = all("->" in name for name in result.labels.get("edge", ("",)))
    return named and result.axes in (("edge",), ("edge", "pos"))


def circuit_graph(result: Circuit) -> Widget:
    """The circuit within its model, or the first edges by rank, with the faithfulness of each number of them.

    Args:
        result: of `ngl.find_circuit`.

    Raises:
        ResultError: the edges are not those of a model's graph, or a faithfulness is nan or infinite.
    """
    first = result.rank.argsort(stable=True)[:MOST]
    order = torch.cat([first, _missing(result.kept, first)])
    by_loss = result.method == "greedy"  # whose scores say no more than the order
    values = (result.without - result.faithfulness) if by_loss else _bounded(result.values)
    what = "change of faithfulness without it" if by_loss else "score"
    graph = _Graph(
        names=[result.labels["edge"][i] for i in order.tolist()],
        every=result.labels["edge"],
        values=values.double()[order, None],
        signed=result.signed and not by_loss,
        falls_helps=result.falls_helps,
        said=[_said_of(result, i) for i in order.tolist()],
    )
    curve = finite(result.curve.double(), "the curve")[: len(first) + 1]
    props = graph.props() | {
        "value": what,
        "circuit": result.kept[order].nonzero()[:, 0].tolist(),
        "faithfulness": rounded(result.faithfulness),
        "curve": [rounded(v) for v in curve.tolist()],
        "first": max(1, result.n_edges),
        "tokens": [],
        "legend": _legend("without it", falls_helps=graph.falls_helps) if graph.signed else [],
    }
    wide = "the more faithfulness changes without it" if by_loss else "the larger its score"
    words = [f"{result.sentence()}{_interval(result)}", f"An edge is the wider, {wide}", *_drawn(result, order)]
    return _widget(props, graph, shown=props["circuit"], caption=words)


def edge_graph(result: EdgeEffects, *, pos: int | None = None) -> Widget:
    """The edges with the largest effects, at all positions at once or at one that is chosen by its token.

    Args:
        result: of `ngl.edge_effects` or `ngl.edge_attribution`.
        pos: the position that is shown at first, where there are several; None for the one with the largest effects.

    Raises:
        ResultError: no such position, edges that are not those of a model's graph, or effects that are nan or infinite.
    """
    effect = finite(result.effect.double(), result.quantity)
    each = "pos" in result.axes
    table = effect if each else effect[:, None]
    pos = _position(pos, table) if each or pos is not None else 0
    order = table.abs().amax(1).argsort(descending=True, stable=True)[:MOST]
    names = result.labels["edge"]
    graph = _Graph(
        names=[names[i] for i in order.tolist()],
        every=names,
        values=table[order],
        signed=True,
        falls_helps=result.falls_helps,
        ranges=_ranges(result, order),
    )
    what = "estimated effect" if isinstance(result, AttributionResult) else "effect"
    tokens = result.labels.get("pos", tuple(str(i) for i in range(table.shape[1]))) if each else ()
    props = graph.props() | {
        "value": what,
        "first": min(_FIRST, len(order)),
        "tokens": [visible(token, longest=_LONGEST) for token in tokens],
        "pos": pos,
        "legend": _legend("changed,", falls_helps=graph.falls_helps),
    }
    at_pos = table[order, pos].abs()
    shown = [i for i in at_pos.argsort(descending=True, stable=True)[:_FIRST].tolist() if at_pos[i] > 0]
    words = [f"{result.quantity}: {result.definition}", f"An edge is the wider, the larger its {what}"]
    words += [*filter(None, [result.few_examples.capitalize()]), *_drawn(result, order)]
    return _widget(props, graph, shown=shown, caption=words, column=pos)


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """Edges with values, and where they go.

    Attributes:
        names: of the edges that are drawn.
        every: the names of all edges of the model.
        values: of each edge at each position; one column where there are no positions.
        signed: whether colours mean signs.
        falls_helps: whether a value below zero is that of an edge that helps.
        said: what else is said of each edge; empty for nothing.
        ranges: the ends of the interval of each value; empty where there are none.
    """

    names: Sequence[str]
    every: Sequence[str]
    values: Float[Tensor, "edge pos"]
    signed: bool
    falls_helps: bool = True
    said: Sequence[str] = ()
    ranges: Sequence[Sequence[Any]] = field(default=())

    @property
    def layout(self) -> CircuitLayout:
        """Where the nodes are."""
        return CircuitLayout.of([ends_of(name) for name in self.every])

    def ends(self) -> list[Ends]:
        """The ends of the edges that are drawn."""
        return [ends_of(name) for name in self.names]

    def ways(self) -> list[Way]:
        """Their ways; an edge keeps its own whatever else is shown."""
        return self.layout.ways(self.ends())

    def props(self) -> dict[str, Any]:
        """Places in heads across and in pixels down; numbers with few digits."""
        layout, ends = self.layout, self.ends()
        (low, high), height = layout.size
        nodes = list(layout.boxes)
        rows = [[round(x, 3) for x in (b.x, height - b.y, b.width, b.height)] for b in layout.boxes.values()]
        return {
            "total": len(self.every),
            "ports": dict(PORTS),
            "across": [round(low, 3), round(high, 3)],
            "height": round(height, 1),
            "nodes": nodes,
            "boxes": rows,
            "row": [layout.row_of[node] for node in nodes],
            "edges": [[nodes.index(a), nodes.index(b), part] for a, b, part in ends],
            "ways": [_flat(way, height) for way in self.ways()],
            "values": [[rounded(v) for v in row] for row in self.values.tolist()],
            "signed": self.signed,
            "falls_helps": self.falls_helps,
            "said": list(self.said),
            "ranges": [list(row) for row in self.ranges],
        }


def _flat(way: Way, height: float) -> list[float]:
    """The numbers of a way: for each curve its start and its end, y downwards."""
    return [round(n, 3) for curve in way.curves for x, y in curve for n in (x, height - y)]


def _bounded(values: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """The scores; an infinite one, of an edge that never goes, counts as the largest."""
    finite_ones = values[values.isfinite()]
    largest = float(finite_ones.abs().max()) if len(finite_ones) else 1.0
    return values.clamp(-largest, largest)


def _legend(when: str, *, falls_helps: bool) -> list[list[str]]:
    """What the colours mean, by the name of the colour."""
    helps, against = ("falls", "rises") if falls_helps else ("rises", "falls")
    return [["up", f"helps: {when} the metric {helps}"], ["down", f"works against: {when} the metric {against}"]]


def _said_of(result: Circuit, i: int) -> str:
    """What the table says of an edge besides its value."""
    rank = f"rank {int(result.rank[i]) + 1}"
    if not bool(result.kept[i]):
        return f"{rank}, not in the circuit"
    without = round(float(result.without[i]), 2) + 0.0  # no -0.00
    return f"{rank}; without it the faithfulness is {without:.2f}" if math.isfinite(without) else rank


def _missing(kept: Bool[Tensor, " edge"], order: Int[Tensor, " some"]) -> Int[Tensor, " others"]:
    """The circuit's edges that are not among the first."""
    left = kept.clone()
    left[order] = False
    return left.nonzero()[:, 0]


def _position(pos: int | None, table: Float[Tensor, "edge pos"]) -> int:
    """The index of a position; of the one with the largest effects for None."""
    n = table.shape[1]
    if pos is None:
        return int(table.abs().sum(0).argmax())
    if isinstance(pos, bool) or not isinstance(pos, int) or not -n <= pos < n:
        raise ResultError(f"there is no pos {pos!r} in this result; expected a whole number from {-n} to {n - 1}")
    return pos % n


def _ranges(result: EdgeEffects, order: Int[Tensor, " edge"]) -> list[list[Any]]:
    """Both ends of the 95% interval of each effect at each position; nothing where there are none."""
    if not isinstance(result, PatchingResult) or result.effect_low is None or result.effect_high is None:
        return []
    pairs = torch.stack([result.effect_low, result.effect_high], -1).double().reshape(len(result.values), -1, 2)[order]
    return [[[rounded(low), rounded(high)] for low, high in row] for row in pairs.tolist()]


def _interval(result: Circuit) -> str:
    """The interval of the faithfulness over the prompts, in words; "" where there is none."""
    if result.faithfulness_interval is None:
        return ""
    low, high = result.faithfulness_interval
    return f" (faithfulness {result.faithfulness:.2f}, 95% interval over the prompts {low:.2f} to {high:.2f})"


def _drawn(result: Circuit | EdgeEffects, order: Int[Tensor, " edge"]) -> list[str]:
    """How many edges the widget has, where they are not all."""
    every = len(result.labels["edge"])
    return [] if len(order) == every else [f"Drawn are the {len(order):,} strongest of {every:,} edges"]


def _widget(
    props: Mapping[str, Any], graph: _Graph, *, shown: Sequence[int], caption: Sequence[str], column: int = 0
) -> Widget:
    words = visible(". ".join(caption), spaces=False, longest=2000)
    static = _static(graph, shown, column)
    return Widget(component="circuit", props=props, static=static, caption=words, height=int(props["height"]) + 90)


def _static(graph: _Graph, shown: Sequence[int], column: int) -> str:
    """An SVG of some edges, without any script; the names in it are those of nodes."""
    layout, ways = graph.layout, graph.ways()
    (low, high), height = layout.size
    scale = _STATIC_WIDTH / (high - low)
    values = graph.values[:, column].nan_to_num(0.0, 0.0, 0.0)
    largest = float(values[list(shown)].abs().max()) if len(shown) else 0.0
    pieces = []
    for i in shown:
        numbers = _flat(ways[i], height)
        points = [(round((x - low) * scale, 1), y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        width = 0.8 + 5 * math.sqrt(abs(float(values[i])) / largest) if largest else 1.0
        helps = not graph.signed or (float(values[i]) < 0) == graph.falls_helps
        colour = HELPS if helps else AGAINST
        pieces.append(
            f'<path d="{_path(points)}" fill="none" stroke="{colour}" stroke-width="{width:.1f}" opacity=".85"/>'
        )
    for node, box in layout.boxes.items():
        x, y, wide = (box.x - low) * scale, height - box.y, box.width * scale
        at = f'x="{x - wide / 2:.1f}" y="{y - box.height / 2:.1f}" width="{wide:.1f}" height="{box.height}"'
        pieces.append(f'<rect {at} rx="5" fill="{PAPER}" stroke="{MUTED}"/>')
        pieces.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="{INK}">{node}</text>')
    look = f'style="max-width:{_STATIC_WIDTH}px;width:100%;background:{PAPER}" font-size="12" font-family="sans-serif"'
    return f'<svg viewBox="0 0 {_STATIC_WIDTH} {height:.0f}" {look}>{"".join(pieces)}</svg>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Curves through pairs of points, straight lines between them, as SVG writes it."""
    said = []
    for (x, y), (to_x, to_y) in zip(points[::2], points[1::2], strict=True):
        middle = round((y + to_y) / 2, 1)
        said.append(f"{'L' if said else 'M'}{x},{y}C{x},{middle} {to_x},{middle} {to_x},{to_y}")
    return "".join(said)
