"""What `torch.save` wrote, read without running anything in it and without more memory than its tensors need.

Both formats are read: the ZIP archive of today, and the row of pickles of PyTorch before 1.6. The pickles go
through `conversion.inert`; tensors are made from storages by this package, which checks that every
element of a tensor lies in its storage, so that neither sizes nor strides of a damaged file can lead elsewhere.
"""

from __future__ import annotations

import io
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from conversion import numpy_values, python_values
from conversion.archives import Archive
from conversion.errors import CheckpointError, reason_of
from conversion.inert import Builder, Machine, PickledName, Record, UnsafePickleError, as_key
from conversion.plain import Finished, written_out
from conversion.python_values import joined

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_MOST_REPEATED = 2**20
"""The elements that a tensor may have more than its storage, as one that was expanded has."""


@dataclass(frozen=True)
class PickledStorage:
    """The numbers of a storage in a row."""

    row: Tensor


@dataclass(frozen=True)
class TorchFile:
    """The content of a file of `torch.save`.

    Attributes:
        content: what was saved; objects of classes that are not known here are `Record`s.
        kinds: the classes of these records.
    """

    content: Any
    kinds: frozenset[str]


def read_torch_file(file: Path, *, mapped: bool) -> TorchFile:
    """Read what `torch.save` wrote.

    Args:
        file: the file.
        mapped: leave the numbers on disk; the tensors must then not outlive the reading. Else they are copied.

    Raises:
        CheckpointError: the file is no file of `torch.save`, is damaged, or would run code.
    """
    with file.open("rb") as opened:
        head = opened.read(4)
    try:
        read = _read_archive if head.startswith(b"PK") else _read_legacy
        return read(file, mapped)
    except CheckpointError:
        raise
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{file} holds an object that is not plain data ({error}), which unpickling would run as code; "
            "nothing was executed; save it again with nothing but tensors, numbers and strings"
        ) from None
    except MemoryError:
        raise CheckpointError(f"{file} says that it holds more than fits into the memory; it is damaged") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CheckpointError(
            f"{file} is not a PyTorch checkpoint, or is damaged ({reason_of(error)}); expected nanoGPT's "
            "dictionary with 'model' and 'model_args', as torch.save writes it"
        ) from None


def _read_archive(file: Path, mapped: bool) -> TorchFile:
    """The content of a ZIP archive."""
    with Archive(file) as archive:
        prefix = archive.prefix
        if archive.has("constants.pkl"):
            raise CheckpointError(
                f"{file} is a TorchScript archive, which is a program; expected a checkpoint: save the model's "
                "state_dict() with torch.save"
            )
        big = archive.has("byteorder") and archive.read("byteorder").strip() == b"big"
        rows: dict[str, Tensor] = {}

        def row(key: str, dtype: torch.dtype, count: int) -> Tensor:
            name = f"data/{key}"
            if key not in rows:
                if not archive.has(name):
                    raise ValueError(f"no {prefix}{name}")
                numbers = _row(archive.numbers(name), big, dtype)
                rows[key] = numbers if mapped else numbers.clone()
            numbers = rows[key].view(dtype) if rows[key].dtype != dtype else rows[key]
            if numbers.numel() != count:
                raise ValueError(f"record size: {name} has {numbers.numel()} numbers, and {count} are expected")
            return numbers

        machine = _machine(row)
        content = machine.run(io.BytesIO(archive.read("data.pkl")))
        return _finished(content, machine)


def _read_legacy(file: Path, mapped: bool) -> TorchFile:
    """The content of five pickles in a row (magic number, version, system, content, keys) and the storages behind."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        stream = cast(BinaryIO, mapping)
        if mapping[:1] != b"\x80" or _plain(stream) != _LEGACY_MAGIC:
            raise ValueError("another kind of file")
        _plain(stream)
        system = _plain(stream)
        big = isinstance(system, dict) and system.get("little_endian") is False
        start = stream.tell()
        sizes: dict[str, int] = {}

        def counted(key: str, dtype: torch.dtype, count: int) -> Tensor:
            sizes[key] = max(sizes.get(key, 0), count * dtype.itemsize)
            return torch.empty(0, dtype=dtype)

        Machine({}, _storage(counted)).run(stream)
        places = _places(_plain(stream), sizes, stream.tell(), len(mapping))
        data = np.memmap(file, dtype=np.uint8, mode="c")

        def row(key: str, dtype: torch.dtype, count: int) -> Tensor:
            place = places[key]
            numbers = _row(data[place : place + count * dtype.itemsize], big, dtype)
            return numbers if mapped else numbers.clone()

        stream.seek(start)
        machine = _machine(row)
        return _finished(machine.run(stream), machine)


def _plain(stream: BinaryIO) -> Any:
    """The value of a pickle that has no storages."""

    def refuse(_: Any) -> Any:
        raise ValueError("a storage where there is none")

    return Machine({}, refuse).run(stream)


def _places(keys: Any, sizes: dict[str, int], start: int, end: int) -> dict[str, int]:
    """Where the bytes of each storage begin in an old file: one after the other, each behind its number of elements."""
    places, place = {}, start
    for key in keys:
        places[str(key)] = place + 8
        place += 8 + sizes[str(key)]
    if place > end:
        raise ValueError(f"truncated: {end} bytes, and the storages end at {place}")
    return places


def _row(data: np.ndarray, big: bool, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers in a row; they are copied where they do not lie as numbers of that width must."""
    data = data if data.ctypes.data % 8 == 0 and data.flags.writeable else data.copy()
    numbers = torch.from_numpy(data)
    if big != (sys.byteorder == "big"):
        numbers = numbers.view(-1, dtype.itemsize).flip(1).flatten()
    return numbers.view(dtype)


def _storage(row: Callable[[str, torch.dtype, int], Tensor]) -> Builder:
    """The function that a machine calls for a persistent reference, which names a storage."""

    def storage(reference: Any) -> Any:
        if isinstance(reference, tuple) and reference[:1] == ("module",):  # the class of a whole pickled model
            return reference[1]
        kind, named, key, _, count = reference[:5]
        dtype = _STORAGES.get(named.name) if isinstance(named, PickledName) else None
        if kind == "storage" and isinstance(named, PickledName) and dtype is None:
            return Record(str(named))  # of quantised numbers, which no weight of nanoGPT is
        if kind != "storage" or dtype is None or type(count) is not int or count < 0:
            raise ValueError("a reference that is no storage")
        return PickledStorage(row(str(as_key(key)), dtype, count))

    return storage


def _machine(row: Callable[[str, torch.dtype, int], Tensor]) -> Machine:
    builders: dict[str, Builder] = {**_BUILDERS, **python_values.BUILDERS, **numpy_values.BUILDERS}
    machine = Machine(builders, _storage(row))

    def from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        made = machine.call(function, arguments)
        return made if isinstance(made, Tensor) else Record(str(kind), arguments)

    builders["torch._tensor._rebuild_from_type_v2"] = from_type
    return machine


def _finished(content: Any, machine: Machine) -> TorchFile:
    """The content with final values: dtypes for their names, tensors for NumPy's arrays."""

    def final(value: Any) -> Any:
        if isinstance(value, PickledName):
            is_dtype = value.module == "torch" and value.name in _DTYPES
            return _DTYPES[value.name] if is_dtype else str(value)
        if isinstance(value, numpy_values.PickledArray):
            return value.value()
        if isinstance(value, numpy_values.PickledDtype):
            return value.code
        return None if isinstance(value, PickledStorage) else value

    finished = Finished(final)(content)
    machine.check_repeats(written_out(finished))
    return TorchFile(finished, frozenset(machine.kinds))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A tensor all of whose elements lie in its storage."""
    _check_sizes(offset, size, stride)
    row = storage.row
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    elements = 1
    for n in size:
        elements *= n
    if elements and last >= row.numel():
        raise ValueError(f"a tensor of shape {list(size)} in a storage of {row.numel()} numbers")
    if elements > row.numel() + _MOST_REPEATED:
        raise ValueError(f"a tensor of shape {list(size)}, which repeats the {row.numel()} numbers of its storage")
    return torch.as_strided(row, size, stride, offset if elements else 0)


def _check_sizes(offset: Any, size: Any, stride: Any) -> None:
    for numbers in ((offset,), size, stride):
        if not isinstance(numbers, tuple) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise ValueError("sizes of a tensor that are no sizes")
    if len(size) != len(stride) or len(size) > 16:
        raise ValueError("a tensor with other strides than sizes")


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    row = PickledStorage(storage.row.view(_DTYPES[dtype.name]))
    return _tensor(row, offset, size, stride)


def _meta_tensor(dtype: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A tensor without values, as torch.save writes those of the meta device."""
    _check_sizes(0, size, stride)
    return torch.empty_strided(size, stride, dtype=_DTYPES[dtype.name], device="meta")


_BUILDERS: dict[str, Builder] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *parts: joined(parts, ":"),
    "torch.serialization._get_layout": lambda name: name,
}
"""By the names in pickles, the functions of this file that make tensors and what describes them."""
