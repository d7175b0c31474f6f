"""The tuned lens beside the logit lens, with intervals; and how it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go
import torch

from nanogpt_lens.results.lens import LensScores, TunedLens, name_of
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import extremes, said
from nanogpt_lens.viz.figures.labels import words
from nanogpt_lens.viz.figures.lens import along, depth_axis, depths_of
from nanogpt_lens.viz.figures.lines import add_line, log_axis
from nanogpt_lens.viz.figures.numbers import Measured, bounds

_COLOURS = {
    "logit": style.OTHER,
    "tuned": style.ACCENT,
    "gain": style.CATEGORIES[2],
    "home": style.CATEGORIES[3],
    "loss_of_fit": style.CATEGORIES[4],
}
_NAMES = {"logit": "logit lens", "tuned": "tuned lens", "home": "tuned lens on its own model"}


def scores(result: LensScores, *, score: str | None = None, y: Literal["log", "linear"] = "log") -> Drawing:
    """KL of the tuned lens and the logit lens over depth, intervals as bands.

    Args:
        result: values [score, layer, point].
        score: only this one, such as "gain"; None for the lenses themselves.
        y: scale of the KL axis; a logarithmic one leaves out what is 0, the model's output.

    Raises:
        ResultError: no such score or scale.
    """
    one_of("y", y, ("log", "linear"))
    labels = result.labels["score"]
    chosen = [name for name in ("logit", "tuned", "home") if name in labels]
    chosen = chosen if score is None else [labels[result._index("score", score)]]
    figure, x = go.Figure(), depths_of(result)
    names = [name for *_, name in result.in_depth_order()]
    rows = {name: _row(result, name) for name in chosen}
    every = torch.cat([row.values for row in rows.values()])
    y = "linear" if bounds(every)[0] < 0 else y
    for name, row in rows.items():
        kept = [i for i, value in enumerate(row.values.tolist()) if y == "linear" or value > 0]
        add_line(
            figure,
            [x[i] for i in kept],
            row.at(kept),
            name=_NAMES.get(name, words(name)),
            what="depth",
            texts=[names[i] for i in kept],
            colour=_COLOURS.get(name, style.INK),
            unit=" nats",
        )
    depth_axis(result, figure)
    what = "KL(final ‖ lens) (nats)" if score is None else f"{words(score)}: KL(final ‖ lens) (nats)"
    figure.update_yaxes(title_text=what, rangemode="tozero" if y == "linear" else "normal")
    if y == "log":
        log_axis(figure, *bounds(every[every > 0]))
    notes = [interval_of(result, "Bands")] if result.low is not None else []
    if y == "log":
        notes.append("At the output both are 0, which a logarithmic axis does not have")
    return Drawing(
        figure=figure,
        title=_closer(result) if score is None else _most(result, score, names),
        notes=tuple(notes),
        intervals_told=result.low is not None,
        plot=300,
        legend=True,
    )


def _most(result: LensScores, score: str, names: Sequence[str]) -> str:
    """At which depth a score is largest."""
    return extremes(names, _row(result, score), what=words(score).capitalize(), unit="nats")


def _closer(result: LensScores) -> str:
    """At how many depths the tuned lens is surely closer to the output."""
    if not {"logit", "tuned"} <= set(result.labels["score"]):
        return "Tuned lens and logit lens"
    logit, tuned = _row(result, "logit"), _row(result, "tuned")
    there = (logit.values > 0) & (tuned.values > 0)
    known = logit.low is not None and tuned.high is not None
    nearer = tuned.high < logit.low if tuned.high is not None and logit.low is not None else tuned.values < logit.values
    n, closer = int(there.sum()), int((there & nearer).sum())
    if closer == n > 0:
        return f"The tuned lens is closer to the output than the logit lens at all {n} depths"
    return f"The tuned lens is {'surely ' * known}closer to the output than the logit lens at {closer} of {n} depths"


def lens(
    result: TunedLens,
    *,
    kind: Literal["scores", "training"] = "scores",
    score: str | None = None,
    y: Literal["log", "linear"] = "log",
) -> Drawing:
    """The figure of `scores`, or KL on the text that decides when to stop, by training step.

    Args:
        result: a tuned lens.
        kind: "scores" or "training".
        score, y: see `scores`.

    Raises:
        ResultError: another word.
    """
    one_of("kind", kind, ("scores", "training"))
    if kind == "scores":
        return scores(result, score=score, y=y)
    one_of("y", y, ("log", "linear"))
    figure = go.Figure()
    for i, depth in enumerate(result.translated):
        add_line(
            figure,
            list(result.curve_steps),
            Measured(result.curve[:, i]),
            what="step",
            name=name_of(depth).replace(" of layer", ""),
            colour=style.colour_of(i),
            dash=style.dash_of(i),
            unit=" nats",
            markers=False,
        )
        best = result.best_steps[i]
        if best in result.curve_steps:
            value = float(result.curve[result.curve_steps.index(best), i])
            figure.add_trace(
                go.Scatter(
                    x=[best],
                    y=[value],
                    mode="markers",
                    showlegend=False,
                    hoverinfo="skip",
                    name="best",
                    marker={"symbol": "circle-open", "size": 9, "color": style.colour_of(i), "line": {"width": 2}},
                )
            )
    figure.update_xaxes(title_text="training step of the lens")
    figure.update_yaxes(title_text="KL(final ‖ lens) (nats)", type=y)
    if y == "log":
        log_axis(figure, *bounds(result.curve[result.curve > 0]))
    note = "KL on the text that decides when to stop. A circle marks the step that each point's map keeps"
    return Drawing(figure=figure, title=_trained(result), notes=(note,), plot=300, legend=True)


def _trained(result: TunedLens) -> str:
    """How much nearer to the output training brought the lens, on average over the depths."""
    first, best = float(result.curve[0].mean()), float(result.curve.amin(0).mean())
    if not len(result.translated):
        return "The tuned lens has nothing to train"
    if not best < first:
        return f"Training brings the tuned lens no nearer to the output: KL {said(first, 'nats')}"
    return f"Training brings the tuned lens from a KL of {said(first)} to {said(best, 'nats')}, on average over depths"


def _row(result: LensScores, name: str) -> Measured:
    i = result.labels["score"].index(name)
    return Measured.of(result).mapped(lambda tensor: along(result, tensor[i]))
