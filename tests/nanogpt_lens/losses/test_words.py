"""Distinct-n and dictionary words: by hand, against plain sets over `generate`'s text, and where they must be low."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.losses.on_text import text_loss
from nanogpt_lens.losses.words import distinct, text_quality, words_of
from nanogpt_lens.text.datasets import TextData, read_data, shakespeare
from tests.conftest import convert
from tests.making import CHARS, write, write_meta

PIECES, EACH = 4, 8
SMALL = {"words": PIECES * EACH, "pieces": PIECES, "progress": False}
SAMPLED, TRAINING, VALIDATION = range(3)


def data_of(train, val, name="tiny"):
    """A text in two parts."""
    vocabulary = CharVocabulary(tuple(sorted(set(train + val))))
    return TextData(
        train=vocabulary.encode(train).astype(np.uint16),
        val=vocabulary.encode(val).astype(np.uint16),
        vocabulary=vocabulary,
        name=name,
    )


@pytest.fixture(scope="module")
def plays():
    known = set(CHARS)
    text = "".join(islice((char for char in shakespeare() if char in known), 60_000))
    return data_of(text[:50_000], text[50_000:], "plays")


@pytest.fixture
def model(tmp_path):
    write_meta(tmp_path)
    return convert(read_checkpoint(write(tmp_path)))


def uniform(model):
    """Every character is as likely as any other."""
    model.unembed.W_U.data.zero_()
    model.unembed.b_U.data.zero_()
    return model


def share(texts, n):
    """Distinct-n, as a reader of its definition would write it."""
    grams = [" ".join(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams)


def test_words_by_hand():
    text = "ROMEO:\nO, she's well-known--a 'tis o’er 3 x2y ''; 'Twas\n"
    assert words_of(text) == ["romeo", "o", "she's", "well", "known", "a", "'tis", "o'er", "x", "y", "'twas"]
    assert words_of("Ça ne_va\tpas") == ["ça", "ne", "va", "pas"]
    assert words_of("'' 12 -\n") == []


def test_distinct_by_hand():
    texts = [["a", "b", "a", "b"], ["a", "b", "c", "a"]]
    assert distinct(texts, 1)[0] == 3 / 8
    assert distinct(texts, 2)[0] == 4 / 6  # ab, ba, bc, ca; the last word of one piece and the first of the next: none
    assert distinct(texts, 3)[0] == 4 / 4  # aba, bab, abc, bca
    assert distinct(texts, 1)[1].tolist() == [3 / 4, 2 / 4]  # without the first piece, without the second
    assert distinct(texts, 2)[1].tolist() == [3 / 3, 2 / 3]
    assert distinct([["a"] * 5] * 3, 2)[0] == 1 / 12


def test_the_pieces_values_are_the_jackknifes_by_brute_force(model, plays):
    found = text_quality(model, plays, **SMALL)
    texts = sampled_words(model, seed=0)
    for n in (1, 2, 3):
        whole = share(texts, n)
        without = [share(texts[:i] + texts[i + 1 :], n) for i in range(PIECES)]
        pseudo = np.array([PIECES * whole - (PIECES - 1) * w for w in without])
        expected = pseudo + whole - pseudo.mean()
        assert found.per_example is not None
        assert found.per_example[n - 1, SAMPLED].tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def sampled_words(model, *, seed, temperature=1.0):
    """What `generate`, which is tested against nanoGPT's loop, writes after a line break."""
    start = torch.full((PIECES, 1), CHARS.index("\n"))
    ids = ngl.generate(model, start, max_new_tokens=300, temperature=temperature, top_k=None, seed=seed)
    return [words_of("".join(CHARS[i] for i in row))[:EACH] for row in ids.tolist()]


@pytest.mark.parametrize(("seed", "temperature"), [(0, 1.0), (3, 1.0), (3, 1.5)])
def test_scores_of_the_text_that_generate_writes(model, plays, seed, temperature):
    found = text_quality(model, plays, seed=seed, temperature=temperature, **SMALL)
    texts = sampled_words(model, seed=seed, temperature=temperature)
    assert all(len(text) == EACH for text in texts)
    known = set(words_of(plays.vocabulary.decode(plays.train)))
    right = [word in known for text in texts for word in text]
    expected = [*(share(texts, n) for n in (1, 2, 3)), sum(right) / len(right)]
    assert found.at(source="sampled").tolist() == pytest.approx(expected, abs=1e-12)
    assert found.axes == ("score", "source")
    assert found.labels["source"] == ("sampled", "training", "validation")
    assert found.labels["score"] == ("distinct_1", "distinct_2", "distinct_3", "dictionary_words")


def test_the_texts_own_parts(model):
    """Training: one word throughout. Validation: new words, no two alike, but each second one known."""
    words = [a + b for a in "abcdefgh" for b in "abcdefgh"][: PIECES * EACH // 2]
    data = data_of("Well, " * 50, " ".join(f"well-{word}" for word in words))
    found = text_quality(model, data, **SMALL)
    n = PIECES * EACH
    grams = [n - (k - 1) * PIECES for k in (1, 2, 3)]
    assert found.at(source="training").tolist() == [1 / grams[0], 1 / grams[1], 1 / grams[2], 1]
    assert found.score("dictionary_words")[VALIDATION] == 0.5
    assert found.score("distinct_1")[VALIDATION] == (1 + n / 2) / n
    assert found.score("distinct_2")[VALIDATION] == 1.0


def test_pieces_are_drawn_without_overlap(model):
    """As many pieces as the text has: all of it, whatever the seed; of a longer one some, by the seed."""
    letters = "abcdefghij"
    words = [a + b + c for a in letters for b in letters for c in letters]
    first = " ".join(words[: PIECES * EACH])
    longer = " ".join(w if i % 3 else "x" for i, w in enumerate(words[: 3 * PIECES * EACH]))
    found = [text_quality(model, data_of(first, longer), seed=seed, **SMALL) for seed in (0, 1)]
    for one in found:
        assert one.score("distinct_1")[TRAINING] == 1.0
    assert found[0].score("dictionary_words")[VALIDATION] != found[1].score("dictionary_words")[VALIDATION]


def test_uniform_characters_make_few_words_that_exist(model, plays):
    found = text_quality(uniform(model), plays, words=400, pieces=8, progress=False)
    exist = found.score("dictionary_words")
    assert exist[SAMPLED] < 0.15 < 0.7 < exist[VALIDATION] < exist[TRAINING] == 1.0
    assert found.score("distinct_1")[SAMPLED] > found.score("distinct_1")[TRAINING]  # varied, and nonsense
    assert found.high is not None
    assert found.low is not None
    assert found.high[3, SAMPLED] < found.low[3, VALIDATION]


def test_a_model_that_repeats_itself_is_not_varied(model, plays):
    varied = text_quality(uniform(model), plays, **SMALL)
    model.unembed.b_U.data[[CHARS.index("e"), CHARS.index(" ")]] = torch.tensor([100.0, 102.0])  # e, e, ee, e, ...
    dull = text_quality(model, plays, **SMALL)
    for n in (1, 2, 3):
        assert dull.score(f"distinct_{n}")[SAMPLED] < 0.9 < varied.score(f"distinct_{n}")[SAMPLED]


def test_intervals_hold_the_values_and_are_those_of_the_pieces(model, plays):
    found = text_quality(model, plays, seed=5, **SMALL)
    assert found.per_example is not None
    assert found.low is not None
    assert found.high is not None
    assert found.per_example.shape == (4, 3, PIECES)
    assert torch.allclose(found.per_example.mean(-1), found.values, atol=1e-12)
    ends = t_interval(found.per_example)
    assert ends is not None
    assert torch.equal(found.low, ends[0])
    assert torch.equal(found.high, ends[1])
    assert (found.low <= found.values + 1e-12).all()
    assert (found.values <= found.high + 1e-12).all()
    assert (found.low[:, VALIDATION] < found.high[:, VALIDATION])[[0, 3]].all()
    assert (found.low[:, TRAINING] == found.high[:, TRAINING]).tolist()[3]


def test_the_jackknifes_interval_is_as_wide_as_the_scatter_of_new_texts():
    """Words drawn by Zipf's law: the spread of distinct-1 over new texts, and what one text says about it."""
    from nanogpt_lens.losses.words import _scores

    generator = np.random.default_rng(0)
    chances = 1 / np.arange(1, 3001)
    values, widths = [], []
    for _ in range(60):
        drawn = generator.choice(3000, (16, 50), p=chances / chances.sum())
        per_piece = _scores([[str(w) for w in row] for row in drawn], frozenset())[:1]
        ends = t_interval(per_piece)
        assert ends is not None
        values.append(float(per_piece.mean()))
        widths.append(float(ends[1] - ends[0]))
    assert np.mean(widths) / (2 * 1.96) == pytest.approx(np.std(values), rel=0.3)


def test_seeds_and_what_is_left_behind(model, plays):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model.train()
    one, again, other = (text_quality(model, plays, seed=seed, **SMALL) for seed in (1, 1, 2))
    assert torch.equal(one.per_example, again.per_example)
    assert not torch.equal(one.per_example, other.per_example)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_it_is_saved_and_drawn(model, plays, tmp_path):
    found = text_quality(model, plays, words=43, pieces=4, progress=False)
    assert found.provenance["arguments"]["words"] == 40  # whole words per piece
    read = ngl.load_result(found.save(tmp_path / "kept"))
    assert torch.equal(read.values, found.values)
    assert read.labels == found.labels
    assert found.plot() is not None
    assert ngl.text_loss is text_loss
    assert ngl.text_loss is text_loss  # at the second access too, when its module has been imported


def test_padding_is_never_sampled(tmp_path, plays):
    """nanoGPT pads some vocabularies; rows 65 to 95 are no characters."""
    write_meta(tmp_path)
    padded = convert(read_checkpoint(write(tmp_path, vocab_size=96)))
    padded.unembed.b_U.data[80] = 100.0
    assert text_quality(padded, plays, **SMALL).shape == {"score": 4, "source": 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"words": 11, "pieces": 4}, "words is 11; expected a whole number, 12 or more"),
        ({"words": 20.5}, "words is 20.5"),
        ({"pieces": 1}, "pieces is 1; expected a whole number, 2 or more"),
        ({"temperature": 0}, "temperature is 0; expected a number of at least 0.001"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"seed": -1}, "seed is -1"),
        ({"words": 10**5}, "the training part has .* words; expected at least 100000, 4 pieces of 25000"),
    ],
)
def test_options_it_refuses(model, plays, options, words):
    with pytest.raises(ngl.AnalysisError, match=words):
        text_quality(model, plays, **{**SMALL, **options})


def test_data_it_refuses(model, plays, tmp_path):
    with pytest.raises(ngl.AnalysisError, match="the validation part has 3 words; expected at least 32"):
        text_quality(model, data_of("a b " * 100, "a b c"), **SMALL)
    tokens = TextData(train=plays.train, val=plays.val, vocabulary=None, name="tokens")
    with pytest.raises(ngl.AnalysisError, match="tokens has no character vocabulary"):
        text_quality(model, tokens, **SMALL)
    with pytest.raises(ngl.NanoGPTLensError, match="does not exist"):
        text_quality(model, tmp_path / "nothing.txt", **SMALL)
    file = tmp_path / "text.txt"
    file.write_text(plays.vocabulary.decode(plays.train))
    assert torch.equal(text_quality(model, file, **SMALL).values, text_quality(model, read_data(file), **SMALL).values)


def test_models_it_refuses(model, plays, tmp_path):
    with pytest.raises(ngl.AnalysisError, match="has no vocabulary"):
        text_quality(convert(read_checkpoint(write(tmp_path / "none"))), plays, **SMALL)
    pairs = Tokenizer(
        models.WordLevel({f"{a}{b}": 26 * i + j for i, a in enumerate("abcd") for j, b in enumerate("efgh")})
    )
    folder = tmp_path / "pairs"
    write(folder, vocab_size=96)
    pairs.save(str(folder / "tokenizer.json"))
    with pytest.raises(ngl.AnalysisError, match="tokens are not single characters"):
        text_quality(convert(read_checkpoint(folder)), plays, **SMALL)
    with pytest.raises(ngl.AnalysisError, match="HookedTransformer"):
        text_quality(torch.nn.Linear(2, 2), plays, **SMALL)
    model.unembed.b_U.data[CHARS.index("\n")] = 100.0
    with pytest.raises(ngl.AnalysisError, match="has 0 words; expected 8: the model hardly writes words"):
        text_quality(model, plays, **SMALL)


@pytest.mark.parametrize(("chars", "lacking"), [("abcde'", "separates words"), ("0123' \n", "letter")])
def test_vocabularies_without_words(tmp_path, plays, chars, lacking):
    write_meta(tmp_path, chars)
    bare = convert(read_checkpoint(write(tmp_path, vocab_size=len(chars))))
    with pytest.raises(ngl.AnalysisError, match=lacking):
        text_quality(bare, plays, **SMALL)


def test_a_vocabulary_without_a_line_break_starts_after_another_separator(tmp_path, plays):
    write_meta(tmp_path, "abc ,")
    assert text_quality(convert(read_checkpoint(write(tmp_path, vocab_size=5))), plays, **SMALL).values.isfinite().all()
