"""Tensors in a safetensors file, and the JSON beside it that says what they are.

The file's own reader checks the header before anything is read; the tensors stay on disk until they are copied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from conversion.errors import CheckpointError

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
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{file} is not a safetensors file, or is damaged ({reason}); copy it again, or save it anew"
        ) from None
    for name, kept in metadata.items():
        if name not in tensors and kept in tensors:
            tensors[name] = tensors[kept]
    return tensors, {name: _parsed(text) for name, text in metadata.items()}


def read_config(folder: Path) -> dict[str, Any] | None:
    """The `config.json` of a folder; None if there is none.

    Raises:
        CheckpointError: it is no JSON object.
    """
    file = folder / CONFIG_NAME
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}: {str(error)[:80]}); expected a JSON object with the "
            "model's n_head"
        ) from None
    return content


def _parsed(text: Any) -> Any:
    """What a text of the metadata says, if it is JSON; else the text."""
    try:
        return json.loads(text) if isinstance(text, str) and len(text) <= _LARGEST_JSON else text
    except (ValueError, RecursionError):
        return text
