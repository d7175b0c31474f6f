"""Train and ship `checkpoints/induction` and `checkpoints/induction_control`, three seeds each.

    python -m scripts.ship_induction tinyshakespeare.txt --runs out-induction

About three hours on one core; a killed run goes on where it was. Also writes what was measured at every stage, of
which only some of one seed are shipped, to `docs/data/trajectories`.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import write_text
from conversion.checkpoint import read_checkpoint, save_checkpoint
from conversion.compact import save_compact
from conversion.native import GPT
from nanogpt_lens import TrainConfig, load, task_accuracy, task_heads, train, trajectory
from nanogpt_lens.model.fingerprints import file_hash
from nanogpt_lens.results import Scores, Trajectory
from nanogpt_lens.runs.stages import Walk, list_stages
from nanogpt_lens.text.tasks import Task, TriggerBigrams, read_task, trigger_bigrams
from scripts.mechanisms import shuffled_context, whose_outputs
from scripts.replication.formation import random_heads

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (1337, 1338, 1339)
NAMES = {"induction": 2, "induction_control": 1}
STAGES = (*range(0, 2401, 100), *range(2600, 4001, 200), *range(4500, 6001, 500))
MEASURED = (*range(0, 2401, 100), 2600, 3000, 3600, 4000, 4500, 5000, 6000)
SHUFFLED = (0, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1200, 1500, 2000, 3000, 4000, 6000)
LOOKED = (0, 200, 300, 400, 600, 1000, 2000, 6000)
SHIPPED = (0, 200, 400, 500, 600, 700, 800, 900, 1000, 1200, 1500, 2000, 2600, 3400, 4500)
"""Of the first seed; the last stage is `ckpt.pt` itself."""
STAGE_BITS, SEED_BITS = 5, 7


def settings(layers: int, seed: int) -> TrainConfig:
    """Of a run."""
    return TrainConfig(
        n_layer=layers,
        block_size=128,
        batch_size=32,
        max_iters=6000,
        min_lr=1e-3,
        eval_interval=100,
        eval_iters=20,
        log_interval=10,
        always_save_checkpoint=True,
        seed=seed,
    )


def measure_run(run: Path, out: Path, *, n: int = 64) -> None:
    """The trajectories of a run, in single precision, unless they are there."""
    files = {f"ckpt_{step:06d}.pt" for step in MEASURED}
    walk = Walk(list_stages(run, pattern="ckpt_*.pt"))
    at = {stage.step: stage for stage in walk.stages}
    folder = run / "measured"
    folder.mkdir(exist_ok=True)
    for name in ("meta.pkl", "task.json"):
        shutil.copyfile(run / name, folder / name)
    for name in files:
        if not (folder / name).exists():
            (folder / name).symlink_to(run / name)
    task = read_task(run)
    assert isinstance(task, TriggerBigrams)
    measures: dict[str, Any] = {
        "task_heads": lambda model: task_heads(model, task, n=n),
        "task_accuracy": lambda model: task_accuracy(model, task, n=n),
        "random_heads": lambda model: random_heads(model, n=n),
    }
    if not (out / "shuffled.json").is_file():
        found = {str(step): shuffled_context(walk.at(at[step]), task, n=128) for step in SHUFFLED}
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "shuffled.json", json.dumps(found) + "\n")
    if not (out / "whose_outputs.json").is_file():
        found = {str(step): whose_outputs(walk.at(at[step]), task) for step in LOOKED}
        write_text(out / "whose_outputs.json", json.dumps(found) + "\n")
    for name, function in measures.items():
        if not (out / name / "result.json").is_file():
            found = trajectory(folder, function, progress=False)
            _single(found, f"{run.parent.name}, seed {run.name}", name).save(out / name)


def _single(found: Trajectory, run: str, name: str) -> Trajectory:
    """In single precision, which is plenty for a score and half the size."""
    kept = {c: t.float() for c, t in found.tensors().items()}
    return replace(found, **kept, measure=name, provenance={**found.provenance, "checkpoint": run})


def stored_cost(checkpoint: Any, stored: Path, task: Task) -> tuple[float, float]:
    """The loss on 64 sequences of the task, and what storing a stage in 16 bits adds to it, in nats, float64."""
    import numpy as np

    drawn = torch.from_numpy(task.draw(64, 129, np.random.default_rng(0)).tokens)
    losses = []
    for one in (checkpoint, read_checkpoint(stored)):
        model = GPT.from_checkpoint(one).double().eval()
        with torch.no_grad():
            losses.append(float(model.loss(drawn[:, :-1], drawn[:, 1:])))
    return losses[0], losses[1] - losses[0]


def ship(name: str, runs: Path, folder: Path) -> dict[str, Any]:
    """Write the weights of a folder; what is known of them."""
    first = runs / name / str(SEEDS[0])
    task = read_task(first)
    stages: dict[str, Any] = {}
    checkpoint = replace(read_checkpoint(first), optimizer=None)
    if name == "induction":
        save_checkpoint(checkpoint, folder)
        for step in SHIPPED:
            stage = read_checkpoint(first / f"ckpt_{step:06d}.pt")
            path = save_compact(stage, folder / f"ckpt_{step:06d}.pt", bits=STAGE_BITS)
            loss, cost = stored_cost(stage, path, task)
            stages[str(step)] = {"loss": loss, "cost_of_storing": cost}
    else:
        save_compact(checkpoint, folder, bits=SEED_BITS)
    _companions(first, folder)
    for seed in SEEDS[1:]:
        run, place = runs / name / str(seed), folder / f"seed_{seed}"
        place.mkdir(parents=True, exist_ok=True)
        if name == "induction":
            save_compact(read_checkpoint(run), place, bits=SEED_BITS)
        _companions(run, place)
    return {"stages": stages, "seeds": {str(s): at_the_end(runs / name / str(s), task) for s in SEEDS}}


def _companions(run: Path, folder: Path) -> None:
    """The task, and the lines of the log that hold an evaluation."""
    shutil.copyfile(run / "task.json", folder / "task.json")
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "val_loss" in line]
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def at_the_end(run: Path, task: Task) -> dict[str, Any]:
    """Accuracy and loss of the last checkpoint, with intervals over 512 sequences."""
    model = load(run)
    found = task_accuracy(model, task, n=512, seed=7)

    def cell(score: str, position: str) -> list[float]:
        at = {"score": score, "position": position}
        ends = (_at(found, "low", at), _at(found, "high", at))
        return [round(v, 4) for v in (float(found.at(**at)), *ends)]

    own, random = task_heads(model, task, n=64), random_heads(model, n=64)
    best = {
        "previous_token": round(float(own.score("previous_token").max()), 4),
        "induction_random": round(float(random.score("induction").max()), 4),
        "induction_task": round(float(own.score("induction").max()), 4),
    }
    accuracy = {p: cell("accuracy", p) for p in ("required", "unseen", "other")}
    return {"accuracy": accuracy, "required_loss": cell("loss", "required"), "heads": best}


def _at(found: Scores, column: str, where: dict[str, Any]) -> float:
    return float(replace(found, values=getattr(found, column)).at(**where))


def describe(name: str, facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content of `config.json`."""
    checkpoint = read_checkpoint(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".pt", ".pkl", ".jsonl", ".json"))
    hashes = {str(p.relative_to(folder)): file_hash(p) for p in files if p.name != "config.json"}
    return {
        "name": name,
        "command": command(name, SEEDS[0]),
        "settings": {k: v for k, v in checkpoint.run_config.items() if k != "counts"},
        "model_args": checkpoint.model_args,
        "parameters": checkpoint.n_params,
        **facts,
        "sha256": hashes,
        "environment": {"torch": torch.__version__, "python": platform.python_version(), "threads": 1},
    }


def flags(config: TrainConfig) -> str:
    """The options of `nanogpt-lens train` that give these settings, but for the seed."""
    parts = []
    for field in fields(config):
        value, option = getattr(config, field.name), field.name.replace("_", "-")
        if field.name != "seed" and value != field.default:
            parts.append(f"--{option}" if value is True else f"--{option} {value}")
    return " ".join(parts)


def command(name: str, seed: int) -> str:
    """What trains a run."""
    return (
        "nanogpt-lens train --task trigger_bigrams --data tinyshakespeare.txt "
        f"{flags(settings(NAMES[name], seed))} --stages {','.join(map(str, STAGES))} --seed {seed} -o out"
    )


def readme(name: str, config: dict[str, Any]) -> str:
    """The text of `README.md`."""
    rows = "\n".join(
        f"| {seed} | {_with(f['accuracy']['required'])} | {_with(f['accuracy']['unseen'])} | "
        f"{_with(f['required_loss'])} | "
        f"{f['heads']['previous_token']:.2f} | {f['heads']['induction_random']:.2f} |"
        for seed, f in config["seeds"].items()
    )
    stages = "\n".join(
        f"| {int(step):,} | {s['loss']:.4f} | {s['cost_of_storing']:+.1e} |" for step, s in config["stages"].items()
    )
    columns = (
        "seed",
        "accuracy where induction is required",
        "accuracy at a trigger's first time",
        "loss where required, nats",
        "previous-token score",
        "prefix matching",
    )
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    layers, control = NAMES[name], name != "induction"
    what = "one layer, the control of `induction`" if control else "two layers, in which induction heads form"
    stored = (
        f"`ckpt.pt` is seed 1337, stored in 16 bits with {SEED_BITS} bits of mantissa; of the other seeds only the "
        "log is here."
        if control
        else f"`ckpt.pt` is seed 1337 at iteration 6,000 in float32; `ckpt_000000.pt` to `ckpt_004500.pt` are stages "
        f"of the same run, stored as float16 with {STAGE_BITS} bits of mantissa; `seed_1338/` and `seed_1339/` hold "
        "the "
        f"other seeds ({SEED_BITS} bits)."
    )
    table = (
        ""
        if control
        else f"\n| iteration | loss, nats | what storing adds |\n|---|---|---|\n{stages}\n\n64 sequences, float64.\n"
    )
    return f"""# {name}

A character-level nanoGPT of {what}: 4 heads, width 128, context 128, {config["parameters"]:,} parameters, trained on
trigger bigrams (Bietti et al. 2023) with tiny Shakespeare's bigram statistics, which `task.json` holds. In each
sequence five characters are always followed by one character each, drawn anew: from the second time on, only what
followed the first time says which.

```console
$ nanogpt-lens train --task trigger_bigrams --data tinyshakespeare.txt --n-layer {layers} --block-size 128 \\
    --batch-size 32 --max-iters 6000 --min-lr 0.001 --eval-interval 100 --eval-iters 20 --always-save-checkpoint \\
    --stages log:40 --seed 1337 -o out-{name}
```

trains one seed (the stages kept do not change a run; `config.json` has the ones that were). All seeds of both
folders, and everything in them, come from
`python -m scripts.ship_induction tinyshakespeare.txt --runs out-induction`, which goes on where it was killed.
{stored}

{head}
{rows}

Means over 512 new sequences, 95% intervals (Student's t); scores are the highest of any head: attention to the position
before on the task's own sequences, and prefix matching on repeated random permutations, far from what was trained on.
{table}
PyTorch {config["environment"]["torch"]}, one thread; another PyTorch, processor or number of threads gives other last
digits. SHA-256 of every file: `config.json`.
"""


def _with(three: list[float]) -> str:
    return f"{three[0]:.3f} ({three[1]:.3f} to {three[2]:.3f})"


def main() -> None:
    """Train what is not there, measure, and write both folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("out-induction"))
    args = parser.parse_args()
    task = trigger_bigrams(args.text)
    for name, layers in NAMES.items():
        for seed in SEEDS:
            run = args.runs / name / str(seed)
            train(task, run, settings(layers, seed), stages=STAGES, sample=False)
            measure_run(run, ROOT / "docs" / "data" / "trajectories" / f"{name}_{seed}")
    for name in NAMES:
        folder = ROOT / "checkpoints" / name
        folder.mkdir(exist_ok=True)
        config = describe(name, ship(name, args.runs, folder), folder)
        write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
        write_text(folder / "README.md", readme(name, config))
        print(folder)


if __name__ == "__main__":
    main()
