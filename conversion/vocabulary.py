"""Vocabularies, which turn text into a model's tokens: `meta.pkl`, `tokenizer.json` or GPT-2's BPE.

A `meta.pkl` is a pickle, and a pickle can run code. The unpickler that reads it can
build dict, list, tuple, str and int, and raises VocabularyError for everything else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import pickletools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int

from conversion.atomic import replacing, write_text
from conversion.errors import VocabularyError

META_NAME, TOKENIZER_NAME = "meta.pkl", "tokenizer.json"
GPT2_SIZES = (50257, 50304)
"""GPT-2's vocabulary, and nanoGPT's default that pads it to a multiple of 64."""

GPT2_ABSENT = "not on this machine; run `hf download gpt2 vocab.json merges.txt` once where there is a network"
"""The end of messages about GPT-2's vocabulary, which this package does not download itself."""

_LARGEST_META = 64 * 2**20
_MOST_CONTAINERS = 100


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
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        if len(ids) and (ids.min() < 0 or ids.max() >= self.size):
            bad = int(ids[(ids < 0) | (ids >= self.size)][0])
            raise VocabularyError(f"token {bad} is not in the vocabulary; expected ids from 0 to {self.size - 1}")
        return "".join(self.chars[i] for i in ids)

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
        file = Path(folder) / META_NAME
        with replacing(file) as temporary:
            temporary.write_bytes(pickle.dumps(self.to_meta()))
        return file


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
        """The ids of a text, without special tokens."""
        (encoded,) = self.core.encode_batch_fast([text], add_special_tokens=False)
        return np.asarray(encoded.ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids."""
        return self.core.decode([int(i) for i in ids], skip_special_tokens=False)

    def save(self, folder: str | Path) -> Path:
        """Write `tokenizer.json` into a folder."""
        file = Path(folder) / TOKENIZER_NAME
        write_text(file, self.serialized)
        return file


Vocabulary = CharVocabulary | TokenizerVocabulary


def find_vocabulary(folders: Iterable[Path], vocab_size: int) -> Vocabulary | None:
    """The first vocabulary in `folders`; else GPT-2's, if the size is GPT-2's and the vocabulary is on this machine.

    Raises:
        VocabularyError: the vocabulary is unsafe, damaged or too large.
    """
    for folder in folders:
        for name in (META_NAME, TOKENIZER_NAME):
            if (folder / name).is_file():
                return read_vocabulary(folder / name, vocab_size)
    return find_gpt2() if vocab_size in GPT2_SIZES else None


def read_vocabulary(source: str | Path | Vocabulary, vocab_size: int) -> Vocabulary:
    """Read a vocabulary and check that it fits a model of `vocab_size` tokens.

    Args:
        source: a `meta.pkl`, a `tokenizer.json`, a folder with one of them (or with
            GPT-2's `vocab.json` and `merges.txt`), "gpt2", or a vocabulary.

    Raises:
        VocabularyError: the vocabulary does not exist, is unsafe or damaged, or is larger than the model's.
    """
    vocabulary = source if isinstance(source, CharVocabulary | TokenizerVocabulary) else _read(source)
    if vocabulary.size > vocab_size:
        raise VocabularyError(
            f"{vocabulary.source or 'the vocabulary'} has {vocabulary.size} tokens, "
            f"but the model has vocab_size {vocab_size}; it belongs to another model: give the right one as meta="
        )
    return vocabulary


def read_meta(path: str | Path) -> CharVocabulary:
    """Read nanoGPT's `meta.pkl` without executing anything in it.

    Raises:
        VocabularyError: the file does not exist, is damaged, holds anything but plain data, or
            has no consistent `stoi` and `itos`.
    """
    file = Path(path)
    meta = _plain_pickle(file)
    stoi, itos = (meta.get("stoi"), meta.get("itos")) if isinstance(meta, dict) else (None, None)
    if not isinstance(stoi, dict) or not isinstance(itos, dict | list | tuple):
        keys = ", ".join(map(str, list(meta)[:6])) if isinstance(meta, dict) else type(meta).__name__
        raise VocabularyError(f"{file} has {keys}; expected nanoGPT's dictionary with 'stoi' and 'itos'")
    table = itos if isinstance(itos, dict) else dict(enumerate(itos))
    inverse = {char: i for i, char in table.items()} if all(isinstance(c, str) for c in table.values()) else None
    if (
        not all(isinstance(i, int) for i in stoi.values())
        or inverse != stoi
        or sorted(stoi.values()) != list(range(len(stoi)))
    ):
        raise VocabularyError(f"{file}: stoi and itos are not inverse to each other with ids 0 to {len(stoi) - 1}")
    size = meta.get("vocab_size", len(stoi))
    if size != len(stoi):
        raise VocabularyError(f"{file}: vocab_size is {size}, but stoi has {len(stoi)} characters")
    return CharVocabulary(tuple(sorted(stoi, key=stoi.__getitem__)), file)


def find_gpt2() -> TokenizerVocabulary | None:
    """GPT-2's BPE from Hugging Face's cache or tiktoken's, without any download; None if neither has it."""
    for files in (_gpt2_in_hugging_face_cache(), _gpt2_in_tiktoken_cache()):
        if files is not None:
            return _gpt2_from(*files)
    return None


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
        for name in (META_NAME, TOKENIZER_NAME):
            if (path / name).is_file():
                return _read(path / name)
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
    """The character vocabulary, if this package made a `tokenizer.json` from characters; else the vocabulary itself."""
    from tokenizers import models

    core, size = vocabulary.core, vocabulary.size
    chars = tuple(core.id_to_token(i) or "" for i in range(size))
    if size and isinstance(core.model, models.WordLevel) and all(len(char) == 1 for char in chars):
        return CharVocabulary(chars, vocabulary.source)
    return vocabulary


class _PlainUnpickler(pickle.Unpickler):
    """Builds dict, list, tuple, str and int; everything else needs a global name, and every such name raises."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise VocabularyError(f"an object that is not plain data ({module}.{name}), which unpickling would run as code")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise VocabularyError("a persistent reference")


def _plain_pickle(file: Path) -> Any:
    """The plain data in a pickle; VocabularyError if it is damaged or holds anything else."""
    try:
        size = file.stat().st_size
        if size > _LARGEST_META:
            raise VocabularyError(f"{size:,} bytes; expected a character vocabulary")
        data = file.read_bytes()
        _check_nesting(data)
        content = _PlainUnpickler(io.BytesIO(data)).load()
        _check_types(content)
    except VocabularyError as error:
        raise VocabularyError(
            f"{file} holds {error}; nothing was executed; "
            "expected nanoGPT's dictionary of dict, list, tuple, str and int"
        ) from None
    except OSError as error:
        raise VocabularyError(f"{file} cannot be read ({error.strerror}); expected nanoGPT's meta.pkl") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise VocabularyError(
            f"{file} is not a pickle, or is damaged ({type(error).__name__}); expected nanoGPT's meta.pkl"
        ) from None
    return content


def _check_nesting(data: bytes) -> None:
    """Raise VocabularyError if a pickle has so many containers that, nested, they could overflow the stack."""
    containers = 0
    for opcode, _, _ in pickletools.genops(data):
        containers += opcode.name.endswith(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT"))
        if containers > _MOST_CONTAINERS:
            raise VocabularyError(f"more than {_MOST_CONTAINERS} dicts, lists and tuples")


def _check_types(content: Any) -> None:
    """Raise VocabularyError unless all of the data are dicts, lists, tuples, strings and integers."""
    queue, seen = [content], set()
    while queue:
        value = queue.pop()
        if type(value) not in (dict, list, tuple, str, int):
            raise VocabularyError(f"a {type(value).__name__}")
        if isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            queue.extend([*value.keys(), *value.values()] if isinstance(value, dict) else value)


def _gpt2_in_hugging_face_cache() -> tuple[Path, Path] | None:
    """The files of GPT-2's vocabulary and merges in Hugging Face's cache, if they are there."""
    from huggingface_hub import try_to_load_from_cache

    for repository in ("openai-community/gpt2", "gpt2"):
        vocab, merges = (try_to_load_from_cache(repository, name) for name in ("vocab.json", "merges.txt"))
        if isinstance(vocab, str) and isinstance(merges, str):
            return Path(vocab), Path(merges)
    return None


def _gpt2_in_tiktoken_cache() -> tuple[Path, Path] | None:
    """The files of GPT-2's vocabulary and merges in tiktoken's cache, if they are there."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cache = Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache"
    address = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    files = [cache / hashlib.sha1((address + name).encode()).hexdigest() for name in ("encoder.json", "vocab.bpe")]
    return (files[0], files[1]) if all(file.is_file() for file in files) else None


def _gpt2_from(vocab: Path, merges: Path) -> TokenizerVocabulary:
    """GPT-2's byte-level BPE from its two files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        pairs = [tuple(line.split()) for line in merges.read_text(encoding="utf-8").splitlines()]
        pairs = [pair for pair in pairs if len(pair) == 2 and pair[0] != "#version:"]
        core = Tokenizer(models.BPE(vocab=json.loads(vocab.read_text(encoding="utf-8")), merges=pairs))
    except Exception as error:  # json, or the Rust side's bare Exception
        raise VocabularyError(f"{vocab} and {merges.name} are not GPT-2's vocabulary and merges ({error})") from None
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return TokenizerVocabulary(core.to_str(), vocab, kind="gpt2")
