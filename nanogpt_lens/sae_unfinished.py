"""The state of an unfinished training of an autoencoder on disk: its weights, and SAELens' own trainer state.

A state is a folder of its own; a small file names the one that counts and is replaced in one step, so that
a killed run leaves the old state or the new one. Activations are not kept: they are computed again, which is
quicker than training on them, so that the batches are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

import nanogpt_lens.unfinished as unfinished
from conversion.atomic import write_text
from nanogpt_lens.errors import AnalysisError

NAME = "unfinished-sae"


class UnfinishedSAE:
    """A folder for the state of one training.

    Args:
        folder: made when needed.
        described: what the run depends on, as JSON.

    Raises:
        AnalysisError: the folder is a file.
    """

    def __init__(self, folder: str | Path, described: Mapping[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise AnalysisError(f"resume={str(folder)!r} is a file; expected a folder for the unfinished run")
        self.file = self.folder / f"{NAME}.json"
        self.key = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
        self.last = time.monotonic()

    def restore(self, trainer: Any) -> int:
        """Fill the trainer and its autoencoder with what was saved; returns how many batches it had drawn.

        Raises:
            AnalysisError: the state is damaged, or of another run.
        """
        if not self.file.is_file():
            return 0
        try:
            about = json.loads(self.file.read_text())
            key, drawn, state = about["key"], int(about["drawn"]), self.folder / Path(about["state"]).name
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnalysisError(f"{self.file} cannot be read ({error}); delete {self.folder} to start again") from None
        if key != self.key:
            raise AnalysisError(
                f"{self.file} is the unfinished run of another model, corpus or set of options; give another folder, "
                "or delete it to start again"
            )
        from safetensors.torch import load_file

        try:
            trainer.sae.load_state_dict(load_file(state / "weights.safetensors"), strict=True)
            trainer.load_trainer_state(state)
        except Exception as error:  # torch's, safetensors' and JSON's errors have no common base
            raise AnalysisError(
                f"{state} cannot be read ({type(error).__name__}: {str(error)[:80]}); delete {self.folder} to start "
                "again"
            ) from None
        return drawn

    def kept(self, batches: Iterator[Tensor], trainer: Any, drawn: int) -> Iterator[Tensor]:
        """The batches from the `drawn`-th on; the state is saved between two of them, every ten seconds."""
        for _ in range(drawn):
            next(batches)
        for i, batch in enumerate(batches, start=drawn):
            if trainer.n_training_steps and time.monotonic() - self.last >= unfinished.SAVE_EVERY:
                self._save(trainer, i)
            yield batch

    def delete(self) -> None:
        """The run is done."""
        self.file.unlink(missing_ok=True)
        for old in self.folder.glob(f"{NAME}-*"):
            shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):  # not empty
            self.folder.rmdir()

    def _save(self, trainer: Any, drawn: int) -> None:
        from safetensors.torch import save_file

        state = self.folder / f"{NAME}-{os.urandom(6).hex()}"
        state.mkdir(parents=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in trainer.sae.state_dict().items()},
                  state / "weights.safetensors")  # fmt: skip
        trainer.save_trainer_state(state)
        write_text(self.file, json.dumps({"key": self.key, "drawn": drawn, "state": state.name}) + "\n")
        for old in self.folder.glob(f"{NAME}-*"):
            if old != state:
                shutil.rmtree(old, ignore_errors=True)
        self.last = time.monotonic()
