"""Heads of models of different seeds, matched by what they do.

The number of a head means nothing across seeds: what is called 1.2 in one run may be 1.0 in the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.results import HeadMatches, Scores, Trajectory

_ROUNDING = 1e-9
"""A score that differs between heads by no more than this share of its size is the same for all of them."""


def match_heads(*scores: Scores) -> HeadMatches:
    """Match the heads of models of one shape by their scores, each with one of the same layer.

    A head is described by all its scores (with a trajectory, at all steps), each divided by its standard
    deviation over the heads of all models. Partners are chosen so that the sum of all distances in a
    layer is least, each head once.

    Args:
        scores: at least two, such as `score_heads` or `trajectory(..., "task_heads")` of each model, with the
            axes "layer" and "head", and the others alike.

    Returns:
        The matches with the first model's heads.

    Raises:
        AnalysisError: there are fewer than two scores, or their axes, sizes or labels differ.

    Source: Kuhn 1955, the Hungarian method, as `scipy.optimize.linear_sum_assignment`.
    """
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
    partner_layer = np.broadcast_to(np.arange(layers)[None, :, None], partner.shape)
    return HeadMatches(
        values=torch.from_numpy(distance),
        axes=("model", "layer", "head"),
        labels={"model": _names(scores)},
        quantity="distance of scores, in standard deviations over all heads",
        definition=f"heads of the first model matched within their layer by {first.quantity}; each score in units of "
        "its standard deviation over all heads; least sum of distances (Kuhn 1955)",
        title="distance of scores",
        unit="standard deviations",
        partner_layer=torch.from_numpy(partner_layer.copy()),
        partner_head=torch.from_numpy(partner),
        nearest_other=torch.from_numpy(second),
        provenance={"models": [dict(other.provenance) for other in scores]},
    )


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
    spread, largest = every.std(axis=(0, 1, 2)), np.abs(every).max(axis=(0, 1, 2))
    return every / np.where(spread > _ROUNDING * largest, spread, 1.0)


def _names(scores: tuple[Scores, ...]) -> tuple[str, ...]:
    """The names of the models: their checkpoints if these differ, otherwise numbers."""
    names = [str(other.checkpoint) for other in scores]
    distinct = len(set(names)) == len(names) and not any(isinstance(s, Trajectory) and s.measure == "" for s in scores)
    return tuple(names) if distinct else tuple(str(i) for i in range(len(names)))
