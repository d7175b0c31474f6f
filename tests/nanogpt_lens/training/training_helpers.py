"""A tiny run, shared by the tests of the trainer."""

from __future__ import annotations

import json

import numpy as np
import torch

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.training.train import TrainConfig, train

TINY = TrainConfig(
    n_layer=1,
    n_head=2,
    n_embd=8,
    block_size=8,
    batch_size=3,
    max_iters=12,
    warmup_iters=3,
    eval_interval=4,
    eval_iters=2,
    log_interval=3,
    dropout=0.1,
)
TEXT = "".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 600))
TIMING = ("tokens_per_second", "elapsed")


def quiet(data, out, config=TINY, **options):
    return train(data, out, config, **{"progress": False, "sample": False, **options})


def records(out, timing=False):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if timing or k not in TIMING} for line in lines]


def weights(file):
    return read_checkpoint(file).state_dict


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
