"""What a task is: sequences that follow from a seed, with the positions marked where induction is required."""

from __future__ import annotations

import hashlib
import json
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from conversion.atomic import write_text
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.errors import DataError

TASK_NAME = "task.json"
"""The file that a run keeps its task in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskSequences:
    """Sequences, and the positions that call for induction.

    Attributes:
        tokens: the ids, int64.
        required: the token after this position follows for certain from what came
            after an earlier occurrence of the token here, and from nothing else.
        unseen: the same kind of position, but nothing like it came earlier.
    """

    tokens: Int[np.ndarray, "example pos"]
    required: Bool[np.ndarray, "example pos"]
    unseen: Bool[np.ndarray, "example pos"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(ABC):
    """What a model can be trained on instead of a text.

    Attributes:
        vocabulary: the characters.
        name: what nanoGPT calls the `dataset`.
        text_sha256: the SHA-256 of the text that the statistics are from, None without a text.
    """

    vocabulary: CharVocabulary
    name: str
    text_sha256: str | None = None

    kind: ClassVar[str]

    @property
    def vocab_size(self) -> int:
        """The number of tokens of a model for this task."""
        return self.vocabulary.size

    @abstractmethod
    def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
        """`n` sequences of `seq_len` tokens; the generator's state decides which.

        Raises:
            DataError: `seq_len` is too small for this kind of task.
        """

    @abstractmethod
    def refuse_shorter_than(self, block_size: int) -> None:
        """Raise DataError unless the task makes sense in a context of `block_size` tokens."""

    @abstractmethod
    def _plain(self) -> dict[str, Any]:
        """What this kind of task has beside the fields of all."""

    def to_json(self) -> str:
        """The task as JSON, the same text for the same task."""
        common = {"format": 1, "task": self.kind, "name": self.name, "text_sha256": self.text_sha256}
        return json.dumps({**common, "characters": list(self.vocabulary.chars), **self._plain()}) + "\n"

    @property
    def sha256(self) -> str:
        """The SHA-256 of the task itself."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Write `task.json` in one step, and return its path."""
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


def whole_number(value: Any, what: str) -> int:
    """A value as an int; DataError if it is no whole number."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise DataError(f"{what} is {value!r}; expected an integer") from None
