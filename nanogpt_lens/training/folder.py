"""The files that a training run keeps on disk, so that a run that is killed loses nothing but time.

    ckpt.pt          nanoGPT's checkpoint, with the optimizer: the best evaluation so far
    ckpt_000123.pt   the weights alone, at a chosen stage
    resume.pt        the latest state, from which a killed run goes on; deleted when the run is over
    metrics.jsonl    one line per iteration that was evaluated or logged
    meta.pkl         the vocabulary
    val.bin          the validation part of the text, by which `ngl.check` certifies the run's checkpoints
    task.json        the task, if the run trains on one

Every file is replaced in one step. `resume.pt` says how far the run has come, and all else
follows: what lies beyond its iteration is computed again, to the same bits, and written again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import write_text
from conversion.checkpoint import CHECKPOINT_NAME, Checkpoint, read_checkpoint, save_checkpoint
from conversion.val_loss import STATE_KEY, STATE_TO_RESUME, VAL_NAME
from conversion.vocabulary import META_NAME, TOKENIZER_NAME, Vocabulary
from nanogpt_lens.core.errors import TrainingError
from nanogpt_lens.text.datasets import TextData, holds_val, write_val
from nanogpt_lens.text.task import TASK_NAME, Task
from nanogpt_lens.training.loop import Trainer

RESUME_NAME, METRICS_NAME = "resume.pt", "metrics.jsonl"
_FILES = r"ckpt(_\d+)?\.pt|resume\.pt|metrics\.jsonl"
_RUN_FILE = re.compile(_FILES)
_TEMPORARY_FILE = re.compile(
    rf"\.({_FILES}|{re.escape(VAL_NAME)}|{re.escape(META_NAME)}|{re.escape(TOKENIZER_NAME)}|{re.escape(TASK_NAME)})\.[0-9a-f]{{12}}\.tmp"
)
"""Names of a run's files, and of the temporary files that a killed run leaves behind."""


class RunFolder:
    """The files of one run.

    Args:
        path: nanoGPT's `out_dir`.
        settings: what is stored as nanoGPT's `config`; a run goes on only under equal settings.
        vocabulary: the vocabulary to write as `meta.pkl`.
        task: the task to write as `task.json`.
        text: the text whose validation part to write as `val.bin`.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        vocabulary: Vocabulary | None,
        task: Task | None = None,
        text: TextData | None = None,
    ) -> None:
        self.path, self.settings, self.vocabulary, self.task, self.text = path, settings, vocabulary, task, text
        self.checkpoint, self.resume, self.metrics = (path / n for n in (CHECKPOINT_NAME, RESUME_NAME, METRICS_NAME))

    def stage(self, iteration: int) -> Path:
        """The file of a stage's checkpoint."""
        return self.path / f"ckpt_{iteration:06d}.pt"

    def checkpoint_names(self) -> list[str]:
        """The names of the checkpoints in the folder."""
        return sorted(file.name for file in self.path.glob("*.pt") if _RUN_FILE.fullmatch(file.name))

    def clear(self) -> None:
        """Delete the run in the folder, and first of all the state from which it would go on."""
        if self.checkpoint_names() and not self._is_data_folder():
            (self.path / VAL_NAME).unlink(missing_ok=True)
        self.resume.unlink(missing_ok=True)
        self.tidy()
        for file in sorted(self.path.iterdir(), key=lambda file: bool(_RUN_FILE.fullmatch(file.name))):  # the run last
            no_longer = {META_NAME: self.vocabulary, TASK_NAME: self.task}
            if _RUN_FILE.fullmatch(file.name) or no_longer.get(file.name, file) is None:
                file.unlink(missing_ok=True)

    def check_val(self) -> None:
        """Raise TrainingError where the folder has a `val.bin` that is not this run's; nothing is written."""
        file = self.path / VAL_NAME
        if self._is_data_folder() or not file.is_file() or (self.text is not None and holds_val(self.text, file)):
            return
        raise TrainingError(
            f"{file} holds other tokens than the validation part of this run, by which its checkpoints would be "
            "certified; nothing was written: move it away, or choose another output"
        )

    def _is_data_folder(self) -> bool:
        """Whether the folder is one of data, whose `val.bin` is the user's."""
        return (self.path / "train.bin").is_file()

    def save_data(self) -> None:
        """Write the vocabulary, the task and the validation part, if there are any."""
        if self.text is not None and not self._is_data_folder():
            write_val(self.text, self.path)
        if self.vocabulary is not None:
            self.vocabulary.save(self.path)
        if self.task is not None:
            self.task.save(self.path)

    def tidy(self) -> None:
        """Delete the temporary files of a killed run, which is safe while the caller is the `only_writer`."""
        for file in self.path.glob(".*.tmp"):
            if _TEMPORARY_FILE.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def save(
        self, file: Path, trainer: Trainer, iteration: int, val_loss: float | None, *, optimizer: bool = True
    ) -> Path:
        """Write the trainer's state after `iteration` updates.

        Raises:
            TrainingError: the weights are not finite; nothing is written.
        """
        state = {name: tensor.detach() for name, tensor in trainer.model.state_dict().items()}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
            raise diverged(iteration, "weights that are not finite")
        checkpoint = Checkpoint(
            config=trainer.model.config,
            state_dict=state,
            iter_num=iteration,
            best_val_loss=val_loss,
            run_config={**self.settings, **({STATE_KEY: STATE_TO_RESUME} if file == self.resume else {})},
            optimizer=trainer.optimizer.state_dict() if optimizer else None,
        )
        return save_checkpoint(checkpoint, file)

    def find_state(self, *, resume: bool | str) -> Checkpoint | None:
        """The state from which the run goes on; None to start at the beginning. Nothing is written.

        Returns:
            The state of `resume.pt`; if the run is over, its `ckpt.pt`.

        Raises:
            TrainingError: the folder holds another run, or a run that cannot go on; or
                `resume` is True and the folder holds no run.
        """
        if not self.checkpoint_names():
            if resume is True:
                raise TrainingError(
                    f"{self.path} has no {RESUME_NAME} to resume from; start with resume='auto' or False"
                )
            return None
        if resume is False:
            raise TrainingError(
                f"{self.path} already holds {', '.join(self.checkpoint_names()[:4])}; nothing was written: choose "
                "another output, continue with resume='auto', or start anew with overwrite=True, which deletes them"
            )
        file = self.resume if self.resume.is_file() else self.checkpoint
        state = read_checkpoint(file, optimizer=True)
        self._check_same_run(state)
        if file == self.checkpoint and not any(r["iter"] == self.settings["max_iters"] for r in self.records()):
            raise TrainingError(
                f"{self.path} holds a run that did not reach its end, without the {RESUME_NAME} to go on from; "
                "choose another output, or start anew with overwrite=True"
            )
        return state

    def _check_same_run(self, state: Checkpoint) -> None:
        """Raise TrainingError unless a state was written by this trainer under the same settings."""
        stored = state.run_config
        if "train_tokens" not in stored:
            raise TrainingError(
                f"{state.path} was not written by this trainer, so it cannot be continued; nothing was written: "
                "choose another output, or start anew with overwrite=True, which deletes it"
            )
        changed = [
            f"{name} {stored.get(name)!r}, now {value!r}"
            for name, value in self.settings.items()
            if stored.get(name) != value
        ]
        if changed:
            raise TrainingError(
                f"{self.path} holds a run with other settings ({'; '.join(changed)}); nothing was written: "
                "give the same settings, choose another output, or start anew with overwrite=True"
            )

    def records(self) -> list[dict[str, Any]]:
        """The lines of the log, without a last line that was cut off."""
        if not self.metrics.is_file():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

    def cut_log(self, iteration: int) -> list[dict[str, Any]]:
        """Delete the lines from `iteration` on, and return those before it."""
        before = [record for record in self.records() if record["iter"] < iteration]
        write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in before))
        return before

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def sync_log(self) -> None:
        """Bring the log to the disk, before a state is saved that counts on it."""
        with self.metrics.open("rb+") as file:
            os.fsync(file.fileno())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """A block in which no other process can train into the folder.

    The operating system ends the claim when the process ends, however it ends.

    Raises:
        TrainingError: another process is training into the folder.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another process is training into {folder}; wait for it, or choose another output"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def diverged(iteration: int, what: str) -> TrainingError:
    """The error for a run whose numbers are no longer finite."""
    return TrainingError(
        f"the run diverged: {what} at iteration {iteration}; start anew with a lower learning_rate, "
        "a longer warmup_iters, or grad_clip=1.0"
    )
