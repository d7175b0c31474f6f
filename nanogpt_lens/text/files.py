"""The one reader of text files and of nanoGPT's `.bin` files; for a file that is neither they raise one sentence."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from nanogpt_lens.core.errors import DataError

BIN_ID = np.dtype("<u2")
"""How nanoGPT keeps one token in a `.bin` file."""

EXPECTED = "a UTF-8 text file, a nanoGPT data folder with train.bin and val.bin, or one of these .bin files"
"""What a path may lead to."""

_PIECE = 2**22  # bytes


def text_pieces(path: Path, *, expected: str = EXPECTED, digest: Any = None) -> Iterator[str]:
    """Yield the text of a file in pieces, so that it need not fit in memory; every kind of newline is a line feed.

    Args:
        path: the path of the file.
        expected: what a sentence says should be there.
        digest: a hash object, which is updated with the file's bytes as they are.

    Raises:
        DataError: the file cannot be read, is empty, holds a NUL byte or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    size = 0
    try:
        with path.open("rb") as file:
            while content := file.read(_PIECE):
                nul = content.find(0)  # the tokens of a .bin can be valid UTF-8
                yield newlines.decode(_decode(decoder, content if nul < 0 else content[:nul], size, path, expected))
                if nul >= 0:
                    raise _no_text(path, 0, size + nul, expected)
                if digest is not None:
                    digest.update(content)
                size += len(content)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected {expected}") from None
    if not size:
        raise DataError(f"{path} is empty; expected {expected}")
    rest = _decode(decoder, b"", size, path, expected, final=True)
    if rest := newlines.decode(rest, final=True):
        yield rest


def _decode(decoder: Any, content: bytes, size: int, path: Path, expected: str, *, final: bool = False) -> str:
    """The text of the bytes that follow the first `size` ones."""
    waiting = len(decoder.getstate()[0])  # the beginning of a character, from the piece before
    try:
        return decoder.decode(content, final=final)
    except UnicodeDecodeError as error:
        raise _no_text(path, error.object[error.start], size - waiting + error.start, expected) from None


def _no_text(path: Path, byte: int, place: int, expected: str) -> DataError:
    """The error for a byte that is not UTF-8."""
    hint = f"give its folder {path.parent}" if path.suffix == ".bin" else "save it as UTF-8"
    return DataError(f"{path} is not UTF-8 text (byte 0x{byte:02x} at {place}); expected {expected}: {hint}")


def read_text(path: Path, *, expected: str = EXPECTED) -> tuple[str, str]:
    """The whole text of a file, see `text_pieces`, and the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    return "".join(text_pieces(path, expected=expected, digest=digest)), digest.hexdigest()


def bin_length(file: Path) -> int:
    """The number of tokens in one of nanoGPT's `.bin` files.

    Raises:
        DataError: the file is missing, empty, or has an odd number of bytes.
    """
    if not file.is_file():
        raise DataError(f"{file} does not exist; expected nanoGPT's uint16 tokens, or a text file")
    size = file.stat().st_size
    if size == 0:
        raise DataError(f"{file} is empty; expected nanoGPT's uint16 tokens: run prepare.py again")
    if size % BIN_ID.itemsize:
        raise DataError(
            f"{file} has {size:,} bytes, an odd number; expected nanoGPT's uint16 tokens, two bytes each: "
            "the file is cut off or of another kind; run prepare.py again"
        )
    return size // BIN_ID.itemsize


def read_bin(file: Path) -> Integer[np.ndarray, " token"]:
    """The ids of one of nanoGPT's `.bin` files, memory-mapped; raises DataError as `bin_length` does."""
    bin_length(file)
    return np.memmap(file, dtype=BIN_ID, mode="r")
