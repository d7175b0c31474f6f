"""A scrubbed hypothesis as the tree of its claims, with what each of them costs, below what it recovers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import plotly.graph_objects as go
import torch

from nanogpt_lens.results.claims_in_words import features_in_words, node_in_words, verb
from nanogpt_lens.results.scrubbing import FEW_AGREE, PERMUTED, UNIFORM, Scrubbing
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.dots import Dot
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import words
from nanogpt_lens.viz.figures.stacked import StackedGroup, StackedRow, StackedRows

MOST = 48
"""Claims that are drawn at most, where nothing is said."""

RECOVERED, CONTROL = style.INK, style.CATEGORIES[6]
_COLOURS = {"cost": style.CATEGORIES[1], "rest": style.CATEGORIES[0], "need": style.CATEGORIES[2]}
_MEANING = {
    "cost": "what it costs that the part depends on this alone",
    "rest": "what it costs that the part reads nothing else",
    "need": "what is lost without the claim",
}
_LOW, _HIGH = -0.5, 1.5  # that are seen at most
_SURE, _LEAST = 0.05, 0.005  # p, and the least cost whose number is written
_NAME = 40
_APART = 0.15


def tree(result: Scrubbing, k: int | None = None) -> Drawing:
    """The claims, each below what reads it, with dots for what it costs; at most `k` of them."""
    shown = _shown(result, MOST if k is None else k)
    head = StackedGroup(heading="What is recovered", rows=[recovered_row(result), permuted_row(result)])
    groups = [head, StackedGroup(heading="The claims", rows=_claims(result, shown), keys=_keys(result))]
    rows = StackedRows(groups, *seen([dot for group in groups for row in group.rows for dot in row.dots]))
    figure = rows.draw()
    add_ends(figure, result)
    figure.update_xaxes(title_text=f"share of the {measured(result)}", tickformat=".0%")
    return Drawing(
        figure=figure,
        title=_title(result),
        notes=(*_notes(result, len(shown)), *filter(None, [rows.note, interval_of(result, "Lines")])),
        intervals_told=True,
        plot=rows.height,
        left=rows.left,
        above=30,
    )


def measured(result: Scrubbing) -> str:
    """What is recovered, in a few words."""
    arguments = result.provenance.get("arguments")
    metric = arguments.get("metric") if isinstance(arguments, Mapping) else None
    return words(metric if isinstance(metric, str) and metric else "metric", longest=60)


def quoted(name: str) -> str:
    """A hypothesis' name in a sentence."""
    return "the hypothesis" if name == "the hypothesis" else f"“{name[:_NAME]}{'…' if len(name) > _NAME else ''}”"


def percent(share: float) -> str:
    """A share in percent, with a minus sign; "no number" for nan."""
    return "no number" if math.isnan(share) else f"{share:.0%}".replace("-0%", "0%").replace("-", "−")


def recovered_row(result: Scrubbing, name: str = "the hypothesis") -> StackedRow:
    """What a hypothesis recovers."""
    value, (low, high) = result.recovered, result.interval_of_recovered
    said = f"recovers {percent(value)} ({percent(low)} to {percent(high)})"
    dot = Dot(label="", value=value, low=low, high=high, colour=RECOVERED, hover=f"{words(name)} recovers")
    return StackedRow(name=name, text=said, dots=[dot])


def permuted_dot(result: Scrubbing, name: str = "the hypothesis") -> Dot:
    """What a hypothesis recovers with its features permuted."""
    place = result.labels["condition"].index(PERMUTED)
    ends = float(result.low[place]), float(result.high[place])
    hover = f"{words(name)}, with its features permuted, recovers"
    return Dot(label="", value=result.of(PERMUTED), low=ends[0], high=ends[1], colour=CONTROL, hover=hover)


def permuted_row(result: Scrubbing) -> StackedRow:
    """The control: the same claims with permuted features."""
    dot = permuted_dot(result)
    said = f"{percent(dot.value)} ({percent(dot.low)} to {percent(dot.high)})"
    return StackedRow(name="with its features permuted", text=said, dots=[dot])


def seen(dots: list[Dot]) -> tuple[float, float]:
    """The range that is drawn: from 0 to 1 at least, and as far as the dots go, within bounds."""
    every = [x for dot in dots for x in (dot.value, dot.low, dot.high) if math.isfinite(x)]
    return max(_LOW, min(-0.06, *every, 0.0) - 0.02), min(_HIGH, max(1.1, *every, 0.0) + 0.02)


def add_ends(figure: go.Figure, result: Scrubbing) -> None:
    """The controls that need no draws, as lines through the picture with their names: what 0 and 1 are, and a guess."""
    lines: list[tuple[float, str, Literal["center", "right"]]] = [
        (0.0, "random", "center"),
        (1.0, "the model", "right"),
    ]
    if _APART < result.of(UNIFORM) < 1 - 2 * _APART:  # else names would overlap
        lines.append((result.of(UNIFORM), UNIFORM, "center"))
    for value, name, anchor in lines:
        figure.add_vline(x=value, line={"color": style.MUTED, "width": 1, "dash": "dot"}, layer="below", name=name)
        figure.add_annotation(
            text=name,
            x=value,
            xanchor=anchor,
            xshift=4 if anchor == "right" else 0,
            yref="paper",
            y=1,
            yanchor="bottom",
            showarrow=False,
            font={"size": style.SMALL, "color": style.MUTED},
        )


def ends(result: Scrubbing) -> str:
    """What these lines are."""
    return (
        "0 is the logits of a random prompt, 1 the model with nothing scrubbed; a uniform guess, which knows nothing, "
        f"recovers {percent(result.of(UNIFORM))}"
    )


def _keys(result: Scrubbing) -> list[tuple[str, str]]:
    """What the dots of claims are, for those that were measured."""
    return [(_MEANING[what], colour) for what, colour in _COLOURS.items() if getattr(result, what) is not None]


def _shown(result: Scrubbing, k: int) -> list[int]:
    """The claims that are drawn: those that cost most, with all that read them, in the order of the tree."""
    if len(result.claims) <= k:
        return list(range(len(result.claims)))
    costs = torch.zeros(len(result.claims), dtype=torch.float64)
    for values in (result.cost, result.rest):
        if values is not None:
            costs = torch.maximum(costs, values.double().nan_to_num(0.0))
    places = {path: i for i, path in enumerate(result.claims)}
    chosen: set[int] = set()
    for i in costs.argsort(descending=True, stable=True).tolist():
        way = {places[path] for path in _above(result.claims[i]) if path in places} | {i}
        if len(chosen | way) <= k:
            chosen |= way
    return sorted(chosen)


def _above(path: str) -> list[str]:
    """The paths of the claims that a claim hangs from, the nearest first."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _claims(result: Scrubbing, shown: list[int]) -> list[StackedRow]:
    """A row for each claim that is drawn."""
    rows: list[StackedRow] = []
    row_of: dict[str, int] = {}
    for i in shown:
        path, feature = result.claims[i], result.features[i]
        parent = next((row_of[above] for above in _above(path) if above in row_of), None)
        pairs = [_dot(result, what, i) for what in _COLOURS if _there(result, what, i)]
        name, row_of[path] = node_in_words(path.rpartition("/")[2]), len(rows)
        rows.append(
            StackedRow(
                name=name,
                text=f"{verb(name, 'depends')} on {features_in_words(feature)}",
                dots=[dot for dot, _ in pairs],
                written=[number for _, number in pairs],
                depth=0 if parent is None else rows[parent].depth + 1,
                parent=parent,
            )
        )
    return rows


def _there(result: Scrubbing, what: str, i: int) -> bool:
    values = getattr(result, what)
    return values is not None and math.isfinite(float(values[i]))


def _dot(result: Scrubbing, what: str, i: int) -> tuple[Dot, str]:
    """The dot of a claim's cost, rest or need, and the number beside it where it surely costs something."""
    value, low, high, p = (
        math.nan if tensor is None else float(tensor[i])
        for tensor in (getattr(result, f"{what}{end}") for end in ("", "_low", "_high", "_p"))
    )
    alone = float(result.alone[i])
    tests_little = what != "rest" and alone > FEW_AGREE and result.features[i] != "everything"
    hover = f"{words(result.claims[i], longest=120)}: {_MEANING[what]}"
    hover += "" if math.isnan(p) else f", p {'under 0.001' if p < 0.001 else f'= {p:.3f}'}"
    hover += f", {alone:.0%} of its places agree with no other" if tests_little else ""
    dot = Dot(label="", value=value, low=low, high=high, colour=_COLOURS[what], hover=hover, hollow=tests_little)
    return dot, percent(value) if what != "need" and p <= _SURE and value >= _LEAST else ""


def _notes(result: Scrubbing, n_shown: int) -> tuple[str, ...]:
    """How the picture is read."""
    notes = [ends(result), "What a part reads hangs from it; what is not named is said not to matter"]
    if result.cost is None:
        notes.append("What each claim costs was not measured: leave out weaken=False")
    else:
        notes.append("Numbers: costs that are surely more than 0, corrected for the number of claims")
    few = sum(
        alone > FEW_AGREE and feature != "everything"
        for alone, feature in zip(result.alone.tolist(), result.features, strict=True)
    )
    if few and result.cost is not None:
        of = "1 claim" if few == 1 else f"{few} claims"
        notes.append(
            f"Rings: more than {FEW_AGREE:.0%} of the places of {of} agree with no other and stand in for themselves, "
            "which tests nothing"
        )
    if n_shown < len(result.claims):
        notes.append(f"Of {len(result.claims)} claims those that cost most, with what reads them, are drawn: {n_shown}")
    return tuple(notes)


def _title(result: Scrubbing) -> str:
    """What the hypothesis recovers, beside its control."""
    name, permuted = quoted(result.name), result.of(PERMUTED)
    said = f"{name[:1].upper()}{name[1:]} recovers {percent(result.recovered)}"
    if result.above_permuted[1] <= 0:
        return f"{said}, permuted features about as much: {percent(permuted)}"
    return f"{said} of what the model does, with permuted features {percent(permuted)}"
