"""Files of token ids, such as nanoGPT's `val.bin`: how wide a token is, and where the first one stands.

nanoGPT writes uint16 and nothing else, so that a file does not say what it holds. Forks write uint32, int32 or int64,
llm.c a header of 1,024 bytes before its tokens, numpy's `.npy` a header of its own. Read with another width, the file
of a fork is twice as many tokens, half of them 0, and no error. The width shows in the ids, which are below the
vocabulary: read too wide, they are beyond it; read too narrow, every second one is 0. `token_storage` looks at that,
and refuses what it cannot tell; `TokenFile` insists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
from jaxtyping import Integer

from conversion.errors import ConversionError, TokenWidthError
from conversion.token_dtype import TokenDtype

NANOGPT_DTYPE: TokenDtype = "uint16"

_BY_WIDTH: dict[int, TokenDtype] = {2: "uint16", 4: "uint32", 8: "int64"}
_LARGEST_VOCABULARY = 2**20
_CHANCE = math.log(1e-6)  # what is likelier than that may be chance
_WHOLE, _STRETCHES, _STRETCH = 2**20, 64, 2**14  # bytes: a larger file is looked at in places
_HEADER, _MAGIC, _VERSIONS = 1024, 20240520, {1: "uint16", 7: "uint32"}
_NO_TOKENS = {20240326: "a GPT-2 model", 20240327: "a training state", 20240522: "an evaluation set"}
_NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class TokenFile:
    """A file of tokens whose width is said, not looked for; it stands wherever the path of a `.bin` does.

    Attributes:
        path: of the file, or of a data folder with `train.bin` and `val.bin`.
        token_dtype: "uint8", "uint16", "uint32", "int32" or "int64"; None to find it out.

    Raises:
        ConversionError: `token_dtype` is another word.
    """

    path: str | Path
    token_dtype: TokenDtype | None = None

    def __post_init__(self) -> None:
        if self.token_dtype is not None and self.token_dtype not in get_args(TokenDtype):
            raise ConversionError(
                f"token_dtype is {self.token_dtype!r}; expected one of {', '.join(get_args(TokenDtype))}"
            )
        object.__setattr__(self, "path", Path(self.path).expanduser())


@dataclass(frozen=True, kw_only=True)
class TokenStorage:
    """How a file keeps its tokens.

    Attributes:
        path: of the file.
        n: the number of tokens.
        dtype: of one token.
        offset: the bytes before the first one.
        words: what provenance says of it; "" for plain uint16, nanoGPT's own.
    """

    path: Path
    n: int
    dtype: np.dtype[Any]
    offset: int = 0
    words: str = ""

    def array(self) -> Integer[np.ndarray, " token"]:
        """All ids, memory-mapped."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=(self.n,))


def token_storage(
    path: Path, d_vocab: int, *, token_dtype: TokenDtype | None = None, n_tokens: int | None = None
) -> TokenStorage:
    """How a file keeps its tokens; whether every id is below the vocabulary is not checked here.

    Args:
        path: the file.
        d_vocab: the number of tokens of the vocabulary, by which the width is told.
        token_dtype: the width, where the caller insists.
        n_tokens: the number of tokens, where the caller knows it, which decides what the ids leave open.

    Raises:
        ConversionError: the file is missing, empty or cut off, holds something else or another byte order, or its
            width cannot be told.
    """
    if not path.is_file():
        raise ConversionError(f"{path} does not exist; expected a file of tokens, nanoGPT's uint16, or a text file")
    size = path.stat().st_size
    if size == 0:
        raise ConversionError(f"{path} is empty; expected nanoGPT's uint16 tokens: run prepare.py again")
    with path.open("rb") as file:
        head = file.read(_HEADER)
        if head.startswith(_NPY):
            return _of_npy(path, file, size, token_dtype)
        if (shard := _of_shard(path, head, size, token_dtype)) is not None:
            return shard
        if token_dtype is None:
            known = {width * n_tokens: width for width in _BY_WIDTH} if n_tokens else {}
            try:
                width = known.get(size) or _width(path, _sample(file, size), size, d_vocab)
            except TokenWidthError:
                width = _width_of_sibling(path, d_vocab)
                if width is None:
                    raise
            token_dtype = _BY_WIDTH[width]
    _check_whole(path, size, token_dtype)
    dtype = np.dtype(token_dtype).newbyteorder("<")
    words = "" if token_dtype == NANOGPT_DTYPE else f"{token_dtype} tokens"
    return TokenStorage(path=path, n=size // dtype.itemsize, dtype=dtype, words=words)


def _check_whole(path: Path, size: int, token_dtype: TokenDtype) -> None:
    """Raise ConversionError unless so many bytes are a whole number of tokens."""
    width = np.dtype(token_dtype).itemsize
    if size % width == 0:
        return
    if token_dtype == NANOGPT_DTYPE:
        reason = "an odd number; expected nanoGPT's uint16 tokens, two bytes each"
    else:
        reason = f"no multiple of {width}; expected {token_dtype} tokens, {width} bytes each"
    raise ConversionError(
        f"{path} has {size:,} bytes, {reason}: the file is cut off or of another kind; run prepare.py again"
    )


def _of_npy(path: Path, file: IO[bytes], size: int, insisted: TokenDtype | None) -> TokenStorage:
    """The tokens of a file that `np.save` wrote, whose header says what they are."""
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
    except (ValueError, KeyError):
        raise ConversionError(f"{path} has a damaged .npy header; save the tokens again with np.save") from None
    if dtype.kind not in "iu" or len(shape) != 1:
        raise ConversionError(f"{path} holds {dtype} of shape {list(shape)}; expected integers [tokens]")
    _refuse_other(path, "its .npy header", dtype.name, insisted)
    offset, n = file.tell(), int(shape[0])
    _check_announced(path, size - offset, n, dtype.itemsize)
    return TokenStorage(path=path, n=n, dtype=dtype, offset=offset, words=f".npy, {dtype.name} tokens")


def _of_shard(path: Path, head: bytes, size: int, insisted: TokenDtype | None) -> TokenStorage | None:
    """The tokens of one of llm.c's shards, whose header says what they are; None for another file.

    Raises:
        ConversionError: another of llm.c's files, or one that is cut off, or in another byte order.
    """
    for order in ("<", ">"):
        numbers = np.frombuffer(head[:12], dtype=f"{order}i4") if len(head) == _HEADER else ()
        magic, version, n = (int(x) for x in numbers) if len(numbers) else (0, 0, 0)
        if not 0 < version < 100 or magic not in (_MAGIC, *_NO_TOKENS):
            continue
        if magic != _MAGIC:
            raise ConversionError(f"{path} is {_NO_TOKENS[magic]} of llm.c; expected a file of tokens")
        if order == ">":
            raise ConversionError(
                f"{path} is a shard of llm.c in big-endian byte order; expected little-endian: write it again"
            )
        if version not in _VERSIONS:
            raise ConversionError(
                f"{path} is a shard of llm.c of version {version}; expected version 1 (uint16) or 7 (uint32)"
            )
        name = _VERSIONS[version]
        _refuse_other(path, "its header", name, insisted)
        dtype = np.dtype(name).newbyteorder("<")
        _check_announced(path, size - _HEADER, n, dtype.itemsize)
        return TokenStorage(path=path, n=n, dtype=dtype, offset=_HEADER, words=f"llm.c shard, {name} tokens")
    return None


def _refuse_other(path: Path, says: str, name: str, insisted: TokenDtype | None) -> None:
    """Raise ConversionError where a header contradicts what the caller insists on."""
    if insisted is not None and insisted != name:
        raise ConversionError(f"{path} holds {name} tokens, as {says} says; token_dtype={insisted!r} contradicts it")


def _check_announced(path: Path, size: int, n: int, width: int) -> None:
    """Raise ConversionError unless as many tokens follow as a header announces."""
    if size != n * width or n < 1:
        raise ConversionError(
            f"{path} announces {n:,} tokens of {width} bytes, and {size:,} bytes follow; expected "
            f"{max(n, 0) * width:,}: the file is cut off; copy or write it again"
        )


def _sample(file: IO[bytes], size: int) -> bytes:
    """The bytes of a file, of a large one those of stretches; each begins at a multiple of eight."""
    if size <= _WHOLE:
        file.seek(0)
        return file.read()
    parts = []
    for start in np.linspace(0, size - _STRETCH, _STRETCHES).astype(int).tolist():
        file.seek(start // 8 * 8)
        parts.append(file.read(_STRETCH))
    return b"".join(parts)


def _width(path: Path, content: bytes, size: int, d_vocab: int) -> int:
    """The bytes of a token.

    Raises:
        TokenWidthError: the width cannot be told.
        ConversionError: the byte order is another, or no such width can count the vocabulary.
    """
    if not content.strip(b"\0"):
        if size % 2:
            return 2  # cut off, which is what the caller will say
        raise TokenWidthError(
            f"{path} holds nothing but zeros, by which the width of a token cannot be told; expected a text: run "
            "prepare.py again, or say the width, such as token_dtype='uint16'"
        )
    width = _widest(path, content, size, d_vocab)
    _refuse_big_endian(path, content, d_vocab, width)
    if width is None:  # some ids are beyond the vocabulary, which is what the caller will say
        return _widest(path, content, size, _LARGEST_VOCABULARY, insist=False) or 2
    if width == 2 and d_vocab > 2**16:
        raise ConversionError(
            f"{path} seems to hold uint16 tokens, which cannot count the model's {d_vocab:,}: larger ids would have "
            "been cut; expected uint32 tokens: prepare it again, or insist with token_dtype='uint16'"
        )
    return width


def _width_of_sibling(path: Path, d_vocab: int) -> int | None:
    """The width of the other part of a data folder, where it is clear; None where there is none."""
    other = path.with_name({"val.bin": "train.bin", "train.bin": "val.bin"}.get(path.name, path.name))
    if other == path or not other.is_file() or not (size := other.stat().st_size):
        return None
    try:
        with other.open("rb") as file:
            return _width(other, _sample(file, size), size, d_vocab)
    except ConversionError:
        return None


def _widest(path: Path, content: bytes, size: int, d_vocab: int, *, insist: bool = True) -> int | None:
    """The largest width with which all ids are below the vocabulary, and not by chance; None where there is none.

    Raises:
        TokenWidthError: two widths are possible; without `insist` that is no error.
    """
    for wide in (8, 4):
        values, halves = _values(content, f"<u{wide}"), _values(content, f"<u{wide // 2}")
        if not _fit(values, d_vocab):
            continue
        impossible = insist and wide == 4 and d_vocab > 2**16  # the narrower width could not hold such ids
        if impossible or not _by_chance(values, halves[0::2], halves[1::2], d_vocab, wide):
            return wide
        if insist and size % wide == 0:
            narrow, name = _BY_WIDTH[wide // 2], _BY_WIDTH[wide]
            raise TokenWidthError(
                f"{path} can be {size // wide:,} {name} tokens or {2 * size // wide:,} {narrow} tokens, of which every "
                f"second is 0; expected a file that shows which: insist with token_dtype={narrow!r} or "
                f"token_dtype={name!r}"
            )
    return 2 if _fit(_values(content, "<u2"), d_vocab) else None


def _by_chance(
    values: Integer[np.ndarray, " token"],
    low: Integer[np.ndarray, " low"],
    high: Integer[np.ndarray, " high"],
    d_vocab: int,
    width: int,
) -> bool:
    """Whether narrower ids could look like these wide ones: every second one that small, or the text without change."""
    largest = (d_vocab - 1) >> (4 * width)
    share = ((low <= largest).sum() + 1) / (len(low) + 2)
    return bool(values.min() == values.max()) or len(high) * math.log(share) > _CHANCE


def _refuse_big_endian(path: Path, content: bytes, d_vocab: int, width: int | None) -> None:
    """Raise ConversionError where the ids fit the vocabulary with the highest byte first."""
    if width not in (None, 2):
        return
    for wide in (8, 4, 2):
        values = _values(content, f">u{wide}")
        if not _fit(values, d_vocab):
            continue
        if width is None:
            clear = len(values) * math.log(min(1.0, d_vocab / 256.0**wide)) < _CHANCE
        elif wide == 2:
            clear = not bool((_values(content, "<u2") % 256).any()) and bool(values.min() < values.max())
        else:
            halves = _values(content, f">u{wide // 2}")
            clear = not _by_chance(values, halves[1::2], halves[0::2], d_vocab, wide)
        if clear:
            raise ConversionError(
                f"{path} holds {_BY_WIDTH[wide]} tokens in big-endian byte order; expected little-endian: write it "
                f"again, with np.fromfile(path, '>u{wide}').astype('<u{wide}').tofile(path)"
            )


def _values(content: bytes, dtype: str) -> Integer[np.ndarray, " token"]:
    """Bytes as numbers; what is left at the end is left out."""
    width = np.dtype(dtype).itemsize
    return np.frombuffer(content[: len(content) // width * width], dtype=dtype)


def _fit(values: Integer[np.ndarray, " token"], d_vocab: int) -> bool:
    """Whether there are ids, and all are below the vocabulary."""
    return len(values) > 0 and int(values.max()) < d_vocab
