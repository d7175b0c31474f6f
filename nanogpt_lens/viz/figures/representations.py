"""Representations of two models: CKA along the points, CKA of all pairs, and the mean difference with its tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import plotly.graph_objects as go
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.mean_difference import ALL, MeanDifference
from nanogpt_lens.results.representations import RepresentationSimilarity
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.directions import quoted
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import places
from nanogpt_lens.viz.figures.lines import add_chance, add_line
from nanogpt_lens.viz.figures.numbers import Measured, facts
from nanogpt_lens.viz.tokens import harmless

_CELLS = 14  # points of a model up to which cells hold numbers


def similarity(result: RepresentationSimilarity, *, kind: Literal["points", "map"] | None = None) -> Drawing:
    """CKA at the same point along the depth, beside the third model and chance; or of all pairs of points.

    Args:
        result: of `ngl.compare_representations`.
        kind: "points", for models with the same points; "map" for all pairs; None for the first that fits.

    Raises:
        ResultError: another kind, or "points" of models with other points.
    """
    kind = kind or ("points" if result.same_points else "map")
    one_of("kind", kind, ("points", "map"))
    if kind == "map":
        return _map(result)
    if not result.same_points:
        raise ResultError("the two models have other points, so that none is the same; give kind='map'")
    return _along(result)


def _names(result: RepresentationSimilarity | MeanDifference) -> tuple[str, str]:
    a, b = (harmless(name, spaces=False, longest=24) for name in result.names)
    return a, b


def _along(result: RepresentationSimilarity) -> Drawing:
    """The diagonal, and that of the reference, with bands."""
    figure, labels = go.Figure(), places(result, "point_a")
    a, b = _names(result)
    x = list(range(len(labels)))
    mine = Measured(*(part.diagonal() for part in (result.values, result.low, result.high)))
    add_line(figure, x, mine, name=f"{a} and {b}", what="point", texts=labels)
    if _has_diagonal(result):
        ends = (result.reference, result.reference_low, result.reference_high)
        third = Measured(*(part.diagonal() for part in ends if part is not None))
        colour = style.CATEGORIES[6]
        name = f"{a} and {harmless(result.reference_name, spaces=False, longest=24)}"
        add_line(figure, x, third, name=name, what="point", texts=labels, colour=colour, dash="5px,4px")
    add_chance(figure, x, result.chance.diagonal(), name="rows in random order, 95%")
    below = 44 + int(max(style.wide(label, style.SMALL) for label in labels))
    figure.update_xaxes(tickvals=x, ticktext=labels, tickangle=-90, title_text="point of the residual stream")
    lowest = min(0.0, float(mine.low.nan_to_num(0).min()) if mine.low is not None else 0.0)
    figure.update_yaxes(title_text="CKA", range=[lowest - 0.05, 1.06])
    return Drawing(
        figure=figure,
        title=_title(result),
        notes=("Bands: 95% intervals (jackknife over the tokens)",),
        intervals_told=True,
        plot=280,
        below=below,
        legend=True,
    )


def _has_diagonal(result: RepresentationSimilarity) -> bool:
    """Whether the third model has the same points."""
    return result.reference is not None and result.reference_points == result.labels["point_a"]


def _map(result: RepresentationSimilarity) -> Drawing:
    """All pairs of points, from the embedding upwards."""
    a, b = _names(result)
    x, y = places(result, "point_b"), places(result, "point_a")
    data, said = facts(result.low, result.high, by_chance=result.chance, p=result.p)
    few = max(len(x), len(y)) <= _CELLS
    return replace(
        heat_map(
            Map(
                z=result.values,
                x=x,
                y=y,
                hover=f"{a}, %{{y}}, and {b}, %{{x}}: %{{z:.3f}}{said}.",
                data=data,
                text=[[f"{value:.2f}".lstrip("0") for value in row] for row in result.values.tolist()] if few else None,
            ),
            title=_title(result),
            unit="CKA, up to 1",
            x_title=b,
            y_title=a,
            signed=False,
            top=1.0,
            notes=(
                "1: the same but for rotation, shift and scale",
                "Intervals (jackknife over the tokens) and chance are in the hover texts",
            ),
        ),
        intervals_told=True,
    )


def _title(result: RepresentationSimilarity) -> str:
    """From where to where CKA goes, at the same point or at the most similar one."""
    a, b = _names(result)
    if result.same_points:
        values, labels = result.values.diagonal(), result.labels["point_a"]
        what = "at the same point"
    else:
        values = torch.tensor([value for _, _, value in result.best], dtype=torch.float64)
        labels, what = result.labels["point_a"], "at the most similar point"
    known = [(value, label) for value, label in zip(values.tolist(), labels, strict=True) if value == value]
    if not known:
        return f"Nothing in {a} and {b} varies over these tokens"
    (low, least), (high, _) = min(known), max(known)
    span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} ({least}) to {high:.2f}"
    return f"CKA of {a} and {b}: {span} {what}"


def mean_difference(result: MeanDifference, *, reader: Literal["a", "b"] = "b") -> Drawing:
    """How large the mean difference is at each point and position, and in the cells the token that it promotes most.

    Args:
        result: of `ngl.mean_difference_lens`.
        reader: whose final norm and unembedding read it.

    Raises:
        ResultError: another reader.
    """
    which = result.reader_index(reader)
    a, b = _names(result)
    x, y = places(result, "position"), places(result, "point")
    top, logit = result.promoted[which, ..., 0], result.promoted_logits[which, ..., 0]
    beyond = result.beyond_control & (logit > result.control_logit[which])
    text = [
        [
            quoted(result.vocabulary[token]) if sure else ""
            for token, sure in zip(tokens, surely, strict=True)
        ]
        for tokens, surely in zip(top.tolist(), beyond.tolist(), strict=True)
    ]  # fmt: skip
    data, said = facts(
        two_halves=result.control, largest_logit=logit, largest_logit_of_two_halves=result.control_logit[which]
    )
    return heat_map(
        Map(
            z=result.values,
            x=x,
            y=y,
            hover=f"%{{y}}, position %{{x}} %{{text}}: %{{z:.3g}}{said}.",
            data=data,
            text=text,
        ),
        title=_difference_title(result, text),
        unit="share of the stream's norm",
        x_title="position",
        y_title="",
        signed=False,
        notes=(
            f"The mean of {b} less that of {a}; in a cell the token that it promotes most, read by "
            f"{b if reader == 'b' else a}, empty where it is not beyond what two halves of the texts give in one model",
        ),
    )


def _difference_title(result: MeanDifference, text: list[list[str]]) -> str:
    """Where the mean moves most, and towards which token."""
    a, b = _names(result)
    if not bool(result.beyond_control.any()):
        return f"The means of {a} and {b} differ no more than those of two halves of the texts"
    shown = result.values.masked_fill(~result.beyond_control, -torch.inf)
    i, j = divmod(int(shown.argmax()), shown.shape[1])
    position = result.labels["position"][j]
    where = "over all positions" if position == ALL else f"position {position}"
    point = result.labels["point"][i]
    said = f"The mean moves by {float(result.values[i, j]):.2g} of its norm at {point}, {where}"
    return f"{said}, towards {text[i][j]}" if text[i][j] else said
