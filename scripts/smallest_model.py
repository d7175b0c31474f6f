"""What is the smallest model that forms an induction head on trigger bigrams? Train many small ones, and measure.

    python -m scripts.smallest_model tinyshakespeare.txt --runs out-smallest --workers 2

About two hours of two cores for all 48 runs. What is measured is kept in `docs/data/smallest_model.json`, and a run
that is in there is not trained again: a killed call goes on where it was, on another machine too. To train all anew,
move that file away. The predictions are in `docs/PREDICTIONS.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "data" / "smallest_model.json"
SEEDS = (1337, 1338, 1339)
SHAPES = (  # layers, heads, width; those that decide most come first
    *((2, 1, 32), (2, 1, 16), (2, 1, 64), (2, 1, 8), (1, 4, 32), (3, 1, 16), (2, 4, 32), (2, 4, 16), (2, 4, 64)),
    *((1, 4, 64), (3, 1, 32), (2, 2, 32), (2, 2, 16), (2, 2, 64), (1, 4, 16), (3, 1, 64)),
)
STAGES = (0, 100, 200, 300, 400, 500, 600, 800, 1000, 1300, 1600, 2000, 2500, 3000, 3500, 4000)
MINUTES = 3.5
"""Of a core for a run, the mean over the shapes: what the first line of the log expects."""
SETTINGS = {
    "block_size": 128,
    "batch_size": 32,
    "max_iters": 4000,
    "learning_rate": 3e-3,
    "min_lr": 3e-3,
    "eval_interval": 1000,
    "eval_iters": 5,
    "always_save_checkpoint": True,
}


def name_of(shape: tuple[int, int, int], seed: int) -> str:
    """The name of a run."""
    layers, heads, width = shape
    return f"L{layers}H{heads}D{width}_{seed}"


def run(text: Path, folder: Path, shape: tuple[int, int, int], seed: int) -> dict[str, Any]:
    """Train one model and measure it at its stages."""
    import torch

    torch.set_num_threads(1)
    from nanogpt_lens import TrainConfig, train
    from nanogpt_lens.text.tasks import trigger_bigrams

    layers, heads, width = shape
    config = TrainConfig(n_layer=layers, n_head=heads, n_embd=width, seed=seed, **SETTINGS)
    train(trigger_bigrams(text), folder, config, stages=STAGES, progress=False, sample=False)
    return {"layers": layers, "heads": heads, "width": width, "seed": seed, **measured(folder)}


def measured(folder: Path) -> dict[str, Any]:
    """The scores at every stage, and the verdict."""
    from nanogpt_lens import find_change_point, load, trajectory
    from nanogpt_lens.text.tasks import read_task
    from scripts.mechanisms import shuffled_context

    options: dict[str, Any] = {"pattern": "ckpt_*.pt", "progress": False}
    matching = trajectory(folder, "prefix_matching", n=32, **options)
    accuracy = trajectory(folder, "task_accuracy", n=128, **options)
    own = trajectory(folder, "task_heads", n=32, **options)
    layer, head = divmod(int(matching.values[-1].argmax()), matching.shape["head"])
    found = find_change_point(matching, layer=layer, head=head)
    model = load(folder / f"ckpt_{STAGES[-1]:06d}.pt")
    return {
        "parameters": model.nanogpt_origin.n_params,
        "steps": list(matching.steps),
        "prefix_matching": [round(float(v.max()), 4) for v in matching.values],
        "previous_token": [round(float(v[0].max()), 4) for v in own.values],
        "required_accuracy": [round(float(v), 4) for v in accuracy.at(score="accuracy", position="required")],
        "unseen_accuracy": [round(float(v), 4) for v in accuracy.at(score="accuracy", position="unseen")],
        "accuracy_interval": [
            round(float(end[-1, 0, 0]), 4) for end in (accuracy.low, accuracy.high) if end is not None
        ],
        "head": f"{layer}.{head}",
        "formed": found.formed,
        "half": [round(float(t[1]), 1) for t in (found.values, found.low, found.high) if t is not None and found.formed]
        or None,
        "reason": found.reason,
        "shuffled": shuffled_context(model, read_task(folder), n=128),
    }


def one(text: Path, runs: Path, shape: tuple[int, int, int], seed: int) -> str:
    """Train and measure one model; its weights are deleted at the end. What came out, in one line."""
    from conversion.atomic import write_text

    name = name_of(shape, seed)
    found = run(text, runs / name, shape, seed)
    write_text(runs / f"{name}.json", json.dumps(found) + "\n")
    shutil.rmtree(runs / name)
    formed = "formed" if found["formed"] else "not formed"
    return (
        f"{name}: {formed}, prefix matching {found['prefix_matching'][-1]}, accuracy {found['required_accuracy'][-1]}"
    )


def restore(runs: Path) -> None:
    """Put what has been measured before, and is kept, beside the runs."""
    from conversion.atomic import write_text

    for row in json.loads(OUT.read_text())["runs"] if OUT.is_file() else ():
        file = runs / f"{name_of((row['layers'], row['heads'], row['width']), row['seed'])}.json"
        if not file.exists():
            write_text(file, json.dumps(row) + "\n")


def expected(left: int, minutes: float, workers: int) -> str:
    """How long the runs that are left will take, and until when."""
    more = timedelta(minutes=minutes * left / workers)
    return f"{left} left, about {more.total_seconds() / 60:.0f} minutes, until {datetime.now() + more:%H:%M}"


def collect(runs: Path) -> None:
    """Everything that has been measured, in one file."""
    from conversion.atomic import write_text

    files = [runs / f"{name_of(shape, seed)}.json" for shape in SHAPES for seed in SEEDS]
    rows = [json.loads(file.read_text()) for file in files if file.is_file()]
    lines = ",\n".join(json.dumps(row) for row in rows)
    plain = {"settings": SETTINGS, "stages": list(STAGES)}
    write_text(OUT, json.dumps(plain, indent=1)[:-2] + f',\n "runs": [\n{lines}\n]}}\n')


def main() -> None:
    """Train what is not there yet, and collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("out-smallest"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    restore(args.runs)
    every = [(shape, seed) for seed in SEEDS for shape in SHAPES]
    jobs = [(args.text, args.runs, *job) for job in every if not (args.runs / f"{name_of(*job)}.json").is_file()]
    print(f"smallest_model, {len(every)} runs: {expected(len(jobs), MINUTES, args.workers)}", flush=True)
    began = time.monotonic()
    # no `max_tasks_per_child`: with it CPython before 3.13 may wait for ever (issue 115634)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(one, *job) for job in jobs]
        for done, future in enumerate(as_completed(futures), 1):
            each = (time.monotonic() - began) / 60 * args.workers / done
            print(f"{future.result()}; {expected(len(jobs) - done, each, args.workers)}", flush=True)
            collect(args.runs)


if __name__ == "__main__":
    main()
