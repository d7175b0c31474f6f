"""What has been read of a text is recognised: whole, in part, in another order, as another kind; other text is not."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from conversion.vocabulary import CharVocabulary
from nanogpt_lens.results import Sample
from nanogpt_lens.text import seen
from nanogpt_lens.text.corpus import open_corpus
from nanogpt_lens.text.ids import ids_in_memory
from nanogpt_lens.text.seen import WIDTH, joined_traces, share_seen, text_to_trace, trace_of, trace_to_text
from tests.nanogpt_lens.patching.patching_helpers import model


def random_ids(n, seed=0, size=65):
    return torch.from_numpy(np.random.default_rng(seed).integers(size, size=n))


def share_by_sets(text, read):
    """The share of the stretches of one list that the other has too, from all of them."""
    known = {tuple(read[i : i + WIDTH]) for i in range(len(read) - WIDTH + 1)}
    stretches = [tuple(text[i : i + WIDTH]) for i in range(len(text) - WIDTH + 1)]
    hits = sum(stretch in known for stretch in stretches)
    return hits / len(stretches) if hits > 2 or 4 * hits >= len(stretches) else 0


@pytest.mark.parametrize("seed", range(8))
def test_the_share_of_a_short_text_is_exact(seed):
    rng = random.Random(seed)
    read = [rng.randrange(3) for _ in range(rng.randrange(40, 1500))]
    text = [rng.randrange(3) for _ in range(rng.randrange(20, 200))]
    for _ in range(3):
        start = rng.randrange(len(read))
        text += read[start : start + rng.randrange(100)]
    trace = trace_of(ids_in_memory(torch.tensor(read)))
    assert share_seen(ids_in_memory(torch.tensor(text)), trace) == pytest.approx(share_by_sets(text, read), abs=1e-12)


def test_the_share_of_a_long_text_is_about_right(monkeypatch):
    monkeypatch.setattr(seen, "_PIECE", 2**16)  # several pieces
    read = random_ids(300_000)
    trace = trace_of(ids_in_memory(read))
    assert len(trace) == seen._SIZE
    assert seen._SIZE == 2**14
    whole, part = ids_in_memory(read), ids_in_memory(read[1234:60_000])
    assert share_seen(whole, trace) == share_seen(part, trace) == 1
    assert share_seen(ids_in_memory(random_ids(300_000, seed=1)), trace) == 0
    mixed = torch.cat([read[200_000:220_000], random_ids(40_000, seed=2)])
    assert share_seen(ids_in_memory(mixed), trace) == pytest.approx(1 / 3, abs=0.1)
    backwards = torch.cat(list(reversed(read.split(1000))))
    assert share_seen(ids_in_memory(backwards), trace) > 0.95


def test_short_parts_and_shuffled_windows_are_recognised():
    """Of a million tokens that were read: parts of 500, and windows of 32 in random order; and no new text."""
    read = random_ids(1_000_000)
    trace = trace_of(ids_in_memory(read))
    rng = np.random.default_rng(1)
    parts = [share_seen(ids_in_memory(read[i : i + 500]), trace) for i in rng.integers(0, 999_000, 30)]
    assert set(parts) <= {1.0, None}
    assert parts.count(None) <= 1
    shuffled = read[:64_000].view(-1, 32)[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    share = share_seen(ids_in_memory(shuffled.reshape(-1)), trace)
    assert share == pytest.approx((32 - WIDTH + 1) / 32, abs=0.1)
    assert Sample(seen_share=share).in_sample
    as_rows = ids_in_memory(shuffled.reshape(-1))
    assert share_seen(as_rows, trace, row=32) == 1  # what spans two of them is not compared
    assert share_seen(ids_in_memory(random_ids(500, seed=1)), trace, row=WIDTH - 1) is None  # too short to tell
    assert share_seen(ids_in_memory(read[:1000]), trace, row=10) == 1  # rows in the order of the text
    new = [share_seen(ids_in_memory(random_ids(500, seed=i)), trace) for i in range(2, 20)]
    assert set(new) <= {0.0, None}


def test_a_text_in_the_ids_of_another_vocabulary_is_recognised():
    """Characters in another order, and tokens of several characters: the text is the same."""
    words = ["the", " cat", " sat", " on", " mat", "s", ".", "\n", " and", " dog"]
    text = "".join(words[i] for i in np.random.default_rng(0).integers(len(words), size=4000))
    chars = sorted(set(text))
    one, other = CharVocabulary(chars=tuple(chars)), CharVocabulary(chars=tuple(reversed(chars)))
    trace = trace_of(ids_in_memory(one.encode(text)), one.decode)
    again = ids_in_memory(other.encode(text[1000:3000]))
    assert share_seen(again, trace, other.decode) == 1
    assert share_seen(again, trace_of(ids_in_memory(one.encode(text)))) == 0  # by ids alone it is another text
    pieces = [text[i : i + 3] for i in range(1, len(text), 3)]
    table = sorted(set(pieces))
    ids = ids_in_memory(torch.tensor([table.index(piece) for piece in pieces]))
    assert share_seen(ids, trace, lambda some: "".join(table[i] for i in some)) == 1
    assert share_seen(ids, trace) is None  # characters cannot be compared with ids


def test_a_trace_of_an_earlier_version_says_nothing():
    assert share_seen(ids_in_memory(random_ids(500)), torch.tensor([2, 3, 4, 9])) is None


def test_pieces_make_no_difference(monkeypatch):
    ids = ids_in_memory(random_ids(5000))
    trace = trace_of(ids)
    for piece in (17, 100, 4999):
        monkeypatch.setattr(seen, "_PIECE", piece)
        assert torch.equal(trace_of(ids), trace)


def test_two_traces_are_that_of_both_texts():
    one, two = random_ids(4000, seed=1), random_ids(4000, seed=2)
    together = joined_traces([trace_of(ids_in_memory(one)), trace_of(ids_in_memory(two))])
    for text in (one, two):
        assert share_seen(ids_in_memory(text), together) == 1


def test_what_cannot_be_said_is_none():
    long, short = ids_in_memory(random_ids(100)), ids_in_memory(random_ids(WIDTH - 1))
    assert not len(trace_of(short))
    assert share_seen(long, trace_of(short)) is None
    assert share_seen(short, trace_of(long)) is None
    assert open_corpus(model(), torch.zeros(50, dtype=torch.long)).share_seen(None) is None
    assert [Sample(seen_share=share).in_sample for share in (None, 0.01, 0.5)] == [None, False, True]
    assert Sample().in_sample_words == Sample(seen_share=0.01, seen_by="the lens").in_sample_words == ""
    assert Sample().in_sample_column == Sample(seen_share=0.01, seen_by="the lens").in_sample_column == {}
    unknown = Sample(seen_by="the lens")
    assert unknown.in_sample_words == "unknown whether in sample; the lens may have seen the same before"
    assert unknown.in_sample_column == {"in_sample": "unknown"}
    assert Sample(seen_share=0.5).in_sample_column == {"in_sample": True}
    words = Sample(seen_share=0.5, seen_by="the lens").in_sample_words
    assert words == "in sample: the lens has seen 50% of this text before"


def test_a_trace_goes_through_json():
    trace = trace_of(ids_in_memory(random_ids(3000)))
    assert torch.equal(text_to_trace(trace_to_text(trace)), trace)
    assert len(text_to_trace(trace_to_text(trace[:0]))) == 0


def test_the_fingerprint_is_that_of_the_ids_whatever_they_are_in(tmp_path):
    ids = random_ids(999, size=13)
    ids.numpy().astype("<u2").tofile(tmp_path / "a.bin")
    expected = hashlib.sha256(np.array(ids.tolist(), dtype="<i8").tobytes()).hexdigest()
    for corpus in (ids, ids.int(), ids.numpy(), ids.numpy().astype(np.uint8), ids.view(-1, 9), tmp_path / "a.bin"):
        assert open_corpus(model(), corpus).fingerprint == expected
    assert open_corpus(model(), ids[1:]).fingerprint != expected
