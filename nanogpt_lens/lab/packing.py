"""The model's weights as the page's engine reads them: one run of bytes, and an index of what lies where.

Matrices are [out, in] with the inputs side by side, as nanoGPT has them, in float32; what the proof expects is float64.
The bytes are packed by gzip, the same bytes every time, and the browser unpacks them (DecompressionStream).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, n_tokens
from nanogpt_lens.model.identity import norm_part

_ALIGNED = 8
WARN_BYTES = 60_000_000
"""A page that is larger opens slowly, and no mail takes it."""
MOST_BYTES = 300_000_000
"""A page that is larger is not made: browsers do not open it."""


@dataclass(frozen=True)
class Packed:
    """Bytes of tensors.

    Attributes:
        bytes: the tensors, one after the other, packed by gzip.
        index: for each its name, shape, dtype ("float32" or "float64") and where it begins.
    """

    bytes: bytes
    index: tuple[dict[str, Any], ...]


def config_of(model: Hooked) -> dict[str, Any]:
    """The sizes that the engine needs.

    Raises:
        AnalysisError: the model is not built as nanoGPT is.
    """
    cfg = model.cfg
    if cfg.act_fn not in ("gelu", "gelu_new", "gelu_pytorch_tanh"):
        raise AnalysisError(f"the model's act_fn is {cfg.act_fn!r}; the lab computes nanoGPT's gelu and gelu_new alone")
    if cfg.normalization_type not in ("LN", "LNPre") or abs(cfg.eps - 1e-5) > 1e-12:
        raise AnalysisError(
            f"the model normalises by {cfg.normalization_type} with eps {cfg.eps}; the lab computes LayerNorm with eps "
            "1e-5, as nanoGPT has"
        )
    if cfg.d_head * cfg.n_heads != cfg.d_model or getattr(cfg, "attn_only", False):
        raise AnalysisError(
            "the model's heads do not fill the stream, or it has no MLPs; the lab computes nanoGPT alone"
        )
    return {
        **{name: int(getattr(cfg, name)) for name in ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx")},
        "d_vocab": int(cfg.d_vocab),
        "n_tokens": int(n_tokens(model)),
        "act_fn": "gelu" if cfg.act_fn == "gelu" else "gelu_new",
    }


def weights_of(model: Hooked) -> dict[str, Float[Tensor, " ..."]]:
    """The weights by the engine's names; biases that are zero and an unembedding that is the embedding are left out."""
    return {name: tensor for name, tensor in _weights(model) if _says_something(name, tensor, model)}


def _weights(model: Hooked) -> Iterator[tuple[str, Float[Tensor, " ..."]]]:
    yield "embed", model.W_E
    yield "pos", model.W_pos
    for layer, block in enumerate(model.blocks):
        read = [rearrange(getattr(model, f"W_{part}")[layer], "head d_model d -> (head d) d_model") for part in "QKV"]
        biases = [rearrange(getattr(model, f"b_{part}")[layer], "head d -> (head d)") for part in "QKV"]
        yield f"{layer}.attn_w", torch.cat(read)
        yield f"{layer}.attn_b", torch.cat(biases)
        yield f"{layer}.proj_w", rearrange(model.W_O[layer], "head d d_model -> d_model (head d)")
        yield f"{layer}.proj_b", model.b_O[layer]
        yield f"{layer}.in_w", model.W_in[layer].T
        yield f"{layer}.in_b", model.b_in[layer]
        yield f"{layer}.out_w", model.W_out[layer].T
        yield f"{layer}.out_b", model.b_out[layer]
        yield from _norm(model, block.ln1, f"{layer}.ln1")
        yield from _norm(model, block.ln2, f"{layer}.ln2")
    yield from _norm(model, model.ln_final, "lnf")
    yield "unembed", model.W_U.T
    yield "unembed_b", model.b_U


def _norm(model: Hooked, norm: Any, name: str) -> Iterator[tuple[str, Float[Tensor, " d_model"]]]:
    if model.cfg.normalization_type == "LNPre":
        return
    for part in ("weight", "bias"):
        tensor = norm_part(norm, part)
        if tensor is not None:
            yield f"{name}_{part[0]}", tensor


def _says_something(name: str, tensor: Float[Tensor, " ..."], model: Hooked) -> bool:
    if name == "unembed":
        return not torch.equal(tensor, model.W_E)
    return not name.endswith("_b") or bool(tensor.any())


def pack(tensors: Mapping[str, Shaped[Tensor, " ..."]]) -> Packed:
    """Tensors as bytes: what the proof expects ("proof...") is float64, everything else float32."""
    pieces: list[bytes] = []
    index: list[dict[str, Any]] = []
    offset = 0
    for name, tensor in tensors.items():
        kind = "float64" if name.startswith("proof") else "float32"
        content = tensor.detach().cpu().contiguous().numpy().astype(np.dtype(kind).newbyteorder("<")).tobytes()
        index.append({"name": name, "shape": list(tensor.shape), "dtype": kind, "offset": offset})
        padded = content + bytes(-len(content) % _ALIGNED)
        pieces.append(padded)
        offset += len(padded)
    return Packed(gzip.compress(b"".join(pieces), 6, mtime=0), tuple(index))
