"""Do the methods agree about which heads matter, on four sets of 512 prompts? Each head by each method.

    python -m scripts.replication.head_agreement RUNS

`scripts.replication.agreement` has the old measurement, of more stages, on one set of 64 prompts that is atypical.
Writes `docs/data/head_agreement.json`, from which all else is computed. RUNS has the stages of the seeds that are
not shipped, as `scripts.circuit_atlas` trains them. Edges: `scripts.replication.edge_agreement`. Predictions:
`docs/PREDICTIONS.md`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from conversion.atomic import write_text
from nanogpt_lens.text.tasks import Task, read_task
from scripts.replication import agreement
from scripts.replication.agreement import PAIRS, correlation
from scripts.replication.edge_agreement import PROMPT_SEEDS, PROMPTS, Place
from scripts.results import DATA, SEEDS, place

OUT = DATA / "head_agreement.json"
STEPS = (600, 1000, 6000)
SEQUENCES = {"random permutations": 64, "the task": 128}
METHODS = tuple(name for name in agreement.METHODS if name != "zero_task")
"""Those of the old measurement, but for one that nothing was said of."""

Heads: TypeAlias = Mapping[str, Sequence[Sequence[float]]]
"""By method each head's number, [layer][head]."""


def by_method(model: Any, task: Task, *, n: int = PROMPTS, seed: int = 0) -> dict[str, list[list[float]]]:
    """Each head's number by each method, [layer][head], on n prompts; see `SEQUENCES` for the sequences."""
    n_random, n_text = SEQUENCES["random permutations"], SEQUENCES["the task"]
    return agreement.by_method(model, task, n=n, seed=seed, n_random=n_random, n_text=n_text, methods=METHODS)


def sets_of(data: Mapping[str, Any], step: str) -> Iterator[Heads]:
    """What is known at a step, seed after seed, and for each the sets of prompts."""
    for run in data["runs"].values():
        yield from run.get(step, ())


def table(data: Mapping[str, Any], one: str, other: str, *, layer: int | None = None) -> dict[str, list[float]]:
    """Of two methods the correlation by step, one number for each seed and set of prompts."""
    return {
        step: [round(correlation(found[one], found[other], layer=layer), 3) for found in sets_of(data, step)]
        for step in map(str, data["steps"])
    }


def with_itself(data: Mapping[str, Any], method: str) -> dict[str, list[float]]:
    """The correlation of a method on one set of prompts with itself on another, of all pairs of sets of a seed."""
    return {
        step: [
            round(correlation(a[method], b[method]), 3)
            for run in data["runs"].values()
            for a, b in itertools.combinations(run.get(step, ()), 2)
        ]
        for step in map(str, data["steps"])
    }


def previous_token_head(found: Heads) -> tuple[int, int]:
    """Layer and head of the one that attends most to the previous token."""
    scores = np.array(found["previous_token"])
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    return int(layer), int(head)


def rank_of_previous_token(data: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """By method and step: the rank of the head that attends most to the previous token, 1 the most important."""
    found: dict[str, dict[str, list[int]]] = {}
    for method in ("patching", "attribution", "attribution_ig", "mean_prompts", "zero_prompts", "mean_task"):
        for step in map(str, data["steps"]):
            for heads in sets_of(data, step):
                scores = np.array(heads[method])
                rank = int((scores > scores[previous_token_head(heads)]).sum()) + 1
                found.setdefault(method, {}).setdefault(step, []).append(rank)
    return found


def seen_of_previous_token(data: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """By gradient and step: its number for the previous-token head as a share of the exact one."""
    return {
        method: {
            step: [
                round(heads[method][layer][head] / (heads["patching"][layer][head] or float("nan")), 3)
                for heads in sets_of(data, step)
                for layer, head in [previous_token_head(heads)]
            ]
            for step in map(str, data["steps"])
        }
        for method in ("attribution", "attribution_ig")
    }


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """The correlations of `PAIRS` by step, seed and set of prompts, and what becomes of the previous-token head."""
    return {
        "seeds": list(data["runs"]),
        "steps": data["steps"],
        "prompt_seeds": data["prompt_seeds"],
        "correlations": {name: table(data, a, b, layer=layer) for name, (a, b, layer) in PAIRS.items()},
        "patching_with_itself": with_itself(data, "patching"),
        "rank_of_previous_token": rank_of_previous_token(data),
        "seen_of_previous_token": seen_of_previous_token(data),
    }


def main() -> None:
    """Measure every run, stage and set of prompts that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", nargs="*", default=SEEDS, help="measure these alone, and write no file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = read_task(place("induction", SEEDS[0]))
    runs = {seed: {str(step): of_stage(seed, step, task, args.runs) for step in STEPS} for seed in args.seeds}
    if tuple(args.seeds) == SEEDS:
        data = {"steps": STEPS, "n": PROMPTS, "prompt_seeds": PROMPT_SEEDS, "runs": runs}
        write_text(OUT, json.dumps(data) + "\n")


def of_stage(seed: str, step: int, task: Task, runs: Path) -> list[Heads]:
    """What every method says of a stage on each set of prompts; kept in the folder of runs."""
    kept = runs / "agreement" / f"heads_{seed}_{step}.json"
    if not kept.is_file():
        model = Place(task="random", seed=seed, step=step).load(runs)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps([by_method(model, task, seed=s) for s in PROMPT_SEEDS]))
        print(kept.name, flush=True)
    return json.loads(kept.read_text())


if __name__ == "__main__":
    main()
