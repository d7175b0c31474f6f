"""The model files of llm.c (`gpt2_124M.bin`, `model_00019560.bin`): a header of 256 numbers, then all weights in a row.

The header holds a magic number, the version (3: float32, 5: bfloat16) and the sizes; the weights
of one kind stand together for all layers; the vocabulary is padded to a multiple of 128, and the rows of the
padding are cut off here. llm.c's code has the tanh GELU, and its head is the token embedding.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conversion.errors import CheckpointError

MAGIC = 20240326
_HEADER = 256
_MOST_LAYERS = 1024
_DTYPES = {3: torch.float32, 5: torch.bfloat16}
_SIZES = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "padded_vocab_size")
_OTHER_MAGICS = {
    20240327: "a debug state of llm.c (activations and gradients)",
    20240328: "a tokenizer of llm.c",
    20240520: "a token shard of llm.c",
    20240522: "an evaluation set of llm.c",
    20240527: "an optimizer state of llm.c",
    20240801: "a token shard of llm.c's Llama 3",
    20240803: "a Llama 3 model of llm.c, which is another architecture",
}


def is_llmc(file: Path) -> bool:
    """Whether a file begins with one of llm.c's magic numbers, in whatever order of bytes."""
    with file.open("rb") as opened:
        head = opened.read(4)
    numbers = {int.from_bytes(head, "little"), int.from_bytes(head, "big")}
    return len(head) == 4 and bool(numbers & {MAGIC, *_OTHER_MAGICS})


def read_llmc(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The `model_args` and the tensors of a model file of llm.c, under nanoGPT's names.

    The tensors are mapped from disk, and must not outlive the reading.

    Raises:
        CheckpointError: the file is another kind of llm.c's, of a version that is not known, big-endian or truncated,
            or its header states sizes that are none.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(4 * _HEADER)
    if len(head) < 4 * _HEADER:
        raise CheckpointError(f"{file} has {size} bytes, and llm.c's header alone has {4 * _HEADER}; copy it again")
    header = np.frombuffer(head, dtype="<i4").tolist()
    if header[0] != MAGIC:
        if int.from_bytes(head[:4], "big") in (MAGIC, *_OTHER_MAGICS):
            raise CheckpointError(f"{file} is big-endian; expected a little-endian file of llm.c")
        raise CheckpointError(
            f"{file} is {_OTHER_MAGICS[header[0]]}; expected a GPT-2 model of llm.c (magic number {MAGIC})"
        )
    if header[1] not in _DTYPES:
        raise CheckpointError(
            f"{file} is a model of llm.c in version {header[1]}; expected 3 (float32) or 5 (bfloat16): write it "
            "again with a newer llm.c"
        )
    dtype = _DTYPES[header[1]]
    sizes: dict[str, int] = dict(zip(_SIZES, header[2:8], strict=True))
    for name, value in sizes.items():
        if value < 1:
            raise CheckpointError(f"{file}: the header states {name} {value}; expected a positive integer")
    if sizes["n_layer"] > _MOST_LAYERS:
        raise CheckpointError(f"{file}: the header states n_layer {sizes['n_layer']}; expected at most {_MOST_LAYERS}")
    padded = sizes.pop("padded_vocab_size")
    if padded < sizes["vocab_size"]:
        raise CheckpointError(
            f"{file}: the header states a padded vocabulary of {padded}, below vocab_size {sizes['vocab_size']}"
        )
    shapes = _shapes(sizes, padded)
    expected = 4 * _HEADER + dtype.itemsize * sum(math.prod(shape) for shape in shapes.values())
    if size != expected:
        raise CheckpointError(
            f"{file} has {size:,} bytes, and its header ({', '.join(f'{k} {v}' for k, v in sizes.items())}, "
            f"{str(dtype).removeprefix('torch.')}) asks for {expected:,}; "
            + ("it is truncated: copy it again" if size < expected else "it is damaged, or of another version of llm.c")
        )
    return {**sizes, "bias": True}, _tensors(file, dtype, shapes, sizes)


def _shapes(sizes: dict[str, int], padded: int) -> dict[str, tuple[int, ...]]:
    """The arrays of the file in their order, all layers in one, by nanoGPT's names without the layer."""
    layers, width = sizes["n_layer"], sizes["n_embd"]
    return {
        "wte.weight": (padded, width),
        "wpe.weight": (sizes["block_size"], width),
        "ln_1.weight": (layers, width),
        "ln_1.bias": (layers, width),
        "attn.c_attn.weight": (layers, 3 * width, width),
        "attn.c_attn.bias": (layers, 3 * width),
        "attn.c_proj.weight": (layers, width, width),
        "attn.c_proj.bias": (layers, width),
        "ln_2.weight": (layers, width),
        "ln_2.bias": (layers, width),
        "mlp.c_fc.weight": (layers, 4 * width, width),
        "mlp.c_fc.bias": (layers, 4 * width),
        "mlp.c_proj.weight": (layers, width, 4 * width),
        "mlp.c_proj.bias": (layers, width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }


def _tensors(
    file: Path, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]], sizes: dict[str, int]
) -> dict[str, Tensor]:
    """The tensors on disk, by nanoGPT's names."""
    numbers = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c", offset=4 * _HEADER)).view(dtype)
    rows = numbers.split([math.prod(shape) for shape in shapes.values()])
    arrays = {name: row.view(shape) for (name, shape), row in zip(shapes.items(), rows, strict=True)}
    state: dict[str, Tensor] = {"transformer.wte.weight": arrays.pop("wte.weight")[: sizes["vocab_size"]]}
    for name in ("wpe.weight", "ln_f.weight", "ln_f.bias"):
        state[f"transformer.{name}"] = arrays.pop(name)
    for name, array in arrays.items():
        for layer in range(sizes["n_layer"]):
            state[f"transformer.h.{layer}.{name}"] = array[layer]
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state
