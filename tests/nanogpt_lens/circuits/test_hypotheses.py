"""The tests of circuits: by hand, and against the truth of a simulation."""

from __future__ import annotations

import math

import pytest
import torch

from nanogpt_lens.circuits.connected import without_dangling
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.hypotheses import equivalence_p, holm, independence_p, share_at_least
from nanogpt_lens.circuits.random_circuits import random_circuits
from tests.nanogpt_lens.patching.patching_helpers import model


def test_equivalence_by_hand():
    """Nine of ten above: at least 4 away from 5, with a probability of 0.6 for each, are 0, 1, 9 and 10."""
    differences = torch.tensor([1.0] * 9 + [-1.0] + [0.0] * 5)
    expected = sum(math.comb(10, k) * 0.6**k * 0.4 ** (10 - k) for k in (0, 1, 9, 10))
    assert equivalence_p(differences) == pytest.approx(expected)
    assert equivalence_p(differences, margin=0.0) == pytest.approx(22 / 1024)
    assert equivalence_p(-differences) == pytest.approx(expected)
    assert equivalence_p(torch.zeros(5)) == 1
    assert equivalence_p(torch.tensor([1.0, -1.0])) == 1


def test_equivalence_is_seldom_refused_where_it_holds():
    """At the edge of the margin, 60% above, a 5% test refuses at most 5%."""
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(2000, 32, generator=generator) < 0.6).double() * 2 - 1
    refused = sum(equivalence_p(row) <= 0.05 for row in draws) / 2000
    assert refused <= 0.06
    far = (torch.rand(200, 32, generator=generator) < 0.95).double() * 2 - 1
    assert sum(equivalence_p(row) <= 0.05 for row in far) >= 190


def test_independence_against_the_truth():
    generator = torch.Generator().manual_seed(0)
    options = {"draws": 99, "generator": generator}
    refused = 0
    for _ in range(200):
        one, two = torch.randn(2, 16, generator=generator, dtype=torch.float64)
        refused += independence_p(one, two, **options) <= 0.05
    assert refused <= 20  # 5% of 200 is 10
    one = torch.randn(24, generator=generator, dtype=torch.float64)
    assert independence_p(one, one**2 + 0.1 * one, **options) == 0.01  # dependent, and hardly correlated
    assert independence_p(one, torch.ones(24).double(), **options) == 1
    assert independence_p(one[:3], one[:3], **options) == 1


def test_p_is_never_zero():
    assert share_at_least(torch.tensor([1.0, 2.0, 3.0]), 5.0) == 0.25
    assert share_at_least(torch.tensor([1.0, 2.0, 3.0]), 2.0) == 0.75


def test_holm_by_hand():
    p = torch.tensor([0.01, 0.04, 0.03, 0.005], dtype=torch.float64)
    torch.testing.assert_close(holm(p), torch.tensor([0.03, 0.06, 0.06, 0.02], dtype=torch.float64))
    assert holm(torch.tensor([0.9, 0.8])).tolist() == [1, 1]


@pytest.mark.parametrize("n_edges", [3, 12, 40])
def test_random_circuits_are_connected_and_large_enough(n_edges):
    graph = CircuitGraph(model())
    circuits = random_circuits(graph, 20, n_edges=n_edges, generator=torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in circuits.tolist()}) > 15
    for row in circuits:
        assert torch.equal(without_dangling(graph, row, "other"), row)
        assert n_edges <= int(row.sum()) <= n_edges + 2 * 3  # a way has at most 7 edges here, and adds at least one
