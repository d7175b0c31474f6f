"""Shared edges: by hand, and against circuits that hang together."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from scipy.stats import binom

from nanogpt_lens.circuits.random_circuits import random_circuits
from nanogpt_lens.compare.overlap import connected_chance, overlap_of
from nanogpt_lens.compare.renumbering import Renumbering
from tests.nanogpt_lens.compare.renamed import graph

PLAIN = Renumbering(graph())


def flags(*places, n=10):
    out = torch.zeros(n, dtype=torch.bool)
    out[list(places)] = True
    return out


def test_by_hand():
    """Four and five of ten edges, three shared: of 252 ways to draw five, 60 share three and 6 share four."""
    found = overlap_of(flags(0, 1, 2, 3), flags(1, 2, 3, 4, 5))
    assert found.shared == 3
    assert found.jaccard == pytest.approx(3 / 6)
    assert found.expected == pytest.approx(2)
    assert found.above_chance == pytest.approx((3 - 2) / (4 - 2))
    assert found.hypergeometric_p == pytest.approx(66 / 252)


def test_p_is_the_share_of_all_ways():
    one, size = flags(0, 2, 5), 4
    ways = [len({0, 2, 5} & set(way)) for way in combinations(range(10), size)]
    for other in (flags(0, 1, 3, 4), flags(0, 2, 3, 4), flags(0, 2, 5, 9)):
        found = overlap_of(one, other)
        assert found.hypergeometric_p == pytest.approx(sum(way >= found.shared for way in ways) / len(ways))
        assert found.expected == pytest.approx(sum(ways) / len(ways))


def test_the_ends():
    same = overlap_of(flags(1, 2), flags(1, 2))
    assert (same.jaccard, same.above_chance) == (1, 1)
    assert overlap_of(flags(1, 2), flags(1, 2, 3)).above_chance == 1  # one within the other
    apart = overlap_of(flags(1, 2), flags(3))
    assert (apart.shared, apart.jaccard, apart.hypergeometric_p) == (0, 0, 1)
    every = overlap_of(flags(*range(10)), flags(1))
    assert every.above_chance != every.above_chance  # nan: nothing is possible but that


def drawn(n, seed):
    return random_circuits(graph(), n, n_edges=12, generator=torch.Generator().manual_seed(seed))


def test_circuits_that_hang_together_share_more_than_edges_drawn_alike():
    sets = drawn(80, 0)
    pairs = [overlap_of(one, other) for one, other in zip(sets[:40], sets[40:], strict=True)]
    assert sum(p.shared for p in pairs) > 1.3 * sum(p.expected for p in pairs)
    assert sum(p.hypergeometric_p <= 0.05 for p in pairs) > binom.ppf(0.999, 40, 0.05)  # far too many


@pytest.mark.slow
@pytest.mark.parametrize("best_of_all", [False, True])
def test_against_circuits_that_hang_together_random_ones_are_not_refused(best_of_all):
    sets, generator = drawn(80, 1), torch.Generator().manual_seed(2)
    options = {"n": 39, "best_of_all": best_of_all, "generator": generator}
    ps = [connected_chance(one, other, PLAIN, **options)[1] for one, other in zip(sets[:40], sets[40:], strict=True)]
    assert sum(p <= 0.1 for p in ps) <= binom.ppf(0.999, 40, 0.1)


def test_a_circuit_shares_more_with_itself_than_random_ones_do():
    one, generator = drawn(1, 3)[0], torch.Generator().manual_seed(4)
    chance, p = connected_chance(one, one, PLAIN, n=19, best_of_all=False, generator=generator)
    assert p == pytest.approx(1 / 20)
    best, p = connected_chance(one, one, PLAIN, n=19, best_of_all=True, generator=generator)
    assert chance < best < 1
    assert p == pytest.approx(1 / 20)
