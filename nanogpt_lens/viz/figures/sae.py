"""How good a sparse autoencoder is, beside random directions; and how often its features are active."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from nanogpt_lens.results.sae import SAEEvaluation
from nanogpt_lens.viz.figures.bars import bar_panels
from nanogpt_lens.viz.figures.choices import one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import said
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import histogram
from nanogpt_lens.viz.figures.numbers import Measured


def evaluation(
    result: SAEEvaluation, *, kind: Literal["scores", "density"] = "scores", score: str | None = None
) -> Drawing:
    """Scores with intervals and the control's; or the histogram of how often features are active.

    Args:
        result: of `ngl.evaluate_sae`.
        kind: "scores" or "density".
        score: only this one.

    Raises:
        ResultError: another kind, no such score.
    """
    one_of("kind", kind, ("scores", "density"))
    if kind == "density":
        return _density(result)
    labels = list(result.labels["score"])
    chosen = list(range(len(labels))) if score is None else [score_of(result, score)]
    groups = []
    for unit in dict.fromkeys([result.unit, *result.units.values()]):
        kept = [i for i in chosen if result.unit_of(labels[i]) == unit]
        if kept:
            names = [places(result, "score")[i] for i in kept]
            groups.append((unit, names, Measured.of(result).at(kept)))
    return bar_panels(groups, title=_finding(result, chosen), named="random_directions")


def _finding(result: SAEEvaluation, chosen: list[int]) -> str:
    """The first score, and whether random directions have it too."""
    label = result.labels["score"][chosen[0]]
    name, value = words(label), float(result.values[chosen[0]])
    chance = math.nan if result.chance is None else float(result.chance[chosen[0]])
    beside = "" if math.isnan(chance) else f"; with random directions {said(chance)}"
    return f"The autoencoder's {name} is {said(value, result.unit_of(label))}{beside}"


def _density(result: SAEEvaluation) -> Drawing:
    frame = result.density()
    figure = go.Figure()
    edges = np.append(frame["low"].to_numpy(), frame["high"].iloc[-1])
    histogram(figure, edges, frame["features"].to_numpy(), name="features", what="features")
    figure.update_xaxes(title_text="log10 of the share of tokens on which a feature is active")
    figure.update_yaxes(title_text="features")
    dead = len(result.dead)
    every = len(result.frequency)
    title = (
        f"{dead:,} of {every:,} features are never active" if dead else f"All {every:,} features are active somewhere"
    )
    return Drawing(figure=figure, title=title, notes=("Those that are never active are not shown",), plot=260)
