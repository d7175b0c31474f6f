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
from torch import Tensor, nn

from conversion.native import GPT
from nanogpt_lens.datasets import TextData
from nanogpt_lens.training_config import TrainConfig

Purpose = Literal["train", "eval_train", "eval_val", "dropout", "weights"]
_PURPOSES: dict[Purpose, int] = {"train": 0, "eval_train": 1, "eval_val": 2, "dropout": 3, "weights": 4}


def learning_rate(iteration: int, config: TrainConfig) -> float:
    """The schedule of nanoGPT: linear warm-up, cosine decay, then `min_lr`."""
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
    """A model with nanoGPT's initial weights; PyTorch's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_integer(config.seed, 0, "weights"))
        return GPT(config.architecture(vocab_size))


def draw_batch(ids: np.ndarray, config: TrainConfig, iteration: int, purpose: Purpose, index: int = 0) -> Tensor:
    """Random windows of a text.

    Args:
        ids: the tokens of a split, of shape [tokens].
        config: for `batch_size`, `block_size`, `seed` and `device`.
        iteration, purpose, index: which batch; the same ones give the same batch.

    Returns:
        ids of shape [batch, block_size + 1]: the inputs are [:, :-1], the targets [:, 1:].
    """
    generator = np.random.default_rng([config.seed, iteration, _PURPOSES[purpose], index])
    starts = generator.integers(len(ids) - config.block_size, size=(config.batch_size, 1))
    windows = torch.from_numpy(ids[starts + np.arange(config.block_size + 1)].astype(np.int64))
    if torch.device(config.device).type == "cuda":
        return windows.pin_memory().to(config.device, non_blocking=True)
    return windows.to(config.device)


class Trainer:
    """A model, its optimizer, and what moves them by one iteration.

    Attributes:
        model: the model, in training mode, on the device of the config.
        optimizer: its AdamW.
    """

    def __init__(self, model: GPT, data: TextData, config: TrainConfig) -> None:
        self.config, self.data = config, data
        self.model = model.to(config.device).train()
        self.optimizer = make_optimizer(self.model, config)
        kind = torch.device(config.device).type
        self._scaler = torch.amp.GradScaler(kind, enabled=kind == "cuda" and config.dtype == "float16")
        self._autocast: Callable[[], Any] = nullcontext
        if kind == "cuda" and config.dtype != "float32":
            dtype = getattr(torch, config.dtype)
            self._autocast = lambda: torch.autocast(kind, dtype=dtype)
        self._loss: Callable[[Tensor, Tensor], Tensor] = torch.compile(model.loss) if config.compile else model.loss

    def step(self, iteration: int) -> Tensor:
        """One update.

        Returns:
            the mean loss of its batches before the update, a detached scalar on the device.
        """
        config, total = self.config, torch.zeros((), device=self.config.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(iteration, config)
        for part in range(config.gradient_accumulation_steps):
            windows = draw_batch(self.data.train, config, iteration, "train", part)
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
    def evaluate(self, iteration: int) -> tuple[float, float]:
        """Measure the loss as nanoGPT does, on random batches that are drawn anew at each iteration.

        Returns:
            the mean over `eval_iters` batches of the training part and of the validation part, in nats.
        """
        self.model.eval()
        train = self._mean_loss(self.data.train, iteration, "eval_train")
        val = self._mean_loss(self.data.val, iteration, "eval_val")
        self.model.train()
        return train, val

    def _mean_loss(self, ids: np.ndarray, iteration: int, purpose: Purpose) -> float:
        losses = []
        for index in range(self.config.eval_iters):
            windows = draw_batch(ids, self.config, iteration, purpose, index)
            with self._autocast():
                losses.append(self.model.loss(windows[:, :-1], windows[:, 1:]))
        return float(torch.stack(losses).mean())


def _integer(seed: int, iteration: int, purpose: Purpose, index: int = 0) -> int:
    """A seed for PyTorch, unlike that of any other iteration and purpose."""
    return int(np.random.default_rng([seed, iteration, _PURPOSES[purpose], index]).integers(2**63))
