"""Checkpoints on disk that differ in one known way, and a text that all can read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.making import content, random_state, write, write_meta

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 65, "bias": True}
TEXT = "".join("to be, or not to be: that is the question.\nWhether 'tis nobler in the mind " for _ in range(20))


def state(seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """nanoGPT's weights, every parameter random."""
    return random_state(**{**SIZES, **sizes}, seed=seed)


def saved(folder: Path, weights: dict[str, Tensor] | None = None, chars: str | None = None, **sizes: int) -> Path:
    """A checkpoint with a vocabulary, in a folder of its own."""
    args = {**SIZES, **sizes}
    made = content(weights if weights is not None else state(**sizes), **args)
    write(folder, made)
    write_meta(folder, *([] if chars is None else [chars]))
    return folder


def with_other_head(weights: dict[str, Tensor], layer: int, head: int, seed: int = 7) -> dict[str, Tensor]:
    """The weights with one head's queries, keys, values and output drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed["lm_head.weight"] = changed["transformer.wte.weight"]
    width, size = SIZES["n_embd"], SIZES["n_embd"] // SIZES["n_head"]
    rows = torch.cat([torch.arange(head * size, (head + 1) * size) + part * width for part in range(3)])
    name = f"transformer.h.{layer}.attn"
    for key, index in ((f"{name}.c_attn.weight", rows), (f"{name}.c_attn.bias", rows)):
        part = changed[key][index]
        changed[key][index] = part + 0.6 * torch.randn(part.shape, generator=generator)
    columns = slice(head * size, (head + 1) * size)
    part = changed[f"{name}.c_proj.weight"][:, columns]
    changed[f"{name}.c_proj.weight"][:, columns] = part + 0.6 * torch.randn(part.shape, generator=generator)
    return changed
