"""Do the methods agree about which heads matter? Each head by each method, over stages and seeds.

    python -m scripts.replication.agreement out-induction

Writes `docs/data/agreement.json`, from which everything else is computed. Predictions: `docs/PREDICTIONS.md`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from conversion.atomic import write_text
from nanogpt_lens.heads.on_tasks import task_heads, task_sequences
from nanogpt_lens.patching.attribution import attribution_patching
from nanogpt_lens.patching.importance import head_importance
from nanogpt_lens.patching.sweeps import activation_patching
from nanogpt_lens.running.metrics import logit_diff
from nanogpt_lens.runs.stages import Walk, list_stages
from nanogpt_lens.text.prompts import induction_pairs
from nanogpt_lens.text.tasks import Task, read_task
from scripts.replication.formation import random_heads

OUT = Path(__file__).resolve().parent.parent.parent / "docs" / "data" / "agreement.json"
SEEDS = (1337, 1338, 1339)
STEPS = (0, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1200, 1500, 2000, 3000, 4000, 6000)
METHODS: dict[str, str] = {
    "prefix_matching": "attention: prefix matching on repeated random permutations",
    "previous_token": "attention: to the position before, on the same",
    "task_induction": "attention: to what followed earlier occurrences, on the task where induction is required",
    "patching": "exact activation patching of z, [A][B]...[A] prompts, denoising",
    "attribution": "attribution patching of the same, plain gradient",
    "attribution_ig": "attribution patching of the same, integrated gradients (4 steps)",
    "zero_prompts": "exact zero ablation on the clean prompts, fall of the logit difference",
    "mean_prompts": "exact mean ablation on the clean prompts, fall of the logit difference",
    "zero_task": "exact zero ablation on the task's sequences, rise of the loss",
    "mean_task": "exact mean ablation on the task's sequences, rise of the loss",
}
"""Every method gives each head a number; higher matters more."""


def by_method(
    model: Any,
    task: Task,
    *,
    n: int = 64,
    seed: int = 0,
    n_random: int | None = None,
    n_text: int | None = None,
    methods: Iterable[str] = METHODS,
) -> dict[str, list[list[float]]]:
    """Each head's number by each method, [layer][head].

    Args:
        model, task, seed: what is measured, and the seed of all that is drawn.
        n: the prompts.
        n_random, n_text: the sequences of random permutations and of the task; None for as many as prompts.
        methods: those to measure.
    """
    n_random, n_text = n_random or n, n_text or n
    random = random_heads(model, n=n_random, seed=seed)
    pair = induction_pairs(model, n=n, seed=seed)
    metric = logit_diff(pair.answer, pair.wrong)
    sites: dict[str, Any] = {"activation": "z", "axes": ("layer", "head"), "progress": False}
    text = torch.from_numpy(task_sequences(model, task, n=n_text, seed=seed).tokens)
    found = {
        "prefix_matching": random.score("induction"),
        "previous_token": random.score("previous_token"),
        "task_induction": task_heads(model, task, n=n_text, seed=seed).score("induction"),
        "patching": activation_patching(model, pair.clean, pair.corrupted, metric, **sites).effect,
        "attribution": attribution_patching(model, pair.clean, pair.corrupted, metric, **sites).values,
        "attribution_ig": attribution_patching(model, pair.clean, pair.corrupted, metric, ig_steps=4, **sites).values,
    }
    for source in ("zero", "mean"):
        fall = activation_patching(model, pair.clean, None, metric, source=source, **sites).effect
        found[f"{source}_prompts"] = -fall
        if f"{source}_task" in methods:
            importance = head_importance(model, text, source=source, n=n_text, seed=seed, progress=False)
            found[f"{source}_task"] = importance.values
    return {name: [[round(float(v), 5) for v in row] for row in found[name]] for name in methods}


def correlation(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], *, layer: int | None = None) -> float:
    """Spearman's rank correlation of two methods over all heads, or those of a layer."""
    a, b = (np.array(t if layer is None else t[layer]).ravel() for t in (one, other))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def table(data: Mapping[str, Any], one: str, other: str, *, layer: int | None = None) -> dict[str, list[float]]:
    """Of two methods the correlation by step, one number for each seed."""
    runs = data["runs"]
    return {
        step: [
            round(correlation(run[step][one], run[step][other], layer=layer), 3) for run in runs.values() if step in run
        ]
        for step in map(str, data["steps"])
    }


def mean_matrix(data: Mapping[str, Any], step: int) -> dict[str, float]:
    """The mean correlation over the seeds, of every pair of methods, at a step."""
    return {
        f"{a} / {b}": round(float(np.nanmean(table(data, a, b)[str(step)])), 3)
        for a, b in itertools.combinations(METHODS, 2)
    }


PAIRS: dict[str, tuple[str, str, int | None]] = {
    "attribution / patching": ("attribution", "patching", None),
    "attribution_ig / patching": ("attribution_ig", "patching", None),
    "patching / mean ablation on prompts": ("patching", "mean_prompts", None),
    "mean ablation / zero ablation on prompts": ("mean_prompts", "zero_prompts", None),
    "prefix_matching / mean ablation on prompts": ("prefix_matching", "mean_prompts", None),
    "prefix_matching / mean ablation on prompts, layer 1": ("prefix_matching", "mean_prompts", 1),
    "previous_token / mean ablation on prompts": ("previous_token", "mean_prompts", None),
    "task_induction / mean ablation on the task": ("task_induction", "mean_task", None),
    "ablation on prompts / on the task": ("mean_prompts", "mean_task", None),
}
"""What the predictions speak of: two methods, over all heads or those of one layer."""


def rank_of_previous_token(data: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """By method and step: the rank of the head that attends most to the previous token, 1 the most important."""
    found: dict[str, dict[str, list[int]]] = {}
    for method in ("patching", "attribution", "attribution_ig", "mean_prompts", "zero_prompts", "mean_task"):
        for step in map(str, data["steps"]):
            for run in data["runs"].values():
                if step not in run:
                    continue
                head = int(np.argmax(np.array(run[step]["previous_token"]).ravel()))
                order = np.argsort(-np.array(run[step][method]).ravel(), kind="stable")
                found.setdefault(method, {}).setdefault(step, []).append(int(np.flatnonzero(order == head)[0]) + 1)
    return found


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """The correlations of `PAIRS` by step and seed, and the rank of the previous-token head."""
    return {
        "seeds": list(data["runs"]),
        "steps": data["steps"],
        "correlations": {name: table(data, a, b, layer=layer) for name, (a, b, layer) in PAIRS.items()},
        "rank_of_previous_token": rank_of_previous_token(data),
        "matrix_at_the_end": mean_matrix(data, data["steps"][-1]),
    }


def main() -> None:
    """Measure every run and stage that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    args = parser.parse_args()
    data: dict[str, Any] = {"methods": METHODS, "steps": list(STEPS), "n": 64, "seed": 0, "runs": {}}
    if OUT.is_file():
        data["runs"] = json.loads(OUT.read_text())["runs"]
    for seed in SEEDS:
        folder = args.runs / "induction" / str(seed)
        task, done = read_task(folder), data["runs"].setdefault(str(seed), {})
        stages = [s for s in list_stages(folder, pattern="ckpt_*.pt") if s.step in STEPS and str(s.step) not in done]
        walk = Walk(stages)
        for stage in stages:
            done[str(stage.step)] = by_method(walk.at(stage), task)
            write_text(OUT, json.dumps(data) + "\n")
            print(seed, stage.step, flush=True)


if __name__ == "__main__":
    main()
