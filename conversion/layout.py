"""nanoGPT's tensors in TransformerLens' layout, and back.

nanoGPT keeps queries, keys and values of all heads in one matrix [3 * n_embd, n_embd] and
its linear maps as [out, in]; TransformerLens keeps one matrix per head and maps as [in, out].
Both directions are exact: tensors are only cut, transposed and regrouped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from conversion.config import NanoGPTConfig

HookedState = dict[str, Tensor]
"""Tensors under TransformerLens' property names: `embed.W_E`, `blocks.0.attn.W_Q`, ..."""


def to_hooked_layout(
    state_dict: MutableMapping[str, Tensor], config: NanoGPTConfig, *, consume: bool = False
) -> HookedState:
    """Tensors of a TransformerLens model from nanoGPT's.

    Args:
        state_dict: the tensors of `config.shapes()`.
        config: the architecture; absent biases become zeros.
        consume: take each tensor out of `state_dict` as it is converted, so that never
            more than one copy of the weights is held; nothing may need it afterwards.

    Returns:
        tensors that share no memory with `state_dict`.
    """

    def take(name: str) -> Tensor:
        return state_dict.pop(name) if consume else state_dict[name]

    def own(name: str) -> Tensor:
        return take(name) if consume else take(name).clone()

    def bias(name: str, size: int) -> Tensor:
        return own(f"{name}.bias") if config.bias else torch.zeros(size, dtype=dtype, device=device)

    dtype, device = state_dict["lm_head.weight"].dtype, state_dict["lm_head.weight"].device
    width, heads = config.n_embd, config.n_head
    hooked: HookedState = {"unembed.W_U": _copied(take("lm_head.weight").T)}
    hooked["embed.W_E"] = own("transformer.wte.weight")
    hooked["pos_embed.W_pos"] = own("transformer.wpe.weight")
    for i in range(config.n_layer):
        theirs, ours = f"transformer.h.{i}", f"blocks.{i}"
        for ln in ("1", "2"):
            hooked[f"{ours}.ln{ln}.w"] = own(f"{theirs}.ln_{ln}.weight")
            hooked[f"{ours}.ln{ln}.b"] = bias(f"{theirs}.ln_{ln}", width)
        weights = take(f"{theirs}.attn.c_attn.weight").chunk(3)
        biases = bias(f"{theirs}.attn.c_attn", 3 * width).chunk(3)
        for name, weight, b in zip("QKV", weights, biases, strict=True):
            hooked[f"{ours}.attn.W_{name}"] = _copied(rearrange(weight, "(head out) m -> head m out", head=heads))
            hooked[f"{ours}.attn.b_{name}"] = _copied(rearrange(b, "(head out) -> head out", head=heads))
        del weights
        w_o = take(f"{theirs}.attn.c_proj.weight")
        hooked[f"{ours}.attn.W_O"] = _copied(rearrange(w_o, "m (head out) -> head out m", head=heads))
        hooked[f"{ours}.attn.b_O"] = bias(f"{theirs}.attn.c_proj", width)
        hooked[f"{ours}.mlp.W_in"] = _copied(take(f"{theirs}.mlp.c_fc.weight").T)
        hooked[f"{ours}.mlp.b_in"] = bias(f"{theirs}.mlp.c_fc", config.d_mlp)
        hooked[f"{ours}.mlp.W_out"] = _copied(take(f"{theirs}.mlp.c_proj.weight").T)
        hooked[f"{ours}.mlp.b_out"] = bias(f"{theirs}.mlp.c_proj", width)
    hooked["ln_final.w"] = own("transformer.ln_f.weight")
    hooked["ln_final.b"] = bias("transformer.ln_f", width)
    hooked["unembed.b_U"] = torch.zeros(config.vocab_size, dtype=dtype, device=device)
    return hooked


def from_hooked_layout(hooked: Mapping[str, Tensor], config: NanoGPTConfig) -> dict[str, Tensor]:
    """The inverse of `to_hooked_layout`; `lm_head.weight` is separate from the embedding.

    The map is linear, so it carries gradients as well as weights.
    """
    state = {
        "transformer.wte.weight": hooked["embed.W_E"],
        "transformer.wpe.weight": hooked["pos_embed.W_pos"],
    }
    for i in range(config.n_layer):
        theirs, ours = f"transformer.h.{i}", f"blocks.{i}"
        for ln in ("1", "2"):
            state[f"{theirs}.ln_{ln}.weight"] = hooked[f"{ours}.ln{ln}.w"]
            state[f"{theirs}.ln_{ln}.bias"] = hooked[f"{ours}.ln{ln}.b"]
        qkv = [rearrange(hooked[f"{ours}.attn.W_{n}"], "head m out -> (head out) m") for n in "QKV"]
        state[f"{theirs}.attn.c_attn.weight"] = torch.cat(qkv)
        state[f"{theirs}.attn.c_attn.bias"] = torch.cat([hooked[f"{ours}.attn.b_{n}"].flatten() for n in "QKV"])
        state[f"{theirs}.attn.c_proj.weight"] = rearrange(hooked[f"{ours}.attn.W_O"], "head out m -> m (head out)")
        state[f"{theirs}.attn.c_proj.bias"] = hooked[f"{ours}.attn.b_O"]
        for theirs_name, ours_name in (("c_fc", "in"), ("c_proj", "out")):
            state[f"{theirs}.mlp.{theirs_name}.weight"] = hooked[f"{ours}.mlp.W_{ours_name}"].T
            state[f"{theirs}.mlp.{theirs_name}.bias"] = hooked[f"{ours}.mlp.b_{ours_name}"]
    state["transformer.ln_f.weight"] = hooked["ln_final.w"]
    state["transformer.ln_f.bias"] = hooked["ln_final.b"]
    state["lm_head.weight"] = hooked["unembed.W_U"].T
    return {name: _copied(state[name]) for name in config.shapes()}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def to_bridge_layout(state: HookedState, cfg: Any) -> Iterator[tuple[str, Tensor]]:
    """The same tensors under the names and in the shapes of the bridge of TransformerLens 4, emptying `state`."""
    from transformer_lens.utilities.tl_checkpoint_conversion import (  # pyright: ignore[reportMissingImports]
        convert_tl_checkpoint,
    )

    for name in list(state):
        yield from convert_tl_checkpoint({name: state.pop(name)}, cfg).items()
