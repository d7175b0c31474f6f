"""Representations of two models: rows by hand, controls, copies, rotated models, and what cannot be compared."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from nanogpt_lens.compare.cka import cka, gram
from nanogpt_lens.compare.representations import compare_representations
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results import RepresentationSimilarity, load_result
from tests.making import CHARS
from tests.nanogpt_lens.compare.two_models import characters_model
from tests.nanogpt_lens.neurons.stream_helpers import corpus, text_of

QUICK = {"permutations": 19, "progress": False}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    a = characters_model(folder / "a")
    b = characters_model(folder / "b", n_layer=1, n_head=3, n_embd=24, block_size=8, vocab_size=128, bias=False, seed=1)
    return a, b


def stream(model, tokens, name):
    return model.run_with_cache(tokens, names_filter=[name])[1][name].detach()


def test_the_rows_are_one_position_of_each_window(pair):
    """One token a window: the rows are then all tokens, and CKA can be made from the cache by hand."""
    ids = corpus(40)
    found = compare_representations(*pair, ids, n=40, seq_len=1, **QUICK)
    assert found.n_rows == 40
    assert found.labels["point_a"] == ("0.resid_pre", "0.resid_mid", "0.resid_post", "1.resid_mid", "1.resid_post")
    assert found.labels["point_b"] == ("0.resid_pre", "0.resid_mid", "0.resid_post")
    x = stream(pair[0], ids[:, None], "blocks.1.hook_resid_pre")[:, 0]
    y = stream(pair[1], ids[:, None], "blocks.0.hook_resid_mid")[:, 0]
    expected = cka([gram(x)], [gram(y)])
    at = {"point_a": "0.resid_post", "point_b": "0.resid_mid"}
    assert float(found.at(**at)) == pytest.approx(float(expected.values), abs=1e-9)
    assert float(found.low[2, 1]) == pytest.approx(float(expected.low), abs=1e-9)
    assert not found.same_points
    assert "at the most similar point" in found.sentence()


def test_a_copy_is_the_same_everywhere(pair):
    copy = deepcopy(pair[0])
    found = compare_representations(pair[0], copy, corpus(800), n=60, **QUICK)
    assert bool((found.values.diagonal() == 1).all())
    assert bool((found.low.diagonal() == 1).all())
    assert bool((found.high.diagonal() == 1).all())
    assert torch.equal(found.values, found.values.T)
    assert found.sentence().startswith("at the same point the CKA of a and b is 1.00 everywhere; rows in random order")
    assert float(found.p[0, 0]) == 1 / 20
    assert float(found.chance.max()) < 0.5
    assert [best[0] == best[1] for best in found.best] == [True] * 5


def test_a_third_model_is_compared_in_the_same_way(pair, tmp_path):
    other = characters_model(tmp_path / "other", seed=7)
    a, b = pair
    found = compare_representations(a, b, corpus(800), n=50, reference=other, reference_name="seed 7", **QUICK)
    alone = compare_representations(a, other, corpus(800), n=50, seq_len=8, **QUICK)
    again = compare_representations(a, b, corpus(800), n=50, seq_len=8, reference=other, **QUICK)
    assert torch.equal(again.reference, alone.values)
    assert torch.equal(again.reference_low, alone.low)
    assert found.reference_points == alone.labels["point_b"]
    assert f"of a and seed 7 it is {float(found.reference.diagonal().min()):.2f}" in found.sentence()
    read = load_result(found.save(tmp_path / "kept"))
    assert isinstance(read, RepresentationSimilarity)
    assert read.sentence() == found.sentence()
    assert torch.equal(read.reference, found.reference)
    frame = found.to_dataframe()
    assert {"value", "low", "high", "chance", "p", "point_a_label", "point_b_label"} <= set(frame)


def test_texts_and_options(pair):
    ids = corpus(200)
    found = compare_representations(*pair, ids, n=25, **QUICK)
    for given in (text_of(ids), ids.numpy()):
        assert torch.equal(compare_representations(*pair, given, n=25, **QUICK).values, found.values)
    rows = compare_representations(*pair, ids.view(40, 5), n=30, **QUICK)
    assert (rows.n_rows, rows.seq_len) == (30, 5)
    some = compare_representations(*pair, ids, n=25, points=["resid_post"], **QUICK)
    assert some.labels["point_a"] == ("0.resid_post", "1.resid_post")
    assert float(some.values[1, 0]) == pytest.approx(float(found.values[4, 2]), abs=1e-12)
    other = compare_representations(*pair, ids, n=25, seed=1, **QUICK)
    assert not torch.equal(other.values, found.values)


def test_what_cannot_be_compared(pair, tmp_path):
    moved = characters_model(tmp_path / "moved", chars=CHARS[1] + CHARS[0] + CHARS[2:])
    a, b = pair
    for models, given, options, said in (
        ((a, moved), corpus(200), {}, "id 0 is"),
        ((a, b), corpus(200), {"reference": moved}, "id 0 is"),
        ((a, "b"), corpus(200), {}, "the model is a str"),
        ((a, b), corpus(30), {"seq_len": 8}, "has 3 windows of 8 tokens; expected at least 8"),
        ((a, b), "", {}, "has 0 tokens; expected at least one window"),
        ((a, b), corpus(200), {"n": 7}, "n is 7; expected a whole number, 8 or more"),
        ((a, b), corpus(200), {"permutations": 0}, "permutations is 0"),
        ((a, b), corpus(200), {"seq_len": 9}, "9 tokens were asked for; expected 1 to 8"),
        ((a, b), corpus(200), {"points": ["resid"]}, "points is"),
        ((a, b), torch.full((200,), 70), {}, "70"),
        ((a, b), corpus(200), {"names": ("x", "x")}, "expected two different ones"),
        ((a, b), None, {}, "there is no text"),
    ):
        with pytest.raises(AnalysisError, match=said):
            compare_representations(*models, given, **(QUICK | options))


def test_nothing_is_left_behind(pair):
    for model in pair:
        model.train()
    compare_representations(*pair, corpus(100), n=10, **QUICK)
    assert all(model.training and not has_hooks(model) for model in pair)
    for model in pair:
        model.eval()
