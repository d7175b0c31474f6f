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
