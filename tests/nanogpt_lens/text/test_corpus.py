"""An opened corpus: the same ids however it is given, drawn as plain loops draw them, one sentence for what is none."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.errors import VocabularyError
from nanogpt_lens.model.encoding import encode_text
from nanogpt_lens.text import corpus, files, seen
from nanogpt_lens.text import opened as opened_corpus
from nanogpt_lens.text.corpus import open_corpus, windows
from nanogpt_lens.text.datasets import TextData, read_data, write_data
from nanogpt_lens.text.from_model import own_text
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model
from tests.nanogpt_lens.patching.patching_helpers import model


def ids_of(model, given, part="val"):
    opened = open_corpus(model, given, part=part)
    return opened.tokens(0, opened.n_tokens)


def every_kind(folder, tokenizer, ids):
    """The same ids as every kind of corpus, by its name."""
    text = tokenizer.encoder.decode(ids)
    (folder / "a.txt").write_bytes(text.encode())
    (folder / "dos.txt").write_bytes(text.replace("\n", "\r\n").encode())
    (folder / "mac.txt").write_bytes(text.replace("\n", "\r").encode())
    data = TextData(train=ids[:9].numpy(), val=ids.numpy(), vocabulary=tokenizer.encoder, name="letters")
    write_data(data, folder / "data")
    tokenized = {"data": data, "folder": folder / "data", "folder's name": str(folder / "data")}
    texts = {name: folder / f"{name}.txt" for name in ("a", "dos", "mac")}
    arrays = {"tensor": ids, "array": ids.numpy(), "uint16": ids.numpy().astype(np.uint16), "int32": ids.int()}
    bins = {"bin": folder / "data" / "val.bin", "map": np.memmap(folder / "data" / "val.bin", dtype="<u2", mode="r")}
    return {"text": text, "name": str(folder / "a.txt"), **texts, **tokenized, **arrays, **bins}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("small_pieces", [False, True])
def test_every_kind_of_corpus_gives_the_same_to_every_reader(tmp_path, monkeypatch, seed, small_pieces):
    if small_pieces:  # line breaks and characters across pieces, ids on the disk
        monkeypatch.setattr(files, "_PIECE", 3)
        monkeypatch.setattr(corpus, "_IN_MEMORY", 7)
    chars = lens_model(tmp_path / "model")
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(rng.integers(65, size=int(rng.integers(60, 400))))
    for kind, given in every_kind(tmp_path, chars.tokenizer, ids).items():
        opened = open_corpus(chars, given)
        assert torch.equal(opened.tokens(0, opened.n_tokens), ids), kind
        assert opened.ids.array().tolist() == ids.tolist()
        assert opened.shape == (len(ids),)
        assert opened.fingerprint == open_corpus(chars, ids).fingerprint
        assert torch.equal(opened.trace(), open_corpus(chars, ids).trace())
        assert torch.equal(opened.between(7, 50).tokens(0, 999), ids[7:50])
        assert torch.equal(opened.between(7, 50).between(3, 20).tokens(2, 10), ids[12:20])
        assert windows(chars, given, seq_len=7, n=5, seed=seed).tolist() == windows_by_loop(ids, 7, 5, seed)
        sequences = opened.sequences(seq_len=7, batch_size=3)
        batches = [sequences.batch(i) for i in range(sequences.n_batches)]
        assert torch.equal(torch.cat([batch.tokens.flatten() for batch in batches]), ids)
        assert sequences.drawn(4, seed=seed)[0].tolist() == drawn_by_loop(ids, 7, 4, seed)


def windows_by_loop(ids, seq_len, n, seed):
    """The windows that `windows` has always drawn: the first `n` of a random order, in the order of the text."""
    order = torch.randperm(len(ids) // seq_len, generator=torch.Generator().manual_seed(seed)).tolist()
    return [ids.tolist()[i * seq_len : (i + 1) * seq_len] for i in sorted(order[:n])]


def drawn_by_loop(ids, seq_len, n, seed):
    """The sequences that `Sequences.drawn` has always drawn: one of each stretch, by one random number."""
    whole = len(ids) // seq_len
    n = min(n, whole)
    chance = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    rows = []
    for i in range(n):
        first, last = round(whole * i / n), round(whole * (i + 1) / n)
        place = (first + int(chance[i] * (last - first))) * seq_len
        rows.append(ids.tolist()[place : place + seq_len])
    return rows


def test_rows_are_texts_of_their_own():
    rows = torch.arange(60).view(6, 10) % 13
    opened = open_corpus(model(), rows)
    assert opened.shape == (6, 10)
    assert torch.equal(opened.windows(seq_len=4, n=9), rows[:, :4])
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))[:3].sort().values
    assert torch.equal(opened.windows(seq_len=10, n=3, seed=2), rows[order])
    assert torch.equal(opened.between(2, 5).windows(seq_len=10, n=9), rows[2:5])
    assert opened.sequences().text_length == 10
    with pytest.raises(ngl.AnalysisError, match="given with rows of 10 tokens; expected at most 10.*no other seq_len"):
        opened.sequences(seq_len=5)


def test_the_training_part_is_another_one(tmp_path):
    chars = lens_model(tmp_path / "model")
    data = TextData(train=np.arange(30), val=np.arange(30, 50), vocabulary=chars.tokenizer.encoder, name="two")
    write_data(data, tmp_path / "data")
    for given in (data, tmp_path / "data", str(tmp_path / "data")):
        assert ids_of(chars, given).tolist() == list(range(30, 50))
        assert ids_of(chars, given, part="train").tolist() == list(range(30))
    assert ids_of(chars, tmp_path / "data" / "val.bin", part="train").tolist() == list(range(30, 50))


def test_names(tmp_path):
    chars = lens_model(tmp_path / "model")
    (tmp_path / "some.txt").write_text("the king")
    for given in (tmp_path / "some.txt", str(tmp_path / "some.txt")):
        opened = open_corpus(chars, given)
        assert (opened.name, opened.origin, opened.title) == ("some.txt", *[str(tmp_path / "some.txt")] * 2)
        assert opened.windows_name == "windows of some.txt"
    opened = open_corpus(chars, "the king")
    assert (opened.name, opened.origin, opened.title) == (
        "the given corpus",
        "the corpus (text, 8 tokens)",
        "the corpus",
    )
    assert open_corpus(chars, torch.arange(5)).origin == "the corpus (ids, 5 tokens)"
    data = TextData(train=np.arange(3), val=np.arange(3), vocabulary=None, name="letters")
    assert open_corpus(chars, data).name == "letters"
    assert open_corpus(chars, None).windows_name == "text drawn from the model itself at temperature 1"
    assert torch.equal(windows(chars, None, seq_len=5, n=3, seed=1), own_text(chars, seq_len=5, n=3, seed=1))


def bad_corpora(folder):
    for name, content in {
        "nul.txt": b"ab\x00cd" * 9,
        "late_nul.txt": b"ab" * 20 + b"\0",
        "latin.txt": "aa né".encode("latin-1") * 9,
        "cut.txt": "aaé".encode()[:-1],
        "empty.txt": b"",
        "odd.bin": b"\0\0\0",
        "empty.bin": b"",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "no_val").mkdir()
    np.arange(40).astype("<u2").tofile(folder / "no_val" / "train.bin")
    np.array([1, 2, 300] * 9, dtype="<u2").tofile(folder / "large.bin")


@pytest.mark.parametrize("small_pieces", [False, True])
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nul.txt", r"nul\.txt is not UTF-8 text \(byte 0x00 at 2\); expected .*save it as UTF-8"),
        ("late_nul.txt", r"late_nul\.txt is not UTF-8 text \(byte 0x00 at 40\)"),
        ("latin.txt", r"latin\.txt is not UTF-8 text \(byte 0xe9 at 4\)"),
        ("cut.txt", r"cut\.txt is not UTF-8 text \(byte 0xc3 at 2\)"),
        ("empty.txt", r"empty\.txt is empty; expected a UTF-8 text file"),
        ("absent.txt", r"absent\.txt does not exist; expected a UTF-8 text file"),
        ("absent.bin", r"absent\.bin does not exist"),
        ("odd.bin", r"odd\.bin has 3 bytes, an odd number"),
        ("empty.bin", r"empty\.bin is empty"),
        ("no_val", r"no_val has no val\.bin; expected .*run nanoGPT's prepare\.py"),
        ("large.bin", r"large\.bin has the token 300; expected ids from 0 to 64"),
        (torch.tensor([1, -1] * 20), "the corpus.* has the token -1; expected ids from 0 to 64"),
        (torch.zeros(30), "the corpus is a Tensor; expected text, a path, or integer ids"),
        (torch.zeros(3, 3, 3, dtype=torch.long), "integer ids"),
        ([1, 2, 3], "the corpus is a list; expected text, a path, or integer ids"),
    ],
)
def test_what_is_no_corpus_is_one_sentence_for_every_reader(tmp_path, monkeypatch, given, sentence, small_pieces):
    if small_pieces:
        monkeypatch.setattr(files, "_PIECE", 3)
    chars = lens_model(tmp_path / "model")
    bad_corpora(tmp_path)
    given = tmp_path / given if isinstance(given, str) else given
    readers = [
        lambda: windows(chars, given, seq_len=7, n=100),
        lambda: open_corpus(chars, given).check_all(),
        lambda: open_corpus(chars, given).sequences().batch(0),
    ]
    for reader in readers:
        with pytest.raises(ngl.NanoGPTLensError, match=sentence) as caught:
            reader()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_large_file_is_never_all_in_memory(tmp_path, monkeypatch):
    chars = lens_model(tmp_path / "model")
    for module, name in ((files, "_PIECE"), (corpus, "_IN_MEMORY"), (opened_corpus, "_PIECE"), (seen, "_PIECE")):
        monkeypatch.setattr(module, name, 2**16)
    line = "the king and the sea\n" * 5000
    ids = ngl.encode_text(chars, line).numpy().astype("<u2").tobytes()
    (tmp_path / "a.txt").write_text(line * 40)
    (tmp_path / "a.bin").write_bytes(ids * 40)
    for name in ("a.txt", "a.bin"):
        tracemalloc.start()
        opened = open_corpus(chars, tmp_path / name)
        opened.windows(seq_len=12, n=50)
        opened.check_all()
        assert opened.share_seen(opened.trace()) == 1
        sequences = opened.sequences(batch_size=5000)
        assert sum(sequences.batch(i).tokens.numel() for i in range(sequences.n_batches)) == 40 * 5000 * 21
        sequences.drawn(100, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6, f"{peak:,} bytes for {opened.n_tokens:,} tokens"  # two bytes each would be 8.4 million


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
    for given, words in cases:
        with pytest.raises(ngl.NanoGPTLensError, match=words):
            windows(hooked, given, seq_len=16, n=8)


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


def test_a_shipped_checkpoint_with_text_beside_it_is_a_corpus_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ngl.load("shakespeare_char")
    opened = open_corpus(model, "shakespeare_char")
    assert open_corpus(model, "shakespeare_char", part="train").ids.n == opened.ids.n  # no other part is shipped
    assert opened.ids.n == 111_540
    assert model.to_string(opened.ids.tokens(0, 10).long()) == "?\n\nGREMIO:"
    assert open_corpus(model, "induction").ids.n == 9  # no text lies beside that one: it is a text of nine letters
    (tmp_path / "shakespeare_char").write_text("First Citizen:\n", encoding="utf-8")  # a file of that name comes first
    assert open_corpus(model, "shakespeare_char").ids.n == 15
