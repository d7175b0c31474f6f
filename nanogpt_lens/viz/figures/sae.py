"""How good a sparse autoencoder is, beside random directions; and how often its features are active."""

from __future__ import annotations

from typing import Literal

import numpy as np
import plotly.graph_objects as go

from nanogpt_lens.results.sae import SAEEvaluation
from nanogpt_lens.viz.figures.bars import bar_panels
from nanogpt_lens.viz.figures.choices import one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import places
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
    return bar_panels(groups, title="Sparse autoencoder", named="random_directions")


def _density(result: SAEEvaluation) -> Drawing:
    frame = result.density()
    figure = go.Figure()
    edges = np.append(frame["low"].to_numpy(), frame["high"].iloc[-1])
    histogram(figure, edges, frame["features"].to_numpy(), name="features", what="features")
    figure.update_xaxes(title_text="log10 of the share of tokens on which a feature is active")
    figure.update_yaxes(title_text="features")
    dead = len(result.dead)
    note = f"{dead} of {len(result.frequency)} features are never active and not shown"
    return Drawing(figure=figure, title="How often features are active", notes=(note,), plot=260)
