"""Whether a curve changes more than a random walk does: a likelihood ratio, and its distribution under walks.

A score may wander as training goes on. A random walk has no transition, yet its ends differ and its first half is
not its second; orders of the steps drawn at random, which destroy the walk too, take nearly every one for a change.
Here the null hypothesis is a walk: Gaussian increments from stage to stage, independent and of one size, and on top
of it noise that is new at every stage, in any proportion. The alternative is the same and a transition: a step, a
logistic curve or a straight ramp, anywhere and of any width. The statistic is the difference of their logarithmic
likelihoods, both at their best over proportions, transitions, size and height. Size and offset of the curve make
no difference to it, so that simulated walks of as many stages give its distribution.

Nothing can tell a step from one large increment of a walk whose increments have heavy tails.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_WALKS = 5000
_TAIL = 0.02
"""The share of the walks from which on the tail is taken to be exponential."""

_PROPORTIONS = (0.0, 0.03, 0.1, 0.3, 1.0, 1e4)
"""Variances of an increment of the walk, in those of the noise."""

_WIDTHS = (0.5, 1.0, 2.0, 4.0)
"""Of logistic curves, in stages."""

_PLACES, _CORNERS = 32, 14
"""The largest numbers of centres of curves, and of corners of ramps."""

_PERFECT = 1e-12
"""The share of a curve's squares that rounding leaves where a transition fits it perfectly."""


class _Whitened(NamedTuple):
    """What a proportion of walk and noise makes of curves.

    Attributes:
        matrix: makes independent noise of that covariance, and takes the offset away.
        transitions: the transitions after that, each of length 1.
        log_determinant: of the covariance.
    """

    matrix: Float[Tensor, "step step"]
    transitions: Float[Tensor, "transition step"]
    log_determinant: float


def drift_p(curves: Float[Tensor, "curve step"], *, looked_at: int = 1) -> Float[Tensor, " curve"]:
    """The p-value of each curve's rise among random walks; 1 for a constant curve.

    Args:
        curves: of at least 3 steps.
        looked_at: how many curves were looked at; p is then that of the best of so many independent ones (Šidák).
    """
    n = curves.shape[-1]
    statistic = _statistic(curves, _models(n))
    walks = _walks(n)
    as_large = len(walks) - torch.searchsorted(walks, statistic - 1e-9)
    p = (1 + as_large).double() / (1 + len(walks))
    start = walks[round(len(walks) * (1 - _TAIL))]
    tail = _TAIL * (-(statistic - start) / (walks[walks > start] - start).mean()).exp()
    p = torch.where(statistic > start, tail.clamp(min=1e-12), p)
    p = p.masked_fill(curves.amax(-1) == curves.amin(-1), 1.0)
    return -torch.expm1(looked_at * torch.log1p(-p.clamp(max=1 - 1e-12)))


@cache
def _walks(n: int) -> Float[Tensor, " walk"]:
    """The statistics of simulated walks of `n` stages, ascending."""
    generator = torch.Generator().manual_seed(n)
    walks = torch.randn(_WALKS, n, dtype=torch.float64, generator=generator).cumsum(1)
    return _statistic(walks, _models(n)).sort().values


@cache
def _models(n: int) -> tuple[_Whitened, ...]:
    """Every proportion, for curves of `n` stages."""
    stage = torch.arange(1, n + 1, dtype=torch.float64)
    walk, ones = torch.minimum(stage[:, None], stage), torch.ones(n, 1, dtype=torch.float64)
    transitions = _transitions(n)
    models = []
    for proportion in _PROPORTIONS:
        covariance = torch.eye(n, dtype=torch.float64) + proportion * walk
        if proportion > 1:
            covariance /= proportion
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.inv(factor)
        offset = white @ ones
        offset /= offset.norm()
        matrix = white - offset @ (offset.T @ white)
        rows = transitions @ matrix.T
        rows /= rows.norm(dim=1, keepdim=True)
        models.append(_Whitened(matrix, rows, float(2 * factor.diagonal().log().sum())))
    return tuple(models)


def _transitions(n: int) -> Float[Tensor, "transition step"]:
    """Rises from 0 to 1: steps, logistic curves and ramps."""
    stage = torch.arange(n, dtype=torch.float64)
    rows = [(stage > place).double() for place in torch.linspace(0.5, n - 1.5, min(2 * _PLACES, n - 1)).double()]
    centres = torch.linspace(0.5, n - 1.5, min(_PLACES, 2 * n - 3), dtype=torch.float64)
    rows += [torch.sigmoid((stage - centre) / width) for width in _WIDTHS for centre in centres]
    corners = torch.linspace(0, n - 1, min(_CORNERS, n)).round().double().tolist()
    rows += [((stage - a) / (b - a)).clamp(0, 1) for a in corners for b in corners if b - a > 1]
    return torch.stack(rows)


def _statistic(curves: Float[Tensor, "*curves step"], models: tuple[_Whitened, ...]) -> Float[Tensor, "*curves"]:
    """How much likelier each curve is with a transition than without, as a logarithm."""
    without, transition = [], []
    for model in models:
        white = curves @ model.matrix.T
        squares = white.square().sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
        explained = (white @ model.transitions.T).clamp(min=0).amax(-1).square()
        for kept, left in ((without, squares), (transition, (squares - explained).clamp(min=_PERFECT * squares))):
            kept.append(-(curves.shape[-1] * left.log() + model.log_determinant) / 2)
    return torch.stack(transition).amax(0) - torch.stack(without).amax(0)
