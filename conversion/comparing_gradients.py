"""The comparison of a certificate that is about gradients, of which only some weights' are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from conversion.config import NanoGPTConfig
from conversion.freeing import trim
from conversion.in_parts import InParts
from conversion.judge import SMALLEST, Judge, distance
from conversion.layout import HookedState, native_tensor
from conversion.reference import Reference
from conversion.report import Comparison
from conversion.transformerlens_to_nanogpt import in_hooked_layout, own_weights

Gradient: TypeAlias = Float[Tensor, " ..."] | InParts
Stream: TypeAlias = Iterator[dict[str, Gradient]]
Tokens: TypeAlias = Int[Tensor, "example pos"]

_BLOCKS = 3
"""Blocks whose gradients are computed together: those of all would fill the memory of a large model, and each time the
computation goes back from the loss."""

_LARGE = 2**22  # weights, behind whose gradients memory is tidied up


def compared_gradients(
    native: Callable[[torch.dtype], Reference],
    model: Any,
    config: NanoGPTConfig,
    judge: Judge,
    tokens: Tokens,
    targets: Tokens,
) -> list[Comparison]:
    """Compare the gradient of the loss with respect to every weight, brought back to nanoGPT's layout.

    Args:
        native: the native model in a precision.
        model: the converted model; whether its weights require gradients is as before at the end.
        config: the architecture.
        judge: of the model's precision.
        tokens, targets: of the loss, which is the mean cross-entropy.
    """

    def stream(dtype: torch.dtype) -> Stream:
        return native(dtype).gradients(tokens, targets)

    expected, exact = (_Found(lambda dtype=dtype: stream(dtype)) for dtype in (judge.dtype, torch.float64))
    failed: dict[str, Comparison] = {}
    errors: dict[str, tuple[float, float]] = {}
    scale = SMALLEST
    for hooked, names in _gradients(model, config, tokens, targets):
        for name in reversed(names):  # as the native model gives them
            got, native_gradient = native_tensor(name, hooked), expected(name)
            if got.shape != native_gradient.shape:
                failed[name] = judge("gradient", name, got, native_gradient)
                continue
            max_abs, size = distance(got, native_gradient)
            scale = max(scale, size)
            excused = judge.may_be_rounding(max_abs, scale)
            errors[name] = max_abs, distance(native_gradient, exact(name))[0] if excused else 0.0
            del got, native_gradient
    found = failed | {name: judge.decided("gradient", name, e, scale, r) for name, (e, r) in errors.items()}
    return [found[name] for name in config.shapes() if name in found]


class _Found:
    """Gradients by name, of which only those that the native model gives together are kept.

    To ask for one of an earlier part of the computation begins the computation anew.
    """

    def __init__(self, begin: Callable[[], Stream]) -> None:
        self._begin = begin
        self._stream: Stream = iter(())
        self._kept: dict[str, Gradient] = {}

    def __call__(self, name: str) -> Gradient:
        if name not in self._kept and not self._advanced_to(name):
            self._stream = self._begin()
            if not self._advanced_to(name):
                raise KeyError(name)
        return self._kept[name]

    def _advanced_to(self, name: str) -> bool:
        while name not in self._kept:
            self._kept.clear()
            self._kept = next(self._stream, {})
            if not self._kept:
                return False
        return True


def _gradients(
    model: Any, config: NanoGPTConfig, tokens: Tokens, targets: Tokens
) -> Iterator[tuple[HookedState, list[str]]]:
    """The converted model's gradients from the head down, as many as belong together, and nanoGPT's names of them.

    A tied embedding has the head's gradient in it.
    """
    own, trained = own_weights(model), {id(weight) for weight in model.parameters() if weight.is_floating_point()}
    groups: dict[str, list[str]] = {}
    for name in config.shapes():
        if name != "lm_head.weight" or not config.tied:  # it counts once, as the embedding
            groups.setdefault(_group_of(name, config), []).append(name)
    last = next(iter(groups))
    with _requiring(list(model.parameters())):
        with torch.enable_grad():
            logits = rearrange(model(tokens, return_type="logits"), "example pos d_vocab -> (example pos) d_vocab")
            loss = F.cross_entropy(logits, rearrange(targets, "example pos -> (example pos)"))
        del logits
        for group, names in reversed(groups.items()):
            weights = {name: weight for name, weight in own.items() if _group_of(name, config) == group}
            asked = [weight for weight in weights.values() if id(weight) in trained]
            given = torch.autograd.grad(loss, asked, allow_unused=True, retain_graph=group != last)
            by_id = {id(w): g for w, g in zip(asked, given, strict=True) if g is not None}
            del given
            gradients = {n: by_id.pop(id(w)) if id(w) in by_id else torch.zeros_like(w) for n, w in weights.items()}
            hooked = in_hooked_layout(model, gradients)
            if config.tied and group == "embed":
                hooked["embed.W_E"] = hooked["embed.W_E"].add_(hooked.pop("unembed.W_U").T)
            del gradients
            if sum(weight.numel() for weight in asked) > _LARGE:
                trim()
            yield hooked, names
            del hooked


@contextmanager
def _requiring(weights: list[Any]) -> Iterator[None]:
    """A block in which the weights require gradients."""
    frozen = [weight for weight in weights if weight.is_floating_point() and not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def _group_of(name: str, config: NanoGPTConfig) -> str:
    """The part of the model that a weight belongs to, by its name in any layout; a tied head is in the embedding's."""
    if name.startswith(("transformer.h.", "blocks.")):
        block = int(name.removeprefix("transformer.h.").removeprefix("blocks.").partition(".")[0])
        return f"blocks from {block // _BLOCKS * _BLOCKS}"
    part = name.removeprefix("transformer.").partition(".")[0]
    part = {"wte": "embed", "wpe": "pos_embed", "ln_f": "ln_final", "lm_head": "unembed"}.get(part, part)
    return "embed" if part == "unembed" and config.tied else part
