"""Finding (e): through which edges order arrives, from what `scripts.order` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.replication.cells import Found, markdown, number, three


def summary(data: Mapping[str, Any], scrubbed: Mapping[str, Any]) -> dict[str, Any]:
    """By seed and iteration: what order is worth, what the head and its MLP carry, the head's attention; and stories.

    Args:
        data: what `scripts.order` wrote.
        scrubbed: what `scripts.order_scrubbed` wrote.
    """
    from scripts.scrubbing import PREVIOUS

    return {
        "prompts": data["prompts"],
        "scrubbed": scrubbed["seeds"],
        "seeds": {
            seed: {step: at_stage(part, PREVIOUS[seed]) for step, part in run.items()}
            for seed, run in data["runs"].items()
        },
    }


def at_stage(part: Mapping[str, Any], head: str) -> dict[str, Any]:
    """One stage of one seed."""
    ways = {name: way for name, way in part["by_way"].items() if name != "mlp0"}
    values = {name: way["embed->v"][0] for name, way in ways.items()}
    own, attention = ways[head], part["attention"][head]
    positive = sum(max(value, 0.0) for value in values.values())
    largest = max(part["edges"], key=lambda edge: part["edges"][edge][0])
    return {
        "order": part["order"],
        "control": part["control"],
        "into_head": own["embed->v"],
        "share_of_order": own["embed->v"][0] / part["order"][0],
        "share_of_heads": own["embed->v"][0] / positive if positive else None,
        "leads": max(values, key=lambda name: values[name]) == head,
        "to_mlp": own["->mlp0"],
        "to_keys": own["->keys"],
        "mlp_to_keys": part["by_way"]["mlp0"]["->keys"],
        "to_the_previous": attention["to_the_previous"],
        "to_the_trigger": attention["to_the_trigger"],
        "largest_edge": largest,
    }


def arrival(found: Found) -> str:
    """The table: every seed and iteration."""
    part = found["arrival"]
    if not part:
        return "Not measured."
    rows = [
        [
            f"{seed}, {int(step):,}",
            three(one["order"], 2),
            three(one["control"], 2),
            three(one["into_head"], 2),
            three(one["to_mlp"], 2),
            three(one["to_keys"], 2),
            three(one["mlp_to_keys"], 2),
            three(one["to_the_previous"], 2),
            number(one["to_the_trigger"][0], 2),
        ]
        for seed, run in part["seeds"].items()
        for step, one in run.items()
    ]
    header = (
        "seed, iteration",
        "order",
        "control",
        "embedding to the head's values",
        "the head to MLP 0",
        "the head to all keys",
        "MLP 0 to all keys",
        "attention to the previous token over uniform",
        "from outputs to triggers",
    )
    return markdown(header, rows)


def arrival_scrubbed(found: Found) -> str:
    """What every story recovers, by seed and iteration."""
    part = found["arrival"]
    if not part:
        return "Not measured."
    rungs: dict[str, Any] = {}
    for seed, run in part["scrubbed"].items():
        for step, stories in run.items():
            for name, one in stories.items():
                cell = three([one[key] for key in ("recovered", "low", "high")], 2)
                rungs.setdefault(f"{seed}, {int(step):,}", {})[name] = cell
    names = next(iter(rungs.values()))
    return markdown(("seed, iteration", *names), [[at, *cells.values()] for at, cells in rungs.items()])
