"""The two kinds of tasks: a text's bigrams with triggers, and random tokens that are repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from nanogpt_lens.core.errors import DataError
from nanogpt_lens.text.task import Task, TaskSequences, whole_number


@dataclass(frozen=True, kw_only=True, eq=False)
class TriggerBigrams(Task):
    """A text's bigrams, but for the triggers of each sequence.

    A sequence starts with a character drawn by frequency, and each next one is drawn from the bigrams of
    the one before. Before that, `n_triggers` different characters are drawn by frequency, and for each an
    output, uniformly from the characters that are no triggers of this sequence: whenever a trigger occurs,
    its output follows. From its second occurrence on, it can be known which.

    Attributes:
        counts: how often each next character follows each character, int64.
        n_triggers: the number of triggers of a sequence.

    Source: Bietti et al. 2023, "Birth of a Transformer: A Memory Viewpoint". There an output may be a
    trigger too, even its own, which locks a sequence into a loop that needs no induction.
    """

    counts: Integer[np.ndarray, "character character"]
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
        object.__setattr__(self, "n_triggers", whole_number(self.n_triggers, f"{self.name}: n_triggers"))
        if not 1 <= self.n_triggers < frequent:
            raise DataError(
                f"{self.name}: n_triggers is {self.n_triggers}; expected 1 to {frequent - 1}, fewer than the "
                "characters that something follows in the text"
            )
        rows = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        rows[self.counts.sum(1) == 0] = self.frequencies
        object.__setattr__(self, "_cumulated", rows.cumsum(1))

    @property
    def frequencies(self) -> Float[np.ndarray, " character"]:
        """The share of each character among those that something follows; they sum to 1."""
        return self.counts.sum(1) / self.counts.sum()

    @property
    def bigrams(self) -> Float[np.ndarray, "character next"]:
        """The probability of each next character; rows sum to 1."""
        cumulated: Float[np.ndarray, "character next"] = self._cumulated  # pyright: ignore[reportAttributeAccessIssue]
        return np.diff(cumulated, axis=1, prepend=0.0)

    def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
        """Sequences as `Task.draw` says; `unseen` is the first occurrence of each trigger."""
        return self.draw_with_triggers(n, seq_len, generator)[0]

    def draw_with_triggers(
        self, n: int, seq_len: int, generator: np.random.Generator
    ) -> tuple[TaskSequences, Int[np.ndarray, "example trigger"], Int[np.ndarray, "example trigger"]]:
        """Sequences, and the triggers and the outputs of each."""
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
        cumulated: Float[np.ndarray, "character next"] = self._cumulated  # pyright: ignore[reportAttributeAccessIssue]
        tokens, rows = np.empty((n, seq_len), np.int64), np.arange(n)
        tokens[:, 0] = _characters_at(self.frequencies.cumsum()[None], chance[:, 0])
        for at in range(1, seq_len):
            before = tokens[:, at - 1]
            forced = follows[rows, before]
            tokens[:, at] = np.where(forced >= 0, forced, _characters_at(cumulated[before], chance[:, at]))
        is_trigger = (tokens[:, :, None] == triggers[:, None, :]).any(-1)
        seen = _seen_before(tokens, size)
        sequences = TaskSequences(tokens=tokens, required=is_trigger & seen, unseen=is_trigger & ~seen)
        return sequences, triggers, outputs

    def refuse_shorter_than(self, block_size: int) -> None:
        """Raise DataError unless there is room for what has to be learnt twice."""
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
        object.__setattr__(self, "shortest", whole_number(self.shortest, f"{self.name}: shortest"))
        if self.vocabulary.size < 2 or self.shortest < 2:
            raise DataError(
                f"{self.name}: {self.vocabulary.size} characters and a shortest period of {self.shortest}; "
                "expected at least 2 of each"
            )

    def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
        """Sequences as `Task.draw` says; `unseen` is the first period."""
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
        """Raise DataError unless there is room for what has to be learnt twice."""
        if block_size < 2 * self.shortest:
            raise DataError(
                f"block_size is {block_size}; expected at least {2 * self.shortest}, twice the shortest period: "
                "give a larger block_size, or a smaller shortest"
            )

    def _plain(self) -> dict[str, Any]:
        return {"shortest": self.shortest}


def _characters_at(
    cumulated: Float[np.ndarray, "rows character"], chance: Float[np.ndarray, " example"]
) -> Int[np.ndarray, " example"]:
    """The character that each number between 0 and 1 falls on, by cumulated probabilities.

    One row of probabilities stands for all examples where they have the same.
    """
    below = (cumulated <= chance[:, None] * cumulated[:, -1:]).sum(1)
    return np.minimum(below, cumulated.shape[1] - 1)


def _seen_before(tokens: Int[np.ndarray, "example pos"], size: int) -> Bool[np.ndarray, "example pos"]:
    """Whether each token occurs earlier in its row."""
    first = np.full((len(tokens), size), tokens.shape[1])
    for at in range(tokens.shape[1] - 1, -1, -1):
        first[np.arange(len(tokens)), tokens[:, at]] = at
    return np.take_along_axis(first, tokens, axis=1) < np.arange(tokens.shape[1])


def _unambiguous(
    tokens: Int[np.ndarray, "example pos"], following: Int[np.ndarray, "example pos"]
) -> Bool[np.ndarray, "example pos"]:
    """Whether each token came earlier, and always with the same successor as now."""
    same = tokens[:, :, None] == tokens[:, None, :]  # [example, pos, earlier pos]
    earlier = same & np.tri(tokens.shape[1], k=-1, dtype=bool)
    agree = following[:, :, None] == following[:, None, :]
    return earlier.any(-1) & ~(earlier & ~agree).any(-1)
