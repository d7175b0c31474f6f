"""Smaller circuits by exchange: an edge outside for one inside, where two edges can go after that.

Leaving out alone ends where no edge can go. A circuit that is smaller by one may be one exchange away: all exchanges
are tried whose new edge leads somewhere, and after the best of them every edge is asked again.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.circuits.connected import without_dangling
from nanogpt_lens.circuits.search import Search

_MOST = 1024
"""The most exchanges that are tried in a round: those with the edges that rank highest."""

_BEST = 8
"""How many of them are followed."""


def exchanged(
    search: Search,
    kept: Bool[Tensor, " edge"],
    order: Int[Tensor, " edge"],
    *,
    rounds: int,
    progress: bool,
) -> Bool[Tensor, " edge"]:
    """A circuit within the tolerance with fewer edges, by exchanges; the same where none is found.

    Args:
        search: the runs.
        kept: a circuit within the tolerance from which no edge can go.
        order: all edges, the most important first.
        rounds: how often at most.
        progress: show a bar.
    """
    for _ in tqdm(range(rounds), desc="exchanges", unit="round", delay=1, disable=not progress):
        smaller = _smaller(search, kept, order)
        if smaller is None:
            return kept
        kept = smaller
    return kept


def _smaller(search: Search, kept: Bool[Tensor, " edge"], order: Int[Tensor, " edge"]) -> Bool[Tensor, " edge"] | None:
    """A circuit with one edge less, one exchange and one removal away."""
    sets = _exchanges(search, kept, order)
    if not len(sets):
        return None
    off = search.off(sets)
    for i in off.argsort(stable=True)[:_BEST].tolist():
        if off[i] > search.tolerance:
            return None
        without_one = (search.without_each(sets[i]) - 1).abs().nan_to_num(torch.inf)
        best = int(without_one.argmin())
        if without_one[best] <= search.tolerance:
            smaller = sets[i].clone()
            smaller[best] = False
            return smaller
    return None


def _exchanges(search: Search, kept: Bool[Tensor, " edge"], order: Int[Tensor, " edge"]) -> Bool[Tensor, "set edge"]:
    """The circuit with one edge for another, for all that leave no edge dangling, the most important first."""
    inside, sets = kept.nonzero()[:, 0].tolist(), list[Tensor]()
    source = search.ready.arguments["source"]
    for new in order[~kept[order]].tolist():
        if len(sets) + len(inside) > _MOST:
            break
        more = kept.clone()
        more[new] = True
        if bool((without_dangling(search.graph, more, source) != more).any()):
            continue
        for old in inside:
            one = more.clone()
            one[old] = False
            sets.append(one)
    return torch.stack(sets) if sets else torch.zeros(0, len(kept), dtype=torch.bool)
