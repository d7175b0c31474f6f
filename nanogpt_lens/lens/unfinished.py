"""The state of an unfinished training of a lens: the first process writes and reads it for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.distributed import gathered, is_first
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.unfinished import Unfinished


class UnfinishedLens:
    """A folder for the state of one training.

    Args:
        folder: the folder, which is made when it is needed.
        description: the options of the run and the model's identity.
        parts: the fingerprints of the texts that the run trains on, stops by and is measured on.

    Raises:
        AnalysisError: the folder is a file.
    """

    def __init__(self, folder: str | Path, description: Mapping[str, Any], parts: Sequence[str]) -> None:
        self.file = Unfinished(folder, "unfinished-lens", {**description, "corpus": list(parts)})

    def restore(self) -> dict[str, Shaped[Tensor, " ..."]] | None:
        """The saved state, the same in every process; None if there is none.

        Raises:
            AnalysisError: the state is damaged, or of another run; in every process.
        """
        tensors, message = {}, ""
        try:
            if is_first() and (saved := self.file.read()) is not None:
                tensors = saved[0]
        except AnalysisError as error:
            message = str(error)
        words = torch.frombuffer(bytearray(message.encode() + b"."), dtype=torch.uint8)
        state = gathered({**tensors, "message": words})[0]
        message = bytes(state.pop("message").tolist()).decode()[:-1]
        if message:
            raise AnalysisError(message)
        return state or None

    def keep(self, state: Callable[[], Mapping[str, Shaped[Tensor, " ..."]]]) -> None:
        """Save the state if the last time is long enough ago."""
        if is_first():
            self.file.keep(state)

    def delete(self) -> None:
        """Delete the state of a run that is done."""
        if is_first():
            self.file.delete()
