from __future__ import annotations

import itertools
import math

import pytest
import torch

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads import induction
from nanogpt_lens.heads.induction import (
    follows,
    induction_accuracy,
    prefix_matching,
    repeated_and_unrepeated,
    repeated_sequence_loss,
)
from nanogpt_lens.running.batches import losses
from nanogpt_lens.text.prompts import induction_pairs, repeated_tokens
from tests.conftest import convert
from tests.handmade import CONTEXT, INDUCTION, VOCAB, handmade_model
from tests.making import content, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sizes = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 32, "vocab_size": 30}
    folder = write(tmp_path_factory.mktemp("induction"), content(**sizes, seed=3, dtype=torch.float64))
    return convert(read_checkpoint(folder), dtype=torch.float64)


@pytest.fixture(scope="module")
def handmade():
    return handmade_model()


def patterns(model, tokens):
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    return torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.cfg.n_layers)])


def only_the_induction_head(scores, at_least):
    found = [tuple(pair) for pair in (scores.values > at_least).nonzero().tolist()]
    return found == [INDUCTION]


def test_a_perfect_head_scores_one_and_no_other_head_is_found(handmade):
    stripe = prefix_matching(handmade)
    assert stripe.seq_len == CONTEXT // 2
    assert stripe.values[INDUCTION].item() == pytest.approx(1, abs=1e-9)
    olsson = prefix_matching(handmade, convention="olsson")
    assert olsson.provenance["arguments"]["copies"] == 4
    assert olsson.values[INDUCTION].item() == pytest.approx(1, abs=1e-9)
    for scores in (stripe, olsson):
        assert only_the_induction_head(scores, 0.4)
        others = torch.ones(2, 2, dtype=torch.bool)
        others[INDUCTION] = others[0, 1] = False  # 0.1 is the previous-token head, sharper than uniform
        assert torch.allclose(scores.values[others], scores.chance[others], atol=1e-12)
        assert scores.values[0, 1] < scores.chance[0, 1] / 100


def test_a_perfect_head_in_transformer_lens_convention(handmade):
    length = 10
    scores = prefix_matching(handmade, seq_len=length, convention="transformer_lens")
    tokens = repeated_tokens(handmade, seq_len=length)
    resting = patterns(handmade, tokens)[1, :, 0, length - 1, 0].mean()
    assert scores.values[INDUCTION].item() == pytest.approx((length + resting.item()) / (length + 1), abs=1e-9)
    assert only_the_induction_head(scores, 0.4)


@pytest.mark.parametrize("convention", ["stripe", "olsson", "transformer_lens"])
@pytest.mark.parametrize("repeats", ["avoid", "allow"])
def test_prefix_matching_against_plain_loops(model, convention, repeats):
    length, n, copies = 7, 3, 4 if convention == "olsson" else 2
    scores = prefix_matching(model, seq_len=length, n=n, convention=convention, repeats=repeats, seed=2)
    tokens = repeated_tokens(model, seq_len=length, n=n, copies=copies, repeats=repeats, seed=2)
    found = patterns(model, tokens)
    uniform = torch.ones_like(found).tril()
    uniform = uniform / uniform.sum(-1, keepdim=True)
    for pattern, values in ((found, scores.values), (uniform, scores.chance)):
        expected = torch.zeros(2, 3, dtype=torch.float64)
        if convention == "transformer_lens":
            expected = pattern.diagonal(dim1=-2, dim2=-1, offset=1 - length).mean((1, 3))
        else:
            queries = range(length, copies * length)
            for b in range(n):
                for i in queries:
                    for j in range(1, i + 1):
                        matches = tokens[b, j - 1] == tokens[b, i] if convention == "olsson" else j == i - length + 1
                        expected += matches * pattern[:, b, :, i, j] / len(queries) / n
        assert torch.allclose(values, expected, atol=1e-12)
    assert (scores.low <= scores.values).all()
    assert (scores.values <= scores.high).all()


@pytest.mark.parametrize("convention", ["stripe", "olsson", "transformer_lens"])
def test_on_a_corpus_against_plain_loops(model, convention):
    """The corpus has six windows of seven tokens, and one token more: all windows are taken, whatever the seed."""
    length, copies = 7, 4 if convention == "olsson" else 2
    corpus = torch.randint(5, (43,), generator=torch.Generator().manual_seed(0))
    scores = prefix_matching(model, corpus, seq_len=length, n=50, convention=convention)
    tokens = torch.stack([torch.cat([corpus[7 * i : 7 * i + 7]] * copies) for i in range(6)])
    assert scores.sample.n == 6
    assert "7 tokens, windows of the given corpus" in scores.definition
    found = patterns(model, tokens)
    uniform = torch.ones_like(found).tril()
    uniform = uniform / uniform.sum(-1, keepdim=True)
    first = length - 1 if convention == "transformer_lens" else length
    queries = range(first, copies * length)
    for pattern, values in ((found, scores.values), (uniform, scores.chance)):
        expected = torch.zeros(2, 3, dtype=torch.float64)
        for b, i in itertools.product(range(6), queries):
            matches = [i - length + 1]
            if convention == "olsson":
                matches = [j for j in range(1, i + 1) if tokens[b, j - 1] == tokens[b, i]]
            expected += pattern[:, b, :, i, matches].sum(-1) / len(queries) / 6
        assert torch.allclose(values, expected, atol=1e-12)


def test_a_perfect_head_on_a_corpus(handmade):
    """It shares its attention equally among all matches, which are the more, the more tokens are equal."""
    corpus = torch.randint(VOCAB, (200,), generator=torch.Generator().manual_seed(0))
    olsson = prefix_matching(handmade, corpus, convention="olsson")
    assert olsson.values[INDUCTION].item() == pytest.approx(1, abs=1e-9)
    stripe = prefix_matching(handmade, corpus, seq_len=12)
    shares = []
    for start in range(0, 192, 12):
        row = corpus[start : start + 12].tolist() * 2
        shares += [1 / sum(row[j - 1] == row[i] for j in range(1, i + 1)) for i in range(12, 24)]
    assert stripe.values[INDUCTION].item() == pytest.approx(sum(shares) / len(shares), abs=1e-9)
    assert stripe.values[INDUCTION] < 0.95
    assert only_the_induction_head(olsson, 0.4)
    assert only_the_induction_head(stripe, 0.4)


def test_follows():
    tokens = torch.tensor([[5, 7, 5, 5, 7]])
    keys = [[j for j in range(5) if row[j]] for row in follows(tokens)[0]]
    assert keys == [[], [], [1], [1, 3], [2]]


def test_batches_and_precision_change_nothing(model, monkeypatch):
    from nanogpt_lens.running import batches

    whole = prefix_matching(model, n=5).values
    monkeypatch.setattr(batches, "_NUMBERS", 1)
    assert torch.allclose(prefix_matching(model, n=5).values, whole, atol=1e-12)
    low = prefix_matching(handmade_model(dtype=torch.float32))
    assert low.values[INDUCTION].item() == pytest.approx(1, abs=1e-5)


def test_defaults_fit_the_model(tmp_path):
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 128, "vocab_size": 65}
    long = convert(read_checkpoint(write(tmp_path, content(**sizes))))
    layouts = {}
    for convention in ("stripe", "olsson", "transformer_lens"):
        made = prefix_matching(long, convention=convention, n=1)
        layouts[convention] = tuple(made.provenance["arguments"][name] for name in ("seq_len", "copies"))
        assert made.low is None
    assert layouts == {"stripe": (50, 2), "olsson": (25, 4), "transformer_lens": (50, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "detect_head"}, "convention is 'detect_head'"),
        ({"seq_len": 17}, "seq_len is 17; expected 2 to 16"),
        ({"seq_len": 1}, "seq_len is 1"),
        ({"repeats": "never"}, "repeats is 'never'"),
        ({"n": 0}, "n is 0; expected a whole number, 1 or more"),
        ({"n": 2.0}, "n is 2.0"),
        ({"seq_len": 10.5}, "seq_len is 10.5; expected a whole number"),
        ({"seq_len": "10"}, "seq_len is '10'"),
        ({"seed": None}, "seed is None; expected a whole number, 0 or more"),
        ({"seed": True}, "seed is True"),
        ({"corpus": torch.arange(20) + 20}, "the corpus has the token"),
        ({"corpus": torch.arange(8), "seq_len": 16}, "the corpus has 8 tokens; expected at least one window of 16"),
    ],
)
def test_prefix_matching_refuses(model, options, message):
    with pytest.raises(AnalysisError, match=message):
        prefix_matching(model, **options)


# losses


def naive_loss(model, tokens):
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(
            model(tokens, return_type="logits")[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
        )


def test_repeated_and_unrepeated_hold_the_same_sequences(model):
    repeated, unrepeated = repeated_and_unrepeated(model, seq_len=9, n=6)
    assert torch.equal(repeated[:, :9], repeated[:, 9:])
    assert torch.equal(repeated[:, 9:], unrepeated[:, 9:])
    assert not (unrepeated[:, :9] == unrepeated[:, 9:]).all(1).any()
    assert sorted(unrepeated[:, :9].tolist()) == sorted(repeated[:, :9].tolist())


def test_repeated_sequence_loss_of_the_handmade_model(handmade):
    scores = repeated_sequence_loss(handmade)
    first, seam, second = slice(0, 11), 11, slice(12, 23)
    repeated, unrepeated = scores.at(condition="repeated"), scores.at(condition="unrepeated")
    assert scores.labels["pos"][seam] == "12"  # the first token of the second copy
    assert torch.allclose(repeated[first], unrepeated[first], atol=1e-9)  # the same sequences, in other rows
    assert (repeated[second] < 0.05).all()
    assert (unrepeated[second] > 2).all()
    assert (scores.at(condition="shuffled")[second] > 2).all()
    assert (repeated[seam] - unrepeated[seam]).abs() < 2
    assert scores.chance.unique().tolist() == pytest.approx([math.log(VOCAB)])


def test_repeated_sequence_loss_against_torch(model):
    corpus = torch.randint(30, (500,), generator=torch.Generator().manual_seed(0))
    for source in (None, corpus):
        scores = repeated_sequence_loss(model, source, seq_len=8, n=5, seed=3)
        both = repeated_and_unrepeated(model, source, seq_len=8, n=5, seed=3)
        expected = torch.stack([naive_loss(model, tokens).mean(0) for tokens in both])
        assert torch.allclose(scores.values[[0, 2]], expected, atol=1e-9)
        assert (scores.low <= scores.values).all()
        assert (scores.values <= scores.high).all()
    assert (scores.values[1] - scores.values[[0, 2]]).abs().amin() > 1e-6  # another order, other losses
    pieces = {tuple(corpus[i : i + 8].tolist()) for i in range(0, 500, 8)}
    assert {tuple(row) for row in both[0][:, :8].tolist()} <= pieces


def test_shuffled_sequences_end_alike_and_begin_with_the_same_tokens(model, monkeypatch):
    seen = []
    monkeypatch.setattr(induction, "losses", lambda model, tokens: (seen.append(tokens), losses(model, tokens))[1])
    repeated_sequence_loss(model, seq_len=9, n=6)
    repeated, shuffled, unrepeated = seen
    assert torch.equal(shuffled[:, 9:], repeated[:, 9:])
    assert torch.equal(shuffled[:, :9].sort(1).values, repeated[:, :9].sort(1).values)
    assert not (shuffled[:, :9] == repeated[:, :9]).all(1).any()
    assert torch.equal(unrepeated[:, 9:], repeated[:, 9:])


def test_one_sequence_has_no_control(model):
    with pytest.raises(AnalysisError, match="there is 1 sequence of 8 tokens; expected at least 2"):
        repeated_sequence_loss(model, seq_len=8, n=1)


def test_the_handmade_model_completes_induction_prompts(handmade):
    scores = induction_accuracy(handmade)
    assert scores.at(score="accuracy", prompt="clean") == 1
    assert scores.at(score="probability", prompt="clean") > 0.99
    assert scores.at(score="accuracy", prompt="corrupted") < 0.2
    assert scores.at(score="probability", prompt="corrupted") < 0.2


def test_induction_accuracy_against_plain_loops(model):
    scores = induction_accuracy(model, seq_len=9, n=20, seed=4)
    pair = induction_pairs(model, seq_len=9, n=20, seed=4)
    for column, tokens in enumerate((pair.clean, pair.corrupted)):
        hits, probability, distinct = 0, 0.0, 0.0
        for row, answer in zip(tokens, pair.answer.tolist(), strict=True):
            with torch.no_grad():
                logits = model(row[None], return_type="logits")[0, -1]
            hits += int(logits.argmax()) == answer
            probability += logits.softmax(-1)[answer].item()
            distinct += 1 / len(set(row.tolist()))
        assert scores.values[:, column].tolist() == pytest.approx([hits / 20, probability / 20])
        assert scores.chance[:, column].tolist() == pytest.approx([distinct / 20] * 2)
    assert scores.chance[0].tolist() == pytest.approx([1 / 8, 1 / 9])  # [A] is twice in a clean prompt


@pytest.mark.parametrize("options", [{"seed": None}, {"n": 0}, {"n": "4"}])
@pytest.mark.parametrize("measure", [repeated_sequence_loss, repeated_and_unrepeated, induction_accuracy])
def test_counts_and_seeds_are_whole_numbers(model, measure, options):
    with pytest.raises(AnalysisError, match=f"{next(iter(options))} is .*; expected a whole number"):
        measure(model, **options)


def test_lengths_are_whole_numbers(model):
    with pytest.raises(AnalysisError, match="seq_len is 9.5; expected a whole number"):
        induction_accuracy(model, seq_len=9.5)
    with pytest.raises(AnalysisError, match="seq_len is 9.5; expected a whole number"):
        repeated_sequence_loss(model, seq_len=9.5)


def test_too_short_prompts_are_refused(model):
    with pytest.raises(AnalysisError, match="prompts of 3 tokens"):
        induction_accuracy(model, seq_len=3)
