"""How many edges two circuits share, and how many they would by chance.

Two chances. The hypergeometric one draws edges one by one from all, and is exact for that: but no circuit is like it,
since its edges hang together, and those near the logits are in nearly every circuit. Random circuits of the same size,
unions of ways from the embedding to the logits, hang together too. Theirs is the higher chance, and the one to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import hypergeom
from torch import Tensor

from nanogpt_lens.circuits.hypotheses import share_at_least
from nanogpt_lens.circuits.random_circuits import random_circuits
from nanogpt_lens.compare.renumbering import Renumbering


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two circuits share, of one graph.

    Attributes:
        shared: how many edges.
        jaccard: those, as a share of the edges in either.
        expected: how many two sets of these sizes share on average, if their edges are drawn from all alike.
        above_chance: (shared - expected) / (the most possible - expected): 1 is a circuit within the other, 0 chance.
        hypergeometric_p: how often such sets share at least as many.
    """

    shared: int
    jaccard: float
    expected: float
    above_chance: float
    hypergeometric_p: float


def overlap_of(one: Bool[Tensor, " edge"], other: Bool[Tensor, " edge"]) -> Overlap:
    """The overlap of two circuits whose edges correspond; `above_chance` is nan for a circuit of all edges."""
    n, shared = len(one), int((one & other).sum())
    sizes = int(one.sum()), int(other.sum())
    expected = sizes[0] * sizes[1] / n
    most = min(sizes) - expected
    return Overlap(
        shared=shared,
        jaccard=shared / max(1, sum(sizes) - shared),
        expected=expected,
        above_chance=(shared - expected) / most if most > 0 else float("nan"),
        hypergeometric_p=float(hypergeom.sf(shared - 1, n, *sizes)),
    )


def connected_chance(
    one: Bool[Tensor, " edge"],
    other: Bool[Tensor, " edge"],
    renumbering: Renumbering,
    *,
    n: int,
    best_of_all: bool,
    generator: torch.Generator,
) -> tuple[float, float]:
    """The mean Jaccard overlap with random circuits of the same size, and how often theirs is as large.

    Each circuit is compared with random ones in the other's place, and the larger of both p counts.

    Args:
        one, other: two circuits whose edges correspond.
        renumbering: of their graph.
        n: how many random circuits are drawn in the place of each.
        best_of_all: give the heads of each random circuit the numbers with which it shares most, where those of the
            circuits were chosen by looking; that is more than was done for the circuits, so that p is too large.
        generator: of what is drawn.
    """
    seen = overlap_of(one, other).jaccard
    means, ps = [], []
    for fixed, replaced in ((one, other), (other, one)):
        drawn = random_circuits(renumbering.graph, n, n_edges=int(replaced.sum()), generator=generator)
        shared = (drawn & fixed).sum(1).double()
        if best_of_all:
            shared = renumbering.best(fixed.double(), drawn.double(), generator)[1]
        jaccard = _jaccard(shared, drawn.sum(1).double(), float(fixed.sum()))
        means.append(float(jaccard.mean()))
        ps.append(share_at_least(jaccard, seen - 1e-12))
    return sum(means) / 2, max(ps)


def _jaccard(
    shared: Float[Tensor, " circuit"], sizes: Float[Tensor, " circuit"], size: float
) -> Float[Tensor, " circuit"]:
    """Shared edges as a share of those in either of two circuits."""
    return shared / (sizes + size - shared)
