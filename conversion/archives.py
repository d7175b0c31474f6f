"""The ZIP archive that `torch.save` writes: checked before it is read, and its numbers left on disk where they can be.

PyTorch itself maps a compressed entry as if it were stored, and so returns wrong numbers; it compares no
checksum; and it takes as much memory as an entry says it needs.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from conversion.errors import CheckpointError

_LARGEST, _RATIO = 2**30, 20
"""The bytes to which any archive may inflate, and how many times its size a larger one may."""

_SMALL_PICKLE, _LARGEST_PICKLE = 2**20, 2**24
"""The bytes to which any pickle may inflate, and those to which none may."""

_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, EOFError, OSError)
_CHUNK = 2**20


class Archive:
    """An archive whose entries are read by name; a context manager.

    Args:
        file: the file.

    Attributes:
        prefix: the folder inside the archive in which everything is.

    Raises:
        CheckpointError: the archive is truncated, damaged or no checkpoint, its entries overlap, or it says that its
            compressed entries hold so much that reading them might fill the memory.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._size = file, file.stat().st_size
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f"{file} is truncated ({self._size:,} bytes); copy it again, or save it anew")
        self._map: np.ndarray | None = None
        try:
            self._zip = zipfile.ZipFile(file)
            entries = self._zip.infolist()
        except _UNREADABLE as error:
            raise self._damaged(str(error)) from None
        pickles = [entry.filename for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            self._zip.close()
            raise self._damaged("a ZIP archive without a data.pkl")
        self.prefix = pickles[0].removesuffix("data.pkl")
        self._entries = {entry.filename: entry for entry in entries}
        self._check_sizes(entries)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def has(self, name: str) -> bool:
        """Whether the archive has an entry."""
        return self.prefix + name in self._entries

    def read(self, name: str) -> bytes:
        """The bytes of an entry, compared with their checksum."""
        return self.numbers(name, mapped=False).tobytes()

    def numbers(self, name: str, *, mapped: bool = True) -> UInt8[np.ndarray, " byte"]:
        """The bytes of an entry: mapped from disk if it is not compressed, else read and compared with their checksum.

        Raises:
            CheckpointError: the entry is damaged.
        """
        entry = self._entries[self.prefix + name]
        try:
            if mapped and entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
                return self._mapped(entry)
            content = np.empty(entry.file_size, dtype=np.uint8)
            place = 0
            with self._zip.open(entry) as opened:
                while chunk := opened.read(_CHUNK):
                    content[place : place + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
                    place += len(chunk)
        except _UNREADABLE as error:
            raise self._damaged(str(error)) from None
        if place != entry.file_size:
            raise self._damaged(f"{entry.filename} has {place} bytes, and {entry.file_size} are stated")
        return content

    def _mapped(self, entry: zipfile.ZipInfo) -> UInt8[np.ndarray, " byte"]:
        """The bytes of a stored entry on disk."""
        if self._map is None:
            self._map = np.memmap(self.file, dtype=np.uint8, mode="c")
        header = self._map[entry.header_offset : entry.header_offset + 30].tobytes()
        signature, name_length, extra_length = header[:4], *struct.unpack("<HH", header[26:30])
        start = entry.header_offset + 30 + name_length + extra_length
        if signature != b"PK\x03\x04" or start + entry.file_size > self._size:
            raise ValueError(f"{entry.filename} is not where the archive says")
        return self._map[start : start + entry.file_size]

    def _check_sizes(self, entries: list[zipfile.ZipInfo]) -> None:
        """Raise CheckpointError if the entries overlap, or compressed ones might fill the memory."""
        size, stored = self._size, sum(e.file_size for e in entries if e.compress_type == zipfile.ZIP_STORED)
        if stored > size:
            raise self._damaged(f"its entries say that they have {stored:,} bytes, and the file has {size:,}")
        compressed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        claimed = sum(entry.file_size for entry in compressed)
        pickled = max((entry.file_size for entry in compressed if entry.filename.endswith("data.pkl")), default=0)
        if claimed > max(_LARGEST, _RATIO * size) or pickled > min(_LARGEST_PICKLE, max(_SMALL_PICKLE, _RATIO * size)):
            raise CheckpointError(
                f"{self.file} has {size:,} bytes and says that {claimed:,} are compressed in it ({pickled:,} of them "
                "no tensors), more than weights can be; it is damaged, or made to fill the memory: save it again with "
                "torch.save"
            )

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file} is not a PyTorch checkpoint, or is damaged ({reason[:120]}); "
            "copy it again, or save it anew with torch.save"
        )
