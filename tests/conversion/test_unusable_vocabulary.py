"""A vocabulary that cannot be used: the checkpoint is read and proven, and text says why there is none."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion import ConversionError, VocabularyError, check_equivalence, read_checkpoint, read_vocabulary
from tests.conftest import convert
from tests.making import CHARS, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run

STOI = {char: i for i, char in enumerate(CHARS)}


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Codec:
    """What a fork might keep in its meta.pkl; its class is not there when the file is read."""

    def __init__(self) -> None:
        self.table = {"a": 0}


def unusable(folder: Path) -> dict[str, tuple[Any, str]]:
    """What stands in meta.pkl (bytes as they are), and the words that say why it is no vocabulary."""
    return {
        "its size alone": ({"vocab_size": 65}, "has vocab_size, which does not say what the ids stand for"),
        "a codec": ({"vocab_size": 65, "codec": Codec()}, "has vocab_size, codec, which does not say"),
        "tokens that are numbers": ({"stoi": {7: 0, 8: 1}, "itos": {0: 7, 1: 8}}, "a token is 7; expected text"),
        "tokens that are bytes": ({"itos": {0: b"a"}}, "a token is b'a'; expected text"),
        "one id for two texts": ({"stoi": {"a": 0, "b": 0}}, "not inverse"),
        "ids of two types": ({"stoi": {"a": 0, "b": "1"}}, "not inverse"),
        "another model's": (
            {"stoi": {chr(65 + i): i for i in range(70)}},
            "has 70 tokens, but the model has vocab_size 65",
        ),
        "a list": (["a", "b"], "has a list; expected nanoGPT's dictionary"),
        "nothing": (b"", "is not a pickle, or is damaged"),
        "half a file": (pickle.dumps({"stoi": STOI})[:-40], "is not a pickle, or is damaged"),
        "code": (Bomb(folder / "pwned"), "would run as code (nothing was executed)"),
        "code for stoi": ({"stoi": Bomb(folder / "pwned"), "itos": {}}, "mkdir"),
    }


def checkpoint_with(folder: Path, meta: Any) -> Path:
    write(folder)
    (folder / "meta.pkl").write_bytes(meta if isinstance(meta, bytes) else pickle.dumps(meta))
    return folder


@pytest.mark.parametrize("case", unusable(Path()))
def test_it_is_read_and_text_says_why(tmp_path, case):
    meta, words = unusable(tmp_path)[case]
    checkpoint = read_checkpoint(checkpoint_with(tmp_path, meta))
    assert checkpoint.vocabulary is None
    assert words in checkpoint.no_vocabulary
    assert any(words in note for note in checkpoint.notes)
    model = convert(checkpoint)
    assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 65)
    assert model.generate(torch.tensor([[1, 2]]), max_new_tokens=3, verbose=False, return_type="tokens").shape == (1, 5)
    for use in (lambda: model.to_tokens("ab"), lambda: model.to_str_tokens(torch.tensor([1])), lambda: model("ab")):
        with pytest.raises(VocabularyError) as caught:
            use()
        assert words in str(caught.value)
        assert str(tmp_path / "meta.pkl") in str(caught.value)
        assert "meta='path/to/meta.pkl'" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(VocabularyError) as caught:  # who names the file is told at once
        read_checkpoint(tmp_path, meta=tmp_path / "meta.pkl")
    assert words in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_it_is_proven(tmp_path):
    report = check_equivalence(read_checkpoint(checkpoint_with(tmp_path, {"vocab_size": 65})), edits=False)
    assert report.passed


def test_commands_that_need_no_text_work(tmp_path):
    meta, words = unusable(tmp_path)["code"]
    folder = checkpoint_with(tmp_path / "out", meta)
    code, text, err = run("info", folder)
    assert (code, err) == (0, "")
    assert f"none: {folder}/meta.pkl" in text
    assert words in text
    assert run("heads", folder, "--n", 4)[0] == 0
    code, text, err = run("sample", folder)
    assert (code, text) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "pwned").exists()


def test_a_tokenizer_json_beside_it_wins(tmp_path):
    other = read_checkpoint(checkpoint_with(tmp_path / "chars", {"stoi": STOI}))
    folder = checkpoint_with(tmp_path / "out", {"vocab_size": 65})
    other.tokenizer().save_pretrained(folder)
    for checkpoint in (read_checkpoint(folder), read_checkpoint(folder / "ckpt.pt", meta=folder)):
        assert checkpoint.vocabulary.chars == tuple(CHARS)
        assert checkpoint.no_vocabulary == ""
    assert any("passed over" in note and "meta.pkl has vocab_size" in note for note in read_checkpoint(folder).notes)
    (folder / "meta.pkl").write_bytes(pickle.dumps({"stoi": {char: i for i, char in enumerate(CHARS[::-1])}}))
    assert read_checkpoint(folder).vocabulary.chars == tuple(CHARS[::-1])  # one that can be used comes first


def test_both_that_cannot_be_used_are_named(tmp_path):
    folder = checkpoint_with(tmp_path, {"vocab_size": 65})
    (folder / "tokenizer.json").write_text("{}")
    why = read_checkpoint(folder).no_vocabulary
    assert "meta.pkl has vocab_size" in why
    assert "tokenizer.json is not a tokenizer.json" in why
    with pytest.raises(VocabularyError, match=r"meta\.pkl has vocab_size.*tokenizer\.json is not a tokenizer\.json"):
        read_vocabulary(folder, 65)


def test_the_data_folder_is_looked_at_too(tmp_path):
    folder = checkpoint_with(tmp_path / "out", {"vocab_size": 65})
    write_meta(tmp_path / "data" / "tiny")
    assert read_checkpoint(folder).vocabulary.source == tmp_path / "data" / "tiny" / "meta.pkl"


def test_gpt2_is_not_guessed_beside_a_file_that_says_nothing(tmp_path, monkeypatch):
    from conversion import vocabulary

    gpt2 = SimpleNamespace(size=50257)
    monkeypatch.setattr(vocabulary, "find_gpt2", lambda: gpt2)
    write(tmp_path, vocab_size=50304, n_embd=4, n_layer=1)
    found = read_checkpoint(tmp_path)
    assert found.vocabulary is gpt2
    assert not any("rounded up" in note for note in found.notes)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 50304}))
    assert read_checkpoint(tmp_path).vocabulary is None


def test_none_is_none(tmp_path):
    write_meta(tmp_path / "out")
    write(tmp_path / "out")
    model = ngl.load(tmp_path / "out", meta="none")
    with pytest.raises(VocabularyError, match="has no vocabulary .it was read with meta='none'.; load it with meta="):
        model.to_tokens("a")
    code, text, _ = run("info", tmp_path / "out", "--meta", "none")
    assert code == 0
    assert "none: it was read with meta='none'" in text
    checkpoint = read_checkpoint(tmp_path / "out", meta="none")
    assert not any("passed over" in note for note in checkpoint.notes)


def test_a_vocabulary_smaller_than_the_model_is_one(tmp_path):
    write(tmp_path, vocab_size=96)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": STOI, "vocab_size": 96}))
    model = convert(read_checkpoint(tmp_path))
    assert model.to_str_tokens("abc") == ["a", "b", "c"]


@pytest.mark.parametrize("stated", [True, False])
def test_a_data_folder_keeps_its_ids(tmp_path, stated):
    """nanoGPT's train.py reads `vocab_size` alone, so that its data folders need no more."""
    ids = np.arange(200, dtype=np.uint16) % 65
    for split in ("train", "val"):
        (tmp_path / "data").mkdir(exist_ok=True)
        ids.tofile(tmp_path / "data" / f"{split}.bin")
    meta = {"vocab_size": 65} if stated else {"size": 65}
    (tmp_path / "data" / "meta.pkl").write_bytes(pickle.dumps(meta))
    write_meta(tmp_path / "out")
    model = ngl.load(write(tmp_path / "out"))
    by_folder, by_ids = ngl.text_loss(model, tmp_path / "data"), ngl.text_loss(model, ids.astype(np.int64))
    assert torch.equal(by_folder.values, by_ids.values)
    if stated:
        settings = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8, "batch_size": 2, "max_iters": 1}
        config = ngl.TrainConfig(**settings, eval_iters=1, eval_interval=1)
        result = ngl.train(tmp_path / "data", tmp_path / "run", config, progress=False)
        assert read_checkpoint(result.path).config.vocab_size == 65
    else:
        with pytest.raises(ConversionError, match="meta.pkl has size, which does not say what the ids stand for"):
            ngl.train(tmp_path / "data", tmp_path / "run", progress=False)
