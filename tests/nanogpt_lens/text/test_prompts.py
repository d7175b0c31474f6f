"""Prompts: random where they should be, the same for the same seed, never with hidden repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.errors import VocabularyError
from nanogpt_lens.model.access import n_tokens
from nanogpt_lens.model.encoding import encode_corpus
from nanogpt_lens.text.datasets import TextData, read_data, write_data
from nanogpt_lens.text.prompts import corpus_tokens, data_tokens, own_text, random_tokens, windows
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model
from tests.nanogpt_lens.patching.patching_helpers import model


def test_repeated_sequences_repeat_and_have_no_other_repeats():
    tokens = ngl.repeated_tokens(model(), seq_len=5, n=20, seed=1)
    assert tokens.shape == (20, 10)
    assert torch.equal(tokens[:, :5], tokens[:, 5:])
    assert all(len(set(row)) == 5 for row in tokens[:, :5].tolist())
    assert torch.equal(tokens, ngl.repeated_tokens(model(), seq_len=5, n=20, seed=1))
    assert not torch.equal(tokens, ngl.repeated_tokens(model(), seq_len=5, n=20, seed=2))


def test_every_id_is_drawn_equally_often():
    drawn = random_tokens(model(), 3000, 5, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.flatten(), minlength=13).double() / 15000
    assert (counts - 1 / 13).abs().max() < 0.01


def test_repeats_where_the_vocabulary_is_too_small():
    generator = torch.Generator().manual_seed(0)
    assert random_tokens(model(), 2, 40, generator=generator).shape == (2, 40)
    with pytest.raises(ngl.AnalysisError, match="seq_len is 40, the vocabulary has 13 tokens"):
        random_tokens(model(), 2, 40, repeats="forbid", generator=generator)
    allowed = random_tokens(model(), 50, 10, repeats="allow", generator=generator)
    assert any(len(set(row)) < 10 for row in allowed.tolist())
    with pytest.raises(ngl.AnalysisError, match="expected avoid, forbid or allow"):
        random_tokens(model(), 2, 3, repeats="maybe", generator=generator)


def test_too_long_for_the_context():
    with pytest.raises(ngl.AnalysisError, match="12 tokens; expected at most 10.*give seq_len=5 or less"):
        ngl.repeated_tokens(model(), seq_len=6)


@pytest.mark.parametrize("length", [4, 7, 10])
def test_induction_pairs_are_what_they_say(length):
    pair = ngl.induction_pairs(model(), seq_len=length, n=200, seed=4)
    assert pair.clean.shape == (200, length)
    places = set()
    for clean, corrupted, answer, wrong in zip(
        pair.clean.tolist(), pair.corrupted.tolist(), pair.answer.tolist(), pair.wrong.tolist(), strict=True
    ):
        a = clean[-1]
        at = clean.index(a)
        places.add(at)
        assert at < length - 2
        assert clean.count(a) == 2
        assert clean[at + 1] == answer
        assert wrong in clean
        assert wrong not in (a, answer)
        assert [i for i in range(length) if clean[i] != corrupted[i]] == [at]
        assert corrupted.count(corrupted[at]) == 1
        assert corrupted.count(a) == 1
        assert clean.count(answer) == 1
    assert places == set(range(length - 3))


def test_induction_pairs_need_room():
    for length in (3, 11):
        with pytest.raises(ngl.AnalysisError, match="expected 4 to 10"):
            ngl.induction_pairs(model(), seq_len=length)


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
    rows = ngl.encode_corpus(hooked, text)[: 16 * 20].view(10, 32)
    assert torch.equal(windows(hooked, rows, seq_len=16, n=10), rows[:, :16])
    assert torch.equal(direct, windows(hooked, ngl.encode_corpus(hooked, text), seq_len=16, n=8))
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
    ids = ngl.encode_corpus(hooked, text).numpy().astype(np.uint16)
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


def test_padding_ids_are_never_drawn():
    assert n_tokens(ngl.load("shakespeare_char")) == 65
    assert n_tokens(model()) == 13


def test_data_with_another_vocabulary_are_encoded_anew(tmp_path):
    """Their ids mean other characters: taken as they are, every number would be wrong without a word."""
    chars = lens_model(tmp_path / "model")
    file = tmp_path / "few.txt"
    file.write_text("the king and the sea\n" * 40)
    data = read_data(file)
    assert data.vocab_size < chars.cfg.d_vocab
    for part in ("train", "val"):
        text = data.vocabulary.decode(getattr(data, part))
        assert torch.equal(torch.as_tensor(data_tokens(chars, data, part)), encode_corpus(chars, text))
    val = encode_corpus(chars, data.vocabulary.decode(data.val))
    assert torch.equal(torch.as_tensor(corpus_tokens(chars, data)), val)
    file.write_text("the king and the sea, 1%\n" * 40)
    with pytest.raises(VocabularyError):
        corpus_tokens(chars, read_data(file))
