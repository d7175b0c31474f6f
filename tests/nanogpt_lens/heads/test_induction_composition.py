"""The circuit against the handmade one, and against patterns and whole matrices."""

from __future__ import annotations

import pytest
import torch

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads import induction_composition as induction_circuit
from nanogpt_lens.heads.composition import composition_scores
from nanogpt_lens.heads.induction_composition import induction_composition
from nanogpt_lens.text.prompts import repeated_tokens
from tests.conftest import convert
from tests.handmade import CONTEXT, VOCAB, handmade_model
from tests.making import content, write

SIZES = {"n_layer": 3, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 20}


def random_model(folder, seed=0, **options):
    """Its folded weights are those that composition is defined on."""
    made = content(**{**SIZES, **options}, seed=seed, dtype=torch.float64)
    return convert(read_checkpoint(write(folder, made)), dtype=torch.float64, process_weights=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("circuit"))


@pytest.fixture(scope="module")
def handmade():
    return handmade_model()


@pytest.mark.parametrize("text", [False, True])
def test_the_handmade_circuit_is_found(handmade, text):
    corpus = torch.randint(VOCAB, (400,), generator=torch.Generator().manual_seed(0)) if text else None
    scores = induction_composition(handmade, corpus)
    assert (scores.sender, scores.receiver) == ("0.1", "1.0")
    assert "K-composition of 0.1, " in scores.definition
    assert "with 1.0, " in scores.definition
    assert scores.score("previous_token").item() == pytest.approx(1, abs=1e-9)
    assert scores.score("prefix_matching") > (0.6 if text else 1 - 1e-9)  # equal tokens in text share the attention
    by_hand = VOCAB**-0.5  # both matrices are VOCAB equal singular values, on the same directions
    assert scores.score("k_composition").item() == pytest.approx(by_hand, abs=1e-9)
    every = composition_scores(handmade).values
    assert scores.score("k_composition").item() == pytest.approx(every[0, 1, 1, 0].item(), abs=1e-12)
    assert (every[0, :, 1].nan_to_num() > scores.chance[0]).sum() == 1
    assert (scores.low[1:] <= scores.values[1:] + 1e-12).all()
    assert (scores.values[1:] <= scores.high[1:] + 1e-12).all()
    assert scores.low[0].isnan()


def means(model, tokens, read):
    """[layer, head], of what `read` takes from the patterns [example, head, query, key]."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    return torch.stack([read(cache[f"blocks.{i}.attn.hook_pattern"]).mean((0, 2)) for i in range(3)])


def previous(pattern):
    return pattern.diagonal(dim1=-2, dim2=-1, offset=-1)


def stripe(pattern):
    return pattern.diagonal(dim1=-2, dim2=-1, offset=-7)[..., 1:]


def test_against_patterns_and_whole_matrices(tmp_path):
    """Copies of eight tokens: the stripe is seven back. Over these seeds the rule that the sender is earlier counts."""
    decided = 0
    for seed in range(6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        model = random_model(folder, seed)
        corpus = torch.randint(20, (16 * 9,), generator=torch.Generator().manual_seed(seed))
        repeated = corpus.view(18, 8).repeat(1, 2)
        random = repeated_tokens(model, seq_len=8, n=32)
        for given, matched, read in ((None, random, random), (corpus, repeated, corpus.view(9, 16))):
            scores = induction_composition(model, given)
            matching, back = means(model, matched, stripe), means(model, read, previous)
            receiver = max(((layer, head) for layer in (1, 2) for head in range(2)), key=lambda at: matching[at])
            earlier = [(layer, head) for layer in range(receiver[0]) for head in range(2)]
            sender = max(earlier, key=lambda at: back[at])
            decided += back[sender] < back.max() or matching[receiver] < matching.max()
            assert scores.sender == f"{sender[0]}.{sender[1]}"
            assert scores.receiver == f"{receiver[0]}.{receiver[1]}"
            ov = model.W_V[sender] @ model.W_O[sender]
            kq = model.W_K[receiver] @ model.W_Q[receiver].T
            composed = ((ov @ kq).norm() / ov.norm() / kq.norm()).item()
            expected = [composed, back[sender].item(), matching[receiver].item()]
            assert scores.values.tolist() == pytest.approx(expected, abs=1e-9)
            chance = [sum(1 / (i + 1) for i in range(1, 16)) / 15, sum(1 / (i + 1) for i in range(8, 16)) / 8]
            assert scores.chance[1:].tolist() == pytest.approx(chance)
    assert decided >= 2


def test_chance_of_composition_is_that_of_random_heads(model, monkeypatch):
    scores = induction_composition(model, seed=4)
    assert scores.chance[0].item() == composition_scores(model, seed=4).provenance["random"]["mean"]
    seen = []
    monkeypatch.setattr(
        induction_circuit, "composition_scores", lambda model, **o: (seen.append(o), composition_scores(model, **o))[1]
    )
    induction_composition(model, seed=4)
    assert seen == [{"mode": "K", "seed": 4}]


def test_the_seed_decides(model):
    first, same, other = (induction_composition(model, seed=seed).values for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_one_layer_has_no_circuit(tmp_path):
    with pytest.raises(AnalysisError, match="the model has 1 layer; expected at least 2"):
        induction_composition(random_model(tmp_path, n_layer=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "n is 1; expected a whole number, 2 or more"),
        ({"n": None}, "n is None"),
        ({"seed": None}, "seed is None"),
        ({"corpus": torch.arange(3)}, "there are 1 sequences of"),
        ({"corpus": torch.arange(100)}, "the corpus has the token"),
        ({"corpus": 3.0}, "the corpus is a float"),
    ],
)
def test_bad_input(model, options, message):
    with pytest.raises(AnalysisError, match=message):
        induction_composition(model, **options)


def test_no_model_is_refused():
    with pytest.raises(AnalysisError, match="the model is a str"):
        induction_composition("0.1")


def test_a_context_of_another_length(handmade):
    scores = induction_composition(handmade, n=2)
    assert scores.seq_len == CONTEXT // 2
