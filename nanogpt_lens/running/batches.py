"""Sequences in batches, so that memory stays bounded however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conversion.native import GPT
from nanogpt_lens.model.access import Hooked, cross_entropy, next_token_loss, run
from nanogpt_lens.model.plain import logits_at, plain_model

_NUMBERS = 2**24
_WORTH = 2048  # tokens from which on another model of the same weights is worth its making


def batches(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Iterator[slice]:
    """Slices of the rows of `tokens`, each with at most about 2**24 logits or pattern entries."""
    n, length = tokens.shape
    per_row = length * max(model.cfg.d_vocab, model.cfg.n_heads * length, 4 * model.cfg.d_model)
    step = max(1, _NUMBERS // per_row)
    return (slice(start, start + step) for start in range(0, n, step))


def losses(
    model: Hooked, tokens: Int[Tensor, "example pos"], places: Sequence[int] | None = None
) -> Float[Tensor, "example place"]:
    """The cross-entropy of each next token, in nats, in batches; as nanoGPT computes it, where that is equal.

    `places` are the positions of the tokens whose next one is predicted; None for all but the last.
    """
    return Losses(model)(tokens, places)


class Losses:
    """What `losses` gives, of one batch of tokens after the other: the model's weights and hooks must stay as they are.

    Another model of the same weights is made once, as soon as there are tokens enough for that.

    Args:
        model: the model.
    """

    def __init__(self, model: Hooked) -> None:
        self._model = model
        self._native: GPT | None = None
        self._seen, self._compared = 0, 0

    def __call__(
        self, tokens: Int[Tensor, "example pos"], places: Sequence[int] | None = None
    ) -> Float[Tensor, "example place"]:
        """See `losses`."""
        self._seen += tokens.numel()
        length = tokens.shape[1]
        if self._compared < length and self._seen >= _WORTH:
            self._native, self._compared = plain_model(self._model, length=length), length
        here = None if places is None else torch.as_tensor(places, device=tokens.device)
        parts = []
        for rows in batches(self._model, tokens):
            if here is None:
                logits = run(self._model, tokens[rows]) if self._native is None else self._native(tokens[rows])
                parts.append(next_token_loss(logits, tokens[rows]))
            else:
                logits = logits_at(self._model, self._native, tokens[rows], here)
                parts.append(cross_entropy(logits, tokens[rows][:, here + 1]))
        return torch.cat(parts)
