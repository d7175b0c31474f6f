"""The two edits that a certificate makes at every hook: one silences the activation, one disturbs it."""

from __future__ import annotations

import zlib
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from conversion.native import Edit

EditKind = Literal["zero", "perturb"]
KINDS: tuple[EditKind, ...] = ("zero", "perturb")


def edit_for(kind: EditKind, name: str, seed: int) -> Edit:
    """An edit that does the same to the same activation in every model.

    Args:
        kind: "zero" sets the activation to zero (a LayerNorm scale, which is a divisor, is
            doubled instead); "perturb" adds Gaussian noise of a tenth of its spread.
        name: the hook's name, from which the seed of the noise follows.
        seed: a number that is added to that seed.
    """
    if name.endswith("hook_scale"):
        return _double if kind == "zero" else lambda scale: scale * (1 + 0.1 * _noise(scale, name, seed).tanh())
    if kind == "zero":
        return torch.zeros_like

    def perturb(value: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        finite = value[value.isfinite()]
        spread = 0.1 * (finite.std() if finite.numel() > 1 else finite.abs().sum()) + 1e-3
        return value + spread * _noise(value, name, seed)

    return perturb


def _double(scale: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    return 2 * scale


def _noise(value: Float[Tensor, "*axes"], name: str, seed: int) -> Float[Tensor, "*axes"]:
    """Gaussian noise of an activation's shape, the same for the same hook and seed."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return noise.to(device=value.device, dtype=value.dtype)
