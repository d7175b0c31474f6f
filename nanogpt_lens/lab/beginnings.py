"""Prompts to begin with: those that are given, or one pair found in a text; and one of the task that a model learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from conversion.errors import NanoGPTLensError
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, as_tokens, evaluating, n_tokens, run, single_token
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.pairs import LENGTH, find_prompt_pair, prompt_length
from nanogpt_lens.text.prompts import induction_pairs
from nanogpt_lens.text.task import Task
from nanogpt_lens.text.tasks import read_task

_FIELDS = ("label", "tokens", "other", "answer", "wrong")
_TASK_LENGTH, _DRAWN, _LEAST, _TRIED = 32, 64, 4, 32  # of a task: tokens, sequences, tokens of a prompt, prompts


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt, perhaps with another to compare it with, and what is asked.

    Attributes:
        label: what it is called.
        tokens: its ids; `other` those of the other prompt.
        answer: the token that is asked for; None for the likeliest one. `wrong` is what the other prompt calls for.
    """

    label: str
    tokens: tuple[int, ...]
    other: tuple[int, ...] | None = None
    answer: int | None = None
    wrong: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def likeliest(self, model: Hooked) -> int:
        """The answer; without one, the token that the model finds likeliest."""
        return int(_last_logits(model, self.tokens).argmax()) if self.answer is None else self.answer


def prompts_to_begin_with(
    model: Hooked, text: Corpus, given: Sequence[Mapping[str, Any]] | None, *, name: str, seed: int
) -> list[Prompt]:
    """The given prompts, or one that is found in the text; and one of the model's task, where it has one.

    Args:
        model: the model.
        text: where a pair is looked for.
        given: see `nanogpt_lens.lab.findings.findings_of`.
        name: what the text is called.
        seed: of the choice of windows, and of the task's sequences.

    Raises:
        AnalysisError: the text does not fit the model, or something given is no prompt.
    """
    if given is None:
        first = [_found(model, text, name, seed)]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        first = [_read(model, one, i) for i, one in enumerate(given, start=1)]
    else:
        raise AnalysisError(f"prompts is {given!r}; expected a list of objects with 'tokens'")
    return [*first, *_of_task(model, seed)]


def _read(model: Hooked, one: Any, number: int) -> Prompt:
    """A prompt that is given."""
    if not isinstance(one, Mapping) or "tokens" not in one or any(name not in _FIELDS for name in one):
        raise AnalysisError(f"prompt {number} is {one!r}; expected an object with 'tokens' and some of {_FIELDS}")
    other = one.get("other")
    return Prompt(
        label=str(one.get("label") or f"prompt {number}"),
        tokens=ids_of(model, one["tokens"], f"tokens of prompt {number}"),
        other=None if other is None else ids_of(model, other, f"other of prompt {number}"),
        answer=token_of(model, one.get("answer"), f"answer of prompt {number}"),
        wrong=token_of(model, one.get("wrong"), f"wrong of prompt {number}"),
    )


def ids_of(model: Hooked, text: Any, name: str) -> tuple[int, ...]:
    """The ids of one text."""
    rows = as_tokens(model, text, name=name)
    if len(rows) > 1:
        raise AnalysisError(f"{name} are {len(rows)} texts; expected one")
    return tuple(rows[0].tolist())


def token_of(model: Hooked, token: Any, name: str) -> int | None:
    """The id of an answer; None where there is none."""
    if token is None:
        return None
    if isinstance(token, str):
        return single_token(model, token, name)
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < model.cfg.d_vocab:
        raise AnalysisError(f"{name} is {token!r}; expected one token, or an id from 0 to {model.cfg.d_vocab - 1}")
    return token


def _found(model: Hooked, text: Corpus, name: str, seed: int) -> Prompt:
    """Two prompts of the text that differ in one token and are answered differently.

    Where none is found, two of random tokens that call for induction, if the model answers them; else one alone.
    """
    opened = open_corpus(model, text)
    window = opened.windows(seq_len=min(LENGTH, opened.room()), n=1, seed=seed)[0]
    try:
        length = prompt_length(opened.n_tokens, int(model.cfg.n_ctx))
        pair = find_prompt_pair(model, text, seq_len=length, seed=seed)
    except AnalysisError:  # the context or the text is too short, or no edit changes what the model says
        return _repeating(model, seed) or Prompt(label=f"from {name}", tokens=tuple(window.tolist()))
    return Prompt(
        label=f"found in {name}",
        tokens=tuple(pair.clean.tolist()),
        other=tuple(pair.corrupted.tolist()),
        answer=pair.answer,
        wrong=pair.wrong,
    )


def _repeating(model: Hooked, seed: int) -> Prompt | None:
    """Random tokens [A][B]...[A], after which the model says [B], and only where the first [A] is there."""
    with suppress(AnalysisError):  # the context or the vocabulary is too small
        pairs = induction_pairs(model, n=_TRIED, seed=seed)
        for clean, corrupted, answer in zip(pairs.clean, pairs.corrupted, pairs.answer.tolist(), strict=True):
            tokens, other = (tuple(ids.tolist()) for ids in (clean, corrupted))
            wrong = int(_last_logits(model, other).argmax())
            if int(_last_logits(model, tokens).argmax()) == answer != wrong:
                return Prompt(label="random tokens", tokens=tokens, other=other, answer=answer, wrong=wrong)
    return None


def _of_task(model: Hooked, seed: int) -> Iterator[Prompt]:
    """Yield a prompt of the task beside the model's checkpoint that the model answers rightly, where there is one.

    The other prompt has another token behind the earlier places of its last token, and the model says that instead.
    """
    origin = getattr(model, "nanogpt_origin", None)
    path, vocabulary = getattr(origin, "path", None), getattr(origin, "vocabulary", None)
    with suppress(NanoGPTLensError):  # there is none
        task = None if path is None else read_task(path)
        if task is None or getattr(vocabulary, "chars", None) != task.vocabulary.chars:
            return
        for tokens, other, answer, wrong in _prompts_of(task, int(model.cfg.n_ctx), seed):
            before, after = (_last_logits(model, ids) for ids in (tokens, other))
            if int(before.argmax()) == answer and int(after.argmax()) == wrong:
                yield Prompt(label=task.name, tokens=tokens, other=other, answer=answer, wrong=wrong)
                return


def _prompts_of(task: Task, n_ctx: int, seed: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
    """Yield prompts of a task that call for induction: tokens, the other's tokens, answer, and the other's answer."""
    generator = np.random.default_rng(seed)
    sequences = task.draw(_DRAWN, min(_TASK_LENGTH, n_ctx), generator)
    tried = 0
    for row, required in zip(sequences.tokens, sequences.required, strict=True):
        places = [p for p in required[:-1].nonzero()[0].tolist() if p >= _LEAST - 1]
        unused = sorted(set(range(task.vocab_size)) - set(row.tolist()))
        if not places or not unused:
            continue
        end = places[-1]
        tokens, answer = row[: end + 1], int(row[end + 1])
        behind = (tokens[:-1] == tokens[-1]).nonzero()[0] + 1
        if end in behind or not (tokens[behind] == answer).all():
            continue
        other, wrong = tokens.copy(), unused[int(generator.integers(len(unused)))]
        other[behind] = wrong
        yield tuple(tokens.tolist()), tuple(other.tolist()), answer, wrong
        tried += 1
        if tried == _TRIED:
            return


def _last_logits(model: Hooked, tokens: Sequence[int]) -> Float[Tensor, " token"]:
    """The logits after a prompt, without nanoGPT's padding of the vocabulary."""
    with evaluating(model):
        ids = as_tokens(model, torch.tensor(list(tokens)))
        return run(model, ids)[0, -1, : n_tokens(model)]
