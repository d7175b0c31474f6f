"""Safetensors in several files: equal to the one file, and refused in one sentence where the index is wrong."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conversion import CheckpointError, read_checkpoint, to_huggingface
from conversion.layout import to_hooked_layout
from tests.conversion.test_safetensors import ARGS, TRANSFORMER_LENS, folder_of
from tests.making import content, random_state, write

INDEX = "model.safetensors.index.json"


def shard_name(i, n):
    return f"model-{i + 1:05d}-of-{n:05d}.safetensors"


def sharded(folder, state, *, n=3, config=ARGS, metadata=None, about=None):
    """The tensors in turn in `n` files, and their index."""
    folder.mkdir(exist_ok=True)
    names = sorted(state)
    for i in range(n):
        part = {name: state[name].clone().contiguous() for name in names[i::n]}
        save_file(part, folder / shard_name(i, n), metadata=metadata)
    weight_map = {name: shard_name(i % n, n) for i, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"metadata": about or {"total_size": 1}, "weight_map": weight_map}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def change_index(folder, **changes):
    """Write other files into the index's map, or leave a name out (None)."""
    index = json.loads((folder / INDEX).read_text())
    for name, file in changes.items():
        index["weight_map"][name] = file
        if file is None:
            del index["weight_map"][name]
    (folder / INDEX).write_text(json.dumps(index))


def same(one, other):
    assert one.config == other.config
    assert one.state_dict.keys() == other.state_dict.keys()
    assert all(torch.equal(one.state_dict[name], tensor) for name, tensor in other.state_dict.items())
    assert one.config.tied == (one.state_dict["lm_head.weight"] is one.state_dict["transformer.wte.weight"])
    return True


@pytest.mark.parametrize("n", [1, 2, 7, 29])
def test_shards_are_the_one_file(tmp_path, n):
    whole = read_checkpoint(folder_of(tmp_path / "one", random_state(), ARGS))
    parts = read_checkpoint(sharded(tmp_path / "many", random_state(), n=n))
    assert same(parts, whole)
    n_files = len(list((tmp_path / "many").glob("model-*")))
    assert f"read from safetensors in {n_files} files" in parts.notes
    assert same(read_checkpoint(tmp_path / "many" / INDEX), whole)


@pytest.mark.parametrize("bias", [True, False])
def test_what_hugging_face_writes(tmp_path, bias):
    """GPT-2 as `save_pretrained` cuts it; its tied head is in none of the files."""
    checkpoint = read_checkpoint(write(tmp_path / "a", content(bias=bias, n_head=4)))
    to_huggingface(checkpoint, tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    model.save_pretrained(tmp_path / "cut", max_shard_size="8KB")
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert same(read_checkpoint(tmp_path / "cut"), checkpoint)


def test_tensors_of_transformer_lens(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a", n_head=4))
    state = to_hooked_layout(dict(checkpoint.state_dict), checkpoint.config)
    assert same(read_checkpoint(sharded(tmp_path / "m", state, config=TRANSFORMER_LENS)), checkpoint)


def test_a_head_that_another_file_has(tmp_path):
    """A name that saving left out, because a tensor of another file is the same; metadata say so in every file."""
    state = random_state()
    del state["lm_head.weight"]
    metadata = {"lm_head.weight": "transformer.wte.weight", "config": json.dumps(ARGS), "step": "5"}
    read = read_checkpoint(sharded(tmp_path / "m", state, config=None, metadata=metadata))
    assert read.config.tied
    assert (read.iter_num, read.config.n_head) == (5, 4)


def test_files_are_symbolic_links_in_a_cache_of_hugging_face(tmp_path):
    folder = sharded(tmp_path / "m", random_state())
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.glob("model-*"))):
        shutil.move(file, blobs / str(i))
        file.symlink_to(f"../blobs/{i}")
    assert same(read_checkpoint(folder), read_checkpoint(folder_of(tmp_path / "one", random_state(), ARGS)))


def test_the_hash_is_that_of_all_files(tmp_path):
    folder = sharded(tmp_path / "m", random_state())
    read = read_checkpoint(folder)
    files = [folder / INDEX, *(folder / shard_name(i, 3) for i in range(3))]
    assert read.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert read.shards == tuple(files[1:])
    again = read_checkpoint(folder)
    last = load_file(files[-1])
    save_file({name: tensor + 1 for name, tensor in last.items()}, files[-1])
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.safetensors has changed since it was read"):
        _ = again.sha256
    assert read_checkpoint(folder).sha256 != read.sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / shard_name(1, 3)).unlink(), "has no model-00002-of-00003.safetensors, which .* names"),
        (
            lambda f: (f / shard_name(1, 3)).write_bytes(b"x" * 99),
            "00002-of-00003.safetensors is not a safetens",
        ),
        (
            lambda f: change_index(f, **{"transformer.wte.weight": shard_name(0, 3)}),
            "00001-of-00003.safetensors has no tensor transformer.wte.weight, which .* says is in it",
        ),
        (
            lambda f: change_index(f, **{"transformer.wte.bias": shard_name(0, 3)}),
            "has no tensor transformer.wte.bias",
        ),
        (
            lambda f: save_file(
                {**load_file(f / shard_name(0, 3)), **load_file(f / shard_name(2, 3))}, f / shard_name(2, 3)
            ),
            "00003-of-00003.safetensors has .* and [0-9]+ more, which .* says is in model-00001-of-00003",
        ),
        (
            lambda f: change_index(f, **{"transformer.wte.weight": None}),
            "has transformer.wte.weight, which .* does",
        ),
        (
            lambda f: (f / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'),
            "'a' is there twice",
        ),
        (
            lambda f: save_file(load_file(f / shard_name(1, 3)), f / shard_name(1, 3), metadata={"format": "other"}),
            "has other metadata under 'format'",
        ),
        (lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), "has no weight_map"),
        (lambda f: (f / INDEX).write_text("[1]"), "cannot be read .TypeError: a list"),
        (lambda f: (f / INDEX).write_text("["), "cannot be read .JSONDecodeError"),
        (lambda f: (f / INDEX).write_text("[" * 10**5), "cannot be read"),
        (lambda f: (f / INDEX).write_text(" " * 2**22 + "{}"), "cannot be read .ValueError: 4,194,306 bytes"),
        (lambda f: (f / INDEX).write_bytes(b"\xff{}"), "cannot be read .UnicodeDecodeError"),
        (lambda f: change_index(f, **{"transformer.wte.weight": 3}), "is in 3; expected the name of a file beside it"),
        (lambda f: change_index(f, **{"transformer.wte.weight": "no\nfile"}), r"has no no\\nfile"),
        (lambda f: change_index(f, **{"transformer.wte.weight": "\U0001f600" * 190}), "has no \U0001f600"),
    ],
)
def test_an_index_that_is_wrong(tmp_path, change, words):
    folder = sharded(tmp_path / "m", random_state(), metadata={"format": "pt"})
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(folder)
    said = str(caught.value)
    assert said.isprintable()
    assert said.startswith(str(folder))
    assert said.count(". ") == 0


@pytest.mark.parametrize(
    "place",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "sub/../../secret.safetensors",
        "sub/model.safetensors",
        "..\\secret.safetensors",
        "model\x00.safetensors",
        "[" * 300,
        "\ud800.safetensors",
        "{absolute}",
    ],
)
def test_an_index_names_no_other_place(tmp_path, place):
    """Also where such a file is there, and has the very tensor."""
    folder = sharded(tmp_path / "m", random_state())
    (folder / "sub").mkdir()
    secret = {"transformer.wte.weight": torch.zeros(65, 16)}
    for file in (tmp_path / "secret.safetensors", folder / "sub" / "model.safetensors"):
        save_file(secret, file)
    change_index(folder, **{"transformer.wte.weight": place.format(absolute=tmp_path / "secret.safetensors")})
    with pytest.raises(CheckpointError, match="transformer.wte.weight is in .*expected the name of a file beside it"):
        read_checkpoint(folder)


def test_one_file_of_several_is_not_the_model(tmp_path):
    folder = sharded(tmp_path / "m", random_state())
    with pytest.raises(CheckpointError, match="is one of 3 files .*give the folder, or its model.safetensors.index"):
        read_checkpoint(folder / shard_name(0, 3))
