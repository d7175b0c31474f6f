"""The weights in the page: what is packed is the model, and a model that the engine cannot compute is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lab.packing import config_of, pack, weights_of
from tests.making import random_state, write


def unpacked(packed):
    """By name the arrays, read as a reader of the format would."""
    content = gzip.decompress(packed.bytes)
    arrays = {}
    for entry in packed.index:
        dtype, count = np.dtype(entry["dtype"]), int(np.prod(entry["shape"], initial=1))
        flat = np.frombuffer(content, dtype, count, entry["offset"])
        arrays[entry["name"]] = torch.tensor(flat.reshape(entry["shape"]))
    return arrays


@pytest.mark.parametrize("bias", [True, False])
def test_the_weights_are_nanogpts(tmp_path, bias):
    state = random_state(n_layer=2, n_head=3, n_embd=21, block_size=13, bias=bias)
    arrays = unpacked(pack(weights_of(ngl.load(write(tmp_path, n_head=3, n_embd=21, block_size=13, bias=bias)))))
    names = {
        "attn_w": "attn.c_attn",
        "proj_w": "attn.c_proj",
        "in_w": "mlp.c_fc",
        "out_w": "mlp.c_proj",
        "ln1_w": "ln_1",
        "ln2_w": "ln_2",
    }
    for layer in range(2):
        for ours, nanogpt in names.items():
            assert torch.equal(arrays[f"{layer}.{ours}"], state[f"transformer.h.{layer}.{nanogpt}.weight"])
            theirs = state.get(f"transformer.h.{layer}.{nanogpt}.bias")
            assert (theirs is None) is (f"{layer}.{ours[:-1]}b" not in arrays)
            assert theirs is None or torch.equal(arrays[f"{layer}.{ours[:-1]}b"], theirs)
    assert torch.equal(arrays["embed"], state["transformer.wte.weight"])
    assert torch.equal(arrays["pos"], state["transformer.wpe.weight"])
    assert torch.equal(arrays["lnf_w"], state["transformer.ln_f.weight"])
    assert "unembed" not in arrays


def test_an_unembedding_of_its_own_is_kept(tmp_path):
    from tests.making import content

    made = content()
    made["model"]["lm_head.weight"] = made["model"]["transformer.wte.weight"] + 1
    arrays = unpacked(pack(weights_of(ngl.load(write(tmp_path, made)))))
    assert torch.equal(arrays["unembed"], arrays["embed"] + 1)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = ngl.load(write(tmp_path))
    assert pack(weights_of(model)) == pack(weights_of(model))


def test_every_tensor_begins_where_a_float64_may():
    packed = pack({"a": torch.ones(3), "proof.0": torch.ones(2), "c": torch.ones(1, 1, dtype=torch.float64)})
    assert [entry["offset"] for entry in packed.index] == [0, 16, 32]
    assert [entry["dtype"] for entry in packed.index] == ["float32", "float64", "float32"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("act_fn", "relu", "act_fn is 'relu'"),
        ("eps", 1e-6, "eps 1e-06"),
        ("d_head", 5, "do not fill the stream"),
        ("normalization_type", "RMS", "normalises by RMS"),
    ],
)
def test_what_the_engine_cannot_compute_is_refused(tmp_path, name, value, sentence):
    model = ngl.load(write(tmp_path))
    setattr(model.cfg, name, value)
    with pytest.raises(AnalysisError, match=sentence):
        config_of(model)
