"""Neurons that separate a class of tokens, and what is lost without neurons."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.effects import NeuronAblation, SeparatingNeurons
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import count, one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import said, surely_beyond
from nanogpt_lens.viz.figures.labels import distinct, places, words
from nanogpt_lens.viz.figures.lines import bar_chart, bars_axes, bars_height, errors, histogram, log_axis, upright
from nanogpt_lens.viz.figures.numbers import Measured, bounds, digits
from nanogpt_lens.viz.tokens import harmless


def best(result: SeparatingNeurons, *, kind: Literal["best", "all"] = "best", k: int = 15) -> Drawing:
    """AUROC of the best neurons, chosen and held out, with intervals; or of all neurons, beside chance.

    Args:
        result: of `ngl.find_neurons`.
        kind: "best" or "all".
        k: how many.

    Raises:
        ResultError: another kind.
    """
    one_of("kind", kind, ("best", "all"))
    note = (
        f"{result.n_class[0]:,} of {result.n_tokens[0]:,} tokens of the first part are of the class, "
        f"{result.n_class[1]:,} of {result.n_tokens[1]:,} held out. Chance: 95% of shifts of the class leave every "
        f"neuron at or below {result.chance:.3f}"
    )
    if kind == "all":
        return _all(result, note)
    order = result.separation.flatten().argsort(descending=True, stable=True)[: count("k", k)]
    width, layers = result.separation.shape[1], places(result, "layer")
    labels = [f"{layers[i // width]}.{i % width}" for i in order.tolist()]
    first, held, low, high, p, sign = (
        tensor.flatten()[order].double()
        for tensor in (result.separation, result.held_out, result.low, result.high, result.p, result.sign)
    )
    figure, out = go.Figure(), bool(held.isfinite().any())
    measured = Measured(held if out else first, low, high)
    data = digits(torch.stack([first, held, low, high, p, sign], -1))
    figure.add_trace(
        go.Scatter(
            y=labels,
            x=digits(measured.values),
            mode="markers",
            name="held out" if out else "first part",
            customdata=data,
            error_x=errors(measured, colour=style.ACCENT),
            marker={"size": 8, "color": style.ACCENT},
            hovertemplate="Neuron %{y}: AUROC %{x:.4g} (95% interval %{customdata[2]:.4g} to %{customdata[3]:.4g}); "
            "first part %{customdata[0]:.4g}; p %{customdata[4]:.2g}; sign %{customdata[5]:+d}.<extra></extra>",
        )
    )
    if out:
        figure.add_trace(_rings(labels, first))
    figure.add_trace(_chance_line(labels, result.chance))
    left = bars_axes(figure, labels, unit="AUROC (0.5: no separation)", what="neuron")
    least = min(0.5, bounds(measured.values, first, low)[0])
    figure.update_xaxes(range=[least - 0.01, 1.01], autorange=False, zeroline=False)
    return Drawing(
        figure=figure,
        title=f"Neuron {labels[0]} separates {_class_of(result)} best: AUROC {said(float(measured.values[0]))}"
        + (f", chance {said(result.chance)}" if result.chance == result.chance else ""),
        plot=bars_height(len(labels)),
        left=left,
        notes=(note, interval_of(result, "Bars")),
        intervals_told=True,
        legend=True,
    )


def _rings(labels: list[str], first: Float[Tensor, " neuron"]) -> go.Scatter:
    """Rings at the AUROC on the part on which the neurons were chosen."""
    return go.Scatter(
        y=labels,
        x=digits(first),
        mode="markers",
        name="where it was chosen",
        marker={"size": 8, "color": style.OTHER, "symbol": "circle-open", "line": {"width": 2}},
        hovertemplate="Neuron %{y}: AUROC %{x:.4g} on the part it was chosen on.<extra></extra>",
    )


def _chance_line(labels: list[str], chance: float) -> go.Scatter:
    """A dashed line, from the first label to the last, at what the best neuron reaches by chance."""
    return go.Scatter(
        y=[labels[0], labels[-1]],
        x=digits([chance] * 2),
        mode="lines",
        name="best by chance",
        line={"color": style.INK, "dash": "5px,4px", "width": 1.5},
        hovertemplate="Chance %{x:.4g}.<extra></extra>",
    )


def _class_of(result: SeparatingNeurons) -> str:
    """The name of the class, if it is short."""
    return result.predicate if 0 < len(result.predicate) <= 24 else "the class"


def _all(result: SeparatingNeurons, note: str) -> Drawing:
    values = result.values.double()
    counts, edges = np.histogram(values[values.isfinite()].numpy(), bins=60, range=(0, 1))
    figure = go.Figure()
    histogram(figure, edges, counts, name="neurons", what="neurons")
    top = float(counts.max()) or 1.0
    for end, legend in ((result.chance, True), (1 - result.chance, False)):
        upright(figure, end, name="best by chance", top=top, legend=legend)
    figure.update_xaxes(title_text="AUROC (0.5: no separation)", range=[0, 1])
    figure.update_yaxes(title_text="neurons")
    log_axis(figure, 0.9, top)
    beyond = int((result.separation > result.chance).sum())
    notes = (note,)
    return Drawing(
        figure=figure,
        title=f"{beyond:,} of {values.numel():,} neurons separate {_class_of(result)} by more than chance",
        notes=notes,
        intervals_told=True,
        plot=260,
        legend=True,
    )


def ablation(
    result: NeuronAblation, *, kind: Literal["scores", "hits"] = "scores", score: str | None = None, k: int = 15
) -> Drawing:
    """How much the loss rises without the neurons, beside control sets; or the tokens that are hit hardest.

    Args:
        result: of `ngl.ablate_neurons`.
        kind: "scores" or "hits".
        score: only this one; None for all rises and differences.
        k: how many hits.

    Raises:
        ResultError: another kind, no such score.
    """
    one_of("kind", kind, ("scores", "hits"))
    if kind == "hits":
        return _hits(result, count("k", k))
    names = list(result.labels["score"])
    chosen = [i for i, name in enumerate(names) if name != "loss"] if score is None else [score_of(result, score)]
    labels = [places(result, "score")[i] for i in chosen]
    strong = result.controls_as_strong[chosen]
    others = {"share_of_control_sets_as_strong": strong} if bool(strong.isfinite().any()) else None
    taken = _named(result.labels["ablated"][0])
    return bar_chart(
        labels,
        Measured.of(result).at((0, chosen)),
        title=_lost(result, chosen[0], taken),
        unit=result.unit,
        others=others,
        named="mean_of_controls",
    )


def _named(taken: str) -> str:
    """Neurons such as "0.3+1.7" in words."""
    each = taken.split("+")
    if len(taken) > 60 or not all(re.fullmatch(r"\d+\.\d+", one) for one in each):
        return taken[:60] if len(each) == 1 else f"{len(each)} neurons"
    return f"neuron {taken}" if len(each) == 1 else f"neurons {', '.join(each[:-1])} and {each[-1]}"


def _lost(result: NeuronAblation, score: int, taken: str) -> str:
    """What becomes of a score without the neurons, as far as that is sure."""
    name, value = result.labels["score"][score], float(result.values[0, score])
    one = Measured.of(result).at((0, [score]))
    beyond, unit = surely_beyond(one), result.unit_of(name)
    if name != "rise":
        return f"Without {taken}: {words(name)} {said(value, unit)}"
    if beyond is not None and not bool(beyond[0][0]) and not bool(beyond[1][0]):
        return f"Without {taken} the loss does not surely change"
    return f"Without {taken} the loss {'falls' if value < 0 else 'rises'} by {said(abs(value), unit)}"


def _hits(result: NeuronAblation, k: int) -> Drawing:
    labels, groups = [], result.hit_texts[:k]
    for before, token in groups:
        labels.append(harmless(before[-14:], spaces=False, longest=14) + " → " + harmless(token, longest=8))
    labels = distinct(labels)
    losses = result.hit_losses[:k].double()
    return bar_chart(
        labels,
        Measured(result.hit_values[:k]),
        title=f"Hit hardest, by {said(float(result.hit_values[0]), 'nats')}: {labels[0]}" if labels else "None is hit",
        unit="rise of the loss (nats)",
        what="what precedes → token",
        others={"loss_before": losses[:, 0], "loss_after": losses[:, 1]},
        notes=[f"The first {len(labels)} of {len(result.hit_texts)}"] if len(labels) < len(result.hit_texts) else [],
    )
