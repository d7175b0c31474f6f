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

_LARGE = 2**19
"""Numbers of an activation, from which on its noise is repeated: drawing all would take as long as a run."""

_PERIOD = 65_537
"""The numbers of such noise: a prime, so that no two heads, positions or examples get the same noise."""


def edit_for(kind: EditKind, name: str, seed: int) -> Edit:
    """An edit that does the same to the same activation in every model.

    Args:
        kind: "zero" sets the activation to zero (a LayerNorm scale, which is a divisor, is
            doubled instead); "perturb" adds Gaussian noise of a tenth of its spread (of more than `_LARGE` numbers
            noise of `_PERIOD` numbers, repeated, and the spread of about as many).
        name: the hook's name, from which the seed of the noise follows.
        seed: a number that is added to that seed.
    """
    if name.endswith("hook_scale"):
        return _double if kind == "zero" else lambda scale: scale * (1 + 0.1 * _noise(scale, name, seed).tanh())
    if kind == "zero":
        return torch.zeros_like

    def perturb(value: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        size = 0.1 * _spread(value) + 1e-3
        if value.numel() <= _LARGE:
            return value + size * _noise(value, name, seed)
        return _with_repeated(value, size * _noise(value.new_empty(_PERIOD), name, seed))

    return perturb


def _double(scale: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    return 2 * scale


def _spread(value: Float[Tensor, "*axes"]) -> Float[Tensor, ""]:
    """The standard deviation of an activation's finite numbers; of a large one, of some of them."""
    some = value if value.numel() <= _LARGE else value.reshape(-1)[:: -(-value.numel() // _PERIOD)]
    finite = some[some.isfinite()]
    return finite.std() if finite.numel() > 1 else finite.abs().sum()


def _with_repeated(value: Float[Tensor, "*axes"], noise: Float[Tensor, " number"]) -> Float[Tensor, "*axes"]:
    """A copy of an activation, to which noise is added over and over."""
    changed = value.clone(memory_format=torch.contiguous_format)
    row, n = changed.view(-1), len(noise)
    whole = row[: len(row) // n * n]
    whole.view(-1, n).add_(noise)
    row[len(whole) :].add_(noise[: len(row) - len(whole)])
    return changed


def _noise(value: Float[Tensor, "*axes"], name: str, seed: int) -> Float[Tensor, "*axes"]:
    """Gaussian noise of an activation's shape, the same for the same hook and seed."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return noise.to(device=value.device, dtype=value.dtype)
