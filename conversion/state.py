"""From the names under which a training run saved its tensors to nanoGPT's own state dict.

`torch.compile` and `DataParallel` wrap a model and prefix every name; nanoGPT before
fused attention saved its causal masks; some tools drop the tied head. Every key is
used exactly once; one error lists all keys that are unexpected, missing or misshapen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from conversion.config import ActFn, NanoGPTConfig
from conversion.errors import CheckpointError

_WRAPPERS = {"_orig_mod", "module"}
_MASK = re.compile(r"transformer\.h\.\d+\.attn\.(bias|mask)")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_EMBEDDING, _HEAD = "transformer.wte.weight", "lm_head.weight"


def canonical_state(
    raw: Mapping[str, Any],
    model_args: Mapping[str, Any],
    *,
    act_fn: ActFn = "gelu",
    ignore: Iterable[str] = (),
) -> tuple[NanoGPTConfig, dict[str, Float[Tensor, " ..."]], tuple[str, ...]]:
    """Check a checkpoint's tensors against its `model_args`, and copy them under nanoGPT's names.

    Returns:
        The config, the state dict with the copies, and notes on what had to be done.

    Raises:
        CheckpointError: the first of these problems: values that are no tensors, colliding names,
            masks that are not causal, a `bias` that contradicts the tensors, missing, unexpected or
            misshapen keys (all in one message), weights that are not finite floats.
    """
    notes: list[str] = []
    state = _unwrapped(raw, notes)
    state = _without_masks(state, model_args.get("block_size"), notes)
    has_bias = any(key.endswith(".bias") for key in state)
    if model_args.get("bias") is None:
        model_args = {**model_args, "bias": has_bias}
        notes.append(f"model_args has no bias; the tensors have {'biases' if has_bias else 'none'}")
    if _HEAD not in state and _EMBEDDING in state:
        state[_HEAD] = state[_EMBEDDING]
        notes.append("restored the tied lm_head.weight")
    config = NanoGPTConfig.from_model_args(model_args, act_fn=act_fn, ignore=ignore)
    ignored = sorted(set(ignore) & set(model_args))
    if ignored:
        notes.append("ignored model_args " + ", ".join(f"{name}={model_args[name]!r:.40}" for name in ignored))
    _check_keys(state, config, has_bias)
    _check_values(state)
    tied = _is_tied(state)
    if not tied:
        notes.append("lm_head.weight is not tied to the token embedding")
        config = NanoGPTConfig.from_model_args(model_args, act_fn=act_fn, ignore=ignore, tied=False)
    copies = {key: state[key].detach().clone() for key in config.shapes() if not (tied and key == _HEAD)}
    if tied:
        copies[_HEAD] = copies[_EMBEDDING]
    return config, copies, tuple(notes)


def looks_like(names: Iterable[Any]) -> str:
    """A hint at what a state dict with these names is; empty if nothing is known about them."""
    keys = [str(name) for name in names]

    def some(*parts: str) -> bool:
        return any(part in key for part in parts for key in keys)

    if some("self_attn.q_proj", "model.layers."):
        return "this looks like a Llama-style model (rotary, RMSNorm), which is another architecture"
    if some("hook_", ".W_Q", "embed.W_E"):
        return "this looks like a TransformerLens state dict; it is converted already"
    if some("attn.c_q", "attn.qkv_w", "lambdas", "value_embeds", "rotary", "inv_freq", "cos_cached"):
        return "this looks like modded-nanoGPT or nanochat (rotary, RMSNorm), which is another architecture"
    if some("attn.c_attn.weight") and not some("transformer.h.") and some("h.0."):
        return "this looks like a Hugging Face GPT-2; bring it in with conversion.from_huggingface"
    if some("attn.c_attn.weight"):
        return (
            "these are the names of nanoGPT or a Hugging Face GPT-2, but a bare state dict does not say n_head; "
            "save {'model': state_dict, 'model_args': {...}}, or use conversion.from_huggingface for a GPT-2"
        )
    return ""


def _unwrapped(raw: Mapping[str, Any], notes: list[str]) -> dict[str, Shaped[Tensor, " ..."]]:
    """The tensors under names without the prefixes of wrappers."""
    state: dict[str, Shaped[Tensor, " ..."]] = {}
    stripped: set[str] = set()
    for key, value in raw.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"model[{key!r}] is a {type(value).__name__}; expected a tensor under a name")
        parts = key.split(".")
        name = ".".join(part for part in parts if part not in _WRAPPERS)
        stripped.update(part for part in parts if part in _WRAPPERS)
        if name in state:
            raise CheckpointError(f"model has {name!r} twice, with different prefixes; expected every tensor once")
        state[name] = value
    if stripped:
        notes.append("stripped " + " and ".join(f"{part}." for part in sorted(stripped)))
    return state


def _without_masks(
    state: dict[str, Shaped[Tensor, " ..."]], block_size: Any, notes: list[str]
) -> dict[str, Shaped[Tensor, " ..."]]:
    """The tensors without the buffers of old causal masks; CheckpointError if a mask is not causal."""
    masks = [key for key in state if _MASK.fullmatch(key)]
    for key in masks:
        mask = state[key]
        size = mask.shape[-1] if mask.dim() else 0
        square = mask.dim() >= 2 and mask.numel() == size * size and mask.shape[-2] == size == block_size
        plain = mask.layout == torch.strided and mask.device.type == "cpu"
        if (
            not square
            or not plain
            or not torch.equal(mask.reshape(size, size) != 0, torch.ones(size, size).tril() != 0)
        ):
            raise CheckpointError(
                f"model[{key!r}] of shape {list(mask.shape)} is not a causal mask of "
                f"block_size {block_size}; a model with another attention pattern is not nanoGPT's"
            )
    if masks:
        notes.append(f"dropped {len(masks)} causal mask buffers")
    return {key: value for key, value in state.items() if key not in masks}


def _check_keys(state: Mapping[str, Shaped[Tensor, " ..."]], config: NanoGPTConfig, has_bias: bool) -> None:
    """Raise CheckpointError unless the tensors have exactly the names and shapes of the architecture."""
    if config.n_layer > len(state):  # before a table of a million layers is made
        raise CheckpointError(f"model_args['n_layer'] is {config.n_layer}, but the model has only {len(state)} tensors")
    expected = config.shapes()
    weights = {key for key in expected if not key.endswith(".bias")}
    if config.bias != has_bias and weights == {key for key in state if not key.endswith(".bias")}:
        raise CheckpointError(
            f"model_args['bias'] is {config.bias}, but the model has {'biases' if has_bias else 'no biases'}; "
            "the file's model_args do not belong to its tensors" + _hint(state)
        )
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} is {list(state[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems = [
        f"{title} ({len(names)}): {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError("the tensors do not fit model_args: " + "; ".join(problems) + _hint(state))


def _hint(state: Mapping[str, Shaped[Tensor, " ..."]]) -> str:
    """The end of a message about tensors that do not fit: what they may be instead."""
    weight = state.get("transformer.h.0.attn.c_attn.weight")
    if weight is not None and weight.dim() == 2 and weight.shape[1] == 3 * weight.shape[0]:
        return "; c_attn.weight is transposed, as in a Hugging Face GPT-2: bring it in with conversion.from_huggingface"
    if "transformer.wpe.weight" not in state:
        return "; without transformer.wpe.weight this is another architecture (rotary or no positions), not nanoGPT"
    hint = "" if weight is not None else looks_like(state)
    return f"; {hint}" if hint else ""


def _check_values(state: Mapping[str, Shaped[Tensor, " ..."]]) -> None:
    """Raise CheckpointError unless all tensors are plain and hold finite floats."""
    for key, tensor in state.items():
        strided = tensor.layout == torch.strided and tensor.device.type != "meta"
        if tensor.dtype not in _DTYPES or not strided or tensor.is_quantized:
            kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout).removeprefix("torch.")
            raise CheckpointError(
                f"model[{key!r}] is {kind} on {tensor.device}; expected float32, float64, float16 or bfloat16 weights"
            )
        low, high = torch.aminmax(tensor.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"model[{key!r}] has {bad} of {tensor.numel()} values that are NaN or infinite; "
                "the training run diverged, or the file is damaged: use an earlier checkpoint"
            )


def _is_tied(state: Mapping[str, Shaped[Tensor, " ..."]]) -> bool:
    """Whether the head equals the token embedding."""
    embedding, head = state[_EMBEDDING], state[_HEAD]
    same = embedding.data_ptr() == head.data_ptr() and embedding.stride() == head.stride()
    return same or (embedding.dtype == head.dtype and torch.equal(embedding, head))
