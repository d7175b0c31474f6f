"""Results on disk: `result.json`, and beside it one safetensors file that it names.

The tensors are written first, under a name of their own; then `result.json` is replaced in
one step. Whenever the process dies, `result.json` belongs to the tensors that it names.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from conversion.atomic import replacing, write_text
from nanogpt_lens.core.errors import ResultError

NAME = "result.json"
FORMAT = 1
_ARRAYS = re.compile(r"arrays-[0-9a-f]{12}\.safetensors")


def check_target(folder: Path) -> None:
    """Raise ResultError unless `write_result` can write to the folder: it is new, empty, or holds a result."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / NAME).is_file())):
        raise ResultError(f"{folder} is there and is no saved result; give a new folder, or one with a {NAME}")


def write_result(
    folder: Path, kind: str, plain: Mapping[str, Any], tensors: Mapping[str, Shaped[Tensor, " ..."]]
) -> Path:
    """Write a result into `folder`, in place of one that is there.

    Raises:
        ResultError: the folder is a file or holds something else; a field that JSON cannot hold.
    """
    from safetensors.torch import save_file

    check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = f"arrays-{os.urandom(6).hex()}.safetensors"
    text = json.dumps(
        {"format": FORMAT, "kind": kind, "arrays": arrays, **plain}, ensure_ascii=False, indent=1, default=_plain
    )
    with replacing(folder / arrays) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    write_text(folder / NAME, text + "\n")
    for old in folder.iterdir():
        if _ARRAYS.fullmatch(old.name) and old.name != arrays:
            with suppress(OSError):
                old.unlink()
    return folder


def read_result(folder: Path) -> tuple[str, dict[str, Any], dict[str, Shaped[Tensor, " ..."]]]:
    """The kind, the plain fields and the tensors of a saved result.

    Raises:
        ResultError: nothing there, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / NAME
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{file} cannot be read ({error.strerror}); expected a folder that `save` wrote") from None
    except ValueError:
        raise ResultError(f"{file} is not JSON; the file is damaged: make the result again") from None
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise ResultError(f"{file} is not a result of format {FORMAT}; another version wrote it: make it again")
    kind, arrays = str(plain.pop("kind", "")), str(plain.pop("arrays", ""))
    if not _ARRAYS.fullmatch(arrays):
        raise ResultError(f"{file} names no file of tensors ({arrays!r}); the file is damaged: make the result again")
    try:
        tensors = load_file(folder / arrays)
    except (OSError, SafetensorError) as error:
        raise ResultError(f"{folder / arrays} cannot be read ({str(error)[:80]}); make the result again") from None
    return kind, plain, tensors


def as_json(value: Any) -> Any:
    """A field of a result as JSON has it: lists and dictionaries of text, numbers and None (also for nan, infinity)."""
    if isinstance(value, Mapping):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return as_json(_plain(value))


def _plain(value: Any) -> Any:
    """A value that JSON does not know, as one that it does."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise ResultError(f"a {type(value).__name__} cannot be saved in {NAME}; expected text, numbers, lists and the like")
