"""docs/CIRCUITS.md says what docs/data/circuits.json has."""

from __future__ import annotations

import json

import pytest

from scripts import circuits

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
