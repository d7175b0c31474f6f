"""The state of an unfinished run on disk: one file, replaced in one step every ten seconds, deleted at the end.

A state belongs to one model, corpus and set of options; that of another run is refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conversion.atomic import replacing
from nanogpt_lens.errors import AnalysisError

SAVE_EVERY = 10.0
"""Seconds between two savings."""


class Unfinished:
    """A folder for the state of a run.

    Args:
        folder: made when needed, deleted at the end if nothing else is in it.
        name: of the file, without its ending.
        described: what the run depends on, as JSON.

    Raises:
        AnalysisError: the folder is a file.
    """

    def __init__(self, folder: str | Path, name: str, described: Mapping[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise AnalysisError(f"resume={str(folder)!r} is a file; expected a folder for the unfinished run")
        self.file = self.folder / f"{name}.safetensors"
        self.key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self.last = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], str] | None:
        """The tensors and the words that were saved; None where nothing was.

        Raises:
            AnalysisError: the file is damaged, or of another run.
        """
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise AnalysisError(f"{self.file} cannot be read ({str(error)[:80]}); delete it to start again") from None
        if about.get("key") != self.key:
            raise AnalysisError(
                f"{self.file} is the unfinished run of another model, corpus or set of options; give another folder, "
                "or delete it to start again"
            )
        return tensors, about.get("words", "")

    def keep(self, state: Callable[[], Mapping[str, Tensor]], words: str = "") -> None:
        """Save, where the last time is long enough ago; a killed run leaves the old file or the new one."""
        if time.monotonic() - self.last < SAVE_EVERY:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state().items()}
        with replacing(self.file) as temporary:
            save_file(tensors, temporary, metadata={"key": self.key, "words": words})
        self.last = time.monotonic()

    def delete(self) -> None:
        """The run is done."""
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or another process was quicker
            self.folder.rmdir()
