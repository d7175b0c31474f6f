"""What turns text into a model's tokens: `meta.pkl`, `tokenizer.json` or GPT-2's BPE.

A `meta.pkl` is a pickle, and a pickle can run code. It is read by an unpickler that
can build dict, list, tuple, str and int and refuses everything else.
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

from conversion.atomic import replacing, write_text
from conversion.errors import VocabularyError

META_NAME, TOKENIZER_NAME = "meta.pkl", "tokenizer.json"
GPT2_SIZES = (50257, 50304)
"""GPT-2's vocabulary, and nanoGPT's default that pads it to a multiple of 64."""

GPT2_ABSENT = "not on this machine; run `hf download gpt2 vocab.json merges.txt` once where there is a network"
"""Nothing is downloaded here, so this is the way to GPT-2's vocabulary."""

_LARGEST_META = 64 * 2**20
_MOST_CONTAINERS = 100


@dataclass(frozen=True)
class CharVocabulary:
    """One token per character, as nanoGPT's `*_char` datasets have it.

    Attributes:
        chars: the characters in the order of their ids.
        source: the file it came from.
    """

    chars: tuple[str, ...]
    source: Path | None = None

    def __post_init__(self) -> None:
        where = f"{self.source}: " if self.source else ""
        if not self.chars:
            raise VocabularyError(f"{where}the vocabulary is empty; expected at least one character")
        for index, char in enumerate(self.chars):
            if not isinstance(char, str) or len(char) != 1 or 0xD800 <= ord(char) < 0xE000:
                raise VocabularyError(
                    f"{where}token {index} is {char!r}; expected one character (longer tokens need a tokenizer.json)"
                )
        if len(set(self.chars)) != len(self.chars):
            raise VocabularyError(f"{where}a character occurs twice; expected one id per character")

    @property
    def kind(self) -> str:
        """What documents call it."""
        return "characters"

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.chars)

    @cached_property
    def charset(self) -> frozenset[str]:
        """The characters as a set."""
        return frozenset(self.chars)

    @cached_property
    def _table(self) -> np.ndarray:
        codes = np.array([ord(char) for char in self.chars])
        table = np.full(codes.max() + 2, -1, dtype=np.int64)
        table[codes] = np.arange(self.size)
        return table

    def encode(self, text: str) -> np.ndarray:
        """Ids of shape [len(text)], int64; a megabyte takes some milliseconds.

        Raises:
            VocabularyError: a character that is not in the vocabulary, with its place.
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
            VocabularyError: an id that is not in the vocabulary.
        """
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        if len(ids) and (ids.min() < 0 or ids.max() >= self.size):
            bad = int(ids[(ids < 0) | (ids >= self.size)][0])
            raise VocabularyError(f"token {bad} is not in the vocabulary; expected ids from 0 to {self.size - 1}")
        return "".join(self.chars[i] for i in ids)

    def refuse(self, text: str, position: int) -> NoReturn:
        """Say which character is unknown, and where it stands."""
        line = text.count("\n", 0, position) + 1
        around = text[max(0, position - 10) : position + 11]
        raise VocabularyError(
            f"character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} "
            f"(line {line}, in {around!r}) "
            f"is not among the {self.size} characters of {self.source or 'the vocabulary'}; remove or replace it"
        )

    def to_meta(self) -> dict[str, Any]:
        """The dictionary of nanoGPT's `meta.pkl`."""
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
    """Any fast tokenizer, kept as the text of its `tokenizer.json`."""

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

    def encode(self, text: str) -> np.ndarray:
        """Ids of shape [tokens], int64, without any special token added."""
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
    """The first vocabulary in `folders`; GPT-2's where the size says so and it is on this machine.

    Raises:
        VocabularyError: a vocabulary was found, but is unsafe, damaged or too large.
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
        VocabularyError: not found, unsafe, damaged, or larger than the model's.
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
        VocabularyError: not found, damaged, with anything but plain data in it, or
            without a consistent `stoi` and `itos`.
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
    """GPT-2's BPE from Hugging Face's cache or tiktoken's, without any download."""
    for files in (_gpt2_in_hugging_face_cache(), _gpt2_in_tiktoken_cache()):
        if files is not None:
            return _gpt2_from(*files)
    return None


def _read(source: str | Path) -> Vocabulary:
    if source == "gpt2":
        found = find_gpt2()
        if found is None:
            raise VocabularyError(
                f"GPT-2's vocabulary is {GPT2_ABSENT}, or give a folder with vocab.json and merges.txt, "
                "or a tokenizer.json, as meta="
            )
        return found
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
    """A `tokenizer.json` that this package made from characters is characters again."""
    from tokenizers import models

    core, size = vocabulary.core, vocabulary.size
    chars = tuple(core.id_to_token(i) or "" for i in range(size))
    if size and isinstance(core.model, models.WordLevel) and all(len(char) == 1 for char in chars):
        return CharVocabulary(chars, vocabulary.source)
    return vocabulary


class _PlainUnpickler(pickle.Unpickler):
    """Builds dict, list, tuple, str and int; everything else needs a global, and none is given."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise VocabularyError(f"an object that is not plain data ({module}.{name}), which unpickling would run as code")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise VocabularyError("a persistent reference")


def _plain_pickle(file: Path) -> Any:
    try:
        size = file.stat().st_size
        if size > _LARGEST_META:
            raise VocabularyError(f"{size:,} bytes; expected a character vocabulary")
        data = file.read_bytes()
        _refuse_nesting(data)
        content = _PlainUnpickler(io.BytesIO(data)).load()
        _refuse_other_types(content)
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


def _refuse_nesting(data: bytes) -> None:
    """Before anything is built: a tuple in a tuple in a tuple ... overflows the interpreter's stack."""
    containers = 0
    for opcode, _, _ in pickletools.genops(data):
        containers += opcode.name.endswith(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT"))
        if containers > _MOST_CONTAINERS:
            raise VocabularyError(f"more than {_MOST_CONTAINERS} dicts, lists and tuples")


def _refuse_other_types(content: Any) -> None:
    queue, seen = [content], set()
    while queue:
        value = queue.pop()
        if type(value) not in (dict, list, tuple, str, int):
            raise VocabularyError(f"a {type(value).__name__}")
        if isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            queue.extend([*value.keys(), *value.values()] if isinstance(value, dict) else value)


def _gpt2_in_hugging_face_cache() -> tuple[Path, Path] | None:
    from huggingface_hub import try_to_load_from_cache

    for repository in ("openai-community/gpt2", "gpt2"):
        found = [try_to_load_from_cache(repository, name) for name in ("vocab.json", "merges.txt")]
        if all(isinstance(name, str) for name in found):
            return Path(str(found[0])), Path(str(found[1]))
    return None


def _gpt2_in_tiktoken_cache() -> tuple[Path, Path] | None:
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
