"""A native model that reads a growing text: keys and values of earlier tokens are kept and not computed again."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from conversion.native import GPT


class Stepper:
    """Gives the logits after the last token of texts that grow at their end.

    Within the context only the new tokens are computed. Beyond it positions shift, so that the last `block_size` tokens
    are computed anew, as nanoGPT does.

    Args:
        native: the model, in evaluation mode.
    """

    def __init__(self, native: GPT) -> None:
        self.native = native
        self._known: Int[Tensor, "example known"] | None = None
        self._past: list[tuple[Float[Tensor, "example head known d_head"], Float[Tensor, "example head known d_head"]]]
        self._past = []

    def __call__(self, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "example d_vocab"]:
        """The logits after the last of `tokens`."""
        context = self.native.config.block_size
        if tokens.shape[1] > context:
            self._known = None
            return self.native.last_logits(tokens[:, -context:])
        known = self._known
        n = 0 if known is None else known.shape[1]
        if known is None or len(known) != len(tokens) or n >= tokens.shape[1] or not torch.equal(known, tokens[:, :n]):
            n, self._past = 0, []
        self._known = tokens
        transformer = self.native.transformer
        x = transformer.wte(tokens[:, n:]) + transformer.wpe.weight[n : tokens.shape[1]]
        blocks: list[Any] = list(transformer.h)
        for i, block in enumerate(blocks):
            x = x + self._attend(i, block.attn, block.ln_1(x))
            x = x + block.mlp(block.ln_2(x))
        return self.native.lm_head(transformer.ln_f(x[:, -1]))

    def _attend(self, layer: int, attn: Any, x: Float[Tensor, "example new d_model"]) -> Tensor:
        """What attention adds at new positions, whose keys and values are kept."""
        batch, new, width = x.shape
        qkv = attn.c_attn(x).view(batch, new, 3, attn.n_head, -1).transpose(1, 3)  # [example, head, 3, new, d_head]
        q, k, v = qkv.unbind(2)
        first = layer == len(self._past)
        if first:
            self._past.append((k, v))
        else:
            k, v = (torch.cat([past, part], dim=2) for past, part in zip(self._past[layer], (k, v), strict=True))
            self._past[layer] = k, v
        if first or new == 1:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=first)
        else:
            past = torch.ones(new, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - new)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=past)
        return attn.c_proj(z.transpose(1, 2).reshape(batch, new, width))
