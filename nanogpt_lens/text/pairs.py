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
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, evaluating, n_tokens, run, token_labels
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.opened import OpenedCorpus

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
        clean, corrupted: ids [pos].
        answer, wrong: the model's top token after the clean and after the corrupted prompt.
        clean_strings, corrupted_strings, answer_string, wrong_string: the same as text; numbers without a vocabulary.
        positions: where the prompts differ.
        clean_logit_diff, corrupted_logit_diff: logit of `answer` minus that of `wrong` after each prompt.
        how: how it was found, in a sentence.
    """

    clean: Tensor
    corrupted: Tensor
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
        seq_len: tokens of a prompt; None for 16, or what fits. The token that really follows must fit the context too.
        n: how many windows of the text are looked at; of those that the model answers rightly, the edits of
            48, spread evenly over those with a probability of at least 0.5 (over all of them where none has that),
            are tried.
        away: the edit should be at least so many tokens before the last; None for 3, or what the length allows.
        seed: of the choice of windows.

    Returns:
        the pair; `how` says what was tried, and how far from the end the edit is.

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
    away: int | None = None,
    seed: int = 0,
) -> tuple[PromptPair, ...]:
    """The best edit of each window, the best `k` of them; as `find_prompt_pair`, which is the first of these.

    Raises:
        AnalysisError: see `find_prompt_pair`; fewer than `k` windows with an edit are no error.
    """
    size, distance = _sizes(model, seq_len, away)
    check_whole(1, k=k, n=n)
    check_whole(seed=seed)
    windows, present = _windows(model, corpus, size, n, seed)
    with evaluating(model):
        prompts, answers = _answered(model, windows)
        found = [
            best
            for prompt, answer in zip(prompts, answers, strict=True)
            if (best := _best_edit(model, prompt, int(answer), present, distance)) is not None
        ]
    tried = (
        f"the {min(_REPLACEMENTS, len(present) - 1)} tokens that the model finds most likely at each position, in "
        f"{_count(len(prompts))} of {size} tokens ({len(windows)} {'was' if len(windows) == 1 else 'were'} looked at)"
    )
    if not found:
        raise NoPairFoundError(
            f"no edit of one token changes the model's top prediction (tried were {tried})",
            "give another text, more windows (n=), or a pair of your own",
        )
    found.sort(key=lambda edit: (edit.remoteness, -edit.strength))  # stable: of equal ones the earlier window
    return tuple(_pair(model, edit, f"tried were {tried}") for edit in found[:k])


def _sizes(model: Hooked, seq_len: int | None, away: int | None) -> tuple[int, int]:
    """Tokens of a prompt, and how far from the end an edit should be."""
    check_model(model)
    most = int(model.cfg.n_ctx) - 1
    size = min(LENGTH, most) if seq_len is None else seq_len
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


def _windows(model: Hooked, corpus: Corpus | None, size: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Windows [n, size + 1] without overlap, and the ids of the text, the most frequent first.

    Of rows a window each; none crosses rows.
    """
    text = open_corpus(model, corpus)
    drawn = text.windows(seq_len=size + 1, n=n, seed=seed)
    ids = text.tokens(0, _COUNTED) if isinstance(text, OpenedCorpus) else drawn.flatten()
    return drawn, _frequent(ids.cpu().numpy())


def _count(windows: int) -> str:
    return f"{windows} window{'s' if windows != 1 else ''}"


def _frequent(ids: np.ndarray) -> Tensor:
    """The ids that occur, the most frequent first; of equal ones the smaller."""
    present, counts = np.unique(ids, return_counts=True)
    return torch.from_numpy(present[np.argsort(-counts, kind="stable")].astype(np.int64))


def _answered(model: Hooked, windows: Tensor) -> tuple[Tensor, Tensor]:
    """The prompts [window, pos] after which the model is sure of what really follows, and that [window].

    Where it is sure of none, those that it answers rightly.

    Of more than are tried, every so many: the surest ones alone would be those that no edit far away can change.


    Raises:
        AnalysisError: there is none.
    """
    last = _last_logits(model, windows[:, :-1])
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
    kept = sure[torch.linspace(0, len(sure) - 1, min(_TRIED, len(sure)), dtype=torch.float64).long()]
    return windows[kept, :-1], truth[kept]


def _last_logits(model: Hooked, tokens: Tensor) -> Tensor:
    """Logits [example, token] after the last of `tokens` [example, pos]; nanoGPT's padding of the vocabulary is out."""
    size = n_tokens(model)
    step = max(1, _RUN // tokens.shape[1])
    return torch.cat([run(model, rows)[:, -1, :size] for rows in tokens.split(step)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Edit:
    """An edit that changes the model's mind."""

    clean: Tensor
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


def _best_edit(model: Hooked, prompt: Tensor, answer: int, present: Tensor, away: int) -> _Edit | None:
    """The best edit of a prompt [pos]; None where none changes the model's mind."""
    logits = run(model, prompt[None])[0, :, : n_tokens(model)].double()
    clean = logits[-1]
    for remoteness, places in enumerate(_classes(len(prompt), away)):
        edited = list(_edited(prompt, _likely(logits, present), places))
        if not edited:
            continue
        where, tokens, rows = zip(*edited, strict=True)
        last = _last_logits(model, torch.stack(rows)).double()
        wrong = last.argmax(-1)
        after = last[:, answer] - last.gather(-1, wrong[:, None])[:, 0]
        before = clean[answer] - clean[wrong]
        strength = torch.minimum(before, -after).masked_fill(wrong == answer, -torch.inf)
        i = int(strength.argmax())  # the first of equal ones
        if float(strength[i]) > 0:
            return _Edit(
                clean=prompt,
                position=where[i],
                token=tokens[i],
                answer=answer,
                wrong=int(wrong[i]),
                clean_diff=float(before[i]),
                corrupted_diff=float(after[i]),
                remoteness=remoteness,
            )
    return None


def _likely(logits: Tensor, present: Tensor) -> list[list[int]]:
    """Which tokens of the text are tried at each position, from the logits [pos, token] of the clean prompt.

    Nothing predicts the first position: there it is the most frequent ones.
    """
    allowed = present.to(logits.device)
    order = logits[:-1, allowed].argsort(stable=True, dim=-1, descending=True)[:, : _REPLACEMENTS + 1]
    return [present[: _REPLACEMENTS + 1].tolist(), *allowed[order].tolist()]


def _classes(size: int, away: int) -> tuple[range, range, range]:
    """Positions by preference: far from the end, before the last, the last."""
    far = max(0, size - away)
    return range(far), range(far, size - 1), range(max(far, size - 1), size)


def _edited(prompt: Tensor, likely: list[list[int]], places: range) -> Iterator[tuple[int, int, Tensor]]:
    for place in places:
        own = int(prompt[place])
        for token in sorted([token for token in likely[place] if token != own][:_REPLACEMENTS]):
            row = prompt.clone()
            row[place] = token
            yield place, token, row


def _pair(model: Hooked, edit: _Edit, tried: str) -> PromptPair:
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
