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
from conversion.contents import Contents
from conversion.errors import CheckpointError
from conversion.exported_layouts import from_gpt2
from conversion.hints import is_transposed, why_not
from conversion.model_args import Statement, completed
from conversion.names import nanogpt_names

_MASK = re.compile(r"transformer\.h\.\d+\.attn\.(bias|mask)")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_SMALL = 2**20
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
    state, stripped = nanogpt_names(raw)
    notes = list(stripped)
    _check_size(state)
    state = _without_masks(state, model_args.get("block_size"), notes)
    has_bias = any(key.endswith(".bias") for key in state)
    if model_args.get("bias") is None:
        model_args = {**model_args, "bias": has_bias}
        notes.append(f"nothing states bias; the tensors have {'biases' if has_bias else 'none'}")
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


def nanogpt_tensors(raw: Mapping[Any, Any], statement: Statement | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A file's tensors under nanoGPT's names, turned if they are Hugging Face's, and notes on what was done.

    Raises:
        CheckpointError: a value is no tensor or has no name, two tensors have one name, or there are two models.
    """
    state, notes = nanogpt_names(raw)
    if statement is not None and statement.transposed and is_transposed(state):
        return from_gpt2(state), (*notes, "turned the linear maps of a Hugging Face GPT-2")
    return state, notes


def stated_arguments(contents: Contents, state: Mapping[str, Tensor], n_head: int | None) -> dict[str, Any]:
    """The `model_args` that a file states, with the sizes that shapes show, and the caller's `n_head`.

    Raises:
        CheckpointError: nothing states `n_head`, or the caller's is another one.
    """
    statement = contents.statement
    if statement is None and n_head is None:
        raise CheckpointError(
            f"{contents.refusal}, and no shape shows how many heads the model has: give n_head=... (--n-head), or save "
            "{'model': state_dict, 'model_args': {...}}" + why_not(state)
        )
    stated = dict(statement.arguments) if statement else {}
    if n_head is not None and stated.setdefault("n_head", n_head) != n_head:
        raise CheckpointError(
            f"n_head={n_head} was given, and {statement.place if statement else ''} has "
            f"n_head {stated['n_head']!r}; leave n_head away, or correct the file"
        )
    if statement is not None and statement.place == "model_args":
        return stated
    return completed(stated, state)


def _check_size(state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if tensors share so much memory that copies of them would need far more than the file."""
    storages: dict[int, int] = {}
    for tensor in state.values():
        if tensor.layout == torch.strided and tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    total, stored = sum(tensor.numel() * tensor.itemsize for tensor in state.values()), sum(storages.values())
    if total > 2 * stored + _SMALL and all(tensor.device.type != "meta" for tensor in state.values()):
        raise CheckpointError(
            f"the tensors have {total:,} bytes, of which {stored:,} are stored, so they are each other's copies; "
            "expected a model of its own weights"
        )


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
            "the file's model_args do not belong to its tensors" + why_not(state)
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
        raise CheckpointError("the tensors do not fit model_args: " + "; ".join(problems) + why_not(state))


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
