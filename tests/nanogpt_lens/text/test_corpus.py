"""An opened corpus: the same ids however it is given, drawn as plain loops draw them, one sentence for what is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.errors import VocabularyError
from nanogpt_lens.model.encoding import encode_text
from nanogpt_lens.text.corpus import open_corpus, windows
from nanogpt_lens.text.datasets import TextData, read_data, write_data
from nanogpt_lens.text.from_model import own_text
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model
from tests.nanogpt_lens.patching.patching_helpers import model


def ids_of(model, corpus, part="val"):
    opened = open_corpus(model, corpus, part=part)
    return opened.tokens(0, opened.n_tokens)


def test_windows_are_of_the_text_and_do_not_overlap():
    ids = torch.arange(1000) % 13
    found = windows(model(), ids, seq_len=7, n=500, seed=0)
    assert found.shape == (142, 7)
    starts = [int(i) for i in range(0, 994, 7)]
    assert [row.tolist() for row in found] == [ids[s : s + 7].tolist() for s in starts]
    some = windows(model(), ids.numpy().astype(np.uint16), seq_len=7, n=5, seed=0)
    assert len({tuple(r) for r in some.tolist()}) == 5


def test_corpora_of_every_kind(tmp_path):
    hooked = ngl.load("shakespeare_char")
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 20
    (tmp_path / "text.txt").write_text(text)
    direct = windows(hooked, text, seq_len=16, n=8)
    assert torch.equal(direct, windows(hooked, tmp_path / "text.txt", seq_len=16, n=8))
    assert torch.equal(direct, windows(hooked, str(tmp_path / "text.txt"), seq_len=16, n=8))
    rows = ngl.encode_text(hooked, text)[: 16 * 20].view(10, 32)
    assert torch.equal(windows(hooked, rows, seq_len=16, n=10), rows[:, :16])
    assert torch.equal(direct, windows(hooked, ngl.encode_text(hooked, text), seq_len=16, n=8))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    cases = [
        (tmp_path / "bad.txt", "not UTF-8"),
        (tmp_path / "nowhere.txt", "does not exist"),
        (torch.zeros(3, 3, dtype=torch.long), "sequences of 3 tokens; expected at least 16"),
        (torch.zeros(3, 3, 3, dtype=torch.long), "integer ids"),
        ("nowhere.txt", "does not exist"),
        (torch.zeros(30), "integer ids"),
        ("abc", "expected at least one window"),
        (torch.full((100,), 65), "the token 65; expected ids from 0 to 64"),
    ]
    for corpus, words in cases:
        with pytest.raises(ngl.NanoGPTLensError, match=words):
            windows(hooked, corpus, seq_len=16, n=8)


def test_a_bin_file_is_the_part_it_names(tmp_path):
    hooked = ngl.load("shakespeare_char")
    text = "".join(chr(97 + i % 26) for i in range(2000))
    ids = ngl.encode_text(hooked, text).numpy().astype(np.uint16)
    data = TextData(train=ids[:1800], val=ids[1800:], vocabulary=hooked.tokenizer.encoder, name="letters")
    write_data(data, tmp_path / "data")
    for part, own in (("train", data.train), ("val", data.val)):
        found = windows(hooked, tmp_path / "data" / f"{part}.bin", seq_len=10, n=1000)
        assert found.flatten().tolist() == own[: len(own) // 10 * 10].tolist()
    assert torch.equal(windows(hooked, tmp_path / "data", seq_len=10, n=1000), found)
    ids.astype("<u2").tofile(tmp_path / "data" / "other.bin")
    assert windows(hooked, tmp_path / "data" / "other.bin", seq_len=10, n=1000).flatten().tolist() == ids.tolist()
    with pytest.raises(ngl.NanoGPTLensError, match="none.bin does not exist"):
        windows(hooked, tmp_path / "data" / "none.bin", seq_len=10, n=8)


def test_tokens_of_another_vocabulary_are_refused(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefghij" * 200)
    write_data(ngl.read_data(tmp_path / "text.txt"), tmp_path / "data")
    for place in ("data", "data/train.bin"):
        with pytest.raises(ngl.AnalysisError, match="prepared with another vocabulary"):
            windows(ngl.load("shakespeare_char"), tmp_path / place, seq_len=10, n=8)


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_how_many_must_be_a_number(n):
    for draw in (lambda: windows(model(), torch.arange(13), seq_len=3, n=n), lambda: own_text(model(), seq_len=3, n=n)):
        with pytest.raises(ngl.AnalysisError, match="expected a whole number, 1 or more"):
            draw()


def test_own_text_is_drawn_from_the_model():
    hooked = model()
    for parameter in hooked.parameters():
        parameter.data.mul_(0.5)
    first = own_text(hooked, seq_len=9, n=400, seed=0)
    assert first.shape == (400, 9)
    assert torch.equal(first, own_text(hooked, seq_len=9, n=400, seed=0))
    with torch.no_grad():
        expected = hooked(first)[:, 3].softmax(-1).mean(0)
    observed = torch.bincount(first[:, 4], minlength=13).double() / 400
    assert (expected - observed).abs().max() < 0.08
    assert (expected - observed).abs().mean() < (expected - 1 / 13).abs().mean()


def test_data_with_another_vocabulary_are_encoded_anew(tmp_path):
    """Their ids mean other characters: taken as they are, every number would be wrong without a word."""
    chars = lens_model(tmp_path / "model")
    file = tmp_path / "few.txt"
    file.write_text("the king and the sea\n" * 40)
    data = read_data(file)
    assert data.vocab_size < chars.cfg.d_vocab
    for part in ("train", "val"):
        text = data.vocabulary.decode(getattr(data, part))
        assert torch.equal(ids_of(chars, data, part), encode_text(chars, text))
    val = encode_text(chars, data.vocabulary.decode(data.val))
    assert torch.equal(ids_of(chars, data), val)
    file.write_text("the king and the sea, 1%\n" * 40)
    with pytest.raises(VocabularyError):
        open_corpus(chars, read_data(file))
