"""Hashes of weights, tensors and files, which tell whether a model or a corpus is the very same one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.model.access import Hooked


def weights_hash(model: Hooked) -> str:
    """SHA-256 of all parameters and buffers as they are now, and of the architecture."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    plain = {k: v for k, v in vars(model.cfg).items() if v is None or isinstance(v, int | float | str | bool)}
    digest.update(repr(sorted(plain.items())).encode())
    return digest.hexdigest()


def tensor_bytes(tensor: Shaped[Tensor, " ..."]) -> bytes:
    """The bytes of a tensor's entries, as they are in memory."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""


def tensor_hash(tensor: Shaped[Tensor, " ..."]) -> str:
    """SHA-256 of a tensor's entries."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
