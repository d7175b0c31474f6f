"""Folding of LayerNorms into the weights that read their output, and centring of all weights that a LayerNorm centres.

The model then computes the same log-probabilities with parameter-free LayerNorms, as direct
logit attribution and weight analysis need it (TransformerLens, "Further comments"). TransformerLens'
own folding runs in float32 and is silently wrong if `d_vocab == d_model`; here every step runs in
float64, tensor by tensor.

Folding preserves log-probabilities, queries, keys, scores, patterns and MLP activations. It changes
the logits' mean, the residual stream's mean, and values (their bias moves to `b_O`).
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from conversion.layout import HookedState


def fold(state: HookedState, n_layers: int) -> HookedState:
    """Fold LayerNorms and value biases; centre the weights that write, and the unembedding.

    Args:
        state: tensors in TransformerLens' layout, which do not change.
        n_layers: the number of blocks.

    Returns:
        Tensors in float64 without `ln*.w` and `ln*.b`, for `normalization_type="LNPre"`.
    """
    folded: HookedState = {}
    for name in ("embed.W_E", "pos_embed.W_pos"):
        folded[name] = centred(state[name].double(), -1)
    for layer in range(n_layers):
        _fold_attention(state, folded, f"blocks.{layer}")
        _fold_mlp(state, folded, f"blocks.{layer}")
    weight, bias = state["ln_final.w"].double(), state["ln_final.b"].double()
    w_u = state["unembed.W_U"].double()
    b_u = state["unembed.b_U"].double() + bias @ w_u
    # the first centring removes what LayerNorm removes, the second what changes no softmax
    folded["unembed.W_U"] = centre(w_u * weight[:, None], 0, 1)
    folded["unembed.b_U"] = b_u - b_u.mean()
    return folded


def _fold_attention(state: HookedState, folded: HookedState, block: str) -> None:
    """Put a block's attention weights, with ln1 and the value biases folded in, into `folded`."""
    weight, bias = state[f"{block}.ln1.w"].double(), state[f"{block}.ln1.b"].double()
    for name in "QKV":
        matrix = state[f"{block}.attn.W_{name}"].double()
        moved = einsum(bias, matrix, "d_model, head d_model d_head -> head d_head")
        folded[f"{block}.attn.b_{name}"] = state[f"{block}.attn.b_{name}"].double() + moved
        folded[f"{block}.attn.W_{name}"] = centred(matrix * weight[None, :, None], 1)
    b_v, w_o = folded[f"{block}.attn.b_V"], state[f"{block}.attn.W_O"].double()
    # a pattern's row sums to one, so a value bias reaches the output unchanged
    b_o = state[f"{block}.attn.b_O"].double() + einsum(b_v, w_o, "head d_head, head d_head d_model -> d_model")
    folded[f"{block}.attn.b_V"] = torch.zeros_like(b_v)
    folded[f"{block}.attn.W_O"], folded[f"{block}.attn.b_O"] = centred(w_o, -1), centred(b_o, -1)


def _fold_mlp(state: HookedState, folded: HookedState, block: str) -> None:
    """Put a block's MLP weights, with ln2 folded in, into `folded`."""
    weight, bias = state[f"{block}.ln2.w"].double(), state[f"{block}.ln2.b"].double()
    w_in = state[f"{block}.mlp.W_in"].double()
    folded[f"{block}.mlp.b_in"] = state[f"{block}.mlp.b_in"].double() + bias @ w_in
    folded[f"{block}.mlp.W_in"] = centred(w_in * weight[:, None], 0)
    for name in ("W_out", "b_out"):
        folded[f"{block}.mlp.{name}"] = centred(state[f"{block}.mlp.{name}"].double(), -1)


def centred(tensor: Float[Tensor, "*axes"], dim: int) -> Float[Tensor, "*axes"]:
    """A tensor minus its mean over a dimension."""
    return tensor - tensor.mean(dim, keepdim=True)


def centre(tensor: Float[Tensor, "*axes"], *dims: int) -> Float[Tensor, "*axes"]:
    """A tensor minus its mean over one dimension after the other, subtracted in place: copies of it are costly."""
    for dim in dims:
        tensor -= tensor.mean(dim, keepdim=True)
    return tensor
