"""Which earlier place belongs to which, by hand and by loops."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.text.corpus import open_corpus
from nanogpt_lens.text.syntax import PLACES, places_of_classes
from tests.making import content, write
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, no_tokenizer, random_checkpoint

TEXT = "First Lord:\nO'er the sea. No: I\nsay not!\n\nKING:\nIt's so, Lord. Go\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("syntax"))


def belonging(model, text, name):
    """For every character of a text, read as one sequence, the earlier ones that belong to it."""
    sequences = open_corpus(model, text).sequences(seq_len=8)
    n = sequences.n_tokens
    found = places_of_classes(model, sequences, np.arange(n)[None], [name])
    assert found.names == (name,)
    seen = {}
    for i in range(n):
        backs = [back for back in range(1, i + 1) if found.to[0, 0, i, back - 1]]
        if backs:
            seen[i] = [i - back for back in reversed(backs)]
    return seen


def test_starts_are_seen_by_all_that_follow(model):
    for name, pattern in (("word_start", r"(?<![\w'])\w"), ("line_start", r"(?m)^[^\n]")):
        places = [m.start() for m in re.finditer(pattern, TEXT)]
        for i, found in belonging(model, TEXT, name).items():
            assert found == [place for place in places if place < i]
    vowels = [
        i for i in range(1, len(TEXT)) if TEXT[i].lower() in "aeiou" and TEXT[i - 1].lower() in "bcdfghjklmnpqrstvwxyz"
    ]
    assert belonging(model, TEXT, "vowel_after_consonant")[len(TEXT) - 1] == vowels
    names = [*range(len("First Lord")), *range(TEXT.index("KING"), TEXT.index("KING") + 4)]
    assert belonging(model, TEXT, "speaker_name")[len(TEXT) - 1] == names


def test_own_starts(model):
    words = {i: [m.start()] for m in re.finditer(r"[A-Za-z']+", TEXT) for i in range(m.start() + 1, m.end())}
    assert belonging(model, TEXT, "own_word_start") == words
    lines = {i: [m.start()] for m in re.finditer(r"[^\n]+\n?", TEXT) for i in range(m.start() + 1, m.end())}
    assert belonging(model, TEXT, "own_line_start") == lines
    spans = [m.span() for m in re.finditer(r"[A-Za-z']+", TEXT)]
    middles = {i: list(range(a + 1, i)) for a, b in spans for i in range(a + 2, b)}
    assert belonging(model, TEXT, "own_word_middle") == middles
    assert belonging(model, TEXT, "own_word_break") == {i: [a - 1] for a, b in spans if a for i in range(a, b)}
    breaks = [m.span() for m in re.finditer(r"[^\n]+\n?", TEXT)]
    assert belonging(model, TEXT, "own_line_break") == {i: [a - 1] for a, b in breaks if a for i in range(a, b)}
    starts = [0, TEXT.index("No"), TEXT.index("KING"), TEXT.index("Go")]
    sentences = {i: [max(s for s in starts if s <= i)] for i in range(len(TEXT)) if i not in starts}
    assert belonging(model, TEXT, "own_sentence_start") == sentences


def test_speakers(model):
    king, first = TEXT.index("KING"), len("First Lord")
    expected = {i: list(range(first)) for i in range(first, king)}
    expected |= {i: list(range(king, king + 4)) for i in range(king + 4, len(TEXT))}
    assert belonging(model, TEXT, "own_speaker") == expected
    inside = {i: list(range(start, i)) for start, end in ((0, first), (king, king + 4)) for i in range(start + 1, end)}
    assert belonging(model, TEXT, "same_name") == inside


def char_model(folder, text):
    """A random model whose characters are those of a text."""
    from tests.making import write_meta

    chars = sorted(set(text))
    write_meta(folder, chars)
    return ngl.load(write(folder, content(vocab_size=len(chars))))


BRACKETS = 'f(a[i], {"k": (b)}) ) "x\n\ny" “q” (z'


def test_brackets_and_quotes(tmp_path):
    model = char_model(tmp_path, BRACKETS)
    found = belonging(model, BRACKETS, "own_bracket")
    waiting, expected = [], {}
    for i, char in enumerate(BRACKETS[: BRACKETS.index(") )") + 1]):
        if waiting:
            expected[i] = [waiting[-1]]
        if char in "([{":
            waiting.append(i)
        elif char in ")]}":
            waiting.pop()
    assert found == expected  # the one that closes nothing, and the one that nothing closes, belong to none
    quoted = [(m.start(), m.end()) for m in re.finditer(r'"k"|“q”', BRACKETS)]
    assert belonging(model, BRACKETS, "own_quote") == {i: [a] for a, b in quoted for i in range(a + 1, b)}


def test_what_lies_before_a_sequence_and_in_another_text(model):
    sequences = open_corpus(model, TEXT).sequences(seq_len=8)
    at = np.arange(8, 24).reshape(2, 8)
    to = places_of_classes(model, sequences, at, ["own_line_start"]).to[0]
    assert to[1, 4].nonzero().flatten().tolist() == []  # 8 back: more than the sequence has
    assert to[1, 1].nonzero().flatten().tolist() == [4]  # five back, before the sequence begins
    rows = open_corpus(model, torch.stack([open_corpus(model, TEXT).tokens(0, 8)] * 2)).sequences()
    found = places_of_classes(model, rows, np.arange(16).reshape(2, 8), ["own_word_start", "line_start"])
    assert torch.equal(found.to[:, 0], found.to[:, 1])
    assert not (found.to[:, :, torch.arange(8)[:, None] < torch.arange(1, 8)]).any()


def test_classes_that_a_text_lacks_are_told(model):
    sequences = open_corpus(model, TEXT).sequences(seq_len=8)
    at = np.arange(64).reshape(8, 8)
    found = places_of_classes(model, sequences, at)
    assert {*found.names, *found.absent} == set(PLACES)
    assert set(found.absent) == {"own_bracket", "own_quote"}
    with pytest.raises(AnalysisError, match="has no own_bracket .* leave it out"):
        places_of_classes(model, sequences, at, ["own_bracket"])
    with pytest.raises(AnalysisError, match=r"no class 'word_strat'; .* did you mean 'word_start'\?"):
        places_of_classes(model, sequences, at, ["word_strat"])
    for wrong in ([], "word_start", ["word_start", "word_start"]):
        with pytest.raises(AnalysisError, match="expected names of classes, each once"):
            places_of_classes(model, sequences, at, wrong)


def test_a_text_with_nothing_in_it(model):
    """A row may have no sentence, no name, no word: it has none of the places, and nothing fails."""
    rows = model.tokenizer.encoder.encode("\n" * 8 + " x; y; z")
    sequences = open_corpus(model, torch.from_numpy(np.array(rows)).view(2, 8).long()).sequences()
    found = places_of_classes(model, sequences, np.arange(16).reshape(2, 8))
    assert not found.to[:, 0].any()
    assert {"word_start", "own_word_break"} <= set(found.names)
    assert "own_speaker" in found.absent


def test_a_model_without_a_vocabulary(tmp_path):
    model = no_tokenizer(random_checkpoint(tmp_path, meta=False))
    sequences = open_corpus(model, torch.arange(60)).sequences(seq_len=8)
    with pytest.raises(AnalysisError, match="no vocabulary"):
        places_of_classes(model, sequences, np.arange(56).reshape(7, 8))


def test_tokens_of_several_characters(tmp_path):
    """A token looks back from its last character, and belongs where any of its characters does."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT * 20], vocab_size=280, show_progress=False)
    folder = tmp_path / "bpe"
    folder.mkdir()
    write(folder, content(vocab_size=bpe.get_vocab_size()))
    bpe.save(str(folder / "tokenizer.json"))
    model = ngl.load(folder)
    ids = bpe.encode(TEXT).ids
    pieces = [bpe.decode([i]) for i in ids]
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    expected = {}
    for m in re.finditer(r"[A-Za-z']+", TEXT):
        holder = next(j for j in range(len(ids)) if starts[j] <= m.start() < ends[j])
        for j in range(holder + 1, len(ids)):
            if m.start() < ends[j] - 1 < m.end():
                expected[j] = [holder]
    assert len(pieces) < len(TEXT)
    assert belonging(model, TEXT, "own_word_start") == expected
