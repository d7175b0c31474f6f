"""The state of an unfinished run on disk: one file, replaced in one step every ten seconds, deleted at the end.

A state belongs to one model, corpus and set of options; reading that of another run raises AnalysisError.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conversion.atomic import replacing
from nanogpt_lens.core.errors import AnalysisError

SAVE_EVERY = 10.0
"""Seconds between two savings."""


class UnfinishedRun:
    """A folder for the state of a run, and a file in it that says which state counts, and of which run it is.

    Args:
        folder: the folder, which is made when needed and deleted at the end if nothing else is in it.
        name: the name of the file.
        described: everything that the run depends on, as JSON.

    Raises:
        AnalysisError: `folder` is a file.
    """

    def __init__(self, folder: str | Path, name: str, described: Mapping[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise AnalysisError(f"resume={str(folder)!r} is a file; expected a folder for the unfinished run")
        self.file = self.folder / name
        self.key = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
        self.saved_now()

    def saved_now(self) -> None:
        """Start to count `SAVE_EVERY` anew: the state was saved just now."""
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether the state was last saved so long ago that it is time to save it again."""
        return time.monotonic() - self._last >= SAVE_EVERY

    def check_key(self, key: object) -> None:
        """Raise AnalysisError unless a state's key is that of this run."""
        if key != self.key:
            raise AnalysisError(
                f"{self.file} is the unfinished run of another model, corpus or set of options; give another folder, "
                "or delete it to start again"
            )

    def delete(self) -> None:
        """Delete the state, because the run is done, and the folder if it is then empty."""
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or another process was quicker
            self.folder.rmdir()


class Unfinished(UnfinishedRun):
    """An unfinished run whose whole state is one file of tensors and words.

    Args:
        folder, described: as for `UnfinishedRun`.
        name: the name of the file, without its ending.
    """

    def __init__(self, folder: str | Path, name: str, described: Mapping[str, Any]) -> None:
        super().__init__(folder, f"{name}.safetensors", described)

    def read(self) -> tuple[dict[str, Shaped[Tensor, " ..."]], str] | None:
        """The tensors and the words that were saved; None if nothing was.

        Raises:
            AnalysisError: the file is damaged, or belongs to another run.
        """
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise AnalysisError(f"{self.file} cannot be read ({str(error)[:80]}); delete it to start again") from None
        self.check_key(about.get("key"))
        return tensors, about.get("words", "")

    def keep(self, state: Callable[[], Mapping[str, Shaped[Tensor, " ..."]]], words: str = "") -> None:
        """Save the state if that is due; a killed run leaves the old file or the new one."""
        if not self.is_due():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state().items()}
        with replacing(self.file) as temporary:
            save_file(tensors, temporary, metadata={"key": self.key, "words": words})
        self.saved_now()
