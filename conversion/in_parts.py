"""Tensors whose rows are computed when they are compared, because the whole of them would fill the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class InParts:
    """A tensor that is nowhere whole.

    Attributes:
        shape: of the tensor.
        rows: the function that computes some of its rows, all axes but the last counted as one.
        at_once: the numbers of rows that are computed at once, at most.
    """

    shape: torch.Size
    rows: Callable[[slice], Float[Tensor, "row last"]]
    at_once: int = 2**24


def in_rows(tensor: Float[Tensor, "*axes"] | InParts, n: int) -> Iterator[Float[Tensor, "row last"]]:
    """The rows of a tensor, all axes but the last counted as one, `n` at a time."""
    width = tensor.shape[-1] if tensor.shape else 1
    if isinstance(tensor, Tensor):
        yield from tensor.reshape(-1, width).split(n)
        return
    n_rows, step = tensor.shape[:-1].numel(), n * max(1, tensor.at_once // (n * width))
    for start in range(0, n_rows, step):
        yield from tensor.rows(slice(start, min(start + step, n_rows))).split(n)


def since(tensor: Float[Tensor, "example pos last"] | InParts, start: int) -> Float[Tensor, "example rest last"]:
    """The values from a position on."""
    if isinstance(tensor, Tensor):
        return tensor[:, start:]
    n, length, _ = tensor.shape
    return torch.stack([tensor.rows(slice(i * length + start, (i + 1) * length)) for i in range(n)])
