"""What tokenizers on a model and tokenizers in a folder have in common: their Rust cores, made from a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from conversion.string_vocabulary import StringVocabulary
from conversion.vocabulary import NO_UNKNOWN, CharVocabulary, Vocabulary

PADDING_NAMES = ("<PAD>", "<pad>", "[PAD]", "<|pad|>", "<|padding|>")
"""Tokens that are padding wherever they are."""


def core_of(vocabulary: Vocabulary, more: Mapping[str, int] = MappingProxyType({})) -> Tokenizer:
    """The Rust core of a vocabulary; of characters and strings with more tokens, given with their ids."""
    if isinstance(vocabulary, CharVocabulary):
        return _one_token_each(vocabulary.chars, more)
    if isinstance(vocabulary, StringVocabulary):
        return _one_token_each(vocabulary.strings, more)
    core = Tokenizer.from_str(vocabulary.serialized)
    core.no_truncation()
    core.no_padding()
    return core


def padding_of(known: Mapping[str, int], d_vocab: int) -> str | None:
    """The token that is padding wherever it is, if there is one with an id inside a model's vocabulary."""
    return next((name for name in PADDING_NAMES if known.get(name, d_vocab) < d_vocab), None)


def _one_token_each(strings: tuple[str, ...], more: Mapping[str, int]) -> Tokenizer:
    """A Rust core with one token per string, and more tokens with their ids; what is unknown raises."""
    core = Tokenizer(models.WordLevel(vocab={**{s: i for i, s in enumerate(strings)}, **more}, unk_token=NO_UNKNOWN))
    if all(len(string) == 1 for string in strings):
        core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return core


def unspoken(special: str, characters: frozenset[str]) -> str:
    """The text of a special token, changed so that no text of those characters holds it."""
    if not characters.issuperset(special):
        return special
    private = (*range(0xE000, 0xF900), *range(0x100000, 0x10FFFE))
    mark = next(chr(code) for code in private if chr(code) not in characters)
    return f"{mark}{special}{mark}"


def ids_of(vocabulary: Vocabulary) -> dict[str, int]:
    """The id of every token, special ones as well."""
    if isinstance(vocabulary, CharVocabulary):
        return {char: i for i, char in enumerate(vocabulary.chars)}
    if isinstance(vocabulary, StringVocabulary):
        return {string: i for i, string in enumerate(vocabulary.strings)}
    return vocabulary.core.get_vocab(with_added_tokens=True)
