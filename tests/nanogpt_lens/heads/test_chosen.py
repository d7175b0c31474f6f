"""Whether heads that are ablated were chosen on what they are measured on: known, not known, and said."""

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads import chosen
from nanogpt_lens.heads.chosen import share_chosen_on
from nanogpt_lens.reporting.blocks import picture_of
from nanogpt_lens.text.prompts import repeated_tokens
from tests.handmade import INDUCTION, VOCAB, handmade_model

QUICK = {"n": 4, "progress": False}
UNKNOWN = "unknown whether in sample; the choice of heads may have seen the same before"
KNOWN = "in sample: the choice of heads has seen 100% of this text before"


@pytest.fixture(scope="module")
def model():
    return handmade_model()


def corpus(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(VOCAB, generator=generator)[:10] for _ in range(12)])


def said_everywhere(result, words):
    """Whether the print, the picture, and the picture of the report say it; they must agree."""
    shown = (
        repr(result).lower(),
        result.plot().layout.to_json().replace("<br>", " ").lower(),
        picture_of(result, "a picture").caption.lower(),
    )
    answers = {words in text for text in shown}
    assert len(answers) == 1
    return answers.pop()


def test_heads_that_the_function_chooses_are_not_in_sample(model):
    for text in (None, corpus()):
        result = ngl.ablate_induction_heads(model, corpus=text, seq_len=10, n=6, progress=False)
        assert (result.in_sample, result.seen_share) == (False, 0.0)
        assert "heads chosen on other sequences" in result.definition
        assert not said_everywhere(result, "in sample")
        assert "in_sample" not in result.to_dataframe()


def test_heads_that_are_chosen_on_the_same_sequences_are_in_sample(model, monkeypatch):
    """The function's own choice with the seed of the measurement; or a text that repeats itself."""
    repeating = corpus()[:30].repeat(12)  # three windows, which both halves have
    monkeypatch.setattr(chosen, "_OTHER_SEED", 0)
    for text in (None, repeating):
        result = ngl.ablate_induction_heads(model, corpus=text, seq_len=10, n=18, progress=False)
        assert (result.in_sample, result.seen_share) == (True, 1.0)
        assert "heads chosen on other sequences" not in result.definition
        assert said_everywhere(result, KNOWN)
        assert result.top(3)["in_sample"].all()


def test_of_heads_that_are_named_it_is_not_known_and_that_is_said(model, tmp_path):
    for text in (None, corpus()):
        result = ngl.ablate_induction_heads(model, [INDUCTION], corpus=text, seq_len=10, **QUICK)
        assert result.in_sample is None
        assert said_everywhere(result, UNKNOWN)
        assert set(result.to_dataframe()["in_sample"]) == set(result.top(2)["in_sample"]) == {"unknown"}
        assert {row["in_sample"] for row in result.to_json()["rows"]} == {"unknown"}
        result.save(tmp_path / "result")
        assert said_everywhere(ngl.load_result(tmp_path / "result"), UNKNOWN)


def test_a_result_that_they_were_chosen_by_makes_it_known(model):
    random, on_text = (
        ngl.find_induction_heads(model, seq_len=10, n=4, seed=5),
        ngl.find_induction_heads(model, corpus()),
    )
    for chosen_by, text, seed, expected in (
        (random, None, 5, True),
        (random, None, 6, False),
        (random, corpus(), 5, False),
        (on_text, None, 0, False),
        (on_text, corpus(), 0, None),  # what windows they were is not kept
    ):
        result = ngl.ablate_induction_heads(
            model, chosen_by.heads(), chosen_by=chosen_by, corpus=text, seq_len=10, seed=seed, **QUICK
        )
        assert result.in_sample is expected
        assert said_everywhere(result, KNOWN) is bool(expected)
        assert said_everywhere(result, UNKNOWN) is (expected is None)


def test_a_part_of_the_sequences(model):
    chosen_by = ngl.find_induction_heads(model, seq_len=10, n=4, seed=5)
    rows = torch.cat([repeated_tokens(model, seq_len=10, n=4, seed=5)[1:3, :10], corpus().view(12, 10)])
    assert share_chosen_on(model, rows, chosen_by, random=True) == 2 / 14


def test_only_such_a_result_is_taken(model):
    taxonomy = ngl.head_taxonomy(model, n=4)
    with pytest.raises(AnalysisError, match="chosen_by is a HeadTaxonomy; expected the result of find_induction_heads"):
        ngl.ablate_induction_heads(model, [INDUCTION], chosen_by=taxonomy, **QUICK)
    with pytest.raises(AnalysisError, match="chosen_by was given without heads; expected both"):
        ngl.ablate_induction_heads(model, chosen_by=ngl.find_induction_heads(model), **QUICK)
