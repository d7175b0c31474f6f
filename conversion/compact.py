"""Checkpoints made small: float16 with few bits of mantissa, in a compressed archive.

The weights of a trained model need far fewer bits than float32 has, so stages of a training run
can be kept at a third of their size for a loss that hardly changes. The file is nanoGPT's, and
PyTorch reads it as any other: torch.load inflates what a ZIP archive deflates.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from conversion.checkpoint import Checkpoint, save_checkpoint
from conversion.errors import CheckpointError, ConversionError

STORED_KEY = "stored"
"""The key under which `run_config` says how the weights were rounded: `{"dtype": "float16", "mantissa_bits": 5}`."""

_MANTISSA, _LOWEST_EXPONENT = 10, -14  # of float16, without the implicit bit; below 2**-14 it is subnormal
_LARGEST = torch.finfo(torch.float16).max


def compact(checkpoint: Checkpoint, *, bits: int = _MANTISSA) -> Checkpoint:
    """The checkpoint without its optimizer, and with weights in float16 whose mantissa is rounded to `bits` bits.

    Each weight is rounded once, from its own precision, to the nearest number with a sign, 5 bits of
    exponent and `bits` bits of mantissa, ties to even: the relative error is at most
    2**-(bits + 1). Below 2**-14, where float16 is subnormal, the numbers are
    2**-(14 + bits) apart, and the absolute error is at most half of that.

    Args:
        checkpoint: a checkpoint of any precision, which does not change.
        bits: the bits of the mantissa, from 1 to 10; 10 is plain float16.

    Returns:
        A checkpoint whose tied head is still tied, and whose `run_config` says under "stored" what was done.

    Raises:
        ConversionError: `bits` is no whole number from 1 to 10.
        CheckpointError: a weight is not finite, or rounds to more than float16 can hold.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= _MANTISSA:
        raise ConversionError(f"bits is {bits!r}; expected a whole number from 1 to {_MANTISSA} (plain float16)")
    state = {key: _rounded(tensor, bits) for key, tensor in checkpoint.state_dict.items()}
    for key, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{checkpoint.name}: {key} has values that are not finite or beyond {_LARGEST:,.0f}, the largest of "
                "float16; keep its weights as they are, with save_checkpoint"
            )
    if checkpoint.config.tied and state:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    stored = {"dtype": "float16", "mantissa_bits": bits}
    return replace(
        checkpoint, state_dict=state, optimizer=None, run_config={**checkpoint.run_config, STORED_KEY: stored}
    )


def save_compact(checkpoint: Checkpoint, path: str | Path, *, bits: int = _MANTISSA) -> Path:
    """Make a checkpoint `compact` and write it in nanoGPT's format, deflated.

    `read_checkpoint`, nanoGPT's own `sample.py` and `torch.load(path, weights_only=True)` can read the file, the
    last without `mmap=True`. The same checkpoint gives the same bytes, with the same versions of PyTorch and zlib.

    Args:
        checkpoint, path: as for `save_checkpoint`.
        bits: as for `compact`.

    Returns:
        The checkpoint file. It is replaced in one step: a killed run leaves the old file or the new one.

    Raises:
        ConversionError: `bits` is no whole number from 1 to 10.
        CheckpointError: as for `compact` and `save_checkpoint`.
    """
    return save_checkpoint(compact(checkpoint, bits=bits), path, write=_write_deflated)


def _rounded(tensor: Float[Tensor, "*axes"], bits: int) -> Float16[Tensor, "*axes"]:
    """The nearest numbers whose mantissa has `bits` bits."""
    exact = tensor.detach().double()
    exponent = torch.frexp(exact).exponent - 1  # 2**exponent <= |exact| < 2**(exponent + 1)
    step = torch.pow(2.0, (exponent.clamp(min=_LOWEST_EXPONENT) - bits).double())
    return ((exact / step).round() * step).to(torch.float16)  # exact but for the rounding: `round` sends ties to even


def _write_deflated(content: Any, file: BinaryIO) -> None:
    """Write what `torch.save` writes, compressed, and without anything that changes from one time to the next."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(file, "w") as archive:
        for name in plain.namelist():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            with archive.open(entry, "w") as opened:
                # Short repeats in weights are chance, and cost more than they save: zlib's filtered strategy passes
                # them over, which makes 2.6% at 5 bits. zipfile has no option for it.
                cast(Any, opened)._compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
                opened.write(plain.read(name))
