"""Clean and corrupted prompts, found in a text: one token is changed, and the model changes its mind.

Causal tracing needs two prompts that differ little and are answered differently. Here both come from the text
itself. Of many windows those are kept after which the model says what really follows. In these each token is
replaced by others of the text, those that the model itself finds most likely at that place, so that the prompt
stays one that could have been written; and the edits count after which it says something else.

Which edit is best. The answer is the model's top token after the clean prompt (and the true one), `wrong` its top
token after the corrupted one. An edit is as good as the weaker of both decisions:
min(logit difference clean, -logit difference corrupted). An edit far from the end is preferred, because then
something has to be moved to where the answer is read: edits at least `away` tokens before the last come first,
then those before the last token, then those of the last token; within each class the best one is taken. Of equal
ones the earlier window, position and the smaller id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, evaluating, n_tokens, run, token_labels
from nanogpt_lens.model.plain import last_logits, plain_model
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.opened import Opened, OpenedCorpus

LENGTH = 16
"""Tokens of a prompt, where the context has room and nothing else is said: few enough to read in a picture."""

AWAY = 3
"""How many tokens before the last an edit should at least be, where nothing else is said."""


class NoPairFoundError(AnalysisError):
    """Nothing that was tried is answered rightly and changes the model's mind.

    Attributes:
        reason: what was tried, without what to do.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


_SURE = 0.5  # the probability that the true next token must have
_TRIED = 48  # windows whose edits are tried
_REPLACEMENTS = 8  # tokens tried at each position
_COUNTED = 2**20  # tokens of the text whose tokens may be put in
_RUN = 4096  # tokens of a run, about


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptPair:
    """Two prompts that differ in one token and are answered differently.

    Attributes:
        clean, corrupted: the prompts as ids.
        answer, wrong: the model's top token after the clean and after the corrupted prompt.
        clean_strings, corrupted_strings, answer_string, wrong_string: the same as text; numbers without a vocabulary.
        positions: the positions at which the prompts differ.
        clean_logit_diff, corrupted_logit_diff: logit of `answer` minus that of `wrong` after each prompt.
        how: what was tried and taken, in a sentence.
    """

    clean: Int[Tensor, " pos"]
    corrupted: Int[Tensor, " pos"]
    answer: int
    wrong: int
    clean_strings: tuple[str, ...]
    corrupted_strings: tuple[str, ...]
    answer_string: str
    wrong_string: str
    positions: tuple[int, ...]
    clean_logit_diff: float
    corrupted_logit_diff: float
    how: str

    @property
    def strength(self) -> float:
        """The weaker of both decisions, in logits."""
        return min(self.clean_logit_diff, -self.corrupted_logit_diff)


def prompt_length(n_tokens: int, n_ctx: int) -> int | None:
    """The length of prompts from a text of so many tokens that there are several; None for the usual one."""
    return None if n_tokens >= (LENGTH + 1) * 4 else max(2, min(n_tokens // 4 - 1, n_ctx - 1))


def find_prompt_pair(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    seq_len: int | None = None,
    n: int = 512,
    away: int | None = None,
    seed: int = 0,
) -> PromptPair:
    """The best pair of prompts of a text: one token is changed, and the model's answer with it.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        corpus: a text, a path or token ids, see `Corpus`; None for text drawn from the model itself.
        seq_len: the tokens of a prompt; None for 16, or what fits; the token that really follows must fit too.
        n: the number of windows of the text that are looked at; of those that the model answers rightly, the edits of
            48, spread evenly over those with a probability of at least 0.5 (over all of them where none has that),
            are tried.
        away: the edit should be at least so many tokens before the last; None for 3, or what the length allows.
        seed: the seed of the choice of windows.

    Returns:
        The pair; `how` says what was tried, and how far from the end the edit is.

    Raises:
        NoPairFoundError: an AnalysisError: no window is answered rightly, or no edit of those that were tried
            changes the model's mind.
        AnalysisError: the text is too short or does not fit the model.
    """
    return find_prompt_pairs(model, corpus, k=1, seq_len=seq_len, n=n, away=away, seed=seed)[0]


def find_prompt_pairs(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    k: int = 8,
    seq_len: int | None = None,
    n: int = 512,
    tried: int | None = None,
    away: int | None = None,
    seed: int = 0,
) -> tuple[PromptPair, ...]:
    """The best edit of each window, the best `k` of them; as `find_prompt_pair`, which is the first of these.

    `tried` is the number of windows, at most, whose edits are tried, which is nearly all of the work; None for 48.

    Raises:
        AnalysisError: see `find_prompt_pair`; fewer than `k` windows with an edit are no error.
    """
    check_model(model)
    text = open_corpus(model, corpus)
    size, distance = _sizes(model, seq_len, away, text.room() - 1)
    tried = _TRIED if tried is None else tried
    check_whole(1, k=k, n=n, tried=tried)
    check_whole(seed=seed)
    windows, present = _windows(text, size, n, seed)
    with evaluating(model):
        asked = _AskedModel(model, size + 1)
        prompts, answers = _prompts_and_answers(asked, windows, tried)
        edits = [
            best
            for prompt, answer in zip(prompts, answers, strict=True)
            if (best := _best_edit(asked, prompt, int(answer), present, distance)) is not None
        ]
    what = (
        f"the {min(_REPLACEMENTS, len(present) - 1)} tokens that the model finds most likely at each position, in "
        f"{_count(len(prompts))} of {size} tokens ({len(windows)} {'was' if len(windows) == 1 else 'were'} looked at)"
    )
    if not edits:
        raise NoPairFoundError(
            f"no edit of one token changes the model's top prediction (tried were {what})",
            "give another text, more windows (n=), or a pair of your own",
        )
    edits.sort(key=lambda edit: (edit.remoteness, -edit.strength))  # stable: of equal ones the earlier window
    return tuple(_pair(model, edit, f"tried were {what}") for edit in edits[:k])


def _sizes(model: Hooked, seq_len: int | None, away: int | None, room: int) -> tuple[int, int]:
    """The number of tokens of a prompt, and of tokens between an edit and the end."""
    most = int(model.cfg.n_ctx) - 1
    size = default_of(seq_len, LENGTH, max(2, min(most, room)))
    check_whole(seq_len=size)
    if not 2 <= size <= most:
        raise AnalysisError(
            f"seq_len is {size}; expected 2 to {most}, so that the token that follows fits the context of "
            f"{model.cfg.n_ctx}"
        )
    distance = min(AWAY, size - 1) if away is None else away
    check_whole(away=distance)
    if distance >= size:
        raise AnalysisError(f"away is {distance}; expected less than the prompt's {size} tokens")
    return size, distance


def _windows(text: Opened, size: int, n: int, seed: int) -> tuple[Int[Tensor, "example pos"], Int[Tensor, " token"]]:
    """Windows of one token more than a prompt, without overlap, and the ids of the text, the most frequent first.

    Each row has one window; none crosses rows.
    """
    drawn = text.windows(seq_len=size + 1, n=n, seed=seed)
    ids = text.tokens(0, _COUNTED) if isinstance(text, OpenedCorpus) else drawn.flatten()
    return drawn, _frequent(ids.cpu().numpy())


def _count(windows: int) -> str:
    """A number of windows, in words."""
    return f"{windows} window{'s' if windows != 1 else ''}"


def _frequent(ids: Integer[np.ndarray, " id"]) -> Int[Tensor, " token"]:
    """The ids that occur, the most frequent first; of equal ones the smaller."""
    present, counts = np.unique(ids, return_counts=True)
    return torch.from_numpy(present[np.argsort(-counts, kind="stable")].astype(np.int64))


class _AskedModel:
    """A model that is asked for what follows many prompts, without nanoGPT's padding of the vocabulary."""

    def __init__(self, model: Hooked, longest: int) -> None:
        self._model, self._native, self._size = model, plain_model(model, length=longest), n_tokens(model)

    def everywhere(self, prompt: Int[Tensor, " pos"]) -> Float[Tensor, "pos token"]:
        """The logits after each token of a prompt."""
        tokens = prompt[None]
        logits = run(self._model, tokens) if self._native is None else self._native(tokens)
        return logits[0, :, : self._size]

    def last(self, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "example token"]:
        """The logits after the last of `tokens`."""
        step = max(1, _RUN // tokens.shape[1])
        rows = [last_logits(self._model, self._native, rows) for rows in tokens.split(step)]
        return torch.cat(rows)[:, : self._size]


def _prompts_and_answers(
    asked: _AskedModel, windows: Int[Tensor, "example window"], tried: int
) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, " prompt"]]:
    """The prompts after which the model is sure of what really follows, and the token that follows each.

    If it is sure of none, those that it answers rightly. Of more than are tried, some evenly spread: the surest
    ones alone would be those that no edit far away can change.

    Raises:
        NoPairFoundError: it answers none rightly.
    """
    last = asked.last(windows[:, :-1])
    truth = windows[:, -1]
    right = (last.argmax(-1) == truth).nonzero().flatten()
    if not len(right):
        raise NoPairFoundError(
            f"after none of {_count(len(windows))} is the true next token the model's top prediction",
            "give a text of the kind that it was trained on, more windows (n=), or a pair of your own",
        )
    probability = last.double().softmax(-1)[right, truth[right]]
    sure = right[probability >= _SURE]
    sure = sure if len(sure) else right
    kept = sure[torch.linspace(0, len(sure) - 1, min(tried, len(sure)), dtype=torch.float64).long()]
    return windows[kept, :-1], truth[kept]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Edit:
    """An edit that changes the model's mind."""

    clean: Int[Tensor, " pos"]
    position: int
    token: int
    answer: int
    wrong: int
    clean_diff: float
    corrupted_diff: float
    remoteness: int

    @property
    def strength(self) -> float:
        return min(self.clean_diff, -self.corrupted_diff)


def _best_edit(
    asked: _AskedModel, prompt: Int[Tensor, " pos"], answer: int, present: Int[Tensor, " token"], away: int
) -> _Edit | None:
    """The best edit of a prompt; None where none changes the model's mind."""
    logits = asked.everywhere(prompt).double()
    clean = logits[-1]
    for remoteness, places in enumerate(_classes(len(prompt), away)):
        edits = list(_edits(prompt, _likely(logits, present), places))
        if not edits:
            continue
        positions, tokens, rows = zip(*edits, strict=True)
        last = asked.last(torch.stack(rows)).double()
        wrong = last.argmax(-1)
        after = last[:, answer] - last.gather(-1, wrong[:, None])[:, 0]
        before = clean[answer] - clean[wrong]
        strength = torch.minimum(before, -after).masked_fill(wrong == answer, -torch.inf)
        i = int(strength.argmax())  # the first of equal ones
        if float(strength[i]) > 0:
            return _Edit(
                clean=prompt,
                position=positions[i],
                token=tokens[i],
                answer=answer,
                wrong=int(wrong[i]),
                clean_diff=float(before[i]),
                corrupted_diff=float(after[i]),
                remoteness=remoteness,
            )
    return None


def _likely(logits: Float[Tensor, "pos d_vocab"], present: Int[Tensor, " token"]) -> list[list[int]]:
    """The tokens of the text that are tried at each position, from the logits of the clean prompt.

    Nothing predicts the first position: there the most frequent ones are tried.
    """
    allowed = present.to(logits.device)
    order = logits[:-1, allowed].argsort(stable=True, dim=-1, descending=True)[:, : _REPLACEMENTS + 1]
    return [present[: _REPLACEMENTS + 1].tolist(), *allowed[order].tolist()]


def _classes(size: int, away: int) -> tuple[range, range, range]:
    """Positions by preference: far from the end, before the last, the last."""
    far = max(0, size - away)
    return range(far), range(far, size - 1), range(max(far, size - 1), size)


def _edits(
    prompt: Int[Tensor, " pos"], likely: list[list[int]], places: range
) -> Iterator[tuple[int, int, Int[Tensor, " pos"]]]:
    """Yield the edits of a prompt: position, new token, and the prompt with it."""
    for place in places:
        present = int(prompt[place])
        for token in sorted([token for token in likely[place] if token != present][:_REPLACEMENTS]):
            row = prompt.clone()
            row[place] = token
            yield place, token, row


def _pair(model: Hooked, edit: _Edit, tried: str) -> PromptPair:
    """The clean prompt and the edited one."""
    corrupted = edit.clean.clone()
    corrupted[edit.position] = edit.token
    ends = torch.tensor([edit.answer, edit.wrong])
    answer_string, wrong_string = token_labels(model, ends)
    behind = len(edit.clean) - 1 - edit.position
    place = "the last token" if not behind else f"{behind} token{'s' if behind > 1 else ''} before the last"
    return PromptPair(
        clean=edit.clean.cpu(),
        corrupted=corrupted.cpu(),
        answer=edit.answer,
        wrong=edit.wrong,
        clean_strings=token_labels(model, edit.clean),
        corrupted_strings=token_labels(model, corrupted),
        answer_string=answer_string,
        wrong_string=wrong_string,
        positions=(edit.position,),
        clean_logit_diff=edit.clean_diff,
        corrupted_logit_diff=edit.corrupted_diff,
        how=f"position {edit.position} is edited, {place}; {tried}; taken is the edit whose weaker decision is "
        "clearest, those far from the end first",
    )
