"""What something is worth at each position: a line with its band, and zero."""

from __future__ import annotations

import plotly.graph_objects as go

from nanogpt_lens.results.base import Result
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import places, words
from nanogpt_lens.viz.figures.lines import add_line
from nanogpt_lens.viz.figures.numbers import Measured


def over_positions(result: Result) -> Drawing:
    """A line for each gain; where its band holds zero, nothing is gained that could be measured.

    Args:
        result: values [gain, pos]; the labels of `pos` are whole numbers; `chance` is what could be gained at most.
    """
    figure, every = go.Figure(), Measured.of(result)
    labels = result.labels.get("pos", ())
    x = [int(label) for label in labels] if labels and all(label.isdecimal() for label in labels) else None
    x = x or list(range(result.shape["pos"]))
    names = places(result, "gain")
    for i, name in enumerate(names):
        add_line(
            figure, x, every.at(i), name=name, what="position", colour=style.colour_of(i), unit=" nats", markers=False
        )
    figure.add_hline(y=0, line={"color": style.MUTED, "width": 1})
    figure.update_xaxes(title_text="position of the token that is predicted", showgrid=False)
    figure.update_yaxes(title_text=words(result.quantity), range=_range(every))
    return Drawing(
        figure=figure,
        title=words(result.heading).capitalize(),
        plot=220,
        legend=len(names) > 1,
        notes=(interval_of(result, "Band"),) if every.has_interval else (),
        intervals_told=every.has_interval,
    )


def _range(numbers: Measured) -> list[float] | None:
    """From well below zero to what could be gained at most, where that is known, so that nothing looks like nothing."""
    if numbers.chance is None or not numbers.has_chance:
        return None
    most = float(numbers.chance.max())
    low, high = (numbers.values if end is None else end for end in (numbers.low, numbers.high))
    return [min(-most / 4, 1.05 * float(low.min())), max(most, 1.05 * float(high.max()))]
