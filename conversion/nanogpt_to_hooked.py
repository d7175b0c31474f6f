"""From a checkpoint to a HookedTransformer, on TransformerLens 3.9.

The model is built without memory or random numbers (on the meta device), and the converted
tensors become its parameters: loading is strict, and memory holds the weights once.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from conversion.backends import importing, resolve_backend
from conversion.checkpoint import Checkpoint
from conversion.config import LAYER_NORM_EPS, NanoGPTConfig
from conversion.folding import fold
from conversion.generating import never_stop
from conversion.layout import HookedState, to_hooked_layout

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

Model = TypeVar("Model", bound="HookedTransformer")


def to_hooked_transformer(
    checkpoint: Checkpoint,
    *,
    process_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    model_class: type[Model] | None = None,
    consume: bool = False,
) -> HookedTransformer:
    """Convert a checkpoint into a HookedTransformer.

    Args:
        checkpoint: a checkpoint that `read_checkpoint` returned.
        process_weights: fold LayerNorms and centre (see `conversion.folding`); without it
            every hook equals the native activation.
        device: the device of the model.
        dtype: the precision of the model, whatever the checkpoint's is.
        model_class: a subclass of HookedTransformer, such as SAELens' HookedSAETransformer.
        consume: move the checkpoint's tensors into the model, which empties
            `checkpoint.state_dict` and saves a copy of the weights.

    Returns:
        The model in evaluation mode with its tokenizer.

    Raises:
        BackendError: TransformerLens 4 is installed.
    """
    resolve_backend("hooked")
    with importing():
        from transformer_lens import HookedTransformer, HookedTransformerConfig

    state = converted_state(checkpoint, process_weights=process_weights, device=device, dtype=dtype, consume=consume)
    config = HookedTransformerConfig(**hooked_config(checkpoint.config, process_weights, device, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with torch.device("meta"):
            model = (model_class or HookedTransformer)(config, tokenizer=checkpoint.tokenizer(), move_to_device=False)
    for name, buffer in model.named_buffers():
        state[name] = _filled_buffer(name, buffer, device)
    model.load_state_dict(state, strict=True, assign=True)
    cast(Any, model).nanogpt_origin = checkpoint.without_weights()
    tokenizer = cast(Any, model.tokenizer)
    if tokenizer.foreign_special is not None:
        never_stop(model)
    return model.eval()


def converted_state(
    checkpoint: Checkpoint,
    *,
    process_weights: bool,
    device: str | torch.device,
    dtype: torch.dtype,
    consume: bool = False,
) -> HookedState:
    """The checkpoint's tensors in TransformerLens' layout, folded if `process_weights`, on a device.

    Folding starts from the precision of the file and runs in float64; the result is
    rounded once, to `dtype`.
    """
    config = checkpoint.config
    state = to_hooked_layout(checkpoint.state_dict, config, consume=consume)
    if process_weights:
        state = fold(state, config.n_layer)
    for name in state:
        state[name] = state[name].to(device=device, dtype=dtype)
    return state


def hooked_config(
    config: NanoGPTConfig, process_weights: bool, device: str | torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """The arguments of TransformerLens' config, which are the same for 3.x and 4.x."""
    return {
        "n_layers": config.n_layer,
        "d_model": config.n_embd,
        "n_ctx": config.block_size,
        "n_heads": config.n_head,
        "d_head": config.d_head,
        "d_mlp": config.d_mlp,
        "d_vocab": config.vocab_size,
        "d_vocab_out": config.vocab_size,
        "act_fn": config.act_fn,
        "eps": LAYER_NORM_EPS,
        "dtype": dtype,
        "device": str(device),
        "normalization_type": "LNPre" if process_weights else "LN",
        "default_prepend_bos": False,
        "init_weights": False,
        "model_name": "nanogpt",
    }


def is_processed(model: Any) -> bool:
    """Whether a converted model was made with `process_weights=True`."""
    return model.cfg.normalization_type == "LNPre" or bool(model.cfg.layer_norm_folding)


def _filled_buffer(name: str, buffer: Shaped[Tensor, "*axes"], device: str | torch.device) -> Shaped[Tensor, "*axes"]:
    """The content of a buffer of TransformerLens' attention: the causal mask, or a scalar of minus infinity."""
    if name.endswith(".attn.mask"):
        return torch.ones(buffer.shape, dtype=torch.bool, device=device).tril()
    if name.endswith(".attn.IGNORE"):
        return torch.tensor(-torch.inf, dtype=buffer.dtype, device=device)
    raise AssertionError(f"this TransformerLens has a buffer {name} that the conversion does not know")
