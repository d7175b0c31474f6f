"""One training step and one evaluation, as nanoGPT's `train.py` has them.

Nothing here keeps a random state. Every batch and every dropout mask follows from the
seed, the iteration and the place within it, so that iteration 1,000 is the same whether
the run began at 0 or was resumed at 750.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from conversion.native import GPT, mean_loss
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.tasks import Task, TaskSequences
from nanogpt_lens.training.config import TrainConfig

Purpose = Literal["train", "eval_train", "eval_val", "dropout", "weights"]
_PURPOSES: dict[Purpose, int] = {"train": 0, "eval_train": 1, "eval_val": 2, "dropout": 3, "weights": 4}


def learning_rate(iteration: int, config: TrainConfig) -> float:
    """The learning rate of nanoGPT's schedule: a linear warm-up, a cosine decay, then `min_lr`."""
    if iteration < config.warmup_iters:
        return config.learning_rate * (iteration + 1) / (config.warmup_iters + 1)
    if iteration >= config.decay_iters:
        return config.min_lr
    progress = (iteration - config.warmup_iters) / (config.decay_iters - config.warmup_iters)
    return config.min_lr + 0.5 * (1.0 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with nanoGPT's two groups: matrices and embeddings decay, vectors do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = torch.device(config.device).type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=fused)


def make_model(vocab_size: int, config: TrainConfig) -> GPT:
    """A model with nanoGPT's initial weights; PyTorch's random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_integer(config.seed, 0, "weights"))
        return GPT(config.architecture(vocab_size))


def draw_batch(
    ids: Integer[np.ndarray, " token"], config: TrainConfig, iteration: int, purpose: Purpose, index: int = 0
) -> Int[Tensor, "example pos"]:
    """Random windows of a text, `block_size + 1` tokens long: the inputs are [:, :-1], the targets [:, 1:].

    Args:
        ids: the tokens of a split.
        config: the settings, for `batch_size`, `block_size`, `seed` and `device`.
        iteration, purpose, index: the batch's name, so to speak; equal ones give equal batches.
    """
    generator = np.random.default_rng([config.seed, iteration, _PURPOSES[purpose], index])
    starts = generator.integers(len(ids) - config.block_size, size=(config.batch_size, 1))
    windows = torch.from_numpy(ids[starts + np.arange(config.block_size + 1)].astype(np.int64))
    if torch.device(config.device).type == "cuda":
        return windows.pin_memory().to(config.device, non_blocking=True)
    return windows.to(config.device)


def draw_sequences(task: Task, config: TrainConfig, iteration: int, purpose: Purpose, index: int = 0) -> TaskSequences:
    """New sequences of a task, `block_size + 1` tokens long; see `draw_batch`."""
    generator = np.random.default_rng([config.seed, iteration, _PURPOSES[purpose], index])
    return task.draw(config.batch_size, config.block_size + 1, generator)


class Trainer:
    """A model and its optimizer, with the step that moves them by one iteration.

    Attributes:
        model: the model, in training mode, on the device of the config.
        optimizer: the AdamW optimizer of its weights.
    """

    def __init__(self, model: GPT, data: TextData | Task, config: TrainConfig) -> None:
        self.config, self.data = config, data
        self.model = model.to(config.device).train()
        self.optimizer = make_optimizer(self.model, config)
        kind = torch.device(config.device).type
        self._scaler = torch.amp.GradScaler(kind, enabled=kind == "cuda" and config.dtype == "float16")
        self._autocast: Callable[[], Any] = nullcontext
        if kind == "cuda" and config.dtype != "float32":
            dtype = getattr(torch, config.dtype)
            self._autocast = lambda: torch.autocast(kind, dtype=dtype)
        self._loss: Callable[[Int[Tensor, "example pos"], Int[Tensor, "example pos"]], Float[Tensor, ""]] = (
            torch.compile(model.loss) if config.compile else model.loss
        )

    def step(self, iteration: int) -> Float[Tensor, ""]:
        """Make one update, and return the mean loss of its batches before it, detached, on the device."""
        config, total = self.config, torch.zeros((), device=self.config.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(iteration, config)
        for part in range(config.gradient_accumulation_steps):
            windows = self._windows("train", iteration, part)
            if config.dropout:
                torch.manual_seed(_integer(config.seed, iteration, "dropout", part))
            with self._autocast():
                loss = self._loss(windows[:, :-1], windows[:, 1:]) / config.gradient_accumulation_steps
            self._scaler.scale(loss).backward()
            total += loss.detach()
        if config.grad_clip:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    @torch.no_grad()
    def evaluate(self, iteration: int) -> dict[str, float]:
        """The loss as nanoGPT measures it, on random batches that are drawn anew at each iteration.

        Returns:
            `train_loss` and `val_loss`, each the mean over `eval_iters` batches of that part of the text, in
            nats; for a task, which has no parts, of two draws of new sequences. For a task also
            `required_accuracy` and `required_loss`, the share of right predictions and the loss at positions that
            require induction, and `unseen_accuracy`, their control, all of the second draw; each is
            absent if no position of its kind was drawn.
        """
        self.model.eval()
        values = {"train_loss": self._mean_loss("eval_train", iteration)}
        if isinstance(self.data, Task):
            values |= self._on_task(self.data, iteration)
        else:
            values["val_loss"] = self._mean_loss("eval_val", iteration)
        self.model.train()
        return values

    def _windows(self, purpose: Purpose, iteration: int, index: int) -> Int[Tensor, "example pos"]:
        if not isinstance(self.data, Task):
            ids = self.data.val if purpose == "eval_val" else self.data.train
            return draw_batch(ids, self.config, iteration, purpose, index)
        tokens = draw_sequences(self.data, self.config, iteration, purpose, index).tokens
        return torch.from_numpy(tokens).to(self.config.device)

    def _mean_loss(self, purpose: Purpose, iteration: int) -> float:
        losses = []
        for index in range(self.config.eval_iters):
            windows = self._windows(purpose, iteration, index)
            with self._autocast():
                losses.append(self.model.loss(windows[:, :-1], windows[:, 1:]))
        return float(torch.stack(losses).mean())

    def _on_task(self, task: Task, iteration: int) -> dict[str, float]:
        """The mean loss of the batches of "eval_val", and accuracy and loss at all their marked positions."""
        means = []
        right, loss, count = np.zeros(2), np.zeros(2), np.zeros(2)  # required, unseen
        for index in range(self.config.eval_iters):
            drawn = draw_sequences(task, self.config, iteration, "eval_val", index)
            tokens = torch.from_numpy(drawn.tokens).to(self.config.device)
            targets = tokens[:, 1:]
            with self._autocast():
                logits = self.model(tokens[:, :-1])
                means.append(mean_loss(logits, targets))
            losses = nn.functional.cross_entropy(logits.float().mT, targets, reduction="none").cpu().numpy()
            hits = (logits.argmax(-1) == targets).cpu().numpy()
            for i, mask in enumerate((drawn.required[:, :-1], drawn.unseen[:, :-1])):
                right[i] += hits[mask].sum()
                loss[i] += losses[mask].sum()
                count[i] += mask.sum()
        values = {"val_loss": float(torch.stack(means).mean())}
        if count[0]:
            values |= {"required_accuracy": float(right[0] / count[0]), "required_loss": float(loss[0] / count[0])}
        if count[1]:
            values["unseen_accuracy"] = float(right[1] / count[1])
        return values


def _integer(seed: int, iteration: int, purpose: Purpose, index: int = 0) -> int:
    """A seed for PyTorch, different for every iteration and purpose."""
    return int(np.random.default_rng([seed, iteration, _PURPOSES[purpose], index]).integers(2**63))
