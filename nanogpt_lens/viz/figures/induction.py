"""Induction: loss by token on repeated text, [A][B]...[A] prompts, and what ablation takes away."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go

from nanogpt_lens.results.base import Result
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.bars import bar_panels
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import add_chance, add_line, errors
from nanogpt_lens.viz.figures.numbers import Measured, digits, facts, plain


def losses(result: Result, *, condition: str | None = None) -> Drawing:
    """Loss at each position of repeated, shuffled and unrepeated sequences, intervals as bands.

    Args:
        result: values [condition, pos].
        condition: only this one.

    Raises:
        ResultError: no such condition.
    """
    figure = go.Figure()
    labels = result.labels.get("pos", ())
    x = [int(label) for label in labels] if all(label.isdecimal() for label in labels) and labels else None
    x = x or list(range(result.shape["pos"]))
    names = places(result, "condition")
    chosen = range(len(names)) if condition is None else [result._index("condition", condition)]
    every = Measured.of(result)
    for i in chosen:
        add_line(
            figure,
            x,
            every.at(i),
            name=names[i],
            what="position",
            colour=style.colour_of(i),
            unit=" nats",
            markers=False,
        )
        # where lines meet the first is on top, and the ones below it are wider, so that none is hidden
        figure.data[-1].update(zorder=len(names) - i, line_width=2 + 2.5 * i)
    if every.chance is not None:
        add_chance(figure, x, every.chance[0])
    half = (max(x) + 1) // 2
    figure.add_vline(x=half - 0.5, line={"color": style.MUTED, "width": 1, "dash": "dot"})
    figure.add_annotation(
        text="second half",
        x=half - 0.5,
        y=1,
        yref="paper",
        xanchor="left",
        yanchor="top",
        showarrow=False,
        xshift=4,
        font={"size": style.SMALL, "color": style.MUTED},
    )
    figure.update_xaxes(title_text="position of the token that is predicted", showgrid=False)
    figure.update_yaxes(title_text="loss (nats per token)", rangemode="tozero")
    return Drawing(
        figure=figure,
        title="Loss by position on repeated text",
        plot=290,
        legend=True,
        notes=(interval_of(result, "Bands"),) if every.has_interval else (),
        intervals_told=every.has_interval,
    )


def accuracy(result: Result, *, score: str | None = None) -> Drawing:
    """Clean and corrupted prompts beside each other, with intervals and chance.

    Args:
        result: values [score, prompt].
        score: only this one.

    Raises:
        ResultError: no such score.
    """
    figure = go.Figure()
    chosen = list(range(result.shape["score"])) if score is None else [score_of(result, score)]
    names = [places(result, "score")[i] for i in chosen]
    every = Measured.of(result).at(chosen)
    for j, prompt in enumerate(places(result, "prompt")):
        numbers = every.at((slice(None), j))
        data, said = facts(numbers.low, numbers.high, chance=numbers.chance)
        figure.add_trace(
            go.Bar(
                x=names,
                y=digits(numbers.values),
                name=prompt,
                customdata=data,
                marker={"color": style.colour_of(j)},
                error_y=errors(numbers),
                hovertemplate=f"%{{x}}, {plain(prompt)} prompts: %{{y:.4g}}{said}.<extra></extra>",
            )
        )
    if every.chance is not None:
        figure.add_trace(
            go.Scatter(
                x=names,
                y=digits(every.chance[:, 0]),
                mode="markers",
                name="chance",
                marker={"symbol": "line-ew", "size": 60, "line": {"width": 2, "color": style.INK}},
                hovertemplate="%{x}: chance %{y:.4g}.<extra></extra>",
            )
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(title_text=words(result.quantity), rangemode="tozero")
    return Drawing(figure=figure, title="Predicting [B] after [A][B]...[A]", plot=260, legend=True, below=30)


def ablation(result: Result, *, score: str | None = None, show: Literal["all", "chosen"] = "all") -> Drawing:
    """What is left without the heads: each score a panel, the chosen heads beside nothing and the controls.

    Args:
        result: values [ablated, score].
        score: only this one; None for the gain and what of it is lost.
        show: "all", or "chosen" without the control sets.

    Raises:
        ResultError: no such score, another word.
    """
    one_of("show", show, ("all", "chosen"))
    scores = list(result.labels["score"])
    chosen = [i for i, name in enumerate(scores) if name.startswith("gain")] or list(range(len(scores)))
    chosen = [score_of(result, score)] if score is not None else chosen
    ablated = places(result, "ablated", longest=24)
    rows = [i for i, label in enumerate(result.labels["ablated"]) if show == "all" or not label.startswith("control")]
    groups = []
    for i in chosen:
        unit = words(scores[i]) + (f" ({result.unit_of(scores[i])})" if result.unit_of(scores[i]) else "")
        groups.append((unit, [ablated[j] for j in rows], Measured.of(result).at((rows, i))))
    return bar_panels(groups, title="Without the induction heads", named="mean_of_controls")
