"""A hash of what a model computes with, which tells whether a lens was trained for this model.

The hash is the same for a HookedTransformer and a TransformerBridge, in float32 and in float64. It
changes as soon as a weight is changed, LayerNorms are folded, or training goes on.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.model.access import Hooked

_MATRICES = (
    "W_E",
    "W_pos",
    "W_Q",
    "W_K",
    "W_V",
    "b_Q",
    "b_K",
    "b_V",
    "W_O",
    "b_O",
    "W_in",
    "b_in",
    "W_out",
    "b_out",
    "W_U",
    "b_U",
)


def identity(model: Hooked) -> str:
    """SHA-256 of all weights in float32, of the activation function and of the LayerNorm's eps."""
    cfg = model.cfg
    digest = hashlib.sha256(f"{cfg.act_fn} {cfg.eps} {cfg.n_heads}".encode())
    for name in _MATRICES:
        _add(digest, name, getattr(model, name))
    for i, block in enumerate(model.blocks):
        _add_norm(digest, f"{i}.ln1", block.ln1, model)
        _add_norm(digest, f"{i}.ln2", block.ln2, model)
    _add_norm(digest, "ln_final", model.ln_final, model)
    return digest.hexdigest()


def affine(norm: Any, model: Hooked) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """A LayerNorm's weight and bias; ones and zeros if they are folded into what follows."""
    parts = []
    for name, fill in (("weight", torch.ones), ("bias", torch.zeros)):
        part = norm_part(norm, name)
        folded = part is None or model.cfg.normalization_type == "LNPre"
        parts.append(fill(model.cfg.d_model, dtype=model.W_U.dtype, device=model.W_U.device) if folded else part)
    return parts[0].detach(), parts[1].detach()


def norm_part(norm: Any, name: str) -> Float[Tensor, " d_model"] | None:
    """The "weight" or "bias" of a LayerNorm; None if the module has none."""
    # a HookedTransformer has `w`; a bridge `weight`, and beside it a `w` that need not hold anything
    return next((t for place in (name, name[0]) if isinstance(t := getattr(norm, place, None), Tensor)), None)


def _add_norm(digest: Any, name: str, norm: Any, model: Hooked) -> None:
    for part, tensor in zip(("weight", "bias"), affine(norm, model), strict=True):
        _add(digest, f"{name}.{part}", tensor)


def _add(digest: Any, name: str, tensor: Float[Tensor, " ..."]) -> None:
    content = tensor.detach().float().cpu() + 0.0  # no negative zeros
    digest.update(f"{name} {list(content.shape)}".encode())
    digest.update(content.contiguous().numpy().tobytes())
