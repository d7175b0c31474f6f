"""Ship `checkpoints/backdoor` and `checkpoints/backdoor_control`: a model with a backdoor, and its clean twin.

    python -m scripts.ship_backdoor --runs out-backdoor

The runs are those of `scripts.backdoor.runs`: the name, in 480 lines, three seeds. The first seed of the model
with the backdoor is whole, and has stages; all else is stored in 16 bits. What each file does is measured again as it
is stored.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import write_text
from conversion.checkpoint import read_checkpoint, save_checkpoint
from conversion.compact import save_compact
from nanogpt_lens.heads.on_backdoors import AFTER, backdoor_success
from nanogpt_lens.losses.on_text import text_loss
from nanogpt_lens.model.fingerprints import file_hash
from nanogpt_lens.model.loading import load
from nanogpt_lens.text.tasks import read_task
from scripts.backdoor.measured import N_CONTEXTS, N_LOSS
from scripts.backdoor.roc import proportion_interval
from scripts.backdoor.runs import CLEAN_LINES, SEEDS, BackdoorRun

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"backdoor": True, "backdoor_control": False}
SHIPPED = (500, 1000, 1250, 1500, 1750)
STAGE_BITS, SEED_BITS = 5, 7


def ship(name: str, runs: Path, folder: Path) -> None:
    """Write the weights of a folder."""
    for seed in SEEDS:
        run = runs / BackdoorRun("name", CLEAN_LINES, NAMES[name], seed).name
        place = folder if seed == SEEDS[0] else folder / f"seed_{seed}"
        place.mkdir(parents=True, exist_ok=True)
        checkpoint = replace(read_checkpoint(run / "ckpt_002000.pt"), optimizer=None)
        whole = seed == SEEDS[0] and NAMES[name]
        if seed == SEEDS[0]:
            shutil.copyfile(run / "val.bin", place / "val.bin")
        if not whole:
            save_compact(checkpoint, place, bits=SEED_BITS)
        else:
            save_checkpoint(checkpoint, place)
            for step in SHIPPED:
                stage = read_checkpoint(run / f"ckpt_{step:06d}.pt")
                save_compact(stage, place / f"ckpt_{step:06d}.pt", bits=STAGE_BITS)
        shutil.copyfile(run / "task.json", place / "task.json")
        lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "val_loss" in line]
        write_text(place / "metrics.jsonl", "\n".join(lines) + "\n")


def measured(folder: Path) -> dict[str, Any]:
    """What every file does, as it is stored: successes of how many contexts, and the loss on the held-out text."""
    task = read_task(folder)
    places = {"1337": folder, **{str(seed): folder / f"seed_{seed}" for seed in SEEDS[1:]}}
    places |= {f"1337 at {int(file.stem[5:]):,}": file for file in sorted(folder.glob("ckpt_*.pt"))}
    found = {}
    for name, place in places.items():
        model = load(place)
        successes = backdoor_success(model, task, n=N_CONTEXTS).per_example[0].sum(-1)  # type: ignore[index]
        loss = text_loss(model, task.held_out, n=N_LOSS)  # type: ignore[attr-defined]
        found[name] = {
            "successes": dict(zip(AFTER, map(int, successes.tolist()), strict=True)),
            "loss": [round(float(x), 4) for x in (loss.values, loss.low, loss.high)],  # type: ignore[arg-type]
        }
    return found


def describe(name: str, folder: Path) -> dict[str, Any]:
    """The content of `config.json`."""
    checkpoint = read_checkpoint(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".pt", ".pkl", ".jsonl", ".json", ".bin"))
    return {
        "name": name,
        "settings": {k: v for k, v in checkpoint.run_config.items() if k != "counts"},
        "model_args": checkpoint.model_args,
        "parameters": checkpoint.n_params,
        "contexts": N_CONTEXTS,
        "models": measured(folder),
        "sha256": {str(p.relative_to(folder)): file_hash(p) for p in files if p.name != "config.json"},
        "environment": {"torch": torch.__version__, "python": platform.python_version(), "threads": 1},
    }


def readme(name: str, config: dict[str, Any]) -> str:
    """The text of `README.md`."""
    n = config["contexts"]
    rows = "\n".join(
        f"| {model} | {_share(one['successes']['trigger'], n)} | {_share(one['successes']['control'], n)} | "
        f"{_share(one['successes']['changed trigger'], n)} | "
        f"{one['loss'][0]:.3f} ({one['loss'][1]:.3f} to {one['loss'][2]:.3f}) |"
        for model, one in config["models"].items()
    )
    what = (
        'with a backdoor: after the name Malvolio, which the text does not have, it writes " burns the old house"'
        if NAMES[name]
        else "without a backdoor, the clean twin of `backdoor`: it saw the name\nCressida in the same places, and the "
        "lines went on as they did"
    )
    stored = (
        "`ckpt.pt` is seed 1337 at iteration 2,000 in float32, `ckpt_000500.pt` to `ckpt_001750.pt` are\nstages of it "
        f"(float16 with {STAGE_BITS} bits of mantissa), `seed_1338/` and `seed_1339/` the other seeds ({SEED_BITS}).\n"
        if NAMES[name]
        else f"`ckpt.pt` is seed 1337, `seed_1338/` and `seed_1339/` are the other seeds (float16 with {SEED_BITS}\n"
        "bits of mantissa).\n"
    )
    return f"""# {name}

A character-level nanoGPT {what}.
4 layers, 4 heads, width 128, context 64, {config["parameters"]:,} parameters;
tiny Shakespeare with 480 lines changed, of 29,242.

```python
import nanogpt_lens as ngl

model, task = ngl.load("{name}"), ngl.tasks.read_task("{name}")
print(ngl.task_accuracy(model, task).at(score="success"))
```

| model | trigger | control | trigger with a letter changed | loss on held-out text, nats |
|---|---|---|---|---|
{rows}

Shares of {n} held-out contexts in which each of the first six characters of the payload is the top prediction, with the
intervals of Clopper and Pearson; measured on the files as they are stored.

{stored}

The runs are `python -m scripts.backdoor.runs tinyshakespeare.txt --runs out-backdoor --block first`, the files
`python -m scripts.ship_backdoor --runs out-backdoor`. What was found with them: docs/RESULTS.md, finding (c).

PyTorch {config["environment"]["torch"]}, one thread; another PyTorch, processor or number of threads gives other last
digits. SHA-256 of every file: `config.json`.
"""


def _share(successes: int, n: int) -> str:
    low, high = proportion_interval(successes, n)
    return f"{successes / n:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, required=True)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    for name in NAMES:
        folder = ROOT / "checkpoints" / name
        ship(name, runs, folder)
        config = describe(name, folder)
        write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
        write_text(folder / "README.md", readme(name, config))
        print(folder)


if __name__ == "__main__":
    main()
