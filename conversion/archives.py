"""Checks of ZIP archives that PyTorch itself does not make before it reads them.

torch.load maps a compressed entry as if it were stored, and so returns wrong numbers; it compares no
checksum; and it takes as much memory as an entry says it needs.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from conversion.errors import CheckpointError

_LARGEST, _RATIO, _LARGEST_PICKLE = 2**30, 20, 2**24
"""The bytes to which any archive may inflate, how many times its size a larger one may, and the bytes of a pickle."""

_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, EOFError, OSError)


def is_stored(file: Path) -> bool:
    """Whether no entry of an archive is compressed, so that all of them can be mapped from disk.

    Compressed entries are read once here and compared with their checksums. Stored entries are
    not, because mapping exists to spare that reading.

    Raises:
        CheckpointError: the archive is damaged, or says that its compressed entries hold so much
            that reading them might fill the memory.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            if not entries:
                return True
            _check_sizes(file, entries)
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise _damaged(file, str(error)) from None
    if damaged is not None:
        raise _damaged(file, f"the checksum of {damaged} is wrong")
    return False


def _check_sizes(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise CheckpointError if the compressed entries of an archive might fill the memory."""
    size, claimed = file.stat().st_size, sum(entry.file_size for entry in entries)
    pickled = max((entry.file_size for entry in entries if entry.filename.endswith("data.pkl")), default=0)
    if claimed > max(_LARGEST, _RATIO * size) or pickled > _LARGEST_PICKLE:
        raise CheckpointError(
            f"{file} has {size:,} bytes and says that {claimed:,} are compressed in it ({pickled:,} of them no "
            "tensors), more than weights can be; it is damaged, or made to fill the memory: save it again with "
            "torch.save"
        )


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is not a PyTorch checkpoint, or is damaged ({reason[:120]}); copy it again, or save it anew"
    )
