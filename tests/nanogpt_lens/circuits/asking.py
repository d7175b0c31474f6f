"""A small model whose circuits plain lines can run, and the faithfulness that they give."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from nanogpt_lens.running.metrics import logit_diff
from tests.conftest import convert
from tests.making import random_state
from tests.nanogpt_lens.circuits import plain

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 6, "vocab_size": 7}
METRIC = logit_diff([3, 1, 4, 2], [5, 6, 2, 0])
EDGES = 13


@cache
def checkpoint() -> Checkpoint:
    state = random_state(**SIZES, dtype=torch.float64)
    return Checkpoint(config=NanoGPTConfig(**SIZES), state_dict={name: 2 * value for name, value in state.items()})


def model(**options: Any) -> Any:
    return convert(checkpoint(), **{"dtype": torch.float64, **options})


def texts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randint(7, (4, 6), generator=generator) for _ in range(2))  # type: ignore[return-value]


def faithfulness(edges: Any, source: str = "other") -> float:
    """The faithfulness of a circuit, by plain lines over nanoGPT's weights."""
    state = checkpoint().state_dict
    clean, corrupted = texts()
    other = plain.run(state, 2, corrupted if source == "other" else clean, None, set())
    if source == "zero":
        other = {name: torch.zeros_like(value) for name, value in other.items()}
    if source == "mean":
        other = {name: value.mean((0, 1)).expand_as(value) for name, value in other.items()}
    metric = METRIC.resolved(model(), clean)
    value = lambda live: float(metric.per_example(plain.run(state, 2, clean, other, live)["logits"]).mean())  # noqa: E731
    whole = float(metric.per_example(plain.run(state, 2, clean, None, set())["logits"]).mean())
    empty = value(set())
    return (value(edges if isinstance(edges, dict) else set(edges)) - empty) / (whole - empty)
