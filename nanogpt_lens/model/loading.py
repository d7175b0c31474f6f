"""From a path, or the name of a shipped checkpoint, to a TransformerLens model and its certificate."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import conversion.checkpoint
from conversion.backends import BackendChoice, resolve_backend
from conversion.checkpoint import Checkpoint
from conversion.config import ActFn
from conversion.equivalence import check_equivalence
from conversion.errors import BackendError, CheckpointWarning, ConversionError
from conversion.report import EquivalenceReport
from conversion.val_loss import ValBin
from conversion.vocabulary import Vocabulary
from nanogpt_lens.model.places import find_checkpoint
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


@wraps(conversion.checkpoint.read_checkpoint)
def read_checkpoint(path: str | Path, **options: Any) -> Checkpoint:
    """As `conversion.read_checkpoint`; the name of a shipped checkpoint is a path too, as for `load`."""
    return conversion.checkpoint.read_checkpoint(find_checkpoint(path), **options)


def load(
    path: str | Path,
    *,
    backend: BackendChoice = "auto",
    process_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    meta: str | Path | Vocabulary | None = None,
    act_fn: ActFn | None = None,
    n_head: int | None = None,
    ignore_model_args: Iterable[str] = (),
    model_class: type[Any] | None = None,
) -> HookedTransformer:
    """Load a nanoGPT checkpoint as a TransformerLens model.

    Args:
        path: nanoGPT's `out_dir`, a checkpoint file (docs/FILES.md has the list), or the name of a shipped checkpoint
            (`shipped_checkpoints()`); a path that exists comes first.
        backend, meta, act_fn, n_head, ignore_model_args: how the checkpoint is read, see
            `nanogpt_lens.model.reading.Reading`.
        process_weights: fold LayerNorms and centre, in float64; log-probabilities stay the same.
        device, dtype: the device and the precision of the model.
        model_class: a subclass of HookedTransformer to build, such as SAELens' HookedSAETransformer.

    Returns:
        The model in evaluation mode with its tokenizer: a HookedTransformer, or a
        TransformerBridge with the same hooks.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or not a nanoGPT checkpoint.
        VocabularyError: the vocabulary that `meta` names does not exist, is damaged or does not fit.
        BackendError: the installed TransformerLens does not have the backend.

    Warns:
        CheckpointWarning: the vocabulary's size is not the model's, so that it may be another run's.
    """
    resolve_backend(backend)
    reading = Reading(backend=backend, meta=meta, act_fn=act_fn, n_head=n_head, ignore_model_args=ignore_model_args)
    checkpoint = reading.checkpoint(path)
    if checkpoint.vocabulary_doubt:
        warnings.warn(f"{checkpoint.name}: {checkpoint.vocabulary_doubt}", CheckpointWarning, stacklevel=2)
    return convert(
        checkpoint,
        backend=backend,
        process_weights=process_weights,
        device=device,
        dtype=dtype,
        model_class=model_class,
        consume=True,
    )


def convert(
    checkpoint: Checkpoint,
    *,
    backend: BackendChoice = "auto",
    process_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    model_class: type[Any] | None = None,
    consume: bool = False,
) -> HookedTransformer:
    """The TransformerLens model of a checkpoint that is in memory; see `load`.

    Args:
        consume: move the checkpoint's tensors into the model, which empties the checkpoint.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConversionError(f"dtype is {dtype!r}; expected one such as torch.float32 or torch.bfloat16")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ConversionError(f"device {str(device)!r} cannot be used here ({reason}); expected 'cpu'") from None
    if resolve_backend(backend) == "hooked":
        from conversion.nanogpt_to_hooked import to_hooked_transformer

        return to_hooked_transformer(
            checkpoint,
            process_weights=process_weights,
            device=device,
            dtype=dtype,
            model_class=model_class,
            consume=consume,
        )
    if model_class is not None:
        raise BackendError("model_class needs a HookedTransformer; install 'transformer-lens>=3.9,<4'")
    from conversion.nanogpt_to_bridge import to_bridge

    model: Any = to_bridge(checkpoint, process_weights=process_weights, device=device, dtype=dtype, consume=consume)
    return model


def check(
    path: str | Path | Checkpoint,
    *,
    backend: BackendChoice = "auto",
    model_py: str | Path | None = None,
    val_bin: ValBin = None,
    meta: str | Path | Vocabulary | None = None,
    act_fn: ActFn | None = None,
    n_head: int | None = None,
    ignore_model_args: Iterable[str] = (),
    edits: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> EquivalenceReport:
    """Convert a checkpoint and prove the conversion.

    Args:
        path: as for `load`, or a checkpoint that is in memory.
        model_py: a nanoGPT fork's `model.py` to compare with. THIS FILE IS EXECUTED.
        val_bin: the run's validation tokens, a path or a `TokenFile`; by default the file that nanoGPT keeps them
            in, if it is there; False for none.
        backend, meta, act_fn, n_head, ignore_model_args: as for `load`.
        edits, seed, device, progress: see `conversion.check_equivalence`.

    Returns:
        The certificate; its `raise_if_failed()` turns a difference into an error.

    Raises:
        ConversionError: the input is bad. (A difference is no error, but a failed certificate.)
    """
    if not isinstance(path, Checkpoint):
        reading = Reading(meta=meta, act_fn=act_fn, n_head=n_head, ignore_model_args=ignore_model_args)
        path = reading.checkpoint(path)
    return check_equivalence(
        path,
        backend=backend,
        model_py=model_py,
        val_bin=val_bin,
        edits=edits,
        seed=seed,
        device=device,
        progress=progress,
    )
