"""Token ids of any number, in memory or in a file: a stretch of them is read when it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from conversion.token_files import TokenStorage
from nanogpt_lens.core.errors import AnalysisError

_PIECE = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenIds:
    """Ids, which are only held in memory if they were there already.

    Attributes:
        n: the number of ids.
        read: a function from the first index and the one behind the last to an array of these ids.
        array: a function that returns all of them; those of a `.bin` stay memory-mapped.
    """

    n: int
    read: Callable[[int, int], Integer[np.ndarray, " token"]]
    array: Callable[[], Integer[np.ndarray, " token"]]

    def tokens(self, start: int, stop: int) -> Int[Tensor, " token"]:
        """The ids from index `start` to `stop`, int64, on the CPU."""
        return torch.from_numpy(self.read(start, min(stop, self.n)).astype(np.int64))

    def between(self, start: int, stop: int) -> TokenIds:
        """A consecutive part, which is not read for that."""
        return TokenIds(
            n=stop - start,
            read=lambda first, last: self.read(start + first, start + min(last, stop - start)),
            array=lambda: self.array()[start:stop],
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids: equal for equal ids, whatever they were read from."""
        digest = hashlib.sha256()
        for start in range(0, self.n, _PIECE):
            digest.update(self.tokens(start, start + _PIECE).numpy().tobytes())
        return digest.hexdigest()


def ids_in_memory(ids: Integer[Tensor, " token"] | Integer[np.ndarray, " token"]) -> TokenIds:
    """Ids that are there already."""
    array = ids.cpu().numpy() if isinstance(ids, Tensor) else ids
    return TokenIds(n=len(array), read=lambda start, stop: np.asarray(array[start:stop]), array=lambda: array)


def ids_of_file(storage: TokenStorage) -> TokenIds:
    """The ids of a file of tokens; they are read from the file, as pages of a map would fill memory."""
    read = _reader(storage.path.open("rb"), storage.dtype, storage.offset)
    return TokenIds(n=storage.n, read=read, array=storage.array)


def ids_in_file(file: IO[bytes], n: int, dtype: np.dtype[Any]) -> TokenIds:
    """`n` ids of a file that is open for reading."""
    read = _reader(file, dtype)
    return TokenIds(n=n, read=read, array=lambda: read(0, n))


def _reader(
    file: IO[bytes], dtype: np.dtype[Any], offset: int = 0
) -> Callable[[int, int], Integer[np.ndarray, " token"]]:
    """A function that reads a stretch of a file's ids, the first of which stands behind `offset` bytes."""

    def read(start: int, stop: int) -> Integer[np.ndarray, " token"]:
        file.seek(offset + start * dtype.itemsize)
        return np.frombuffer(file.read(max(0, stop - start) * dtype.itemsize), dtype=dtype)

    return read


def check_ids(
    d_vocab: int, ids: Integer[Tensor, " ..."] | Integer[np.ndarray, " ..."], name: str = "the corpus"
) -> None:
    """Raise AnalysisError where an id is negative or beyond a model's vocabulary."""
    array = np.asarray(ids)
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or high >= d_vocab:
        raise AnalysisError(
            f"{name} has the token {low if low < 0 else high}; expected ids from 0 to {d_vocab - 1}, the "
            "model's vocabulary: it was prepared for another model"
        )
