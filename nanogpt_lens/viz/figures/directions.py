"""Directions: principal components, what a direction writes, what it resembles, what steering along it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.effects import PrincipalComponents, SimilarDirections, SteeringEffect
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.bars import bar_panels
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import count, one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import said
from nanogpt_lens.viz.figures.labels import distinct
from nanogpt_lens.viz.figures.lines import add_line, bar_chart
from nanogpt_lens.viz.figures.numbers import Measured, digits
from nanogpt_lens.viz.tokens import harmless


def components(result: PrincipalComponents, *, k: int = 20) -> Drawing:
    """The share of the variance of each component, and their sum so far.

    Args:
        result: of `ngl.directions.principal_components`.
        k: how many components.

    Raises:
        ResultError: `k` is no whole number from 1 on.
    """
    share = 100 * result.ratio.double()[: count("k", k)]
    figure, x = go.Figure(), list(range(len(share)))
    figure.add_trace(
        go.Bar(
            x=x,
            y=digits(share),
            name="each",
            marker={"color": style.ACCENT},
            hovertemplate="Component %{x}: %{y:.3g}% of the variance.<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=digits(share.cumsum(0)),
            name="sum so far",
            mode="lines+markers",
            line={"color": style.CATEGORIES[1], "width": 2},
            marker={"size": 5},
            hovertemplate="The first %{x} and one more: %{y:.3g}% of the variance.<extra></extra>",
        )
    )
    notes = [result.quantity[:1].upper() + result.quantity[1:]]
    if len(x) < result.shape["component"]:
        notes.append(f"The first {len(x)} of the {result.shape['component']} components kept")
    figure.update_xaxes(title_text="principal component", dtick=1 if len(x) <= 12 else None)
    figure.update_yaxes(title_text="share of the variance (%)", range=[0, 105])
    return Drawing(figure=figure, title=_explained(result), plot=270, legend=True, notes=tuple(notes))


def _explained(result: PrincipalComponents) -> str:
    """How much of the variance the first components have."""
    share = result.ratio.double()
    first = f"The first component has {float(share[0]):.0%} of the variance"
    return first + (f", the first {min(3, len(share))} {float(share[:3].sum()):.0%}" if len(share) > 2 else "")


def tokens(result: Result, *, k: int = 10) -> Drawing:
    """The tokens whose logits a direction raises and lowers most.

    Args:
        result: values [token].
        k: how many of each.

    Raises:
        ResultError: `k` is no whole number from 1 on.
    """
    order = result.values.argsort(descending=True, stable=True)
    n = len(order)
    kept = order if 2 * count("k", k) >= n else torch.cat([order[:k], order[-k:]])
    labels = result.labels.get("token") or tuple(map(str, range(n)))
    names = distinct([quoted(labels[i]) for i in kept.tolist()])
    chance = getattr(result, "chance", None)
    note = [f"The {k} highest and the {k} lowest of {n} tokens"] if len(kept) < n else []
    values = result.values[kept]
    level = None if chance is None else chance[kept] * values.sign()
    return bar_chart(
        names,
        Measured(values, chance=level),
        title=f"The direction adds most to {names[0]}, and takes most from {names[-1]}"
        if float(values[0]) > 0 > float(values[-1])
        else "What the direction adds to logits",
        unit="logit, mean-free",
        what="token",
        notes=note,
        named="95%_of_random_directions",
    )


def similar(result: SimilarDirections, *, which: str | None = None, k: int = 8) -> Drawing:
    """The vectors with the largest cosines, by kind, beside the largest that random directions reach.

    Args:
        result: of `ngl.directions.direction_similarity`.
        which: only "input", "output", "embedding" or "unembedding".
        k: how many of each kind.

    Raises:
        ResultError: another word.
    """
    kinds = list(result.chance_of_largest)
    chosen = kinds if which is None else [one_of("which", which, kinds)]
    titles = {
        "input": "neurons' inputs",
        "output": "neurons' outputs",
        "embedding": "tokens' embeddings",
        "unembedding": "tokens' unembeddings",
    }
    groups = []
    for kind in chosen:
        places = [i for i, label in enumerate(result.labels["vector"]) if label.startswith(f"{kind} ")]
        values = result.values[places].double()
        order = values.abs().argsort(descending=True, stable=True)[: count("k", k)].tolist()
        names = [result.labels["vector"][places[i]].split(" ")[1] for i in order]
        if kind.endswith("embedding"):
            names = distinct([quoted(result.texts[int(name)]) for name in names])
        level = torch.full((len(order),), result.chance_of_largest[kind], dtype=torch.float64) * values[order].sign()
        groups.append((f"cosine with {titles.get(kind, kind)}", names, Measured(values[order], chance=level)))
    return bar_panels(
        groups,
        title=_resembles(groups),
        named="largest_of_random_directions",
        notes=[f"The {k} largest in magnitude of each kind. Tick: 95% of random directions have none beyond it"],
    )


def _resembles(groups: Sequence[tuple[str, list[str], Measured]]) -> str:
    """What the direction resembles more than random directions do, and most."""
    found = [
        (abs(value), name, what.removeprefix("cosine with "))
        for what, names, numbers in groups
        for name, value, level in zip(names, numbers.values.tolist(), _levels(numbers), strict=True)
        if abs(value) > level
    ]
    if not found:
        return "The direction resembles nothing more than random directions do"
    size, name, what = max(found)
    return f"Of {what}, the direction resembles {name} most: cosine {said(size)} in size"


def _levels(numbers: Measured) -> list[float]:
    return [math.inf] * len(numbers.values) if numbers.chance is None else numbers.chance.abs().tolist()


def steering(result: SteeringEffect, *, score: str | None = None) -> Drawing:
    """Scores by scale, beside random directions: their mean, and between their extremes.

    Args:
        result: of `ngl.steering_effect`.
        score: only this one; None for all but "loss".

    Raises:
        ResultError: no such score.
    """
    labels = list(result.labels["score"])
    rest = [i for i, name in enumerate(labels) if name != "loss" and not name.endswith(" change")]
    chosen = rest if score is None else [score_of(result, score)]
    columns = min(2, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    each, gap = (260, 0) if len(chosen) == 1 else (170, 62)
    plot = rows * each + (rows - 1) * gap
    figure = make_subplots(
        rows=rows, cols=columns, horizontal_spacing=0.16, vertical_spacing=gap / plot if rows > 1 else 0
    )
    order = sorted(range(len(result.scales)), key=lambda i: result.scales[i])
    x = [result.scales[i] for i in order]
    for n, i in enumerate(chosen):
        panel: dict[str, Any] = {"row": n // columns + 1, "col": n % columns + 1}
        numbers = Measured.of(result).at((order, i))
        if numbers.chance is not None:
            ends = (None if t is None else t[order, i] for t in (result.chance_low, result.chance_high))
            add_line(
                figure,
                x,
                Measured(numbers.chance, *ends),
                name="random directions",
                what="scale",
                legend=n == 0,
                colour=style.OTHER,
                dash="5px,4px",
                **panel,
            )
            _rename_band(figure)
        add_line(figure, x, numbers, name="this direction", what="scale", legend=n == 0, colour=style.ACCENT, **panel)
        _name_panel(figure, n, labels[i], result.unit_of(labels[i]))
        figure.update_yaxes(nticks=6, row=panel["row"], col=panel["col"])
        last = n + columns >= len(chosen)
        figure.update_xaxes(title_text="scale" if last else "", row=panel["row"], col=panel["col"])
    told = interval_of(result, "Bands")
    notes = (f"{told}; of the random directions from the lowest to the highest",)
    return Drawing(
        figure=figure,
        title=_steers(result, chosen),
        notes=notes,
        intervals_told=True,
        plot=plot,
        left=52,
        above=24,
        legend=True,
    )


def _steers(result: SteeringEffect, chosen: Sequence[int]) -> str:
    """Whether the first score is beyond all random directions at the largest scale."""
    i = chosen[0]
    far = max(range(len(result.scales)), key=lambda j: abs(result.scales[j]))
    name = "KL" if result.labels["score"][i] == "kl" else harmless(result.labels["score"][i], spaces=False)
    where = f"at scale {result.scales[far]:g}".replace("-", "−")
    value = f"{name} {said(float(result.values[far, i]), result.unit_of(result.labels['score'][i]))} {where}"
    if result.chance_low is None or result.chance_high is None:
        return f"Steering: {value}"
    low, high = float(result.chance_low[far, i]), float(result.chance_high[far, i])
    inside = low <= float(result.values[far, i]) <= high
    return f"Steering: {value}, " + (
        "as random directions do" if inside else f"random ones {said(low)} to {said(high)}"
    )


def _name_panel(figure: go.Figure, n: int, score: str, unit: str) -> None:
    """Write the score and its unit above the n-th panel."""
    which = str(n + 1) if n else ""
    name = "KL" if score == "kl" else harmless(score, spaces=False)
    figure.add_annotation(
        text=f"{name}, {unit}",
        xref=f"x{which} domain",
        yref=f"y{which} domain",
        x=0,
        y=1,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": style.SMALL},
        xshift=-30,
    )


def quoted(token: str) -> str:
    """A token between quotes, as the label of an axis: a full stop alone would not be seen."""
    return f"“{harmless(token, longest=14)}”"


def _rename_band(figure: go.Figure) -> None:
    """The band of the controls is no interval."""
    traces: Any = figure.data[-2:]
    for trace in traces:
        if trace.name == "random directions, 95% interval":
            trace.name = "random directions, lowest to highest"
        elif trace.hovertemplate:
            trace.hovertemplate = trace.hovertemplate.replace("95% interval", "lowest to highest")
