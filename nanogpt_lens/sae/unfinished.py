"""The state of an unfinished training of an autoencoder on disk: its weights, and SAELens' own trainer state.

A state is a folder of its own; a small file names the one that counts and is replaced in one step, so that
a killed run leaves the old state or the new one. Activations are not kept: they are computed again, which is
quicker than training on them, so that the batches are the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from conversion.atomic import write_text
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.unfinished import UnfinishedRun

NAME = "unfinished-sae"


class UnfinishedSAE(UnfinishedRun):
    """A folder for the state of one training.

    Args:
        folder, described: see `UnfinishedRun`.
    """

    def __init__(self, folder: str | Path, described: Mapping[str, Any]) -> None:
        super().__init__(folder, f"{NAME}.json", described)

    def restore(self, trainer: Any) -> int:
        """Fill the trainer and its autoencoder with what was saved; return the number of batches that it had drawn.

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
        self.check_key(key)
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

    def saving(
        self, batches: Iterator[Float[Tensor, "token d_in"]], trainer: Any, drawn: int
    ) -> Iterator[Float[Tensor, "token d_in"]]:
        """Yield the batches from the `drawn`-th on; the state is saved between two of them, every ten seconds."""
        for _ in range(drawn):
            next(batches)
        for i, batch in enumerate(batches, start=drawn):
            if trainer.n_training_steps and self.is_due():
                self._save(trainer, i)
            yield batch

    def delete(self) -> None:
        """Delete the state: the run is done."""
        self._delete_states()
        super().delete()

    def _save(self, trainer: Any, drawn: int) -> None:
        from safetensors.torch import save_file

        state = self.folder / f"{NAME}-{os.urandom(6).hex()}"
        state.mkdir(parents=True)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in trainer.sae.state_dict().items()},
            state / "weights.safetensors",
        )
        trainer.save_trainer_state(state)
        write_text(self.file, json.dumps({"key": self.key, "drawn": drawn, "state": state.name}) + "\n")
        self._delete_states(but=state)
        self.saved_now()

    def _delete_states(self, *, but: Path | None = None) -> None:
        for old in self.folder.glob(f"{NAME}-*"):
            if old != but:
                shutil.rmtree(old, ignore_errors=True)
