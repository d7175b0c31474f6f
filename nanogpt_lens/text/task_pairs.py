"""Prompt pairs of a task: what followed the last token before is another token, and with it the answer.

Any task marks the positions after which the next token follows from an earlier occurrence of the token there, and from
nothing else. A prompt ends at such a position. In the corrupted prompt the token after every earlier occurrence is
another one, that is nowhere else in it: it calls for that other token, and is a sequence that the task could have
drawn but for what follows the tokens that were changed. The last token is the same in both.

`induction_pairs` is another question: there the earlier occurrence itself is replaced, and its successor stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, device_of, n_tokens
from nanogpt_lens.text.pair import Pair
from nanogpt_lens.text.prompts import LONGEST, induction_pairs
from nanogpt_lens.text.solved import solved_pairs
from nanogpt_lens.text.task import TASK_NAME, Task, TaskSequences
from nanogpt_lens.text.task_kinds import RepeatedRandom
from nanogpt_lens.text.tasks import read_task

_MOST = 64  # sequences that are drawn for each prompt


NAMES = ("induction", "repeated_random", "trigger_bigrams")
"""The tasks that are known by a name; any other is the place of a run that was trained on one."""

_IN_WORDS = ", ".join(NAMES) + ", or the folder of a run with a task.json"


def pairs_by_name(model: Hooked, name: str, **options: Any) -> Pair:
    """The prompt pairs of a task that is named in a word, or by the run that was trained on it.

    Args:
        model: the model.
        name: "induction" for random tokens [A][B] ... [A], see `induction_pairs`; "repeated_random" or
            "trigger_bigrams" for `task_pairs` of the model's own task if it is that one, or of random ones of its
            characters; else what `read_task` reads.
        options: seq_len, n, seed and solved_by, as for these functions.

    Raises:
        AnalysisError: the model does not know such a task, the task has no pairs, and whatever these functions raise.
        DataError: there is no such place, or it has no task.
    """
    return (
        induction_pairs(model, **options) if name == "induction" else task_pairs(model, _task(model, name), **options)
    )


def _task(model: Hooked, name: str) -> Task:
    """The task of a name or a place."""
    if name == "text":
        raise AnalysisError(
            "the task text has no prompt pairs, since nothing marks what a text calls for: give --text, whose pairs "
            f"are searched for, or a task: {_IN_WORDS}"
        )
    if name not in NAMES:
        return read_task(name)
    origin, own = getattr(model, "nanogpt_origin", None), _of_run(model)
    if own is not None and own.kind == name:
        return own
    vocabulary = getattr(origin, "vocabulary", None)
    if name == "repeated_random" and isinstance(vocabulary, CharVocabulary):
        return RepeatedRandom(vocabulary=vocabulary, name="repeated random characters of the model")
    lacks = (
        "has no characters" if name == "repeated_random" else f"was not trained on {name}, whose bigrams are a text's"
    )
    others = _IN_WORDS.replace(f"{name}, ", "")
    raise AnalysisError(f"this model {lacks}; expected another task: {others}")


def own_task(model: Hooked) -> str:
    """The name of the task that the model was trained on, where its folder says so and it has pairs; else induction."""
    own = _of_run(model)
    return own.kind if own is not None and own.kind in NAMES else NAMES[0]


def _of_run(model: Hooked) -> Task | None:
    """The task of the model's own run; None where its folder has none."""
    path = getattr(getattr(model, "nanogpt_origin", None), "path", None)
    if path is None or not (Path(path).parent / TASK_NAME).is_file():
        return None
    return read_task(Path(path))


def check_fits(model: Hooked, task: Task) -> None:
    """Raise AnalysisError unless a task has the model's characters, and makes sense in its context."""
    check_model(model)
    vocabulary = getattr(getattr(model, "tokenizer", None), "encoder", None)
    chars = getattr(vocabulary, "chars", None)
    if task.vocab_size != n_tokens(model) or (chars is not None and tuple(chars) != tuple(task.vocabulary.chars)):
        raise AnalysisError(
            f"the task '{task.name}' has {task.vocab_size} characters, and the model {n_tokens(model)} tokens or "
            "others; expected the same: give the task.json of the model's own run"
        )
    task.refuse_shorter_than(model.cfg.n_ctx)


def task_generator(seed: int) -> np.random.Generator:
    """The generator that draws the sequences to measure on; no training run's generator starts like it."""
    return np.random.default_rng([2**32 - 1, seed])


def task_pairs(
    model: Hooked,
    task: Task,
    *,
    seq_len: int | None = None,
    n: int = 32,
    seed: int = 0,
    solved_by: Hooked | None = None,
) -> Pair:
    """Prompts of a task that end where it requires induction, and the same calling for another token.

    Args:
        model: the model, for its context and its device.
        task: the task that the model was trained on, see `tasks.read_task`.
        seq_len: the tokens of a prompt; None for 32, or the context where that is less.
        n: the number of prompts.
        seed: the seed of the sequences; no training run draws the same ones.
        solved_by: as for `induction_pairs`.

    Returns:
        The pair; `answer` is the token that the clean prompt calls for, `wrong` that of the corrupted one.

    Raises:
        AnalysisError: the task has other characters than the model, prompts do not fit the context, or the task
            hardly ever requires induction after so many tokens.
    """
    check_fits(model, task)
    check_whole(1, n=n)
    check_whole(seed=seed)
    length = min(int(model.cfg.n_ctx), LONGEST) if seq_len is None else seq_len
    if not 3 <= length <= model.cfg.n_ctx:
        raise AnalysisError(f"prompts of {length} tokens were asked for; expected 3 to {model.cfg.n_ctx}, the context")
    generator = task_generator(seed)
    if solved_by is not None:
        return solved_pairs(solved_by, lambda many: _drawn(model, task, length, many, generator), n=n)
    return _drawn(model, task, length, n, generator)


def _drawn(model: Hooked, task: Task, length: int, n: int, generator: np.random.Generator) -> Pair:
    """Pairs as the task gives them.

    Raises:
        AnalysisError: it hardly ever does.
    """
    rows = list[Int[np.ndarray, " pos"]]()
    for _ in range(_MOST):
        drawn = task.draw(n, length + 1, generator)
        rows += list(drawn.tokens[_can_be_asked(drawn)])
        if len(rows) >= n:
            break
    else:
        raise AnalysisError(
            f"of {_MOST * n:,} sequences of '{task.name}', {len(rows)} require induction after {length} tokens, and "
            f"{n} prompts were asked for: it has no such pairs, or needs another seq_len"
        )
    whole = np.stack(rows[:n])
    wrong = _others(whole, n_tokens(model), generator)
    clean = whole[:, :-1]
    corrupted = np.where(_followers(clean), wrong[:, None], clean)
    some = (clean, corrupted, whole[:, -1], wrong)
    ids = [torch.from_numpy(array.copy()).to(device_of(model)) for array in some]
    return Pair(clean=ids[0], corrupted=ids[1], answer=ids[2], wrong=ids[3])


def _can_be_asked(drawn: TaskSequences) -> Bool[np.ndarray, " example"]:
    """Whether the last token but one requires induction, and is followed by another token than itself."""
    return drawn.required[:, -2] & (drawn.tokens[:, -1] != drawn.tokens[:, -2])


def _followers(prompts: Int[np.ndarray, "example pos"]) -> Bool[np.ndarray, "example pos"]:
    """Whether the token before each is the prompt's last token."""
    after = np.zeros(prompts.shape, bool)
    after[:, 1:] = prompts[:, :-1] == prompts[:, -1:]
    return after


def _others(
    whole: Int[np.ndarray, "example pos"], size: int, generator: np.random.Generator
) -> Int[np.ndarray, " example"]:
    """For each sequence a token drawn from those that are rarest in it: where the vocabulary allows, not in it."""
    counts = (whole[:, :, None] == np.arange(size)).sum(1)
    rows = np.arange(len(whole))
    counts[rows, whole[:, -1]] = counts[rows, whole[:, -2]] = whole.shape[1] + 1  # neither the answer nor the last
    return (counts + generator.random(counts.shape)).argmin(1)
