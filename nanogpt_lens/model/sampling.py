"""Text from a model, sampled as nanoGPT samples it: with a temperature, top-k, and a cropped context."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from conversion.vocabulary import Vocabulary
from nanogpt_lens.core.errors import AnalysisError

TEMPERATURE, TOP_K = 0.8, 200
"""nanoGPT's defaults."""


@overload
def generate(
    model: Any,
    prompt: str,
    *,
    max_new_tokens: int = ...,
    temperature: float = ...,
    top_k: int | None = ...,
    seed: int = ...,
) -> str: ...
@overload
def generate(
    model: Any,
    prompt: Int[Tensor, "*example pos"],
    *,
    max_new_tokens: int = ...,
    temperature: float = ...,
    top_k: int | None = ...,
    seed: int = ...,
) -> Int[Tensor, "example pos"]: ...
def generate(
    model: Any,
    prompt: str | Tensor,
    *,
    max_new_tokens: int = 200,
    temperature: float = TEMPERATURE,
    top_k: int | None = TOP_K,
    seed: int = 1337,
) -> str | Int[Tensor, "example pos"]:
    """Continue a prompt, with nanoGPT's defaults.

    For the same tokens, seed and weights this draws what nanoGPT's `generate` draws after
    `torch.manual_seed(seed)`. TransformerLens' own `generate` cannot go past the context.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        prompt: text, or the token ids of one prompt or of several of one length.
        max_new_tokens: the number of tokens to add.
        temperature: the number that divides the logits; 0 always takes the likeliest token.
        top_k: sample among the k likeliest tokens only; None for all.
        seed: the seed of the sampling; the global random state does not change.

    Returns:
        The prompt and its continuation, as text if the prompt is text, else as ids.
        Text never holds a token beyond the vocabulary (nanoGPT pads some to a multiple of 64).

    Raises:
        AnalysisError: the prompt is empty or has ids that the model does not have, or an option is out of range.
        VocabularyError: the prompt has unknown characters, or the model has no vocabulary.
    """
    whole = isinstance(max_new_tokens, int) and isinstance(top_k, int | None)
    if not whole or max_new_tokens < 0 or not 0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        raise AnalysisError(
            f"max_new_tokens={max_new_tokens}, temperature={temperature}, top_k={top_k}; "
            "expected max_new_tokens and temperature of at least 0, and top_k of at least 1 or None"
        )
    if not 0 <= seed < 2**63:
        raise AnalysisError(f"seed is {seed}; expected an integer from 0 to 2**63 - 1")
    device = next(model.parameters()).device
    ids = _encoded(model, prompt) if isinstance(prompt, str) else torch.as_tensor(prompt)
    tokens = _as_batch(ids, model.cfg.d_vocab).to(device)
    vocabulary = getattr(model.tokenizer, "encoder", None) if isinstance(prompt, str) else None
    n_tokens = vocabulary.size if isinstance(vocabulary, Vocabulary) else model.cfg.d_vocab
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            tokens = continued(
                lambda tokens: model(tokens[:, -model.cfg.n_ctx :], return_type="logits")[:, -1, :n_tokens],
                tokens,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                generators=[torch.Generator(device).manual_seed(seed)],
            )
    finally:
        model.train(training)
    return model.tokenizer.decode(tokens[0].tolist()) if isinstance(prompt, str) else tokens


def continued(
    last_logits: Callable[[Int[Tensor, "example pos"]], Float[Tensor, "example d_vocab"]],
    tokens: Int[Tensor, "example pos"],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    generators: Sequence[torch.Generator],
) -> Int[Tensor, "example longer"]:
    """Tokens with their continuation.

    Args:
        last_logits: the function that gives the logits after the last token.
        tokens: what is continued.
        max_new_tokens, temperature, top_k: see `generate`.
        generators: one for all rows, or one for each, which then draws what it would draw for that row alone.
    """
    for _ in range(max_new_tokens):
        logits = last_logits(tokens)
        rows = logits.split(len(logits) if len(generators) == 1 else 1)
        drawn = [choose_token(row, temperature, top_k, g) for row, g in zip(rows, generators, strict=True)]
        tokens = torch.cat([tokens, torch.cat(drawn)], dim=1)
    return tokens


def choose_token(
    logits: Float[Tensor, "example d_vocab"], temperature: float, top_k: int | None, generator: torch.Generator
) -> Int[Tensor, "example 1"]:
    """One id for each row of logits, drawn as nanoGPT draws it."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    if temperature < 1e-3:  # nanoGPT would divide by next to nothing and overflow
        logits = logits - logits.amax(-1, keepdim=True)
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, [-1]]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return torch.multinomial(logits.softmax(-1), num_samples=1, generator=generator)


def _encoded(model: Any, prompt: str) -> Int[Tensor, " pos"]:
    """The ids of a text."""
    if model.tokenizer is None:
        raise AnalysisError("the model has no tokenizer; give the prompt as token ids, or load the model with meta=")
    return torch.tensor(model.tokenizer.encode(prompt), dtype=torch.long)


def _as_batch(ids: Shaped[Tensor, " ..."], d_vocab: int) -> Int[Tensor, "example pos"]:
    """Ids of one prompt or of several as a batch; AnalysisError unless they are ids that the model has."""
    tokens = ids[None] if ids.dim() == 1 else ids
    if tokens.dim() != 2 or not tokens.numel():
        raise AnalysisError(
            f"the prompt has shape {list(ids.shape)}; expected at least one token (nanoGPT starts with a newline)"
        )
    if tokens.is_floating_point() or int(tokens.min()) < 0 or int(tokens.max()) >= d_vocab:
        raise AnalysisError(f"the prompt has ids outside the model's vocabulary of {d_vocab}; expected integers from 0")
    return tokens.long()
