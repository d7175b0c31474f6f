"""Features of the input, of which a claim says that an activation depends on nothing else.

A feature has a value at every place, which is a position in a sequence of the data: "token" is the token there. Two
places agree if their values are the same; which values these are is of no importance, so that they are numbers here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.circuits.claims import Feature, feature_words
from nanogpt_lens.core.errors import AnalysisError

DEFINITIONS: Mapping[str, str] = {
    "token": "the token here; token-1 the one before, token@3 the one at position 3",
    "previous_token": "the token before, which is token-1",
    "class": "the class of the token here; class-1 of the one before, class@3 of the one at position 3",
    "position": "the position",
    "followed_earlier": "the token that followed the last earlier occurrence of the token here",
    "occurred_earlier": "whether the token here occurred earlier",
    "distance_earlier": "how far back its last earlier occurrence is",
    "counts": "which tokens there are up to here, and how often, in whatever order",
    "counts_before": "the same without the token here",
    "set": "which tokens there are up to here",
    "answer": "the token that the prompt calls for",
    "everything": "all tokens up to here",
    "nothing": "nothing: any place will do",
}
"""What each feature is."""

_OFFSET = re.compile(r"(token|class)(?:-(\d{1,6})|@(\d{1,6}))?")
_NONE, _NO_CLASS = -1, -2
"""The values where there is no such token, and where a token is in no class."""

Ids = Int[np.ndarray, "example pos"]


class Features:
    """The features of some prompts.

    Args:
        tokens: the prompts.
        answer: the token that each calls for.
        labels: every token as text; None for a model without a vocabulary.
        classes: the tokens of each class, for the feature "class"; none for the kinds of characters.
    """

    def __init__(
        self,
        tokens: Int[Tensor, "example pos"],
        answer: Int[Tensor, " example"],
        labels: Sequence[str] | None,
        classes: Mapping[str, Sequence[str]],
    ) -> None:
        self.torch_tokens = tokens
        self.tokens: Ids = tokens.cpu().numpy()
        self.answer = answer.cpu().numpy()
        self.labels, self.classes = labels, classes
        self._kept: dict[Hashable, Ids] = {}

    def values(self, feature: Feature) -> Ids:
        """The value of a feature at every place, as a number.

        Raises:
            AnalysisError: there is no such feature, or a function gives no value for each place.
        """
        if feature not in self._kept:
            self._kept[feature] = self._made(feature)
        return self._kept[feature]

    def _made(self, feature: Feature) -> Ids:
        if callable(feature):
            return self._of_function(feature)
        if isinstance(feature, str):
            return self._named(feature)
        return _numbered(np.stack([self.values(word) for word in feature], -1))

    def _named(self, word: str) -> Ids:
        offset = _OFFSET.fullmatch(word)
        if offset:
            base = self.tokens if offset[1] == "token" else self._token_classes()
            return self._shifted(base, offset[2], offset[3], word)
        simple: dict[str, Callable[[], Ids]] = {
            "previous_token": lambda: self.values("token-1"),
            "position": lambda: np.broadcast_to(np.arange(self.tokens.shape[1]), self.tokens.shape),
            "followed_earlier": lambda: self._earlier()[0],
            "occurred_earlier": lambda: (self._earlier()[1] > 0).astype(np.int64),
            "distance_earlier": lambda: self._earlier()[1],
            "counts": lambda: _by_prefix(self.tokens, np.sort),
            "counts_before": lambda: self._counts_before(),
            "set": lambda: self._set(),
            "answer": lambda: np.broadcast_to(self.answer[:, None], self.tokens.shape),
            "everything": lambda: _by_prefix(self.tokens, lambda prefix, axis: prefix),
            "nothing": lambda: np.zeros_like(self.tokens),
        }
        if word not in simple:
            raise AnalysisError(f"{word!r} is no feature; expected {', '.join(DEFINITIONS)}, or a function")
        return np.ascontiguousarray(simple[word]())

    def _shifted(self, base: Ids, back: str | None, at: str | None, word: str) -> Ids:
        n_pos = base.shape[1]
        if at is not None:
            if int(at) >= n_pos:
                raise AnalysisError(
                    f"{word!r} is not in prompts of {n_pos} tokens; expected positions up to {n_pos - 1}"
                )
            return np.broadcast_to(base[:, [int(at)]], base.shape)
        shifted = np.full_like(base, _NONE)
        n_back = int(back or 0)
        if n_back >= n_pos:
            raise AnalysisError(f"{word!r} is before the first of the {n_pos} tokens of a prompt, wherever it is read")
        shifted[:, n_back:] = base[:, : max(0, n_pos - n_back)]
        return shifted

    def _earlier(self) -> tuple[Ids, Ids]:
        """What followed the last earlier occurrence of each token, and how far back that is; -1 and 0 for none."""
        tokens, (n, n_pos) = self.tokens, self.tokens.shape
        followed, distance = np.full_like(tokens, _NONE), np.zeros_like(tokens)
        rows = np.arange(n)
        for pos in range(1, n_pos):
            same = tokens[:, :pos] == tokens[:, [pos]]
            last = pos - 1 - same[:, ::-1].argmax(1)
            found = same.any(1)
            followed[:, pos] = np.where(found, tokens[rows, last + 1], _NONE)
            distance[:, pos] = np.where(found, pos - last, 0)
        return followed, distance

    def _counts_before(self) -> Ids:
        counts = np.full_like(self.tokens, _NONE)
        counts[:, 1:] = self.values("counts")[:, :-1]
        return counts

    def _set(self) -> Ids:
        numbers: dict[frozenset[int], int] = {}
        values = np.empty_like(self.tokens)
        for i, row in enumerate(self.tokens.tolist()):
            seen: frozenset[int] = frozenset()
            for j, token in enumerate(row):
                seen = seen if token in seen else seen | {token}
                values[i, j] = numbers.setdefault(seen, len(numbers))
        return values

    def _token_classes(self) -> Ids:
        """The class of every token, by its number.

        Raises:
            AnalysisError: the model has no vocabulary, a class has a token that it does not know, or a token is in two.
        """
        if self.labels is None:
            raise AnalysisError(
                "the feature 'class' needs a vocabulary, and the model has none: load it with meta=, or give a "
                "function of the tokens"
            )
        if not self.classes:
            kinds = {kind: i for i, kind in enumerate(sorted({_kind(label) for label in self.labels}))}
            return np.array([kinds[_kind(label)] for label in self.labels])[self.tokens]
        of_token = np.full(len(self.labels), _NO_CLASS)
        ids = {label: i for i, label in enumerate(self.labels)}
        for number, (name, tokens) in enumerate(self.classes.items()):
            for token in tokens:
                if token not in ids:
                    raise AnalysisError(
                        f"the class {name!r} has {token!r}, which is no token of the model's vocabulary"
                    )
                if of_token[ids[token]] != _NO_CLASS:
                    raise AnalysisError(
                        f"{token!r} is in the class {name!r} and in another; expected one class for each"
                    )
                of_token[ids[token]] = number
        return of_token[self.tokens]

    def _of_function(self, function: Callable[..., Any]) -> Ids:
        """The values that a function of the tokens gives, one for each place or one for each prompt."""
        given = function(self.torch_tokens)
        try:
            values = np.array(given.tolist() if isinstance(given, Tensor) else given)
        except ValueError:  # rows of several lengths
            values = np.empty(0, dtype=object)
        if values.shape == self.tokens.shape[:1]:
            values = np.broadcast_to(values[:, None], self.tokens.shape)
        if values.shape != self.tokens.shape or not _are_values(values):
            raise AnalysisError(
                f"the feature {feature_words(function)!r} gave values of shape {list(values.shape)}; expected a number "
                f"or word for each prompt and position, {list(self.tokens.shape)}"
            )
        return np.unique(values, return_inverse=True)[1].reshape(self.tokens.shape)


def _are_values(values: np.ndarray) -> bool:
    """Whether these are numbers or words, none of them nan."""
    return values.dtype.kind in "biuUS" or (values.dtype.kind == "f" and bool(np.isfinite(values).all()))


def _by_prefix(tokens: Ids, order: Callable[..., Ids]) -> Ids:
    """A number for what an order makes of all tokens up to each place; places of different positions never agree."""
    values = np.empty_like(tokens)
    for pos in range(tokens.shape[1]):
        values[:, pos] = _numbered(order(tokens[:, : pos + 1], axis=1)[:, None, :])[:, 0] * tokens.shape[1] + pos
    return values


def _numbered(rows: Int[np.ndarray, "example pos word"]) -> Ids:
    """The same number for rows that are the same."""
    flat = np.ascontiguousarray(rows).reshape(-1, rows.shape[-1])
    return np.unique(flat, axis=0, return_inverse=True)[1].reshape(rows.shape[:-1])


def _kind(label: str) -> str:
    """The kind of a token by its last character: letter, digit, newline, space or other."""
    if label.endswith("\n"):
        return "newline"
    category = unicodedata.category(label[-1]) if label else ""
    return {"L": "letter", "N": "digit", "Z": "space"}.get(category[:1], "other")
