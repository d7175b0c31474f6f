"""The area under the ROC curve (AUROC) of neurons, and its interval.

The tokens of one piece of text are not independent: their class comes in clumps, and their activations hang together.
So the interval counts pieces, not tokens, and above all those that hold the class, which may be few.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logit, stdtrit

from nanogpt_lens.core.intervals import LEVEL

_PIECE = 2**20


def auroc(
    values: Float[np.ndarray, "token unit"], labels: Bool[np.ndarray, "class token"]
) -> Float[np.ndarray, "class unit"]:
    """The area under the ROC curve, for several classes at once.

    Args:
        values: activations.
        labels: whether each token is in each class; a class holds some tokens, and not all.

    Returns:
        The probability that a token of the class is higher than one outside it, ties counting half.

    Source: Mann and Whitney 1947; from average ranks.
    """
    inside = labels.sum(1, dtype=np.float64)[:, None]
    weights = torch.from_numpy(labels.astype(np.float64))  # torch's threads, which one of two processes has one of
    step = max(1, _PIECE // len(values))
    ranks = (torch.from_numpy(_ranks(values[:, i : i + step].T)) for i in range(0, values.shape[1], step))
    sums = [(weights @ rows.T).numpy() for rows in ranks]
    return (np.concatenate(sums, 1) - inside * (inside + 1) / 2) / (inside * (labels.shape[1] - inside))


def _ranks(rows: Float[np.ndarray, "unit token"]) -> Float[np.ndarray, "unit token"]:
    """The rank of each entry in its row, from 1; equal ones have the average."""
    rows = np.ascontiguousarray(rows)
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, 1)
    place = np.arange(rows.shape[1], dtype=np.float64)
    new = np.ones(rows.shape, dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    start = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    last = np.concatenate([new[:, 1:], np.ones_like(new[:, :1])], 1)
    stop = np.minimum.accumulate(np.where(last, place, np.inf)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, (start + stop) / 2 + 1, 1)
    return ranks


def n_pieces(labels: Bool[np.ndarray, " token"], pieces: Int[np.ndarray, " token"]) -> int:
    """How many pieces hold the class, or how many hold anything else, if those are fewer."""
    return min(len(np.unique(pieces[labels])), len(np.unique(pieces[~labels])))


def auroc_interval(
    values: Float[np.ndarray, " token"], labels: Bool[np.ndarray, " token"], pieces: Int[np.ndarray, " token"]
) -> tuple[float, float]:
    """The 95% interval of one unit's AUROC over pieces of text, which are independent of each other.

    The variance is that of each piece's contribution; Student's t has a degree of freedom less than `n_pieces`; and
    the interval is symmetric for the log-odds of the AUROC, so that it ends within 0 and 1. Where all tokens of the
    class are on one side, there is no variance: then it ends where k pieces would all be on that side in 2.5%.

    Args:
        values, labels, pieces: of each token the activation, whether it is in the class, and its piece.

    Returns:
        Both ends; nan for fewer than two pieces with the class, or without it.

    Source: Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data", after DeLong et al. 1988.
    """
    k = n_pieces(labels, pieces)
    if k < 2:
        return math.nan, math.nan
    inside, outside = np.sort(values[labels]), np.sort(values[~labels])
    above = _share_below(outside, values[labels])  # for each token of the class, the share of the others below it
    below = 1 - _share_below(inside, values[~labels])
    area, count = float(above.mean()), int(pieces.max()) + 1
    if area in (0.0, 1.0):
        end = ((1 - LEVEL) / 2) ** (1 / k)
        return (end, 1.0) if area else (0.0, 1 - end)
    of_class = np.bincount(pieces[labels], above - area, count) / len(inside)
    of_others = np.bincount(pieces[~labels], below - area, count) / len(outside)
    variance = 0.0
    for weight, one, other, held in (
        (1, of_class, of_class, pieces[labels]),
        (1, of_others, of_others, pieces[~labels]),
        (2, of_class, of_others, pieces),
    ):
        n = len(np.unique(held))
        variance += weight * n / (n - 1) * float(one @ other)
    half = float(stdtrit(k - 1, (1 + LEVEL) / 2)) * math.sqrt(max(variance, 0.0)) / (area * (1 - area))
    return float(expit(logit(area) - half)), float(expit(logit(area) + half))


def _share_below(
    ordered: Float[np.ndarray, " other"], values: Float[np.ndarray, " token"]
) -> Float[np.ndarray, " token"]:
    """The share of some ordered values that is below each value, equal ones counting half."""
    below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + upto) / (2 * len(ordered))
