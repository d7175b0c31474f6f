"""How faithful the first edges of a method are, for every number of them, and the circuit that was taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.found_circuits import Circuit
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.numbers import digits, plain

LOWEST, HIGHEST = -1.0, 2.5
"""The faithfulness that is seen: values beyond would flatten what matters."""
_TICKS = (1, 2, 5)


def curve(result: Circuit, beside: Mapping[str, Circuit] | None = None) -> Drawing:
    """Faithfulness over the number of edges, the band within which a circuit holds, and the circuit itself.

    Args:
        result: of `ngl.find_circuit`.
        beside: other circuits by name, whose curves are drawn as well.

    Raises:
        ResultError: something else than circuits by name, or of models with other edges.
    """
    if beside is None:
        return _one(result)
    return _several(result, _checked(result, beside))


def _checked(result: Circuit, beside: Mapping[str, Circuit]) -> dict[str, Circuit]:
    """All circuits by name, the one that is drawn first; it has the name of its method."""
    good = isinstance(beside, Mapping) and all(isinstance(n, str) and isinstance(c, Circuit) for n, c in beside.items())
    if not good or not beside:
        raise ResultError(f"beside is {str(beside)[:60]!r}; expected circuits by name, such as {{'EAP': circuit}}")
    for name, one in beside.items():
        if one.labels["edge"] != result.labels["edge"]:
            raise ResultError(
                f"the circuit {name!r} is of a model with {len(one.kept)} other edges, this one of {len(result.kept)}; "
                "expected circuits of one graph, whose numbers of edges can be compared"
            )
    mine = result.method if result.method not in beside else f"{result.method}, this one"
    return {mine: result, **beside}


def _several(result: Circuit, circuits: dict[str, Circuit]) -> Drawing:
    """A line for each circuit's order, and a diamond at each circuit; the band is the first one's."""
    figure, n = go.Figure(), len(result.kept)
    add_tolerance(figure, result.tolerance)
    every: list[float] = []
    for i, (name, one) in enumerate(circuits.items()):
        values = one.curve[1:].double().numpy()
        every += values.tolist()
        look = {"width": 2, "color": style.colour_of(i), "dash": style.dash_of(i)}
        figure.add_trace(_line(values, look, plain(name), f"{plain(name)}, first"))
        figure.add_trace(_diamond(one, style.colour_of(i), plain(name), legend=False))
    seen = [value for value in every if LOWEST <= value <= HIGHEST]
    size_axes(figure, n, min(-0.05, *seen, 0.0), max(1.1, 1.1 + result.tolerance, *seen))
    notes = ["A line is the first edges of an order, a diamond the circuit that was taken; each on its own prompts"]
    notes += _beyond(len(every) - len(seen), "value")
    sizes = [f"{plain(name)} {one.n_edges:,}" for name, one in circuits.items()]
    return Drawing(
        figure=figure,
        title=f"Edges that they take: {', '.join(sizes)}",
        notes=(f"The green band is within {result.tolerance:.2g} of 1", *notes),
        plot=320,
        legend=True,
    )


def _one(result: Circuit) -> Drawing:
    """The curve of one circuit."""
    figure, values = go.Figure(), result.curve[1:].double().numpy()
    add_tolerance(figure, result.tolerance)
    line = _line(values, {"width": 2, "color": style.CATEGORIES[0]}, "the first edges by rank", "first")
    figure.add_trace(line)
    figure.add_trace(_diamond(result, style.CATEGORIES[1], "the circuit"))
    seen = values[(values >= LOWEST) & (values <= HIGHEST)]
    low, high = min(-0.05, *seen, 0.0), max(1.1, 1.1 + result.tolerance, *seen)
    size_axes(figure, len(values), low, high)
    notes = ["The green band is the tolerance; without an edge faithfulness is 0, with all it is 1"]
    notes += _beyond(len(values) - len(seen), "size")
    return Drawing(figure=figure, title=_title(result), notes=tuple(notes), plot=300, legend=True)


def _line(values: np.ndarray, look: dict[str, Any], name: str, hover: str) -> go.Scatter:
    """The faithfulness of the first n edges, for n from 1 on."""
    return go.Scatter(
        x=np.arange(1, len(values) + 1),
        y=digits(values),
        mode="lines+markers" if len(values) <= 60 else "lines",
        line=look,
        marker={"size": 4},
        name=name,
        hovertemplate=f"{hover} %{{x:,}} edges: faithfulness %{{y:.4g}}.<extra></extra>",
    )


def _diamond(one: Circuit, colour: str, name: str, *, legend: bool = True) -> go.Scatter:
    """The circuit that was taken."""
    return go.Scatter(
        x=[one.n_edges],
        y=digits([one.faithfulness]),
        mode="markers",
        marker={"size": 12, "symbol": "diamond", "color": colour, "line": {"width": 1.5, "color": "#fff"}},
        name=name,
        showlegend=legend,
        hovertemplate=f"{name}, %{{x:,}} edges: faithfulness %{{y:.4g}}.<extra></extra>",
    )


def _beyond(n: int, what: str) -> list[str]:
    """The note that some values are not seen; nothing where all are."""
    if not n:
        return []
    are = f"1 {what} is" if n == 1 else f"{n:,} {what}s are"
    return [f"{are} beyond {LOWEST:g} to {HIGHEST:g} and not seen"]


def _title(result: Circuit) -> str:
    """How many edges the circuit needs, and how many the first by rank would be."""
    within = (result.curve - 1).abs() <= result.tolerance
    outside = (~within).nonzero()[:, 0]
    lasting = int(outside[-1]) + 1 if len(outside) else 0
    first = int(within.nonzero()[0, 0]) if bool(within.any()) else lasting
    work = "the work" if result.holds else f"{result.faithfulness:.0%} of the work"
    if result.holds and first == lasting == result.n_edges:
        return f"{result.n_edges:,} edges do {work}, the first by rank"
    said = f"{result.n_edges:,} edges do {work}; by rank alone it takes {first:,}"
    return said if first == lasting else f"{said}, and {lasting:,} to stay there"


def size_axes(figure: go.Figure, n: int, low: float, high: float) -> None:
    """The number of edges as powers of ten, so that small circuits have room."""
    ticks = [step * 10**power for power in range(len(str(n))) for step in _TICKS if step * 10**power <= n]
    ticks = [tick for tick in ticks if tick * 1.3 < n or tick == n] + ([n] if n not in ticks else [])
    room = 0.04 * np.log10(max(n, 2))
    figure.update_xaxes(
        type="log",
        range=[-room, np.log10(max(n, 2)) + room],
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        title_text="number of edges",
    )
    figure.update_yaxes(range=[low - 0.03, high + 0.03], title_text="faithfulness")


def add_tolerance(figure: go.Figure, tolerance: float) -> None:
    """Add the band of faithfulness that is near enough to 1."""
    figure.add_hrect(
        y0=1 - tolerance,
        y1=1 + tolerance,
        fillcolor=style.faint(style.CATEGORIES[2]),
        line_width=0,
        layer="below",
        name="within the tolerance",
    )
