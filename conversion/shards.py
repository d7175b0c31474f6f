"""Safetensors in several files: the index that says which tensor is in which, and the tensors of all of them.

Hugging Face's layout: `model.safetensors.index.json` with a `weight_map` from names to files such as
`model-00001-of-00002.safetensors`, which lie beside it. The index is as untrusted as any file: what it names is
the name of a file in its own folder and nothing else, every tensor is in the one file that it says, and no file has
others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from conversion.errors import CheckpointError
from conversion.locating import INDEX_NAME
from conversion.safetensors_files import named_twice_restored, parsed, read_json, read_tensors

_ENDING = ".safetensors.index.json"
_SHARD = re.compile(r".*-\d{5}-of-(\d{5})\.safetensors")
_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\x00\ud800-\udfff]+", re.DOTALL)
_LONGEST = 200  # characters of a name; where they take more bytes than a file system allows, there is no such file
_WEIGHT_MAP = "expected an object 'weight_map' from the names of tensors to files beside it"


def is_index(file: Path) -> bool:
    """Whether a file is the index of others, by its name."""
    return file.name.endswith(_ENDING)


def check_whole(file: Path) -> None:
    """Raise CheckpointError if a file is one of several, by its name, so that it has a part of the tensors."""
    several = _SHARD.fullmatch(file.name)
    if several and int(several[1]) > 1:
        raise CheckpointError(
            f"{file} is one of {int(several[1])} files that have the tensors together; expected all of them: give the "
            f"folder, or its {INDEX_NAME}"
        )


def shards_of(index: Path) -> tuple[Path, ...]:
    """The files that an index names, in alphabetical order.

    Raises:
        CheckpointError: the index is damaged, names something else than a file beside it, or one that is not there.
    """
    return tuple(index.parent / name for name in sorted(set(_read_index(index)[0].values())))


def read_shards(index: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of all files of an index, which must not outlive the reading, and what the metadata say.

    Raises:
        CheckpointError: see `shards_of`; a file is damaged, lacks a tensor that it should have, or has another; or
            two files contradict each other.
    """
    weight_map, about = _read_index(index)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for shard in shards_of(index):
        part, said = read_tensors(shard)
        _check_names(index, shard, part, weight_map)
        tensors |= part
        for name, text in said.items():
            if metadata.setdefault(name, text) != text:
                raise CheckpointError(
                    f"{shard} has other metadata under {name!r} than the files before it; expected shards of one model"
                )
    return named_twice_restored(tensors, metadata), {**about, **parsed(metadata)}


def _check_names(index: Path, shard: Path, names: Iterable[str], weight_map: dict[str, str]) -> None:
    """Raise CheckpointError unless a file has the tensors that the index says, and no others."""
    expected = {name for name, file in weight_map.items() if file == shard.name}
    missing, others = sorted(expected - set(names)), sorted(set(names) - expected)
    if missing:
        raise CheckpointError(
            f"{shard} has no tensor {_some(missing)}, which {index.name} says is in it; expected every tensor in its "
            "file: copy both again"
        )
    twice = [name for name in others if name in weight_map]
    if twice:
        raise CheckpointError(
            f"{shard} has {_some(twice)}, which {index.name} says is in {weight_map[twice[0]]}; expected every tensor "
            "in one file: save the model again"
        )
    if others:
        raise CheckpointError(
            f"{shard} has {_some(others)}, which {index.name} does not name; expected the files of one model: save it "
            "again"
        )


def _read_index(index: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The file of each tensor, and the index's own metadata.

    Raises:
        CheckpointError: as for `shards_of`.
    """
    content = read_json(index, _WEIGHT_MAP, pairs=_once)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; {_WEIGHT_MAP}")
    for name, file in weight_map.items():
        if not isinstance(file, str) or len(file) > _LONGEST or not _FILE_NAME.fullmatch(file):
            raise CheckpointError(
                f"{index} says that {_some([name])} is in {repr(file)[:80]}; expected the name of a file "
                "beside it, because an index may name no other place"
            )
    missing = sorted({file for file in weight_map.values() if not _is_file(index.parent / file)})
    if missing:
        raise CheckpointError(
            f"{index.parent} has no {_some(missing)}, which {index.name} names; expected all of its files beside it: "
            "copy what is missing"
        )
    about = content.get("metadata")
    return weight_map, about if isinstance(about, dict) else {}


def _is_file(file: Path) -> bool:
    """Whether there is such a file; no error for a name that no file can have."""
    try:
        return file.is_file()
    except OSError:
        return False


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a name is there twice, of which JSON's reader would keep the last."""
    names = dict(pairs)
    if len(names) < len(pairs):
        counted = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in counted if counted.count(n) > 1)!r} is there twice")
    return names


def _some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(name[:80] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
