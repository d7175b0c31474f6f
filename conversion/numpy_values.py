"""NumPy's scalars and arrays in a pickle, made from their bytes by this package and not by NumPy's own unpickling.

A scalar becomes Python's number or string, and an array a tensor, or a list if it holds strings.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch

from conversion.inert import Builder, Record

_CODE = re.compile(r"[biufcSU?]\d{0,4}")


class PickledDtype:
    """A NumPy dtype that a pickle describes; the byte order comes after the name."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "|"

    def set_state(self, state: Any) -> None:
        """Take the byte order from the state."""
        self.order = state[1]

    @property
    def real(self) -> np.dtype | None:
        """NumPy's dtype; None if its values are no numbers and no strings."""
        if not isinstance(self.code, str) or not _CODE.fullmatch(self.code) or self.order not in "<>|=":
            return None
        return np.dtype(f"{self.order if self.order in '<>' else ''}{self.code}")


class PickledArray:
    """A NumPy array that a pickle describes; its content comes after it was made."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        """Take the shape, the dtype, the order and the bytes."""
        self.state = state

    def value(self) -> Any:
        """A tensor, a list of strings, or a record of an array of objects."""
        _, shape, dtype, fortran, data = self.state
        return _array(data, dtype, shape, "F" if fortran else "C")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    real = dtype.real if isinstance(dtype, PickledDtype) else None
    if real is None:
        return Record("numpy.generic", (data,))
    return _values(data, real, 1)[0].item()


def _array(data: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    real = dtype.real if isinstance(dtype, PickledDtype) else None
    shape = shape if isinstance(shape, tuple) else (shape,)
    if real is None or not all(type(size) is int and size >= 0 for size in shape):
        return Record("numpy.ndarray", (data,))
    array = np.array(_values(data, real, math.prod(shape))).reshape(shape, order="F" if order == "F" else "C")
    native = array.astype(real.newbyteorder("="), order="C")
    try:
        return torch.from_numpy(native)
    except TypeError:  # strings, and what torch has no numbers for
        return native.tolist()


def _values(data: Any, dtype: np.dtype, count: int) -> np.ndarray:
    """The values in some bytes, of which there must be just enough."""
    data = data.encode("latin-1") if isinstance(data, str) else bytes(memoryview(data))
    if not dtype.itemsize or len(data) != count * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {count} numbers of NumPy's {dtype}")
    return np.frombuffer(data, dtype=dtype, count=count)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> Any:
    return _array(buffer, dtype, shape, order)


BUILDERS: dict[str, Builder] = {
    "numpy.dtype": PickledDtype,
    **{
        f"numpy.{core}.{name}": builder
        for core in ("core", "_core")
        for name, builder in (
            ("multiarray.scalar", _scalar),
            ("multiarray._reconstruct", PickledArray),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
"""By the names in pickles, the functions that make NumPy's values."""
