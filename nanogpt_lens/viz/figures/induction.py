"""Induction: loss by token on repeated text, [A][B]...[A] prompts, and what ablation takes away."""

from __future__ import annotations

from typing import Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.results.base import Result
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.bars import bar_panels
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import one_of, score_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import said, surely_beyond
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import add_chance, add_line, errors
from nanogpt_lens.viz.figures.numbers import Measured, digits, facts, plain

_GAP = 24  # pixels between panels


def losses(result: Result, *, condition: str | None = None) -> Drawing:
    """Loss at each position of repeated, shuffled and unrepeated sequences, intervals as bands.

    Args:
        result: values [condition, pos].
        condition: only this one.

    Raises:
        ResultError: no such condition.
    """
    labels = result.labels.get("pos", ())
    x = [int(label) for label in labels] if all(label.isdecimal() for label in labels) and labels else None
    x = x or list(range(result.shape["pos"]))
    names = places(result, "condition")
    chosen = list(range(len(names)) if condition is None else [result._index("condition", condition)])
    every, each = Measured.of(result), 230 if len(chosen) == 1 else 112
    plot = each * len(chosen) + _GAP * (len(chosen) - 1)
    figure = make_subplots(
        rows=len(chosen), cols=1, shared_xaxes=True, vertical_spacing=_GAP / plot if len(chosen) > 1 else 0
    )
    half = (max(x) + 1) // 2 - 0.5
    for row, i in enumerate(chosen, 1):
        panel: dict[str, Any] = {"row": row, "col": 1}
        line = every.at(i)
        add_line(
            figure,
            x,
            line,
            name=names[i],
            what="position",
            colour=style.ACCENT,
            unit=" nats",
            markers=False,
            legend=False,
            **panel,
        )
        if line.chance is not None:
            add_chance(figure, x, line.chance, name="a uniform guess", legend=row == 1, **panel)
        figure.add_vline(x=half, line={"color": style.EDGE, "width": 1, "dash": "dot"}, **panel)
        _name_panel(figure, row, names[i])
        figure.update_yaxes(nticks=5, matches="y" if row > 1 else None, rangemode="tozero", **panel)
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title_text="position of the token that is predicted", row=len(chosen), col=1)
    figure.update_yaxes(title_text="loss (nats per token)", row=(len(chosen) + 1) // 2, col=1)
    told = (interval_of(result, "Bands"),) if every.has_interval else ()
    return Drawing(
        figure=figure,
        title=_gain(result, x, half),
        plot=plot,
        above=22,
        legend=every.chance is not None,
        notes=("Dotted: the second half begins", *told),
        intervals_told=every.has_interval,
    )


def _name_panel(figure: go.Figure, row: int, name: str) -> None:
    which = str(row) if row > 1 else ""
    figure.add_annotation(
        text=name,
        xref=f"x{which} domain",
        yref=f"y{which} domain",
        x=0,
        y=1,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": style.TEXT},
    )


def _gain(result: Result, x: list[int], half: float) -> str:
    """What the second copy costs less than new text, if that is sure."""
    title, each = "Loss by position on repeated text", getattr(result, "per_example", None)
    known = result.labels.get("condition", ())
    if each is None or result.axes != ("condition", "pos") or not {"repeated", "unrepeated"} <= set(known):
        return title
    late = [i for i, place in enumerate(x) if place > half + 1]  # nothing can tell the first token of the second half
    if not late:
        return title
    ours, new = (each[known.index(name)][late].double().mean(0) for name in ("repeated", "unrepeated"))
    ends, gain = t_interval(new - ours), float((new - ours).mean())  # a sequence's second halves are the same tokens
    if ends is None or gain != gain:
        return title
    if float(ends[0]) > 0:
        return f"The second copy of a text costs {said(gain)} nats per token less than new text"
    if float(ends[1]) < 0:
        return f"The second copy of a text costs {said(-gain)} nats per token more than new text"
    return "The second copy of a text: no gain that could be measured"


def _lost(result: Result, chosen: list[int], ablated: list[str]) -> str:
    """What the ablation of the chosen heads, the second row, does to the last of the scores."""
    if len(ablated) < 2:
        return "Without the induction heads"
    i = chosen[-1]
    numbers = Measured.of(result).at((slice(1, 2), i))
    name, unit = words(result.labels["score"][i]), result.unit_of(result.labels["score"][i])
    value, beyond = float(numbers.values[0]), surely_beyond(numbers)
    if beyond is not None and not bool((beyond[0] | beyond[1]).any()) and name.startswith("gain lost"):
        return f"Without {ablated[1]} the gain from repetition does not surely change"
    return f"Without {ablated[1]}: {name} {said(value, unit)}"


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
        data, told = facts(numbers.low, numbers.high, chance=numbers.chance)
        figure.add_trace(
            go.Bar(
                x=names,
                y=digits(numbers.values),
                name=prompt,
                customdata=data,
                marker={"color": style.ACCENT if j == 0 else style.OTHER if j == 1 else style.colour_of(j)},
                error_y=errors(numbers),
                hovertemplate=f"%{{x}}, {plain(prompt)} prompts: %{{y:.4g}}{told}.<extra></extra>",
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
    return Drawing(figure=figure, title=_predicts(result, chosen), plot=260, legend=True, below=30)


def _predicts(result: Result, chosen: list[int]) -> str:
    """Whether [B] is predicted, by the first score and the first kind of prompts, beside chance."""
    numbers = Measured.of(result).at((chosen[0], slice(0, 1)))
    value = float(numbers.values[0])
    what = places(result, "score")[chosen[0]]
    if numbers.chance is None or not bool(numbers.chance.isfinite().all()) or value != value:
        return f"[B] after [A][B]...[A]: {what} {said(value)}"
    beyond = surely_beyond(numbers, numbers.chance)
    level = f"{said(value)}, chance {said(float(numbers.chance[0]))}"
    if beyond is not None and not bool(beyond[0].any()):
        return f"[B] after [A][B]...[A] is not predicted above chance ({what} {level})"
    return f"[B] after [A][B]...[A]: {what} {level}"


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
    return bar_panels(groups, title=_lost(result, chosen, ablated), named="mean_of_controls")
