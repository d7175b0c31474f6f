"""A small random model, its native twin, and patches by plain loops over the native model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from conversion.native import GPT
from tests.conftest import convert
from tests.making import random_state

SIZES = {"n_layer": 3, "n_head": 2, "n_embd": 16, "block_size": 10, "vocab_size": 13}
N_POS = 9


@cache
def checkpoint() -> Checkpoint:
    return Checkpoint(config=NanoGPTConfig(**SIZES), state_dict=random_state(**SIZES, dtype=torch.float64))


def model(**options: Any) -> Any:
    return convert(checkpoint(), **{"dtype": torch.float64, **options})


@cache
def native() -> GPT:
    return GPT.from_checkpoint(checkpoint())


def texts(n: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clean and corrupted ids [n, N_POS]."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(13, (n, N_POS), generator=generator) for _ in range(2))  # type: ignore[return-value]


def native_run(tokens: Tensor, names: list[str]) -> dict[str, Tensor]:
    """The native model's activations and logits."""
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        logits = native()(tokens, edits={n: lambda x, n=n: kept.__setitem__(n, x.clone()) for n in names})
    return {**kept, "logits": logits}


def native_sweep(
    base: Tensor,
    source: dict[int, Tensor],
    hook: str,
    dims: tuple[str, ...],
    axes: tuple[str, ...],
    metric: Callable[[Tensor], Tensor],
) -> Tensor:
    """One native run per site: `dims` are the names of the activation's dimensions after the batch's."""
    sizes = {"layer": 3, "head": 2, "neuron": 64}
    shape = [sizes.get(axis, N_POS) for axis in axes]
    values = torch.zeros(shape, dtype=torch.float64)
    gpt = native()
    for place in itertools.product(*map(range, shape)):
        at = dict(zip(axes, place, strict=True))
        index = (slice(None), *(at.get(dim, slice(None)) for dim in dims))
        layers = [at["layer"]] if "layer" in at else range(3)

        def edit(value: Tensor, layer: int, index: Any = index) -> Tensor:
            value = value.clone()
            value[index] = source[layer][index]
            return value

        edits = {f"blocks.{i}.{hook}": lambda value, i=i: edit(value, i) for i in layers}
        with torch.no_grad():
            values[place] = metric(gpt(base, edits=edits))
    return values
