"""Text to tokens and back, on the vocabulary and on the tokenizer that a model carries."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections import Counter, OrderedDict, defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from conversion import CharVocabulary, ConversionError, VocabularyError, read_checkpoint, read_vocabulary
from conversion.fast_tokenizer import tokenizer_for
from conversion.vocabulary import find_gpt2, read_meta
from tests.conftest import convert
from tests.making import CHARS, content, write, write_meta

ODD = [
    "\n",
    "\r",
    "\t",
    "\0",
    " ",
    "\u0301",
    "é",
    "😀",
    "\u200b",
    "中",
    "'",
    '"',
    "\\",
    "<",
    "|",
    ">",
    "a",
    "\U0010fffd",
]


@pytest.fixture
def model(tmp_path):
    write_meta(tmp_path)
    write(tmp_path)
    return convert(read_checkpoint(tmp_path))


def test_encoding_is_that_of_nanogpt():
    stoi = {c: i for i, c in enumerate(CHARS)}
    text = "Hello,\nWorld! 'tis: a $3 & more-or-less?;"
    vocabulary = CharVocabulary(tuple(CHARS))
    assert vocabulary.encode(text).tolist() == [stoi[c] for c in text]
    assert vocabulary.decode([stoi[c] for c in text]) == text


def test_every_odd_character_makes_the_round_trip():
    vocabulary = CharVocabulary(tuple(ODD))
    text = "".join(ODD * 3) + "".join(reversed(ODD)) + "\r\n\n\r  e\u0301".replace("e", "a")
    ids = vocabulary.encode(text)
    assert ids.tolist() == [ODD.index(c) for c in text]
    assert vocabulary.decode(ids) == text
    tokenizer = tokenizer_for(vocabulary, n_ctx=1000, d_vocab=len(ODD))
    assert tokenizer(text)["input_ids"] == ids.tolist()
    assert tokenizer.decode(ids.tolist()) == text


def test_the_text_of_a_special_token_is_ordinary_text():
    chars = tuple(sorted(set("<|endoftext|> \n")))
    vocabulary = CharVocabulary(chars)
    text = "a<|endoftext|>b".replace("a", "n").replace("b", "d") + "<|endoftext|>"
    tokenizer = tokenizer_for(vocabulary, n_ctx=100, d_vocab=len(chars))
    assert tokenizer(text)["input_ids"] == vocabulary.encode(text).tolist()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_an_unknown_character_is_shown_with_its_place(model):
    text = "line one\nline twö"
    for encode in (model.tokenizer.encoder.encode, model.to_tokens, model.to_str_tokens, model.tokenizer.encode):
        with pytest.raises(VocabularyError, match=r"'ö' \(U\+00F6\) at position 16 \(line 2.*65 characters.*meta\.pkl"):
            encode(text)


def test_transformer_lens_works_on_text(model):
    text = "ROMEO: what\n"
    ids = [CHARS.index(c) for c in text]
    assert model.to_tokens(text).tolist() == [ids]
    assert model.to_str_tokens(text) == list(text)
    assert model.to_string(torch.tensor(ids)) == text
    assert model.to_string(torch.tensor([ids, ids])) == [text, text]
    assert model.to_single_token("R") == CHARS.index("R")
    assert model.get_token_position("M", text) == 2
    assert torch.equal(model(text), model(torch.tensor([ids])))
    assert torch.isfinite(model(text, return_type="loss"))
    assert model.run_with_cache(text)[0].shape == (1, 12, 65)
    out = model.generate("ROM", max_new_tokens=4, do_sample=False, verbose=False)
    assert out.startswith("ROM")
    assert len(out) == 7


def test_a_copy_of_the_model_keeps_its_tokenizer(model):
    assert copy.deepcopy(model).to_str_tokens("abc") == ["a", "b", "c"]


def test_texts_of_several_lengths_are_refused_not_padded(model):
    assert model.to_tokens(["ab", "cd"]).tolist() == [[CHARS.index(c) for c in t] for t in ("ab", "cd")]
    for use in (model.to_tokens, model):
        with pytest.raises(ConversionError, match="the texts have 2 and 4 characters; nanoGPT has no padding token"):
            use(["ab", "abcd"])


def test_a_beginning_of_sequence_token_is_refused(model):
    with pytest.raises(VocabularyError, match="prepend_bos=False"):
        model.to_tokens("abc", prepend_bos=True)


def test_text_longer_than_the_context_is_refused_not_cut(model):
    with pytest.raises(ConversionError, match="the text has 13 tokens, the model's context is 12"):
        model.to_tokens("a" * 13)
    with pytest.raises(ConversionError, match="13 tokens"):
        model(["a" * 13, "b" * 13])
    assert model.to_tokens("a" * 13, truncate=False).shape == (1, 13)
    assert model.to_tokens("a" * 12).shape == (1, 12)


def test_without_a_vocabulary_tokens_work_and_text_says_what_to_give(tmp_path):
    write(tmp_path)
    model = convert(read_checkpoint(tmp_path))
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 65)
    for use in (
        lambda: model.to_tokens("a"),
        lambda: model("a"),
        lambda: model.to_string(torch.tensor([1])),
        lambda: model.to_str_tokens(torch.tensor([1])),
        lambda: model.tokenizer.save_pretrained(tmp_path / "tokenizer"),
    ):
        with pytest.raises(VocabularyError, match=r"ckpt\.pt has no vocabulary.*meta='path/to/meta\.pkl'"):
            use()


def test_gpt2_is_named_where_the_size_says_so(tmp_path):
    write(tmp_path, vocab_size=50304, n_embd=4)
    checkpoint = read_checkpoint(tmp_path)
    if checkpoint.vocabulary is None:
        with pytest.raises(VocabularyError, match=r"meta='gpt2'.*hf download gpt2"):
            checkpoint.tokenizer().encode("a")
        with pytest.raises(VocabularyError, match=r"GPT-2's vocabulary is not on this machine"):
            read_checkpoint(tmp_path, meta="gpt2")
    else:
        assert checkpoint.vocabulary.size == 50257


def _small_bpe(folder: Path) -> None:
    """A byte-level BPE in GPT-2's two files."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    text = ["the cat and the dog and the end of the day\n", "ünïcödé → 😀"] * 3
    trained.train_from_iterator(text, vocab_size=300, min_frequency=2, special_tokens=["<|endoftext|>"])
    folder.mkdir()
    trained.save_model(str(folder))


def test_gpt2_files_make_gpt2s_tokenizer(tmp_path, monkeypatch):
    """Against Hugging Face's own GPT-2 tokenizer on the same files."""
    from transformers import GPT2Tokenizer

    _small_bpe(tmp_path / "bpe")
    theirs = GPT2Tokenizer(str(tmp_path / "bpe" / "vocab.json"), str(tmp_path / "bpe" / "merges.txt"))
    write(tmp_path, vocab_size=304)
    checkpoint = read_checkpoint(tmp_path, meta=tmp_path / "bpe")
    model = convert(checkpoint)
    for text in ("the cat", " and\n\n the dog's", "<|endoftext|>the", "ünïcödé → 😀  "):
        expected = theirs(text)["input_ids"]
        assert checkpoint.vocabulary.encode(text).tolist() == expected
        assert model.to_tokens(text, truncate=False)[0].tolist() == expected
        assert checkpoint.vocabulary.decode(expected) == text


def test_tiktokens_cache_is_used(tmp_path, monkeypatch):
    import hashlib

    _small_bpe(tmp_path / "bpe")
    address = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    for name, file in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        key = hashlib.sha1((address + name).encode()).hexdigest()
        (tmp_path / key).write_bytes((tmp_path / "bpe" / file).read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    found = find_gpt2()
    assert found is not None
    assert found.decode(found.encode("the cat and the dog")) == "the cat and the dog"


def test_a_tokenizer_json_is_read(tmp_path):
    _small_bpe(tmp_path / "bpe")
    vocabulary = read_vocabulary(tmp_path / "bpe", 1000)
    write(tmp_path, vocab_size=304)
    vocabulary.save(tmp_path)
    model = convert(read_checkpoint(tmp_path))
    assert model.to_string(model.to_tokens("the cat")) == ["the cat"]
    write(tmp_path)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json has 292 tokens, but the model has vocab_size 65"):
        read_checkpoint(tmp_path, meta=tmp_path)


def test_a_saved_tokenizer_loads_without_this_package(tmp_path, model):
    from transformers import AutoTokenizer

    model.tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] in ("TokenizersBackend", "PreTrainedTokenizerFast")
    plain = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = "To be, or not to be:\n that"
    assert plain(text)["input_ids"] == [CHARS.index(c) for c in text]
    assert plain.decode(plain(text)["input_ids"]) == text
    assert read_vocabulary(tmp_path / "tokenizer", 65).chars == tuple(CHARS)


def test_a_megabyte_is_encoded_as_character_by_character():
    generator = np.random.default_rng(0)
    text = "".join(np.array(list(CHARS))[generator.integers(65, size=2**20)])
    ids = CharVocabulary(tuple(CHARS)).encode(text)
    stoi = {c: i for i, c in enumerate(CHARS)}
    assert ids.tolist() == [stoi[c] for c in text]


GOOD = {"vocab_size": 2, "itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}}


@pytest.mark.parametrize(
    "change",
    [
        {"itos": ["a", "b"]},
        {"itos": ("a", "b")},
        {"itos": None},
        {"stoi": None},
        {"stoi": OrderedDict(a=0, b=1)},
        {"stoi": Counter(a=0, b=1)},
        {"stoi": defaultdict(int, {"a": 0, "b": 1})},
        {"stoi": {np.str_("a"): np.int64(0), np.str_("b"): np.int32(1)}},
        {"vocab_size": np.int64(2)},
        {"vocab_size": 64},
        {"vocab_size": None},
        {"lowercase": False, "n": 1.5, "raw": b"x", "none": None},
        {"made": datetime(2023, 1, 1), "path": Path("x"), "counts": np.arange(3), "kinds": {"letter", "digit"}},
        {"tokenizer": GPT2Config()},
    ],
)
def test_metas_that_are_good(tmp_path, change):
    """Other entries are ignored, whatever they are; numbers and dictionaries of other libraries are what they are."""
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(GOOD | change))
    assert read_meta(tmp_path / "meta.pkl").chars == ("a", "b")


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"vocab_size": 2}, "has vocab_size, which does not say what the ids stand for"),
        ([1, 2], "'stoi' and 'itos'"),
        (GOOD | {"stoi": {"a": 0, "b": 5}}, "not inverse"),
        (GOOD | {"stoi": {"a": 1, "b": 0}}, "not inverse"),
        (GOOD | {"itos": {0: "a", 1: "a"}}, "not inverse"),
        (GOOD | {"vocab_size": 1}, "vocab_size is 1, but stoi has ids up to 1"),
        ({"itos": {0: "\ud800"}, "stoi": {"\ud800": 0}}, "half a character"),
        ({"itos": {0: 7}, "stoi": {7: 0}}, "a token is 7; expected text"),
        ({"stoi": {"a": 0, "b": 10**9}}, "ids up to 1000000000"),
        ({"itos": {}, "stoi": {}}, "empty"),
        (GOOD | {"stoi": Path("x")}, "stoi is 'x'; expected nanoGPT's dictionary"),
        (GOOD | {"stoi": datetime(2023, 1, 1)}, "plain data (datetime.datetime), which unpickling would run as code"),
        (GOOD | {"itos": np.array(["a", "b"])}, "would run as code"),
        (GOOD | {"stoi": Path}, "would run as code"),
        (GOOD | {"itos": {0: np.datetime64("2023"), 1: "b"}}, "a token is an object that is not plain data"),
        ({"stoi": {"a": np.datetime64("2023")}}, "is no id"),
        (GOOD | {"other": {frozenset(): 1}}, "a set as a key"),
    ],
)
def test_metas_that_are_refused(tmp_path, meta, words):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(VocabularyError) as caught:
        read_meta(tmp_path / "meta.pkl")
    assert words in str(caught.value)
    assert str(tmp_path / "meta.pkl") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"hello", pickle.dumps(GOOD)[:-5], b"\x80\x05]\x94h\x00a."])
def test_damaged_metas(tmp_path, data):
    (tmp_path / "meta.pkl").write_bytes(data)
    with pytest.raises(VocabularyError, match=r"meta\.pkl"):
        read_meta(tmp_path / "meta.pkl")


def test_a_tokenizer_json_that_is_no_text(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b'{"model": "\xff"}')
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is not UTF-8 text; expected a tokenizer\.json"):
        read_vocabulary(tmp_path / "tokenizer.json", 65)
    with pytest.raises(VocabularyError, match=r"empty has no meta\.pkl, tokenizer\.json, or vocab\.json with merges"):
        (tmp_path / "empty").mkdir()
        read_vocabulary(tmp_path / "empty", 65)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 3}'])
def test_damaged_tokenizer_json(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    write(tmp_path, content())
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is not a tokenizer\.json"):
        read_checkpoint(tmp_path, meta=tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_metas_of_all_protocols(tmp_path, protocol):
    texts = [chr(945 + i) for i in range(200)]
    meta = {"stoi": {text: np.int64(i) for i, text in enumerate(texts)}, "itos": dict(enumerate(texts))}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta, protocol))
    assert read_meta(tmp_path / "meta.pkl").chars == tuple(texts)


def test_a_meta_that_python_2_wrote(tmp_path):
    (tmp_path / "meta.pkl").write_bytes(b"(dS'stoi'\n(dS'a'\nI0\nssS'kinds'\nc__builtin__\nset\n((lS'x'\natRs.")
    assert read_meta(tmp_path / "meta.pkl").chars == ("a",)


def test_a_meta_whose_key_would_take_years_to_hash(tmp_path):
    """A pair of a pair of a pair, each twice the same: Python hashes both parts of each."""
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.")
    with pytest.raises(VocabularyError, match=r"meta\.pkl is not a pickle, or is damaged \(a tuple as a key\)"):
        read_meta(tmp_path / "meta.pkl")


def test_a_meta_that_cannot_be_read_or_is_too_large(tmp_path):
    (tmp_path / "meta.pkl").mkdir()
    with pytest.raises(VocabularyError, match=r"meta\.pkl cannot be read \(Is a directory\)"):
        read_meta(tmp_path / "meta.pkl")
    (tmp_path / "large.pkl").touch()
    os.truncate(tmp_path / "large.pkl", 2**24 + 1)
    with pytest.raises(VocabularyError, match="holds 16,777,217 bytes; expected a vocabulary of at most 16,777,216"):
        read_meta(tmp_path / "large.pkl")


def test_a_storage_of_pytorch_in_a_meta(tmp_path):
    for reference in (b"\x80\x02)Q.", b"Pcpu\n."):
        (tmp_path / "meta.pkl").write_bytes(reference)
        with pytest.raises(VocabularyError, match=r"meta\.pkl is not a pickle, or is damaged \(.*(storage|PERSID)"):
            read_meta(tmp_path / "meta.pkl")


def test_gpt2_files_that_are_none(tmp_path):
    _small_bpe(tmp_path / "bpe")
    (tmp_path / "bpe" / "vocab.json").write_text("{}")
    write(tmp_path, vocab_size=304)
    with pytest.raises(
        VocabularyError, match=r"vocab\.json and merges\.txt are not GPT-2's vocabulary and merges \("
    ) as caught:
        read_checkpoint(tmp_path, meta=tmp_path / "bpe")
    assert "\n" not in str(caught.value)


def test_hugging_faces_cache_is_used_before_tiktokens(tmp_path, monkeypatch):
    _small_bpe(tmp_path / "bpe")
    commit = "0" * 40
    place = tmp_path / "models--openai-community--gpt2"
    (place / "snapshots").mkdir(parents=True)
    (tmp_path / "bpe").rename(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = find_gpt2()
    assert found is not None
    assert found.source == place / "snapshots" / commit / "vocab.json"
    assert found.decode(found.encode("the cat and the dog")) == "the cat and the dog"
