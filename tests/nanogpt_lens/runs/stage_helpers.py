"""Runs with stages: random models of one shape, as a training run leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from conversion.vocabulary import CharVocabulary
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.tasks import TriggerBigrams, trigger_bigrams
from tests.making import content, write_meta

CONTEXT = 32
TEXT = " ".join(np.random.default_rng(1).choice(["one", "two", "three", "four", "five", "six", "seven"], 400)) + "\n"
CHARS = "".join(sorted(set(TEXT)))
NAMES = {"ckpt_b.pt": 20, "ckpt_10.pt": 0, "ckpt_9.pt": 1000, "ckpt_a.pt": 100}
"""The files of a run and their iterations, which the names do not tell."""


def task(text: str = TEXT, n_triggers: int = 3) -> TriggerBigrams:
    vocabulary = CharVocabulary(tuple(sorted(set(text))))
    empty = vocabulary.encode("")
    data = TextData(train=vocabulary.encode(text), val=empty, vocabulary=vocabulary, name="own")
    return trigger_bigrams(data, n_triggers=n_triggers)


def write_stage(file: Path, step: Any, *, seed: int | None = None, **sizes: Any) -> Path:
    """A checkpoint of the seed `step`; without `iter_num` where `step` is None."""
    sizes = {"block_size": CONTEXT, "vocab_size": len(CHARS)} | sizes
    made = content(seed=seed if seed is not None else step or 0, **sizes) | {"iter_num": step}
    if step is None:
        del made["iter_num"]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made, file)
    return file


def make_run(folder: Path, *, names: dict[str, int] | None = None, with_task: bool = True) -> Path:
    """A folder with the stages of `NAMES`, a vocabulary, and the task of `TEXT`."""
    for name, step in (NAMES if names is None else names).items():
        write_stage(folder / name, step)
    write_meta(folder, chars=CHARS)
    if with_task:
        task().save(folder)
    return folder
