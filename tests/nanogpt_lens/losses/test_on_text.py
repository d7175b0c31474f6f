from __future__ import annotations

import math

import pytest
import torch

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.losses.on_text import in_context_learning_score
from nanogpt_lens.text.corpus import windows
from nanogpt_lens.text.from_model import own_text
from nanogpt_lens.text.prompts import repeated_tokens
from tests.conftest import convert
from tests.handmade import handmade_model
from tests.making import content, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sizes = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 32, "vocab_size": 30}
    folder = write(tmp_path_factory.mktemp("in_context"), content(**sizes, seed=3, dtype=torch.float64))
    return convert(read_checkpoint(folder), dtype=torch.float64)


def naive_loss(model, tokens):
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(
            model(tokens, return_type="logits")[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
        )


def test_in_context_learning_score_is_late_minus_early(model):
    corpus = torch.randint(30, (5000,), generator=torch.Generator().manual_seed(0))
    scores = in_context_learning_score(model, corpus, n=40, seed=1)
    loss = naive_loss(model, windows(model, corpus, seq_len=32, n=40, seed=1))
    early, late = loss[:, 1:3].mean(), loss[:, 29:31].mean()  # tokens 2, 3 (50/512 of 32 is 3.1) and 30, 31
    assert scores.provenance["arguments"]["early"] == (2, 4)
    assert scores.provenance["arguments"]["late"] == (30, 32)
    assert torch.allclose(scores.values, torch.stack([late - early, late, early]), atol=1e-9)
    assert (scores.low < scores.values).all()
    assert (scores.values < scores.high).all()
    assert scores.chance.tolist() == pytest.approx([0, math.log(30), math.log(30)])


def test_positions_can_be_given(model):
    scores = in_context_learning_score(model, early=1, late=(20, 30), n=6)
    loss = naive_loss(model, own_text(model, seq_len=32, n=6))
    assert scores.score("early_loss").item() == pytest.approx(loss[:, 0].mean().item())
    assert scores.score("late_loss").item() == pytest.approx(loss[:, 19:29].mean().item())


def test_a_long_context_uses_the_papers_positions(tmp_path):
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 512, "vocab_size": 8}
    model = convert(read_checkpoint(write(tmp_path, content(**sizes))))
    corpus = torch.randint(8, (2000,), generator=torch.Generator().manual_seed(0))
    arguments = in_context_learning_score(model, corpus, n=2).provenance["arguments"]
    assert (arguments["early"], arguments["late"]) == ((49, 50), (499, 500))  # the 50th and the 500th


def test_an_induction_model_learns_in_context():
    """Text of period 8: from its second period on the handmade model predicts it."""
    handmade = handmade_model()
    corpus = repeated_tokens(handmade, seq_len=8, n=50, copies=3).flatten()
    score = in_context_learning_score(handmade, corpus, early=(1, 8), late=(9, 24), n=50)
    assert score.high[0] < -1
    assert score.score("late_loss") < 0.1


@pytest.mark.parametrize(
    "spans",
    [
        {"early": 0},
        {"late": 32},
        {"early": (4, 4)},
        {"late": (30, 33)},
        {"early": "x"},
        {"early": (1.5, 2)},
        {"late": True},
        {"late": 30.0},
        {"late": (28, 29, 30)},
    ],
)
def test_spans_that_the_context_does_not_have_are_refused(model, spans):
    with pytest.raises(AnalysisError, match=rf"^{next(iter(spans))} is .* from 1, .* to 31, the last of the context"):
        in_context_learning_score(model, n=2, **spans)


@pytest.mark.parametrize("spans", [{"early": (5, 11), "late": (10, 20)}, {"early": 20, "late": 10}, {"early": 31}])
def test_early_is_before_late(model, spans):
    with pytest.raises(AnalysisError, match="expected all early ones before the late ones"):
        in_context_learning_score(model, n=2, **spans)


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_a_context_that_is_too_short_is_refused(tmp_path, block_size):
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": block_size, "vocab_size": 8}
    short = convert(read_checkpoint(write(tmp_path, content(**sizes))))
    if block_size == 3:
        assert in_context_learning_score(short, n=2).provenance["arguments"]["late"] == (2, 3)
        return
    with pytest.raises(AnalysisError, match=f"of a context of {block_size}; expected all early ones before the late"):
        in_context_learning_score(short, n=2)


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 1.5}, {"seed": None}])
def test_counts_and_seeds_are_whole_numbers(model, options):
    with pytest.raises(AnalysisError, match=f"{next(iter(options))} is .*; expected a whole number"):
        in_context_learning_score(model, **options)
