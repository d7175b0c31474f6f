"""The one reader of text files and of files of tokens; for a file that is neither they raise one sentence."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conversion.token_dtype import TokenDtype
from conversion.token_files import TokenStorage, token_storage
from nanogpt_lens.core.errors import ConversionError, DataError

BIN_ID = np.dtype("<u2")
"""How nanoGPT keeps one token in a `.bin` file."""

TOKEN_SUFFIXES = (".bin", ".npy")
"""How the names of files of tokens end."""

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
    hint = f"give its folder {path.parent}" if has_tokens(path) else "save it as UTF-8"
    return DataError(f"{path} is not UTF-8 text (byte 0x{byte:02x} at {place}); expected {expected}: {hint}")


def read_text(path: Path, *, expected: str = EXPECTED) -> tuple[str, str]:
    """The whole text of a file, see `text_pieces`, and the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    return "".join(text_pieces(path, expected=expected, digest=digest)), digest.hexdigest()


def find_tokens(file: Path, d_vocab: int, token_dtype: TokenDtype | None = None) -> TokenStorage:
    """How a file keeps its tokens, see `conversion.token_files`.

    Raises:
        DataError: the file is missing, empty, cut off or something else, or the width of a token cannot be told.
    """
    try:
        return token_storage(file, d_vocab, token_dtype=token_dtype)
    except ConversionError as error:
        raise DataError(str(error)) from None


def has_tokens(path: Path) -> bool:
    """Whether a file is named like one of tokens."""
    return path.suffix in TOKEN_SUFFIXES


def is_no_path(text: str) -> bool:
    """Whether a string is a text itself: of several lines, or too long for a path or for a name in one."""
    longest = max(len(part.encode("utf-8", "replace")) for part in text.split("/"))
    return "\n" in text or len(text) > 1000 or longest > 255
