"""The loss on text, and in-context learning: how much better late tokens of a context are predicted than early ones."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields
from nanogpt_lens.model.access import Hooked, check_model, evaluating, n_tokens, provenance
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.batches import losses
from nanogpt_lens.text.corpus import Corpus, open_corpus

Span: TypeAlias = int | tuple[int, int]
"""The position of a token, or the first one and the one after the last."""


def in_context_learning_score(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    early: Span | None = None,
    late: Span | None = None,
    n: int = 128,
    seed: int = 0,
) -> Scores:
    """How much better late tokens of a context are predicted than early ones.

    Olsson et al. 2022 take the mean loss of the 500th token minus that of the 50th, in contexts of 512
    tokens; so does this function for contexts of 512 tokens and more. A shorter context, of n_ctx tokens,
    has no 500th token, and single positions would be noisy: there the score is the mean loss over the last
    n_ctx / 16 tokens minus the mean loss over as many tokens around the same fraction of the context,
    50 / 512. A negative score says that the model makes use of its context.

    Args:
        model: the model.
        corpus: held-out text, see `Corpus`, of which windows as long as the context are taken; None for
            the model's own text, which shows what it does with context, not whether that is right, and is
            slow to draw for long contexts.
        early, late: other positions, of tokens that are predicted: 49 is the 50th token, (40, 60) the
            mean over 20 tokens.
        n: the largest number of windows.
        seed: the seed of the choice of windows.

    Returns:
        "in_context_learning", "late_loss" and "early_loss" on the axis `score`, in nats, with intervals
        over the windows; `chance` is a uniform guess.

    Raises:
        AnalysisError: the context does not have the positions; the early ones are not before the late
            ones, as in a context of 2 tokens; or the corpus does not fit the model.
    """
    check_model(model)
    check_whole(seed=seed)
    check_whole(1, n=n)
    text = open_corpus(model, corpus)
    seq_len = int(model.cfg.n_ctx) if early or late else text.room()
    (e0, e1), (l0, l1) = _spans(early, late, seq_len)
    tokens = text.windows(seq_len=seq_len, n=n, seed=seed)
    with evaluating(model):  # token p is predicted at p - 1
        loss = losses(model, tokens[:, :l1], [*range(e0 - 1, e1 - 1), *range(l0 - 1, l1 - 1)]).double()
    before, after = loss[:, : e1 - e0].mean(1), loss[:, e1 - e0 :].mean(1)
    per_window = torch.stack([after - before, after, before])
    guess = math.log(n_tokens(model))
    return Scores(
        **mean_fields(per_window),
        axes=("score",),
        labels={"score": ("in_context_learning", "late_loss", "early_loss")},
        quantity="loss, nats per token",
        definition=f"mean loss of tokens {l0} to {l1 - 1} minus that of tokens {e0} to {e1 - 1}, counted from 0, of "
        f"{seq_len}, in windows of {text.name} (Olsson et al. 2022: 499 minus 49); chance: a uniform guess",
        chance=torch.tensor([0.0, guess, guess], dtype=torch.float64),
        title="in-context learning",
        unit="nats per token",
        sample=Sample(corpus=None if corpus is None else text.name, own_text=corpus is None, n=len(tokens), seed=seed),
        provenance=provenance(model, corpus=text.name, early=(e0, e1), late=(l0, l1), n=len(tokens), seed=seed),
    )


def text_loss(
    model: Hooked, corpus: Corpus | None = None, *, seq_len: int | None = None, n: int = 128, seed: int = 0
) -> Scores:
    """The mean loss of the next token on windows of a text.

    Args:
        model: the model.
        corpus: held-out text, see `Corpus`; None for text drawn from the model itself, which says how sure
            it is, not whether that is right.
        seq_len: the tokens of a window; None for the context.
        n: the largest number of windows.
        seed: the seed of the choice of windows.

    Returns:
        One value without axes, in nats per token; `chance` is a uniform guess; the interval is over the windows.

    Raises:
        AnalysisError: the corpus does not fit the model.
    """
    check_model(model)
    check_whole(seed=seed)
    text = open_corpus(model, corpus)
    size = text.room() if seq_len is None else seq_len
    check_whole(2, seq_len=size)
    tokens = text.windows(seq_len=size, n=n, seed=seed)
    with evaluating(model):
        each = losses(model, tokens).double().mean(1).cpu()
    return Scores(
        **mean_fields(each),
        axes=(),
        quantity="loss, nats per token",
        definition=f"cross-entropy of the next token, mean over {len(tokens)} windows of {size} tokens of {text.name}; "
        "chance: a uniform guess",
        chance=each.new_tensor(math.log(n_tokens(model))),
        title="loss",
        unit="nats per token",
        sample=Sample(
            corpus=None if corpus is None else text.name,
            own_text=corpus is None,
            n=len(tokens),
            seq_len=size,
            seed=seed,
        ),
        provenance=provenance(model, corpus=text.name, seq_len=size, n=len(tokens), seed=seed),
    )


def _default_spans(seq_len: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The early and the late span of a context of `seq_len` tokens, as `in_context_learning_score` chooses them."""
    if seq_len >= 512:
        return (49, 50), (499, 500)
    width = max(1, seq_len // 16)
    start = max(1, round(49.5 / 512 * seq_len - width / 2))
    return (start, start + width), (seq_len - width, seq_len)


def _spans(early: Span | None, late: Span | None, seq_len: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first token of each span and the one after its last; AnalysisError unless `early` ends before `late`."""
    default_early, default_late = _default_spans(seq_len)
    e0, e1 = default_early if early is None else _span("early", early, seq_len)
    l0, l1 = default_late if late is None else _span("late", late, seq_len)
    if e1 > l0:
        raise AnalysisError(
            f"the early tokens are {e0} to {e1 - 1}, the late ones {l0} to {l1 - 1}, of a context of {seq_len}; "
            "expected all early ones before the late ones: give other positions, or a model with a longer context"
        )
    return (e0, e1), (l0, l1)


def _span(name: str, positions: Any, seq_len: int) -> tuple[int, int]:
    """The first token of a span and the one after its last."""
    match positions:
        case bool():
            pass
        case int(first) if 1 <= first < seq_len:
            return first, first + 1
        case (int(first), int(end)) if 1 <= first < end <= seq_len:
            return first, end
    raise AnalysisError(
        f"{name} is {positions!r}; expected a token, or the first and the one after the last, from 1, the first token "
        f"that is predicted, to {seq_len - 1}, the last of the context"
    )
