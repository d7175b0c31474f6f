"""Vocabularies, which turn text into a model's tokens: `meta.pkl`, `tokenizer.json` or GPT-2's BPE.

A file beside a checkpoint that cannot be used is no reason to refuse the checkpoint: `find_vocabulary` says why, and
whoever needs text says it. A file that somebody names is read or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int

from conversion.atomic import write_text
from conversion.errors import VocabularyError
from conversion.gpt2_files import byte_level_bpe, in_hugging_face_cache, in_tiktoken_cache
from conversion.meta_file import META_NAME, read_tokens, write_meta
from conversion.string_vocabulary import StringVocabulary, joined

TOKENIZER_NAME = "tokenizer.json"
NO_VOCABULARY = "none"
"""The word that asks for no vocabulary, whatever files there are."""
ASKED_FOR_NONE = "it was read with meta='none'"
NO_UNKNOWN = "\0unk"
"""The unknown token of tokenizers that this package makes, which is not among their tokens: what is unknown raises."""
GPT2_SIZES = (50257, 50304)
"""GPT-2's vocabulary, and nanoGPT's default that pads it to a multiple of 64."""

GPT2_ABSENT = "not on this machine; run `hf download gpt2 vocab.json merges.txt` once where there is a network"
"""The end of messages about GPT-2's vocabulary, which this package does not download itself."""

_MULTIPLES = (*(2**power for power in range(1, 11)), 10, 100, 1000)
"""To which people round the size of a vocabulary up."""
_ANY_SIZE = 2**31
_MOST_ABSENT = 2**20


@dataclass(frozen=True)
class CharVocabulary:
    """One token per character, as nanoGPT's `*_char` datasets have it.

    Attributes:
        chars: the characters in the order of their ids.
        source: the file that the vocabulary came from.
    """

    chars: tuple[str, ...]
    source: Path | None = None

    def __post_init__(self) -> None:
        prefix = f"{self.source}: " if self.source else ""
        if not self.chars:
            raise VocabularyError(f"{prefix}the vocabulary is empty; expected at least one character")
        for index, char in enumerate(self.chars):
            if not isinstance(char, str) or len(char) != 1 or 0xD800 <= ord(char) < 0xE000:
                raise VocabularyError(
                    f"{prefix}token {index} is {char!r}; expected one character (longer tokens need a tokenizer.json)"
                )
        if len(set(self.chars)) != len(self.chars):
            raise VocabularyError(f"{prefix}a character occurs twice; expected one id per character")

    @property
    def kind(self) -> str:
        """The kind of vocabulary, as documents call it."""
        return "characters"

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.chars)

    @cached_property
    def charset(self) -> frozenset[str]:
        """The characters as a set."""
        return frozenset(self.chars)

    @cached_property
    def _table(self) -> Int[np.ndarray, " code"]:
        """The id of each code point, -1 for those without one."""
        codes = np.array([ord(char) for char in self.chars])
        table = np.full(codes.max() + 2, -1, dtype=np.int64)
        table[codes] = np.arange(self.size)
        return table

    def encode(self, text: str) -> Int[np.ndarray, " token"]:
        """The ids of a text's characters; a megabyte takes some milliseconds.

        Raises:
            VocabularyError: a character is not in the vocabulary; the message says where it stands.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        ids = self._table[np.minimum(codes, len(self._table) - 1)]
        unknown = np.flatnonzero(ids < 0)
        if len(unknown):
            self.refuse(text, int(unknown[0]))
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        return joined(self.chars, ids)

    def refuse(self, text: str, position: int) -> NoReturn:
        """Raise VocabularyError for an unknown character, saying where it stands."""
        line = text.count("\n", 0, position) + 1
        around = text[max(0, position - 10) : position + 11]
        raise VocabularyError(
            f"character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} "
            f"(line {line}, in {around!r}) "
            f"is not among the {self.size} characters of {self.source or 'the vocabulary'}; remove or replace it"
        )

    def to_meta(self) -> dict[str, Any]:
        """The dictionary that nanoGPT's `meta.pkl` holds."""
        stoi = {char: i for i, char in enumerate(self.chars)}
        return {"vocab_size": self.size, "itos": dict(enumerate(self.chars)), "stoi": stoi}

    def save(self, folder: str | Path) -> Path:
        """Write `meta.pkl` into a folder."""
        return write_meta(folder, self.to_meta())


@dataclass(frozen=True)
class TokenizerVocabulary:
    """The vocabulary of any fast tokenizer.

    Attributes:
        serialized: the text of its `tokenizer.json`.
        source: the file that the vocabulary came from.
        kind: the kind of vocabulary, as documents call it.
    """

    serialized: str
    source: Path | None = None
    kind: str = TOKENIZER_NAME

    @cached_property
    def core(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_str(self.serialized)
        except Exception as error:  # the Rust side raises bare Exception
            raise VocabularyError(
                f"{self.source} is not a tokenizer.json of the tokenizers library ({error})"
            ) from None

    @cached_property
    def size(self) -> int:
        """One more than the highest id of an ordinary token; special tokens are not text."""
        special = {added.content for added in self.core.get_added_tokens_decoder().values() if added.special}
        ids = [i for token, i in self.core.get_vocab(with_added_tokens=True).items() if token not in special]
        return max(ids, default=-1) + 1

    def encode(self, text: str) -> Int[np.ndarray, " token"]:
        """The ids of a text, without special tokens; VocabularyError where it has no tokens for it."""
        try:
            (encoded,) = self.core.encode_batch_fast([text], add_special_tokens=False)
        except Exception as error:  # the Rust side raises bare Exception
            raise VocabularyError(
                f"{self.source} has no tokens for {text[:40]!r} ({error}); expected a text of its tokens: give ids"
            ) from None
        return np.asarray(encoded.ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids."""
        return self.core.decode([int(i) for i in ids], skip_special_tokens=False)

    def save(self, folder: str | Path) -> Path:
        """Write `tokenizer.json` into a folder."""
        file = Path(folder) / TOKENIZER_NAME
        write_text(file, self.serialized)
        return file


Vocabulary = CharVocabulary | StringVocabulary | TokenizerVocabulary


def choose_vocabulary(
    meta: str | Path | Vocabulary | None, folders: Iterable[Path], vocab_size: int
) -> tuple[Vocabulary | None, str]:
    """The vocabulary that `meta` stands for, by default the one in `folders`; and why there is none, or not another.

    Raises:
        VocabularyError: the vocabulary that was asked for does not exist, cannot be used or does not fit.
    """
    if meta is None:
        return find_vocabulary(folders, vocab_size)
    if isinstance(meta, str) and meta == NO_VOCABULARY:
        return None, ASKED_FOR_NONE
    return read_vocabulary(meta, vocab_size), ""


def find_vocabulary(folders: Iterable[Path], vocab_size: int) -> tuple[Vocabulary | None, str]:
    """The first vocabulary in `folders` that a model of `vocab_size` tokens can use, and why others cannot be used.

    Without any file, GPT-2's vocabulary is taken if the size is GPT-2's and the vocabulary is on this machine.

    Returns:
        the vocabulary or None, and the reasons in one sentence, which is empty if no file was passed over.
    """
    reasons: list[str] = []
    for folder in folders:
        for name in (META_NAME, TOKENIZER_NAME):
            if (folder / name).is_file():
                try:
                    return read_vocabulary(folder / name, vocab_size), "; ".join(reasons)
                except VocabularyError as error:
                    reasons.append(str(error))
    return (find_gpt2() if vocab_size in GPT2_SIZES and not reasons else None), "; ".join(reasons)


def doubtful_size(vocabulary: Vocabulary | None, vocab_size: int) -> str:
    """A sentence for a vocabulary whose size is not that of the model of `vocab_size` tokens; empty where it is.

    People round the size of a vocabulary up to a multiple of 2, 8, 64, 100, ..., which is no reason for doubt.
    """
    if vocabulary is None or vocabulary.size == vocab_size:
        return ""
    if any(-(-vocabulary.size // multiple) * multiple == vocab_size for multiple in _MULTIPLES):
        return ""
    return (
        f"the vocabulary has {vocabulary.size:,} tokens and the model {vocab_size:,}, which is not that rounded up: "
        "it may be another run's"
    )


def read_vocabulary(source: str | Path | Vocabulary, vocab_size: int) -> Vocabulary:
    """Read a vocabulary and check that it fits a model of `vocab_size` tokens.

    Args:
        source: a `meta.pkl`, a `tokenizer.json`, a folder with one of them (or with
            GPT-2's `vocab.json` and `merges.txt`), "gpt2", or a vocabulary.

    Raises:
        VocabularyError: the vocabulary does not exist, is damaged or names no tokens, or is larger than the model's.
    """
    vocabulary = source if isinstance(source, Vocabulary) else _read(source)
    if vocabulary.size > vocab_size:
        raise VocabularyError(
            f"{vocabulary.source or 'the vocabulary'} has {vocabulary.size} tokens, "
            f"but the model has vocab_size {vocab_size}; it belongs to another model: give the right one as meta="
        )
    return vocabulary


def read_meta(path: str | Path) -> CharVocabulary | StringVocabulary:
    """Read nanoGPT's `meta.pkl` without executing anything in it; entries that are no vocabulary are ignored.

    Returns:
        characters, or strings where a token has several characters or an id is left out.

    Raises:
        VocabularyError: the file does not exist, is damaged, or has no consistent `stoi` and `itos`.
    """
    file = Path(path)
    table = read_tokens(file)
    size = max(table) + 1
    if size == len(table) and all(len(text) == 1 for text in table.values()):
        return CharVocabulary(tuple(table.values()), file)
    if size > len(table) + _MOST_ABSENT:
        raise VocabularyError(
            f"{file} has {len(table)} tokens with ids up to {size - 1}; expected ids from 0 without gaps"
        )
    absent = frozenset(range(size)) - table.keys()
    return StringVocabulary(tuple(table.get(i, f"[{i}]") for i in range(size)), file, absent)


def find_gpt2() -> TokenizerVocabulary | None:
    """GPT-2's BPE from Hugging Face's cache or tiktoken's, without any download; None if neither has it."""
    for files in (in_hugging_face_cache(), in_tiktoken_cache()):
        if files is not None:
            return _gpt2_from(*files)
    return None


def _gpt2_from(vocab: Path, merges: Path) -> TokenizerVocabulary:
    """GPT-2's byte-level BPE from its two files."""
    return TokenizerVocabulary(byte_level_bpe(vocab, merges), vocab, kind="gpt2")


def _read(source: str | Path) -> Vocabulary:
    """The vocabulary that a path or "gpt2" stands for."""
    if source == "gpt2":
        gpt2 = find_gpt2()
        if gpt2 is None:
            raise VocabularyError(
                f"GPT-2's vocabulary is {GPT2_ABSENT}, or give a folder with vocab.json and merges.txt, "
                "or a tokenizer.json, as meta="
            )
        return gpt2
    path = Path(source).expanduser()
    if path.is_dir():
        vocabulary, reason = find_vocabulary([path], _ANY_SIZE)
        if vocabulary is not None:
            return vocabulary
        if reason:
            raise VocabularyError(reason)
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return _gpt2_from(path / "vocab.json", path / "merges.txt")
        raise VocabularyError(
            f"{path} has no {META_NAME}, {TOKENIZER_NAME}, or vocab.json with merges.txt; give one as meta="
        )
    if not path.is_file():
        raise VocabularyError(f"{path} does not exist; expected a meta.pkl, a tokenizer.json, or a folder with one")
    if path.suffix == ".json":
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise VocabularyError(f"{path} is not UTF-8 text; expected a tokenizer.json") from None
        return _as_characters(TokenizerVocabulary(text, path))
    return read_meta(path)


def _as_characters(vocabulary: TokenizerVocabulary) -> Vocabulary:
    """The characters or strings, if this package made a `tokenizer.json` from them; else the vocabulary itself."""
    from tokenizers import models

    core, size = vocabulary.core, vocabulary.size
    if not size or not isinstance(core.model, models.WordLevel):
        return vocabulary
    strings = tuple(core.id_to_token(i) or "" for i in range(size))
    if all(len(string) == 1 for string in strings):
        return CharVocabulary(strings, vocabulary.source)
    ours = core.model.unk_token == NO_UNKNOWN and all(strings)
    return StringVocabulary(strings, vocabulary.source) if ours else vocabulary
