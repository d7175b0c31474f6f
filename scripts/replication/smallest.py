"""Finding (a): what came out of the runs of `scripts.smallest_model`, by shape, and what became of the predictions.

A verdict is of the runs, by the definition of `docs/PREDICTIONS.md`. Means over seeds have Student's t interval, which
with three seeds is wide; a share of runs has the exact interval of Clopper and Pearson 1934; both are 95% intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from scipy.stats import binomtest

from scripts.replication.measured import mean_and_ends

ACCURACY = 0.8
"""Above which, with a prefix-matching score that has formed, a model counts as having an induction head."""
COUNTS, NEEDS_ORDER = 0.1, 0.3
"""Accuracy lost in a shuffled context: less than the one of a model that counts, more than the other of one that
looks up."""
Runs = Sequence[Mapping[str, Any]]


def has_induction(run: Mapping[str, Any]) -> bool:
    """By the definition of `docs/PREDICTIONS.md`."""
    return bool(run["formed"]) and run["required_accuracy"][-1] > ACCURACY


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """By shape: how many seeds have an induction head, when it formed, and what the model does; and the verdicts."""
    per_iteration = data["settings"]["batch_size"] * data["settings"]["block_size"]
    shapes: dict[str, Any] = {}
    for run in data["runs"]:
        shapes.setdefault(words_of(run["layers"], run["heads"], run["width"]), []).append(run)
    return {
        "runs": len(data["runs"]),
        "tokens_per_iteration": per_iteration,
        "shapes": {name: _shape(runs, per_iteration) for name, runs in shapes.items()},
        "predictions": {name: judge(data["runs"]) for name, judge in PREDICTIONS.items()},
    }


def words_of(layers: int, heads: int | None = None, width: int | None = None) -> str:
    """The name of a shape, such as "2 layers, 1 head, 32 wide", or of what is given of it."""
    words = [f"{n} {part}{'s' * (n > 1)}" for n, part in ((layers, "layer"), (heads, "head")) if n is not None]
    return ", ".join([*words, *([] if width is None else [f"{width} wide"])])


def _shape(runs: Runs, per_iteration: int) -> dict[str, Any]:
    halves = [half_of(run) for run in runs]
    return {
        "parameters": runs[0]["parameters"],
        "seeds": [run["seed"] for run in runs],
        "induction": sum(map(has_induction, runs)),
        "formed": sum(bool(run["formed"]) for run in runs),
        "half_iteration": halves,
        "half_million_tokens": [None if h is None else round(h * per_iteration / 1e6, 2) for h in halves],
        "prefix_matching": [run["prefix_matching"][-1] for run in runs],
        "previous_token": [run["previous_token"][-1] for run in runs],
        "accuracy": [run["required_accuracy"][-1] for run in runs],
        "mean_accuracy": mean(run["required_accuracy"][-1] for run in runs),
        "mean_prefix_matching": mean(run["prefix_matching"][-1] for run in runs),
        "still_rising": mean(run["prefix_matching"][-1] - run["prefix_matching"][-3] for run in runs),
        "shuffled": [run["shuffled"]["shuffled"] for run in runs],
        "lost_by_shuffling": [run["shuffled"]["lost"] for run in runs],
        "mean_lost": mean(run["shuffled"]["lost"] for run in runs),
    }


def half_of(run: Mapping[str, Any]) -> float | None:
    """The iteration at which the score is half of what it becomes; None without an induction head."""
    return run["half"][0] if has_induction(run) else None


def mean(values: Iterable[float]) -> dict[str, float | None]:
    """The mean over seeds, and its interval; None where there are fewer than two."""
    each = torch.tensor(list(values), dtype=torch.float64)
    return dict(zip(("value", "low", "high"), mean_and_ends(each), strict=True))


def share(runs: Runs) -> dict[str, Any]:
    """How many runs have an induction head, and the interval of that share."""
    found = sum(map(has_induction, runs))
    ends = binomtest(found, len(runs)).proportion_ci(method="exact") if runs else None
    return {
        "found": found,
        "runs": len(runs),
        "low": None if ends is None else round(float(ends.low), 3),
        "high": None if ends is None else round(float(ends.high), 3),
    }


def chosen(runs: Runs, *, layers: int, heads: int | None = None, width: int | None = None) -> Runs:
    """The runs of a shape."""
    return [
        run
        for run in runs
        if run["layers"] == layers and heads in (None, run["heads"]) and width in (None, run["width"])
    ]


def later(one: Runs, other: Runs) -> dict[str, Any]:
    """How many iterations later the first of two shapes is half-way, by seed; seeds that both have, with induction."""
    halves = [{run["seed"]: half for run in runs if (half := half_of(run)) is not None} for runs in (one, other)]
    shared = sorted(halves[0].keys() & halves[1].keys())
    each = [halves[0][seed] - halves[1][seed] for seed in shared]
    return {"seeds": shared, "each": [round(d, 1) for d in each], **mean(each)}


def one_layer(runs: Runs) -> dict[str, Any]:
    """Prediction 1: no one-layer model has an induction head, and none is above 0.8."""
    found = chosen(runs, layers=1)
    best = max((run["required_accuracy"][-1] for run in found), default=0.0)
    return {
        **share(found),
        "best_accuracy": best,
        "holds": bool(found) and not share(found)["found"] and best <= ACCURACY,
    }


def one_head(runs: Runs) -> dict[str, Any]:
    """Prediction 2: one head per layer is enough at 32 dimensions, in at least two of three seeds."""
    found = share(chosen(runs, layers=2, heads=1, width=32))
    return {**found, "holds": found["found"] >= 2}


def narrow(runs: Runs) -> dict[str, Any]:
    """Prediction 3: at most one of nine runs with 16 dimensions in two layers does, and none with 8."""
    at_16, at_8 = share(chosen(runs, layers=2, width=16)), share(chosen(runs, layers=2, width=8))
    return {"16": at_16, "8": at_8, "holds": at_16["found"] <= 1 and at_8["found"] == 0}


def wider(runs: Runs) -> dict[str, Any]:
    """Prediction 4: at two layers the half-way point falls with the width; by how much it is later at 32 than at 64."""
    by_heads = {
        str(heads): later(chosen(runs, layers=2, heads=heads, width=32), chosen(runs, layers=2, heads=heads, width=64))
        for heads in (1, 2, 4)
    }
    each = [d for found in by_heads.values() for d in found["each"]]
    return {"later_at_32": by_heads, "holds": bool(each) and all(d > 0 for d in each)}


def more_heads(runs: Runs) -> dict[str, Any]:
    """Prediction 5: at 64 dimensions four heads form earlier than one; by how much later one is, and the same at 32."""
    found = {
        str(width): later(chosen(runs, layers=2, heads=1, width=width), chosen(runs, layers=2, heads=4, width=width))
        for width in (32, 64)
    }
    each = found["64"]["each"]
    return {"one_later_than_four": found, "holds": bool(each) and fmean(each) > 0}


def third_layer(runs: Runs) -> dict[str, Any]:
    """Prediction 6: with a third layer no smaller width forms one, in at least two seeds."""
    least = {}
    for layers in (2, 3):
        widths = sorted({run["width"] for run in chosen(runs, layers=layers, heads=1)})
        enough = [w for w in widths if share(chosen(runs, layers=layers, heads=1, width=w))["found"] >= 2]
        least[str(layers)] = enough[0] if enough else None
    two, three = least["2"], least["3"]
    sooner = {
        str(width): later(chosen(runs, layers=2, heads=1, width=width), chosen(runs, layers=3, heads=1, width=width))
        for width in (32, 64)
    }
    return {"least_width": least, "two_later_than_three": sooner, "holds": two is not None and (three or two) >= two}


def failing(runs: Runs) -> dict[str, Any]:
    """Prediction 7: models without an induction head count characters, those with one need their order."""
    without, having = ([r for r in runs if has_induction(r) is wanted] for wanted in (False, True))
    losses = {
        "without": [run["shuffled"]["lost"] for run in without],
        "having": [run["shuffled"]["lost"] for run in having],
    }
    wrong = [run for run in without if run["shuffled"]["lost"] >= COUNTS]
    return {
        "without": len(without),
        "without_that_need_order": len(wrong),
        "their_shapes": sorted({words_of(run["layers"], run["heads"], run["width"]) for run in wrong}),
        "most_lost_without": max(losses["without"], default=None),
        "having": len(having),
        "least_lost_having": min(losses["having"], default=None),
        "holds": not wrong and min(losses["having"], default=0.0) > NEEDS_ORDER,
    }


PREDICTIONS: dict[str, Callable[[Runs], dict[str, Any]]] = {
    "1": one_layer,
    "2": one_head,
    "3": narrow,
    "4": wider,
    "5": more_heads,
    "6": third_layer,
    "7": failing,
}
"""Of (a) in `docs/PREDICTIONS.md`."""


def points(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A point for each run: what a picture of them shows."""
    return [
        {
            "layers": words_of(run["layers"]),
            "heads": str(run["heads"]),
            "width": str(run["width"]),
            "parameters": run["parameters"],
            "accuracy": run["required_accuracy"][-1],
            "prefix matching": run["prefix_matching"][-1],
            "induction head": "formed" if has_induction(run) else "not formed",
            "seed": run["seed"],
        }
        for run in sorted(data["runs"], key=lambda run: (run["layers"], run["width"], run["heads"]))
    ]
