"""Seeded prompts of random tokens to test a model on: repeated sequences, and pairs [A][B]...[A].

Everything is token ids, so that a model without a vocabulary works as well. nanoGPT has no
beginning-of-sequence token, so none is put in front.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from einops import rearrange, repeat
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, device_of, n_tokens
from nanogpt_lens.text.pair import Pair
from nanogpt_lens.text.solved import solved_pairs

LEAST_VOCABULARY = 5
"""Tokens that the vocabulary must have for [A][B]...[A] prompts."""

LONGEST = 32
"""The tokens of a prompt, where nothing else is said and the context has room."""

Repeats: TypeAlias = Literal["avoid", "forbid", "allow"]
"""Whether random ids of one sequence may be equal: only where the vocabulary is too small, never, or freely."""


def random_tokens(
    model: Hooked, n: int, seq_len: int, *, repeats: Repeats = "avoid", generator: torch.Generator
) -> Int[Tensor, "example pos"]:
    """Uniform random ids, distinct within each row unless `repeats` lets them be equal.

    Raises:
        AnalysisError: `n` or `seq_len` is not positive; or repeats are forbidden and the vocabulary is smaller
            than `seq_len`.
    """
    size = n_tokens(model)
    if n < 1 or seq_len < 1:
        raise AnalysisError(f"{n} sequences of {seq_len} tokens were asked for; expected at least one of each")
    if repeats not in ("avoid", "forbid", "allow"):
        raise AnalysisError(f"repeats is {repeats!r}; expected avoid, forbid or allow")
    if repeats == "forbid" and seq_len > size:
        raise AnalysisError(
            f"seq_len is {seq_len}, the vocabulary has {size} tokens; a sequence without repeats needs "
            f"seq_len <= {size}, or repeats='avoid'"
        )
    if repeats == "allow" or seq_len > size:
        return torch.randint(size, (n, seq_len), generator=generator).to(device_of(model))
    noise = torch.rand(n, size, generator=generator)
    return noise.argsort(dim=1)[:, :seq_len].to(device_of(model))


def repeated_tokens(
    model: Hooked, *, seq_len: int, n: int = 32, copies: int = 2, repeats: Repeats = "avoid", seed: int = 0
) -> Int[Tensor, "example pos"]:
    """Random sequences of `seq_len` ids, each followed by itself until there are `copies`.

    Raises:
        AnalysisError: the copies are longer than the model's context, or see `random_tokens`.
    """
    if copies * seq_len > model.cfg.n_ctx:
        raise AnalysisError(
            f"{copies} copies of seq_len={seq_len} are {copies * seq_len} tokens; expected at most "
            f"{model.cfg.n_ctx}, the model's context: give seq_len={model.cfg.n_ctx // copies} or less"
        )
    generator = torch.Generator().manual_seed(seed)
    once = random_tokens(model, n, seq_len, repeats=repeats, generator=generator)
    return repeat(once, "example pos -> example (copy pos)", copy=copies)


def induction_pairs(
    model: Hooked, *, seq_len: int | None = None, n: int = 32, seed: int = 0, solved_by: Hooked | None = None
) -> Pair:
    """Prompts `... [A][B] ... [A]`, whose answer is `[B]`, and the same with the first `[A]` replaced.

    All other tokens are random, distinct where the vocabulary allows, and neither A nor B. The
    corrupted prompts differ from the clean ones in that one token, which appears nowhere else.

    Args:
        model: the model, for its vocabulary and context.
        seq_len: the tokens of a prompt, at least 4; None for the context, the vocabulary or 32, whichever is least.
        n: the number of prompts.
        seed: the seed of the random ids.
        solved_by: a model, usually the same; None for the prompts as they are drawn. Else only those in which its top
            token is the answer after the clean prompt, and is not after the corrupted one; `chosen` says of how many.

    Returns:
        The pair; `wrong` is the last of the random tokens.

    Raises:
        AnalysisError: the prompts are too short or longer than the context, the vocabulary has fewer than 5 tokens, or
            too few are solved.
    """
    if model.cfg.n_ctx < 4:
        raise AnalysisError(f"the model's context is {model.cfg.n_ctx} tokens; [A][B]...[A] prompts need at least 4")
    seq_len = int(seq_len or max(4, min(model.cfg.n_ctx, LONGEST, n_tokens(model))))
    if not 4 <= seq_len <= model.cfg.n_ctx:
        raise AnalysisError(f"prompts of {seq_len} tokens were asked for; expected 4 to {model.cfg.n_ctx}, the context")
    if n_tokens(model) < LEAST_VOCABULARY:
        raise AnalysisError(
            f"the vocabulary has {n_tokens(model)} tokens; [A][B]...[A] prompts need at least {LEAST_VOCABULARY}"
        )
    generator = torch.Generator().manual_seed(seed)
    if solved_by is not None:
        return solved_pairs(solved_by, lambda many: _induction_pairs(model, seq_len, many, generator), n=n)
    return _induction_pairs(model, seq_len, n, generator)


def _induction_pairs(model: Hooked, seq_len: int, n: int, generator: torch.Generator) -> Pair:
    size, device = n_tokens(model), device_of(model)
    special = random_tokens(model, n, 3, generator=generator).cpu()  # A, B, and what replaces A
    fill = torch.rand(n, size, generator=generator)
    fill.scatter_(1, special, -1.0)
    distinct = fill.argsort(dim=1, descending=True)[:, : size - 3]
    middle = repeat(distinct, "example pos -> example (copy pos)", copy=-(-seq_len // (size - 3)))[:, : seq_len - 3]
    at = torch.randint(seq_len - 3, (n, 1), generator=generator)  # of the first A; B follows; A ends the prompt
    clean = torch.empty(n, seq_len, dtype=torch.long)
    clean.scatter_(1, _others(at, seq_len), middle)
    clean.scatter_(1, torch.cat([at, at + 1, torch.full_like(at, seq_len - 1)], 1), special[:, [0, 1, 0]])
    corrupted = clean.scatter(1, at, special[:, [2]])
    return Pair(
        clean=clean.to(device),
        corrupted=corrupted.to(device),
        answer=special[:, 1].to(device),
        wrong=middle[:, -1].to(device),
    )


def _others(at: Int[Tensor, "example 1"], seq_len: int) -> Int[Tensor, "example place"]:
    """The places of each prompt that are neither `at`, `at + 1`, nor the last."""
    places = repeat(torch.arange(seq_len - 1), "place -> example place", example=len(at))
    return rearrange(places[(places != at) & (places != at + 1)], "(example place) -> example place", example=len(at))
