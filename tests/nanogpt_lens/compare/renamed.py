"""Models whose heads have other numbers, from nanoGPT's own weights, and edges renamed as text."""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.running.metrics import logit_diff
from tests.conftest import convert
from tests.making import random_state

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 16, "block_size": 12, "vocab_size": 9}
ORDER = torch.tensor([[2, 0, 3, 1], [1, 3, 2, 0]])
"""Which head of the renamed model is each head of the plain one."""
METRIC = logit_diff([3, 1, 4, 2, 7, 8], [5, 6, 2, 0, 1, 3])


def state(seed: int = 0) -> dict[str, Tensor]:
    return {name: 1.5 * value for name, value in random_state(**SIZES, dtype=torch.float64, seed=seed).items()}


@cache
def model(seed: int = 0) -> Any:
    return convert(Checkpoint(config=NanoGPTConfig(**SIZES), state_dict=state(seed)), dtype=torch.float64)


@cache
def renamed(seed: int = 0) -> Any:
    """The same model, in which head h of a layer is called ORDER[layer][h]: rows and columns of its weights moved."""
    weights, size = state(seed), SIZES["n_embd"] // SIZES["n_head"]
    for layer, order in enumerate(ORDER.tolist()):
        name = f"transformer.h.{layer}.attn"
        for rows in (f"{name}.c_attn.weight", f"{name}.c_attn.bias"):
            old, new = weights[rows], weights[rows].clone()
            for part in range(3):
                for head, there in enumerate(order):
                    a, b = (part * SIZES["n_embd"] + h * size for h in (head, there))
                    new[b : b + size] = old[a : a + size]
            weights[rows] = new
        old, new = weights[f"{name}.c_proj.weight"], weights[f"{name}.c_proj.weight"].clone()
        for head, there in enumerate(order):
            new[:, there * size : (there + 1) * size] = old[:, head * size : (head + 1) * size]
        weights[f"{name}.c_proj.weight"] = new
    return convert(Checkpoint(config=NanoGPTConfig(**SIZES), state_dict=weights), dtype=torch.float64)


def texts(n: int = 6, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(9, (n, 8), generator=generator) for _ in range(2))  # type: ignore[return-value]


def new_name(edge: str, order: Tensor = ORDER) -> str:
    """An edge's name in the model whose heads have other numbers."""
    return re.sub(r"(\d+)\.(\d+)", lambda m: f"{m[1]}.{int(order[int(m[1]), int(m[2])])}", edge)


@cache
def graph(n_layers: int = 2, n_heads: int = 4) -> CircuitGraph:
    """A graph without a model."""
    return CircuitGraph(SimpleNamespace(cfg=SimpleNamespace(n_layers=n_layers, n_heads=n_heads)))
