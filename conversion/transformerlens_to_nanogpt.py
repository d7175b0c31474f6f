"""From a TransformerLens model, whose weights may have been edited, back to a nanoGPT checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.config import LAYER_NORM_EPS, NanoGPTConfig
from conversion.errors import ConversionError
from conversion.layout import HookedState, from_bridge_layout, from_hooked_layout
from conversion.optimizer_state import fresh_optimizer
from conversion.vocabulary import Vocabulary


def to_nanogpt(model: Any) -> Checkpoint:
    """Convert a HookedTransformer or a TransformerBridge into a nanoGPT checkpoint.

    Its weights may have been edited. If biases were added to a bias-free model, the checkpoint says
    `bias=True`; if the head no longer equals the embedding, the checkpoint is untied (this package reads
    such a checkpoint as it is; the original nanoGPT always ties).

    Args:
        model: a model that this package made without `process_weights`, or any with the same architecture.

    Returns:
        A checkpoint with copies of the weights, in the model's precision, and with the run's settings
        (nanoGPT's `sample.py` finds the vocabulary by them), but without its `best_val_loss`, and with an optimizer
        that has made no step, so that nanoGPT's `train.py --init_from=resume` can go on from it.

    Raises:
        ConversionError: the weights are processed, or nanoGPT does not have the architecture.
    """
    _check_architecture(model)
    hooked = hooked_layout_of(model)
    tied = torch.equal(hooked["unembed.W_U"].T, hooked["embed.W_E"])
    origin: Checkpoint | None = getattr(model, "nanogpt_origin", None)
    cfg = model.cfg
    biases = (t for name, t in hooked.items() if name.rpartition(".")[2].startswith("b") and name != "unembed.b_U")
    config = NanoGPTConfig(
        n_layer=cfg.n_layers,
        n_head=cfg.n_heads,
        n_embd=cfg.d_model,
        block_size=cfg.n_ctx,
        vocab_size=cfg.d_vocab,
        bias=(origin is not None and origin.config.bias) or any(bool(b.any()) for b in biases),
        dropout=origin.config.dropout if origin else 0.0,
        act_fn=cfg.act_fn,
        tied=tied,
    )
    state = {name: tensor.cpu() for name, tensor in from_hooked_layout(hooked, config).items()}
    if tied:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    notes = ("taken from a TransformerLens model",)
    if not tied:
        notes += ("lm_head.weight is not tied to the token embedding; the original nanoGPT would tie it",)
    vocabulary = getattr(getattr(model, "tokenizer", None), "encoder", None)
    run_config = origin.run_config if origin else {}
    return Checkpoint(
        config=config,
        state_dict=state,
        vocabulary=vocabulary if isinstance(vocabulary, Vocabulary) else None,
        iter_num=origin.iter_num if origin else None,
        run_config=run_config,
        optimizer=fresh_optimizer(config, run_config),
        notes=notes,
    )


def hooked_layout_of(
    model: Any, of: Callable[[Float[Tensor, " ..."]], Float[Tensor, " ..."]] = Tensor.detach
) -> HookedState:
    """The model's weights under TransformerLens' property names.

    Args:
        model: a HookedTransformer or a native TransformerBridge with its LayerNorm weights.
        of: the function that gives the tensor to return for each weight: its value, or its gradient.

    Returns:
        Tensors that may share memory with the model.
    """
    return in_hooked_layout(model, {name: of(weight) for name, weight in own_weights(model).items()})


def own_weights(model: Any) -> dict[str, Float[Tensor, " ..."]]:
    """The model's weights under the names and in the shapes that they have in it."""
    return dict(model.state_dict(keep_vars=True) if hasattr(model, "original_model") else model.named_parameters())


def in_hooked_layout(model: Any, own: HookedState) -> HookedState:
    """Some of the model's `own_weights`, or their gradients, under TransformerLens' property names."""
    return from_bridge_layout(own, model.cfg.n_heads) if hasattr(model, "original_model") else own


def _check_architecture(model: Any) -> None:
    """Raise ConversionError unless nanoGPT has the model's architecture."""
    if not hasattr(model, "cfg"):
        raise ConversionError(f"model is a {type(model).__name__}; expected a HookedTransformer or a TransformerBridge")
    cfg = model.cfg
    expected = {
        "normalization_type": ("LN",),
        "act_fn": ("gelu", "gelu_new"),
        "d_mlp": (4 * cfg.d_model,),
        "d_head": (cfg.d_model // cfg.n_heads,),
        "eps": (LAYER_NORM_EPS,),
        "positional_embedding_type": ("standard",),
        "attn_only": (False,),
        "gated_mlp": (False,),
        "d_vocab_out": (cfg.d_vocab,),
    }
    if cfg.normalization_type == "LNPre":
        raise ConversionError(
            "the model's weights are processed (LayerNorm folded in), which cannot be undone; "
            "load it with process_weights=False and edit that"
        )
    for name, allowed in expected.items():
        value = getattr(cfg, name)
        if value not in allowed:
            raise ConversionError(
                f"the model has {name}={value!r}, which nanoGPT cannot express; expected {allowed[0]!r}"
            )
    bias = hooked_layout_of(model)["unembed.b_U"]
    if bool(bias.any()):
        raise ConversionError("the model's unembedding has a bias b_U that is not zero, which nanoGPT cannot express")
