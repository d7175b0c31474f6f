"""docs/CIRCUITS.md says what docs/data/circuits.json has."""

from __future__ import annotations

import json

import pytest

import nanogpt_lens as ngl
from scripts import circuits
from scripts.results import place

SEEDS = json.loads(circuits.OUT.read_text())
TEXT = circuits.DOCUMENT.read_text()
PROSE = " ".join(TEXT.split())


@pytest.mark.parametrize("name", circuits.TABLES)
def test_a_table_is_that_of_the_file(name):
    _, _, behind = TEXT.partition(f"<!-- table: {name} -->\n")
    assert behind.partition("\n<!-- end -->")[0] == circuits.TABLES[name](SEEDS)


def test_what_is_said_around_the_tables_is_true():
    for seed in SEEDS.values():
        edges = set(seed["edges"])
        (head,) = {edge[7:10] for edge in edges if edge.startswith("embed->0.")}
        assert {f"embed->{head}.v", f"{head}->mlp0", "mlp1->logits"} <= edges
        assert not any(edge.endswith(".q") for edge in edges)
        keys = {edge[6:9] for edge in edges if edge.startswith("mlp0->1.") and edge.endswith(".k")}
        assert len(keys) in (3, 4)
        assert keys == {edge[:3] for edge in edges if edge.endswith("->mlp1")}
        assert seed["minimal"]
        assert seed["checks"]["held_out"]["value"] < 0.9
        assert seed["checks"]["random_complements"]["p"] > 0.05
        assert seed["checks"]["independence"]["p"] < 0.05
    least, means = min(s["replaced"][0] for s in SEEDS.values()), [s["replaced"][1] for s in SEEDS.values()]
    assert f"does {least:.2f} or more, {min(means):.2f} to {max(means):.2f} on average" in PROSE
    other = [
        row["faithfulness"]
        for seed in SEEDS.values()
        for row in seed["robustness"]
        if (row["granularity"], row["components"], row["part"]) == ("edges", "heads and MLPs", "circuit")
        and row["ablation"] != "other"
    ]
    assert f"between {min(other):.2f} and {max(other):.2f}" in PROSE


def gaps(model, seed):
    """Of each prompt, what all edges do and none does not."""
    pairs = ngl.induction_pairs(model, n=circuits.PROMPTS, seq_len=circuits.LENGTH, seed=seed)
    metric = ngl.metrics.logit_diff(pairs.answer, pairs.wrong)
    run = ngl.run_circuit(model, ["mlp1->logits"], pairs.clean, pairs.corrupted, metric, progress=False)
    return run.full - run.empty


def test_few_prompts_have_the_gap():
    small = []
    for seed in SEEDS:
        model = ngl.load(place("induction", seed))
        asked, held_out = gaps(model, 0), gaps(model, 1)
        small.append(int((asked.abs() < 0.1 * asked.mean()).sum()))
        assert float(asked.topk(8).values.sum() / asked.sum()) > 0.955
        assert 2.9 < float(held_out.mean() / asked.mean()) < 3.3
    assert "{}, {} and {} of the 32 have less than a tenth of the mean gap".format(*small) in PROSE


def test_what_is_said_of_the_kinds_of_prompts_is_true():
    kinds = {kind: [one["prompts"][kind] for one in SEEDS.values()] for kind in circuits.PROMPT_KINDS}
    for one, seed in zip(kinds["as drawn"], SEEDS.values(), strict=True):  # the same search as of the first table
        assert one["edges"] == seed["edges"]
        assert one["held_out"]["as drawn"][0] == pytest.approx(seed["checks"]["held_out"]["value"], abs=1e-4)
    assert all(one["below_a_tenth"] == 0 and one["minimal"] for one in kinds["solved"] + kinds["own task"])
    assert {f"{one['share_of_eight']:.0%}" for one in kinds["solved"]} == {"35%"}
    drawn = [int(one["chosen"].split()[2]) for one in kinds["solved"]]
    assert all(4.5 < n / circuits.PROMPTS < 5.5 for n in drawn)
    more = {len(s["edges"]) - len(d["edges"]) for s, d in zip(kinds["solved"], kinds["as drawn"], strict=True)}
    assert more == {3, 4}

    def span(found, held):
        values = [one["held_out"][held][0] for one in kinds[found]]
        return f"{min(values):.2f} to {max(values):.2f}"

    for found, held in (
        ("solved", "as drawn"),
        ("as drawn", "as drawn"),
        ("solved", "solved"),
        ("own task", "own task"),
    ):
        assert span(found, held) in PROSE
    assert sum(one["held_out"]["solved"][0] >= 0.9 for one in kinds["solved"]) == 2
    for found, held in (("as drawn", "own task"), ("solved", "own task"), ("own task", "as drawn")):
        assert all(abs(one["held_out"][held][0]) < 0.005 for one in kinds[found])
    for one in kinds["own task"]:
        assert {"embed->mlp0", "mlp1->logits"} <= {*one["edges"]}
        assert len(one["edges"]) in (11, 12)
        assert not any(edge.startswith("mlp0->1.") and edge.endswith(".k") for edge in one["edges"])


def test_the_chosen_prompts_are_those_of_the_file():
    for seed, one in SEEDS.items():
        model = ngl.load(place("induction", seed))
        assert circuits.pairs_of_kind(model, "solved", 0).chosen == one["prompts"]["solved"]["chosen"]
