"""When every edge of a model's graph appears in training, and which appear together.

    effects = ngl.trajectory("induction", "edge_effects", pairs="induction")
    atlas = circuit_atlas(effects)
    print(atlas.sentence())
    atlas.plot(kind="film")

An edge has changed where its effect at the last stages differs from that at the first, by the rules of
`change_points`, in its own unit: away from zero, by `least` or more and to `least` or more, surely over the prompts,
for good. Its sign is that of its effect at the last stages: an edge whose effect is negative changes as its effect
falls. Every edge that has changed has an onset and a half-way point, with intervals over the prompts.

An effect that only shrinks has not changed, in these words, even where it is gone. It has shrunk where it is there from
the start, at the first stage at least half of what it is where it is largest, and where it is nearer to zero at the
last stages than at the first: by `least` or more, surely over the prompts, for good.

It appears where, besides, neither noise nor drift explains the change: where there is a transition. The curves looked
at are those of the edges whose effects differ by `least` or more between any two stages, each with both signs, as the
sign is looked at first. No other edge could be said to appear; and as that does not depend on the order of the stages,
the tests of those that are left hold. Both p of each curve, against noise and against drift, are corrected for the
number of curves as if they were independent (Sidak 1967). `find_change_point` corrects the first by the largest
statistic of any curve in one random order, which among so many has no power: an effect that is there at one stage alone
has, with any luck, its stage last, and is then as large a rise as there can be.

Groups. Each edge that appears has an interval for its half-way point. The groups are the fewest moments of
which at least one is within every interval: the intervals by their upper ends, the first upper end is the first moment,
all edges whose interval begins before it are its group, and so on. So the edges of a group may all be half-way at one
moment, within the group's span. And there are as many intervals, one of each group, of which no two have a moment in
common: the edges cannot all have appeared at fewer moments, if these intervals hold. Intervals that only touch, at a
stage, have none in common. A group does not say that its edges belong together: `moving_together` tells how far
their effects change at the same stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.results import ChangePoint, CircuitAtlas, Scores, Trajectory
from nanogpt_lens.runs.change_points import POINTS, check_options, find_change_point
from nanogpt_lens.runs.crossings import SHARES, ends

PERMUTATIONS = 20_000

_SIGNS = (1.0, -1.0)
_ANY = 1 - 1e-9
"""The level at which no p refuses."""


def circuit_atlas(
    effects: Trajectory, *, least: float = 0.1, level: float = 0.05, permutations: int = PERMUTATIONS, seed: int = 0
) -> CircuitAtlas:
    """When every edge appears in training, and which may have appeared at one moment.

    The module's docstring has the definitions.

    Args:
        effects: of every edge at every stage, of two prompts or more: `ngl.trajectory(path, "edge_effects")`.
        least: the smallest change of an effect that counts, in logits.
        level: of the tests, all edges together.
        permutations, seed: as for `find_change_point`.

    Raises:
        AnalysisError: it is no such trajectory, or whatever `find_change_point` raises.
    """
    _check(effects)
    check_options(least, level, permutations, seed)
    n_curves = _n_looked_at(effects, least)
    _check_permutations(level, permutations, n_curves)
    found = _change_points(effects, least=least, level=_ANY, permutations=permutations, seed=seed)
    p = {name: _corrected(found, name, n_curves) for name in ("p_value", "p_noise", "p_drift")}
    columns: dict[str, Any] = {
        f"{point}{suffix}": _column(found, name, point)
        for point in POINTS
        for suffix, name in (("", "values"), ("_low", "low"), ("_high", "high"))
    }
    baseline, final = ends(effects.values.double().T)
    changed = torch.tensor([change.formed for change in found]) & (final.abs() >= least * (1 - 1e-6))
    columns = {name: column.where(changed, math.nan) for name, column in columns.items()}
    columns |= p | effects.meaning() | {"low": effects.low, "high": effects.high}
    formed = changed & (p["p_value"] <= level)
    group, spans = fewest_moments(columns["half_low"].where(formed, math.nan), columns["half_high"])
    return CircuitAtlas(
        values=effects.values,
        axes=effects.axes,
        labels=effects.labels,
        changed=changed,
        shrunk=_shrunk(effects, least) & ~changed,
        formed=formed,
        **columns,
        n_curves=n_curves,
        baseline=baseline,
        final=final,
        group=group,
        spans=spans,
        files=effects.files,
        least=least,
        level=level,
        provenance={
            **effects.provenance,
            "atlas": {"least": least, "level": level, "permutations": permutations, "seed": seed},
        },
    )


def fewest_moments(
    low: Float[Tensor, " edge"], high: Float[Tensor, " edge"]
) -> tuple[Int[Tensor, " edge"], Float[Tensor, "group 2"]]:
    """The fewest moments of which one is within each interval: which each is given, and where each may be.

    Args:
        low, high: the ends of the intervals; nan for none.

    Returns:
        The group of each interval, -1 for none; and the span that the intervals of each group have in common.
    """
    group, spans = torch.full(low.shape, -1), list[tuple[float, float]]()
    left = [i for i in high.argsort(stable=True).tolist() if not bool(low[i].isnan())]
    while left:
        moment = float(high[left[0]])
        members = [i for i in left if i == left[0] or float(low[i]) < moment]
        group[members] = len(spans)
        spans.append((max(float(low[i]) for i in members), moment))
        left = [i for i in left if i not in members]
    return group, torch.tensor(spans, dtype=torch.float64).reshape(-1, 2)


def _check(effects: Trajectory) -> None:
    """Raise AnalysisError unless they are effects of every edge, with their intervals over prompts."""
    if not isinstance(effects, Trajectory) or effects.axes != ("step", "edge"):
        axes = f" with the axes {', '.join(effects.axes)}" if isinstance(effects, Trajectory) else ""
        raise AnalysisError(
            f"a {type(effects).__name__}{axes} was given; expected the effects of every edge over training: "
            "ngl.trajectory(path, 'edge_effects')"
        )
    if effects.per_example is None or effects.low is None:
        raise AnalysisError(
            "the effects are not known prompt by prompt, so that appearance has no interval; expected two prompts or "
            "more: ngl.trajectory(path, 'edge_effects', n=32)"
        )


def _check_permutations(level: float, permutations: int, n_curves: int) -> None:
    """Raise AnalysisError unless the corrected p can be below the level."""
    each = -math.expm1(math.log1p(-level) / n_curves)
    if each * (1 + permutations) < 1:
        raise AnalysisError(
            f"permutations is {permutations:,}, too few to tell among {n_curves} curves at the level of {level:g}; "
            f"expected {math.ceil(1 / each):,} or more"
        )


def _change_points(effects: Trajectory, **options: Any) -> list[ChangePoint]:
    """The change point of each edge towards its own sign, among all edges and both signs."""
    assert effects.per_example is not None
    signs = torch.tensor(_SIGNS, dtype=torch.float64)
    curves = Scores(
        values=effects.values.double()[..., None] * signs,
        axes=("step", "edge", "sign"),
        labels=effects.labels,
        quantity=effects.quantity,
        definition=effects.definition,
        per_example=effects.per_example.double()[..., None, :] * signs[:, None],
    )
    _, final = ends(effects.values.double().T)
    places = [_SIGNS.index(-1.0 if value < 0 else 1.0) for value in final.tolist()]
    return [find_change_point(curves, edge=i, sign=place, looked_at=(), **options) for i, place in enumerate(places)]


def _shrunk(effects: Trajectory, least: float) -> Bool[Tensor, " edge"]:
    """Whether the effect of each edge is there from the start and nearer to zero at the end, surely and for good."""
    assert effects.per_example is not None
    values = effects.values.double()
    baseline, final = ends(values.T)
    first, last = ends(effects.per_example.double().movedim(0, -1))
    low, high = t_interval(last - first) or (final - baseline, final - baseline)  # of two prompts or more there is one
    there = values[0].abs() >= values.abs().amax(0) / 2
    nearer = (final.abs() < baseline.abs()) & ((final - baseline).abs() >= least * (1 - 1e-6))
    past_half = (values[-1] - baseline) / (final - baseline) >= SHARES[1]  # nan, of no change, is not
    return there & nearer & (low * high > 0) & past_half


def _n_looked_at(effects: Trajectory, least: float) -> int:
    """How many curves could be said to rise: two for each edge whose effects differ by so much; at least 1."""
    spread = effects.values.amax(0) - effects.values.amin(0)
    return max(1, len(_SIGNS) * int((spread >= least * (1 - 1e-6)).sum()))


def _corrected(found: Sequence[ChangePoint], name: str, n_curves: int) -> Float[Tensor, " edge"]:
    """A p of all edges, as of the best of so many independent curves."""
    p = torch.tensor([getattr(change, name) for change in found], dtype=torch.float64)
    return -torch.expm1(n_curves * torch.log1p(-p.clamp(max=1 - 1e-12)))


def _column(found: Sequence[ChangePoint], name: str, point: str) -> Float[Tensor, " edge"]:
    """One number of one point of all edges; nan where an edge has not changed."""
    i = POINTS.index(point)
    return torch.stack([getattr(change, name)[i] for change in found])
