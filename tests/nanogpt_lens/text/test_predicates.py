from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, pre_tokenizers

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.text.corpus import open_corpus
from nanogpt_lens.text.predicates import CLASSES, RULES, spans, token_class
from tests.making import content, write
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, no_tokenizer, random_checkpoint

TEXT = "First Lord:\nO'er the sea, say I!\nNo: not\n\nKING HENRY:\n\nQ: it's done.\nWho:\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("predicates"))


def marked(model, predicate, text=TEXT):
    """The text, other characters than those of the class as dots."""
    mask, _ = token_class(model, open_corpus(model, text).sequences(), predicate)
    return "".join(char if inside else "." for char, inside in zip(text.replace("\n", "/"), mask, strict=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("upper_case", "F.....L.....O...............I..N........KING.HENRY...Q............W...."),
        ("punctuation", "..........:..'..........,......!...:.............:....:....'......:"),
    ],
)
def test_classes_of_characters(model, name, expected):
    found = marked(model, name)
    holds = {"upper_case": str.isupper, "punctuation": lambda c: c in ":',!."}[name]
    assert found == "".join(c if holds(c) else "." for c in TEXT.replace("\n", "/"))
    assert found[: len(expected) // 3] == expected[: len(expected) // 3]


def test_rules_of_position(model):
    assert marked(model, "speaker_name") == "First Lord" + "." * 32 + "KING HENRY" + "." * (len(TEXT) - 52 - 0)
    starts = [i + 1 for i, char in enumerate(TEXT[:-1]) if char == "\n"]
    found = marked(model, "after_newline")
    assert [i for i, char in enumerate(found) if char != "."] == [
        i for i in starts if TEXT[i] != "."
    ]  # another newline counts
    lines = [0, *starts]
    expected = [i for i in lines if TEXT[i] != "\n"]
    assert [i for i, char in enumerate(marked(model, "line_start")) if char != "."] == expected
    words = [match.start() for match in re.finditer(r"[A-Za-z']+", TEXT)]
    assert [i for i, char in enumerate(marked(model, "word_start")) if char != "."] == words
    ends = [match.end() - 1 for match in re.finditer(r"[A-Za-z']+", TEXT)]
    assert [i for i, char in enumerate(marked(model, "word_end")) if char != "."] == ends
    mask, _ = token_class(model, open_corpus(model, TEXT).sequences(), "sentence_end")
    assert [TEXT[i - 1 : i + 1] for i in mask.nonzero()[0]] == ["I!", "e."]
    mask, _ = token_class(model, open_corpus(model, TEXT).sequences(), "sentence_start")
    assert [TEXT[i : i + 3] for i in mask.nonzero()[0]] == ["Fir", "No:", "Who"]
    mask, _ = token_class(model, open_corpus(model, TEXT).sequences(), "line_end")
    assert [TEXT[i - 1 : i + 2] for i in mask.nonzero()[0]] == ["d:\n", "I!\n", "ot\n", "Y:\n", "e.\n", "o:\n"]


def test_every_named_class_is_usable(model):
    text = TEXT + "3"
    for name in [*CLASSES, *RULES]:
        if name != "digit":  # the 3 is among the model's characters
            assert 0 < token_class(model, open_corpus(model, text).sequences(), name)[0].sum() < len(text)


def test_expressions_sets_functions_and_masks(model):
    vowels = marked(model, "vowel")
    assert marked(model, "re:[aeiouAEIOU]") == marked(model, re.compile("[aeiou]", re.IGNORECASE)) == vowels
    assert marked(model, set("aeiouAEIOU")) == marked(model, frozenset("aeiouAEIOU")) == vowels
    assert marked(model, lambda text: np.array([c in "aeiouAEIOU" for c in text])) == vowels
    assert marked(model, lambda text: [c in "aeiouAEIOU" for c in text]) == vowels
    mask = torch.tensor([c in "aeiouAEIOU" for c in TEXT])
    assert marked(model, mask) == marked(model, mask.numpy()) == vowels
    assert marked(model, r"re:s(?P<at>e)a") == "." * TEXT.index("ea,") + "e" + "." * (len(TEXT) - TEXT.index("ea,") - 1)
    optional = marked(model, r"re:it|s(?P<at>e)a")  # a match in which the group takes no part counts for nothing
    assert optional == marked(model, r"re:s(?P<at>e)a")


def test_the_whole_text_is_looked_at_not_the_sequences(model):
    text = "a" * 11 + "\n" + "b" * 12  # the newline ends the first sequence of 12
    mask, _ = token_class(model, open_corpus(model, text).sequences(), "after_newline")
    assert mask.nonzero()[0].tolist() == [12]


def test_rows_are_texts_of_their_own(model):
    ids = model.tokenizer.encode("ab\ncd\n")
    rows = torch.tensor(ids).view(2, 3)
    mask, _ = token_class(model, open_corpus(model, rows).sequences(), "line_start")
    assert mask.tolist() == [True, False, False, True, False, False]
    with pytest.raises(AnalysisError, match="after_newline holds for no token"):
        token_class(model, open_corpus(model, rows).sequences(), "after_newline")


@pytest.fixture(scope="module")
def subwords(tmp_path_factory):
    """A model with a tiny byte-level BPE, in which a character may be several tokens."""
    folder = tmp_path_factory.mktemp("subwords")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["the Cat sat on the Mat\nThe Cat"] * 20, vocab_size=280, min_frequency=2)
    trained.save(str(folder / "tokenizer.json"))
    write(folder, content(n_layer=1, n_head=2, n_embd=16, block_size=12, vocab_size=300))
    return ngl.load(folder)


def test_tokens_of_several_characters(subwords):
    text = "the Cat sat\nThe Mat é on"
    ids = np.array(subwords.tokenizer.encode(text))
    found, starts, ends = spans(subwords, ids)
    assert found == text
    pieces = [found[a:b] for a, b in zip(starts, ends, strict=True)]
    assert " Cat" in pieces
    assert pieces.count(" é") + pieces.count("é") >= 2
    mask, _ = token_class(subwords, open_corpus(subwords, text).sequences(), "upper_case")
    assert [p for p, inside in zip(pieces, mask, strict=True) if inside] == [
        p for p in pieces if any(c.isupper() for c in p)
    ]
    mask, _ = token_class(subwords, open_corpus(subwords, text).sequences(), "re:é")
    assert mask.sum() >= 2


def test_spaces_that_a_tokenizer_puts_in_front(tmp_path):
    core = Tokenizer(models.WordLevel({"▁the": 0, "▁Cat": 1, "▁sat": 2, "?": 3}, unk_token="?"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    write(tmp_path, content(n_layer=1, n_head=2, n_embd=16, block_size=12, vocab_size=8))
    core.save(str(tmp_path / "tokenizer.json"))
    model = ngl.load(tmp_path)
    text, starts, ends = spans(model, np.array([0, 1, 2]))
    assert text == "the Cat sat"
    assert [text[a:b] for a, b in zip(starts, ends, strict=True)] == ["the", " Cat", " sat"]


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("uppercase", "there is no class 'uppercase'; expected one of upper_case"),
        ("re:(", "is no regular expression"),
        ("re:ZZZ", "re:ZZZ holds for no token"),
        (lambda text: np.ones(len(text), dtype=bool), "holds for every token"),
        (lambda text: np.zeros(3, dtype=bool), "the predicate returned bool of shape \\[3\\]"),
        (lambda text: np.zeros(len(text)), "the predicate returned float64"),
        (torch.zeros(5, dtype=torch.bool), "expected booleans, one for each of the"),
        (torch.zeros(len(TEXT)), "expected booleans"),
        ({"ab"}, "expected a class' name"),
        (set(), "expected a class' name"),
        (7, "the predicate is 7"),
    ],
)
def test_bad_input(model, predicate, message):
    with pytest.raises(AnalysisError, match=message):
        token_class(model, open_corpus(model, TEXT).sequences(), predicate)


def test_without_a_vocabulary_only_a_mask_works(tmp_path):
    model = no_tokenizer(random_checkpoint(tmp_path, meta=False))
    ids = torch.arange(20)
    with pytest.raises(AnalysisError, match="no vocabulary.*boolean mask"):
        token_class(model, open_corpus(model, ids).sequences(), "upper_case")
    assert token_class(model, open_corpus(model, ids).sequences(), ids > 15)[0].sum() == 4
