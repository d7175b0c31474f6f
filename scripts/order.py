"""Through which edges order arrives, before attention to the previous token has left chance: finding (e).

    python -m scripts.order --runs out-order      # train to iteration 600, three seeds; about ten minutes of one core

A prompt of the task ends at a trigger whose output is known. In the other text of a pair every earlier occurrence of
the trigger is exchanged with another character of the prompt: the same characters, the output where it was, another one
before it. What that costs is what order is worth. What comes out is `docs/data/order.json`; predictions are in
`docs/PREDICTIONS.md`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

import nanogpt_lens as ngl
from conversion.atomic import write_text
from nanogpt_lens.running.metrics import answer_logprob
from nanogpt_lens.text.task_pairs import task_pairs
from nanogpt_lens.text.tasks import Task, read_task
from scripts.replication.measured import mean_and_ends
from scripts.results import DATA, SEEDS, place
from scripts.ship_induction import settings

OUT = DATA / "order.json"
STAGES = (200, 250, 300, 350, 400, 450, 500, 600)
PROMPTS, LENGTH = 512, 64


def exchanged(
    prompts: Int[np.ndarray, "example pos"],
    answer: Int[np.ndarray, " example"],
    generator: np.random.Generator,
    *,
    control: bool = False,
) -> Int[np.ndarray, "example pos"]:
    """The prompts with every earlier occurrence of the last token exchanged with another character.

    The characters it is exchanged with are neither that token nor the answer, and stand before no answer. In the
    control as many of these are exchanged with each other instead, so that no pair of trigger and output is touched.
    """
    other = prompts.copy()
    for row, tokens in enumerate(prompts):
        is_trigger = tokens == tokens[-1]
        is_trigger[-1] = False
        free = ~is_trigger & (tokens != answer[row])
        free[:-1] &= tokens[1:] != answer[row]
        free[-1] = False
        places = generator.permutation(np.flatnonzero(free))
        triggers = np.flatnonzero(is_trigger)
        if control:
            triggers, places = np.split(places[: 2 * min(len(triggers), len(places) // 2)], 2)
        n = min(len(triggers), len(places))
        other[row, triggers[:n]], other[row, places[:n]] = tokens[places[:n]], tokens[triggers[:n]]
    return other


def stages_of(seed: str, runs: Path) -> dict[int, Path]:
    """The first iterations of the shipped run again, with more stages."""
    folder = runs / seed
    config = replace(settings(2, int(seed)), max_iters=STAGES[-1], eval_interval=200, eval_iters=1)
    ngl.train(read_task(place("induction", seed)), folder, config, stages=STAGES, sample=False, resume="auto")
    return {step: folder / f"ckpt_{step:06d}.pt" for step in STAGES}


def measured(model: Any, task: Task, *, n: int = PROMPTS, seed: int = 0) -> dict[str, Any]:
    """What order is worth at a stage, and what each edge and each head's attention has to do with it."""
    pair = task_pairs(model, task, seq_len=LENGTH, n=n, seed=seed)
    clean, answer = pair.clean.numpy(), pair.answer.numpy()
    others = [exchanged(clean, answer, np.random.default_rng([seed, kind]), control=bool(kind)) for kind in (0, 1)]
    corrupted, control = map(torch.from_numpy, others)
    metric = answer_logprob(pair.answer)
    with torch.no_grad():
        whole, without, touched = (metric.per_example(model(t)) for t in (pair.clean, corrupted, control))
    edges = ngl.edge_effects(model, pair.clean, corrupted, metric, progress=False)
    assert edges.per_example is not None
    cost = whole - edges.per_example  # [edge, example]
    return {
        "order": mean_and_ends(whole - without),
        "control": mean_and_ends(whole - touched),
        "edges": {name: mean_and_ends(cost[i]) for i, name in enumerate(edges.labels["edge"])},
        "by_way": by_way(cost, edges.labels["edge"]),
        "attention": attention(model, pair.clean, pair.answer),
    }


def by_way(cost: Tensor, names: tuple[str, ...]) -> dict[str, dict[str, list[float | None]]]:
    """By head of layer 0: what its edge from the embedding costs, that to MLP 0, and those to the keys of layer 1."""
    at = {name: i for i, name in enumerate(names)}
    heads = sorted({name.split("->")[1][:-2] for name in names if name.startswith("embed->0.")})
    later = sorted({name.split("->")[1][:-2] for name in names if name.startswith("embed->1.")})
    return {
        head: {
            "embed->v": mean_and_ends(cost[at[f"embed->{head}.v"]]),
            "->mlp0": mean_and_ends(cost[at[f"{head}->mlp0"]]),
            "->keys": mean_and_ends(sum(cost[at[f"{head}->{to}.k"]] for to in later)),
        }
        for head in heads
    } | {"mlp0": {"->keys": mean_and_ends(sum(cost[at[f"mlp0->{to}.k"]] for to in later))}}


def attention(model: Any, clean: Tensor, answer: Tensor) -> dict[str, dict[str, list[float | None]]]:
    """Of each head of layer 0: attention from an output to the trigger before it, and to the previous token anywhere.

    Both relative to uniform attention over the positions that can be seen, and averaged within a prompt first.
    """
    with torch.no_grad():
        pattern = model.run_with_cache(clean, names_filter="blocks.0.attn.hook_pattern")[1][
            "blocks.0.attn.hook_pattern"
        ]
    seen = torch.arange(1, clean.shape[1], dtype=pattern.dtype) + 1  # positions that query 1, 2, ... can see
    back = pattern.diagonal(-1, dim1=2, dim2=3) * seen  # [example, head, query from 1]
    is_output = (clean[:, :-1] == clean[:, -1:]) & (clean[:, 1:] == answer[:, None])
    weights = is_output[:, None].to(back.dtype)
    own = (back * weights).sum(-1) / weights.sum(-1)
    return {
        f"0.{head}": {
            "to_the_trigger": mean_and_ends(own[:, head]),
            "to_the_previous": mean_and_ends(back[:, head].mean(-1)),
        }
        for head in range(back.shape[1])
    }


def main() -> None:
    """Train what is not there, measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("out-order"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"stages": STAGES, "prompts": PROMPTS, "length": LENGTH, "runs": {}}
    for seed in SEEDS:
        task, stages = read_task(place("induction", seed)), stages_of(seed, args.runs)
        found["runs"][seed] = {step: measured(ngl.load(file), task) for step, file in stages.items()}
        print(seed, {step: part["order"] for step, part in found["runs"][seed].items()}, flush=True)
        write_text(OUT, json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
