"""The tolerances within which two tensors count as equal, and the size to which an error is relative."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from conversion.in_parts import InParts, in_rows
from conversion.report import Comparison, Kind, Mode

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
"""The largest relative error that is allowed; below a size of 1 the absolute error is then within it too."""

ROUNDING = 16.0
"""In lower precision an error may also be this many times the error that rounding causes in the native model."""

SMALLEST = 1e-3
"""The least size to which an error is relative, because an error relative to zero would say nothing."""


_PART = 2**21
"""Numbers of two tensors that are compared at once."""


class Judge:
    """Turns two tensors into a `Comparison`, for one mode and precision."""

    def __init__(self, mode: Mode, dtype: torch.dtype) -> None:
        self.mode: Mode = mode
        self.dtype = dtype
        self.base = TOLERANCE.get(dtype, 2 * torch.finfo(dtype).eps)

    def visible(self, logits: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes d_vocab"]:
        """The part of logits that must be equal: all of raw ones, the log-probabilities of processed ones."""
        return logits if self.mode == "raw" else logits.log_softmax(-1)

    def __call__(
        self,
        kind: Kind,
        name: str,
        got: Shaped[Tensor, " ..."] | None,
        expected: Shaped[Tensor, " ..."] | InParts,
        exact: Callable[[], Shaped[Tensor, " ..."] | InParts] | None = None,
        scale: float | None = None,
        logits: bool = False,
    ) -> Comparison:
        """Compare two tensors.

        Args:
            kind, name: the kind and the name of the quantity.
            got: the converted model's value; None if it has none.
            expected: the native model's value, in the same precision.
            exact: a function that returns the native model's value in float64; called only if rounding may excuse an
                error.
            scale: the size to which errors are relative; by default the largest expected value.
            logits: they are logits, of which the visible part is compared.
        """
        if got is None:
            return self.failed(kind, name, "the converted model does not have it")
        if got.shape != expected.shape:
            return self.failed(kind, name, f"shape {list(got.shape)}, expected {list(expected.shape)}")
        seen = self.visible if logits else None
        max_abs, size = distance(got, expected, seen)
        size = size if scale is None else max(scale, SMALLEST)
        rounding = 0.0
        if exact is not None and self.may_be_rounding(max_abs, size):
            rounding = distance(expected, exact(), seen)[0]
        return self.decided(kind, name, max_abs, size, rounding)

    def may_be_rounding(self, max_abs: float, size: float) -> bool:
        """Whether an error is too large for its size, and rounding might be why."""
        return max_abs / size > self.base and self.dtype != torch.float64

    def decided(self, kind: Kind, name: str, max_abs: float, size: float, rounding: float = 0.0) -> Comparison:
        """The comparison of an error.

        Args:
            kind, name: the kind and the name of the quantity.
            max_abs: the error.
            size: to which it is relative.
            rounding: the error of the native model itself, which may excuse one that is too large.
        """
        max_rel, tolerance = max_abs / size, self.base
        if self.may_be_rounding(max_abs, size):
            tolerance = max(tolerance, ROUNDING * rounding / size)
        return self._comparison(kind, name, max_abs, max_rel, tolerance, max_rel <= tolerance)

    def identical(
        self, kind: Kind, name: str, got: Shaped[Tensor, " ..."] | None, expected: Shaped[Tensor, " ..."]
    ) -> Comparison:
        """Compare two tensors of which not one bit may differ."""
        if got is None or got.shape != expected.shape:
            return self(kind, name, got, expected)
        max_abs, size = distance(got, expected)
        return self._comparison(kind, name, max_abs, max_abs / size, 0.0, max_abs == 0)

    def failed(self, kind: Kind, name: str, detail: str) -> Comparison:
        """The failed comparison of a quantity that could not even be compared."""
        return self._comparison(kind, name, torch.inf, torch.inf, self.base, False, detail)

    def greedy(self, differing: int, steps: int, ties: int) -> Comparison:
        """The comparison of greedy texts, in which no token may differ but for ties."""
        detail = f"{steps - differing} of {steps} tokens" + (f", {ties} ties" if ties else "")
        name = "greedy text past the context"
        return self._comparison("greedy", name, float(differing), differing / steps, 0.0, not differing, detail)

    def _comparison(
        self, kind: Kind, name: str, max_abs: float, max_rel: float, tolerance: float, passed: bool, detail: str = ""
    ) -> Comparison:
        return Comparison(
            kind=kind,
            name=name,
            mode=self.mode,
            precision=precision_name(self.dtype),
            max_abs=max_abs,
            max_rel=max_rel,
            tolerance=tolerance,
            passed=passed,
            detail=detail,
        )


def distance(
    got: Float[Tensor, "*axes"] | InParts,
    expected: Float[Tensor, "*axes"] | InParts,
    seen: Callable[[Float[Tensor, "row last"]], Float[Tensor, "row last"]] | None = None,
) -> tuple[float, float]:
    """The largest absolute difference of two tensors, and the largest expected value; infinite and nan must agree.

    Args:
        got, expected: two tensors of one shape, which are read in parts, so that no large ones are made.
        seen: what is compared in place of the values along the last axis.
    """
    if not expected.shape.numel():
        return 0.0, 1.0
    largest, size, any_finite = 0.0, 0.0, False
    n = max(1, _PART // (expected.shape[-1] if expected.shape else 1))
    for one, other in zip(in_rows(got, n), in_rows(expected, n), strict=True):
        one, other = (part if seen is None else seen(part) for part in (one, other))
        one, other = one.double(), other.double()
        greatest = _largest(other)
        if not math.isfinite(greatest):
            finite = other.isfinite()
            if not torch.allclose(one[~finite], other[~finite], rtol=0, atol=0, equal_nan=True):
                return torch.inf, 1.0
            one, other = one[finite], other[finite]
            greatest = _largest(other) if other.numel() else 0.0
        if other.numel():
            any_finite = True
            difference = _largest(one - other)
            largest = torch.inf if difference != difference else max(largest, difference)
            size = max(size, greatest)
    return largest, max(size, SMALLEST) if any_finite else 1.0


def _largest(numbers: Float[Tensor, " *axes"]) -> float:
    """The largest absolute value; nan where there is one."""
    least, most = torch.aminmax(numbers)  # the absolute values themselves would take four times as long
    return max(-least.item(), most.item())


def precision_name(dtype: torch.dtype) -> str:
    """The name of a precision, such as "float32" for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
