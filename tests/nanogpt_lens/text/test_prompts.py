"""Prompts: random where they should be, the same for the same seed, never with hidden repeats."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.model.access import n_tokens
from nanogpt_lens.text.prompts import random_tokens
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


def test_padding_ids_are_never_drawn():
    assert n_tokens(ngl.load("shakespeare_char")) == 65
    assert n_tokens(model()) == 13
