"""docs/CIRCUITS.md says what docs/data/circuit_atlas.json has of circuits over training, and that follows from it."""

from __future__ import annotations

import json
import math
from itertools import combinations, permutations, product
from statistics import fmean, quantiles

import pytest
import torch

from scripts import circuit_atlas as script
from scripts.circuit_atlas import SEEDS
from tests.nanogpt_lens.runs.test_atlas import effects, rise

DATA = json.loads(script.OUT.read_text())
TEXT = script.DOCUMENT.read_text()
_, _, BEHIND = TEXT.partition("## Circuits over training")
PROSE = " ".join(BEHIND.partition("\n## ")[0].split())
PAIRS = [(kind, *pair.split()) for kind in DATA["kinds"] for pair in DATA["agreement"][kind]]
LAYER = list(permutations(range(4)))


@pytest.mark.parametrize("name", ["order", "verdicts", "agreement"])
def test_a_table_is_that_of_the_file(name):
    _, _, behind = TEXT.partition(f"<!-- atlas: {name} -->\n")
    assert behind.partition("\n<!-- end -->")[0] == script.tables(DATA)[name]


def by_numbering(kind, one, other):
    """Kendall's tau-a, pair by pair, of every numbering of the second seed's heads; there are no ties."""
    first, second = ({row["edge"]: row["half"] for row in DATA["common"][kind][s]["changed"]} for s in (one, other))
    numbers = [
        {f"{i}.{h}": f"{i}.{row[h]}" for i, row in enumerate(rows) for h in range(4)} for rows in product(LAYER, LAYER)
    ]
    return [tau([(v, second[m]) for e, v in first.items() if (m := moved(e, new)) in second]) for new in numbers]


def moved(edge, new):
    return "->".join(new.get(end[:3], end[:3]) + end[3:] for end in edge.split("->"))


def tau(pairs):
    signs = [math.copysign(1, (a - c) * (b - d)) for (a, b), (c, d) in combinations(pairs, 2)]
    return fmean(signs)


@pytest.fixture(scope="module")
def numbered():
    return {pair: by_numbering(*pair) for pair in PAIRS if pair[1] < pair[2]}


def test_chance_is_that_of_all_numberings(numbered):
    for (kind, one, other), taus in numbered.items():
        assert len(taus) == 576
        for pair in (f"{one} {other}", f"{other} {one}"):  # a numbering and its inverse
            said = DATA["agreement"][kind][pair]
            assert any(t == pytest.approx(said["tau"]) for t in taus)
            assert said["tau_renumbered"] == pytest.approx(fmean(taus))
            assert said["p_renumbered"] == pytest.approx(sum(t >= said["tau"] - 1e-9 for t in taus) / 576)


def test_what_is_said_of_chance_is_true(numbered):
    said = [DATA["agreement"][kind][f"{one} {other}"] for kind, one, other in numbered]
    ps, means = ([row[name] for row in said] for name in ("p_renumbered", "tau_renumbered"))
    assert f"none is beyond chance (p of {min(ps):.2f} to {max(ps):.2f})" in PROSE
    assert sum(row["tau"] < row["tau_renumbered"] for row in said) == 1
    assert f"{min(means):.2f} to {max(means):.2f} is from that alone" in PROSE
    bars = [quantiles(taus, n=20, method="inclusive")[-1] for taus in numbered.values()]
    assert f"It takes a correlation of {min(bars):.2f} to {max(bars):.2f}" in PROSE
    halves = [found["mean"] for of in DATA["halves"].values() for found in of.values()]
    assert f"agree at {min(halves):.2f} to {max(halves):.2f} on average" in PROSE


def appearing(found):
    return {row["edge"] for row in found["changed"] if row["formed"]}


def test_what_is_said_of_the_verdicts_is_true():
    curves = [DATA["all_stages"][kind]["n_curves"] for kind in ("own task", "solved")]
    assert f"corrected for {curves[0]} and {curves[1]} curves" in PROSE
    sixteen, thirteen = DATA["all_stages"]["solved"], DATA["common"]["solved"]["1337"]
    assert set(thirteen["steps"]) < set(sixteen["steps"])
    assert not appearing(sixteen) & appearing(thirteen)
    p, before = ({row["edge"]: row["p_value"] for row in found["changed"]} for found in (thirteen, sixteen))
    lost = [p[edge] for edge in appearing(sixteen)]
    assert f"the four have p of {min(lost):.2f} to {max(lost):.2f} there" in PROSE
    assert appearing(thirteen) == {"mlp0->1.1.k"}
    assert f"has {p['mlp0->1.1.k']:.3f} where it had {before['mlp0->1.1.k']:.2f}" in PROSE
    own = DATA["all_stages"]["own task"], DATA["common"]["own task"]["1337"]
    assert (len(appearing(own[0])), len(appearing(own[1]))) == (4, 2)
    assert appearing(own[1]) < appearing(own[0])
    for of in DATA["common"].values():
        assert not set.intersection(*(appearing(of[seed]) for seed in SEEDS))
    atlases = [found for part in (DATA["all_stages"], *DATA["common"].values()) for found in part.values()]
    assert not any(found["shrunk"] for found in atlases)


def test_the_edges_that_come_and_go_are_those_said():
    of = DATA["common"]["own task"]
    everywhere = set.intersection(*(set(found["faded"]) for found in of.values()))
    heads = {f"embed->0.{h}.v" for h in range(4)} | {f"0.{h}->mlp0" for h in range(4)}
    assert everywhere == heads | {"mlp0->mlp1", "mlp0->logits"}
    places = [DATA["edges"].index(edge) for edge in everywhere]
    for found in DATA["effects"]["own task"].values():
        values = torch.tensor(found["values"])[:, places].abs()
        assert set(values.argmax(0).tolist()) <= {found["steps"].index(200), found["steps"].index(400)}
        assert values[0].max() < 0.3 <= round(float(values.amax(0).min()), 1)
        assert values[-1].max() < 0.09


CURVES = {f"0.{i}->mlp0": rise(500 + 400 * i) for i in range(6)}


def test_halves_of_prompts_agree_where_the_order_is_plain(monkeypatch):
    monkeypatch.setattr(script, "HALVINGS", 3)
    assert script.between_halves(effects(CURVES, n=16)) == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0})
    mixed = effects({f"0.{i}->mlp0": rise(1500, width=300.0) for i in range(6)}, n=16, noise=0.3)
    assert script.between_halves(mixed)["mean"] < 0.6  # all at one moment


def test_numbering_heads_anew_is_no_surprise_to_kinds():
    """Where kinds alone have an order every numbering has it; where heads have one, only their own has."""
    kinds = {f"0.{h}->mlp0": 1.0 + h / 100 for h in range(3)} | {f"mlp0->1.{h}.k": 9.0 + h / 100 for h in range(3)}
    turned = {edge.replace(".0", ".x").replace(".2", ".0").replace(".x", ".2"): half for edge, half in kinds.items()}
    own = script.rank_correlation(kinds, kinds)
    mean, p = script.chance(kinds, kinds, own, (3, 3))
    assert (own, p) == (pytest.approx(1), pytest.approx(1 / 36))
    assert mean == pytest.approx(9 / 15)  # of 15 pairs 9 are between kinds, the others cancel
    other = script.rank_correlation(kinds, turned)
    assert script.chance(kinds, turned, other, (3, 3))[1] == 1.0
