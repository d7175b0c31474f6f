"""Choosing a place of a result, with one sentence where it is not there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nanogpt_lens.errors import ResultError
from nanogpt_lens.results import Result


def place(wanted: int, known: Sequence[int], axis: str) -> int:
    """The index of a layer's or head's own number.

    Raises:
        ResultError: it is not there.
    """
    if isinstance(wanted, bool) or wanted not in known:
        few = known if len(known) <= 12 else [*known[:6], "..."]
        raise ResultError(f"there is no {axis} {wanted!r}; expected one of {', '.join(map(str, few))}")
    return list(known).index(wanted)


def one_example(result: Result, tensor: Tensor, example: int) -> Tensor:
    """The part of a tensor (of the axes of `values`, or beginning with them) that is one example's.

    Raises:
        ResultError: there is no such example.
    """
    if "example" not in result.axes:
        if example:
            raise ResultError(f"there is one text; expected example 0, not {example!r}")
        return tensor
    index = place(example, range(result.shape["example"]), "example")
    return tensor.select(result.axes.index("example"), index)
