"""nanoGPT's `meta.pkl`, read without executing anything in it.

A pickle can run code when it is read. The unpickler here builds plain data (dicts, lists, strings, numbers), NumPy's
scalars, and the dictionaries of `collections`; whatever else a pickle names becomes an inert record, for which
nothing is imported and nothing is called. Entries that are not the vocabulary are looked at no further.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conversion.atomic import replacing
from conversion.errors import VocabularyError, printable

META_NAME = "meta.pkl"

_LARGEST = 64 * 2**20
_MOST_CONTAINERS = 100
_EXPECTED = "expected nanoGPT's dictionary with 'stoi' and 'itos'"


def read_tokens(file: Path) -> dict[int, str]:
    """The text of every id that a `meta.pkl` names, in the order of the ids.

    Raises:
        VocabularyError: the file does not exist, is damaged, or does not say which id stands for which text.
    """
    meta = _plain_pickle(file)
    if not isinstance(meta, Mapping):
        raise VocabularyError(f"{file} has {_described(meta)}; {_EXPECTED}")
    stoi, itos = meta.get("stoi"), meta.get("itos")
    if stoi is None and itos is None:
        keys = ", ".join(map(str, list(meta)[:6])) or "nothing"
        raise VocabularyError(f"{file} has {keys}, which does not say what the ids stand for; {_EXPECTED}")
    by_stoi = None if stoi is None else _inverted(file, stoi)
    by_itos = None if itos is None else _listed(file, itos)
    if by_stoi is not None and by_itos is not None and by_stoi != by_itos:
        raise VocabularyError(f"{file}: stoi and itos are not inverse to each other; prepare the data set again")
    table = by_itos if by_stoi is None else by_stoi
    if not table:
        raise VocabularyError(f"{file}: the vocabulary is empty; expected at least one character")
    size = meta.get("vocab_size")
    if isinstance(size, int) and not isinstance(size, bool) and size <= max(table):
        raise VocabularyError(f"{file}: vocab_size is {size}, but stoi has ids up to {max(table)}; prepare it again")
    return dict(sorted(table.items()))


def read_vocab_size(file: Path) -> int | None:
    """The `vocab_size` of a `meta.pkl`, which is all that nanoGPT's `train.py` reads of it; None if it has none.

    Raises:
        VocabularyError: the file does not exist or is damaged.
    """
    meta = _plain_pickle(file)
    size = meta.get("vocab_size") if isinstance(meta, Mapping) else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def write_meta(folder: str | Path, meta: Mapping[str, Any]) -> Path:
    """Write a `meta.pkl` into a folder, and return the file."""
    file = Path(folder) / META_NAME
    with replacing(file) as temporary:
        temporary.write_bytes(pickle.dumps(meta))
    return file


def _inverted(file: Path, stoi: Any) -> dict[int, str]:
    """The table of a dictionary from text to id."""
    if not isinstance(stoi, Mapping):
        raise VocabularyError(f"{file}: stoi is {_described(stoi)}; {_EXPECTED}")
    table = {_as_id(file, i): _as_text(file, text) for text, i in stoi.items()}
    if len(table) != len(stoi):
        raise VocabularyError(f"{file}: stoi and itos are not inverse to each other: two texts have one id")
    return table


def _listed(file: Path, itos: Any) -> dict[int, str]:
    """The table of a dictionary from id to text, or of a list of texts."""
    if not isinstance(itos, Mapping | list | tuple):
        raise VocabularyError(f"{file}: itos is {_described(itos)}; {_EXPECTED}")
    items = itos.items() if isinstance(itos, Mapping) else enumerate(itos)
    table = {_as_id(file, i): _as_text(file, text) for i, text in items}
    if len(set(table.values())) != len(table) or len(table) != len(itos):
        raise VocabularyError(f"{file}: stoi and itos are not inverse to each other: a text or an id occurs twice")
    return table


def _as_id(file: Path, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise VocabularyError(f"{file}: stoi and itos are not inverse to each other: {_described(value)} is no id")
    return int(value)


def _as_text(file: Path, value: Any) -> str:
    if not isinstance(value, str):
        raise VocabularyError(f"{file}: a token is {_described(value)}; expected text, as in nanoGPT's meta.pkl")
    if any(0xD800 <= ord(char) < 0xE000 for char in value):
        raise VocabularyError(f"{file}: a token is {value!r}, half a character; expected one character or several")
    return str(value)


class _Inert:
    """An object of a pickle that is no plain data: its name, and nothing that it could do."""

    name = "an object"

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Forget a value."""

    def extend(self, values: Any) -> None:
        """Forget some values."""

    def add(self, value: Any) -> None:
        """Forget a value."""


class _NumpyType(_Inert):
    """NumPy's type of a scalar: its letter and width, and the order of its bytes."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""


def _numpy_scalar(kind: Any, data: Any = b"") -> Any:
    """A NumPy scalar from its bytes; what is no number and no text becomes an inert record."""
    code = kind.code if isinstance(kind, _NumpyType) else None
    order = kind.order if isinstance(kind, _NumpyType) else None
    plain = re.fullmatch(r"[<>][biufU]\d{1,4}", f"{order}{code}".replace("|", "<"))
    dtype = np.dtype(plain.group()) if plain else None
    if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        return _Inert()
    return np.frombuffer(data, dtype=dtype)[0].item()


_HARMLESS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "Counter"): collections.Counter,
    ("collections", "defaultdict"): lambda *_: {},
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("numpy", "dtype"): _NumpyType,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain data; every other name of a module becomes an inert record."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":
            module = "builtins"
        return _HARMLESS.get((module, name)) or type("_Inert", (_Inert,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()


def _described(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, _Inert):
        return (
            f"an object that is not plain data ({printable(value.name)[:80]}), which unpickling would run as code "
            "(nothing was executed)"
        )
    return f"{value!r:.40}" if isinstance(value, str | int | float | bytes | None) else f"a {type(value).__name__}"


def _plain_pickle(file: Path) -> Any:
    """The data in a pickle, with inert records for what is not plain; VocabularyError if it is damaged."""
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise VocabularyError(f"{file} holds {size:,} bytes; expected a vocabulary of at most {_LARGEST:,}")
        data = file.read_bytes()
        _check_nesting(file, data)
        return _PlainUnpickler(io.BytesIO(data)).load()
    except VocabularyError:
        raise
    except OSError as error:
        raise VocabularyError(f"{file} cannot be read ({error.strerror}); expected nanoGPT's meta.pkl") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise VocabularyError(
            f"{file} is not a pickle, or is damaged ({type(error).__name__}); expected nanoGPT's meta.pkl"
        ) from None


def _check_nesting(file: Path, data: bytes) -> None:
    """Raise VocabularyError if a pickle has so many containers that, nested, they could overflow the stack."""
    containers = 0
    for opcode, _, _ in pickletools.genops(data):
        containers += opcode.name.endswith(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "SET"))
        if containers > _MOST_CONTAINERS:
            raise VocabularyError(f"{file} holds more than {_MOST_CONTAINERS} dicts, lists and tuples")
