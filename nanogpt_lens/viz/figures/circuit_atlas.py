"""An atlas of a circuit: its drawing over training, as a film or small multiples, and when each edge appears."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.circuit_atlas import CircuitAtlas
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.circuit_stages import film, multiples
from nanogpt_lens.viz.figures.dots import Dot, DotRows
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import title_of, words

_ROWS = 40


def atlas(
    result: CircuitAtlas,
    *,
    kind: Literal["appearance", "film", "multiples"] = "appearance",
    edges: int | None = None,
    stages: Sequence[int] | None = None,
) -> Drawing:
    """When each edge appears, or the drawing of the circuit over training.

    Args:
        result: of `runs.atlas.circuit_atlas`.
        kind: "appearance", "film" with a slider over the steps, or "multiples".
        edges: how many are shown, those with the largest effects; None for those whose effects count, 40 at most.
        stages: the steps of the small multiples; None for six.

    Raises:
        ResultError: another kind, a number that counts nothing, or a step that is not there.
    """
    one_of("kind", kind, ("appearance", "film", "multiples"))
    if stages is not None and kind != "multiples":
        raise ResultError(f"stages is {stages!r}, but this picture is of all; leave it out, or give kind='multiples'")
    if kind == "film":
        return film(result, _title(result), edges)
    if kind == "multiples":
        return multiples(result, _title(result), edges, stages)
    return _appearance(result, _ROWS if edges is None else count("edges", edges))


def _title(result: CircuitAtlas) -> str:
    """How many edges appear, and which first."""
    n, every = len(result.order), len(result.edges)
    if not n:
        return f"{int(result.changed.sum())} of {every} edges change for good, none in a transition"
    half = result.half_of(result.order[0])[0]
    verb = "appears" if n == 1 else "appear"
    return f"{n} of {every} edges {verb}, {words(result.order[0])} first, half-way at step {half:,.0f}"


def _appearance(result: CircuitAtlas, most: int) -> Drawing:
    """A dot for the half-way point of every edge that has changed, with its interval, by group."""
    chosen = sorted(result.order_of_changes, key=lambda edge: -abs(_final(result, edge)))[:most]
    groups = [
        (f"perhaps at once, in {low:,.0f} to {high:,.0f}", [edge for edge in members if edge in chosen])
        for (low, high), members in zip(result.spans.tolist(), result.groups, strict=True)
    ]
    drifting = [edge for edge in result.order_of_changes if edge in chosen and edge not in result.order]
    groups.append(("noise or drift might do that", drifting))
    dots = [
        (heading, [_dot(result, edge, heading == groups[-1][0]) for edge in some]) for heading, some in groups if some
    ]
    if not dots:
        raise ResultError("no edge has changed for good, so that there is nothing to show; give kind='film'")
    highest = max(dot.high for _, some in dots for dot in some)
    rows = DotRows(dots, 0.0, 1.2 * highest)
    figure = rows.draw()
    figure.update_xaxes(title_text=title_of("step"), tickformat=",d")
    left_out = len(result.order_of_changes) - len(chosen)
    notes = [
        f"Dots: where the effect is half-way; lines: 95% interval over {result.n_examples} prompts, between stages",
        "At the right the effect at the end, below 0 where the edge helps: teal; else rust. At once: their intervals "
        "have a moment in common",
    ]
    notes += [f"{left_out} more change less"] if left_out else []
    return Drawing(
        figure=figure,
        title=_title(result),
        notes=tuple(notes),
        intervals_told=True,
        plot=rows.height,
        left=rows.left,
    )


def _final(result: CircuitAtlas, edge: str) -> float:
    return float(result.final[result.edges.index(edge)])


def _dot(result: CircuitAtlas, edge: str, drifts: bool) -> Dot:
    half, low, high = result.half_of(edge)
    final = _final(result, edge)
    p = float(result.p_value[result.edges.index(edge)])
    said = "" if math.isnan(p) else f", p = {p:.2g}"
    return Dot(
        label=words(edge),
        value=half,
        low=low,
        high=high,
        colour=style.MUTED if drifts else style.HELPS if final < 0 else style.AGAINST,
        hover=f"{words(edge)}, effect {final:.3g} at the end{said}: half-way at step",
        beside=f"{final:.2f}".replace("-", "−"),
    )
