"""Tensors in the layouts of TransformerLens and of Hugging Face's GPT-2, brought back to nanoGPT's.

These are the folders that this package exports, and GPT-2 models of others in the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from conversion.config import LAYER_NORM_EPS, NanoGPTConfig
from conversion.errors import CheckpointError
from conversion.layout import from_bridge_layout, from_hooked_layout
from conversion.model_args import Statement, statement_of

CONV1D = (".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight")
"""How the names end of the matrices that Hugging Face's GPT-2 stores as [in, out]."""

_BUFFERS = (".attn.mask", ".attn.IGNORE", ".masked_bias", "_mask", ".causal_mask")
_HOOKED_SIZES = {
    "n_layer": "n_layers",
    "n_head": "n_heads",
    "n_embd": "d_model",
    "block_size": "n_ctx",
    "vocab_size": "d_vocab",
}


def is_hooked(names: Mapping[str, Any]) -> bool:
    """Whether these are the tensors of a HookedTransformer or a TransformerBridge."""
    return "embed.W_E" in names or ("embed.weight" in names and "blocks.0.attn.q.weight" in names)


def hooked_statement(config: Mapping[str, Any], place: str) -> Statement:
    """The statement of a TransformerLens config.

    Raises:
        CheckpointError: the weights are processed, or the config is of another architecture.
    """
    if config.get("normalization_type") == "LNPre":
        raise CheckpointError(
            f"{place} is of processed weights (LayerNorm folded in), which cannot be undone; export the model without "
            "--process"
        )
    sizes = {name: config.get(theirs) for name, theirs in _HOOKED_SIZES.items()}
    missing = [theirs for name, theirs in _HOOKED_SIZES.items() if type(sizes[name]) is not int]
    if missing:
        raise CheckpointError(f"{place} has no {', '.join(missing)}; expected a config of TransformerLens")
    expected = {
        "normalization_type": ("LN",),
        "d_mlp": (None, 4 * config["d_model"]),
        "d_head": (None, config["d_model"] // max(1, config["n_heads"])),
        "eps": (LAYER_NORM_EPS,),
        "positional_embedding_type": ("standard",),
        "attn_only": (False,),
        "gated_mlp": (False,),
        "d_vocab_out": (None, config["d_vocab"]),
    }
    for name, allowed in expected.items():
        if config.get(name, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{place} has {name}={config[name]!r}, which nanoGPT cannot express; expected {allowed[-1]!r}"
            )
    stated = statement_of({**sizes, "act_fn": config.get("act_fn", "gelu")}, place)
    assert stated is not None  # it has an n_head
    return stated


def from_hooked(tensors: Mapping[str, Tensor], statement: Statement) -> dict[str, Tensor]:
    """TransformerLens' tensors in nanoGPT's layout; biases that are all zero are left out.

    Raises:
        CheckpointError: tensors are missing, there are others, or the unembedding has a bias that is not zero.
    """
    config = NanoGPTConfig(**statement.arguments, bias=True)
    if config.n_layer > len(tensors):
        raise CheckpointError(f"{statement.place} has n_layers {config.n_layer}, for {len(tensors)} tensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}
    try:
        named = kept if "embed.W_E" in kept else from_bridge_layout(kept, config.n_head)
        heads = {tensor.shape[0] for name, tensor in named.items() if name.endswith(("W_Q", "W_K", "W_V", "W_O"))}
        if heads != {config.n_head}:
            raise CheckpointError(
                f"the tensors have {sorted(heads)} heads, and {statement.place} states {config.n_head}"
            )
        if bool(named["unembed.b_U"].any()):
            raise CheckpointError("the unembedding has a bias b_U that is not zero, which nanoGPT cannot express")
        state = from_hooked_layout(named, config)
    except CheckpointError:
        raise
    except Exception as error:  # names and shapes that do not fit
        reason = str(error).strip().splitlines()[0][:80] if str(error).strip() else ""
        raise CheckpointError(
            f"the tensors are not those of a nanoGPT in TransformerLens ({type(error).__name__}: {reason})"
        ) from None
    if len(named) != 12 * config.n_layer + 4 * config.n_layer + 6:
        raise CheckpointError(f"{len(named)} tensors for {config.n_layer} layers of a nanoGPT in TransformerLens")
    return without_zero_biases(state)


def from_gpt2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's tensors under nanoGPT's names in nanoGPT's layout; biases that are all zero are left out."""
    turned = {
        name: tensor.T if name.endswith(CONV1D) and tensor.dim() == 2 else tensor
        for name, tensor in state.items()
        if not name.endswith(".masked_bias")
    }
    return without_zero_biases(turned)


def without_zero_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the biases, if every one of them is zero, as in an exported model without biases."""
    biases = {name for name, tensor in state.items() if name.endswith(".bias") and tensor.dim() == 1}
    if any(bool(state[name].any()) for name in biases):
        return dict(state)
    return {name: tensor for name, tensor in state.items() if name not in biases}
