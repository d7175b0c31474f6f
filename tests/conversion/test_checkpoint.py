"""Reading and writing nanoGPT's files."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from conversion import GPT, CheckpointError, read_checkpoint, save_checkpoint, to_bridge, to_hooked_transformer
from conversion.backends import resolve_backend
from conversion.fast_tokenizer import tokenizer_for
from conversion.state import canonical_state
from tests.making import CHARS, content, random_state, write, write_meta


def test_golden_checkpoints_are_read_whole(golden):
    raw = torch.load(golden.folder / "ckpt.pt", weights_only=True)
    checkpoint = golden.checkpoint
    masks = [k for k in raw["model"] if k.endswith(".attn.bias") and raw["model"][k].dim() == 4]
    assert {k.removeprefix("_orig_mod.") for k in raw["model"] if k not in masks} == set(checkpoint.state_dict)
    for name, tensor in raw["model"].items():
        if name not in masks:
            assert torch.equal(tensor, checkpoint.state_dict[name.removeprefix("_orig_mod.")])
    assert checkpoint.iter_num == 123
    assert checkpoint.best_val_loss == 1.5
    assert checkpoint.config.tied
    assert checkpoint.sha256 == hashlib.sha256((golden.folder / "ckpt.pt").read_bytes()).hexdigest()


def test_file_and_folder_are_the_same(tmp_path):
    file = write(tmp_path)
    assert read_checkpoint(file).path == read_checkpoint(tmp_path).path == file


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "_orig_mod._orig_mod.module."]
)
def test_prefixes_in_any_order_and_number(tmp_path, prefix):
    state = random_state()
    write(tmp_path, content({prefix + k: v for k, v in state.items()}))
    read = read_checkpoint(tmp_path)
    assert all(torch.equal(read.state_dict[k], v) for k, v in state.items())
    assert list(read.state_dict) == list(state)


def test_a_dropped_tied_head_is_restored_and_tied(tmp_path):
    state = random_state()
    del state["lm_head.weight"]
    write(tmp_path, content(state))
    read = read_checkpoint(tmp_path)
    assert read.state_dict["lm_head.weight"] is read.state_dict["transformer.wte.weight"]
    assert "restored the tied lm_head.weight" in read.notes


def test_an_untied_head_is_kept(tmp_path):
    state = random_state()
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    write(tmp_path, content(state))
    read = read_checkpoint(tmp_path)
    assert not read.config.tied
    assert torch.equal(read.state_dict["lm_head.weight"], state["lm_head.weight"])
    assert read.n_params == read.without_weights().n_params == sum(v.numel() for v in state.values())


def test_masks_are_dropped_only_if_causal(tmp_path):
    state = random_state()
    mask = torch.ones(12, 12).tril().view(1, 1, 12, 12)
    write(tmp_path, content(state | {f"transformer.h.{i}.attn.bias": mask for i in range(2)}))
    read = read_checkpoint(tmp_path)
    assert set(read.state_dict) == set(state)
    wrong = mask.clone()
    wrong[0, 0, 0, 5] = 1
    write(tmp_path, content(state | {"transformer.h.1.attn.bias": wrong}))
    with pytest.raises(CheckpointError, match=r"transformer\.h\.1\.attn\.bias.*not a causal mask"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("bias", [True, False])
def test_bias_is_found_from_the_tensors(tmp_path, bias):
    stored = content(bias=bias)
    del stored["model_args"]["bias"]  # as before nanoGPT had the option
    write(tmp_path, stored)
    assert read_checkpoint(tmp_path).config.bias is bias


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_that_contradicts_the_tensors_is_refused(tmp_path, bias):
    stored = content(bias=bias)
    stored["model_args"]["bias"] = not bias
    write(tmp_path, stored)
    with pytest.raises(CheckpointError, match=f"model_args\\['bias'\\] is {not bias}"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_read_in_their_own_precision(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    read = read_checkpoint(tmp_path)
    assert read.dtype == dtype
    assert all(t.dtype == dtype for t in read.state_dict.values())


def test_without_optimizer_config_and_counters(tmp_path):
    stored = content()
    write(tmp_path, {"model": stored["model"], "model_args": stored["model_args"]})
    read = read_checkpoint(tmp_path)
    assert (read.iter_num, read.best_val_loss, dict(read.run_config)) == (None, None, {})


def test_the_old_file_format_is_read(tmp_path):
    torch.save(content(), tmp_path / "ckpt.pt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path).iter_num == 7


def test_reading_changes_nothing(tmp_path):
    file = write(tmp_path)
    before = file.read_bytes()
    state = {"_orig_mod." + k: v for k, v in random_state().items()}
    copies = {k: v.clone() for k, v in state.items()}
    _, own, _ = canonical_state(state, content()["model_args"])
    own["transformer.wte.weight"].fill_(0)
    assert list(state) == list(copies)
    assert all(torch.equal(state[k], copies[k]) for k in copies)
    read = read_checkpoint(tmp_path)
    read.state_dict["transformer.wpe.weight"].fill_(0)
    assert file.read_bytes() == before


def test_the_hash_is_of_what_was_read(tmp_path):
    write(tmp_path, seed=1)
    read = read_checkpoint(tmp_path)
    time.sleep(0.01)
    write(tmp_path, seed=2)
    with pytest.raises(CheckpointError, match="changed since it was read"):
        _ = read.sha256


def test_unknown_model_args_are_refused_unless_ignored(tmp_path):
    write(tmp_path, content() | {"model_args": content()["model_args"] | {"use_rope": True}})
    with pytest.raises(CheckpointError, match="use_rope=True.*another architecture.*ignore_model_args"):
        read_checkpoint(tmp_path)
    read = read_checkpoint(tmp_path, ignore_model_args=["use_rope"])
    assert read.model_args["use_rope"] is True
    assert "ignored model_args use_rope=True" in read.notes


class TestVocabularyIsFound:
    def test_beside_the_checkpoint(self, tmp_path):
        write_meta(tmp_path)
        write(tmp_path)
        assert read_checkpoint(tmp_path).vocabulary.chars == tuple(CHARS)

    def test_in_the_data_folder_of_a_parent(self, tmp_path):
        write_meta(tmp_path / "data" / "tiny")
        assert read_checkpoint(write(tmp_path / "runs" / "out")).vocabulary.size == 65

    def test_in_the_data_folder_of_the_working_directory(self, tmp_path, monkeypatch):
        write_meta(tmp_path / "cwd" / "data" / "tiny")
        file = write(tmp_path / "elsewhere")
        assert read_checkpoint(file).vocabulary is None
        monkeypatch.chdir(tmp_path / "cwd")
        assert read_checkpoint(file).vocabulary.size == 65

    def test_where_it_is_given(self, tmp_path):
        meta = write_meta(tmp_path / "other", "abc")
        assert read_checkpoint(write(tmp_path / "out"), meta=meta).vocabulary.chars == ("a", "b", "c")

    @pytest.mark.parametrize("dataset", ["../secret", "/etc"])
    def test_never_outside_a_data_folder(self, tmp_path, dataset):
        write_meta(tmp_path / "secret")
        file = write(tmp_path / "out", content() | {"config": {"dataset": dataset}})
        assert read_checkpoint(file).vocabulary is None


class OriginalNames(nn.Module):
    """The module tree of nanoGPT's model.py, for a strict load as its sample.py does it."""

    def __init__(self, n_layer, n_head, n_embd, block_size, vocab_size, bias, dropout):
        super().__init__()

        def block():
            attn, mlp = nn.Module(), nn.Module()
            attn.c_attn, attn.c_proj = nn.Linear(n_embd, 3 * n_embd, bias=bias), nn.Linear(n_embd, n_embd, bias=bias)
            mlp.c_fc, mlp.c_proj = nn.Linear(n_embd, 4 * n_embd, bias=bias), nn.Linear(4 * n_embd, n_embd, bias=bias)
            b = nn.Module()
            b.ln_1, b.attn, b.ln_2, b.mlp = nn.LayerNorm(n_embd, bias=bias), attn, nn.LayerNorm(n_embd, bias=bias), mlp
            return b

        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList([block() for _ in range(n_layer)]),
                "ln_f": nn.LayerNorm(n_embd, bias=bias),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight


def test_what_is_saved_loads_as_the_original_loads_it(golden, tmp_path):
    file = save_checkpoint(golden.checkpoint, tmp_path / "out")
    stored = torch.load(file, weights_only=True)
    model = OriginalNames(**stored["model_args"])
    model.load_state_dict(stored["model"], strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, golden.checkpoint.state_dict[name])
    assert stored["config"]["dataset"] == golden.checkpoint.run_config["dataset"]
    assert stored["model"]["lm_head.weight"].data_ptr() == stored["model"]["transformer.wte.weight"].data_ptr()


def test_reading_what_was_saved_gives_the_same(tmp_path):
    write_meta(tmp_path)
    first = read_checkpoint(write(tmp_path), optimizer=True)
    again = read_checkpoint(save_checkpoint(first, tmp_path / "again"), optimizer=True)
    assert replace(again, state_dict={}, path=None, vocabulary=None, _stamps=()) == replace(
        first, state_dict={}, path=None, vocabulary=None, _stamps=()
    )
    assert again.vocabulary.chars == first.vocabulary.chars
    assert all(torch.equal(again.state_dict[k], v) for k, v in first.state_dict.items())


def test_the_tanh_gelu_is_not_forgotten(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a"), act_fn="gelu_new")
    save_checkpoint(checkpoint, tmp_path / "b")
    with pytest.raises(CheckpointError, match="saved with act_fn 'gelu_new', and 'gelu' was asked for"):
        read_checkpoint(tmp_path / "b")
    assert read_checkpoint(tmp_path / "b", act_fn="gelu_new").config.act_fn == "gelu_new"


def test_no_stale_vocabulary_is_left_beside_a_new_checkpoint(tmp_path):
    from conversion import TokenizerVocabulary

    write_meta(tmp_path / "a", "abcde")
    with_chars = read_checkpoint(write(tmp_path / "a"))
    without = replace(with_chars, vocabulary=None)
    save_checkpoint(with_chars, tmp_path / "out")
    with pytest.raises(CheckpointError, match="has a meta.pkl, which would be taken for this checkpoint's"):
        save_checkpoint(without, tmp_path / "out")
    serialized = tokenizer_for(with_chars.vocabulary, n_ctx=9, d_vocab=65).backend_tokenizer.to_str()
    save_checkpoint(replace(with_chars, vocabulary=TokenizerVocabulary(serialized)), tmp_path / "out")
    assert not (tmp_path / "out" / "meta.pkl").exists()
    assert save_checkpoint(without, tmp_path / "out" / "other.pt").is_file()


def test_two_writers_never_publish_a_torn_file(tmp_path):
    write(tmp_path, n_embd=64, n_layer=4)
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline()  # both write from here on
        end = time.time() + 1
        reads = 0
        while time.time() < end or not reads:
            read_checkpoint(tmp_path)
            reads += 1
        assert [writer.poll() for writer in writers] == [None, None]  # neither fell over the other
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


_WRITER = """
import sys, torch
from dataclasses import replace
from conversion import read_checkpoint, save_checkpoint
checkpoint = read_checkpoint(sys.argv[1])
for i in range(10_000):
    for tensor in checkpoint.state_dict.values():
        tensor.fill_(float(i % 100))
    save_checkpoint(replace(checkpoint, iter_num=i), sys.argv[1])
    print(i, flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path):
    """Every kill leaves one that was written whole: all its weights are those of its iteration."""
    write(tmp_path, n_embd=64, n_layer=4)
    rng = random.Random(0)
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline()  # it has begun to overwrite
        time.sleep(rng.random() * 0.3)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        read = read_checkpoint(tmp_path)
        values = {float(v) for tensor in read.state_dict.values() for v in (tensor.min(), tensor.max())}
        assert values == {float(read.iter_num % 100)}
    left = [p.name for p in Path(tmp_path).iterdir() if p.name != "ckpt.pt"]
    assert all(name.startswith(".ckpt.pt.") and name.endswith(".tmp") for name in left)


def test_what_a_writer_left_that_was_killed_long_ago_is_deleted(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a"))
    out = tmp_path / "out"
    save_checkpoint(checkpoint, out)
    old, new, other = (out / f".ckpt.pt.{name}.tmp" for name in ("0123456789ab", "ba9876543210", "mine"))
    for file in (old, new, other):
        file.write_bytes(b"half")
    (out / ".ckpt.pt.aaaaaaaaaaaa.tmp").mkdir()
    for file in (old, other, out / ".ckpt.pt.aaaaaaaaaaaa.tmp"):
        os.utime(file, (0, 0))
    save_checkpoint(checkpoint, out)
    assert {file.name for file in out.glob(".*")} == {new.name, other.name}
    assert read_checkpoint(out).iter_num == 7


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_remembers_how_many_weights_it_was_made_from(tmp_path, bias):
    """A conversion consumes the tensors; the number stays that of the native model."""
    write(tmp_path, bias=bias)
    checkpoint = read_checkpoint(tmp_path)
    expected = sum(parameter.numel() for parameter in GPT(checkpoint.config).parameters())  # a tied head once
    convert = to_hooked_transformer if resolve_backend("auto") == "hooked" else to_bridge
    model = convert(checkpoint, consume=True)
    assert model.nanogpt_origin.n_params == checkpoint.n_params == expected > 1000


@pytest.mark.parametrize(
    ("chars", "tokens", "noted"), [(13, 13, False), (13, 16, False), (13, 64, False), (13, 65, True), (8, 13, True)]
)
def test_a_vocabulary_that_is_not_the_models_size_rounded_up_is_noted(tmp_path, chars, tokens, noted):
    write(tmp_path, vocab_size=tokens)
    write_meta(tmp_path, "".join(map(chr, range(97, 97 + chars))))
    notes = read_checkpoint(tmp_path).notes
    said = f"the vocabulary has {chars} tokens and the model {tokens}, which is not that rounded up"
    assert any(note.startswith(said) for note in notes) == noted
