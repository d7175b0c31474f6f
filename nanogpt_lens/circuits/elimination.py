"""Circuits by leaving edges out: the least missed first, in the order of the graph (ACDC), or in any order.

`backward` scores every edge anew after each removal, and leaves out the one without which the faithfulness is nearest
to 1; several at once, if the circuit without all of them is still within half of the tolerance, so that most of it is
left for the choices that matter.

`in_order` asks the edges one after the other, as ACDC does (Conmy et al. 2023, "Towards Automated Circuit Discovery for
Mechanistic Interpretability"): an edge goes if the run without it is not farther from the whole model's than the run
before, by more than the threshold. Most edges go, so runs are made ahead, as if all edges went, and thrown away behind
the first that stays: what comes out is what one run after the other gives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.circuits.search import Distance, Search, without

_OF_SEVERAL = 0.5
"""The share of the tolerance that may be used up where several edges go at once."""

_AHEAD = 32
"""The most runs that are made before it is known whether they are needed."""


def backward(
    search: Search, *, n_edges: int | None, at_once: float, progress: bool
) -> tuple[Bool[Tensor, " edge"], Int[Tensor, " edge"]]:
    """Leave out the least missed edges, one after the other.

    Args:
        search: the runs.
        n_edges: how many edges are to stay; None for as many as the tolerance asks for.
        at_once: the largest share of the edges that go between two scorings.
        progress: show a bar.

    Returns:
        the edges that stay, and all edges in the order of their importance: the last to go first.
    """
    kept, gone = search.everything, list[int]()
    found = kept if n_edges == len(kept) else None
    with tqdm(total=len(kept), desc="edges left out", unit="edge", delay=1, disable=not progress) as bar:
        while bool(kept.any()):
            leave = _least_missed(search, kept, at_once, len(kept) if found is not None else n_edges or 0)
            off = search.off(_prefixes(kept, leave))
            sizes = _halvings(len(leave))
            allowed = [search.tolerance * (1 if size == 1 else _OF_SEVERAL) for size in sizes]
            fitting = [size for size, most, far in zip(sizes, allowed, off.tolist(), strict=True) if far <= most]
            if found is None and n_edges is None and not fitting:
                found = kept.clone()
            n_gone = fitting[0] if fitting else min(len(leave), max(1, int(kept.sum()) // 10))
            kept[leave[:n_gone]] = False
            gone += leave[:n_gone].tolist()
            bar.update(n_gone)
            if found is None and int(kept.sum()) == n_edges:
                found = kept.clone()
    return kept if found is None else found, torch.tensor(gone[::-1])


def _least_missed(search: Search, kept: Bool[Tensor, " edge"], at_once: float, least: int) -> Int[Tensor, " gone"]:
    """The edges without which, each alone, the faithfulness is nearest to 1, the nearest first."""
    n = int(kept.sum())
    most = max(1, int(at_once * n))
    if n > least:
        most = min(most, n - least)
    off = (search.without_each(kept) - 1).abs()
    return off.nan_to_num(torch.inf).argsort(stable=True)[:most]


def _halvings(n: int) -> list[int]:
    """n, and its halves down to 1."""
    return [n >> i for i in range(n.bit_length())]


def _prefixes(kept: Bool[Tensor, " edge"], leave: Int[Tensor, " gone"]) -> Bool[Tensor, "set edge"]:
    """The set without the first edges of a list: all, half, ... one of them."""
    return torch.cat([without(kept, leave[None, :n]) for n in _halvings(len(leave))])


def acdc(
    search: Search, distance: Distance, threshold: float, *, progress: bool
) -> tuple[Bool[Tensor, " edge"], Float[Tensor, " edge"]]:
    """ACDC: from the logits to the first layer, each receiver's edges from the latest sender to the earliest.

    Returns:
        the edges that stay, and by how much the distance grew when each was asked.
    """
    order = torch.arange(len(search.everything)).flip(0)
    return in_order(distance, search.everything, order, lambda grown, _: grown < threshold, progress=progress)


def minimal_in_order(
    search: Search, kept: Bool[Tensor, " edge"], order: Int[Tensor, " edge"], *, progress: bool = False
) -> Bool[Tensor, " edge"]:
    """The circuit that is left where each edge goes, in an order, without which the tolerance is kept.

    The order is gone through until no edge can go, which is the certificate of 1-minimality.
    """
    while True:
        some = order[kept[order]]
        left, _ = in_order(search.off, kept, some, lambda _, off: off <= search.tolerance, progress=progress)
        if bool((left == kept).all()):
            return kept
        kept = left


def in_order(
    distance: Distance,
    kept: Bool[Tensor, " edge"],
    order: Int[Tensor, " asked"],
    may_go: Callable[[float, float], bool],
    *,
    progress: bool,
) -> tuple[Bool[Tensor, " edge"], Float[Tensor, " edge"]]:
    """Ask edges one after the other whether they may go.

    Args:
        distance: how far the runs of sets are from the whole model's.
        kept: the edges to start with.
        order: the places of those that are asked.
        may_go: from how much the distance grows without an edge, and the distance then.
        progress: show a bar.

    Returns:
        the edges that stay, and by how much the distance grew without each that was asked; nan for the others.
    """
    kept, grown = kept.clone(), torch.full(kept.shape, torch.nan, dtype=torch.float64)
    current, asked, ahead = float(distance(kept[None])[0]), 0, 1
    with tqdm(total=len(order), desc="edges asked", unit="edge", delay=1, disable=not progress) as bar:
        while asked < len(order):
            some = order[asked : asked + ahead]
            sets = torch.cat([without(kept, some[None, : i + 1]) for i in range(len(some))])
            ahead = min(2 * ahead, _AHEAD)
            for i, there in enumerate(distance(sets).tolist()):
                grown[some[i]] = there - current
                asked += 1
                bar.update()
                if not may_go(there - current, there):
                    ahead = 1
                    break
                kept, current = sets[i], there
    return kept, grown
