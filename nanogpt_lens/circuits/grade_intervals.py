"""Intervals of grades over the prompts: these are drawn again, the effects and the estimates averaged anew.

The grades are no means, so that the interval is the percentile bootstrap. Only grades that look at the scores alone
have one, of methods whose scores are means over prompts, or need none; the others would have to search anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from nanogpt_lens.circuits.ranking import Ranking
from nanogpt_lens.core.intervals import ENDS, times_drawn

SCORES = ("spearman", "sign_agreement", "top_k_overlap", "average_precision")
"""The grades that have intervals, the first ones of every method's."""


def grade_intervals(
    exact: Float[Tensor, "edge example"],
    gap: Float[Tensor, " example"],
    ranked: Sequence[Ranking],
    *,
    n_scores: int,
    k: int,
    relevant: float,
    seed: int,
) -> tuple[Float[Tensor, "method score"], Float[Tensor, "method score"]]:
    """Both ends of the 95% interval of each method's grades; nan where there is none.

    Args:
        exact: the exact effect of every edge in each example.
        gap: the metric of all edges less that of none, in each example.
        ranked: the methods; those without `per_example` have no interval.
        n_scores: how many grades a method has.
        k, relevant: as for `grade_circuit_methods`.
        seed: of the resamples.
    """
    weights = times_drawn(exact.shape[1], seed=seed).T / exact.shape[1]  # [example, resample]
    truth = exact.double() @ weights
    important = truth.abs() >= relevant * (gap.double() @ weights).abs()
    ends = torch.full((2, len(ranked), n_scores), torch.nan, dtype=torch.float64)
    for i, one in enumerate(ranked):
        if one.per_example is not None:
            scores = one.per_example.double().expand(exact.shape) @ weights
            grades = _grades(scores, truth, important, k=k, signed=one.signed)
            ends[:, i, : len(SCORES)] = grades.nanquantile(ENDS, dim=1)
    return ends[0], ends[1]


def _grades(
    scores: Float[Tensor, "edge resample"],
    truth: Float[Tensor, "edge resample"],
    important: Bool[Tensor, "edge resample"],
    *,
    k: int,
    signed: bool,
) -> Float[Tensor, "score resample"]:
    """The grades of a method in each resample, in the order of `SCORES`."""
    one, two = (scores, truth) if signed else (scores.abs(), truth.abs())
    right = ((scores.sign() == truth.sign()) & important).sum(0).double() / important.sum(0)
    order = scores.abs().argsort(dim=0, descending=True, stable=True)
    hits = important.gather(0, order).double()
    best = truth.abs().argsort(dim=0, descending=True, stable=True)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)[:, None]
    return torch.stack(
        [
            _correlation(_ranks(one), _ranks(two)),
            right if signed else torch.full_like(one[0], torch.nan),
            (_first(order, k) & _first(best, k)).sum(0).double() / k,
            (precision * hits).sum(0) / hits.sum(0),
        ]
    )


def _ranks(scores: Float[Tensor, "edge resample"]) -> Float[Tensor, "edge resample"]:
    """The rank of each edge in each resample; equal values share theirs."""
    return torch.from_numpy(rankdata(scores.numpy(), axis=0))


def _correlation(
    one: Float[Tensor, "edge resample"], two: Float[Tensor, "edge resample"]
) -> Float[Tensor, " resample"]:
    one, two = one - one.mean(0), two - two.mean(0)
    return (one * two).sum(0) / (one.square().sum(0) * two.square().sum(0)).sqrt()


def _first(order: Tensor, k: int) -> Bool[Tensor, "edge resample"]:
    """Whether an edge is among the first k of an order [place, resample]."""
    return torch.zeros(order.shape, dtype=torch.bool).scatter_(0, order[:k], value=True)
