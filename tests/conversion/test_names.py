"""Names that wrappers gave to tensors: prefixes, parts in the middle, and hints that are given after a look."""

from __future__ import annotations

import itertools

import pytest
import torch

from conversion import CheckpointError, read_checkpoint
from tests.making import content, random_state, write


def renamed(change):
    return {change(name): tensor for name, tensor in random_state().items()}


def block(name, wrapper):
    """The name with a wrapper around each block, or around the module in it that is named."""
    parts = name.split(".")
    if parts[0] != "transformer" or parts[1] != "h":
        return name
    place, wrapper = wrapper
    return ".".join([*parts[:place], wrapper, *parts[place:]])


PREFIXES = ["model.", "net.", "module.", "_orig_mod.", "_forward_module.", "gpt.model.", "transformer.net."]


def same(read):
    state = random_state()
    assert list(read.state_dict) == list(state)
    return all(torch.equal(read.state_dict[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("pair", itertools.permutations(PREFIXES, 2), ids="".join)
def test_prefixes_of_all_names_in_any_order(tmp_path, pair):
    read = read_checkpoint(write(tmp_path, content(renamed(lambda name: "".join(pair) + name))))
    assert same(read)
    assert any(note.startswith("stripped ") for note in read.notes)


@pytest.mark.parametrize(
    "wrapper",
    [
        (3, "_checkpoint_wrapped_module"),
        (3, "_fsdp_wrapped_module"),
        (3, "_fsdp_wrapped_module._checkpoint_wrapped_module"),
        (3, "_orig_mod"),
        (4, "_fpw_module"),
        (4, "module"),
        (1, "_fsdp_wrapped_module"),
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", ["", "model.", "_fsdp_wrapped_module."])
def test_wrappers_inside_names(tmp_path, wrapper, prefix):
    write(tmp_path, content(renamed(lambda name: prefix + block(name, wrapper))))
    assert same(read_checkpoint(tmp_path))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "net"])
def test_other_keys_of_the_tensors(tmp_path, key):
    stored = content()
    lightning = {
        key: {f"model.{name}": tensor for name, tensor in stored["model"].items()},
        "hyper_parameters": stored["model_args"],
        "global_step": 11,
        "epoch": 2,
        "pytorch-lightning_version": "2.5.0",
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0)}},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
    }
    read = read_checkpoint(write(tmp_path, lightning))
    assert same(read)
    assert read.iter_num == 11


def test_a_prefix_that_only_some_names_have_is_not_stripped(tmp_path):
    write(tmp_path, content(renamed(lambda n: n if n.endswith("ln_f.weight") else f"model.{n}")))
    with pytest.raises(CheckpointError, match=r"unexpected.*begin with model\. but for transformer\.ln_f\.weight"):
        read_checkpoint(tmp_path)


def nested(stored):
    return {
        "in a dictionary": {"checkpoint": stored, "time": 3},
        "under model": {**stored, "model": {"state_dict": stored["model"]}},
        "beside the tensors": {**stored["model"], "model_args": stored["model_args"], "iter_num": 7},
        "parameters": {**stored, "model": {n: torch.nn.Parameter(t) for n, t in stored["model"].items()}},
    }


@pytest.mark.parametrize("kind", nested(content()))
def test_tensors_deeper_or_higher_than_usual(tmp_path, kind):
    read = read_checkpoint(write(tmp_path, nested(content())[kind]))
    assert same(read)
    assert (read.config.n_head, read.iter_num) == (2, 7)


def test_a_head_outside_the_prefix(tmp_path):
    write(
        tmp_path, content(renamed(lambda n: n if n.startswith("lm_head") else f"gpt.{n.removeprefix('transformer.')}"))
    )
    assert same(read_checkpoint(tmp_path))


def test_two_models_in_one_state_dict(tmp_path):
    both = renamed(lambda name: f"model.{name}") | renamed(lambda name: f"ema.{name}")
    write(tmp_path, content(both))
    with pytest.raises(CheckpointError, match=r"2 token embeddings \(ema\.\.\.\.wte\.weight, model\.\.\.\.wte"):
        read_checkpoint(tmp_path)


def test_tensors_of_two_models_under_two_keys(tmp_path):
    stored = content()
    write(tmp_path, {"student": stored["model"], "teacher": stored["model"], "model_args": stored["model_args"]})
    # one object under two names is one model
    assert same(read_checkpoint(tmp_path))
    write(tmp_path, {"student": random_state(), "teacher": random_state(seed=1), "model_args": stored["model_args"]})
    with pytest.raises(CheckpointError, match=r"several models \(student, teacher\)"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n.replace("wpe", "pos_emb"), "the positions may be transformer.pos_emb.weight"),
        (lambda n: n.replace("wpe.weight", "rotary.inv_freq"), "rotary"),
        (lambda n: n.replace("transformer.wpe.weight", "transformer.h.0.attn.freqs_cis"), "freqs_cis this is a rotary"),
        (lambda n: n.replace("ln_1.weight", "rms_1.gain"), "rms_1.gain speaks for RMSNorm"),
        (lambda n: n.replace("transformer.", "decoder/"), "the positions may be decoder/wpe.weight"),
        (lambda n: f"tensor {hash(n)}", "its names begin with tensor .*rename the tensors"),
        (lambda n: n.replace("wte", "tok"), "missing .*wte"),
        (lambda n: f"blocks.0.hook_{n}".replace("wte", "tok").replace("c_attn", "x"), "TransformerLens state dict"),
        (
            lambda n: n.replace("mlp.c_fc.weight", "_fsdp_wrapped_module._flat_param").replace("wpe", "p"),
            "FSDP's flat parameters; save a full",
        ),
        (lambda n: n.replace("weight", "lora_A.weight").replace("wpe", "p"), "LoRA's matrices; merge them"),
        (lambda n: n.replace("transformer.h", "model.layers").replace("wpe", "p"), "looks like a Llama-style model"),
        (lambda n: n.replace("attn.c_attn", "attn.c_q").replace("wpe", "p"), "looks like modded-nanoGPT or nanochat"),
        (lambda n: n.replace("wpe", "place"), "without transformer.wpe.weight, or any other name for positions"),
    ],
)
def test_hints_name_what_speaks_for_them(tmp_path, change, words):
    write(tmp_path, content(renamed(change)))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path)


def test_no_hint_at_rotary_positions_where_there_are_learned_ones(tmp_path):
    state = renamed(lambda name: f"model.{name}")
    del state["model.transformer.h.0.ln_1.weight"]
    write(tmp_path, content(state))
    with pytest.raises(CheckpointError, match="missing") as caught:
        read_checkpoint(tmp_path)
    assert "another architecture" not in str(caught.value)


def test_tensors_that_are_copies_of_one_another_are_no_model(tmp_path):
    """A few numbers on disk that would be a hundred thousand times as many in memory."""
    state = {name: torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape) for name, tensor in random_state().items()}
    sizes = {"vocab_size": 2**20, "n_embd": 16}
    state["transformer.wte.weight"] = torch.zeros(1).expand(2**20, 16)
    write(tmp_path, content(state, **sizes) | {"model": state})
    with pytest.raises(CheckpointError, match="repeats the 1 numbers of its storage"):
        read_checkpoint(tmp_path)
    row = torch.zeros(2**18)
    state = {name: row[: tensor.numel()].view(tensor.shape) for name, tensor in random_state(n_embd=64).items()}
    write(tmp_path, content(state, n_embd=64, n_layer=40) | {"model": state | {f"x{i}": row for i in range(40)}})
    with pytest.raises(CheckpointError, match="each other's copies"):
        read_checkpoint(tmp_path)
