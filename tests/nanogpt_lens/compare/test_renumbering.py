"""Heads with other numbers: which edge becomes which, hidden orders that are found, and how often chance is refused."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom, spearmanr

from nanogpt_lens.circuits.hypotheses import share_at_least
from nanogpt_lens.compare.renumbering import MOST_ORDERS, Renumbering, inverse, ranks, then
from tests.nanogpt_lens.compare.renamed import ORDER, graph, new_name

PLAIN = Renumbering(graph())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_an_edge_becomes_the_edge_of_that_name():
    names = list(map(str, graph().edges))
    moved = PLAIN.moved(ORDER[None])[0]
    assert [names[i] for i in moved.tolist()] == [new_name(name) for name in names]
    assert [names[i] for i in PLAIN.moved(PLAIN.plain[None])[0].tolist()] == names


def test_orders_one_after_the_other_and_the_other_way_round():
    first, second = PLAIN.random(2, generator())
    places = PLAIN.moved(torch.stack([first, second, then(first, second), inverse(first)]))
    assert torch.equal(places[1][places[0]], places[2])
    assert torch.equal(places[3][places[0]], torch.arange(len(graph().edges)))
    assert torch.equal(then(first, inverse(first)), PLAIN.plain)


def test_ranks_are_those_of_spearman():
    values = torch.randn(3, 50, generator=generator()).round(decimals=1)  # with ties
    rows = ranks(values)
    for i, j in ((0, 1), (1, 2)):
        assert float(rows[i] @ rows[j]) == pytest.approx(spearmanr(values[i], values[j]).statistic, abs=1e-12)
    assert not bool(ranks(torch.ones(5)).any())


@pytest.mark.parametrize(("n_layers", "n_heads"), [(2, 4), (3, 4), (2, 6)])
def test_a_hidden_order_is_found(n_layers, n_heads):
    """All orders are tried in the first case, exchanges of two heads in the others."""
    some = Renumbering(graph(n_layers, n_heads))
    assert (some.every is not None) == (math.factorial(n_heads) ** n_layers <= MOST_ORDERS)
    one = ranks(torch.randn(len(some.graph.edges), generator=generator(1)))
    hidden = some.random(1, generator(2))
    other = torch.empty_like(one)
    other[some.moved(hidden)[0]] = one
    found, best = some.best(one, other[None], generator(3))
    assert torch.equal(found, hidden)
    assert float(best) == pytest.approx(1)


def test_no_order_is_better_than_the_best():
    one, other = ranks(torch.randn(2, len(graph().edges), generator=generator(4)))
    _, best = PLAIN.best(one, other[None], generator())
    assert PLAIN.every is not None
    by_hand = max(float(one @ other[places]) for places in PLAIN.moved(PLAIN.every))
    assert float(best) == pytest.approx(by_hand)


def test_exchanges_find_what_all_orders_find(monkeypatch):
    rows = ranks(torch.randn(9, len(graph().edges), generator=generator(5)))
    expected = PLAIN.best(rows[0], rows[1:], generator())[1]
    some = Renumbering(graph())
    some.__dict__["every"] = None
    assert some.best(rows[0], rows[1:], generator())[1] == pytest.approx(expected)


def test_unrelated_heads_stay_within_their_kind_and_do_not_hang_together():
    names = list(map(str, graph().edges))
    places = PLAIN.unrelated(50, generator())
    assert torch.equal(places.sort(1).values, torch.arange(len(names)).expand_as(places))
    for kind in PLAIN.kinds:
        assert torch.equal(places[:, kind].sort(1).values, kind.sort().values.expand(50, -1))
    by_name = {name: i for i, name in enumerate(names)}
    of_embed = [names[i].split("->")[1].split(".")[1] for i in places[:, by_name["embed->0.1.v"]].tolist()]
    to_mlp = [names[i].split("->")[0].split(".")[1] for i in places[:, by_name["0.1->mlp0"]].tolist()]
    assert sum(a == b for a, b in zip(of_embed, to_mlp, strict=True)) < 30  # of 50, a quarter by chance
    assert len(PLAIN.kinds) == 3 * 4 + 2 + 4 + 5  # into layer 0 and 1, MLPs and logits, by who writes


def _effects(kind, some):
    """Effects of two models without anything in common but what kinds of edges are like."""
    values = torch.randn(2, len(graph().edges), generator=some, dtype=torch.float64)
    if kind == "kinds":
        for places in PLAIN.kinds:
            values[:, places] += 3 * torch.randn(1, generator=some, dtype=torch.float64)
    return ranks(values)


def _busy(some):
    """Effects of two models of which each has busy and idle heads, whatever these do."""
    values = torch.randn(2, len(graph().edges), generator=some, dtype=torch.float64)
    for row in values:
        size = torch.randn(2, 4, generator=some, dtype=torch.float64).exp()
        for i, edge in enumerate(graph().edges):
            for node in (edge.sender, edge.receiver):
                row[i] *= size[node.layer, node.head] if node.kind == "head" else 1
    return ranks(values.abs())


def _p_of_best(one, other, some, draws=39):
    value = PLAIN.best(one, other[None], some)[1]
    return share_at_least(PLAIN.best(one, other[PLAIN.unrelated(draws, some)], some)[1], float(value) - 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nothing", "kinds"])
def test_unrelated_models_are_refused_as_often_as_said(kind):
    """Of 100 pairs p is at most 0.1 in 10, within what chance allows in 999 of 1000 cases."""
    some = generator(6)
    small = sum(_p_of_best(*_effects(kind, some), some) <= 0.1 for _ in range(100))
    assert binom.ppf(0.0005, 100, 0.1) <= small <= binom.ppf(0.9995, 100, 0.1)


def test_the_best_of_all_orders_is_well_above_that_of_a_random_one():
    """So that without the correction all pairs of unrelated models would agree."""
    some = generator(7)
    one, other = _effects("nothing", some)
    places = PLAIN.moved(PLAIN.random(199, some))
    best = float(PLAIN.best(one, other[None], some)[1])
    assert best > float((other[places] @ one).quantile(0.95))


def test_renumbering_and_taking_the_best_again_is_no_null():
    some = generator(8)
    one, other = _effects("nothing", some)
    drawn = other[PLAIN.moved(PLAIN.random(20, some))]
    best = PLAIN.best(one, other[None], some)[1]
    assert PLAIN.best(one, drawn, some)[1] == pytest.approx(best.expand(20))


def test_busy_and_idle_heads_are_above_unrelated_ones():
    """The limit that the documents state: it says that heads hang together, not that they do the same."""
    some = generator(9)
    assert sum(_p_of_best(*_busy(some), some) <= 0.1 for _ in range(20)) > 12
