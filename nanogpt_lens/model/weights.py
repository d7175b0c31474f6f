"""The directions of the residual stream that each head's weights read and write, with LayerNorm folded in.

LayerNorm centres the stream, scales it and multiplies it by its weight. Centring and weight are
linear and go into the matrices that read (of ln1 into W_Q, W_K, W_V; of ln_final into W_U); what
writes is centred, because every reader would centre it. The scale, a positive number for each
position, and all biases, which are the same whatever the token, are left out. A model with
`process_weights=True` holds these matrices already, so that both give the same numbers.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (without
LayerNorm); the folding is TransformerLens', see `conversion.folding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conversion.folding import centre, centred
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, n_tokens
from nanogpt_lens.model.identity import norm_part


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadWeights:
    """The matrices of every head, in float64.

    Attributes:
        q, k, v: the matrices that read from the residual stream.
        o: the matrices that write to it.
    """

    q: Float[Tensor, "layer head d_model d_head"]
    k: Float[Tensor, "layer head d_model d_head"]
    v: Float[Tensor, "layer head d_model d_head"]
    o: Float[Tensor, "layer head d_head d_model"]


def head_weights(model: Hooked) -> HeadWeights:
    """The heads' matrices, centred and with LayerNorm weights folded in.

    Raises:
        AnalysisError: the model does not normalise with LayerNorm.
    """
    gains = torch.stack([norm_weight(model, block.ln1) for block in model.blocks])[:, None, :, None]
    q, k, v = (centred(getattr(model, f"W_{name}").detach().double() * gains, -2) for name in "QKV")
    return HeadWeights(q=q, k=k, v=v, o=centred(model.W_O.detach().double(), -1))


def embedding(model: Hooked) -> Float[Tensor, "token d_model"]:
    """The embedding of the vocabulary's tokens, centred, in float64."""
    return centred(model.W_E.detach()[: n_tokens(model)].double(), -1)


def unembedding(model: Hooked) -> Float[Tensor, "d_model token"]:
    """The unembedding of the vocabulary's tokens, with ln_final folded in, in float64.

    The logits that it gives have mean zero over these tokens, which changes no softmax.

    Raises:
        AnalysisError: the model does not normalise with LayerNorm.
    """
    folded = model.W_U.detach()[:, : n_tokens(model)].double() * norm_weight(model, model.ln_final)[:, None]
    return centre(folded, 0, 1)


def rounding(model: Hooked) -> float:
    """The part of the product of its factors' norms below which a product of weights counts as zero."""
    return 16 * min(torch.finfo(model.cfg.dtype).eps, torch.finfo(torch.float32).eps)


def norm_weight(model: Hooked, norm: Any) -> Float[Tensor, " d_model"]:
    """The LayerNorm's weight in float64; ones if it is folded already."""
    if model.cfg.normalization_type == "LNPre":
        return torch.ones(model.cfg.d_model, dtype=torch.float64, device=model.W_E.device)
    weight = norm_part(norm, "weight")
    if model.cfg.normalization_type != "LN" or weight is None:
        raise AnalysisError(
            f"the model's normalization_type is {model.cfg.normalization_type!r}; expected LN or LNPre, as nanoGPT has"
        )
    return weight.detach().double()
