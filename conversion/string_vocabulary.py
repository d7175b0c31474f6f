"""Vocabularies whose tokens are strings of several characters: words, moves, or characters beside `<PAD>`.

Ids become text by joining, as nanoGPT's `sample.py` does. The other way is not said anywhere: a file of words does
not tell how its author cut a text. So a text is encoded only where there is exactly one way to cut it into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int

from conversion.errors import VocabularyError
from conversion.meta_file import write_meta

_MOST_LETTERS = 10**7


def joined(tokens: Sequence[str], ids: Sequence[int] | np.ndarray) -> str:
    """The tokens with some ids, one after the other.

    Raises:
        VocabularyError: there is no token with an id.
    """
    numbers = np.asarray(ids, dtype=np.int64).reshape(-1)
    outside = numbers[(numbers < 0) | (numbers >= len(tokens))]
    if len(outside):
        raise VocabularyError(f"token {outside[0]} is not in the vocabulary; expected ids from 0 to {len(tokens) - 1}")
    return "".join(tokens[i] for i in numbers.tolist())


@dataclass(frozen=True)
class StringVocabulary:
    """One id per string.

    Attributes:
        strings: the strings in the order of their ids; one that the file leaves out is "[id]".
        source: the file that the vocabulary came from.
        absent: the ids that the file leaves out, to which no text leads.
    """

    strings: tuple[str, ...]
    source: Path | None = None
    absent: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not self.strings:
            raise VocabularyError(f"{self.source or 'the vocabulary'} is empty; expected at least one token")
        if len(set(self.strings)) != len(self.strings):
            raise VocabularyError(f"{self.source or 'the vocabulary'} has a token twice; expected one id per token")

    @property
    def kind(self) -> str:
        """The kind of vocabulary, as documents call it."""
        return "strings"

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return len(self.strings)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of every string that text can lead to."""
        return {string: i for i, string in enumerate(self.strings) if i not in self.absent and string}

    @cached_property
    def characters(self) -> frozenset[str]:
        """All characters of all strings."""
        return frozenset().union(*self.strings)

    @cached_property
    def one_way(self) -> bool:
        """Whether every text can be cut into tokens in one way at most (the test of Sardinas and Patterson).

        False also for vocabularies so large that the test would take minutes.
        """
        if sum(len(word) ** 2 for word in self.ids) > _MOST_LETTERS:
            return False
        rests: dict[str, list[str]] = {}
        for word in self.ids:
            for n in range(1, len(word)):
                rests.setdefault(word[:n], []).append(word[n:])
        waiting = [rest for word in self.ids for rest in rests.get(word, ())]
        seen = set(waiting)
        while waiting:
            dangling = waiting.pop()
            if dangling in self.ids:
                return False
            shorter = (dangling[n:] for n in range(1, len(dangling)) if dangling[:n] in self.ids)
            for rest in (*shorter, *rests.get(dangling, ())):
                if rest not in seen:
                    seen.add(rest)
                    waiting.append(rest)
        return True

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted({len(string) for string in self.ids}))

    def encode(self, text: str) -> Int[np.ndarray, " token"]:
        """The ids of a text that can be cut into tokens in one way only.

        Raises:
            VocabularyError: there is no way to cut the text into tokens, or more than one.
        """
        ways = self._ways(text)
        if not ways[-1]:
            self._refuse_unknown(text, ways)
        ids: list[int] = []
        end = len(text)
        while end:
            last = self._last_tokens(text, end, ways)
            if len(last) > 1:
                self._refuse_ambiguous(text, end, last)
            ids.append(self.ids[last[0]])
            end -= len(last[0])
        return np.array(ids[::-1], dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The strings of some ids, joined.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        return joined(self.strings, ids)

    def cut(self, text: str) -> list[str]:
        """The tokens of a text; raises VocabularyError as `encode` does."""
        return [self.strings[i] for i in self.encode(text)]

    def to_meta(self) -> dict[str, Any]:
        """The dictionary that nanoGPT's `meta.pkl` holds."""
        itos = {i: string for i, string in enumerate(self.strings) if i not in self.absent}
        return {"vocab_size": self.size, "itos": itos, "stoi": {string: i for i, string in itos.items()}}

    def save(self, folder: str | Path) -> Path:
        """Write `meta.pkl` into a folder."""
        return write_meta(folder, self.to_meta())

    def _ways(self, text: str) -> bytearray:
        """For every place in a text, whether the text before it can be cut into tokens."""
        reached = bytearray(len(text) + 1)
        reached[0] = 1
        for end in range(1, len(text) + 1):
            for length in self._lengths:
                if length > end:
                    break
                if reached[end - length] and text[end - length : end] in self.ids:
                    reached[end] = 1
                    break
        return reached

    def _last_tokens(self, text: str, end: int, reached: bytearray) -> list[str]:
        """The tokens that can be the last one of `text[:end]`."""
        pieces = (text[end - n : end] for n in self._lengths if n <= end and reached[end - n])
        return [piece for piece in pieces if piece in self.ids]

    def _refuse_unknown(self, text: str, reached: bytearray) -> NoReturn:
        place = max(i for i, reachable in enumerate(reached) if reachable)
        raise VocabularyError(
            f"the text cannot be cut into the {len(self.ids)} tokens of {self.source or 'the vocabulary'}: no token "
            f"leads on from position {place} ({text[place : place + 20]!r}); give token ids"
        )

    def _refuse_ambiguous(self, text: str, end: int, last: list[str]) -> NoReturn:
        choice = " or ".join(repr(token) for token in last[:3])
        raise VocabularyError(
            f"the text can be cut into the tokens of {self.source or 'the vocabulary'} in more than one way (at "
            f"position {end} ends {choice}, in {text[max(0, end - 20) : end]!r}), and the file does not say which is "
            "meant; give token ids"
        )
