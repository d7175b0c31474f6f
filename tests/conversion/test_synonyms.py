"""Other names for nanoGPT's sizes: read where they mean one thing, said in a note, and refused where two differ."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from conversion import CheckpointError, read_checkpoint
from tests.conversion.test_safetensors import folder_of
from tests.making import content, random_state, write

CANONICAL = {"n_layer": 2, "n_head": 4, "n_embd": 16, "block_size": 12, "vocab_size": 65}
OTHERS = {
    "plural": {"n_layers": 2, "n_heads": 4, "n_embd": 16, "block_size": 12, "vocab_size": 65},
    "transformer_lens": {
        "n_layers": 2, "n_heads": 4, "d_model": 16, "n_ctx": 12, "d_vocab": 65, "d_mlp": 64, "d_head": 4,
    },
    "hugging_face": {
        "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16, "max_position_embeddings": 12,
        "vocab_size": 65, "intermediate_size": 64, "num_key_value_heads": 4,
    },
    "num": {"num_layers": 2, "num_heads": 4, "embed_dim": 16, "n_ctx": 12, "n_vocab": 65, "d_ff": 64, "head_dim": 4},
}  # fmt: skip


def file_with(tmp_path, place, sizes):
    """A checkpoint that states its sizes in some place, and its path."""
    stored = content(n_head=4)
    del stored["model_args"]
    if place == "model_args":
        return write(tmp_path, {**stored, "model_args": sizes})
    if place == "config":
        return write(tmp_path, {**stored, "config": {"dataset": "tiny", "lr": 0.1, **sizes}})
    if place == "namespace":
        return write(tmp_path, {**stored, "args": argparse.Namespace(**sizes, batch_size=3)})
    if place == "hyper_parameters":
        return write(tmp_path, {"state_dict": stored["model"], "hyper_parameters": {"model": sizes, "lr": 1e-3}})
    tmp_path.mkdir(exist_ok=True)
    return folder_of(tmp_path / "m", random_state(), sizes)


@pytest.mark.parametrize("place", ["model_args", "config", "namespace", "hyper_parameters", "config.json"])
@pytest.mark.parametrize("names", OTHERS)
def test_they_are_the_same_sizes(tmp_path, place, names):
    read = read_checkpoint(file_with(tmp_path, place, OTHERS[names]))
    assert read.model_args | CANONICAL == read.model_args
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in random_state().items())
    (note,) = (note for note in read.notes if "other names than nanoGPT" in note)
    head = next(name for name in OTHERS[names] if name in ("n_heads", "num_attention_heads", "num_heads"))
    assert f"{head} for n_head" in note
    assert ("for n_embd" in note) == ("n_embd" not in OTHERS[names])


def test_nothing_is_said_of_nanogpts_own_names(tmp_path):
    for place in ("model_args", "config", "config.json"):
        read = read_checkpoint(file_with(tmp_path / place, place, CANONICAL))
        assert not any("other names" in note for note in read.notes)


def test_a_size_that_is_not_stated_is_read_from_shapes(tmp_path):
    read = read_checkpoint(file_with(tmp_path, "config", {"n_heads": 4}))
    assert read.model_args | CANONICAL == read.model_args


@pytest.mark.parametrize("place", ["model_args", "config", "config.json"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"n_heads": 2}, "has n_head=4 and n_heads=2, which are two names of one size; expected one value"),
        ({"num_attention_heads": 8}, "n_head=4 and num_attention_heads=8"),
        ({"d_model": 32}, "n_embd=16 and d_model=32"),
        ({"num_layers": 3}, "n_layer=2 and num_layers=3"),
        ({"n_ctx": 24}, "block_size=12 and n_ctx=24"),
        ({"d_vocab": 50257}, "vocab_size=65 and d_vocab=50257"),
    ],
    ids=str,
)
def test_two_names_that_differ(tmp_path, place, more, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(file_with(tmp_path, place, CANONICAL | more))
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).isprintable()
    same = {name: CANONICAL[own] for name, own in [(next(iter(more)), words.split("=")[0].split()[-1])]}
    read = read_checkpoint(file_with(tmp_path / "same", place, CANONICAL | same))
    assert read.config.n_head == 4
    assert not any("other names" in note for note in read.notes)


def test_two_other_names_that_differ(tmp_path):
    with pytest.raises(CheckpointError, match="n_heads=4 and num_heads=2, which are two names of one size"):
        read_checkpoint(file_with(tmp_path, "model_args", OTHERS["plural"] | {"num_heads": 2}))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"d_mlp": 32}, "d_mlp=32"),
        ({"intermediate_size": 48}, "intermediate_size=48"),
        ({"head_dim": 8}, "head_dim=8"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ({"n_heads": 3}, "does not divide n_embd 16"),
        ({"n_heads": "4"}, "expected a positive integer"),
        ({"n_heads": True}, "expected a positive integer"),
        ({"n_layers": 3}, "do not fit model_args: missing"),
        ({"max_seq_len": 12}, "max_seq_len=12"),
        ({"padded_vocab_size": 128}, "padded_vocab_size=128"),
    ],
    ids=str,
)
def test_what_nanogpt_does_not_have_is_refused_under_any_name(tmp_path, more, words):
    for place in ("model_args", "config", "config.json"):
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(file_with(tmp_path / place, place, OTHERS["plural"] | more))


def test_a_mapping_with_nanogpts_name_comes_first(tmp_path):
    """Others that have heads too, such as those of another model, are then no statement."""
    stored = {**content(n_head=4), "sae": {"n_heads": 8, "d_model": 512}}
    assert read_checkpoint(write(tmp_path / "a", stored)).config.n_head == 4
    config = {"n_heads": 8, "model": CANONICAL}
    assert read_checkpoint(folder_of(tmp_path / "b", random_state(), config)).config.n_head == 4
    twice = {"model": random_state(), "one": OTHERS["plural"], "two": OTHERS["num"] | {"num_heads": 2, "head_dim": 8}}
    with pytest.raises(CheckpointError, match="one and two state different architectures"):
        read_checkpoint(write(tmp_path / "c", twice))


@pytest.mark.parametrize("kind", ["gpt2", "nanoGPT", "gpt", None])
def test_the_type_of_a_model(tmp_path, kind):
    config = OTHERS["hugging_face"] | ({} if kind is None else {"model_type": kind})
    assert read_checkpoint(folder_of(tmp_path / "m", random_state(), config)).config.n_head == 4


def test_a_gpt2_of_hugging_face_that_has_its_other_names(tmp_path):
    """GPT2Config takes num_attention_heads for n_head, and writes n_head."""
    config = OTHERS["hugging_face"] | {"model_type": "gpt2", "transformers_version": "5.0"}
    read = read_checkpoint(folder_of(tmp_path / "m", random_state(), config))
    assert read.config.n_head == 4  # and not the 12 of the GPT-2 of that name
    own = {**CANONICAL, "n_positions": 12, "n_ctx": 12, "model_type": "gpt2", "transformers_version": "5.0"}
    del own["block_size"]
    read = read_checkpoint(folder_of(tmp_path / "own", random_state(), json.loads(json.dumps(own))))
    assert not any("other names" in note for note in read.notes)
