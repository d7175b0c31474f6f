"""docs/CIRCUITS.md says of compared circuits what docs/data/compared_circuits.json has."""

from __future__ import annotations

import json

import pytest

from scripts import compared_circuits as compared

NUMBERS = json.loads(compared.OUT.read_text())
TEXT = compared.DOCUMENT.read_text()
PROSE = " ".join(TEXT.split())
SEEDS, STAGES = NUMBERS["seeds"], NUMBERS["stages"]["trigger bigrams"]
INDUCTION, BIGRAMS = (SEEDS[f"{kind}, behaviour"] for kind in ("induction", "trigger bigrams"))
BEST = [SEEDS[f"{kind}, effects"] for kind in ("induction", "trigger bigrams")]


def percent(values):
    ends = [f"{100 * end:.0f}" for end in (min(values), max(values))]
    return f"{ends[0]}%" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}%"


def others(one):
    return [v for i, row in enumerate(one["renumbered"]) for j, v in enumerate(row) if i != j]


@pytest.mark.parametrize("name", compared.TABLES)
def test_a_table_is_that_of_the_file(name):
    _, _, behind = TEXT.partition(f"<!-- table: {name} -->\n")
    assert behind.partition("\n<!-- end -->")[0] == compared.TABLES[name](NUMBERS)


def test_what_is_said_of_the_seeds_is_true():
    off, own, span = compared.off_diagonal, compared.diagonal, compared.span
    both = [*off(INDUCTION, "jaccard", "chance"), *off(BIGRAMS, "jaccard", "chance")]
    halves = [*off(INDUCTION, "jaccard", "ceiling"), *off(BIGRAMS, "jaccard", "ceiling")]
    for said in (
        f"{percent(off(INDUCTION, 'jaccard'))} of the edges in either on induction",
        f"{percent(off(BIGRAMS, 'jaccard'))} on trigger bigrams",
        f"random circuits share {percent(both)} and halves of the prompts {percent(halves)}",
        f"a circuit does {span(off(INDUCTION, 'transfer'))} of the gap",
        f"own circuits do {span(own(INDUCTION, 'transfer'))}",
        f"on trigger bigrams {span(off(BIGRAMS, 'transfer'))} and {span(own(BIGRAMS, 'transfer'))}",
        f"So {span(off(INDUCTION, 'rank_correlation'))} on induction",
        f"in all three pairs (p at most {max(off(INDUCTION, 'rank_correlation', 'p')):.2f})",
        f"and {span(off(BIGRAMS, 'rank_correlation'))} on trigger bigrams",
        f"(p from {span(off(BIGRAMS, 'rank_correlation', 'p'))})",
        f"random does {span(others(BIGRAMS))}",
        f"On induction it does {span(others(INDUCTION))}",
    ):
        assert said in PROSE, said
    every = [INDUCTION, BIGRAMS]
    ceilings = [v for one in every for v in off(one, "rank_correlation", "ceiling")]
    assert f"of the prompts put the ceiling at {span(ceilings)}." in PROSE
    assert f"alone, give {span([v for one in every for v in off(one, 'rank_correlation', 'chance')])} already" in PROSE
    possible = [span(compared.shares_of_possible(one)) for one in every]
    assert f"between chance and ceiling that is {possible[0]} and {possible[1]}." in PROSE
    more = [
        best - plain
        for match, one in zip(BEST, every, strict=True)
        for best, plain in zip(off(match, "rank_correlation"), off(one, "rank_correlation"), strict=True)
    ]
    assert f"correlations that are {span(more)} higher" in PROSE
    unrelated = [v for one in BEST for v in off(one, "rank_correlation", "chance")]
    assert f"for unrelated heads, {span(unrelated)}" in PROSE
    assert sum(p > 0.05 for p in off(BEST[1], "rank_correlation", "p")) == 2 * 2  # each pair twice
    for one in every:
        assert max(abs(v) for v in off(one, "transfer", "chance")) < 0.005


def test_what_is_said_of_the_stages_is_true():
    transfer = STAGES["values"][STAGES["scores"].index("transfer")]
    step = {name: i for i, name in enumerate(STAGES["names"])}
    sizes = STAGES["n_edges"]
    assert f"have {', '.join(map(str, sizes[:-1]))} and {sizes[-1]} edges" in PROSE
    shared = STAGES["shared"]
    for i in range(1, len(sizes)):
        assert all(shared[i][j] == min(sizes[i], sizes[j]) for j in range(1, len(sizes)))
    assert f"{STAGES['gap'][0]:.2f} is no task" in PROSE
    late = [transfer[step["600"]][step[name]] for name in ("2,600", "4,500")]
    assert min(late) > 0.98
    assert f"the last one {transfer[step['4,500']][step['600']]:.2f} of that at step 600" in PROSE
    assert min(transfer[0][2:]) > 0.94
    p = STAGES["p"][STAGES["scores"].index("rank_correlation")]
    assert [(i, j) for i in range(6) for j in range(i) if p[i][j] <= 0.05] == [(5, 4)]
    assert p[5][4] == pytest.approx(0.01)


def test_what_is_said_of_the_circuits_is_true():
    """On trigger bigrams all four heads of layer 1 in every seed, and no head of layer 0."""
    for edges in BIGRAMS["edges"]:
        assert {f"mlp0->1.{head}.v" for head in range(4)} <= {*edges}
        assert not any(edge.startswith("0.") or "->0." in edge for edge in edges)


def test_what_is_said_of_the_tasks_is_true():
    shared, chance, apart, together, ps = [], [], [], [], []
    for one in NUMBERS["tasks"].values():
        assert one["names"] == ["induction", "trigger bigrams", "repeated random"]
        of = {name: one["values"][one["scores"].index(name)] for name in ("jaccard", "transfer")}
        place = one["scores"].index("jaccard")
        shared.append(of["jaccard"][0][1])
        chance.append(one["chance"][place][0][1])
        ps.append(one["p"][place][0][1])
        apart += [of["transfer"][0][1], of["transfer"][1][0]]
        together += [of["transfer"][i][j] for i in (1, 2) for j in (1, 2)]
    assert f"share {percent(shared)} of the edges in either, where random circuits share {percent(chance)}" in PROSE
    assert max(ps) < 0.0101
    assert max(map(abs, apart)) < 0.005
    assert f"the circuit of either does {compared.span(together)} of both" in PROSE


def test_what_is_said_of_the_methods_is_true():
    ranks, edges, exact, gradient, more = [], [], [], [], []
    for one in NUMBERS["methods"].values():
        assert one["names"] == ["exact", "eap_ig", "eap", "greedy"]
        of = {name: one["values"][one["scores"].index(name)] for name in ("rank_correlation", "jaccard", "transfer")}
        ranks += of["rank_correlation"][0][1:3]
        edges += of["jaccard"][0][1:3]
        exact.append(of["transfer"][0][0])
        gradient.append(of["transfer"][1][1])
        more.append(one["n_edges"][1] - one["n_edges"][0])
    span = compared.span
    assert f"like the exact effects by {span(ranks)}, and their circuits share {percent(edges)}" in PROSE
    assert f"does {span(exact)}, and that of EAP-IG, which has {min(more)} to {max(more)} edges more, " in PROSE
    assert f"edges more, {span(gradient)}: fewer edges" in PROSE
