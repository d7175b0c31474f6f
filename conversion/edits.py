"""The two edits that a certificate makes at every hook: silence it, and disturb it."""

from __future__ import annotations

import zlib
from typing import Literal

import torch
from torch import Tensor

from conversion.native import Edit

EditKind = Literal["zero", "perturb"]
KINDS: tuple[EditKind, ...] = ("zero", "perturb")


def edit_for(kind: EditKind, name: str, seed: int) -> Edit:
    """An edit that does the same to the same activation wherever it is applied.

    Args:
        kind: "zero" sets the activation to zero (a LayerNorm scale, by which is divided, is
            doubled instead); "perturb" adds Gaussian noise of a tenth of its spread.
        name: the hook's name.
        seed: with the name, the seed of the noise.
    """
    if name.endswith("hook_scale"):
        return _double if kind == "zero" else lambda scale: scale * (1 + 0.1 * _noise(scale, name, seed).tanh())
    if kind == "zero":
        return torch.zeros_like

    def perturb(value: Tensor) -> Tensor:
        finite = value[value.isfinite()]
        spread = 0.1 * (finite.std() if finite.numel() > 1 else finite.abs().sum()) + 1e-3
        return value + spread * _noise(value, name, seed)

    return perturb


def _double(scale: Tensor) -> Tensor:
    return 2 * scale


def _noise(value: Tensor, name: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return noise.to(device=value.device, dtype=value.dtype)
