"""A model as nanoGPT computes it: the same logits in less time, where nothing is read or replaced inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conversion.errors import ConversionError
from conversion.native import GPT, NO_EDITS, hook_names
from conversion.stepping import Stepper
from conversion.transformerlens_to_nanogpt import to_nanogpt
from nanogpt_lens.model.access import Edit, Hooked, device_of, has_hooks, n_tokens, record, run
from nanogpt_lens.model.sampling import TEMPERATURE, TOP_K, continued, generate

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
"""The largest difference from the model itself that is allowed, relative to the largest number of the same kind."""

_KNOWN = ("transformer_lens", "torch", "conversion", "nanogpt_lens")
"""Packages whose classes a model is made of, if nobody has replaced a part of it."""


def plain_model(model: Hooked, names: Sequence[str] = (), *, length: int | None = None) -> GPT | None:
    """NanoGPT's own architecture with the model's present weights, after it was compared with the model.

    The two are compared on random tokens: their logits, and their activations at `names`.

    Args:
        model: the model.
        names: hook points whose activations must agree too.
        length: the longest sequence that it will be asked about, of which as many random tokens are compared; None for
            the context.

    Returns:
        None where it is another one: processed weights, hooks or code that somebody attached, half precision, no
        nanoGPT.
    """
    if model.cfg.dtype not in TOLERANCE or has_hooks(model) or not _is_as_made(model):
        return None
    if not set(names) <= set(hook_names(int(model.cfg.n_layers))):
        return None
    try:
        native = GPT.from_checkpoint(to_nanogpt(model), copy=False).to(device_of(model))
    except (ConversionError, AttributeError):
        return None
    generator = torch.Generator().manual_seed(0)
    length = int(model.cfg.n_ctx) if length is None else min(length, int(model.cfg.n_ctx))
    tokens = torch.randint(n_tokens(model), (1, length), generator=generator).to(device_of(model))
    with torch.inference_mode(False), torch.no_grad():
        expected, got = record(model, tokens, names), dict[str, Tensor]()
        got["logits"] = native(tokens, edits={name: _keeper(got, name) for name in names})
    return native if all(_close(got[name], expected[name]) for name in expected) else None


def _keeper(kept: dict[str, Float[Tensor, "example ..."]], name: str) -> Edit:
    return lambda value: kept.update({name: value.detach().clone()})


def _close(one: Float[Tensor, "example ..."], other: Float[Tensor, "example ..."]) -> bool:
    """Whether two activations are the same but for rounding."""
    if one.shape != other.shape:
        return False
    return float((one - other).abs().max()) <= TOLERANCE[other.dtype] * float(other.abs().max())


def _is_as_made(model: Hooked) -> bool:
    """Whether all code of a model is TransformerLens', torch's and ours.

    It is not if a module has a class of somebody else, an attribute in place of a method, such as its `forward`, or a
    torch hook.
    """
    return all(
        _is_known(type(module))
        and all(_is_known(value) for name, value in vars(module).items() if hasattr(type(module), name))
        and all(_is_known(hook) for kind in _HOOKS for hook in getattr(module, kind).values())
        for module in model.modules()
    )


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_known(code: Any) -> bool:
    """Whether something cannot be called, or is code of `_KNOWN`."""
    return not callable(code) or str(getattr(code, "__module__", "")).partition(".")[0] in _KNOWN


def last_logits(
    model: Hooked, native: GPT | None, tokens: Int[Tensor, "example pos"]
) -> Float[Tensor, "example d_vocab"]:
    """The logits after the last of `tokens`, of a model and its `plain_model`."""
    return logits_at(model, native, tokens, torch.tensor([tokens.shape[1] - 1]))[:, 0]


def logits_at(
    model: Hooked, native: GPT | None, tokens: Int[Tensor, "example pos"], places: Int[Tensor, " place"]
) -> Float[Tensor, "example place d_vocab"]:
    """The logits at some positions, of a model and its `plain_model`.

    No others are made, unless somebody has attached hooks, or something in place of one.
    """
    places, last = places.to(tokens.device), f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    if native is not None:
        return native.lm_head(native.transformer(tokens, NO_EDITS)[:, places])
    if has_hooks(model) or last not in model.hook_dict:
        return run(model, tokens)[:, places]
    return run(model, tokens, {last: lambda stream: stream[:, places]})


def stepper(
    model: Hooked, length: int | None = None
) -> Callable[[Int[Tensor, "example pos"]], Float[Tensor, "example d_vocab"]]:
    """What gives the logits after the last token of texts that grow: as nanoGPT computes them, where that is equal.

    `length` is that of the longest text; None for the context.
    """
    native = plain_model(model, length=length)
    return (lambda tokens: run(model, tokens)[:, -1]) if native is None else Stepper(native)


def samples(model: Hooked, start: int, *, max_new_tokens: int, seeds: Sequence[int]) -> Int[Tensor, "seed pos"]:
    """What `generate` draws after one token, with each of the seeds."""
    native, device = plain_model(model, length=1 + max_new_tokens), device_of(model)
    tokens = torch.full((len(seeds), 1), start, device=device)
    if native is None:
        drawn = [
            generate(model, row[None], max_new_tokens=max_new_tokens, seed=s)
            for row, s in zip(tokens, seeds, strict=True)
        ]
        return torch.cat(drawn)
    with torch.inference_mode(False), torch.no_grad():
        return continued(
            Stepper(native),
            tokens,
            max_new_tokens=max_new_tokens,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            generators=[torch.Generator(device).manual_seed(seed) for seed in seeds],
        )
