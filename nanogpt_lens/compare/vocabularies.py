"""Whether two models have the same tokens under the same ids, and what their tokens are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, n_tokens, token_labels

KINDS = ("upper case", "lower case", "digits", "space", "newline", "punctuation", "other")
"""Kinds of tokens, by what they are in a text."""


@dataclass(frozen=True)
class SharedVocabulary:
    """The tokens that two models share.

    Attributes:
        tokens: the text of each id, without nanoGPT's padding; numbers where neither model has a vocabulary.
        is_text: whether they are texts.
    """

    tokens: tuple[str, ...]
    is_text: bool

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.tokens)

    @property
    def kinds(self) -> tuple[int, ...]:
        """The number of each token's kind in `KINDS`; of ids without a text there is no kind, and this is empty."""
        return tuple(KINDS.index(kind_of(token)) for token in self.tokens) if self.is_text else ()


def shared_vocabulary(a: Hooked, b: Hooked) -> SharedVocabulary:
    """The tokens of two models that have the same ones under the same ids.

    Of a model that has no vocabulary only their number is known: it may be that of the other's tokens, or that with
    nanoGPT's padding.

    Raises:
        AnalysisError: the vocabularies differ, with what differs first.
    """
    for model in (a, b):
        check_model(model)
    sizes = n_tokens(a), n_tokens(b)
    named = tuple(has_texts(model) for model in (a, b))
    if named == (True, True):
        texts = [_texts(model) for model in (a, b)]
        if texts[0] != texts[1]:
            raise AnalysisError(_difference(texts[0], texts[1]))
        return SharedVocabulary(texts[0], is_text=True)
    one = b if named[1] else a
    other = a if named[1] else b
    if n_tokens(one) not in (n_tokens(other), int(other.cfg.d_vocab)) and int(one.cfg.d_vocab) != n_tokens(other):
        raise AnalysisError(
            f"the vocabularies differ: a has {sizes[0]} tokens, b {sizes[1]}; expected the same tokens under the same "
            "ids: the loss on one text can be compared by character, see loss_per_character"
        )
    tokens = _texts(one) if any(named) else tuple(map(str, range(min(sizes))))
    return SharedVocabulary(tokens, is_text=any(named))


def kind_of(token: str) -> str:
    """The kind of a token, by its first character that is no white space; of white space, newlines count first."""
    first = token.strip()[:1]
    if not first:
        return "newline" if "\n" in token or "\r" in token else "space" if token else "other"
    if first.isupper():
        return "upper case"
    if first.islower():
        return "lower case"
    if first.isdigit():
        return "digits"
    return "punctuation" if first.isascii() and first.isprintable() else "other"


def has_texts(model: Hooked) -> bool:
    """Whether it is known what a model's ids stand for."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    return tokenizer is not None and not getattr(tokenizer, "missing", None)


def _texts(model: Hooked) -> tuple[str, ...]:
    """The text of each of a model's tokens, without padding."""
    return token_labels(model, torch.arange(n_tokens(model)))


def _difference(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    """The sentence that says what differs between two vocabularies."""
    only = [[token for token in one if token not in set(other)] for one, other in ((a, b), (b, a))]
    if not only[0] and not only[1] and len(a) == len(b):
        at = next(i for i in range(len(a)) if a[i] != b[i])
        what = f"id {at} is {a[at]!r} in a and {b[at]!r} in b"
    else:
        some = [", ".join(repr(token) for token in tokens[:3]) for tokens in only]
        which = [f"{len(only[i])} are only in {'ab'[i]}, such as {some[i]}" for i in (0, 1) if only[i]]
        what = "; ".join([f"a has {len(a)} tokens, b {len(b)}", *which])
    return (
        f"the vocabularies differ: {what}; expected the same tokens under the same ids: the loss on one text can be "
        "compared by character, see loss_per_character"
    )
