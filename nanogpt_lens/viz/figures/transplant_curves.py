"""The share of a difference that moves with sets of components, by their size, beside random sets."""

from __future__ import annotations

import math

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.transplants import Transplants
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.numbers import digits

_LOWEST = -1.0
"""Shares farther down are not seen: they would flatten what matters."""
_EACH, _GAP = 210, 64
_GREY = style.OTHER


def curves(result: Transplants) -> Drawing:
    """For each direction the search's order with its interval, random orders, and the set with random ones.

    Raises:
        ResultError: no sets were searched.
    """
    if result.curve is None or result.sizes is None or result.random_curve is None or result.random_share is None:
        raise ResultError("no sets were searched; expected a result of transplant(..., search=True) with a gap")
    names = result.labels["direction"]
    plot = len(names) * _EACH + (len(names) - 1) * _GAP
    figure = make_subplots(rows=len(names), cols=1, vertical_spacing=_GAP / plot, subplot_titles=names)
    sizes, beyond = result.sizes.tolist(), 0
    for i in range(len(names)):
        beyond += _random_orders(figure, i, sizes, result.random_curve[i])
        _order(figure, i, sizes, result)
        _sets(figure, i, result, result.random_share[i, 0])
    lowest = min(0.0, float(result.random_curve.min()), float(result.curve.min()))
    figure.update_yaxes(range=[max(_LOWEST, lowest) - 0.05, 1.08], title_text="share", tickformat=".0%")
    figure.update_xaxes(range=[-0.02 * sizes[-1], 1.02 * sizes[-1]], dtick=1 if sizes[-1] <= 10 else None)
    figure.update_xaxes(title_text="components in the set", row=len(names))
    figure.add_hline(y=result.enough, line={"width": 1, "dash": "dot", "color": style.CATEGORIES[2]})
    figure.update_annotations(x=0, xanchor="left", font={"size": style.TEXT})
    notes = [
        f"On {result.n_held_out} sequences that the search has not seen; dotted: the share that sets were to move",
        "Bands and bars are 95% intervals over the sequences",
        "The set leaves out what the order took and turned out not to be needed",
    ]
    if beyond:
        notes.append(f"{beyond} shares of random sets are below {_LOWEST:g} and not seen")
    return Drawing(
        figure=figure,
        title=_title(result),
        notes=tuple(notes),
        intervals_told=True,
        plot=plot,
        above=26,
        below=50,
        legend=True,
    )


def _order(figure: go.Figure, i: int, sizes: list[int], result: Transplants) -> None:
    """The first components of the search's order, with a band."""
    assert result.curve is not None
    colour = style.ACCENT
    if result.curve_low is not None and result.curve_high is not None:
        ends = [*result.curve_high[i].tolist(), *result.curve_low[i].tolist()[::-1]]
        figure.add_trace(
            go.Scatter(
                x=[*sizes, *sizes[::-1]],
                y=digits(ends),
                fill="toself",
                fillcolor=style.faint(colour),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                name="95% interval",
            ),
            i + 1,
            1,
        )
    figure.add_trace(
        go.Scatter(
            x=sizes,
            y=digits(result.curve[i]),
            mode="lines+markers",
            line={"width": 2, "color": colour},
            marker={"size": 5},
            name="in the order of the search",
            showlegend=i == 0,
            hovertemplate="first %{x} components: share %{y:.4g}.<extra></extra>",
        ),
        i + 1,
        1,
    )


def _random_orders(figure: go.Figure, i: int, sizes: list[int], curves_: Float[Tensor, "shuffle size"]) -> int:
    """Thin lines, one for each random order; returns how many of their shares are not seen."""
    for j, curve in enumerate(curves_):
        figure.add_trace(
            go.Scatter(
                x=sizes,
                y=digits(curve),
                mode="lines",
                line={"width": 1, "color": _GREY},
                opacity=0.6,
                name="in random orders",
                showlegend=i == 0 and j == 0,
                hovertemplate="first %{x} of a random order: share %{y:.4g}.<extra></extra>",
            ),
            i + 1,
            1,
        )
    return int((curves_ < _LOWEST).sum())


def _sets(figure: go.Figure, i: int, result: Transplants, random: Float[Tensor, " draw"]) -> None:
    """The set that was found, and random sets of as many components."""
    assert result.chosen is not None
    assert result.set_share is not None
    assert result.set_low is not None
    assert result.set_high is not None
    at, size = result.measures.index(result.by), int(result.chosen[i].sum())
    share, low, high = (float(t[i, at]) for t in (result.set_share, result.set_low, result.set_high))
    figure.add_trace(
        go.Scatter(
            x=[size] * len(random),
            y=digits(random),
            mode="markers",
            marker={"size": 5, "color": _GREY, "symbol": "circle-open"},
            name="random sets of as many",
            showlegend=i == 0,
            hovertemplate="a random set of %{x}: share %{y:.4g}.<extra></extra>",
        ),
        i + 1,
        1,
    )
    ends = None
    if not math.isnan(low):
        ends = {"array": digits([high - share]), "arrayminus": digits([share - low]), "symmetric": False}
    figure.add_trace(
        go.Scatter(
            x=[size],
            y=digits([share]),
            error_y=ends,
            mode="markers",
            marker={"size": 11, "symbol": "diamond", "color": style.CATEGORIES[1]},
            name="the set that was found",
            showlegend=i == 0,
            hovertemplate=f"the set of {size}: share %{{y:.4g}} ({low:.3g} to {high:.3g}).<extra></extra>",
        ),
        i + 1,
        1,
    )


def _title(result: Transplants) -> str:
    """What the sets move, and what random ones do."""
    assert result.chosen is not None
    assert result.set_share is not None
    assert result.random_share is not None
    at = result.measures.index(result.by)
    said = []
    for i, direction in enumerate(result.labels["direction"]):
        share, random = float(result.set_share[i, at]), float(result.random_share[i, 0].nanmean())
        said.append(f"{int(result.chosen[i].sum())} components move {share:.0%} {direction}, random ones {random:.0%}")
    return "; ".join(said)
