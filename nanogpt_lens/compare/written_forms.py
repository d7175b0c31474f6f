"""A model's weights in forms that do not hang on how they are written down.

LayerNorm weights and biases go into the matrices that read behind them, and what reads or writes is centred over the
residual stream's dimensions, because every LayerNorm centres. A head is then two matrices, whatever the basis inside
it: what it compares, [W_Q; b_Q] W_K^T, without the terms that are the same for all keys, which no softmax sees (b_K is
in no other); and what it moves, [W_V; b_V] W_O. An MLP is a set of neurons, each with what it reads, its bias and what
it writes. All in float64, and products as their two factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.model.access import Hooked
from nanogpt_lens.model.identity import affine
from nanogpt_lens.model.weights import centred


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """A matrix as the product of two factors; for several heads several of them.

    Attributes:
        left, right: the factors.
    """

    left: Float[Tensor, "*head row d_head"]
    right: Float[Tensor, "*head d_head column"]

    def at(self, head: int) -> Product:
        """One head's."""
        return Product(left=self.left[head], right=self.right[head])

    @property
    def norm(self) -> Float[Tensor, "*head"]:
        """The Frobenius norm of the product."""
        grams = self.left.mT @ self.left * (self.right @ self.right.mT)
        return grams.sum((-1, -2)).clamp_min(0.0).sqrt()

    @property
    def size(self) -> Float[Tensor, "*head"]:
        """The product of the factors' norms, by which rounding is measured."""
        return self.left.flatten(-2).norm(dim=-1) * self.right.flatten(-2).norm(dim=-1)

    def minus(self, other: Product) -> Product:
        """The difference, whose inner dimension is that of both together."""
        left = torch.cat([self.left, -other.left], -1)
        return Product(left=left, right=torch.cat([self.right, other.right], -2))

    def singular_values(self) -> Float[Tensor, " rank"]:
        """The singular values, from those of a matrix as small as the inner dimension; without heads."""
        if self.left.shape[1] >= min(self.left.shape[0], self.right.shape[1]):
            return torch.linalg.svdvals(self.left @ self.right)
        upper, lower = torch.linalg.qr(self.left).R, torch.linalg.qr(self.right.mT).R
        return torch.linalg.svdvals(upper @ lower.mT)


def cosines(one: Product, two: Product) -> Float[Tensor, "head other"]:
    """The cosine of every head's product with every head's of the other; 0 for products that are zero."""
    inner = torch.einsum("hik,gil->hgkl", one.left, two.left) * torch.einsum("hkj,glj->hgkl", one.right, two.right)
    return (inner.sum((-1, -2)) / (one.norm[:, None] * two.norm)).nan_to_num(0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerForms:
    """One layer in such forms.

    Attributes:
        qk, ov: of every head.
        constant: what the attention adds everywhere: its bias, and each head's b_V W_O.
        bias: the attention's bias alone.
        neurons_in: what each neuron reads, and its bias.
        neurons_out: what each neuron writes.
        mlp_bias: what the MLP adds everywhere.
    """

    qk: Product
    ov: Product
    constant: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    neurons_in: Float[Tensor, "neuron input"]
    neurons_out: Float[Tensor, "neuron d_model"]
    mlp_bias: Float[Tensor, " d_model"]


def layer_forms(model: Hooked, layer: int) -> LayerForms:
    """The forms of one layer of a model."""
    block = model.blocks[layer]
    weight, shift = (part.detach().double() for part in affine(block.ln1, model))

    def reading(part: str) -> tuple[Tensor, Tensor]:
        matrix = getattr(block.attn, f"W_{part}").detach().double()
        bias = getattr(block.attn, f"b_{part}").detach().double()
        return centred(matrix * weight[:, None], -2), torch.einsum("d,hdk->hk", shift, matrix) + bias

    (q, b_q), (k, _), (v, b_v) = (reading(part) for part in "QKV")
    w_o = centred(block.attn.W_O.detach().double(), -1)
    bias = centred(block.attn.b_O.detach().double(), -1)
    weight_2, shift_2 = (part.detach().double() for part in affine(block.ln2, model))
    w_in = block.mlp.W_in.detach().double()
    b_in = shift_2 @ w_in + block.mlp.b_in.detach().double()
    return LayerForms(
        qk=Product(left=torch.cat([q, b_q[:, None]], 1), right=k.mT),
        ov=Product(left=torch.cat([v, b_v[:, None]], 1), right=w_o),
        constant=bias + torch.einsum("hk,hkd->d", b_v, w_o),
        bias=bias,
        neurons_in=torch.cat([centred(w_in * weight_2[:, None], 0), b_in[None]]).mT,
        neurons_out=centred(block.mlp.W_out.detach().double(), -1),
        mlp_bias=centred(block.mlp.b_out.detach().double(), -1),
    )


def embedding_rows(model: Hooked) -> Float[Tensor, "token d_model"]:
    """What each token writes."""
    return centred(model.W_E.detach().double(), -1)


def position_rows(model: Hooked) -> Float[Tensor, "pos d_model"]:
    """What each position writes."""
    return centred(model.W_pos.detach().double(), -1)


def unembedding_rows(model: Hooked) -> Float[Tensor, "token input"]:
    """What each token's logit reads, and its bias."""
    weight, shift = (part.detach().double() for part in affine(model.ln_final, model))
    matrix, bias = model.W_U.detach().double(), model.b_U.detach().double()
    return torch.cat([centred(matrix * weight[:, None], 0), (shift @ matrix + bias)[None]]).mT
