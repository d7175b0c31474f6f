"""How faithful the first edges of a method are, for every number of them, and the circuit that was taken."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from nanogpt_lens.results.found_circuits import Circuit
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.numbers import digits

LOWEST, HIGHEST = -1.0, 2.5
"""The faithfulness that is seen: values beyond would flatten what matters."""
_TICKS = (1, 2, 5)


def curve(result: Circuit) -> Drawing:
    """Faithfulness over the number of edges, the band within which a circuit holds, and the circuit itself.

    Args:
        result: of `ngl.find_circuit`.
    """
    sizes = np.arange(1, len(result.curve))
    values = result.curve[1:].double().numpy()
    figure = go.Figure()
    add_tolerance(figure, result.tolerance)
    figure.add_trace(
        go.Scatter(
            x=sizes,
            y=digits(values),
            mode="lines+markers" if len(sizes) <= 60 else "lines",
            line={"width": 2, "color": style.CATEGORIES[0]},
            marker={"size": 4},
            name="the first edges by rank",
            hovertemplate="first %{x:,} edges: faithfulness %{y:.4g}.<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[result.n_edges],
            y=digits([result.faithfulness]),
            mode="markers",
            marker={
                "size": 12,
                "symbol": "diamond",
                "color": style.CATEGORIES[1],
                "line": {"width": 1.5, "color": "#fff"},
            },
            name="the circuit",
            hovertemplate="the circuit, %{x:,} edges: faithfulness %{y:.4g}.<extra></extra>",
        )
    )
    seen = values[(values >= LOWEST) & (values <= HIGHEST)]
    low, high = min(-0.05, *seen, 0.0), max(1.1, 1.1 + result.tolerance, *seen)
    size_axes(figure, len(sizes), low, high)
    beyond = len(values) - len(seen)
    notes = ["The green band is the tolerance; without an edge faithfulness is 0, with all it is 1"]
    if beyond:
        sizes_are = "1 size is" if beyond == 1 else f"{beyond} sizes are"
        notes.append(f"{sizes_are} beyond {LOWEST:g} to {HIGHEST:g} and not seen")
    return Drawing(figure=figure, title=_title(result), notes=tuple(notes), plot=300, legend=True)


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
