"""Finding (a): what came out of the runs of `scripts.smallest_model`, by shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACCURACY = 0.8
"""Above which, with a prefix-matching score that has formed, a model counts as having an induction head."""


def has_induction(run: Mapping[str, Any]) -> bool:
    """By the definition of `docs/PREDICTIONS.md`."""
    return bool(run["formed"]) and run["required_accuracy"][-1] > ACCURACY


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """By shape: how many seeds have an induction head, when it formed, and what the model does."""
    per_iteration = data["settings"]["batch_size"] * data["settings"]["block_size"]
    shapes: dict[str, Any] = {}
    for run in data["runs"]:
        name = f"{run['layers']} layers, {run['heads']} heads, {run['width']} wide"
        shapes.setdefault(name, []).append(run)
    return {
        "runs": len(data["runs"]),
        "tokens_per_iteration": per_iteration,
        "shapes": {name: _shape(runs, per_iteration) for name, runs in shapes.items()},
    }


def _shape(runs: list[Mapping[str, Any]], per_iteration: int) -> dict[str, Any]:
    halves = [run["half"][0] if has_induction(run) else None for run in runs]
    return {
        "parameters": runs[0]["parameters"],
        "seeds": [run["seed"] for run in runs],
        "induction": sum(has_induction(run) for run in runs),
        "formed": sum(bool(run["formed"]) for run in runs),
        "half_iteration": halves,
        "half_million_tokens": [None if h is None else round(h * per_iteration / 1e6, 2) for h in halves],
        "prefix_matching": [run["prefix_matching"][-1] for run in runs],
        "previous_token": [run["previous_token"][-1] for run in runs],
        "accuracy": [run["required_accuracy"][-1] for run in runs],
        "shuffled": [run["shuffled"]["shuffled"] for run in runs],
        "lost_by_shuffling": [run["shuffled"]["lost"] for run in runs],
    }
