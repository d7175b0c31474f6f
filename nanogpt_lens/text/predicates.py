"""Classes of tokens by their text: upper case, a speaker's name, any regular expression, any mask.

A class is decided on the text of the whole corpus, not sequence by sequence, so that "after a newline" holds
for the first token of a sequence too. A token of several characters is in the class if any of them is.
The corpus' text and the mask are held in memory, a few bytes for each character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from conversion.errors import VocabularyError
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.choices import On, did_you_mean
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.text.sequences import Sequences

Predicate: TypeAlias = str | re.Pattern[str] | AbstractSet[str] | Callable[[str], Any] | Tensor | np.ndarray
"""A class of tokens: a name (see `CLASSES` and `RULES`), a regular expression (compiled, or as "re:..."; its
group `at` where it has one, else the whole match), a set of characters, a function from the corpus' text to
one boolean for each character, or a boolean mask [tokens] of the corpus itself."""

Rule: TypeAlias = Callable[[str], Bool[np.ndarray, " character"]]
"""A function from a text to whether each character is in a class."""


def _of_category(*first: str) -> Callable[[str], bool]:
    return lambda char: unicodedata.category(char)[0] in first


CLASSES: dict[str, Callable[[str], bool]] = {
    "upper_case": str.isupper,
    "lower_case": str.islower,
    "letter": str.isalpha,
    "vowel": lambda char: char in "aeiouAEIOU",
    "consonant": lambda char: char.isascii() and char.isalpha() and char not in "aeiouAEIOU",
    "digit": str.isdigit,
    "punctuation": _of_category("P", "S"),
    "whitespace": str.isspace,
    "newline": lambda char: char == "\n",
}
"""Classes of single characters; punctuation is Unicode's P (punctuation) and S (symbols)."""

RULES: dict[str, str] = {
    "after_newline": r"(?s)(?<=\n).",
    "line_start": r"(?m)^[^\n]",
    "line_end": r"(?m)[^\n]$",
    "word_start": r"(?<!\w)(?<!\w['’])\w",
    "word_end": r"\w(?!['’]?\w)",
    "sentence_end": r"[.!?](?=\s|\Z)",
    "sentence_start": r"(?:\A|[.!?]\s+)(?P<at>\S)",
    "speaker_name": r"(?:\A|(?<=\n\n))(?P<at>[^\n:]+)(?=:(?:\n|\Z))",
}
"""Rules of position, as regular expressions. after_newline: the character directly after a newline, be it
another newline; line_start: the first character of a line that is not empty; a word's apostrophe does not
end it. speaker_name: as in Shakespeare's plays, the characters, spaces among them and the colon not, of a
line that follows an empty line (or begins the text) and ends with its only colon."""


USUAL = {"speaker_name": "speakers' names", "newline": "line breaks", "upper_case": "upper-case letters"}
"""Classes for which separating neurons are looked for where nobody names one, and what they are in words."""


def token_class(
    model: Hooked, sequences: Sequences, predicate: Predicate, *, name: str = "predicate"
) -> tuple[Bool[np.ndarray, " token"], str]:
    """Which tokens of a corpus are in a class.

    Args:
        model: the model, for its vocabulary.
        sequences: the corpus; each row of ids [example, pos] is a text by itself.
        predicate: the class, see `Predicate`.
        name: what messages call the predicate.

    Returns:
        a mask of the corpus, and what the class is called.

    Raises:
        AnalysisError: no such class, a bad expression, a mask of another length or type, text rules for a model
            without a vocabulary, a class that holds no token or all of them.
    """
    n = sequences.n_tokens
    if isinstance(predicate, Tensor | np.ndarray):
        mask = np.asarray(predicate.cpu() if isinstance(predicate, Tensor) else predicate)
        if mask.dtype != np.bool_ or mask.size != n or mask.ndim not in (1, 2):
            raise AnalysisError(
                f"the {name} is an array of {mask.dtype} and shape {list(mask.shape)}; expected booleans, one for "
                f"each of the {n} tokens"
            )
        mask, called = mask.reshape(-1).copy(), "a mask"
    else:
        rule, called = _rule(predicate, name)
        width = sequences.text_length
        texts = (sequences.tokens(start, start + width).numpy() for start in range(0, n, width))
        mask = np.concatenate([_tokens_in(model, ids, rule, name) for ids in texts])
    if mask.all() or not mask.any():
        which = "every" if mask.all() else "no"
        raise AnalysisError(f"{called} holds for {which} token of {sequences.name}; expected some, and not all")
    return mask, called


def check_on(on: On) -> None:
    """Raise AnalysisError unless `on` is "token" or "next"."""
    if on not in get_args(On):
        raise AnalysisError(f"on is {on!r}; expected token (the one read) or next (the one predicted)")


def _tokens_in(model: Hooked, ids: Int[np.ndarray, " token"], rule: Rule, name: str) -> Bool[np.ndarray, " token"]:
    """Which ids of one text are in the class of a rule."""
    text, starts, ends = spans(model, ids)
    count = np.concatenate([[0], np.cumsum(rule(text))])
    return count[ends] > count[starts]


def spans(
    model: Hooked, ids: Int[np.ndarray, " token"]
) -> tuple[str, Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
    """The text of some ids, and the places in it at which each token begins and ends.

    A token that holds part of a character only has the span of that character.

    Raises:
        AnalysisError: the model has no vocabulary.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None):
        raise AnalysisError(
            "the model has no vocabulary, so there is no text for a rule; give a boolean mask [tokens], or load it "
            "with meta="
        )
    encoder = getattr(tokenizer, "encoder", None)
    if isinstance(encoder, CharVocabulary):
        try:
            places = np.arange(len(ids))
            return encoder.decode(ids), places, places + 1
        except VocabularyError as error:
            raise AnalysisError(f"the corpus has no text: {error}") from None
    return _decoded_spans(tokenizer, ids.tolist())


def _decoded_spans(
    tokenizer: Any, ids: Sequence[int]
) -> tuple[str, Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
    """As `spans`, from a tokenizer that decodes one id after the other."""
    from tokenizers.decoders import DecodeStream

    core = tokenizer.backend_tokenizer
    decoding = DecodeStream(skip_special_tokens=False)
    pieces: list[str] = []
    starts, ends = np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.int64)
    place = waiting = 0
    for i, token in enumerate(ids):
        piece = decoding.step(core, token)
        if not piece:
            continue  # part of a character, which comes with a later token
        starts[waiting : i + 1], ends[waiting : i + 1] = place, place + len(piece)
        pieces.append(piece)
        place, waiting = place + len(piece), i + 1
    starts[waiting:] = ends[waiting:] = place
    return "".join(pieces), starts, ends


def _rule(predicate: Any, name: str) -> tuple[Rule, str]:
    """A function from text to booleans [character], and what it is called."""
    if isinstance(predicate, str):
        if predicate in CLASSES:
            return _by_character(CLASSES[predicate]), predicate
        if predicate in RULES:
            return _matches(re.compile(RULES[predicate])), predicate
        if not predicate.startswith("re:"):
            raise AnalysisError(
                f"there is no class {predicate!r}; expected one of {', '.join([*CLASSES, *RULES])}, 're:' and an "
                "expression, a set of characters, a function of the text, or a boolean mask [tokens]"
                + did_you_mean(predicate, [*CLASSES, *RULES])
            )
        try:
            return _matches(re.compile(predicate.removeprefix("re:"))), predicate
        except re.error as error:
            raise AnalysisError(f"{predicate!r} is no regular expression ({error}); mend it") from None
    if isinstance(predicate, re.Pattern) and isinstance(predicate.pattern, str):
        return _matches(predicate), f"re:{predicate.pattern}"
    if isinstance(predicate, AbstractSet) and predicate and all(isinstance(c, str) and len(c) == 1 for c in predicate):
        characters = frozenset(predicate)
        return _by_character(characters.__contains__), f"one of {''.join(sorted(characters))!r}"
    if callable(predicate):
        return _by_function(predicate, name), getattr(predicate, "__name__", type(predicate).__name__)
    raise AnalysisError(
        f"the {name} is {predicate!r}; expected a class' name, a regular expression, a set of characters, a function "
        "of the text, or a boolean mask [tokens]"
    )


def _by_character(holds: Callable[[str], bool]) -> Rule:
    def rule(text: str) -> Bool[np.ndarray, " character"]:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        present, places = np.unique(codes, return_inverse=True)
        return np.array([bool(holds(chr(code))) for code in present.tolist()], dtype=bool)[places.reshape(-1)]

    return rule


def _matches(pattern: re.Pattern[str]) -> Rule:
    group = "at" if "at" in pattern.groupindex else 0

    def rule(text: str) -> Bool[np.ndarray, " character"]:
        matching = np.zeros(len(text), dtype=bool)
        for match in pattern.finditer(text):
            matching[slice(*match.span(group))] = match.start(group) >= 0  # -1: the group took no part
        return matching

    return rule


def _by_function(predicate: Callable[[str], Any], name: str) -> Rule:
    def rule(text: str) -> Bool[np.ndarray, " character"]:
        answer = predicate(text)
        mask = torch.as_tensor(answer).cpu().numpy() if isinstance(answer, Tensor) else np.asarray(answer)
        if mask.dtype != np.bool_ or mask.shape != (len(text),):
            raise AnalysisError(
                f"the {name} returned {mask.dtype} of shape {list(mask.shape)}; expected booleans, one for each of "
                f"the {len(text)} characters"
            )
        return mask

    return rule


def labels_of(mask: Bool[np.ndarray, "... pos"], on: On) -> Bool[np.ndarray, "... label"]:
    """The class at each position of sequences: of the token there, or of the next one.

    For "next", the last position of a sequence has none: the result is one shorter.
    """
    return mask if on == "token" else mask[..., 1:]
