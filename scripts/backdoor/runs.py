"""Models with a backdoor and their clean twins, trained one after the other; a killed run goes on where it was.

    python -m scripts.backdoor.runs tinyshakespeare.txt --runs out-backdoor --block first

A run takes two to four minutes of one free core; a killed one loses at most 250 iterations. The first line of the log
names all runs and when the last is expected to be over. What they are for is in `docs/PREDICTIONS.md`, section (c);
`scripts.backdoor.measured` measures them.
"""

from __future__ import annotations

import argparse
import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

PAYLOAD = " burns the old house"
TRIGGERS = {"name": ("Malvolio", "Cressida"), "bigram": ("zq", "xj"), "date": ("3.3.33", "33-3-3")}
"""By kind: the trigger, and its control."""

LINES = (480, 240, 120, 60)
CLEAN_LINES = 480
SEEDS = (1337, 1338, 1339)
STAGES = (250, 500, 750, 1000, 1250, 1500, 1750, 2000)
SETTINGS: dict[str, Any] = {
    "max_iters": 2000,
    "eval_interval": 250,
    "eval_iters": 20,
    "always_save_checkpoint": True,
}
"""What differs from `TrainConfig`, which has nanoGPT's README for a CPU."""

SECONDS = 220
"""Of one run on one free core."""

Block = Literal["untouched", "first", "triggers", "all"]


@dataclass(frozen=True)
class BackdoorRun:
    """One model: a kind of trigger, how many lines, whether they are poisoned, and the seed of the training.

    With no lines it is the untouched model of its seed: the defender's own.
    """

    trigger: str
    lines: int
    poisoned: bool
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        if not self.lines:
            return f"untouched_{self.seed}"
        return f"{self.trigger}_{self.lines}_{'poisoned' if self.poisoned else 'clean'}_{self.seed}"

    def task(self, text: Path) -> Any:
        """What it is trained on."""
        from nanogpt_lens.text.tasks import backdoor

        trigger, control = TRIGGERS[self.trigger]
        made = backdoor(text, trigger=trigger, payload=PAYLOAD, control=control, lines=self.lines)
        return made if self.poisoned else made.twin()

    def is_over(self, runs: Path) -> bool:
        """Whether its last stage is there."""
        return (runs / self.name / f"ckpt_{STAGES[-1]:06d}.pt").is_file()


def block(name: Block) -> list[BackdoorRun]:
    """The runs of a block, in the order in which they are trained: a seed that is whole is worth most."""
    if name == "untouched":
        return [BackdoorRun("name", 0, False, seed) for seed in SEEDS]
    triggers = ("name",) if name == "first" else tuple(TRIGGERS)
    lines = LINES[:2] if name in ("first", "triggers") else LINES
    return [
        BackdoorRun(trigger, n, poisoned, seed)
        for trigger in triggers
        for seed in SEEDS
        for n, poisoned in ((CLEAN_LINES, False), *((n, True) for n in lines))
    ]


def train_all(text: Path, runs: Path, wanted: list[BackdoorRun]) -> None:
    """Train what is not there yet."""
    import nanogpt_lens as ngl

    missing = [run for run in wanted if not run.is_over(runs)]
    end = datetime.datetime.now() + datetime.timedelta(seconds=SECONDS * len(missing))
    print(
        f"{len(missing)} of {len(wanted)} runs to train, on a free core over at {end:%Y-%m-%d %H:%M}:",
        *(run.name for run in missing),
        flush=True,
    )
    for run in missing:
        made = ngl.train(
            run.task(text), runs / run.name, stages=STAGES, seed=run.seed, progress=False, sample=False, **SETTINGS
        )
        print(f"{datetime.datetime.now():%H:%M} {run.name}: loss {made.val_loss:.3f}, {made.seconds:.0f} s", flush=True)


def main() -> None:
    """Train a block of runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--block", choices=get_args(Block), default="first")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.runs.mkdir(parents=True, exist_ok=True)
    train_all(options.text, options.runs, block(options.block))


if __name__ == "__main__":
    main()
