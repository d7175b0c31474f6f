"""Attention of real models to classes: against loops over their patterns, and what the taxonomy makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.attention import attention_patterns
from nanogpt_lens.heads.line_breaks import line_breaks
from nanogpt_lens.heads.syntax import syntax_attention
from nanogpt_lens.heads.taxonomy import SCORES, head_taxonomy, score_heads
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results import ClassAttention, load_result
from nanogpt_lens.text.corpus import open_corpus
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, no_tokenizer, play, random_checkpoint

N_POS = 12
TEXT = play(N_POS * 30)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("syntax"))


@pytest.fixture(scope="module")
def found(model) -> ClassAttention:
    return syntax_attention(model, TEXT, n=30)


def test_attention_to_line_breaks_is_that_of_a_loop(model, found):
    """All of the text is read, so that the sequences are its pieces."""
    ids = open_corpus(model, TEXT).tokens(0, len(TEXT)).view(30, N_POS)
    patterns = attention_patterns(model, ids).values  # [example, layer, head, dest_pos, src_pos]
    total, queries = torch.zeros(2, 2, dtype=torch.float64), 0
    by_back = torch.zeros(N_POS, 2, 2, dtype=torch.float64)
    often = torch.zeros(N_POS)
    for e in range(30):
        for i in range(N_POS):
            at = e * N_POS + i
            before = TEXT.rfind("\n", 0, at)
            counts = before >= 0 and (TEXT[at] != "\n" or before < at - 1)  # an empty line has no characters
            if counts and 0 < at - before < N_POS:
                often[at - before] += 1
            if counts and 0 < at - before <= i:
                total += patterns[e, :, :, i, i - (at - before)]
                queries += 1
            for back in range(1, i + 1):
                by_back[back] += patterns[e, :, :, i, i - back]
    assert int(found.queries[found.labels["score"].index("own_line_break")]) == queries
    torch.testing.assert_close(found.at(score="own_line_break"), total / queries)
    expected = (by_back * (often / len(TEXT))[:, None, None]).sum(0)
    inside = sum(
        float((often[1 : i + 1]).sum()) / len(TEXT) for i in range(N_POS)
    )  # how many queries of a sequence see it under a random shift
    row = found.labels["score"].index("own_line_break")
    torch.testing.assert_close(found.chance[row], expected / (inside * 30))


def test_the_result(model, found, tmp_path):
    assert isinstance(found, ClassAttention)
    assert found.axes == ("score", "layer", "head")
    assert set(found.absent) == {"own_bracket", "own_quote"}
    assert ((found.low <= found.values) & (found.values <= found.high)).all()
    assert list(found.to_dataframe()["p_corrected"]) == pytest.approx(found.p_shifted.flatten().tolist())
    again = load_result(found.save(tmp_path / "kept"))
    assert torch.equal(again.beyond, found.beyond)
    assert torch.equal(again.carries, found.carries)
    assert not has_hooks(model)
    assert torch.equal(syntax_attention(model, TEXT, n=30).p_shifted, found.p_shifted)


def test_who_carries_a_class(found):
    p, above, beyond = (torch.full_like(found.values, value) for value in (0.01, 0.2, 0.2))
    p[0, 0, 0], above[0, 0, 1], beyond[0, 1, 0] = 0.06, 0.1, 0.05
    made = replace(found, p_shifted=p, sure_above=above, beyond_sure=beyond, beyond=beyond + found.values)
    name = found.labels["score"][0]
    assert made.heads(name) == [(1, 1)]
    assert len(made.heads(found.labels["score"][1])) == 4


def test_random_weights_attend_to_nothing(found):
    assert not found.carries.any()


def test_what_cannot_be_measured(model, tmp_path):
    with pytest.raises(AnalysisError, match="no class 'words'"):
        syntax_attention(model, TEXT, classes=["words"])
    with pytest.raises(AnalysisError, match="expected at least 24"):
        syntax_attention(model, "no more", seq_len=12)
    with pytest.raises(AnalysisError, match="n is 1"):
        syntax_attention(model, TEXT, n=1)
    bare = no_tokenizer(random_checkpoint(tmp_path, meta=False))
    with pytest.raises(AnalysisError, match="no vocabulary"):
        syntax_attention(bare, torch.arange(60))


def test_the_model_s_own_text_and_rows(model):
    own = syntax_attention(model, n=40, classes=["word_start"])
    assert own.sample.own_text
    assert own.shape == {"score": 1, "layer": 2, "head": 2}
    rows = open_corpus(model, TEXT).tokens(0, len(TEXT)).view(30, N_POS)
    found = syntax_attention(model, rows, classes=["own_word_start"])
    assert found.n_examples == 30


class TestLineBreaks:
    def test_are_a_score_of_the_taxonomy_and_change_no_other(self, model):
        taxonomy, scores = head_taxonomy(model, TEXT, n=16), score_heads(model, TEXT, n=16)
        assert taxonomy.labels["score"] == (*SCORES, "line_break")
        assert torch.equal(taxonomy.values[:-1], scores.values)
        assert torch.equal(taxonomy.p[:-1].nan_to_num(2), scores.p.nan_to_num(2))
        assert taxonomy.p[-1].isnan().all()
        alone = syntax_attention(model, TEXT, n=16, classes=["own_line_break"])
        torch.testing.assert_close(taxonomy.score("line_break"), alone.values[0])
        torch.testing.assert_close(taxonomy.chance[-1], alone.chance[0])
        assert taxonomy.heads("line_break") == []
        assert (taxonomy.threshold[-1] == torch.inf).all()

    def test_a_threshold_that_is_asked_for(self, model):
        taxonomy = head_taxonomy(model, TEXT, n=16, thresholds={"line_break": 0.01})
        assert (taxonomy.threshold[-1] == 0.01).all()
        assert len(taxonomy.heads("line_break")) > 0

    def test_are_left_out_with_a_reason(self, model, tmp_path):
        for asked, corpus, why in (
            (model, "no lines here, and none to come; " * 8, "has no own_line_break"),
            (no_tokenizer(random_checkpoint(tmp_path, meta=False)), torch.randint(60, (240,)), "no vocabulary"),
        ):
            taxonomy = head_taxonomy(asked, corpus, n=8)
            assert taxonomy.labels["score"] == tuple(SCORES)
            assert "line_break is not measured: " in taxonomy.definition
            assert why in taxonomy.definition

    def test_of_the_shipped_model(self):
        model = ngl.load("shakespeare_char")
        found = line_breaks(model, "shakespeare_char", seq_len=64, n=64, seed=0)
        carries = (found.sure_low > found.threshold).nonzero().tolist()
        assert carries == [[1, 2]]
        assert float(found.value[1, 2]) == pytest.approx(0.42, abs=0.02)
        assert float(found.chance[1, 2]) < 0.05
