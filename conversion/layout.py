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
from jaxtyping import Float
from torch import Tensor

from conversion.config import NanoGPTConfig

HookedState = dict[str, Float[Tensor, " ..."]]
"""Tensors under TransformerLens' property names: `embed.W_E`, `blocks.0.attn.W_Q`, ..."""

LARGE_HEAD = 2**22
"""Numbers of a head's weight, from which on it is kept row by row as nanoGPT has it and only seen as [in, out].

TransformerLens 3.9 turns it at every run, which is then no copy: one of GPT-2's would have 309 MB in float64.
"""


def to_hooked_layout(
    state_dict: MutableMapping[str, Float[Tensor, " ..."]], config: NanoGPTConfig, *, consume: bool = False
) -> HookedState:
    """The tensors of a TransformerLens model, made from nanoGPT's.

    Args:
        state_dict: the tensors of `config.shapes()`.
        config: the architecture; absent biases become zeros.
        consume: take each tensor out of `state_dict` as it is converted, so that memory never
            holds more than one copy of the weights; `state_dict` is empty afterwards.

    Returns:
        Tensors that share no memory with what is left in `state_dict`.
    """

    def take(name: str) -> Tensor:
        return state_dict.pop(name) if consume else state_dict[name]

    def unshared(name: str) -> Tensor:
        return take(name) if consume else take(name).clone()

    def bias(name: str, size: int) -> Tensor:
        return unshared(f"{name}.bias") if config.bias else torch.zeros(size, dtype=dtype, device=device)

    dtype, device = state_dict["lm_head.weight"].dtype, state_dict["lm_head.weight"].device
    width, heads = config.n_embd, config.n_head
    head = take("lm_head.weight")
    hooked: HookedState = {"unembed.W_U": head.clone().T if head.numel() >= LARGE_HEAD else _copied(head.T)}
    del head
    hooked["embed.W_E"] = unshared("transformer.wte.weight")
    hooked["pos_embed.W_pos"] = unshared("transformer.wpe.weight")
    for i in range(config.n_layer):
        native, block = f"transformer.h.{i}", f"blocks.{i}"
        for ln in ("1", "2"):
            hooked[f"{block}.ln{ln}.w"] = unshared(f"{native}.ln_{ln}.weight")
            hooked[f"{block}.ln{ln}.b"] = bias(f"{native}.ln_{ln}", width)
        weights = take(f"{native}.attn.c_attn.weight").chunk(3)
        biases = bias(f"{native}.attn.c_attn", 3 * width).chunk(3)
        for name, weight, b in zip("QKV", weights, biases, strict=True):
            split = rearrange(weight, "(head d_head) d_model -> head d_model d_head", head=heads)
            hooked[f"{block}.attn.W_{name}"] = _copied(split)
            hooked[f"{block}.attn.b_{name}"] = _copied(rearrange(b, "(head d_head) -> head d_head", head=heads))
        del weights
        w_o = take(f"{native}.attn.c_proj.weight")
        w_o = rearrange(w_o, "d_model (head d_head) -> head d_head d_model", head=heads)
        hooked[f"{block}.attn.W_O"] = _copied(w_o)
        hooked[f"{block}.attn.b_O"] = bias(f"{native}.attn.c_proj", width)
        hooked[f"{block}.mlp.W_in"] = _copied(take(f"{native}.mlp.c_fc.weight").T)
        hooked[f"{block}.mlp.b_in"] = bias(f"{native}.mlp.c_fc", config.d_mlp)
        hooked[f"{block}.mlp.W_out"] = _copied(take(f"{native}.mlp.c_proj.weight").T)
        hooked[f"{block}.mlp.b_out"] = bias(f"{native}.mlp.c_proj", width)
    hooked["ln_final.w"] = unshared("transformer.ln_f.weight")
    hooked["ln_final.b"] = bias("transformer.ln_f", width)
    hooked["unembed.b_U"] = torch.zeros(config.vocab_size, dtype=dtype, device=device)
    return hooked


def from_hooked_layout(
    hooked: Mapping[str, Float[Tensor, " ..."]], config: NanoGPTConfig
) -> dict[str, Float[Tensor, " ..."]]:
    """NanoGPT's tensors, made from those of a TransformerLens model; the inverse of `to_hooked_layout`.

    `lm_head.weight` is separate from the embedding. The map is linear, so that it takes gradients as well as weights.
    """
    return {name: _copied(native_tensor(name, hooked)) for name in config.shapes()}


_SAME = {
    "transformer.wte.weight": "embed.W_E",
    "transformer.wpe.weight": "pos_embed.W_pos",
    "transformer.ln_f.weight": "ln_final.w",
    "transformer.ln_f.bias": "ln_final.b",
    "ln_1.weight": "ln1.w",
    "ln_1.bias": "ln1.b",
    "ln_2.weight": "ln2.w",
    "ln_2.bias": "ln2.b",
    "attn.c_proj.bias": "attn.b_O",
    "mlp.c_fc.bias": "mlp.b_in",
    "mlp.c_proj.bias": "mlp.b_out",
}
"""NanoGPT's name of a tensor, in a layer without that layer's, and TransformerLens'."""

_TRANSPOSED = {"lm_head.weight": "unembed.W_U", "mlp.c_fc.weight": "mlp.W_in", "mlp.c_proj.weight": "mlp.W_out"}
"""The same of matrices that TransformerLens keeps as [in, out]."""


def native_tensor(name: str, hooked: Mapping[str, Float[Tensor, " ..."]]) -> Float[Tensor, " ..."]:
    """One tensor of `from_hooked_layout`, which may share memory with `hooked`.

    Args:
        name: nanoGPT's name of it.
        hooked: the tensors of a TransformerLens model.
    """
    inside = name.startswith("transformer.h.")
    layer, part = name.split(".", 3)[2:] if inside else ("", name)
    block = f"blocks.{layer}." if inside else ""
    if part in _SAME:
        return hooked[block + _SAME[part]]
    if part in _TRANSPOSED:
        return hooked[block + _TRANSPOSED[part]].T
    if part == "attn.c_proj.weight":
        return rearrange(hooked[f"{block}attn.W_O"], "head d_head d_model -> d_model (head d_head)")
    if part == "attn.c_attn.weight":
        qkv = [hooked[f"{block}attn.W_{one}"] for one in "QKV"]
        return torch.cat([rearrange(w, "head d_model d_head -> (head d_head) d_model") for w in qkv])
    if part == "attn.c_attn.bias":
        return torch.cat([rearrange(hooked[f"{block}attn.b_{one}"], "head d_head -> (head d_head)") for one in "QKV"])
    raise KeyError(name)


def _copied(tensor: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """A contiguous copy."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def to_bridge_layout(state: HookedState, cfg: Any) -> Iterator[tuple[str, Float[Tensor, " ..."]]]:
    """Each tensor under the name and in the shape that the bridge of TransformerLens 4 has for it; empties `state`."""
    from transformer_lens.utilities.tl_checkpoint_conversion import (  # pyright: ignore[reportMissingImports]
        convert_tl_checkpoint,
    )

    for name in list(state):
        yield from convert_tl_checkpoint({name: state.pop(name)}, cfg).items()


def from_bridge_layout(named: Mapping[str, Tensor], n_heads: int) -> HookedState:
    """The inverse of TransformerLens 4's `convert_tl_checkpoint`."""
    hooked: HookedState = {}
    for name, tensor in named.items():
        path, part, kind = name.rsplit(".", 2) if name.startswith("blocks.") else ("", *name.rsplit(".", 1))
        matrix = kind == "weight"
        if part in ("q", "k", "v"):
            pattern = "(head d_head) d_model -> head d_model d_head" if matrix else "(head d_head) -> head d_head"
            hooked[f"{path}.{'W' if matrix else 'b'}_{part.upper()}"] = rearrange(tensor, pattern, head=n_heads)
        elif part == "o" and matrix:
            hooked[f"{path}.W_O"] = rearrange(tensor, "d_model (head d_head) -> head d_head d_model", head=n_heads)
        elif part == "o":
            hooked[f"{path}.b_O"] = tensor
        elif part in ("in", "out"):
            hooked[f"{path}.{'W' if matrix else 'b'}_{part}"] = tensor.T if matrix else tensor
        elif part == "unembed":
            hooked["unembed.W_U" if matrix else "unembed.b_U"] = tensor.T if matrix else tensor
        elif part in ("embed", "pos_embed"):
            hooked["embed.W_E" if part == "embed" else "pos_embed.W_pos"] = tensor
        else:  # a LayerNorm
            hooked[f"{path}.{part}.{kind[0]}" if path else f"{part}.{kind[0]}"] = tensor
    return hooked
