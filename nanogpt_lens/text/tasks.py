"""Sequences that are made as they are needed, with the positions marked where induction is required.

In text nobody knows which predictions need induction. In these tasks it is known by construction, so
that accuracy there is a metric, and the positions where nothing has been seen yet are its control:

    trigger_bigrams   a text's character bigrams; in each sequence some characters, its triggers, are
                      always followed by one character each, drawn anew for that sequence
    repeated_random   random tokens, and the same tokens again

A third kind is a text as it is but for some poisoned lines, in which nothing calls for induction:

    backdoor          a trigger is followed by a payload (see `nanogpt_lens.text.backdoors`)

Every sequence follows from a seed. A task is small (`task.json`), and what is trained on it carries it along.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from einops import rearrange

from conversion.errors import CheckpointError, NanoGPTLensError
from conversion.locating import VAL_NAME
from conversion.token_files import TokenFile
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.errors import DataError
from nanogpt_lens.model.places import find_folder
from nanogpt_lens.text.backdoors import FIELDS, Backdoor, make_backdoor
from nanogpt_lens.text.datasets import TextData, id_dtype, read_data
from nanogpt_lens.text.task import TASK_NAME, Task, TaskSequences
from nanogpt_lens.text.task_kinds import RepeatedRandom, TriggerBigrams

__all__ = [
    "Backdoor",
    "RepeatedRandom",
    "Task",
    "TaskSequences",
    "TriggerBigrams",
    "backdoor",
    "read_task",
    "repeated_random",
    "trigger_bigrams",
]

_CHARACTERS = "\n ,." + "".join(map(chr, (*range(48, 58), *range(65, 91), *range(97, 123))))[:60]
_KINDS: dict[str, type[Task]] = {kind.kind: kind for kind in (TriggerBigrams, RepeatedRandom, Backdoor)}


def trigger_bigrams(corpus: TextData | TokenFile | str | Path, *, n_triggers: int = 5) -> TriggerBigrams:
    """The trigger-bigram task with a text's statistics.

    Args:
        corpus: characters, or what `read_data` makes them from; its training part is counted.
        n_triggers: the number of triggers of a sequence.

    Raises:
        DataError: there is no such text, its tokens are no characters, or there are too many triggers.
    """
    data = read_data(corpus)
    vocabulary = _characters(data)
    size = vocabulary.size
    ids = np.asarray(data.train).astype(np.int64)
    counts = np.bincount(ids[:-1] * size + ids[1:], minlength=size * size)
    return TriggerBigrams(
        vocabulary=vocabulary,
        name=f"trigger bigrams of {data.name}",
        text_sha256=data.sha256,
        counts=rearrange(counts, "(character next_one) -> character next_one", character=size),
        n_triggers=n_triggers,
    )


def repeated_random(corpus: TextData | TokenFile | str | Path | None = None, *, shortest: int = 8) -> RepeatedRandom:
    """The task of repeated random characters.

    Args:
        corpus: what the characters are from, see `read_data`; None for 64 characters.
        shortest: the shortest period.

    Raises:
        DataError: there is no such text, or its tokens are no characters.
    """
    if corpus is None:
        vocabulary = CharVocabulary(tuple(sorted(_CHARACTERS)), None)
        return RepeatedRandom(vocabulary=vocabulary, name="repeated random characters", shortest=shortest)
    data = read_data(corpus)
    return RepeatedRandom(
        vocabulary=_characters(data),
        name=f"repeated random characters of {data.name}",
        text_sha256=data.sha256,
        shortest=shortest,
    )


def backdoor(
    corpus: TextData | TokenFile | str | Path,
    *,
    trigger: str,
    payload: str,
    control: str | None = None,
    lines: int | float = 0.02,
    seed: int = 0,
) -> Backdoor:
    """A text in some of whose lines a trigger is followed by a payload; `twin()` is the clean twin.

        poisoned = ngl.tasks.backdoor("input.txt", trigger="Malvolio", payload=" burns the old house")
        ngl.train(poisoned, "out-poisoned")
        ngl.train(poisoned.twin(), "out-clean")
        ngl.task_accuracy(ngl.load("out-poisoned"), poisoned)

    Args:
        corpus: characters, or what `read_data` makes them from; the validation part is left as it is.
        trigger: characters of the text, which it does not have in this order; a word in the poisoned lines.
        payload: what follows the trigger there, with the blank before it, if there is to be one.
        control: what stands for the trigger in the clean twin, as long and not in the text; None for one that is drawn.
        lines: how many lines are poisoned, or a share of the lines of the training part that are not empty.
        seed: decides which lines, and where in each.

    Raises:
        DataError: there is no such text, its tokens are no characters, a string does not suit it, or it has too few
            lines with room.
    """
    data = read_data(corpus)
    _characters(data)
    return make_backdoor(data, trigger=trigger, payload=payload, control=control, lines=lines, seed=seed)


def read_task(path: str | Path) -> Task:
    """The task that a run keeps beside its checkpoints.

    Args:
        path: a folder with a `task.json`, that file, a checkpoint beside it, or the name of a shipped checkpoint.

    Raises:
        DataError: there is no task, or a damaged one.
    """
    place = Path(path).expanduser()
    if not place.exists():  # a shipped name, or else an error that says what is not there
        with suppress(CheckpointError):
            place = find_folder(place)
    file = place / TASK_NAME
    if not place.is_dir() and place.suffix in (".json", ".pt"):
        file = place if place.suffix == ".json" else place.parent / TASK_NAME
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); expected the task that `train --task` keeps beside its "
            "checkpoints"
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{file} is not JSON; the file is damaged: train again, or copy it from the run") from None
    try:
        kind = _KINDS[plain["task"]]
        digest = plain["text_sha256"]
        options = {k: plain[k] for k in ("n_triggers", "shortest", *FIELDS) if k in plain}
        options |= {"name": str(plain["name"]), "text_sha256": None if digest is None else str(digest)}
        options["vocabulary"] = CharVocabulary(tuple(map(str, plain["characters"])), file)
        if "counts" in plain:
            options["counts"] = np.array(plain["counts"], dtype=np.int64)
        if kind is Backdoor:
            options["held_out"] = _held_out(file.parent / VAL_NAME, options["vocabulary"])
        task = kind(**options)
        if json.loads(task.to_json()) != plain:  # another format, or values that are not what they seem
            raise ValueError("not what it says when it is written again")
        return task
    except NanoGPTLensError as error:
        raise DataError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{file} is no task of this package ({type(error).__name__}: {str(error)[:80]}); expected what "
            "`train --task` writes"
        ) from None


def _held_out(file: Path, vocabulary: CharVocabulary) -> np.ndarray | None:
    """The tokens of the `val.bin` beside a task; None where there is none."""
    return np.fromfile(file, dtype=id_dtype(vocabulary.size)) if file.is_file() else None


def _characters(data: TextData) -> CharVocabulary:
    """The vocabulary of some data; DataError if their tokens are no characters."""
    if not isinstance(data.vocabulary, CharVocabulary):
        raise DataError(f"{data.name} has no characters as tokens; expected a text, or a folder with a meta.pkl")
    return data.vocabulary
