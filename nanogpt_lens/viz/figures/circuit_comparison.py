"""Circuits compared: a matrix for each score, white where it is that of chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.compared_circuits import CircuitComparison
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map, heat_maps
from nanogpt_lens.viz.figures.labels import places
from nanogpt_lens.viz.figures.numbers import facts

_SHOWN = ("rank_correlation", "jaccard", "transfer")
_NAMES = {
    "rank_correlation": "rank correlation of effects",
    "jaccard": "shared edges, of those in either",
    "above_chance": "shared edges above chance",
    "transfer": "row's circuit in the column's model",
}
_UNIT = "above chance (teal), or below it (rust)"
_ROW = 34  # pixels


def comparison(
    result: CircuitComparison,
    *,
    score: Literal["rank_correlation", "jaccard", "above_chance", "transfer"] | None = None,
) -> Drawing:
    """How far circuits agree, two at a time: the numbers are the scores, the colours how far they are above chance.

    Args:
        result: of `ngl.compare_circuits`.
        score: one alone; None for three of them.

    Raises:
        ResultError: there is no such score.
    """
    if score is not None:
        one_of("score", score, tuple(_NAMES))
        drawing = heat_map(
            _map(result, score),
            title=_title(result),
            unit=f"{_NAMES[score]}: {_UNIT}",
            x_title="in the model of" if score == "transfer" else "",
            y_title="circuit of" if score == "transfer" else "",
            signed=True,
        )
        return replace(drawing, notes=_notes(result, (score,)), intervals_told=True)
    names = places(result, "one")
    drawing = heat_maps(
        [_map(result, name) for name in _SHOWN],
        title=_title(result),
        unit=_UNIT,
        x_title="in the model of",
        y_title="",
        signed=True,
        columns=1,
        each=max(90, _ROW * len(names)),
    )
    longest = max(style.wide(name, style.SMALL) for name in names)
    return replace(drawing, notes=_notes(result, _SHOWN), intervals_told=True, left=int(longest + 18))


def _map(result: CircuitComparison, score: str) -> Map:
    """The matrix of one score; on the diagonal the same model on two halves of its prompts, or a circuit at home."""
    values, chance = result.score(score).clone(), result.score(score, "chance").clone()
    if score != "transfer":
        values.fill_diagonal_(0).diagonal().add_(result.score(score, "ceiling").diagonal())
        chance.diagonal().copy_(chance.nanmean(1))
    names = places(result, "one")
    ends = {end: result.score(score, end) for end in ("low", "high")}
    known = {} if bool(ends["low"].isnan().all()) else ends
    ceiling = result.score(score, "ceiling")
    others = {"by_chance": chance, "p": result.score(score, "p")}
    data, said = facts(**known, **others, ceiling=None if bool(ceiling.isnan().all()) else ceiling)
    return Map(
        z=values - chance,
        x=names,
        y=names,
        hover=f"%{{y}} {'in' if score == 'transfer' else 'and'} %{{x}}: %{{text}}{said}.",
        data=data,
        text=[[_cell(value) for value in row] for row in values.tolist()],
        downwards=True,
        name=_NAMES[score],
    )


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _notes(result: CircuitComparison, scores: tuple[str, ...]) -> tuple[str, ...]:
    """What the diagonals are."""
    notes = []
    if any(score != "transfer" for score in scores):
        where = "On the first two diagonals" if len(scores) > 1 else "On the diagonal"
        measured = not bool(result.score("rank_correlation", "ceiling").isnan().all())
        notes.append(
            f"{where} the same model on two halves of its prompts, which is the ceiling"
            if measured
            else f"{where} nothing, since no ceiling was measured"
        )
    if "transfer" in scores:
        notes.append("On the diagonal of the transfer each circuit in its own model; by chance: random circuits")
    return tuple(notes)


def _title(result: CircuitComparison) -> str:
    """What circuits do in each other's place."""
    off = ~torch.eye(len(result.names), dtype=torch.bool)
    moved, random = result.score("transfer")[off], result.score("transfer", "chance")[off]
    own = result.score("transfer").diagonal()
    return (
        f"In each other's place circuits do {_share(moved)} of the whole model's work, in their own {_share(own)}; "
        f"random circuits {_share(random)}"
    )


def _share(values: Float[Tensor, " pair"]) -> str:
    """The least and the largest of some shares in percent, as one number where they are the same."""
    ends = [f"{100 * float(end):.0f}".replace("-0", "0") for end in (values.min(), values.max())]
    return f"{ends[0]}%" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}%"
