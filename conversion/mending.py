"""The mending of two hooks, `hook_resid_mid` and `hook_attn_scores`, of TransformerLens 4's native bridge.

Upstream, `hook_resid_mid` is the input of `ln2`, which only the MLP reads, and the scores' hook
fires after the attention is done. Here the block itself calls `hook_resid_mid` before the stream
parts into skip and MLP, and the attention calls `hook_attn_scores` before its softmax.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.sources.native.model import NativeAttention, NativeBlock


def mend(bridge: Any) -> None:
    """Make `hook_resid_mid` and `attn.hook_attn_scores` take effect in every block of a native bridge."""
    for block in bridge.blocks:
        attention = block.attn.original_component
        block.original_component.__class__ = MendedBlock
        attention.__class__ = MendedAttention
        block.ln2.hook_in.__class__ = MidHook
        attention.__dict__["mended_hooks"] = (block.attn.hook_attn_scores, block.attn.hook_pattern)


class MidHook(HookPoint):
    """`ln2.hook_in`, also known as `hook_resid_mid`, which the block calls, so that `ln2` passes it over."""

    def __call__(self, x: Float[Tensor, "example pos d_model"]) -> Float[Tensor, "example pos d_model"]:
        return x if self.__dict__.pop("called", False) else super().__call__(x)


class MendedBlock(NativeBlock):
    """A block whose residual stream goes through `hook_resid_mid` before it parts into skip and MLP."""

    def forward(
        self,
        hidden_states: Float[Tensor, "example pos d_model"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "example pos d_model"]]:
        hook = cast(Any, self.ln2).hook_in
        hook.__dict__.pop("called", None)  # left behind by an exception
        out, _ = self.attn(self.ln1(hidden_states), attention_mask=attention_mask, position_ids=position_ids)
        mid = hook(hidden_states + out)
        hook.__dict__["called"] = True
        return (mid + self.mlp(self.ln2(mid)),)


class MendedAttention(NativeAttention):
    """Attention whose scores and pattern go through their hooks before they are used."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Float[Tensor, "example pos d_model"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pattern_fn: Any = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "example pos d_model"], None]:
        batch, seq, _ = hidden_states.shape
        q, k, v = (
            part(hidden_states).view(batch, seq, self.n_heads, self.d_head).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        mask = self.causal_mask[:seq, :seq]
        if attention_mask is not None:
            mask = self._combine_attention_mask(mask, attention_mask, batch=batch)
        hook_scores, hook_pattern = self.__dict__["mended_hooks"]
        scores = hook_scores((q @ k.transpose(-2, -1) / self.scale).masked_fill(mask, -torch.inf))
        pattern = F.softmax(scores, dim=-1)
        pattern = hook_pattern(torch.where(pattern.isnan(), torch.zeros_like(pattern), pattern))
        out = self.o((pattern @ v).transpose(1, 2).reshape(batch, seq, -1))
        return out, None  # without a pattern, upstream's belated hooks stay silent
