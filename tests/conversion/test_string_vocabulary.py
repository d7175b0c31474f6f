"""Tokens of several characters: ids become text always, text becomes ids where there is one way only."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nanogpt_lens as ngl
from conversion import (
    StringVocabulary,
    VocabularyError,
    from_huggingface,
    read_checkpoint,
    save_checkpoint,
    to_huggingface,
    to_nanogpt,
)
from conversion.vocabulary import read_meta
from nanogpt_lens.model.access import token_labels
from tests.conftest import convert
from tests.making import write

MOVES = ["1.", "e4", "e5", "Nf3", "Nc6", " "]
WORDS = ["the", "cat", " sat", "<unk>", " "]
MARKED = ["<PAD>", "\n", "a", "b", "c"]
SPELLED = ["<PAD>", *"<PAD>abc"]


def meta(folder: Path, tokens: list[str], **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stoi = {token: i for i, token in enumerate(tokens)}
    content = {"vocab_size": len(tokens), "stoi": stoi, "itos": {i: t for t, i in stoi.items()}, **more}
    (folder / "meta.pkl").write_bytes(pickle.dumps(content))
    return folder / "meta.pkl"


def model_with(folder: Path, tokens: list[str], **sizes: Any) -> Any:
    meta(folder, tokens)
    return convert(read_checkpoint(write(folder, **({"vocab_size": len(tokens)} | sizes))))


def cuts(text: str, tokens: list[str]) -> list[list[str]]:
    """Every way to cut a text, by trying them all."""
    if not text:
        return [[]]
    return [[t, *rest] for t in tokens if t and text.startswith(t) for rest in cuts(text[len(t) :], tokens)]


STRINGS = st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(STRINGS, st.text("ab ", max_size=8))
def test_text_is_encoded_where_there_is_one_way(tokens, text):
    vocabulary = StringVocabulary(tuple(tokens))
    ways = cuts(text, tokens)
    if len(ways) == 1:
        ids = vocabulary.encode(text)
        assert [tokens[i] for i in ids] == ways[0]
        assert vocabulary.decode(ids) == text
    else:
        with pytest.raises(VocabularyError, match="cannot be cut" if not ways else "in more than one way"):
            vocabulary.encode(text)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4, unique=True))
def test_one_way_is_one_way_for_every_text(tokens):
    texts = ("".join(letters) for n in range(9) for letters in itertools.product("ab", repeat=n))
    if StringVocabulary(tuple(tokens)).one_way:
        assert all(len(cuts(text, tokens)) <= 1 for text in texts)
    else:  # two ways are found where they exist in short texts; these tokens have none longer than 3
        assert any(len(cuts(text, tokens)) > 1 for text in texts)


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (MOVES, "1. e4 e5 Nf3", ["1.", " ", "e4", " ", "e5", " ", "Nf3"]),
        (MARKED, "abc\n", ["a", "b", "c", "\n"]),
        (MARKED, "a<PAD>", ["a", "<PAD>"]),
        (WORDS, "thecat sat", ["the", "cat", " sat"]),
        (SPELLED, "abc", ["a", "b", "c"]),
    ],
)
def test_a_model_reads_and_labels_them(tmp_path, tokens, text, expected):
    model = model_with(tmp_path, tokens)
    ids = [tokens.index(t) for t in expected]
    assert model.to_tokens(text).tolist() == [ids]
    assert model.to_str_tokens(text) == expected
    assert model.to_string(torch.tensor(ids)) == text
    assert model.tokenizer([text, text])["input_ids"] == [ids, ids]
    assert torch.equal(model(text), model(torch.tensor([ids])))
    assert ngl.encode_text(model, text).tolist() == ids
    assert token_labels(model, torch.arange(len(tokens))) == tuple(tokens)
    prompt = ngl.generate(model, text, max_new_tokens=4, seed=1)
    assert prompt.startswith(text)


@pytest.mark.parametrize(
    ("tokens", "text", "words"),
    [
        (["a", "b", "ab"], "xab"[1:], "more than one way .at position 2 ends 'b' or 'ab'"),
        (SPELLED, "a<PAD>", "more than one way .at position 6 ends '>' or '<PAD>'"),
        (WORDS, "the dog", "no token leads on from position 4 .'dog'"),
        (["the", "cat"], "the cat", "no token leads on from position 3 .' cat'"),
    ],
)
def test_other_texts_are_one_sentence(tmp_path, tokens, text, words):
    model = model_with(tmp_path, tokens)
    for use in (model.to_tokens, model.tokenizer.encode, model, lambda t: ngl.encode_text(model, t)):
        with pytest.raises(VocabularyError, match=words) as caught:
            use(text)
        assert str(caught.value).endswith("give token ids")
        assert str(tmp_path / "meta.pkl") in str(caught.value)
    assert model.to_str_tokens(torch.arange(len(tokens))) == tokens


def test_ids_that_are_left_out(tmp_path):
    """A vocabulary that begins with 1, because 0 was kept for padding."""
    stoi = {char: i + 1 for i, char in enumerate("\nabc")}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": stoi, "vocab_size": 5}))
    vocabulary = read_meta(tmp_path / "meta.pkl")
    assert (vocabulary.size, vocabulary.kind) == (5, "strings")
    assert vocabulary.encode("cab").tolist() == [4, 2, 3]
    assert vocabulary.decode([0, 4]) == "[0]c"
    with pytest.raises(VocabularyError, match="no token leads on from position 0"):
        vocabulary.encode("[0]")
    (tmp_path / "again").mkdir()
    vocabulary.save(tmp_path / "again")
    again = read_meta(tmp_path / "again" / "meta.pkl")
    assert (again.strings, again.absent) == (vocabulary.strings, vocabulary.absent)


@pytest.mark.parametrize(
    ("tokens", "text"), [(MOVES, "1. e4"), (WORDS, "the sat"), (MARKED, "ab\n"), (["xy", "x", ""], "xx")]
)
def test_it_is_kept_by_everything_that_is_saved(tmp_path, tokens, text):
    model = model_with(tmp_path / "out", tokens)
    checkpoint = read_checkpoint(tmp_path / "out")
    ids = model.to_tokens(text)[0].tolist()
    save_checkpoint(to_nanogpt(model), tmp_path / "edited")
    assert read_checkpoint(tmp_path / "edited").vocabulary.strings == tuple(tokens)
    if "" in tokens:
        return
    to_huggingface(checkpoint, tmp_path / "hf")
    assert from_huggingface(tmp_path / "hf").vocabulary.strings == tuple(tokens)
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert plain(text)["input_ids"] == ids
    assert plain.decode(ids) == text


def test_a_saved_tokenizer_does_not_guess_either(tmp_path):
    """Where a text could be cut in two ways, the program that reads the folder gets ids into text, and no text."""
    from transformers import AutoTokenizer

    to_huggingface(read_checkpoint(_ambiguous(tmp_path)), tmp_path / "hf")
    plain = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert plain.decode([2, 0]) == "aba"
    assert plain.pad_token is None
    with pytest.raises(Exception, match="UNK"):
        plain("aba")


def _ambiguous(folder: Path) -> Path:
    meta(folder, ["a", "b", "ab"])
    return write(folder, vocab_size=3)


def test_classes_and_corpora(tmp_path):
    model = model_with(tmp_path / "out", MOVES)
    (tmp_path / "game.txt").write_text("1. e4 e5 Nf3 Nc6 " * 20)
    found = ngl.search_neurons(model, tmp_path / "game.txt", k=2, seq_len=8, window=8, progress=False)
    assert found.vocabulary == tuple(MOVES)
    ids = np.array(MOVES)[ngl.encode_text(model, "1. e4 e5").numpy()]
    assert "".join(ids) == "1. e4 e5"


def test_a_text_of_some_size_is_cut_in_time(tmp_path):
    vocabulary = StringVocabulary(tuple(MOVES))
    text = "1. e4 e5 Nf3 Nc6 " * 1500  # 25 kB
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text


def test_strings_that_are_no_vocabulary():
    with pytest.raises(VocabularyError, match="the vocabulary is empty; expected at least one token"):
        StringVocabulary(())
    with pytest.raises(VocabularyError, match=r"x/meta\.pkl has a token twice; expected one id per token"):
        StringVocabulary(("a", "b", "a"), Path("x/meta.pkl"))


def test_a_vocabulary_too_large_for_the_test_of_one_way_is_read_all_the_same():
    words = ("a", "b" * 4000)  # the test would compare all beginnings with all ends
    assert StringVocabulary(("a", "b" * 3000)).one_way
    assert not StringVocabulary(words).one_way
    assert StringVocabulary(words).encode("a" + "b" * 4000 + "a").tolist() == [0, 1, 0]
