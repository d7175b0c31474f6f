"""What the tests of neurons and directions share: a small random model with characters, and a text for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from conversion.checkpoint import Checkpoint, read_checkpoint
from tests.conftest import convert
from tests.making import content, write, write_meta

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 65}


def random_checkpoint(folder: Path, *, meta: bool = True, **sizes: Any) -> Checkpoint:
    """A checkpoint of random float64 weights, with Shakespeare's characters."""
    path = write(folder, content(**{**SIZES, "seed": 5, "dtype": torch.float64, **sizes}))
    if meta:
        write_meta(folder)
    return read_checkpoint(path)


def lens_model(folder: Path, **options: Any) -> Any:
    """The same as a model of the installed TransformerLens, float64, with its tokenizer."""
    import nanogpt_lens as ngl

    random_checkpoint(folder, **options)
    return ngl.load(folder, dtype=torch.float64)


def play(n: int = 400, seed: int = 0) -> str:
    """A text like a play: names with a colon, lines, empty lines."""
    rng = random.Random(seed)
    words = ["the", "King", "o'er", "sea", "is", "lost", "and", "Rome", "falls", "no", "more", "day's"]
    text = ""
    while len(text) < n:
        lines = "\n".join(" ".join(rng.choices(words, k=3)) + rng.choice(",.!?") for _ in range(rng.randint(1, 2)))
        text += f"{rng.choice(['ROMEO', 'First Lord', 'ANNE'])}:\n{lines}\n\n"
    return text[:n]


def no_tokenizer(checkpoint: Checkpoint) -> Any:
    """A model without a vocabulary."""
    return convert(checkpoint, dtype=torch.float64)
