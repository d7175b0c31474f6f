"""A model as nanoGPT computes it: the same logits in less time, where nothing is read or replaced inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conversion.errors import ConversionError
from conversion.native import GPT
from conversion.stepping import Stepper
from conversion.transformerlens_to_nanogpt import to_nanogpt
from nanogpt_lens.model.access import Hooked, device_of, has_hooks, n_tokens, run
from nanogpt_lens.model.sampling import TEMPERATURE, TOP_K, continued, generate

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
"""The largest difference from the model itself that is allowed, relative to its largest logit."""

_LONGEST = 128  # tokens on which the two are compared


def plain_model(model: Hooked) -> GPT | None:
    """NanoGPT's own architecture with the model's present weights, after it was compared with the model.

    Returns:
        None where it is another one: processed weights, hooks that somebody attached, half precision, no nanoGPT.
    """
    if model.cfg.dtype not in TOLERANCE or has_hooks(model):
        return None
    try:
        native = GPT.from_checkpoint(to_nanogpt(model), copy=False).to(device_of(model))
    except (ConversionError, AttributeError):
        return None
    generator = torch.Generator().manual_seed(0)
    shape = (2, min(int(model.cfg.n_ctx), _LONGEST))
    tokens = torch.randint(n_tokens(model), shape, generator=generator).to(device_of(model))
    with torch.inference_mode(False), torch.no_grad():
        expected, got = run(model, tokens), native(tokens)
    tolerance = TOLERANCE[model.cfg.dtype] * float(expected.abs().max())
    return native if float((got - expected).abs().max()) <= tolerance else None


def last_logits(
    model: Hooked, native: GPT | None, tokens: Int[Tensor, "example pos"]
) -> Float[Tensor, "example d_vocab"]:
    """The logits after the last of `tokens`, of a model and its `plain_model`."""
    return run(model, tokens)[:, -1] if native is None else native.last_logits(tokens)


def samples(model: Hooked, start: int, *, max_new_tokens: int, seeds: Sequence[int]) -> Int[Tensor, "seed pos"]:
    """What `generate` draws after one token, with each of the seeds."""
    native, device = plain_model(model), device_of(model)
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
