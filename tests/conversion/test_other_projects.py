"""Checkpoints of minGPT and build-nanogpt, and which GELU is believed: the one that the user names, said aloud."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass

import pytest
import torch

from conversion import CheckpointError, read_checkpoint
from tests.making import content, random_state, write


@dataclass
class GPTConfig:
    """build-nanogpt's."""

    block_size: int = 12
    vocab_size: int = 65
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 16


@dataclass
class NewerConfig(GPTConfig):
    """nanoGPT's own, which has two fields more."""

    dropout: float = 0.0
    bias: bool = True


class CfgNode:
    """minGPT's."""

    def __init__(self, **entries):
        self.__dict__.update(entries)


MINGPT = {"n_layer": 2, "n_head": 4, "n_embd": 16, "vocab_size": 65, "block_size": 12} | dict.fromkeys(
    ("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.1
)


def with_masks(state):
    """The tensors in minGPT's order, with its causal masks."""
    mask = torch.ones(12, 12).tril().view(1, 1, 12, 12)
    return {**state, **{f"transformer.h.{layer}.attn.bias": mask for layer in range(2)}}


def build_nanogpt(config=None):
    return {"model": random_state(), "config": config or GPTConfig(), "step": 19072, "val_loss": 3.0625}


def test_build_nanogpt(tmp_path):
    write(tmp_path, build_nanogpt())
    (tmp_path / "ckpt.pt").rename(tmp_path / "model_19072.pt")
    read = read_checkpoint(tmp_path / "model_19072.pt", act_fn="gelu_new")
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in random_state().items())
    assert (read.config.n_head, read.config.act_fn, read.iter_num, read.best_val_loss) == (4, "gelu_new", 19072, 3.0625)


def test_mingpt_with_the_config_that_it_leaves_beside_the_model(tmp_path):
    torch.save(with_masks(random_state()), tmp_path / "model.pt")
    config = {"system": {"seed": 1, "work_dir": "out"}, "model": {"model_type": None, **MINGPT}, "trainer": {"lr": 0.1}}
    (tmp_path / "config.json").write_text(json.dumps(config, indent=4))
    read = read_checkpoint(tmp_path / "model.pt", act_fn="gelu_new")
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in random_state().items())
    assert (read.config.n_head, read.config.dropout) == (4, 0.1)
    assert "dropped 2 causal mask buffers" in read.notes


@pytest.mark.parametrize(("kind", "n_head"), [("gpt-nano", 3), ("gpt-micro", 4), ("gpt-mini", 6)])
def test_mingpt_with_the_name_of_its_model_alone(tmp_path, kind, n_head):
    """chargpt.py writes its config.json before GPT() fills in what the name stands for."""
    torch.save(random_state(n_embd=12), tmp_path / "model.pt")
    sizes = {**MINGPT, "model_type": kind, "n_layer": None, "n_head": None, "n_embd": None}
    (tmp_path / "config.json").write_text(json.dumps({"model": sizes}))
    assert read_checkpoint(tmp_path / "model.pt", act_fn="gelu_new").config.n_head == n_head


def test_a_bare_state_dict_needs_n_head(tmp_path):
    write(tmp_path, with_masks(random_state()))
    with pytest.raises(CheckpointError, match=r"no shape shows how many heads.*give n_head=\.\.\. \(--n-head\)"):
        read_checkpoint(tmp_path, act_fn="gelu_new")
    assert read_checkpoint(tmp_path, act_fn="gelu_new", n_head=4).config.n_head == 4
    with pytest.raises(CheckpointError, match="n_head'\\] is 5, which does not divide"):
        read_checkpoint(tmp_path, act_fn="gelu_new", n_head=5)


def test_n_head_that_contradicts_model_args(tmp_path):
    write(tmp_path)
    with pytest.raises(CheckpointError, match="n_head=4 was given, and model_args has n_head 2"):
        read_checkpoint(tmp_path, n_head=4)
    assert read_checkpoint(tmp_path, n_head=2).config.n_head == 2


@pytest.mark.parametrize(
    ("what", "options", "whose"),
    [
        (build_nanogpt(), {}, "build-nanogpt"),
        (build_nanogpt(CfgNode(**MINGPT)), {}, "minGPT"),
        (with_masks(random_state()), {"n_head": 4}, "minGPT"),
    ],
    ids=["build-nanogpt", "a CfgNode", "masks alone"],
)
def test_the_tanh_gelu_of_another_project_is_said_aloud(tmp_path, what, options, whose):
    write(tmp_path, what)
    with pytest.warns(UserWarning, match=rf"form of {whose}.*tanh GELU.*act_fn='gelu_new' \(--act-fn gelu_new\)"):
        read = read_checkpoint(tmp_path, **options)
    assert read.config.act_fn == "gelu"  # what was not asked for is not done
    assert any("tanh GELU" in note for note in read.notes)  # the certificate shows it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_checkpoint(tmp_path, act_fn="gelu", **options).config.act_fn == "gelu"
        assert read_checkpoint(tmp_path, act_fn="gelu_new", **options).config.act_fn == "gelu_new"


SILENT = [content(), build_nanogpt(NewerConfig()), {"model": random_state(), "args": {"n_head": 2}}]


@pytest.mark.parametrize("what", SILENT, ids=["nanoGPT", "its own config", "a namespace"])
def test_nanogpt_itself_is_read_in_silence(tmp_path, what):
    write(tmp_path, what)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_checkpoint(tmp_path).config.act_fn == "gelu"


@pytest.mark.parametrize("name", ["activation_function", "activation", "act_fn"])
@pytest.mark.parametrize("value", ["gelu_new", "gelu_pytorch_tanh", "GELU_tanh"])
def test_a_gelu_that_the_file_names_is_believed_when_told(tmp_path, name, value):
    config = {**NewerConfig().__dict__, name: value}
    write(tmp_path, {"model": random_state(), "config": config})
    with pytest.raises(CheckpointError, match=r"act_fn 'gelu_new' \(config names it\), and 'gelu' was asked for"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path, act_fn="gelu_new").config.act_fn == "gelu_new"
    write(tmp_path, {"model": random_state(), "config": {**config, name: "relu"}})
    with pytest.raises(CheckpointError, match="='relu', which is another architecture"):
        read_checkpoint(tmp_path)
