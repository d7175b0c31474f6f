"""Heads of models of different seeds, matched by what they do.

The number of a head means nothing across seeds: what is called 1.2 in one run may be 1.0 in the next. And a head may
have no counterpart at all: the nearest one is its partner only if it is nearer than the nearest of unrelated heads
would be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.results import HeadMatches, Scores, Trajectory

_ROUNDING = 1e-9
"""A score that differs between heads by no more than this share of its size is the same for all of them."""

DRAWS = 499
"""How often unrelated heads are drawn."""

_AT_ONCE = 50

_CHANCE = 0.05
"""In this share of the draws, some unrelated heads would count as partners."""


def match_heads(*scores: Scores, seed: int = 0) -> HeadMatches:
    """Match the heads of models of one shape by their scores, each with one of the same layer.

    A head is described by all its scores (with a trajectory, at all steps), each divided by its standard
    deviation over the heads of all models; a score that is the same as another, or its negative (copying and
    anti_copying), counts once. Candidates are chosen so that the sum of all distances in a layer is least, each
    head once.

    A candidate is a partner if it stands out: if its distance, as a share of the distance from either of the two to
    the nearest further head of their layer in either model, is smaller than the smallest share of any head is in 95%
    of draws of unrelated heads. These are normal, with the covariance of the scores over the heads of a layer. So two
    random models have no partners at all in 95 of 100 cases; where all heads of a layer are much alike, nobody can
    tell which belongs to which, and there are no partners either.

    Args:
        scores: at least two, such as `score_heads` or `trajectory(..., "task_heads")` of each model, with the
            axes "layer" and "head", and the others alike.
        seed: the seed of the unrelated heads.

    Returns:
        The matches with the first model's heads; `of(layer, head)` has None for "no partner".

    Raises:
        AnalysisError: there are fewer than two scores, or their axes, sizes or labels differ.

    Source: Kuhn 1955, the Hungarian method, as `scipy.optimize.linear_sum_assignment`.
    """
    check_whole(seed=seed)
    if len(scores) < 2:
        raise AnalysisError(f"{len(scores)} scores were given; expected those of at least two models")
    first = scores[0]
    for other in scores:
        if {"layer", "head"} - set(other.axes) or _kind(other) != _kind(first):
            raise AnalysisError(
                f"scores of the axes {_kind(other)} cannot be matched with {_kind(first)}; expected the same measure "
                "of models of one shape, with the axes 'layer' and 'head'"
            )
    profiles = _profiles(scores)  # [model, layer, head, feature]
    models, layers, heads, _ = profiles.shape
    partner = np.tile(np.arange(heads), (models, layers, 1))
    distance, second = np.zeros((models, layers, heads)), np.full((models, layers, heads), np.nan)
    for model in range(models):
        for layer in range(layers):
            gap = np.linalg.norm(profiles[0, layer][:, None] - profiles[model, layer][None], axis=-1)
            if model:
                partner[model, layer] = linear_sum_assignment(gap)[1]
            distance[model, layer] = gap[np.arange(heads), partner[model, layer]]
            gap[np.arange(heads), partner[model, layer]] = np.inf
            if heads > 1:
                second[model, layer] = gap.min(1)
    share, least, p = _standing_out(profiles, partner, seed)
    partner_layer = np.broadcast_to(np.arange(layers)[None, :, None], partner.shape)
    return HeadMatches(
        values=torch.from_numpy(distance),
        axes=("model", "layer", "head"),
        labels={"model": _names(scores)},
        quantity="distance of scores, in standard deviations over all heads",
        definition=f"heads of the first model matched within their layer by {first.quantity}; each score in units of "
        "its standard deviation over all heads; least sum of distances (Kuhn 1955); a partner stands out from the "
        "other heads more than the clearest of unrelated heads does in 95% of draws",
        title="distance of scores",
        unit="standard deviations",
        partner_layer=torch.from_numpy(partner_layer.copy()),
        partner_head=torch.from_numpy(partner),
        nearest_other=torch.from_numpy(second),
        chance=torch.from_numpy(least),
        p=torch.from_numpy(p),
        matched=torch.from_numpy(~(share >= 0) | (p <= _CHANCE)),
        provenance={"models": [dict(other.provenance) for other in scores], "seed": seed},
    )


def _standing_out(
    profiles: Float[np.ndarray, "model layer head feature"], partner: Int[np.ndarray, "model layer head"], seed: int
) -> tuple[Float[np.ndarray, "model layer head"], ...]:
    """Of each head the share that `match_heads` tells, the distance at which it would be that of chance, and its p.

    The shares are nan for the first model, and for layers of one head, where nothing can stand out.
    """
    models, layers, heads, _ = profiles.shape
    share, chance, p = (np.full((models, layers, heads), np.nan) for _ in range(3))
    generator = np.random.default_rng(seed)
    for model in range(1, models if heads > 1 else 1):
        pool = np.concatenate([profiles[0], profiles[model]], axis=1)  # [layer, heads of both, feature]
        least = _least_shares((pool - pool.mean(1, keepdims=True)).reshape(2 * layers * heads, -1), layers, generator)
        for layer in range(layers):
            share[model, layer], others = _shares(profiles[0, layer], profiles[model, layer], partner[model, layer])
            chance[model, layer] = np.quantile(least, _CHANCE) * others
        p[model] = (1 + (least[:, None, None] <= share[model]).sum(0)) / (1 + DRAWS)
    return share, chance, p


def _least_shares(
    residuals: Float[np.ndarray, "head feature"], layers: int, generator: np.random.Generator
) -> Float[np.ndarray, " draw"]:
    """The smallest share of any head in each draw of unrelated heads, normal with the covariance of some heads.

    As many are drawn as there are `residuals`, in all layers and both models. A share below 1 belongs to two heads that
    are nearest to each other, which the assignment pairs. Distances do not change with the coordinate system.
    """
    size = np.linalg.svd(residuals, compute_uv=False)
    both = len(residuals) // layers  # the heads of a layer, of one model in front of those of the other
    cross = np.repeat([0, 1], both // 2)
    cross = cross[:, None] != cross[None]
    least = []
    for n in np.diff([*range(0, DRAWS, _AT_ONCE), DRAWS]):
        heads = generator.standard_normal((n, layers, both, len(size))) * size
        square = np.square(heads).sum(-1)
        gap = square[..., None] + square[..., None, :] - 2 * heads @ np.swapaxes(heads, -1, -2)
        gap[..., np.arange(both), np.arange(both)] = np.inf
        nearest, second = np.partition(gap, 1, axis=-1)[..., :2].transpose(3, 0, 1, 2)
        mutual = cross & (gap <= nearest[..., None]) & (gap <= nearest[..., None, :])
        others = np.minimum(second[..., None], second[..., None, :])
        shares = np.where(mutual & (others > 0), gap.clip(0) / np.where(others > 0, others, 1.0), 1.0)
        least.append(np.sqrt(shares.min((1, 2, 3))))
    return np.concatenate(least)


def _shares(
    one: Float[np.ndarray, "head feature"],
    other: Float[np.ndarray, "head feature"],
    partner: Int[np.ndarray, " head"] | None = None,
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """Each head's distance to its candidate, as a share of that to the nearest further head of both; and the latter."""
    between = np.linalg.norm(one[:, None] - other[None], axis=-1)
    partner = linear_sum_assignment(between)[1] if partner is None else partner
    here = np.arange(len(one))
    distance = between[here, partner]
    between[here, partner] = np.inf
    nearest = [between.min(1), between.min(0)[partner]]
    for heads, order in ((one, here), (other, partner)):
        within = np.linalg.norm(heads[:, None] - heads[None], axis=-1)
        within[here, here] = np.inf
        nearest.append(within.min(1)[order])
    others = np.minimum.reduce(nearest)
    return np.where(others > 0, distance / np.where(others > 0, others, 1.0), 1.0), others


def _kind(scores: Scores) -> tuple[Any, ...]:
    """What scores must have in common to be compared: axes, sizes and labels."""
    return scores.axes, tuple(scores.values.shape), tuple(sorted(scores.labels.items()))


def _profiles(scores: tuple[Scores, ...]) -> Float[np.ndarray, "model layer head feature"]:
    """Every head's scores, each with a standard deviation of 1 over all heads."""
    rows = []
    for other in scores:
        first = [other.axes.index(axis) for axis in ("layer", "head")]
        rest = [i for i in range(len(other.axes)) if i not in first]
        values = other.values.double().permute(*first, *rest)
        rows.append(values.reshape(*values.shape[:2], -1).numpy())
    every = np.nan_to_num(np.stack(rows))
    every = every[..., _different(every.reshape(-1, every.shape[-1]))]
    spread, largest = every.std(axis=(0, 1, 2)), np.abs(every).max(axis=(0, 1, 2))
    return every / np.where(spread > _ROUNDING * largest, spread, 1.0)


def _different(columns: Float[np.ndarray, "head feature"]) -> list[int]:
    """The columns that are neither the same as an earlier one nor its negative."""
    seen: set[bytes] = set()
    kept = []
    for i, column in enumerate(columns.T + 0.0):  # -0.0 becomes 0.0
        if column.tobytes() not in seen:
            kept.append(i)
        seen |= {column.tobytes(), (0.0 - column).tobytes()}
    return kept


def _names(scores: tuple[Scores, ...]) -> tuple[str, ...]:
    """The names of the models: their checkpoints if these differ, otherwise numbers."""
    names = [str(other.checkpoint) for other in scores]
    distinct = len(set(names)) == len(names) and not any(isinstance(s, Trajectory) and s.measure == "" for s in scores)
    return tuple(names) if distinct else tuple(str(i) for i in range(len(names)))
