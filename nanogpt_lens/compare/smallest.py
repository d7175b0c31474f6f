"""Small sets of components that move most of a difference, and random sets beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Shares: TypeAlias = Callable[[Bool[Tensor, "set component"]], Float[Tensor, " set"]]
"""The share of the difference that moves with each of some sets."""


def smallest_set(
    shares: Shares, candidates: Int[Tensor, " candidate"], n_components: int, *, enough: float
) -> tuple[Bool[Tensor, " component"], Int[Tensor, " candidate"], float]:
    """A small set that moves enough: by adding what adds most, and by leaving out what is missed least; the smaller.

    A still smaller one may exist, for not all sets are tried.

    Args:
        shares: what sets move.
        candidates: the components that may be in it.
        n_components: how many there are.
        enough: the share that it is to move.

    Returns:
        the set, all candidates in the order in which they were added with those of the set first, and what the set
        moves. All candidates, where not even they move enough.
    """
    grown, order = _grown(shares, candidates, n_components, enough)
    everything = torch.zeros(n_components, dtype=torch.bool)
    everything[candidates] = True
    sets = [_shrunk(shares, start, enough) for start in (grown, everything)]
    found = shares(torch.stack(sets)).tolist()
    reached = [
        (-int(kept.sum()), share, i) for i, (kept, share) in enumerate(zip(sets, found, strict=True)) if share >= enough
    ]
    best = max(reached)[2] if reached else 1
    kept = sets[best]
    ordered = [i for i in order if kept[i]] + [i for i in order if not kept[i]]
    return kept, torch.tensor(ordered, dtype=torch.long), found[best]


def _grown(
    shares: Shares, candidates: Int[Tensor, " candidate"], n_components: int, enough: float
) -> tuple[Bool[Tensor, " component"], list[int]]:
    """A set that grew by what adds most until it moves enough, and all candidates, the best first."""
    kept, order = torch.zeros(n_components, dtype=torch.bool), list[int]()
    left, share = candidates.tolist(), 0.0
    while left and share < enough:
        found = shares(torch.stack([kept | _only(i, n_components) for i in left]))
        share = float(found.max())
        left = [left[i] for i in found.argsort(descending=True, stable=True).tolist()]
        order.append(left.pop(0))
        kept[order[-1]] = True
    return kept, order + left


def _shrunk(shares: Shares, start: Bool[Tensor, " component"], enough: float) -> Bool[Tensor, " component"]:
    """A set without what is missed least, several at once while the rest moves enough; no component can go any more."""
    kept = start.clone()
    while int(kept.sum()) > 1:
        inside = kept.nonzero()[:, 0].tolist()
        found = shares(torch.stack([kept & ~_only(i, len(kept)) for i in inside]))
        ranked = [inside[i] for i in found.argsort(descending=True, stable=True).tolist()]
        if float(found.max()) < enough:
            break
        sizes = [size for size in (len(inside) // 2, len(inside) // 4, len(inside) // 8) if size > 1]
        several = [kept & ~sum((_only(i, len(kept)) for i in ranked[:size]), torch.zeros_like(kept)) for size in sizes]
        fitting = [] if not several else (shares(torch.stack(several)) >= enough).nonzero()[:, 0].tolist()
        kept = several[fitting[0]] if fitting else kept & ~_only(ranked[0], len(kept))
    return kept


def random_sets(
    chosen: Bool[Tensor, " component"],
    candidates: Int[Tensor, " candidate"],
    n_parameters: Int[Tensor, " component"],
    *,
    n: int,
    generator: torch.Generator,
) -> Bool[Tensor, "control draw component"]:
    """Random sets of as many components as one has, and of about as many parameters.

    Of those by parameters, components are taken in a random order, and each goes in that does not make the set larger
    than the chosen one; and then the one that brings it nearest, if it is nearer with than without it.
    """
    sets = torch.zeros(2, n, len(chosen), dtype=torch.bool)
    size, budget = int(chosen.sum()), int(n_parameters[chosen].sum())
    for draw in range(n):
        order = candidates[torch.randperm(len(candidates), generator=generator)]
        sets[0, draw, order[:size]] = True
        order = candidates[torch.randperm(len(candidates), generator=generator)].tolist()
        room = budget
        for i in order:
            if int(n_parameters[i]) <= room:
                sets[1, draw, i] = True
                room -= int(n_parameters[i])
        over = {i: abs(int(n_parameters[i]) - room) for i in order if not sets[1, draw, i]}
        if over and min(over.values()) < room:
            sets[1, draw, min(over, key=over.__getitem__)] = True
    return sets


def sizes_up_to(n: int, most: int = 12) -> list[int]:
    """Sizes from 0 to n, all of them where they are few, else ever farther apart."""
    if n < most:
        return list(range(n + 1))
    ratio = (n / 4) ** (1 / (most - 6))
    return sorted({0, 1, 2, 3, *(round(4 * ratio**i) for i in range(most - 5)), n})


def first_of(order: Int[Tensor, " candidate"], sizes: list[int], n_components: int) -> Bool[Tensor, "size component"]:
    """The first components of an order, for each size."""
    sets = torch.zeros(len(sizes), n_components, dtype=torch.bool)
    for row, size in zip(sets, sizes, strict=True):
        row[order[:size]] = True
    return sets


def _only(i: int, n: int) -> Bool[Tensor, " component"]:
    """The set of one component."""
    return torch.arange(n) == i
