"""Several processes as one: each reads its share of a corpus, and all of them get the whole result.

Nothing needs to be said in code: under `torchrun --nproc-per-node 2 script.py` or `accelerate
launch`, the processes find each other by the launcher's environment (or by the process group that
is there already). Results travel over gloo as tensors on the CPU, whatever device the model is on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def world() -> tuple[int, int]:
    """This process' rank and the number of processes; (0, 1) for a single process, and inside `alone`.

    The first call joins the launcher's group of processes, if there is one.
    """
    if _ALONE.get():
        return 0, 1
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if not all(name in os.environ for name in _LAUNCHED) or int(os.environ["WORLD_SIZE"]) < 2:
            return 0, 1
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """A block in which each process works for itself: what would read its share of a corpus reads all of it."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def is_first() -> bool:
    """Whether this process is the one that prints, writes files and shows bars."""
    return world()[0] == 0


def share(
    n: int, *, least: int = 1, what: str = "batches", hint: str = "start fewer, or give a smaller batch_size"
) -> range:
    """This process' part of `n` items, as consecutive indices; the parts follow the order of the ranks.

    Args:
        n: the number of items.
        least: the fewest items that each process needs.
        what, hint: for the error message: what the items are called, and what to do.

    Raises:
        AnalysisError: there are fewer than `least` items for each process.
    """
    rank, size = world()
    if n < size * least:
        raise AnalysisError(f"there are {n} {what} for {size} processes; {hint}")
    return range(n * rank // size, n * (rank + 1) // size)


def gathered(value: Mapping[str, Shaped[Tensor, " ..."]]) -> list[dict[str, Shaped[Tensor, " ..."]]]:
    """Every process' tensors, in the order of the ranks, on the CPU; the same list in each process."""
    tensors = {name: tensor.detach().cpu() for name, tensor in value.items()}
    size = world()[1]
    if size == 1:
        return [tensors]
    of_all: list[Any] = [None] * size
    dist.all_gather_object(of_all, tensors, group=_group())
    return of_all


def sum_in_place(tensors: Sequence[Shaped[Tensor, " ..."]]) -> None:
    """Replace each tensor by its sum over all processes."""
    if world()[1] == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten().cpu() for tensor in tensors])
    dist.all_reduce(flat, group=_group())
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@cache
def _group() -> Any:
    """A group that carries tensors on the CPU."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
