"""Safetensors files and folders: what says n_head, whose layout the tensors have, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from conversion import CheckpointError, read_checkpoint, to_huggingface
from conversion.layout import to_hooked_layout
from tests.making import content, random_state, write

ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 16, "block_size": 12, "vocab_size": 65}
TRANSFORMER_LENS = {
    "n_layers": 2,
    "d_model": 16,
    "n_ctx": 12,
    "n_heads": 4,
    "d_head": 4,
    "d_vocab": 65,
    "act_fn": "gelu",
}


def folder_of(folder, state, config=None, metadata=None):
    folder.mkdir(exist_ok=True)
    tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def is_random_state(read, **sizes):
    return all(torch.equal(read.state_dict[name], tensor) for name, tensor in random_state(**sizes).items())


@pytest.mark.parametrize(
    "config",
    [
        ARGS,
        {**ARGS, "bias": True, "dropout": 0.1},
        {"n_head": 4},
        {"model": ARGS, "trainer": {"lr": 0.1}},
        {**ARGS, "model_type": "nanogpt", "activation": "gelu"},
    ],
    ids=str,
)
def test_a_config_beside_the_file(tmp_path, config):
    read = read_checkpoint(folder_of(tmp_path / "m", random_state(), config))
    assert is_random_state(read)
    assert read.config.n_head == 4
    assert read.config.tied
    assert read_checkpoint(tmp_path / "m" / "model.safetensors").config == read.config


def test_metadata_instead_of_a_config(tmp_path):
    metadata = {"config": json.dumps(ARGS), "step": "5", "val_loss": "3.5"}
    read = read_checkpoint(folder_of(tmp_path / "m", random_state(), metadata=metadata))
    assert (read.config.n_head, read.iter_num, read.best_val_loss) == (4, 5, 3.5)


def test_n_head_is_asked_for_where_nothing_states_it(tmp_path):
    folder = folder_of(tmp_path / "m", random_state())
    with pytest.raises(CheckpointError, match=r"no config\.json.*n_head=\.\.\. \(--n-head\)"):
        read_checkpoint(folder)
    assert read_checkpoint(folder, n_head=4).config.n_head == 4
    with pytest.raises(CheckpointError, match="n_head=2 was given, and config.json has n_head 4"):
        read_checkpoint(folder_of(tmp_path / "n", random_state(), ARGS), n_head=2)


@pytest.mark.parametrize("kept", ["lm_head.weight", "transformer.wte.weight"])
def test_a_name_that_saving_left_out(tmp_path, kept):
    model = nn.Module()
    for name, tensor in random_state().items():
        module = model
        for part in name.split(".")[:-1]:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(name.split(".")[-1], nn.Parameter(tensor))
    model.lm_head.weight = model.transformer.wte.weight
    save_model(model, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(ARGS))
    read = read_checkpoint(tmp_path)
    assert is_random_state(read)
    assert read.config.tied


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_gpt2_of_hugging_face(tmp_path, bias, tied):
    stored = content(bias=bias, n_head=4)
    if not tied:
        stored["model"]["lm_head.weight"] = stored["model"]["lm_head.weight"] + 1
    checkpoint = read_checkpoint(write(tmp_path / "a", stored))
    to_huggingface(checkpoint, tmp_path / "hf")
    read = read_checkpoint(tmp_path / "hf")
    assert read.config == checkpoint.config
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in checkpoint.state_dict.items())
    torch.save(to_huggingface(checkpoint).state_dict(), tmp_path / "a" / "pytorch_model.bin")  # as it was before
    (tmp_path / "a" / "ckpt.pt").unlink()
    (tmp_path / "hf" / "config.json").rename(tmp_path / "a" / "config.json")
    assert read_checkpoint(tmp_path / "a").config == checkpoint.config


@pytest.mark.parametrize("bias", [True, False])
def test_tensors_of_transformer_lens(tmp_path, bias):
    checkpoint = read_checkpoint(write(tmp_path / "a", n_head=4, bias=bias))
    state = to_hooked_layout(dict(checkpoint.state_dict), checkpoint.config)
    state |= {f"blocks.{i}.attn.mask": torch.ones(12, 12).tril() for i in range(2)}
    read = read_checkpoint(folder_of(tmp_path / "m", state, TRANSFORMER_LENS))
    assert read.config == checkpoint.config
    assert is_random_state(read, bias=bias)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalization_type": "LNPre"}, "processed weights.*cannot be undone"),
        ({"normalization_type": "RMS"}, "normalization_type='RMS'"),
        ({"n_heads": 2, "d_head": 8}, r"the tensors have \[4\] heads, and config.json states 2"),
        ({"d_mlp": 32}, "d_mlp=32"),
        ({"eps": 1e-6}, "eps=1e-06"),
        ({"positional_embedding_type": "rotary"}, "rotary"),
        ({"n_layers": 3}, "the tensors are not those of a nanoGPT in TransformerLens"),
        ({"act_fn": "relu"}, "act_fn='relu'"),
        ({"act_fn": "gelu_new"}, "give act_fn='gelu_new'"),
        ({"n_ctx": 13}, "wrong shape .*wpe"),
        (
            {"d_vocab": None, "n_layers": "2"},
            "config.json has no n_layers, d_vocab; expected a config of TransformerLens",
        ),
        ({"n_layers": 10**9}, "config.json has n_layers 1000000000, for 38 tensors"),
        ({"n_layers": 1}, "38 tensors for 1 layers of a nanoGPT in TransformerLens"),
    ],
    ids=str,
)
def test_a_transformer_lens_that_is_no_nanogpt(tmp_path, change, words):
    checkpoint = read_checkpoint(write(tmp_path / "a", n_head=4))
    state = to_hooked_layout(dict(checkpoint.state_dict), checkpoint.config)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(folder_of(tmp_path / "m", state, TRANSFORMER_LENS | change))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama", "num_attention_heads": 4}, "type 'llama'; expected 'gpt2'"),
        ({"model_type": "gpt_neo", "n_head": 4, "transformers_version": "5"}, "type 'gpt_neo'"),
        ({**ARGS, "n_positions": 12, "n_inner": 32}, "n_inner=32"),
        ({**ARGS, "n_positions": 12, "layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
        ({**ARGS, "n_positions": 12, "activation_function": "relu"}, "activation_function='relu'"),
        ({**ARGS, "n_positions": 12, "activation_function": "gelu_new"}, "give act_fn='gelu_new'"),
        ({**ARGS, "rope_theta": 1e4}, "rope_theta"),
        ({**ARGS, "n_embd": 32}, "do not fit"),
        ({**ARGS, "n_head": "4"}, "expected a positive integer"),
        ([1], "expected a JSON object"),
        ("{" + " " * 2**24 + "}", "config.json cannot be read .ValueError: 16,777,218 bytes.; expected a JSON object"),
        ("[" * 10**5, "config.json"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_configs_of_other_models(tmp_path, config, words):
    folder = folder_of(tmp_path / "m", random_state(), config)
    if isinstance(config, str):
        (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


def test_pickled_shards_and_empty_folders(tmp_path):
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="several files.*save the model again with save_pretrained"):
        read_checkpoint(tmp_path)
    other = tmp_path / "dcp"
    other.mkdir()
    (other / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        read_checkpoint(other)


@pytest.mark.parametrize("cut", [3, 8, 100, -1])
def test_truncated_files(tmp_path, cut):
    file = folder_of(tmp_path / "m", random_state(), ARGS) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file, or is damaged"):
        read_checkpoint(file)


def test_an_unembedding_with_a_bias(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a", n_head=4))
    state = to_hooked_layout(dict(checkpoint.state_dict), checkpoint.config)
    state["unembed.b_U"] = state["unembed.b_U"] + 1
    with pytest.raises(CheckpointError, match="bias b_U that is not zero, which nanoGPT cannot express"):
        read_checkpoint(folder_of(tmp_path / "m", state, TRANSFORMER_LENS))


def test_tensors_of_transformer_lens_without_their_config(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a", n_head=4))
    folder = folder_of(tmp_path / "m", to_hooked_layout(dict(checkpoint.state_dict), checkpoint.config))
    with pytest.raises(
        CheckpointError, match="has TransformerLens' tensors and no config.json beside it; put it there"
    ):
        read_checkpoint(folder)
