"""The checkpoints of one training run in order, and one model that takes the weights of each in turn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any

import torch

from conversion.checkpoint import CHECKPOINT_NAME, Checkpoint, read_iteration
from conversion.compact import STORED_KEY, compact
from conversion.errors import CheckpointError, CheckpointWarning
from conversion.reloading import reload_weights
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.model.loading import convert
from nanogpt_lens.model.places import find_folder
from nanogpt_lens.model.reading import Reading

_AS_USUAL = Reading()
_ENDINGS = (".pt", ".pth", ".safetensors")
PATTERN = "ckpt*.pt"
"""The pattern of the file names of a run's checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A checkpoint of a run.

    Attributes:
        step: the checkpoint's `iter_num`.
        path: the checkpoint's file.
    """

    step: int
    path: Path


def list_stages(path: str | Path, *, pattern: str = PATTERN, reading: Reading = _AS_USUAL) -> tuple[Stage, ...]:
    """The checkpoints of a folder by `iter_num`; two of one iteration count once if they have the same weights.

    A checkpoint and its `compact` form count as the same. The first by name is taken, `ckpt.pt` before
    `ckpt_000100.pt`.

    Args:
        path: a folder, or the name of a shipped checkpoint with stages.
        pattern: the pattern of the file names.
        reading: how checkpoints are read, to compare two of one iteration.

    Raises:
        CheckpointError: there is no such folder, or no checkpoint in it; a checkpoint is damaged or has no
            `iter_num`; two of the same iteration differ; or the pattern is none.
    """
    folder = find_folder(path)
    try:
        if not pattern or Path(pattern).is_absolute():
            raise ValueError
        files = sorted(file for file in folder.glob(pattern) if file.is_file())
    except ValueError:
        raise CheckpointError(f"pattern is {pattern!r}; expected names of files such as {PATTERN!r}") from None
    if not files:
        raise CheckpointError(
            f"{folder} has no {pattern}; expected the checkpoints of a training run, such as "
            f"`nanogpt-lens train --stages log:12` keeps{_what_is_there(folder)}"
        )
    file_of: dict[int, Path] = {}
    for file in files:
        step = read_iteration(file)
        if step is None:
            raise CheckpointError(
                f"{file} has no iter_num, so its place in the run is unknown; expected nanoGPT's checkpoints: "
                "store iter_num, or move the file away"
            )
        if step in file_of and not _same_weights(file_of[step], file, reading):
            raise CheckpointError(
                f"{file_of[step]} and {file} are both of iteration {step} and differ; expected the checkpoints of one "
                "run: move one of them away, or give pattern="
            )
        file_of.setdefault(step, file)
    return tuple(Stage(step=step, path=file_of[step]) for step in sorted(file_of))


def _what_is_there(folder: Path) -> str:
    """The checkpoints that a folder does hold, as the end of a sentence; nothing where it holds none."""
    files = sorted(file.name for ending in _ENDINGS for file in folder.glob(f"*{ending}") if file.is_file())
    if files:
        named = ", ".join(files[:3]) + (f", ... ({len(files)} files)" if len(files) > 3 else "")
        stems = [Path(name).stem for name in files]
        same = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip_longest(*stems)))
        start = stems[0][:same].rstrip("0123456789")
        endings = {Path(name).suffix for name in files}
        fitting = f"{start}*{endings.pop()}" if len(endings) == 1 else f"{start}*"
        return f"; there are {named}: give pattern={fitting!r}"
    if any(folder.glob(f"*/{CHECKPOINT_NAME}")):
        return f"; there are checkpoints in {folder / '*'}: name one of these folders"
    return ""


def _same_weights(one: Path, other: Path, reading: Reading) -> bool:
    """Whether two files have the same weights, in the precision of the one that was rounded more."""
    pair = [reading.checkpoint(file) for file in (one, other)]
    stored = [bits for checkpoint in pair if (bits := _stored_bits(checkpoint)) is not None]
    if stored:
        pair = [compact(checkpoint, bits=min(stored)) for checkpoint in pair]
    a, b = (checkpoint.state_dict for checkpoint in pair)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _stored_bits(checkpoint: Checkpoint) -> int | None:
    """The bits of mantissa that a file says its weights were rounded to."""
    stored = checkpoint.run_config.get(STORED_KEY)
    return stored.get("mantissa_bits") if isinstance(stored, Mapping) else None


class Walk:
    """One model object, which takes the weights of one checkpoint at a time.

    Args:
        stages: the stages, from `list_stages`.
        reading: how the checkpoints are read.
        converting: other options of `convert`: device, dtype, process_weights.

    Attributes:
        model: the model, with the weights of the stage that was asked for last; None before the first.
    """

    def __init__(self, stages: Sequence[Stage], *, reading: Reading = _AS_USUAL, **converting: Any) -> None:
        self.stages, self._reading, self._converting = tuple(stages), reading, converting
        self.model: Hooked | None = None

    def at(self, stage: Stage) -> Hooked:
        """The model with the weights of a stage; the same object each time.

        Raises:
            CheckpointError: the checkpoint is damaged, it is of another iteration than before, or its model is
                another than that of the stage before.

        Warns:
            CheckpointWarning: as `ngl.load`, once.
        """
        checkpoint = self._reading.checkpoint(stage.path)
        if checkpoint.iter_num != stage.step:
            raise CheckpointError(
                f"{stage.path} was of iteration {stage.step}, and is of {checkpoint.iter_num} now; expected files that "
                "stay as they are: wait for the end of the training, or give pattern='ckpt_*.pt'"
            )
        if self.model is None:
            if checkpoint.vocabulary_doubt:
                warnings.warn(f"{checkpoint.name}: {checkpoint.vocabulary_doubt}", CheckpointWarning, stacklevel=3)
            self.model = convert(checkpoint, backend=self._reading.backend, **self._converting, consume=True)
        else:
            reload_weights(self.model, checkpoint)
        return self.model
