"""Tensors in a safetensors file, and the JSON beside it that says what they are.

The file's own reader checks the header before anything is read; the tensors stay on disk until they are copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

from conversion.errors import CheckpointError

PairsHook: TypeAlias = Callable[[list[tuple[str, Any]]], dict[str, Any]]
"""From the names and values of a JSON object to what it is read as."""

CONFIG_NAME = "config.json"
_LARGEST_JSON = 2**22
_LARGEST_HEADER = 10**8


def is_safetensors(file: Path) -> bool:
    """Whether a file begins as a safetensors file: the length of a JSON object, and the object."""
    with file.open("rb") as opened:
        head = opened.read(9)
    length = int.from_bytes(head[:8], "little")
    return file.suffix == ".safetensors" or (head[8:] == b"{" and length <= _LARGEST_HEADER)


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, which must not outlive the reading, and its metadata.

    A name that was left out because another has the same tensor (`safetensors.torch.save_model`) is restored.

    Raises:
        CheckpointError: the file is no safetensors file, or is damaged.
    """
    tensors, metadata = read_tensors(file)
    return named_twice_restored(tensors, metadata), parsed(metadata)


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file as it names them, which must not outlive the reading, and its metadata as it is.

    Raises:
        CheckpointError: the file is no safetensors file, or is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{file} is not a safetensors file, or is damaged ({reason}); copy it again, or save it anew"
        ) from None
    return tensors, metadata


def named_twice_restored(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors, with the names that saving left out: metadata say under which other name each is."""
    others = {name: tensors[kept] for name, kept in metadata.items() if name not in tensors and kept in tensors}
    return {**tensors, **others}


def read_config(folder: Path) -> dict[str, Any] | None:
    """The `config.json` of a folder; None if there is none.

    Raises:
        CheckpointError: it is no JSON object.
    """
    file = folder / CONFIG_NAME
    return read_json(file, "expected a JSON object with the model's n_head") if file.is_file() else None


def read_json(file: Path, expected: str, *, pairs: PairsHook | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        file: which.
        expected: of the file, for the message.
        pairs: what makes an object of its names and values; None for the last value of each name.

    Raises:
        CheckpointError: it is no JSON object.
    """
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=pairs)
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}: {str(error)[:80]}); {expected}"
        ) from None
    return content


def parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the texts of the metadata say: JSON, or the text itself."""
    return {name: _parsed(text) for name, text in metadata.items()}


def _parsed(text: Any) -> Any:
    """What a text of the metadata says, if it is JSON; else the text."""
    try:
        return json.loads(text) if isinstance(text, str) and len(text) <= _LARGEST_JSON else text
    except (ValueError, RecursionError):
        return text
