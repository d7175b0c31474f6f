"""The rest of a forward pass, from the residual stream of many patched runs, without repeated work.

All runs of a sweep share a base run. A patch at position p leaves the positions before p as they
are in the base run, so only positions from p on are computed: their queries also see the base
run's keys and values of the positions before. In the last layer only the positions that the
metric reads need a query, an MLP and logits. LayerNorms, MLPs and the unembedding are the model's
own modules; attention is computed from the model's own weights. `is_exact` proves on the run at
hand that this is what the model computes; where it is not (rotary positions, hooks that somebody
attached, half precision, ...), sweeps go through hook points alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.model.access import Hooked, has_hooks
from nanogpt_lens.model.plain import TOLERANCE


def names_needed(n_layers: int) -> list[str]:
    """The hook points of the base run that a continuation starts from."""
    hooks = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "attn.hook_q", "attn.hook_k", "attn.hook_v")
    return [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in hooks]


def is_plain(model: Hooked) -> bool:
    """Whether a model can be continued from its weights: learned positions, MLPs after attention, nobody's hooks."""
    cfg = model.cfg
    plain = cfg.positional_embedding_type == "standard" and not getattr(cfg, "parallel_attn_mlp", False)
    return plain and not has_hooks(model)


def score_scale(model: Hooked, layer: int) -> float:
    """The number that a layer's attention scores are divided by."""
    scale = getattr(model.blocks[layer].attn, "attn_scale", None)
    return float(scale) if isinstance(scale, float | int) and scale > 0 else math.sqrt(model.cfg.d_head)


class Continuation:
    """What follows a patch, for runs that share a base run.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        base: the activations of the base run at `names_needed`, and its "logits".
        reads: the positions whose logits are read, ascending.
    """

    def __init__(self, model: Hooked, base: Mapping[str, Float[Tensor, "example ..."]], reads: Sequence[int]) -> None:
        self.model = model
        self.base = base
        self.reads = list(reads)
        self.n_layers: int = model.cfg.n_layers
        self.n_heads: int = model.cfg.n_heads
        self.end = self.reads[-1] + 1
        self.n_examples = base["logits"].shape[0]
        self.base_logits = base["logits"][:, self.reads]
        self._qkv: dict[int, tuple[Float[Tensor, "d_model part"], Float[Tensor, " part"]]] = {}

    @cached_property
    def is_exact(self) -> bool:
        """Whether the base run, continued from its own first layer, gives the logits that the model gave."""
        logits = self.base_logits
        if not is_plain(self.model) or logits.dtype not in TOLERANCE:
            return False
        try:
            again = self.finish(0, self.at(0, "hook_resid_pre")[None, :, : self.end], 0)[0]
        except (RuntimeError, AttributeError, TypeError):  # an architecture that this does not know
            return False
        return bool((again - logits).abs().max() <= TOLERANCE[logits.dtype] * logits.abs().max().clamp_min(1.0))

    def at(self, layer: int, hook: str) -> Float[Tensor, "example ..."]:
        """An activation of the base run."""
        return self.base[f"blocks.{layer}.{hook}"]

    def finish(
        self, layer: int, stream: Float[Tensor, "site example pos d_model"], start: int
    ) -> Float[Tensor, "site example read d_vocab"]:
        """The logits at the positions that are read.

        Args:
            layer: the first layer that is still to come; `n_layers` where none is.
            stream: the residual stream before it, from position `start` to `end`.
            start: the first position that may differ from the base run.
        """
        n_sites = len(stream)
        reads = [read for read in self.reads if read >= start]
        if not reads:
            return self.base_logits.expand(n_sites, -1, -1, -1)
        x = stream.reshape(-1, *stream.shape[2:])
        for i in range(layer, self.n_layers):
            first = reads[0] if i == self.n_layers - 1 else start
            x = self._block(i, x, start, first)
        offset = reads[0] if layer < self.n_layers else start
        x = x[:, [read - offset for read in reads]]
        logits = self.model.unembed(self.model.ln_final(x.contiguous())).view(n_sites, self.n_examples, len(reads), -1)
        if len(reads) == len(self.reads):
            return logits
        before = self.base_logits[:, : len(self.reads) - len(reads)].expand(n_sites, -1, -1, -1)
        return torch.cat([before, logits], dim=2)

    def _block(
        self, layer: int, x: Float[Tensor, "row pos d_model"], start: int, first: int
    ) -> Float[Tensor, "row query d_model"]:
        """The stream after a block at positions from `first` on, from that before it from `start` on."""
        block = self.model.blocks[layer]
        q, k, v = self._queries_keys_values(layer, block.ln1(x), first - start)
        z = self._attend(layer, q, k, v, start)
        mid = x[:, first - start :] + z.flatten(2) @ block.attn.W_O.flatten(0, 1) + block.attn.b_O
        return mid + self.mlp_out(layer, mid)

    def mlp_out(self, layer: int, mid: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What the MLP adds to the stream (its own code views, and wants it contiguous)."""
        block = self.model.blocks[layer]
        return block.mlp(block.ln2(mid.contiguous()))

    def _queries_keys_values(
        self, layer: int, x: Float[Tensor, "row pos d_model"], skip: int
    ) -> tuple[
        Float[Tensor, "row query head d_head"],
        Float[Tensor, "row pos head d_head"],
        Float[Tensor, "row pos head d_head"],
    ]:
        """Queries, keys and values; no queries for the first `skip` positions."""
        if layer not in self._qkv:
            attn = self.model.blocks[layer].attn
            weights = [getattr(attn, f"W_{n}").transpose(0, 1).flatten(1) for n in "QKV"]
            self._qkv[layer] = torch.cat(weights, 1), torch.cat([getattr(attn, f"b_{n}").flatten() for n in "QKV"])
        weight, bias = self._qkv[layer]
        width = weight.shape[1] // 3
        if skip:
            q = F.linear(x[:, skip:], weight[:, :width].T, bias[:width])
            k, v = F.linear(x, weight[:, width:].T, bias[width:]).split(width, -1)
        else:
            q, k, v = F.linear(x, weight.T, bias).split(width, -1)
        return self._heads(q), self._heads(k), self._heads(v)

    def _heads(self, x: Float[Tensor, "row pos features"]) -> Float[Tensor, "row pos head d_head"]:
        return x.unflatten(-1, (self.n_heads, -1))

    def _attend(
        self,
        layer: int,
        q: Float[Tensor, "row query head d_head"],
        k: Float[Tensor, "row key head d_head"],
        v: Float[Tensor, "row key head d_head"],
        start: int,
    ) -> Float[Tensor, "row query head d_head"]:
        """The result z of attention to the base run's positions before `start`, and causally to the rest."""
        if start:
            k, v = (
                torch.cat([self._prefix(layer, name, start, len(rest)), rest], 1)
                for name, rest in (("hook_k", k), ("hook_v", v))
            )
        n_queries, n_keys = q.shape[1], k.shape[1]
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scale = 1 / score_scale(self.model, layer)
        if n_queries == 1:
            z = F.scaled_dot_product_attention(q, k, v, scale=scale)
        elif n_queries == n_keys:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        else:
            past = torch.ones(n_queries, n_keys, dtype=torch.bool, device=q.device).tril(n_keys - n_queries)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=past, scale=scale)
        return z.transpose(1, 2)

    def _prefix(self, layer: int, name: str, start: int, n_rows: int) -> Float[Tensor, "row pos head d_head"]:
        """The base run's keys or values before `start`, for each row."""
        base = self.at(layer, f"attn.{name}")[:, :start]
        return base.expand(n_rows // self.n_examples, *base.shape).flatten(0, 1)
