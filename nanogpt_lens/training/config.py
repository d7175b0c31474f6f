"""The settings of a training run, and the iterations at which it keeps a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from conversion.config import NanoGPTConfig
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import TrainingError

Precision = Literal["float32", "bfloat16", "float16"]

_POSITIVE = (
    *("n_layer", "n_head", "n_embd", "block_size", "batch_size", "gradient_accumulation_steps"),
    *("max_iters", "lr_decay_iters", "eval_interval", "eval_iters", "log_interval"),
)
_FRACTIONS = ("dropout", "beta1", "beta2")
_AMOUNTS = ("learning_rate", "min_lr", "weight_decay", "grad_clip")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """nanoGPT's settings under nanoGPT's names; the defaults are those of its README's command for a CPU.

    Where that command says nothing, they are those of its `config/train_shakespeare_char.py`, whose `eval_interval`,
    learning rates, `beta2` and warm-up it keeps; `gradient_accumulation_steps` is that file's 1 as well. An
    evaluation of so few batches is a coarse one: `best_val_loss` of 20 batches of 12 windows has a standard error of
    about 0.013. Give `eval_iters=200` for a third of that.

    Attributes:
        n_layer, n_head, n_embd, block_size, bias, dropout: the architecture.
        batch_size: the number of sequences of one forward pass.
        gradient_accumulation_steps: the number of forward passes of one update.
        max_iters: the number of updates.
        learning_rate, min_lr, warmup_iters, lr_decay_iters: a linear warm-up, then a cosine
            that reaches `min_lr` at `lr_decay_iters` (None: at `max_iters`).
        beta1, beta2, weight_decay: the parameters of AdamW; only matrices decay.
        grad_clip: the highest norm that the gradient may have; 0 for any.
        eval_interval: the iterations from one evaluation, which may write `ckpt.pt`, to the next.
        eval_iters: the number of random batches of each split in an evaluation.
        always_save_checkpoint: write `ckpt.pt` at every evaluation, not only at the best.
        log_interval: the iterations from one line of the log with the loss of the batch to the next.
        seed: the number that decides the initial weights, the batches and the dropout.
        device: "cpu", "cuda", "cuda:1", "mps".
        dtype: the precision of autocast, which is used on CUDA only, as in nanoGPT.
        compile: whether to use `torch.compile`.

    Raises:
        TrainingError: a setting makes no sense; the message names it and says what is expected.
    """

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    bias: bool = False
    dropout: float = 0.0
    batch_size: int = 12
    gradient_accumulation_steps: int = 1
    max_iters: int = 2000
    learning_rate: float = 1e-3
    min_lr: float = 1e-4
    warmup_iters: int = 100
    lr_decay_iters: int | None = None
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_interval: int = 250
    eval_iters: int = 20
    always_save_checkpoint: bool = False
    log_interval: int = 1
    seed: int = 1337
    device: str = "cpu"
    dtype: Precision = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in (*_POSITIVE, "warmup_iters", "seed"):
            value, least = getattr(self, name), int(name in _POSITIVE)
            if name == "lr_decay_iters" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise TrainingError(f"{name} is {value!r}; expected an integer of at least {least}")
        for name in (*_FRACTIONS, *_AMOUNTS):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (name in _FRACTIONS and value >= 1):
                limit = "from 0 up to, not including, 1" if name in _FRACTIONS else "of at least 0"
                raise TrainingError(f"{name} is {value!r}; expected a number {limit}")
        for name in ("bias", "always_save_checkpoint", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise TrainingError(f"{name} is {getattr(self, name)!r}; expected True or False")
        if self.n_embd % self.n_head:
            raise TrainingError(
                f"n_head is {self.n_head}, which does not divide n_embd {self.n_embd}; change one of them"
            )
        if self.min_lr > self.learning_rate:
            raise TrainingError(
                f"min_lr is {self.min_lr}, above learning_rate {self.learning_rate}; expected a decay that goes down: "
                "lower min_lr (nanoGPT: a tenth of learning_rate)"
            )
        if self.dtype not in get_args(Precision):
            raise TrainingError(f"dtype is {self.dtype!r}; expected {', '.join(get_args(Precision))}")
        if self.seed >= 2**63:
            raise TrainingError(f"seed is {self.seed}; expected an integer below 2**63")
        _check_device(self.device)

    @property
    def decay_iters(self) -> int:
        """The iteration at which the learning rate reaches `min_lr`."""
        return self.max_iters if self.lr_decay_iters is None else self.lr_decay_iters

    @property
    def tokens_per_iter(self) -> int:
        """The number of tokens of one update."""
        return self.gradient_accumulation_steps * self.batch_size * self.block_size

    def architecture(self, vocab_size: int) -> NanoGPTConfig:
        """The architecture of the model for a vocabulary of that size."""
        return NanoGPTConfig(
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_embd=self.n_embd,
            block_size=self.block_size,
            bias=self.bias,
            vocab_size=vocab_size,
            dropout=self.dropout,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data, as nanoGPT stores its `config`."""
        return {**asdict(self), "lr_decay_iters": self.decay_iters}


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """A config in which some settings have other values, by their names.

    Raises:
        TrainingError: there is no setting of a name, or its value makes no sense.
    """
    known = [field.name for field in fields(TrainConfig)]
    if unknown := [name for name in settings if name not in known]:
        near = did_you_mean(unknown[0], known)
        raise TrainingError(f"there is no setting {unknown[0]!r}; expected some of {', '.join(known)}{near}")
    return replace(config, **settings)


def parse_stages(stages: str | Iterable[int] | None, max_iters: int) -> tuple[int, ...]:
    """The iterations whose checkpoints are kept, in order.

    Args:
        stages: "log:20" for 20 iterations, which are 0 and then evenly spaced on a log scale
            from 1 to `max_iters`; or the iterations themselves, as numbers or as "0,100,1000".
        max_iters: the last iteration.

    Raises:
        TrainingError: `stages` does not have that form, or names iterations outside 0 to `max_iters`.
    """
    if stages is None:
        return ()
    form = "expected 'log:N', or iterations such as '0,100,1000'"
    try:
        if isinstance(stages, str) and stages.startswith("log:"):
            return _log_spaced(int(stages.removeprefix("log:")), max_iters)
        parts = stages.split(",") if isinstance(stages, str) else list(stages)
        chosen = sorted({int(part) for part in parts})
        if not isinstance(stages, str) and any(isinstance(p, bool) or int(p) != p for p in parts):
            raise ValueError
    except (TypeError, ValueError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"stages is {stages!r}; {form}") from None
    outside = [i for i in chosen if not 0 <= i <= max_iters]
    if outside or not chosen:
        raise TrainingError(
            f"stages has {outside or 'no iterations'}; expected iterations from 0 to max_iters {max_iters}"
        )
    return tuple(chosen)


def _log_spaced(count: int, max_iters: int) -> tuple[int, ...]:
    """0 and `count - 1` further iterations up to `max_iters`, evenly spaced on a log scale."""
    if not 2 <= count <= max_iters + 1:
        raise TrainingError(
            f"stages asks for {count} iterations; expected 2 to {max_iters + 1} of the run's 0 to {max_iters}"
        )
    chosen = [0]
    for i in range(count - 1):
        position = i / (count - 2) if count > 2 else 1.0
        chosen.append(max(chosen[-1] + 1, round(max_iters**position)))  # where the scale is finer than 1
    return tuple(chosen)


def _check_device(device: str) -> None:
    """Raise TrainingError unless PyTorch has the device on this machine."""
    import torch

    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        raise TrainingError(f"device is {device!r}; expected cpu, cuda, cuda:1 or mps") from None
    is_available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if kind in is_available and not is_available[kind]():
        raise TrainingError(f"device is {device!r}, which this machine or this PyTorch does not have; use device='cpu'")
