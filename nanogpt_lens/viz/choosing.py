"""Choosing a place of a result, with one sentence where it is not there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import AttentionPatterns, Result


def place(wanted: int, known: Sequence[int], axis: str) -> int:
    """The index of a layer's or head's own number; a negative one counts from the end.

    Raises:
        ResultError: it is not there.
    """
    if isinstance(wanted, int) and not isinstance(wanted, bool) and -len(known) <= wanted < 0:
        return len(known) + wanted  # from the end
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted not in known:
        few = known if len(known) <= 12 else [*known[:6], "..."]
        raise ResultError(f"there is no {axis} {wanted!r}; expected one of {', '.join(map(str, few))}")
    return list(known).index(wanted)


def places(wanted: int | Sequence[int] | None, known: Sequence[int], axis: str) -> list[int]:
    """The indices of one number or several; of all for None.

    Raises:
        ResultError: neither, or one is not there.
    """
    if wanted is None:
        return list(range(len(known)))
    try:
        chosen = [wanted] if isinstance(wanted, int) else list(wanted)
    except TypeError:
        raise ResultError(f"{axis} is {wanted!r}; expected a whole number, several, or None for all") from None
    return [place(i, known, axis) for i in chosen]


def own_numbers(result: Result, axis: str) -> list[int]:
    """The layer's, head's or neuron's own number at each index of an axis."""
    if axis == "layer" and isinstance(result, AttentionPatterns):
        return list(result.layers)
    return [int(label) for label in result.labels.get(axis, range(result.shape[axis]))]


def finite(tensor: Tensor, what: str) -> Tensor:
    """The tensor, if it holds numbers that can be shown.

    Raises:
        ResultError: one is nan or infinite.
    """
    if not bool(tensor.isfinite().all()):
        raise ResultError(
            f"{what} has values that are nan or infinite, which a widget cannot show; see .to_dataframe()"
        )
    return tensor


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
