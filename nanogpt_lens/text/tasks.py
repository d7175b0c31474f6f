"""Sequences that are made as they are needed, with the positions marked where induction is required.

In text nobody knows which predictions need induction. In these tasks it is known by construction, so
that accuracy there is a metric, and the positions where nothing has been seen yet are its control:

    trigger_bigrams   a text's character bigrams; in each sequence some characters, its triggers, are
                      always followed by one character each, drawn anew for that sequence
    repeated_random   random tokens, and the same tokens again

Every sequence follows from a seed. A task is small (`task.json`), and what is trained on it carries it along.
"""

from __future__ import annotations

import hashlib
import json
import operator
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from conversion.atomic import write_text
from conversion.errors import CheckpointError, NanoGPTLensError
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.errors import DataError
from nanogpt_lens.model.places import find_folder
from nanogpt_lens.text.datasets import TextData, read_data

TASK_NAME = "task.json"
"""The file that a run keeps its task in."""

_TRIES = 20
_CHARACTERS = "\n ,." + "".join(map(chr, (*range(48, 58), *range(65, 91), *range(97, 123))))[:60]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskSequences:
    """Sequences, and where they call for induction.

    Attributes:
        tokens: ids of shape [example, pos], int64.
        required: boolean, of the same shape: the token after this position follows for certain from what came
            after an earlier occurrence of the token here, and from nothing else.
        unseen: boolean, of the same shape: the same kind of position, but nothing like it came earlier.
    """

    tokens: np.ndarray
    required: np.ndarray
    unseen: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(ABC):
    """What a model can be trained on instead of a text.

    Attributes:
        vocabulary: the characters.
        name: what nanoGPT calls the `dataset`.
        text_sha256: of the text that the statistics are from, None without one.
    """

    vocabulary: CharVocabulary
    name: str
    text_sha256: str | None = None

    kind: ClassVar[str]

    @property
    def vocab_size(self) -> int:
        """Tokens of a model for this task."""
        return self.vocabulary.size

    @abstractmethod
    def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
        """`n` sequences of `seq_len` tokens; the generator's state decides which.

        Raises:
            DataError: `seq_len` is too small for this kind of task.
        """

    @abstractmethod
    def refuse_shorter_than(self, block_size: int) -> None:
        """Check that the task makes sense in a context of `block_size` tokens.

        Raises:
            DataError: it does not.
        """

    @abstractmethod
    def _plain(self) -> dict[str, Any]:
        """What this kind of task has beside the fields of all."""

    def to_json(self) -> str:
        """The task as JSON, the same text for the same task."""
        common = {"format": 1, "task": self.kind, "name": self.name, "text_sha256": self.text_sha256}
        return json.dumps({**common, "characters": list(self.vocabulary.chars), **self._plain()}) + "\n"

    @property
    def sha256(self) -> str:
        """Of the task itself."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Write `task.json`, in one step."""
        write_text(folder / TASK_NAME, self.to_json())
        return folder / TASK_NAME

    def settings(self) -> dict[str, Any]:
        """What a checkpoint says of what it was trained on."""
        options = {k: v for k, v in self._plain().items() if isinstance(v, int | float | str)}
        return {
            "dataset": self.name,
            "task": self.kind,
            **options,
            "text_sha256": self.text_sha256,
            "task_sha256": self.sha256,
            "train_tokens": 0,  # made as they are needed
            "val_tokens": 0,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class TriggerBigrams(Task):
    """A text's bigrams, but for the triggers of each sequence.

    A sequence starts with a character drawn by frequency, and each next one is drawn from the bigrams of
    the one before. Before that, `n_triggers` different characters are drawn by frequency, and for each an
    output, uniformly from the characters that are no triggers of this sequence: whenever a trigger occurs,
    its output follows. From its second occurrence on, it can be known which.

    Attributes:
        counts: how often each character [next] follows each [character], int64.
        n_triggers: per sequence.

    Source: Bietti et al. 2023, "Birth of a Transformer: A Memory Viewpoint". There an output may be a
    trigger too, even its own, which locks a sequence into a loop that needs no induction.
    """

    counts: np.ndarray
    n_triggers: int = 5

    kind: ClassVar[str] = "trigger_bigrams"

    def __post_init__(self) -> None:
        size = self.vocabulary.size
        if self.counts.shape != (size, size) or self.counts.dtype.kind not in "iu" or self.counts.min() < 0:
            raise DataError(
                f"{self.name}: counts are {self.counts.dtype} of shape {list(self.counts.shape)}; expected integers of "
                f"at least 0 [{size}, {size}]"
            )
        frequent = int((self.counts.sum(1) > 0).sum())
        if frequent < 2:
            raise DataError(
                f"{self.name}: something follows {frequent} different characters; expected at least 2 such characters, "
                "a trigger and another: give a longer text"
            )
        object.__setattr__(self, "n_triggers", _whole(self.n_triggers, f"{self.name}: n_triggers"))
        if not 1 <= self.n_triggers < frequent:
            raise DataError(
                f"{self.name}: n_triggers is {self.n_triggers}; expected 1 to {frequent - 1}, fewer than the "
                "characters that something follows in the text"
            )
        rows = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        rows[self.counts.sum(1) == 0] = self.frequencies
        object.__setattr__(self, "_cumulated", rows.cumsum(1))

    @property
    def frequencies(self) -> np.ndarray:
        """Of the characters, by what they are followed by [character], summing to 1."""
        return self.counts.sum(1) / self.counts.sum()

    @property
    def bigrams(self) -> np.ndarray:
        """The probability of each next character [character, next]; rows sum to 1."""
        cumulated: np.ndarray = self._cumulated  # pyright: ignore[reportAttributeAccessIssue]
        return np.diff(cumulated, axis=1, prepend=0.0)

    def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
        """See `Task.draw`; `unseen` is the first occurrence of each trigger."""
        return self.draw_with_triggers(n, seq_len, generator)[0]

    def draw_with_triggers(
        self, n: int, seq_len: int, generator: np.random.Generator
    ) -> tuple[TaskSequences, np.ndarray, np.ndarray]:
        """Sequences, and the triggers and the outputs of each, both [example, trigger]."""
        if seq_len < 1:
            raise DataError(f"seq_len is {seq_len}; expected at least 1 token")
        size, count = self.vocabulary.size, self.n_triggers
        with np.errstate(divide="ignore"):  # Gumbel's way to draw without putting back
            keys = np.log(self.frequencies) + generator.gumbel(size=(n, size))
        order = np.argsort(-keys, axis=1, kind="stable")
        triggers, others = order[:, :count], np.sort(order[:, count:], axis=1)
        outputs = np.take_along_axis(others, generator.integers(size - count, size=(n, count)), axis=1)
        follows = np.full((n, size), -1)  # the forced next character [example, character]
        np.put_along_axis(follows, triggers, outputs, axis=1)
        chance = generator.random((n, seq_len))
        cumulated: np.ndarray = self._cumulated  # pyright: ignore[reportAttributeAccessIssue]
        tokens, rows = np.empty((n, seq_len), np.int64), np.arange(n)
        tokens[:, 0] = _drawn(self.frequencies.cumsum()[None], chance[:, 0])
        for at in range(1, seq_len):
            before = tokens[:, at - 1]
            forced = follows[rows, before]
            tokens[:, at] = np.where(forced >= 0, forced, _drawn(cumulated[before], chance[:, at]))
        is_trigger = (tokens[:, :, None] == triggers[:, None, :]).any(-1)
        seen = _seen_before(tokens, size)
        sequences = TaskSequences(tokens=tokens, required=is_trigger & seen, unseen=is_trigger & ~seen)
        return sequences, triggers, outputs

    def refuse_shorter_than(self, block_size: int) -> None:
        """See `Task.refuse_shorter_than`."""
        if block_size < 4:
            raise DataError(f"block_size is {block_size}; expected at least 4, a trigger and its output twice")

    def _plain(self) -> dict[str, Any]:
        return {"n_triggers": self.n_triggers, "counts": self.counts.tolist()}


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatedRandom(Task):
    """Uniformly random characters, over and over: after one period every token is known.

    The period of each sequence is drawn from `shortest` to half the sequence. Characters of one period are
    different where the vocabulary allows; where they are not, a later one is marked as required only if
    the same character has always been followed by the same one.

    Attributes:
        shortest: the shortest period.
    """

    shortest: int = 8

    kind: ClassVar[str] = "repeated_random"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shortest", _whole(self.shortest, f"{self.name}: shortest"))
        if self.vocabulary.size < 2 or self.shortest < 2:
            raise DataError(
                f"{self.name}: {self.vocabulary.size} characters and a shortest period of {self.shortest}; "
                "expected at least 2 of each"
            )

    def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
        """See `Task.draw`; `unseen` is the first period."""
        if seq_len < 2:
            raise DataError(f"seq_len is {seq_len}; expected at least 2 tokens, one period twice")
        size = self.vocabulary.size
        periods = generator.integers(min(self.shortest, seq_len // 2), seq_len // 2 + 1, size=n)
        rounds = -(-seq_len // size)
        once = np.concatenate([generator.random((n, size)).argsort(1) for _ in range(rounds)], 1)
        at = np.arange(seq_len)[None] % periods[:, None]
        tokens = np.take_along_axis(once, at, axis=1)
        again = np.arange(seq_len)[None] >= periods[:, None]
        following = np.concatenate([tokens[:, 1:], np.take_along_axis(once, seq_len % periods[:, None], axis=1)], 1)
        required = again & _unambiguous(tokens, following)
        return TaskSequences(tokens=tokens, required=required, unseen=~again)

    def refuse_shorter_than(self, block_size: int) -> None:
        """See `Task.refuse_shorter_than`."""
        if block_size < 2 * self.shortest:
            raise DataError(
                f"block_size is {block_size}; expected at least {2 * self.shortest}, twice the shortest period: "
                "give a larger block_size, or a smaller shortest"
            )

    def _plain(self) -> dict[str, Any]:
        return {"shortest": self.shortest}


_KINDS: dict[str, type[Task]] = {TriggerBigrams.kind: TriggerBigrams, RepeatedRandom.kind: RepeatedRandom}


def trigger_bigrams(corpus: TextData | str | Path, *, n_triggers: int = 5) -> TriggerBigrams:
    """The trigger-bigram task with a text's statistics.

    Args:
        corpus: characters, or what `read_data` makes them from; its training part is counted.
        n_triggers: per sequence.

    Raises:
        DataError: no such text, tokens that are not characters, too many triggers.
    """
    data = corpus if isinstance(corpus, TextData) else read_data(corpus)
    vocabulary = _characters(data)
    size = vocabulary.size
    ids = np.asarray(data.train).astype(np.int64)
    counts = np.bincount(ids[:-1] * size + ids[1:], minlength=size * size).reshape(size, size)
    return TriggerBigrams(
        vocabulary=vocabulary,
        name=f"trigger bigrams of {data.name}",
        text_sha256=data.sha256,
        counts=counts,
        n_triggers=n_triggers,
    )


def repeated_random(corpus: TextData | str | Path | None = None, *, shortest: int = 8) -> RepeatedRandom:
    """The task of repeated random characters.

    Args:
        corpus: where the characters are from, see `read_data`; None for 64 characters.
        shortest: the shortest period.

    Raises:
        DataError: no such text, or tokens that are not characters.
    """
    if corpus is None:
        vocabulary = CharVocabulary(tuple(sorted(_CHARACTERS)), None)
        return RepeatedRandom(vocabulary=vocabulary, name="repeated random characters", shortest=shortest)
    data = corpus if isinstance(corpus, TextData) else read_data(corpus)
    return RepeatedRandom(
        vocabulary=_characters(data),
        name=f"repeated random characters of {data.name}",
        text_sha256=data.sha256,
        shortest=shortest,
    )


def read_task(path: str | Path) -> Task:
    """The task that a run keeps beside its checkpoints.

    Args:
        path: a folder with a `task.json`, that file, a checkpoint beside it, or the name of a shipped checkpoint.

    Raises:
        DataError: none there, or damaged.
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
        options = {k: plain[k] for k in ("n_triggers", "shortest") if k in plain}
        options |= {"name": str(plain["name"]), "text_sha256": None if digest is None else str(digest)}
        options["vocabulary"] = CharVocabulary(tuple(map(str, plain["characters"])), file)
        if "counts" in plain:
            options["counts"] = np.array(plain["counts"], dtype=np.int64)
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


def _characters(data: TextData) -> CharVocabulary:
    if not isinstance(data.vocabulary, CharVocabulary):
        raise DataError(f"{data.name} has no characters as tokens; expected a text, or a folder with a meta.pkl")
    return data.vocabulary


def _whole(value: Any, what: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise DataError(f"{what} is {value!r}; expected an integer") from None


def _drawn(cumulated: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Which character each number between 0 and 1 falls on, by cumulated probabilities [example or 1, character]."""
    below = (cumulated <= chance[:, None] * cumulated[:, -1:]).sum(1)
    return np.minimum(below, cumulated.shape[1] - 1)


def _seen_before(tokens: np.ndarray, size: int) -> np.ndarray:
    """Whether each token [example, pos] occurs earlier in its row."""
    first = np.full((len(tokens), size), tokens.shape[1])
    for at in range(tokens.shape[1] - 1, -1, -1):
        first[np.arange(len(tokens)), tokens[:, at]] = at
    return np.take_along_axis(first, tokens, axis=1) < np.arange(tokens.shape[1])


def _unambiguous(tokens: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Whether each token [example, pos] came earlier, and always with the same successor as now."""
    same = tokens[:, :, None] == tokens[:, None, :]  # [example, pos, earlier pos]
    earlier = same & np.tri(tokens.shape[1], k=-1, dtype=bool)
    agree = following[:, :, None] == following[:, None, :]
    return earlier.any(-1) & ~(earlier & ~agree).any(-1)
