"""The loss on the run's own validation data, compared with the loss that the checkpoint states.

A checkpoint whose `model_args` have a wrong `n_head`, or which is read with the wrong GELU, is a
wrong model and converts perfectly into a wrong one. Its loss on the data of its training shows that.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Integer

from conversion.checkpoint import Checkpoint
from conversion.errors import CheckpointError, ConversionError
from conversion.locating import VAL_NAME
from conversion.report import Comparison, Mode
from conversion.token_files import TokenFile, TokenStorage, token_storage

ValBin: TypeAlias = str | Path | TokenFile | Literal[False] | None
"""The run's validation tokens: None for the file that nanoGPT keeps them in, if it is there; False for none."""

STATE_KEY, STATE_TO_RESUME = "state", "resume"
"""What a state from which training goes on says in its `config`: its loss is that of the run's best weights so far."""

_TOKENS = 65_536


def compare_val_loss(
    checkpoint: Checkpoint,
    model: Any,
    val_bin: ValBin,
    *,
    mode: Mode,
    precision: str,
    seed: int,
) -> Comparison | None:
    """Compare the converted model's loss on `val.bin` with `best_val_loss`.

    The loss is that of up to 65,536 tokens in windows of the context. nanoGPT's figure is itself an
    estimate from random windows, so the two may differ by four standard errors of both
    together, and by one percent for training in lower precision. `detail` says so.

    Returns:
        The comparison; None if there is no `val.bin`, no `best_val_loss` of these very weights, or only one window
        of text.

    Raises:
        CheckpointError: `val_bin` does not exist, is too short or cut off, holds tokens that the model does not have,
            or tokens whose width cannot be told.
    """
    stated = checkpoint.best_val_loss
    file = _find(checkpoint, val_bin)
    if file is None or stated is None or not math.isfinite(stated) or stated > 1e8:
        return None  # nanoGPT starts from 1e9
    if checkpoint.run_config.get(STATE_KEY) == STATE_TO_RESUME:
        return None
    storage = _open(file, checkpoint)
    losses = _window_losses(checkpoint, model, storage.array(), seed)
    if len(losses) < 2:
        return None  # one window does not tell how far an estimate may be off
    mean, spread = float(losses.mean()), float(losses.std(ddof=1))
    n_windows = _windows_of_nanogpt(checkpoint)
    sampling = 4 * spread * math.sqrt(1 / len(losses) + 1 / n_windows)
    allowed = sampling + 0.01 * abs(stated)
    difference = abs(mean - stated)
    passed = difference <= allowed
    detail = (
        f"{mean:.4f} / stated {stated:.4f} ± {allowed:.4f} (both are means of samples: {len(losses):,} windows "
        f"here, {n_windows:,} random ones in training; allowed are four standard errors of both, {sampling:.4f}, and "
        "1% for training in lower precision" + (f"; {storage.words}" if storage.words else "") + ")"
    )
    if not passed:
        detail += (
            f"; n_head or act_fn may be wrong in model_args, or {storage.path} is not this run's "
            "(val_bin=False does without)"
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


def _find(checkpoint: Checkpoint, val_bin: ValBin) -> TokenFile | None:
    """The file that the caller named, or the run's own `val.bin`; None if there is none, or none is wanted."""
    if val_bin is False:
        return None
    if isinstance(val_bin, TokenFile):
        return val_bin
    if val_bin is not None:
        return TokenFile(val_bin)
    return next((TokenFile(f / VAL_NAME) for f in checkpoint.data_folders() if (f / VAL_NAME).is_file()), None)


def _open(file: TokenFile, checkpoint: Checkpoint) -> TokenStorage:
    """Where the tokens of a `val.bin` stand; CheckpointError unless they fit the model."""
    path, config = Path(file.path).expanduser(), checkpoint.config
    instead = "give the right one as val_bin='PATH', or do without with val_bin=False"
    stated = checkpoint.run_config.get("val_tokens")
    try:
        storage = token_storage(
            path,
            config.vocab_size,
            token_dtype=file.token_dtype,
            n_tokens=stated if isinstance(stated, int) and not isinstance(stated, bool) else None,
        )
    except ConversionError as error:
        raise CheckpointError(f"{error}; or {instead}") from None
    if storage.n <= config.block_size:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes, {storage.n} tokens; expected more than the context of "
            f"{config.block_size}; move it away, {instead}"
        )
    tokens, kind = storage.array(), f" ({storage.words})" if storage.words else ""
    for outside in (int(tokens.max()), int(tokens.min())):
        if not 0 <= outside < config.vocab_size:
            raise CheckpointError(
                f"{path} holds token {outside}{kind}, but the model has vocab_size {config.vocab_size}; "
                f"it belongs to another model: {instead}"
            )
    return storage


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
