"""A native model that computes in another precision than its weights have, which are brought to it part by part.

Where a checkpoint is large, its weights in float64 are a gigabyte. Here they stay as the file has them, and only the
block that computes, or a slice of the head, is in memory in the other precision too. Not one bit of the result is
another one, but for the order in which a matrix product of fewer rows or columns may add.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from conversion.native import GPT

_SLICE = 2**23
"""Numbers of the head's weight that are brought to the other precision at once."""


def compute_in(model: GPT, dtype: torch.dtype) -> GPT:
    """Make a model compute in a precision, and return it; its weights keep their own, and can share their memory."""
    transformer = cast(Any, model.transformer)
    transformer.wte = EmbeddingIn(transformer.wte, dtype)
    transformer.h = nn.ModuleList(ModuleIn(block, dtype) for block in transformer.h)
    transformer.ln_f = ModuleIn(transformer.ln_f, dtype)
    cast(Any, model).lm_head = HeadIn(model.lm_head, dtype)
    return model


class ModuleIn(nn.Module):
    """A module whose weights are in another precision while it computes."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def weights(self) -> dict[str, Float[Tensor, " ..."]]:
        """New weights in the precision in which it computes, by their names in the module."""
        return {name: weight.detach().to(self.dtype) for name, weight in self.module.named_parameters()}

    def forward(self, *arguments: Any) -> Any:
        """What the module gives."""
        return functional_call(self.module, self.weights(), arguments)


class EmbeddingIn(nn.Module):
    """An embedding, of which the rows that it gives are in another precision."""

    def __init__(self, embedding: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding, self.dtype = embedding, dtype

    @property
    def weight(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding's weight, in its own precision."""
        return self.embedding.weight

    def forward(self, tokens: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes d_model"]:
        """The rows of tokens."""
        return self.embedding(tokens).to(self.dtype)


class HeadIn(nn.Module):
    """A head without bias, whose weight is brought to another precision in slices of the vocabulary."""

    def __init__(self, head: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.head, self.dtype = head, dtype

    @property
    def weight(self) -> Float[Tensor, "d_vocab d_model"]:
        """The head's weight, in its own precision."""
        return self.head.weight

    def slices(self) -> list[slice]:
        """The slices of the vocabulary."""
        n, width = self.head.weight.shape
        step = max(1, _SLICE // width)
        return [slice(start, min(start + step, n)) for start in range(0, n, step)]

    def forward(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_vocab"]:
        """The logits."""
        logits = x.new_empty(*x.shape[:-1], self.head.out_features)
        for tokens in self.slices():
            logits[..., tokens] = F.linear(x, self.head.weight[tokens].to(self.dtype))
        return logits
