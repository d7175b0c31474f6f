"""Where the nodes of a circuit stand, and the ways of its edges between them: layers upwards, around all other nodes.

A row holds the heads of a layer, or one MLP; the embedding is below all of them, the logits are above. An edge leaves
its sender upwards and reaches its receiver from below. Through the rows between it goes straight up, in a gap
beside the nodes, and edges that share a gap have lanes of their own.

x is in heads (head 2 stands at 2), y in pixels from the bottom.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from nanogpt_lens.core.errors import ResultError

Point: TypeAlias = tuple[float, float]
Ends: TypeAlias = tuple[str, str, str]
"""The node that an edge leaves, the node that it reaches, and "q", "k", "v" or ""."""

_NAME = re.compile(r"(embed|mlp\d{1,3}|\d{1,3}\.\d{1,3})->(?:(mlp\d{1,3}|logits)|(\d{1,3}\.\d{1,3})\.([qkv]))")
PORTS = {"q": -0.19, "k": 0.0, "v": 0.19}
"""Where a head is reached, in heads beside its middle."""

_HEAD = 0.62  # width of a head, in heads
_BESIDE = 0.06  # between a node and the first lane
_LANE = 0.07  # between two lanes, where there is room and there are not many heads
_MOST = 2048  # heads
_MARGIN, _LEAST = 0.72, 4.44  # beside the outermost heads; of x in all, so that few heads are not stretched


@dataclass(frozen=True)
class Box:
    """A node's rectangle: its middle, and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> float:
        """Where edges leave."""
        return self.y + self.height / 2

    @property
    def bottom(self) -> float:
        """Where edges arrive."""
        return self.y - self.height / 2


@dataclass(frozen=True)
class Way:
    """The way of an edge: straight up within a row, curves between them.

    Attributes:
        curves: the start and the end of each curve, upwards; both are left vertically.
    """

    curves: tuple[tuple[Point, Point], ...]

    def path(self) -> str:
        """The way as SVG writes it."""
        said = []
        for (x, y), (to_x, to_y) in self.curves:
            middle = (y + to_y) / 2
            said.append(f"{'L' if said else 'M'}{x:.3f},{y:.1f}")
            said.append(f"C{x:.3f},{middle:.1f} {to_x:.3f},{middle:.1f} {to_x:.3f},{to_y:.1f}")
        return " ".join(said)

    def points(self, most: int) -> list[Point]:
        """At most so many points of the way, near its ends and in the middle of curves."""
        every = [(0, 0.25), *((i, 0.5) for i in range(len(self.curves))), (-1, 0.85)]
        step = max(1, -(-len(every) // most))
        return [self._at(*place) for place in every[step // 2 :: step]]

    def _at(self, curve: int, t: float) -> Point:
        (x, y), (to_x, to_y) = self.curves[curve]
        return x + (to_x - x) * t * t * (3 - 2 * t), y + (to_y - y) * (1.5 * t * (1 - t) + t**3)


def ends_of(name: str) -> Ends:
    """The ends of an edge that is named as "0.1->1.0.k".

    Raises:
        ResultError: it is named otherwise.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ResultError(f"{name[:60]!r} is no edge of a circuit; expected a name such as '0.1->1.0.k'")
    sender, other, head, part = match.groups()
    return sender, other or head, part or ""


class CircuitLayout:
    """The places of all nodes of a model's graph.

    Args:
        n_layers, n_heads: of the model.
    """

    def __init__(self, n_layers: int, n_heads: int) -> None:
        self.n_layers, self.n_heads = n_layers, n_heads
        small = n_layers > 6
        self.gap = max(26, min(58, 620 // (2 * n_layers + 1)))  # pixels between rows
        self.lane = _LANE * max(1.0, n_heads / 8)
        self.head_height, self.height = (30, 18) if small else (38, 26)

    @classmethod
    def of(cls, edges: Sequence[Ends]) -> CircuitLayout:
        """The layout of the model that has these edges, its whole graph.

        Raises:
            ResultError: one of them leads downwards.
        """
        nodes = {node for edge in edges for node in edge[:2]}
        heads = [tuple(map(int, node.split("."))) for node in nodes if "." in node]
        layers = [layer for layer, _ in heads] + [int(node[3:]) for node in nodes if node.startswith("mlp")]
        n_layers, n_heads = max(layers, default=-1) + 1, max((head for _, head in heads), default=0) + 1
        if n_layers * n_heads > _MOST:
            raise ResultError(f"{n_layers} layers with {n_heads} heads are not drawn; expected at most {_MOST} heads")
        layout = cls(n_layers, n_heads)
        for sender, receiver, _ in edges:
            if layout.row_of[sender] >= layout.row_of[receiver]:
                raise ResultError(f"the edge {sender}->{receiver} does not lead upwards; expected a receiver above")
        return layout

    @cached_property
    def rows(self) -> list[list[str]]:
        """The nodes of each row, from the bottom."""
        layers = [row for i in range(self.n_layers) for row in ([f"{i}.{h}" for h in range(self.n_heads)], [f"mlp{i}"])]
        return [["embed"], *layers, ["logits"]]

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each node."""
        return {node: i for i, row in enumerate(self.rows) for node in row}

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """Where each node is."""
        middle, bottom, boxes = (self.n_heads - 1) / 2, 4.0, {}
        for row in self.rows:
            of_heads = "." in row[0]
            high = self.head_height if of_heads else self.height
            wide = _HEAD if of_heads else max(0.9, 0.14 * self.n_heads)
            for i, node in enumerate(row):
                boxes[node] = Box(float(i) if of_heads else middle, bottom + high / 2, wide, high)
            bottom += high + self.gap
        return boxes

    @property
    def size(self) -> tuple[tuple[float, float], float]:
        """From where to where x goes, and the height in pixels."""
        beside = max(_MARGIN, (_LEAST - (self.n_heads - 1)) / 2)
        return (-beside, self.n_heads - 1 + beside), self.boxes["logits"].top + 4

    def port(self, node: str, part: str) -> Point:
        """Where a head is reached as query, key or value."""
        box = self.boxes[node]
        return box.x + PORTS[part], box.bottom

    def ways(self, edges: Sequence[Ends]) -> list[Way]:
        """The way of each edge."""
        lanes = self._lanes([self._rough(edge) for edge in edges])
        starts = self._spread([edge[0] for edge in edges], lanes, edges, leaving=True)
        stops = self._spread(["".join(edge[1:]) for edge in edges], lanes, edges, leaving=False)
        ways = []
        for edge, lane, start, stop in zip(edges, lanes, starts, stops, strict=True):
            first = self.row_of[edge[0]]
            points = [(start, self.boxes[edge[0]].top)]
            for i, x in enumerate(lane, first + 1):
                box = self.boxes[self.rows[i][0]]
                points += [(x, box.bottom), (x, box.top)]
            points.append((stop, self.boxes[edge[1]].bottom))
            ways.append(Way(tuple(zip(points[::2], points[1::2], strict=True))))
        return ways

    def _rough(self, edge: Ends) -> list[tuple[int, int, float]]:
        """For each row between the ends: the row, the gap that the edge takes, and where in it it would like to be."""
        x, stop = self.boxes[edge[0]].x, self._end(edge)
        first, last = self.row_of[edge[0]], self.row_of[edge[1]]
        places = []
        for row in range(first + 1, last):
            wish = x + (stop - x) / (last - row + 1)
            outwards = -1e-6 if wish < (self.n_heads - 1) / 2 else 1e-6
            gaps = self._gaps[row]
            near = [max(low, min(high, wish)) for low, high in gaps]
            gap = min(range(len(gaps)), key=lambda i: abs(near[i] - wish - outwards))
            x = near[gap]
            places.append((row, gap, x))
        return places

    def _end(self, edge: Ends) -> float:
        return self.port(edge[1], edge[2])[0] if edge[2] else self.boxes[edge[1]].x

    @cached_property
    def _gaps(self) -> list[list[tuple[float, float]]]:
        """Where each row can be passed, from the left."""
        low, high = self.size[0]
        gaps = []
        for row in self.rows:
            ends = [low + _BESIDE / 2]
            for box in (self.boxes[node] for node in row):
                ends += [box.x - box.width / 2 - _BESIDE, box.x + box.width / 2 + _BESIDE]
            ends.append(high - _BESIDE / 2)
            gaps.append([(a, max(a, b)) for a, b in zip(ends[::2], ends[1::2], strict=True)])
        return gaps

    def _lanes(self, rough: Sequence[Sequence[tuple[int, int, float]]]) -> list[list[float]]:
        """The same places, apart from each other where they share a gap."""
        users: dict[tuple[int, int], list[tuple[float, int, int]]] = defaultdict(list)
        for edge, places in enumerate(rough):
            for step, (row, gap, x) in enumerate(places):
                after = places[step + 1][2] if step + 1 < len(places) else x
                users[row, gap].append((x + 1e-3 * after, edge, step))
        lanes = [[x for _, _, x in places] for places in rough]
        for (row, gap), members in users.items():
            members.sort()
            wishes = [lanes[edge][step] for _, edge, step in members]
            for (_, edge, step), x in zip(members, _apart(wishes, *self._gaps[row][gap], self.lane), strict=True):
                lanes[edge][step] = x
        return lanes

    def _spread(
        self, places: Sequence[str], lanes: Sequence[Sequence[float]], edges: Sequence[Ends], *, leaving: bool
    ) -> list[float]:
        """Where each edge leaves its sender, or arrives: beside the others that do so there, in the order of ways."""
        users: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for i, (place, lane, edge) in enumerate(zip(places, lanes, edges, strict=True)):
            other = self._end(edge) if leaving else self.boxes[edge[0]].x
            users[place].append(((lane[0] if leaving else lane[-1]) if lane else other, i))
        spread = [0.0] * len(edges)
        for members in users.values():
            members.sort()
            edge = edges[members[0][1]]
            part = "" if leaving else edge[2]
            middle = self.boxes[edge[0]].x if leaving else self._end(edge)
            half = 0.07 if part else 0.36 * self.boxes[edge[0] if leaving else edge[1]].width
            step = min(self.lane if not part else 0.03, 2 * half / max(1, len(members) - 1))
            for place, (_, i) in enumerate(members):
                spread[i] = middle + step * (place - (len(members) - 1) / 2)
        return spread


def _apart(wishes: Sequence[float], low: float, high: float, lane: float) -> list[float]:
    """Places within a gap at least a lane apart, as near to the ascending wishes as that allows: least squares."""
    step = min(lane, (high - low) / max(1, len(wishes) - 1))
    pools: list[tuple[float, int]] = []  # the mean and the number of neighbours that move together
    for i, wish in enumerate(wishes):
        mean, n = wish - i * step, 1
        while pools and pools[-1][0] >= mean:
            before, m = pools.pop()
            mean, n = (before * m + mean * n) / (m + n), m + n
        pools.append((mean, n))
    most = high - (len(wishes) - 1) * step
    shifts = [max(low, min(most, mean)) for mean, n in pools for _ in range(n)]
    return [shift + i * step for i, shift in enumerate(shifts)]
