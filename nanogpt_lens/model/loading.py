"""From a path, or the name of a shipped checkpoint, to a TransformerLens model and its certificate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conversion.backends import resolve_backend
from conversion.checkpoint import CHECKPOINT_NAME, Checkpoint, locate, read_checkpoint
from conversion.config import Activation
from conversion.equivalence import check_equivalence
from conversion.errors import BackendError, CheckpointError, ConversionError
from conversion.report import EquivalenceReport
from conversion.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

_PACKAGE = Path(__file__).resolve().parent.parent


def load(
    path: str | Path,
    *,
    backend: str = "auto",
    process_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    meta: str | Path | Vocabulary | None = None,
    activation: Activation = "gelu",
    ignore_model_args: Iterable[str] = (),
    model_class: type[Any] | None = None,
) -> HookedTransformer:
    """Load a nanoGPT checkpoint as a TransformerLens model.

    Args:
        path: nanoGPT's `out_dir`, a `ckpt.pt`, or the name of a shipped checkpoint
            (`shipped_checkpoints()`); a path that exists comes first.
        backend: "auto" gives a HookedTransformer where TransformerLens has one (3.x), else a
            TransformerBridge (4.x); "hooked" and "bridge" insist.
        process_weights: fold LayerNorms and centre, in float64; log-probabilities stay the same.
        device, dtype: of the model.
        meta: the vocabulary, where it is not beside the checkpoint: a `meta.pkl`, a
            `tokenizer.json`, a folder with one of them, or "gpt2".
        activation: "gelu_new" for a checkpoint of the old nanoGPT with its tanh GELU.
        ignore_model_args: a fork's `model_args` that do not change what is computed.
        model_class: a subclass of HookedTransformer to build, such as SAELens' HookedSAETransformer.

    Returns:
        the model in evaluation mode with its tokenizer: a HookedTransformer, or a
        TransformerBridge with the same hooks.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or not a nanoGPT checkpoint.
        VocabularyError: the vocabulary is unsafe, damaged or does not fit.
        BackendError: the installed TransformerLens does not have the backend.
    """
    resolve_backend(backend)
    checkpoint = read_checkpoint(
        find_checkpoint(path), meta=meta, activation=activation, ignore_model_args=ignore_model_args
    )
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
    backend: str = "auto",
    process_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    model_class: type[Any] | None = None,
    consume: bool = False,
) -> HookedTransformer:
    """A checkpoint already read, as a TransformerLens model; see `load`.

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
    backend: str = "auto",
    model_py: str | Path | None = None,
    val_bin: str | Path | None = None,
    meta: str | Path | Vocabulary | None = None,
    activation: Activation = "gelu",
    ignore_model_args: Iterable[str] = (),
    edits: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> EquivalenceReport:
    """Convert a checkpoint and prove the conversion.

    Args:
        path: as for `load`, or a checkpoint already read.
        model_py: a nanoGPT fork's `model.py` to compare with. THIS FILE IS EXECUTED.
        val_bin: the run's validation tokens; looked for where nanoGPT keeps them.
        backend, meta, activation, ignore_model_args: as for `load`.
        edits, seed, device, progress: see `conversion.check_equivalence`.

    Returns:
        the certificate; `raise_if_failed()` turns a difference into an error.

    Raises:
        ConversionError: bad input; a difference is no error but a failed certificate.
    """
    if not isinstance(path, Checkpoint):
        path = read_checkpoint(
            find_checkpoint(path), meta=meta, activation=activation, ignore_model_args=ignore_model_args
        )
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


def find_checkpoint(path: str | Path) -> Path:
    """The file that a path or a shipped name means.

    Raises:
        CheckpointError: neither exists.
    """
    place = Path(path).expanduser()
    if place.exists():
        return locate(place)
    name = Path(*place.parts[1:]) if place.parts[:1] == ("checkpoints",) else place
    folder = _shipped_folder()
    if folder is not None and not name.is_absolute() and ".." not in name.parts and (folder / name).exists():
        return locate(folder / name)
    raise CheckpointError(
        f"{path} does not exist and is no shipped checkpoint ({', '.join(shipped_checkpoints()) or 'none'}); "
        f"expected nanoGPT's out_dir, a {CHECKPOINT_NAME}, or one of those names"
    )


def find_folder(path: str | Path) -> Path:
    """The folder that a path or a shipped name means; that of a file.

    Raises:
        CheckpointError: neither exists.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    return find_checkpoint(path).parent


def shipped_checkpoints() -> list[str]:
    """The names of the checkpoints that come with the package, other seeds as "induction/seed_1338"."""
    folder = _shipped_folder()
    found = folder.glob(f"**/{CHECKPOINT_NAME}") if folder else ()
    return sorted(file.parent.relative_to(folder).as_posix() for file in found if folder)


def _shipped_folder() -> Path | None:
    """Inside the installed package, or at the top of a checkout."""
    if (_PACKAGE / "_checkpoints").is_dir():
        return _PACKAGE / "_checkpoints"
    root = _PACKAGE.parent
    return root / "checkpoints" if (root / "pyproject.toml").is_file() else None
