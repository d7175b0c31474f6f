"""Each head's weights as they read and write directions of the residual stream, LayerNorm folded in.

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
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, n_tokens
from nanogpt_lens.model.identity import norm_part


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadWeights:
    """Matrices of every head, in float64.

    Attributes:
        q, k, v: what they read, of shape [layer, head, d_model, d_head].
        o: what they write, of shape [layer, head, d_head, d_model].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor


def head_weights(model: Hooked) -> HeadWeights:
    """The heads' matrices, LayerNorm weights folded in and centred.

    Raises:
        AnalysisError: the model does not normalise with LayerNorm.
    """
    gains = torch.stack([norm_weight(model, block.ln1) for block in model.blocks])[:, None, :, None]
    q, k, v = (centred(getattr(model, f"W_{name}").detach().double() * gains, -2) for name in "QKV")
    return HeadWeights(q=q, k=k, v=v, o=centred(model.W_O.detach().double(), -1))


def embedding(model: Hooked) -> Tensor:
    """The token embedding [token, d_model] of the tokens that exist, centred, in float64."""
    return centred(model.W_E.detach()[: n_tokens(model)].double(), -1)


def unembedding(model: Hooked) -> Tensor:
    """The unembedding [d_model, token] of the tokens that exist, ln_final folded in, in float64.

    Its logits have mean zero over these tokens, which no softmax sees.

    Raises:
        AnalysisError: the model does not normalise with LayerNorm.
    """
    folded = model.W_U.detach()[:, : n_tokens(model)].double() * norm_weight(model, model.ln_final)[:, None]
    return centred(centred(folded, 0), 1)


def rounding(model: Hooked) -> float:
    """Below this part of the product of its factors' norms, a product of weights counts as zero."""
    return 16 * min(torch.finfo(model.cfg.dtype).eps, torch.finfo(torch.float32).eps)


def norm_weight(model: Hooked, norm: Any) -> Tensor:
    """The LayerNorm's weight [d_model]; ones where it is folded already."""
    if model.cfg.normalization_type == "LNPre":
        return torch.ones(model.cfg.d_model, dtype=torch.float64, device=model.W_E.device)
    weight = norm_part(norm, "weight")
    if model.cfg.normalization_type != "LN" or weight is None:
        raise AnalysisError(
            f"the model's normalization_type is {model.cfg.normalization_type!r}; expected LN or LNPre, as nanoGPT has"
        )
    return weight.detach().double()


def centred(tensor: Tensor, dim: int) -> Tensor:
    """Minus its mean over a dimension."""
    return tensor - tensor.mean(dim, keepdim=True)
