"""When two tensors count as equal: the tolerances, and what an error is measured against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from conversion.report import Comparison, Kind, Mode

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
"""Largest relative error; in float64 the absolute error must be within it too."""

ROUNDING = 16.0
"""Below float64 an error may also be this many times what rounding does to the native model."""

SMALLEST = 1e-3
"""What is smaller than this is measured as if it were this large; the size of zero is no measure."""


class Judge:
    """Turns two tensors into a `Comparison`, for one mode and precision."""

    def __init__(self, mode: Mode, dtype: torch.dtype) -> None:
        self.mode: Mode = mode
        self.dtype = dtype
        self.base = TOLERANCE.get(dtype, 2 * torch.finfo(dtype).eps)

    def visible(self, logits: Tensor) -> Tensor:
        """What of the logits the weights' processing preserves."""
        return logits if self.mode == "raw" else logits.log_softmax(-1)

    def __call__(
        self,
        kind: Kind,
        name: str,
        got: Tensor | None,
        expected: Tensor,
        exact: Callable[[], Tensor] | None = None,
        scale: float | None = None,
    ) -> Comparison:
        """Compare two tensors.

        Args:
            kind, name: of the quantity.
            got: the converted model's value; None where it has none.
            expected: the native model's, in the same precision.
            exact: the native model's in float64, asked for only where rounding may excuse an error.
            scale: what errors are relative to, where not the largest expected value.
        """
        if got is None:
            return self.failed(kind, name, "the converted model does not have it")
        if got.shape != expected.shape:
            return self.failed(kind, name, f"shape {list(got.shape)}, expected {list(expected.shape)}")
        max_abs, size = distance(got, expected)
        size = size if scale is None else max(scale, SMALLEST)
        max_rel = max_abs / size
        tolerance = self.base
        if max_rel > tolerance and exact is not None and self.dtype != torch.float64:
            tolerance = max(tolerance, ROUNDING * distance(expected, exact())[0] / size)
        passed = max_rel <= tolerance and (self.dtype != torch.float64 or max_abs <= tolerance * max(1.0, size))
        return self._comparison(kind, name, max_abs, max_rel, tolerance, passed)

    def identical(self, kind: Kind, name: str, got: Tensor | None, expected: Tensor) -> Comparison:
        """Two tensors of which not one bit may differ."""
        if got is None or got.shape != expected.shape:
            return self(kind, name, got, expected)
        max_abs, size = distance(got, expected)
        return self._comparison(kind, name, max_abs, max_abs / size, 0.0, max_abs == 0)

    def failed(self, kind: Kind, name: str, detail: str) -> Comparison:
        """A quantity that could not even be compared."""
        return self._comparison(kind, name, torch.inf, torch.inf, self.base, False, detail)

    def greedy(self, differing: int, steps: int, ties: int) -> Comparison:
        """The verdict on greedy text: no token may differ but for ties."""
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


def distance(got: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and the size of what is expected; infinite entries must agree."""
    got, expected = got.double(), expected.double()
    finite = expected.isfinite()
    if not torch.equal(got[~finite].nan_to_num(), expected[~finite].nan_to_num()):
        return torch.inf, 1.0
    if not finite.any():
        return 0.0, 1.0
    difference = (got - expected)[finite].abs().max().item()
    size = expected[finite].abs().max().item()
    return (torch.inf if difference != difference else difference), max(size, SMALLEST)


def precision_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
