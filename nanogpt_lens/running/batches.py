"""Sequences in batches, so that memory stays bounded however many there are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.model.access import Hooked, loss_per_token

_NUMBERS = 2**24


def batches(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Iterator[slice]:
    """Slices of the rows of `tokens`, each with at most about 2**24 logits or pattern entries."""
    n, length = tokens.shape
    per_row = length * max(model.cfg.d_vocab, model.cfg.n_heads * length, 4 * model.cfg.d_model)
    step = max(1, _NUMBERS // per_row)
    return (slice(start, start + step) for start in range(0, n, step))


def losses(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "example pos-1"]:
    """The cross-entropy of each next token, in nats, computed in batches."""
    return torch.cat([loss_per_token(model, tokens[rows]) for rows in batches(model, tokens)])
