"""Outputs of two models: where they differ, what gains and loses probability, and excerpts where they differ most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.output_difference import LEAST, MEASURES, By, Extreme, Order, OutputDifference
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.directions import quoted
from nanogpt_lens.viz.figures.dots import Dot, DotRows
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.tokens import harmless, visible

if TYPE_CHECKING:
    import pandas as pd

_NAMED = {
    "kl_ab": "KL({a} || {b})",
    "kl_ba": "KL({b} || {a})",
    "js": "Jensen-Shannon divergence",
    "loss_a": "loss of {a}",
    "loss_b": "loss of {b}",
    "loss_difference": "loss of {b} less that of {a}",
    "agreement": "share of places with the same likeliest token",
}
_GROUPED = {"answer": "by the token that follows", "context": "by the last token before"}
_ALL = (
    "Bars: 95% intervals; {where} they hold for all that were ranked together (Bonferroni), since the best of many are "
    "pointed out"
)
_EXTREMES = {
    "differing": "where {a} and {b} differ most",
    "worse": "where {b} is worst beside {a}",
    "better": "where {b} is best beside {a}",
}
_UP, _DOWN = style.TEAL, style.RUST


def difference(
    result: OutputDifference,
    *,
    kind: Literal["where", "gains", "excerpts"] = "where",
    by: By | None = None,
    measure: str | None = None,
    which: Extreme | None = None,
    k: int | None = None,
) -> Drawing:
    """Where two models differ: by kind of token and by token; what gains and loses; or excerpts, coloured.

    Args:
        result: of `ngl.compare_outputs`.
        kind: "where"; "gains" for the tokens that b gives more and less probability; "excerpts" for texts.
        by: of "where": "answer", "context", or "kind" for kinds of tokens alone; None for "answer".
        measure: of "where": one of `MEASURES`; None for KL(a || b).
        which: of "excerpts": "differing", "worse" or "better"; None for "differing".
        k: how many tokens, or excerpts; None for 10.

    Raises:
        ResultError: no such kind, group, measure or excerpts, or an option of another picture.
    """
    one_of("kind", kind, ("where", "gains", "excerpts"))
    theirs = {
        "by": ("where", by, ("answer", "context", "kind")),
        "measure": ("where", measure, MEASURES),
        "which": ("excerpts", which, tuple(_EXTREMES)),
    }
    for name, (picture, value, known) in theirs.items():
        if value is not None and one_of(name, value, known) and picture != kind:
            raise ResultError(f"{name} is {value!r}, but this picture has kind={kind!r}; expected kind={picture!r}")
    most = count("k", 10 if k is None else k)
    if kind == "gains":
        return _gains(result, most)
    if kind == "excerpts":
        return _excerpts(result, "differing" if which is None else which, most)
    return _where(result, "answer" if by is None else by, "kl_ab" if measure is None else measure, most)


def _named(result: OutputDifference, text: str) -> str:
    """Words of ours with the names of both models in their places."""
    a, b = (harmless(name, spaces=False, longest=24) for name in result.names)
    return text.format(a=a, b=b)


def _where(result: OutputDifference, by: By, measure: str, k: int) -> Drawing:
    """The mean of a measure by kind of token, and the tokens with the largest."""
    overall = result.measure(measure)
    groups = [("", [_dot("all places", *overall, hover=f"all {result.n_places:,} places")])]
    kinds = result.where("kind", measure=measure, k=None, least=1)
    if len(kinds):
        groups.append(("by kind of the token that follows", _rows(kinds, "kind")))
    if by != "kind":
        tokens = result.where(by, measure=measure, k=k, order="abs" if measure == "loss_difference" else "high")
        if len(tokens):
            most = "the largest" if measure == "loss_difference" else "the highest"
            groups.append((f"{_GROUPED[by]}: {most}", _rows(tokens, "token")))
    drawn = DotRows(groups, *_range(groups, 0.27))
    figure = drawn.draw()
    name = _named(result, _NAMED[measure])
    unit = result.unit_of(measure)
    figure.update_xaxes(title_text=f"{name}{f', {unit}' if unit else ''}")
    notes = [
        f"Ranked are tokens with {LEAST} places and more",
        _ALL.format(where="below the first row"),
        drawn.note,
    ]
    return Drawing(
        figure=figure,
        title=_where_title(result, measure, kinds, by),
        notes=tuple(note for note in notes if note),
        definition=result.explanation(measure),
        intervals_told=True,
        plot=drawn.height,
        left=drawn.left,
    )


def _where_title(result: OutputDifference, measure: str, kinds: pd.DataFrame, by: By) -> str:
    """The kind of token, or else the token, where the measure is largest."""
    name = _named(result, _NAMED[measure])
    name = name[:1].upper() + name[1:]
    if result.same:
        return _named(result, "{a} and {b} predict exactly the same")
    value = result.measure(measure)[0]
    said = f"{name}: {value:.3g} in the mean"
    order: Order = "abs" if measure == "loss_difference" else "high"
    top = result.where(by, measure=measure, k=1, order=order)
    if by == "kind" and len(kinds):
        row = kinds.to_dict("records")[int(kinds["mean"].abs().to_numpy().argmax())]
        said += f", {row['mean']:.3g} before {row['kind']}"
    elif by != "kind" and len(top):
        row = top.to_dict("records")[0]
        said += f", {row['mean']:.3g} {'after' if by == 'context' else 'before'} {quoted(row['token'])}"
    return said.replace(" -", " −")


def _rows(frame: pd.DataFrame, column: str) -> list[Dot]:
    """A dot with its simultaneous interval for each row of `OutputDifference.where`."""
    return [
        _dot(
            quoted(row[column]) if column == "token" else row[column],
            row["mean"],
            row["low_all"],
            row["high_all"],
            hover=f"{quoted(row[column]) if column == 'token' else row[column]}, n = {row['count']:,}",
            beside=f"n = {row['count']:,}",
        )
        for row in frame.to_dict("records")
    ]


def _dot(label: str, value: float, low: float, high: float, *, hover: str, beside: str = "") -> Dot:
    return Dot(
        label=label,
        value=float(value),
        low=float(low),
        high=float(high),
        colour=_UP if value >= 0 else _DOWN,
        hover=hover,
        beside=beside,
    )


def _range(groups: Sequence[tuple[str, Sequence[Dot]]], beside: float) -> tuple[float, float]:
    """From 0, or below, to the largest end of an interval; a share of the width is left for words at the right."""
    every = [x for _, dots in groups for d in dots for x in (d.value, d.low, d.high) if math.isfinite(x)]
    low, high = min([0.0, *every]), max([0.0, *every])
    room = (high - low) or 1.0
    return low - (0.04 * room if low < 0 else 0.01 * room), high + beside / (1 - beside) * room


def _gains(result: OutputDifference, k: int) -> Drawing:
    """The tokens that gain and lose most probability, in percentage points."""
    groups = []
    headings: dict[Order, str] = {"high": "{b} gives them more", "low": "{b} gives them less"}
    for order, heading in headings.items():
        frame = result.gains(k, order=order)
        frame = frame.loc[frame["difference"] > 0] if order == "high" else frame.loc[frame["difference"] < 0]
        dots = [
            _dot(
                quoted(row["token"]),
                100 * row["difference"],
                100 * row["low_all"],
                100 * row["high_all"],
                hover=f"{quoted(row['token'])}, from {100 * row['mean_a']:.3g}% to {100 * row['mean_b']:.3g}%",
                beside=f"{100 * row['mean_a']:.2g}% to {100 * row['mean_b']:.2g}%",
            )
            for row in frame.to_dict("records")
        ]
        if dots:
            groups.append((_named(result, heading), dots))
    title = _named(result, "{a} and {b} give all tokens the same probability")
    if groups:
        ends = [dots[0] for _, dots in groups]
        said = [f"{'gains' if dot.value > 0 else 'loses'} {abs(dot.value):.2g}" for dot in ends]
        title = f"{_named(result, 'From {a} to {b}')} {ends[0].label} {said[0]}" + (
            f" and {ends[1].label} {said[1]} percentage points" if len(ends) > 1 else " percentage points"
        )
    else:
        groups = [("", [_dot("all tokens", 0.0, math.nan, math.nan, hover="all tokens")])]
    drawn = DotRows(groups, *_range(groups, 0.36))
    figure = drawn.draw()
    figure.update_xaxes(title_text="mean probability, difference in percentage points")
    return Drawing(
        figure=figure,
        title=title,
        notes=("Mean over all places, whatever follows there", _ALL.format(where="over all tokens")),
        definition=result.definition,
        intervals_told=True,
        plot=drawn.height,
        left=drawn.left,
    )


def _excerpts(result: OutputDifference, which: Extreme, k: int) -> Drawing:
    """Excerpts in rows, each token coloured by its own value."""
    some = result.excerpts(which)[:k]
    title = f"Excerpts {_named(result, _EXTREMES[which])}"
    if not some:
        raise ResultError(f"there is no excerpt of this kind ({which}); the models do not differ in that way")
    width = max(len(excerpt.tokens) for excerpt in some)
    z = torch.full((len(some), width), torch.nan, dtype=torch.float64)
    text = [[""] * width for _ in some]
    for i, excerpt in enumerate(some):
        z[i, : len(excerpt.tokens)] = torch.tensor(excerpt.activations, dtype=torch.float64)
        text[i][: len(excerpt.tokens)] = [harmless(token, longest=4) for token in excerpt.tokens]
    measure = "kl_ab" if which == "differing" else "loss_difference"
    name = _named(result, _NAMED[measure])
    drawing = heat_map(
        Map(
            z=z,
            x=[str(i + 1) for i in range(width)],
            y=[f"{i + 1}" for i in range(len(some))],
            text=text,
            hover="Excerpt %{y}, token %{x} %{text}: %{z:.4g}.",
            downwards=True,
        ),
        title=title,
        unit=f"{name} of each token, nats",
        x_title="",
        y_title="",
        signed=measure == "loss_difference",
        definition=result.explanation(measure),
        notes=(
            f"A token's colour is about its own prediction, from the tokens before it in its sequence; at the peak of "
            f"the first, {visible(some[0].token, longest=12)!r}, it is {some[0].value:.3g}",
        ),
    )
    drawing.figure.update_xaxes(showticklabels=False, ticks="")
    drawing.figure.update_traces(xgap=0, selector={"type": "heatmap"})
    drawing.figure.update_traces(textfont_family=style.MONOSPACE, selector={"type": "scatter"})
    return replace(drawing, below=14, intervals_told=True)
