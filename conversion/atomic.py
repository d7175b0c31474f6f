"""Files and folders that are replaced in one step: whenever the process dies, the old one or the new one is there."""

from __future__ import annotations

import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conversion.errors import CheckpointError

_STALE = 24 * 3600.0
"""The age in seconds above which a temporary file is that of a killed writer."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block ends without an error.

    The data reach the disk before the rename does. If the block raises, `path` is
    as it was and the temporary file is deleted.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(target: Path) -> Path:
    """A path beside `target` that no other writer uses; old temporary files of killed writers are deleted first."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(OSError):
            if re.fullmatch(r"[0-9a-f]{12}", path.suffixes[-2][1:]) and time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")


def write_text(path: str | Path, text: str) -> None:
    """Replace the file by one that holds `text` as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, and rename it to `folder` if the block ends without an error.

    Raises:
        CheckpointError: `folder` exists and is not an empty folder.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists already and is not an empty folder; give a new one")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    temporary.mkdir()
    try:
        yield temporary
        if target.is_dir():
            target.rmdir()
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
