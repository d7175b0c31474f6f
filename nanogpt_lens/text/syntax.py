"""Classes of places that syntax sets apart: starts of words, lines and sentences, speakers' names, brackets.

A class says which earlier places belong to a place. In some it is the same for all who look back ("word_start": the
first letter of any word); in others it is one's own ("own_word_start": from a later letter of a word to its first).
They are decided on the text of the whole corpus, character by character. A token of several characters belongs where
any of its characters does; it looks back from its last one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.text.predicates import RULES, spans, token_class
from nanogpt_lens.text.sequences import Sequences

PLACES: dict[str, str] = {
    "word_start": "the first letter of any word",
    "line_start": "the first character of any line that is not empty",
    "sentence_start": "the first character after the end of any sentence",
    "speaker_name": "a letter of any speaker's name",
    "vowel_after_consonant": "any vowel that follows a consonant",
    "own_word_start": "from the later letters of a word to its first",
    "own_word_middle": "from the later letters of a word to its earlier ones but the first",
    "own_word_break": "from the letters of a word to what stands directly before it",
    "own_line_start": "from the later characters of a line to its first",
    "own_line_break": "from the characters of a line to the newline before it",
    "own_sentence_start": "from the later characters of a sentence to its first",
    "own_speaker": "from a speech to the letters of its speaker's name",
    "same_name": "from the later letters of a speaker's name to the earlier ones",
    "own_bracket": "from what is in brackets, and from the closing one, to the one that opens them",
    "own_quote": "from what is in double quotes, and from the closing one, to the one that opens them",
}
"""Every class, and what it holds."""

_ANYWHERE = {
    **{name: name for name in ("word_start", "line_start", "sentence_start", "speaker_name")},
    "vowel_after_consonant": r"re:(?i)(?<=[bcdfghjklmnpqrstvwxyz])[aeiou]",
}
_WORD = re.compile(r"(?<!\w)(?<!\w['’])\w+(?:['’]\w+)*")
_BRACKETS = {")": "(", "]": "[", "}": "{"}

Range: TypeAlias = tuple[int, int, int, int]
"""Characters from the first to before the second belong to those from the third to before the fourth."""


def _words(text: str) -> list[Range]:
    return [(m.start(), m.start() + 1, m.start() + 1, m.end()) for m in _WORD.finditer(text)]


def _breaks(words: list[Range]) -> list[Range]:
    """From all of a word or line to the character before it."""
    return [(start - 1, start, start, end) for start, _, _, end in words if start]


def _middles(text: str) -> list[Range]:
    return [(m.start() + 1, m.end(), m.start() + 2, m.end()) for m in _WORD.finditer(text) if m.end() > m.start() + 2]


def _lines(text: str) -> list[Range]:
    return [(m.start(), m.start() + 1, m.start() + 1, m.end()) for m in re.finditer(r"[^\n]+\n?", text)]


def _sentences(text: str) -> list[Range]:
    starts = [m.start("at") for m in re.finditer(RULES["sentence_start"], text)]
    return [(start, start + 1, start + 1, end) for start, end in pairwise([*starts, len(text)])]


def _names(text: str) -> list[tuple[int, int]]:
    return [m.span("at") for m in re.finditer(RULES["speaker_name"], text)]


def _speeches(text: str) -> list[Range]:
    names = [*_names(text), (len(text), len(text))]
    return [(*name, name[1], after[0]) for name, after in pairwise(names)]


def _letters_of_names(text: str) -> list[Range]:
    return [(start, end, start + 1, end) for start, end in _names(text)]


def _brackets(text: str) -> list[Range]:
    found, waiting = [], []
    for m in re.finditer(r"[()\[\]{}]", text):
        if m[0] not in _BRACKETS:
            waiting.append(m.start())
        elif waiting and text[waiting[-1]] == _BRACKETS[m[0]]:
            opening = waiting.pop()
            found.append((opening, opening + 1, opening + 1, m.end()))
    return sorted(found)  # those inside come later, and win


def _quotes(text: str) -> list[Range]:
    quoted = re.finditer(r'"(?:[^"\n]|\n(?!\n))*"|“[^“”]*”', text)
    return [(m.start(), m.start() + 1, m.start() + 1, m.end()) for m in quoted]


_OWN: dict[str, Callable[[str], list[Range]]] = {
    "own_word_start": _words,
    "own_word_middle": _middles,
    "own_word_break": lambda text: _breaks(_words(text)),
    "own_line_start": _lines,
    "own_line_break": lambda text: _breaks(_lines(text)),
    "own_sentence_start": _sentences,
    "own_speaker": _speeches,
    "same_name": _letters_of_names,
    "own_bracket": _brackets,
    "own_quote": _quotes,
}


class Belonging(NamedTuple):
    """Which places each place of some sequences looks back to.

    Attributes:
        names: the classes that the corpus has.
        absent: those that were asked for by nobody in particular, and that it does not have.
        to: whether the place so many tokens back (1, 2, ...) is of the class, be it in the sequence or before it.
    """

    names: tuple[str, ...]
    absent: tuple[str, ...]
    to: Bool[Tensor, "score example pos back"]


def places_of_classes(
    model: Hooked,
    sequences: Sequences,
    at: Int[np.ndarray, "example pos"],
    classes: Sequence[str] | None = None,
) -> Belonging:
    """Which earlier places belong to each place, class by class.

    Args:
        model: the model, for its vocabulary.
        sequences: the corpus; each row of ids [example, pos] is a text by itself.
        at: the corpus index of every token of the sequences that are looked at.
        classes: of `PLACES`; None for all that the corpus has.

    Raises:
        AnalysisError: no such class, a class that was named and that the corpus does not have, a model without a
            vocabulary.
    """
    names = tuple(PLACES) if classes is None else tuple(classes)
    if isinstance(classes, str) or not names or len(set(names)) < len(names):
        raise AnalysisError(f"classes is {classes!r}; expected names of classes, each once, such as ['word_start']")
    for name in names:
        if name not in PLACES:
            raise AnalysisError(
                f"there is no class {name!r}; expected some of {', '.join(PLACES)}{did_you_mean(name, PLACES)}"
            )
    texts = _Texts.of(model, sequences)
    found: dict[str, Bool[Tensor, "example pos back"]] = {}
    for name in names:
        if (to := texts.belonging(model, sequences, name, at)) is not None:
            found[name] = to
        elif classes is not None:
            raise AnalysisError(f"{sequences.name} has no {name} ({PLACES[name]}) in these sequences; leave it out")
    if not found:
        raise AnalysisError(f"{sequences.name} has none of {', '.join(names)} in these sequences; give a longer text")
    absent = tuple(name for name in names if name not in found)
    return Belonging(tuple(found), absent, torch.stack(list(found.values())))


class _Texts(NamedTuple):
    """The texts of a corpus.

    Attributes:
        texts: each text.
        starts, ends: the characters of each token, within its text.
        first: the corpus index of the first token of the token's text.
    """

    texts: list[str]
    starts: list[Int[np.ndarray, " token"]]
    ends: list[Int[np.ndarray, " token"]]
    first: Int[np.ndarray, " token"]

    @classmethod
    def of(cls, model: Hooked, sequences: Sequences) -> _Texts:
        """The texts of a corpus."""
        n, width = sequences.n_tokens, sequences.text_length
        each = [spans(model, sequences.tokens(i, min(i + width, n)).numpy()) for i in range(0, n, width)]
        texts, starts, ends = zip(*each, strict=True)
        return cls(list(texts), list(starts), list(ends), np.arange(n) // width * width)

    def belonging(
        self, model: Hooked, sequences: Sequences, name: str, at: Int[np.ndarray, "example pos"]
    ) -> Bool[Tensor, "example pos back"] | None:
        """Whether the place so many tokens back is of the class; None where none is, in the sequences."""
        back = np.arange(1, at.shape[1])
        key = at[..., None] - back
        if name in _ANYWHERE:
            try:
                mask, _ = token_class(model, sequences, _ANYWHERE[name])
            except AnalysisError:  # no token of the corpus is in the class, or every one is
                return None
            inside = mask[key.clip(0)] & (key >= self.first[at][..., None])
        else:
            low, high = self._ranges(_OWN[name])
            inside = (key >= low[at][..., None]) & (key < high[at][..., None])
        seen = inside & (back <= np.arange(at.shape[1])[:, None])
        return torch.from_numpy(inside) if seen.any() else None

    def _ranges(
        self, rule: Callable[[str], list[Range]]
    ) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
        """The corpus indices from and before which the places lie that belong to each token; none: both are 0."""
        lows, highs, before = [], [], 0
        for text, starts, ends in zip(self.texts, self.starts, self.ends, strict=True):
            low, high = np.zeros(len(text) + 1, dtype=np.int64), np.zeros(len(text) + 1, dtype=np.int64)
            for first, stop, inner, end in rule(text):
                low[inner:end], high[inner:end] = first, stop
            last = (ends - 1).clip(0)
            some = high[last] > low[last]
            begin = np.searchsorted(ends, low[last], side="right")
            stop = np.searchsorted(starts, high[last], side="left")
            lows.append(np.where(some, begin + before, 0))
            highs.append(np.where(some, stop + before, 0))
            before += len(starts)
        return np.concatenate(lows), np.concatenate(highs)
