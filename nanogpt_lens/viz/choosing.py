"""Choosing a place of a result, with one sentence where it is not there."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import AttentionPatterns, Result


def place(number: int, known: Sequence[int], axis: str) -> int:
    """The index of a layer's or head's own number; a negative one counts from the end.

    Raises:
        ResultError: it is not there.
    """
    if isinstance(number, int) and not isinstance(number, bool) and -len(known) <= number < 0:
        return len(known) + number  # from the end
    if isinstance(number, bool) or not isinstance(number, int) or number not in known:
        few = known if len(known) <= 12 else [*known[:6], "..."]
        raise ResultError(f"there is no {axis} {number!r}; expected one of {', '.join(map(str, few))}")
    return list(known).index(number)


def places(numbers: int | Sequence[int] | None, known: Sequence[int], axis: str) -> list[int]:
    """The indices of one number or several; of all for None.

    Raises:
        ResultError: neither, or one is not there.
    """
    if numbers is None:
        return list(range(len(known)))
    try:
        chosen = [numbers] if isinstance(numbers, int) else list(numbers)
    except TypeError:
        raise ResultError(f"{axis} is {numbers!r}; expected a whole number, several, or None for all") from None
    return [place(i, known, axis) for i in chosen]


def own_numbers(result: Result, axis: str) -> list[int]:
    """The layer's, head's or neuron's own number at each index of an axis."""
    if axis == "layer" and isinstance(result, AttentionPatterns):
        return list(result.layers)
    return [int(label) for label in result.labels.get(axis, range(result.shape[axis]))]


def finite(tensor: Shaped[Tensor, "*axes"], what: str) -> Shaped[Tensor, "*axes"]:
    """The tensor, if it holds numbers that can be shown.

    Raises:
        ResultError: one is nan or infinite.
    """
    if not bool(tensor.isfinite().all()):
        raise ResultError(
            f"{what} has values that are nan or infinite, which a widget cannot show; see .to_dataframe()"
        )
    return tensor


def one_example(result: Result, tensor: Shaped[Tensor, "*axes"], example: int) -> Shaped[Tensor, " ..."]:
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
