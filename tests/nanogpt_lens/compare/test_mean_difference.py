"""The mean difference lens: by hand from the cache, a direction that was put in, copies, and what has no basis."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.compare.mean_difference import mean_difference_lens
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.model.weights import unembedding
from nanogpt_lens.results import MeanDifference, load_result
from nanogpt_lens.text.corpus import open_corpus
from tests.making import CHARS
from tests.nanogpt_lens.compare.two_models import characters_model
from tests.nanogpt_lens.neurons.stream_helpers import corpus, text_of

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return characters_model(folder / "a"), characters_model(folder / "b", seed=1, block_size=10)


def loudest(model):
    """The token with the longest direction in the unembedding: none reads that direction more."""
    return int(unembedding(model).norm(dim=0).argmax())


def with_direction(model, token, strength=3.0):
    """A copy that adds one direction to the output of the first MLP everywhere: that which a token reads."""
    changed = deepcopy(model)
    direction = unembedding(model)[:, token]
    with torch.no_grad():
        changed.blocks[0].mlp.b_out += strength * direction / direction.norm()
    return changed


def test_means_norms_and_logits_are_those_of_the_cache(pair):
    a, b = pair
    found = mean_difference_lens(a, b, corpus(400), n=20, seq_len=9, k=65, **QUIET)
    tokens = open_corpus(a, corpus(400)).windows(seq_len=9, n=20, seed=0)
    for point, name in (("0.resid_pre", "blocks.0.hook_resid_pre"), ("1.resid_mid", "blocks.1.hook_resid_mid")):
        one, other = (m.run_with_cache(tokens, names_filter=[name])[1][name].detach() for m in (a, b))
        for j, position in enumerate(("0", "1", "2", "3", "4", "all")):
            there = slice(None) if position == "all" else slice(j, j + 1)
            mean = (other[:, there] - one[:, there]).mean((0, 1))
            norm = one[:, there].norm(dim=-1).mean()
            assert float(found.at(point=point, position=position)) == pytest.approx(float(mean.norm() / norm))
            for reader, model, stream in (("a", a, one), ("b", b, other)):
                scale = (stream[:, there].var(-1, correction=0) + 1e-5).sqrt().mean()
                gain = model.ln_final.w if hasattr(model.ln_final, "w") else model.ln_final.weight
                logits = ((mean - mean.mean()) / scale * gain) @ model.W_U
                expected = (logits - logits.mean()).detach()
                frame = found.tokens(point, position, reader=reader)
                assert len(frame) == 130
                for _, row in frame.iterrows():
                    assert row["logit"] == pytest.approx(float(expected[CHARS.index(row["token"])]), abs=1e-9)


def test_a_direction_that_was_put_in_is_named(pair):
    """Random texts, one direction added at the first MLP: nothing before it, and there its token, by both readers."""
    a = pair[0]
    token = loudest(a)
    b = with_direction(a, token)
    found = mean_difference_lens(a, b, corpus(2000), n=60, names=("before", "after"), **QUIET)
    before = [found.labels["point"].index(name) for name in ("0.resid_pre", "0.resid_mid")]
    assert bool((found.values[before] == 0).all())
    assert not bool(found.beyond_control[before].any())
    assert bool(found.beyond_control[2:].all())
    for reader in ("a", "b"):
        best = found.tokens("0.resid_post", 0, reader=reader).iloc[0]
        assert (best["token"], best["beyond_control"]) == (CHARS[token], True)
    assert "the mean of after less that of before is largest" in found.sentence()


def test_texts_of_one_model_do_not_differ_beyond_the_control(pair):
    """The control holds: means of a on one half and of a on the other differ beyond it in about 5 of 100."""
    from nanogpt_lens.compare.mean_difference import _halves, _of_texts, _upper

    a = pair[0]
    tokens = open_corpus(a, corpus(9000)).windows(seq_len=8, n=400)
    streams = _of_texts(a, tokens, (0, 1, 2, 3, 4))
    beyond, every = 0, 0
    generator = torch.Generator().manual_seed(5)
    control = _upper(_halves(streams.mean, 0).norm(dim=-1))
    for _ in range(60):
        order = torch.randperm(400, generator=generator)
        halves = (streams.mean[part].mean(0) for part in (order[:200], order[200:]))
        norm = next(halves).sub(next(halves)).norm(dim=-1)
        beyond += int((norm > control).sum())
        every += control.numel()
    assert 0.005 < beyond / every < 0.12


def test_a_copy_differs_nowhere(pair):
    found = mean_difference_lens(pair[0], deepcopy(pair[0]), corpus(300), **QUIET)
    assert bool((found.values == 0).all())
    assert not bool(found.beyond_control.any())
    assert "differ nowhere by more" in found.sentence()
    assert not found.tokens("1.resid_post")["beyond_control"].any()


def test_texts_options_and_files(pair, tmp_path):
    ids = corpus(300)
    found = mean_difference_lens(*pair, ids, n=20, k=3, **QUIET)
    assert torch.equal(mean_difference_lens(*pair, text_of(ids), n=20, k=3, **QUIET).values, found.values)
    short = mean_difference_lens(*pair, ids.view(100, 3), points="resid_post", **QUIET)
    assert short.labels == {"point": ("0.resid_post", "1.resid_post"), "position": ("0", "1", "2", "all")}
    assert (short.n_texts, short.seq_len) == (100, 3)
    read = load_result(found.save(tmp_path / "kept"))
    assert isinstance(read, MeanDifference)
    assert read.sentence() == found.sentence()
    assert read.tokens("0.resid_mid", 2, reader="a").equals(found.tokens("0.resid_mid", 2, reader="a"))
    for call, said in (
        (lambda: found.tokens("2.resid_mid"), "'2.resid_mid'"),
        (lambda: found.tokens("1.resid_mid", 7), "'7'"),
        (lambda: found.tokens("1.resid_mid", reader="c"), "reader is 'c'; expected a or b"),
    ):
        with pytest.raises(ResultError, match=said):
            call()
    for model in pair:
        assert not has_hooks(model)


def test_models_with_processed_weights(tmp_path):
    """Folded weights are read as they are, and the lens gives the same tokens."""
    plain = characters_model(tmp_path / "a")
    changed = with_direction(plain, loudest(plain))
    found = mean_difference_lens(plain, changed, corpus(500), **QUIET)
    folded = ngl.load(tmp_path / "a", process_weights=True, dtype=torch.float64)
    moved = deepcopy(folded)
    with torch.no_grad():
        difference = changed.blocks[0].mlp.b_out - plain.blocks[0].mlp.b_out
        moved.blocks[0].mlp.b_out += difference - difference.mean()
    again = mean_difference_lens(folded, moved, corpus(500), **QUIET)
    at = found.labels["point"].index("0.resid_post")
    assert torch.equal(again.promoted[:, at], found.promoted[:, at])
    torch.testing.assert_close(again.promoted_logits[:, at], found.promoted_logits[:, at], rtol=1e-6, atol=1e-9)


def test_what_has_no_mean_difference(pair, tmp_path):
    a, b = pair
    wide = characters_model(tmp_path / "wide", n_embd=24)
    deep = characters_model(tmp_path / "deep", n_layer=3)
    moved = characters_model(tmp_path / "moved", chars=CHARS[1] + CHARS[0] + CHARS[2:])
    for models, given, options, said in (
        ((a, wide), corpus(200), {}, "the width is 16 in a and 24 in b; expected the same: .*one start"),
        ((a, deep), corpus(200), {}, "the number of layers is 2 in a and 3 in b"),
        ((a, moved), corpus(200), {}, "id 0 is"),
        ((a, None), corpus(200), {}, "the model is a NoneType"),
        ((a, b), corpus(200), {"k": 66}, "k is 66; expected at most 65"),
        ((a, b), corpus(200), {"k": 0}, "k is 0"),
        ((a, b), corpus(200), {"n": 3}, "n is 3; expected a whole number, 4 or more"),
        ((a, b), corpus(30), {"seq_len": 10}, "has 3 windows of 10 tokens; expected at least 4"),
        ((a, b), corpus(200), {"seq_len": 11}, "expected 1 to 10"),
        ((a, b), "", {}, "has 0 tokens"),
        ((a, b), corpus(200), {"points": []}, "points is"),
        ((a, b), torch.full((100,), 65), {}, "65"),
        ((a, b), corpus(200), {"names": "ab"}, "names is 'ab'"),
    ):
        with pytest.raises(AnalysisError, match=said):
            mean_difference_lens(*models, given, **QUIET, **options)
