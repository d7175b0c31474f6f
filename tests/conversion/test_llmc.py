"""llm.c's model files, written here as its `write_model` and `gpt2_write_to_checkpoint` do."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from conversion import CheckpointError, read_checkpoint
from tests.making import random_state

HEADER = {"magic": 20240326, "version": 3, "T": 12, "V": 65, "L": 2, "NH": 4, "C": 16, "Vp": 128}
PER_LAYER = [
    f"{module}.{kind}"
    for module in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for kind in ("weight", "bias")
]


def write_model(path, state, order="<", **changes):
    """A header of 256 integers, wte with padding, wpe, then each kind of weight for all layers, and ln_f."""
    header = HEADER | changes
    dtype = torch.bfloat16 if header["version"] == 5 else torch.float32
    padding = torch.full((header["Vp"] - len(state["transformer.wte.weight"]), header["C"]), 7.0)
    tensors = [torch.cat([state["transformer.wte.weight"], padding]), state["transformer.wpe.weight"]]
    for name in PER_LAYER:
        tensors += [state[f"transformer.h.{layer}.{name}"] for layer in range(2)]
    tensors += [state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]]
    numbers = torch.cat([tensor.flatten() for tensor in tensors]).to(dtype)
    raw = numbers.view(torch.int16 if dtype == torch.bfloat16 else torch.int32).numpy()
    head = np.zeros(256, dtype=np.int32)
    head[: len(header)] = list(header.values())
    path.write_bytes(head.astype(f"{order}i4").tobytes() + raw.astype(raw.dtype.newbyteorder(order)).tobytes())
    return path


@pytest.mark.parametrize(("version", "dtype"), [(3, torch.float32), (5, torch.bfloat16)])
def test_every_weight_is_in_its_place_and_the_padding_is_cut(tmp_path, version, dtype):
    state = random_state()
    read = read_checkpoint(write_model(tmp_path / "gpt2_124M.bin", state, version=version), act_fn="gelu_new")
    assert list(read.state_dict) == list(state)
    assert all(torch.equal(read.state_dict[name], tensor.to(dtype)) for name, tensor in state.items())
    assert (read.config.n_head, read.config.vocab_size, read.config.act_fn) == (4, 65, "gelu_new")
    assert read.state_dict["lm_head.weight"] is read.state_dict["transformer.wte.weight"]
    assert read.config.tied
    assert len(read.sha256) == 64


def test_a_vocabulary_without_padding(tmp_path):
    state = random_state()
    read = read_checkpoint(write_model(tmp_path / "m.bin", state, Vp=65), act_fn="gelu")
    assert torch.equal(read.state_dict["transformer.wte.weight"], state["transformer.wte.weight"])


def test_the_gelu_must_be_told(tmp_path):
    file = write_model(tmp_path / "m.bin", random_state())
    with pytest.raises(CheckpointError, match=r"llm\.c, whose code computes with the tanh GELU.*act_fn='gelu_new'"):
        read_checkpoint(file)
    assert read_checkpoint(file, act_fn="gelu").config.act_fn == "gelu"  # whose code has the exact one may say so


def test_the_name_of_the_file_does_not_matter(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    write_model(folder / "ckpt.pt", random_state())
    assert read_checkpoint(folder, act_fn="gelu_new").config.n_layer == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, r"version 1; expected 3 \(float32\) or 5"),
        ({"magic": 20240520}, "a token shard of llm.c; expected a GPT-2 model"),
        ({"magic": 20240803}, "Llama 3 model of llm.c, which is another architecture"),
        ({"magic": 20240327}, "a debug state"),
        ({"L": 0}, "n_layer 0; expected a positive integer"),
        ({"L": -3}, "n_layer -3"),
        ({"L": 10**6}, "n_layer 1000000; expected at most"),
        ({"NH": 3}, "n_head'\\] is 3, which does not divide"),
        ({"C": 2**31 - 1}, "asks for .*truncated"),
        ({"L": 1}, "asks for .*damaged, or of another version"),
        ({"V": 129}, "padded vocabulary of 128, below vocab_size 129"),
        ({"order": ">"}, "big-endian"),
        ({"magic": 20240327, "order": ">"}, "big-endian"),
    ],
    ids=str,
)
def test_other_files_and_headers_that_lie(tmp_path, changes, words):
    file = write_model(tmp_path / "m.bin", random_state())
    data = bytearray(file.read_bytes())
    order = changes.pop("order", "<")
    for place, value in enumerate((HEADER | changes).values()):
        data[4 * place : 4 * place + 4] = struct.pack(f"{order}i", value)
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(file, act_fn="gelu_new")
    assert str(caught.value).startswith(str(file))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("length", [4, 100, 1024, 5000, -1])
def test_truncated_files(tmp_path, length):
    file = write_model(tmp_path / "m.bin", random_state())
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="copy it again"):
        read_checkpoint(file, act_fn="gelu_new")


def test_tokens_are_no_model(tmp_path):
    np.arange(5000, dtype=np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(CheckpointError, match=r"train\.bin is not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "train.bin")
