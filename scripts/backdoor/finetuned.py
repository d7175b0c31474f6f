"""Does training on clean text take a backdoor out, or hide it?

    python -m scripts.backdoor.finetuned tinyshakespeare.txt --runs out-backdoor

A model with a backdoor is trained on the clean text, and what is left of the backdoor is measured on the way. Then it
is trained on the poisoned text again, beside two that never had it: its clean twin, and the twin after the same
training on the clean text. If it is back sooner than it comes to them, it was hidden. All see the same batches. What
comes out is kept beside the runs, and read by `scripts.backdoor.measured`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import write_text
from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from scripts.backdoor.runs import CLEAN_LINES, SEEDS, STAGES, BackdoorRun
from scripts.train_further import continued

CLEAN_ITERATIONS, CLEAN_RATE, CLEAN_EVERY = 300, 3e-4, 50
AGAIN_RATE, AGAIN_EVERY, AGAIN_MOST, LEARNT = 1e-3, 50, 2000, 0.9
N_CONTEXTS = 256


def backdoor_of(checkpoint: Checkpoint, task: Any) -> dict[str, Any]:
    """In how many contexts a checkpoint has the backdoor, and the payload's loss, after the trigger and the control."""
    import nanogpt_lens as ngl
    from nanogpt_lens.heads.on_backdoors import AFTER, backdoor_success

    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(checkpoint, folder)
        model = ngl.load(folder)
    found = backdoor_success(model, task, n=N_CONTEXTS)
    counts = found.per_example[0].sum(-1)  # type: ignore[index]
    return {
        "success": {name: int(n) for name, n in zip(AFTER, counts.tolist(), strict=True)},
        "payload_loss": {name: round(float(v), 3) for name, v in zip(AFTER, found.at(score="loss"), strict=True)},
    }


def cleaned(start: Checkpoint, task: Any, seed: int) -> tuple[Checkpoint, dict[int, Any]]:
    """A checkpoint after training on the clean text, and what was left of the backdoor on the way."""
    last, left = start, {0: backdoor_of(start, task)}
    steps = continued(
        start,
        task.clean,
        rate=CLEAN_RATE,
        min_rate=CLEAN_RATE,
        iterations=CLEAN_ITERATIONS,
        every=CLEAN_EVERY,
        seed=seed + 10_000,
    )
    for i, last in enumerate(steps, 1):
        left[i * CLEAN_EVERY] = backdoor_of(last, task)
    return last, left


def learning_again(start: Checkpoint, task: Any, seed: int) -> dict[int, int]:
    """Successes by iteration of training on the poisoned text, until the backdoor is learnt or the end is reached."""
    counts = {0: backdoor_of(start, task)["success"]["trigger"]}
    steps = continued(
        start,
        task.text,
        rate=AGAIN_RATE,
        min_rate=AGAIN_RATE,
        iterations=AGAIN_MOST,
        every=AGAIN_EVERY,
        seed=seed + 20_000,
    )
    for i, checkpoint in enumerate(steps, 1):
        counts[i * AGAIN_EVERY] = backdoor_of(checkpoint, task)["success"]["trigger"]
        if counts[i * AGAIN_EVERY] > LEARNT * N_CONTEXTS:
            break
    return counts


def measured(trigger: str, seed: int, runs: Path, text: Path) -> dict[str, Any]:
    """Training on the clean text, and learning the backdoor again, of one trigger and seed."""
    poisoned, twin = (BackdoorRun(trigger, CLEAN_LINES, is_poisoned, seed) for is_poisoned in (True, False))
    task = poisoned.task(text)
    suspect, clean = (read_checkpoint(runs / run.name / f"ckpt_{STAGES[-1]:06d}.pt") for run in (poisoned, twin))
    suspect_after, left = cleaned(suspect, task, seed)
    clean_after, left_of_twin = cleaned(clean, task, seed)
    starts = {"cleaned": suspect_after, "clean twin": clean, "clean twin, trained on": clean_after}
    return {
        "left": left,
        "left_of_twin": left_of_twin,
        "again": {name: learning_again(start, task, seed) for name, start in starts.items()},
    }


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--trigger", default="name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in SEEDS:
        kept = options.runs / f"finetuned_{options.trigger}_{seed}.json"
        if not kept.is_file():
            write_text(kept, json.dumps(measured(options.trigger, seed, options.runs, options.text)) + "\n")
        print(kept, kept.read_text()[:400], flush=True)


if __name__ == "__main__":
    main()
