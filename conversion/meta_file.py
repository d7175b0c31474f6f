"""nanoGPT's `meta.pkl`, read without executing anything in it.

A pickle can run code when it is read. This one goes through `conversion.inert`, which makes plain data (dicts, lists,
strings, numbers), NumPy's scalars, and the dictionaries of `collections`; whatever else a pickle names becomes a
record, for which nothing is imported and nothing is called. Entries that are not the vocabulary are not looked at.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from conversion import python_values
from conversion.atomic import replacing
from conversion.errors import VocabularyError, printable, reason_of
from conversion.inert import Machine, PickledName, Record, UnsafePickleError

META_NAME = "meta.pkl"

_LARGEST = 2**24
_EXPECTED = "expected nanoGPT's dictionary with 'stoi' and 'itos'"


def read_tokens(file: Path) -> dict[int, str]:
    """The text of every id that a `meta.pkl` names, in the order of the ids.

    Raises:
        VocabularyError: the file does not exist, is damaged, or does not say which id stands for which text.
    """
    meta = _plain_pickle(file)
    if not _is_dictionary(meta):
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
    size = meta.get("vocab_size") if _is_dictionary(meta) else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def write_meta(folder: str | Path, meta: Mapping[str, Any]) -> Path:
    """Write a `meta.pkl` into a folder, and return the file."""
    file = Path(folder) / META_NAME
    with replacing(file) as temporary:
        temporary.write_bytes(pickle.dumps(meta))
    return file


def _inverted(file: Path, stoi: Any) -> dict[int, str]:
    """The table of a dictionary from text to id."""
    if not _is_dictionary(stoi):
        raise VocabularyError(f"{file}: stoi is {_described(stoi)}; {_EXPECTED}")
    table = {_as_id(file, i): _as_text(file, text) for text, i in stoi.items()}
    if len(table) != len(stoi):
        raise VocabularyError(f"{file}: stoi and itos are not inverse to each other: two texts have one id")
    return table


def _listed(file: Path, itos: Any) -> dict[int, str]:
    """The table of a dictionary from id to text, or of a list of texts."""
    if not _is_dictionary(itos) and not isinstance(itos, list | tuple):
        raise VocabularyError(f"{file}: itos is {_described(itos)}; {_EXPECTED}")
    items = itos.items() if isinstance(itos, dict) else enumerate(itos)
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


def _is_dictionary(value: Any) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict) and not isinstance(value, Record)


def _no_storage(_: Any) -> Any:
    raise ValueError("a storage of PyTorch's")


def _described(value: Any) -> str:
    """A value in a message."""
    from conversion.numpy_values import PickledArray

    if isinstance(value, Record | PickledName | PickledArray):
        name = (
            value.kind if isinstance(value, Record) else "numpy.ndarray" if isinstance(value, PickledArray) else value
        )
        return _no_plain_data(str(name))
    return f"{value!r:.40}" if isinstance(value, str | int | float | bytes | None) else f"a {type(value).__name__}"


def _no_plain_data(name: str) -> str:
    return (
        f"an object that is not plain data ({printable(name)[:80]}), which unpickling would run as code "
        "(nothing was executed)"
    )


def _plain_pickle(file: Path) -> Any:
    """The data in a pickle, with records for what is not plain.

    Raises:
        VocabularyError: the file cannot be read, is damaged, or calls what can only mean to run code.
    """
    from conversion import numpy_values  # it needs torch, which the command line does not load

    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise VocabularyError(f"{file} holds {size:,} bytes; expected a vocabulary of at most {_LARGEST:,}")
        return Machine({**python_values.BUILDERS, **numpy_values.BUILDERS}, _no_storage).run(
            io.BytesIO(file.read_bytes())
        )
    except VocabularyError:
        raise
    except UnsafePickleError as error:
        raise VocabularyError(f"{file} holds {_no_plain_data(str(error))}; {_EXPECTED}") from None
    except OSError as error:
        raise VocabularyError(f"{file} cannot be read ({error.strerror}); expected nanoGPT's meta.pkl") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise VocabularyError(
            f"{file} is not a pickle, or is damaged ({reason_of(error)}); expected nanoGPT's meta.pkl"
        ) from None
