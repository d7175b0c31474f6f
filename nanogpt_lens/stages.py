"""The checkpoints of one training run in order, and one model that takes the weights of each in turn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conversion.checkpoint import Checkpoint, read_checkpoint, read_iteration
from conversion.config import Activation
from conversion.errors import CheckpointError
from conversion.reloading import reload_weights
from conversion.vocabulary import Vocabulary
from nanogpt_lens.access import Hooked
from nanogpt_lens.loading import convert, find_folder

PATTERN = "ckpt*.pt"
"""What the checkpoints of a run are called."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A checkpoint of a run.

    Attributes:
        step: its `iter_num`.
        path: its file.
    """

    step: int
    path: Path


def list_stages(path: str | Path, *, pattern: str = PATTERN) -> tuple[Stage, ...]:
    """The checkpoints of a folder by `iter_num`; two of one iteration count once if they have the same weights.

    Args:
        path: a folder, or the name of a shipped checkpoint with stages.
        pattern: which files.

    Raises:
        CheckpointError: no folder, no checkpoint in it, one without `iter_num` or damaged, or two
            different ones of the same iteration.
    """
    folder = find_folder(path)
    files = sorted(folder.glob(pattern))
    if not files:
        others = sorted(p.name for p in folder.glob("*/ckpt.pt"))
        below = f"; there are checkpoints in {folder / '*'}: name one of these folders" if others else ""
        raise CheckpointError(
            f"{folder} has no {pattern}; expected the checkpoints of a training run, such as "
            f"`nanogpt-lens train --stages log:12` keeps{below}"
        )
    found: dict[int, Path] = {}
    for file in files:
        step = read_iteration(file)
        if step is None:
            raise CheckpointError(
                f"{file} has no iter_num, so its place in the run is unknown; expected nanoGPT's checkpoints: "
                "store iter_num, or move the file away"
            )
        if step in found and not _same_weights(found[step], file):
            raise CheckpointError(
                f"{found[step]} and {file} are both of iteration {step} and differ; expected the checkpoints of one "
                "run: move one of them away, or give pattern="
            )
        found.setdefault(step, file)
    return tuple(Stage(step=step, path=found[step]) for step in sorted(found))


def _same_weights(one: Path, other: Path) -> bool:
    return _digest(read_checkpoint(one)) == _digest(read_checkpoint(other))


def _digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(checkpoint.state_dict.items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Walk:
    """One model object, and the weights of one checkpoint at a time.

    Args:
        stages: what `list_stages` found.
        backend, device, dtype, process_weights, meta, activation, ignore_model_args: as for `load`.

    Attributes:
        model: with the weights of the stage that was asked for last; None before the first.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        backend: str = "auto",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        process_weights: bool = False,
        meta: str | Path | Vocabulary | None = None,
        activation: Activation = "gelu",
        ignore_model_args: Iterable[str] = (),
    ) -> None:
        self.stages = tuple(stages)
        self._reading: dict[str, Any] = {
            "meta": meta,
            "activation": activation,
            "ignore_model_args": tuple(ignore_model_args),
        }
        self._converting: dict[str, Any] = {
            "backend": backend,
            "device": device,
            "dtype": dtype,
            "process_weights": process_weights,
        }
        self.model: Hooked | None = None

    def at(self, stage: Stage) -> Hooked:
        """The model with the weights of a stage; the same object each time.

        Raises:
            CheckpointError: the checkpoint is damaged, or of another model than the one before.
        """
        checkpoint = read_checkpoint(stage.path, **self._reading)
        if self.model is None:
            self.model = convert(checkpoint, **self._converting, consume=True)
        else:
            reload_weights(self.model, checkpoint)
        return self.model
