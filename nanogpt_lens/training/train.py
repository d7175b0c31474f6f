"""Train a nanoGPT model on a CPU or a GPU, and keep its checkpoints at chosen stages.

The loop is nanoGPT's: AdamW on matrices with weight decay, warm-up and cosine, clipping,
an evaluation every so often, and `ckpt.pt` if it is the best so far. Two things differ. A run
that is killed at any moment goes on from its last evaluation and ends with the same bits as one
that was not killed (on a CPU, with the same PyTorch and number of threads), because batches and
dropout follow from the seed and the iteration alone. And the weights of any iteration can be
kept, to see how a circuit forms.

    result = train("input.txt", "out", max_iters=2000, stages="log:20")
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from conversion.checkpoint import Checkpoint, read_checkpoint
from conversion.token_files import TokenFile
from nanogpt_lens.core.errors import TrainingError
from nanogpt_lens.text.datasets import TextData, read_data
from nanogpt_lens.text.tasks import Backdoor, Task
from nanogpt_lens.training.config import TrainConfig, parse_stages, with_settings
from nanogpt_lens.training.folder import RunFolder, diverged, only_writer
from nanogpt_lens.training.loop import Trainer, learning_rate, make_model
from nanogpt_lens.training.sample import sample_text

__all__ = ["TrainConfig", "TrainResult", "TrainingError", "train"]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The files and the numbers of a finished run.

    Attributes:
        path: nanoGPT's `ckpt.pt`, of the best evaluation (of the last one with
            `always_save_checkpoint`).
        metrics: the log, one JSON object per line: `iter`; if the iteration was evaluated, `train_loss` and
            `val_loss` before its update, with a task's `required_accuracy` and the like (see
            `Trainer.evaluate`); `batch_loss` and `lr` of the update;
            `tokens_per_second` of the updates since the line before; `elapsed` seconds.
        stages: the checkpoints of the chosen stages.
        iterations: the number of updates.
        best_iteration, best_val_loss: the iteration and the loss of `path`.
        train_loss, val_loss: the losses of the last evaluation, in nats.
        resumed_from: the iteration at which this call took up the run; None if it began the run.
        tokens_per_second: the speed of this call's updates without the evaluations; None if it made no update.
        seconds: the time that the whole run took, with its evaluations.
        sample: text sampled from `path`; None if not asked for, or without a vocabulary.
    """

    path: Path
    metrics: Path
    stages: tuple[Path, ...]
    iterations: int
    best_iteration: int
    best_val_loss: float
    train_loss: float
    val_loss: float
    resumed_from: int | None
    tokens_per_second: float | None
    seconds: float
    sample: str | None


def train(
    data: TextData | Task | TokenFile | str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    stages: str | Iterable[int] | None = None,
    resume: Literal["auto"] | bool = "auto",
    overwrite: bool = False,
    progress: bool = True,
    sample: bool = True,
    **settings: Any,
) -> TrainResult:
    """Train a model from scratch, or go on with a run that was interrupted.

        train("input.txt", "out", max_iters=500, n_layer=2)

    Args:
        data: a text, anything from which `read_data` makes one, or a task (see `nanogpt_lens.text.tasks`), whose
            sequences are made as they are needed; of a backdoor, its text is trained on.
        output: the folder for the run's files (see `nanogpt_lens.training.folder`).
        config: the settings; by default those of nanoGPT's README for a CPU.
        stages: iterations whose weights are kept as `ckpt_000123.pt`: "log:20", or the
            iterations themselves, 0 for the initial weights; each is evaluated.
        resume: "auto" goes on with what is in `output` and starts if nothing is; True
            raises TrainingError if there is no run to go on with, False if there is one. A run
            that is over is returned as it is.
        overwrite: delete the run in `output` and start anew.
        progress: show a bar.
        sample: draw about 300 characters from the result.
        settings: nanoGPT's settings by name, see `TrainConfig`; with `config`, what differs from it.

    Raises:
        DataError: there are no such data, or they are too short for the context; nothing is written.
        TrainingError: the settings make no sense, or the folder holds another run or is in use
            by another process, and nothing is written; or the run diverged.
    """
    data = data if isinstance(data, Task) else read_data(data)
    config = with_settings(config or TrainConfig(), settings)
    data.refuse_shorter_than(config.block_size)
    stage_iterations = parse_stages(stages, config.max_iters)
    path = Path(output).expanduser()
    task = data if isinstance(data, Task) else None
    text = data if isinstance(data, TextData) else data.text if isinstance(data, Backdoor) else None
    folder = RunFolder(path, run_settings(data, config, stage_iterations), data.vocabulary, task, text)
    _make_folder(path, resume=resume, overwrite=overwrite)
    devices = [config.device] if torch.device(config.device).type == "cuda" else []
    with only_writer(path), torch.random.fork_rng(devices=devices):
        if overwrite:
            folder.clear()
        state = folder.find_state(resume=resume)
        speed = None
        if state is None or state.path != folder.checkpoint:
            folder.check_val()
            source = data if text is None else text
            speed = _TrainingRun(folder, source, config, stage_iterations, state, progress=progress).run()
    return _result(folder, config, stage_iterations, state, speed, sample=sample)


def run_settings(data: TextData | Task, config: TrainConfig, stages: tuple[int, ...]) -> dict[str, Any]:
    """What a run stores as nanoGPT's `config`: the settings, and what identifies the data."""
    if isinstance(data, Task):
        return {**config.to_dict(), **data.settings(), "stages": list(stages)}
    return {
        **config.to_dict(),
        "dataset": data.name,
        "text_sha256": data.sha256,
        "train_tokens": len(data.train),
        "val_tokens": len(data.val),
        **({"token_dtype": data.stored} if data.stored else {}),
        "stages": list(stages),
    }


class _TrainingRun:
    """The training loop, and the files that it writes on the way."""

    def __init__(
        self,
        folder: RunFolder,
        data: TextData | Task,
        config: TrainConfig,
        stages: tuple[int, ...],
        state: Checkpoint | None,
        *,
        progress: bool,
    ) -> None:
        self.folder, self.config, self.stages = folder, config, set(stages)
        self.trainer = Trainer(make_model(data.vocab_size, config), data, config)
        self.start, self.best = 0, math.inf
        if state is not None:
            self.start, self.best = _restore(self.trainer, state)
        folder.save_data()
        folder.tidy()
        lines = folder.cut_log(self.start)
        self.before = lines[-1]["elapsed"] if lines else 0.0
        self.progress = progress

    def run(self) -> float | None:
        """Train to the end, and return the tokens per second."""
        config, began, bar_texts = self.config, time.perf_counter(), {}
        clock = _Clock(config.tokens_per_iter)
        with tqdm(total=config.max_iters, initial=self.start, unit="it", disable=not self.progress) as bar:
            for iteration in range(self.start, config.max_iters + 1):
                record: dict[str, Any] = {"iter": iteration}
                if self._is_evaluated(iteration) or iteration in self.stages:
                    record |= self._evaluate(iteration)
                if iteration < config.max_iters:
                    with clock:
                        loss = self.trainer.step(iteration)
                        if iteration % config.log_interval == 0:  # reading the loss waits for a GPU
                            record["batch_loss"] = _finite(float(loss), "the loss", iteration)
                    bar.update()
                if len(record) == 1:
                    continue
                record |= {"lr": learning_rate(iteration, config), **clock.lap()}
                record["elapsed"] = round(self.before + time.perf_counter() - began, 3)
                self.folder.log(record)
                bar_texts |= _bar_texts(record)
                bar.set_postfix(bar_texts, refresh=False)
        self.folder.sync_log()
        self.folder.resume.unlink(missing_ok=True)
        return clock.speed()

    def _is_evaluated(self, iteration: int) -> bool:
        """Whether nanoGPT evaluates at this iteration; the last one counts too."""
        return iteration % self.config.eval_interval == 0 or iteration == self.config.max_iters

    def _evaluate(self, iteration: int) -> dict[str, float]:
        """Save the state from which the run can go on, evaluate, save checkpoints, and return the losses.

        A stage between two of nanoGPT's evaluations is evaluated, but does not compete for `ckpt.pt`:
        the choice of stages changes nothing else about a run.
        """
        if self._is_evaluated(iteration):
            self.folder.sync_log()
            best = None if math.isinf(self.best) else self.best
            self.folder.save(self.folder.resume, self.trainer, iteration, best)
        values = self.trainer.evaluate(iteration)
        _finite(values["train_loss"], "the train loss", iteration)
        val = _finite(values["val_loss"], "the val loss", iteration)
        if self._is_evaluated(iteration) and iteration > 0 and (val < self.best or self.config.always_save_checkpoint):
            self.best = val
            self.folder.save(self.folder.checkpoint, self.trainer, iteration, val)
        if iteration in self.stages:
            self.folder.save(self.folder.stage(iteration), self.trainer, iteration, val, optimizer=False)
        return values


class _Clock:
    """Measures the tokens per second of the updates, without evaluations and files."""

    def __init__(self, tokens_per_iter: int) -> None:
        self.tokens_per_iter = tokens_per_iter
        self.steps, self.seconds = 0, 0.0
        self.steps_before, self.seconds_before = 0, 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.started
        self.steps += 1

    def lap(self) -> dict[str, float]:
        """The speed since the last lap, for the log; empty if there was no update."""
        steps, seconds = self.steps - self.steps_before, self.seconds - self.seconds_before
        self.steps_before, self.seconds_before = self.steps, self.seconds
        return {"tokens_per_second": round(steps * self.tokens_per_iter / seconds, 1)} if steps else {}

    def speed(self) -> float | None:
        """The speed of all updates; None if there was none."""
        return self.steps * self.tokens_per_iter / self.seconds if self.steps else None


def _make_folder(path: Path, *, resume: bool | str, overwrite: bool) -> None:
    """Make the run's folder; raise TrainingError, before anything is written, if the options cannot work with it."""
    if resume not in ("auto", True, False):
        raise TrainingError(f"resume is {resume!r}; expected 'auto', True or False")
    if overwrite and resume is True:
        raise TrainingError("resume=True and overwrite=True contradict each other; give one of them")
    if path.exists() and not path.is_dir():
        raise TrainingError(f"{path} is a file; expected a folder for the run: choose another output")
    if not path.exists() and resume is True:
        raise TrainingError(f"{path} does not exist, so there is nothing to resume; start with resume='auto'")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{path} cannot be made ({error.strerror}); choose another output") from None


def _restore(trainer: Trainer, state: Checkpoint) -> tuple[int, float]:
    """Put a saved state into the trainer; return its iteration and the best loss before it."""
    if state.optimizer is None or state.iter_num is None or state.best_val_loss is None:
        raise TrainingError(f"{state.path} has no optimizer, iter_num or best_val_loss; start anew with overwrite=True")
    trainer.model.load_state_dict(state.state_dict, strict=True)
    trainer.optimizer.load_state_dict(dict(state.optimizer))
    return state.iter_num, state.best_val_loss if state.best_val_loss < 1e9 else math.inf


def _finite(value: float, what: str, iteration: int) -> float:
    """The value; TrainingError unless it is finite."""
    if not math.isfinite(value):
        raise diverged(iteration, f"{what} is {value}")
    return value


def _bar_texts(record: dict[str, Any]) -> dict[str, str]:
    """The numbers of a line of the log that the bar shows, as text."""
    formats = {
        "batch_loss": "{:.3f}",
        "val_loss": "{:.3f}",
        "required_accuracy": "{:.2f}",
        "tokens_per_second": "{:,.0f}",
    }
    names = {"batch_loss": "loss", "val_loss": "val", "required_accuracy": "acc", "tokens_per_second": "tok/s"}
    return {names[key]: style.format(record[key]) for key, style in formats.items() if key in record}


def _result(
    folder: RunFolder,
    config: TrainConfig,
    stages: tuple[int, ...],
    state: Checkpoint | None,
    speed: float | None,
    *,
    sample: bool,
) -> TrainResult:
    last = folder.records()[-1]
    checkpoint = read_checkpoint(folder.checkpoint)
    return TrainResult(
        path=folder.checkpoint,
        metrics=folder.metrics,
        stages=tuple(folder.stage(iteration) for iteration in stages),
        iterations=config.max_iters,
        best_iteration=checkpoint.iter_num or 0,
        best_val_loss=math.inf if checkpoint.best_val_loss is None else checkpoint.best_val_loss,
        train_loss=last["train_loss"],
        val_loss=last["val_loss"],
        resumed_from=None if state is None else config.max_iters if speed is None else state.iter_num,
        tokens_per_second=speed,
        seconds=last["elapsed"],
        sample=sample_text(checkpoint, seed=config.seed) if sample else None,
    )
