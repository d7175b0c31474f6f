"""The loss on the run's own validation data, compared with the loss that the checkpoint states.

A checkpoint whose `model_args` have a wrong `n_head`, or which is read with the wrong GELU, is a
wrong model and converts perfectly into a wrong one. Its loss on the data of its training shows that.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Integer

from conversion.checkpoint import Checkpoint
from conversion.errors import CheckpointError
from conversion.report import Comparison, Mode

VAL_NAME = "val.bin"
_TOKENS = 65_536


def compare_val_loss(
    checkpoint: Checkpoint,
    model: Any,
    val_bin: str | Path | None,
    *,
    mode: Mode,
    precision: str,
    seed: int,
) -> Comparison | None:
    """Compare the converted model's loss on `val.bin` with `best_val_loss`.

    The loss is that of up to 65,536 tokens in windows of the context. nanoGPT's figure is itself an
    estimate from random windows, so the two may differ by four standard errors of both
    together, and by one percent for training in lower precision.

    Returns:
        The comparison; None if there is no `val.bin`, no `best_val_loss`, or only one window of text.

    Raises:
        CheckpointError: `val_bin` does not exist, is too short, or holds tokens that the model does not have.
    """
    stated = checkpoint.best_val_loss
    file = _find(checkpoint, val_bin)
    if file is None or stated is None or not math.isfinite(stated) or stated > 1e8:
        return None  # nanoGPT starts from 1e9
    losses = _window_losses(checkpoint, model, _read(file, checkpoint), seed)
    if len(losses) < 2:
        return None  # one window does not tell how far an estimate may be off
    mean, spread = float(losses.mean()), float(losses.std(ddof=1))
    n_windows = _windows_of_nanogpt(checkpoint)
    allowed = 4 * spread * math.sqrt(1 / len(losses) + 1 / n_windows) + 0.01 * abs(stated)
    difference = abs(mean - stated)
    passed = difference <= allowed
    detail = f"{mean:.4f} / stated {stated:.4f}"
    if not passed:
        detail += (
            f" (allowed difference {allowed:.3f}; n_head or act_fn may be wrong in model_args, "
            f"or {file} is not this run's)"
        )
    return Comparison(
        kind="val_loss",
        name="loss on val.bin, nats",
        mode=mode,
        precision=precision,
        max_abs=difference,
        max_rel=difference / abs(stated) if stated else math.inf,
        tolerance=allowed / abs(stated) if stated else 0.0,
        passed=passed,
        detail=detail,
    )


def _find(checkpoint: Checkpoint, val_bin: str | Path | None) -> Path | None:
    """The file that the caller named, or the run's own `val.bin`; None if there is none."""
    if val_bin is not None:
        file = Path(val_bin)
        if not file.is_file():
            raise CheckpointError(f"{file} does not exist; expected nanoGPT's val.bin of uint16 tokens")
        return file
    return next((f / VAL_NAME for f in checkpoint.data_folders() if (f / VAL_NAME).is_file()), None)


def _read(file: Path, checkpoint: Checkpoint) -> Integer[np.ndarray, " token"]:
    """The tokens of a `val.bin`; CheckpointError unless they fit the model."""
    size, context = file.stat().st_size, checkpoint.config.block_size
    if size % 2 or size // 2 <= context:
        raise CheckpointError(
            f"{file} has {size} bytes; expected uint16 tokens, more than the context of {context}; "
            "move it away, or give the right one as val_bin="
        )
    tokens = np.memmap(file, dtype=np.uint16, mode="r")
    highest = int(tokens.max())
    if highest >= checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{file} holds token {highest}, but the model has vocab_size {checkpoint.config.vocab_size}; "
            "it belongs to another model: give the right one as val_bin="
        )
    return tokens


def _window_losses(
    checkpoint: Checkpoint, model: Any, tokens: Integer[np.ndarray, " token"], seed: int
) -> Float[np.ndarray, " window"]:
    """The mean loss of windows that do not overlap, in nats; a random choice of windows if there are many."""
    context = checkpoint.config.block_size
    starts = np.arange(0, len(tokens) - context, context)
    starts = np.sort(np.random.default_rng(seed).permutation(starts)[: max(1, _TOKENS // context)])
    device = next(model.parameters()).device
    losses = []
    with torch.no_grad():
        for chunk in np.array_split(starts, max(1, len(starts) * context // 4096)):
            windows = torch.from_numpy(np.stack([tokens[s : s + context + 1] for s in chunk]).astype(np.int64)).to(
                device
            )
            logits = model(windows[:, :-1], return_type="logits").float()
            rows = rearrange(logits, "example pos d_vocab -> (example pos) d_vocab")
            targets = rearrange(windows[:, 1:], "example pos -> (example pos)")
            loss = F.cross_entropy(rows, targets, reduction="none")
            per_token = rearrange(loss, "(example pos) -> example pos", pos=context)
            losses.append(per_token.mean(-1).cpu().numpy())
    return np.concatenate(losses)


def _windows_of_nanogpt(checkpoint: Checkpoint) -> int:
    """The number of windows over which nanoGPT's estimate averages; that of its defaults if the run does not say."""
    counts = [checkpoint.run_config.get(name) for name in ("eval_iters", "batch_size")]
    eval_iters, batch_size = (c if isinstance(c, int) and c > 0 else d for c, d in zip(counts, (200, 12), strict=True))
    return eval_iters * batch_size
