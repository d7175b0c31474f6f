"""Sequences in batches, so that memory stays bounded however many there are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.model.access import Hooked, next_token_loss, run
from nanogpt_lens.model.plain import plain_model

_NUMBERS = 2**24
_WORTH = 2048  # tokens from which on another model of the same weights is worth its making


def batches(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Iterator[slice]:
    """Slices of the rows of `tokens`, each with at most about 2**24 logits or pattern entries."""
    n, length = tokens.shape
    per_row = length * max(model.cfg.d_vocab, model.cfg.n_heads * length, 4 * model.cfg.d_model)
    step = max(1, _NUMBERS // per_row)
    return (slice(start, start + step) for start in range(0, n, step))


def losses(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "example pos-1"]:
    """The cross-entropy of each next token, in nats, in batches; as nanoGPT computes it, where that is equal."""
    native = plain_model(model) if tokens.numel() >= _WORTH else None
    parts = []
    for rows in batches(model, tokens):
        logits = run(model, tokens[rows]) if native is None else native(tokens[rows])
        parts.append(next_token_loss(logits, tokens[rows]))
    return torch.cat(parts)
