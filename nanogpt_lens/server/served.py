"""The models that a server was started with; nothing else can be asked for.

A model has a name, made of its path once, at the start. What comes from outside is looked up among these names and is
never opened as a path.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conversion.shards import is_index, shards_of
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import AnalysisError, NanoGPTLensError
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.model.loading import load
from nanogpt_lens.model.places import find_checkpoint
from nanogpt_lens.model.reading import Reading


@dataclass(eq=False)
class ServedModel:
    """One checkpoint under its name; the model is loaded when it is first used.

    Attributes:
        name: what clients call it.
        path: as it was given at the start.
        reading: how it is read.
        sha256: of the file when the server started, and of its shards behind it; "" for whatever is there.
    """

    name: str
    path: str
    reading: Reading = field(default_factory=Reading)
    sha256: str = ""
    _model: Hooked | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def open(self) -> Iterator[Hooked]:
        """The model, for one caller at a time: hooks of two callers on one model would mix.

        Raises:
            AnalysisError: the file is not the one of the start any more.
        """
        with self._lock:
            if self._model is None:
                self.check()
                loaded = load(self.path, **self.reading.options())
                self.check()
                self._model = loaded
            yield self._model

    def check(self) -> None:
        """Raise AnalysisError where the file is not the one of the start: one name would answer from two models."""
        try:
            same = not self.sha256 or file_sha256(find_checkpoint(self.path)) == self.sha256
        except (OSError, NanoGPTLensError):
            same = False
        if not same:
            raise AnalysisError(f"the checkpoint {self.name} has changed since the start; start the server again")

    def forget(self) -> None:
        """Drop the model, which is loaded again when it is next used: after work on it that was cut short."""
        self._model = None

    @property
    def python(self) -> str:
        """The line of Python that loads it."""
        options = {k: str(v) if isinstance(v, Path) else v for k, v in self.reading.changed().items()}
        return f"ngl.load({self.path!r}" + "".join(f", {k}={v!r}" for k, v in options.items()) + ")"


class ServedModels:
    """All models of a server, by name.

    Args:
        paths: checkpoints, folders or shipped names, at least one.
        reading: how they are read.
        sha256: of their files, where another process has looked; None to look now.

    Raises:
        AnalysisError: no path, or one twice.
        CheckpointError: a path that does not exist.
    """

    def __init__(
        self, paths: Sequence[str | Path], reading: Reading | None = None, *, sha256: Sequence[str] | None = None
    ) -> None:
        if not paths:
            raise AnalysisError("no model was given; expected at least one checkpoint, such as an out_dir")
        files = [find_checkpoint(path) for path in paths]
        if len(set(files)) < len(files):
            twice = next(file for file in files if files.count(file) > 1)
            raise AnalysisError(f"{twice} was given twice; expected each checkpoint once")
        names = _names([str(path) for path in paths])
        hashes = list(map(file_sha256, files)) if sha256 is None else sha256
        self._by_name = {
            name: ServedModel(name, str(path), reading or Reading(), sha)
            for name, path, sha in zip(names, paths, hashes, strict=True)
        }

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def names(self) -> list[str]:
        """The names, in the order in which the models were given."""
        return list(self._by_name)

    def named(self, name: Any) -> ServedModel:
        """The model of that name.

        Raises:
            AnalysisError: none has it; paths are no names.
        """
        if not isinstance(name, str) or name not in self._by_name:
            near = did_you_mean(str(name), self.names)
            raise AnalysisError(f"there is no model {str(name)[:100]!r} here; expected {' or '.join(self.names)}{near}")
        return self._by_name[name]


def file_sha256(file: Path) -> str:
    """The SHA-256 of a checkpoint's file, and of its shards behind it, as `Checkpoint.sha256`."""
    digest = hashlib.sha256()
    for path in (file, *(shards_of(file) if is_index(file) else ())):
        with path.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each path: its last parts, as many as tell them apart; files named ckpt.pt by their folder."""
    parts = [[part for part in Path(path).parts if part not in ("/", "..", "~", ".", "ckpt.pt")] for path in paths]
    for n in range(1, max(map(len, parts), default=1) + 1):
        names = ["-".join(some[-n:]) or "model" for some in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'-'.join(some) or 'model'}-{i}" for i, some in enumerate(parts)]
