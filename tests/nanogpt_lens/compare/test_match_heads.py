"""Heads matched across models: a permutation made by hand must be found."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from nanogpt_lens.compare.heads import match_heads
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.heads.taxonomy import score_heads
from nanogpt_lens.model.loading import load
from nanogpt_lens.results import HeadMatches, Scores, load_result
from nanogpt_lens.runs.trajectory import trajectory
from tests.nanogpt_lens.runs.stage_helpers import TEXT, make_run, write_stage

HEADS, WIDTH = 4, 16
ORDERS = {0: [2, 0, 3, 1], 1: [1, 3, 2, 0]}
"""By layer: head i of the other model is head ORDERS[layer][i] of the first."""


def permute(state):
    """The same function with the heads in another order."""
    d_head = WIDTH // HEADS
    for layer, order in ORDERS.items():
        name = f"transformer.h.{layer}.attn"
        for part, shape in (("weight", (3, HEADS, d_head, WIDTH)), ("bias", (3, HEADS, d_head))):
            key = f"{name}.c_attn.{part}"
            state[key] = state[key].view(shape)[:, order].reshape(state[key].shape)
        out = state[f"{name}.c_proj.weight"]
        state[f"{name}.c_proj.weight"] = out.view(WIDTH, HEADS, d_head)[:, order].reshape(out.shape)


def run_of_four_heads(folder, *, permuted):
    make_run(folder, names={})
    for step in (0, 10, 100):
        file = write_stage(folder / f"ckpt_{step:03d}.pt", step, n_head=HEADS)
        if permuted:
            content = torch.load(file, weights_only=True)
            permute(content["model"])
            torch.save(content, file)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matching")
    return [run_of_four_heads(folder / name, permuted=name == "other") for name in ("one", "other")]


@pytest.fixture(scope="module")
def scores(runs):
    return [score_heads(load(run / "ckpt_100.pt", dtype=torch.float64), TEXT, n=8) for run in runs]


def inverse(layer, head):
    return ORDERS[layer].index(head)


def test_the_permuted_model_computes_the_same(runs):
    tokens = torch.arange(14)[None]
    one, other = (load(run / "ckpt_100.pt", dtype=torch.float64) for run in runs)
    with torch.no_grad():
        torch.testing.assert_close(one(tokens), other(tokens), rtol=0, atol=1e-10)
    assert not torch.allclose(one.W_Q, other.W_Q)


def test_a_permutation_is_found(scores):
    found = match_heads(*scores)
    assert found.shape == {"model": 2, "layer": 2, "head": 4}
    for layer in range(2):
        for head in range(HEADS):
            assert found.of(layer, head) == ((layer, head), (layer, inverse(layer, head)))
    assert found.values.max() < 1e-6
    assert bool(found.matched.all())
    assert bool((found.p[1] == 0.002).all())  # nearer than in all of 499 draws
    assert bool((found.values[1] < found.chance[1]).all())
    assert "8 of 8 heads have a partner" in repr(found)
    assert found.nearest_other.min() > 1e-2
    assert torch.equal(found.partner_layer[1], torch.tensor([[0] * 4, [1] * 4]))


def test_two_random_models_do_not_match(runs):
    models = [load(runs[0] / f"ckpt_{step:03d}.pt", dtype=torch.float64) for step in (0, 10, 100)]
    found = match_heads(*(score_heads(model, TEXT, n=8) for model in models))
    assert not bool(found.matched[1:].any())
    assert found.of(0, 1) == ((0, 1), None, None)


def of_heads(values):
    """Scores [layer, head, score] as a result."""
    about = {"axes": ("layer", "head", "score"), "quantity": "q", "definition": "d"}
    return Scores(values=values, **about)


@pytest.mark.parametrize("kind", ["alike", "some stand out"])
def test_unrelated_heads_have_a_partner_in_one_case_of_twenty(kind):
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(40, 2, 3, 4, 6, generator=generator, dtype=torch.float64)  # [case, model, layer, head, score]
    if kind == "some stand out":  # and the others are all near to each other
        heads = heads * torch.where(torch.rand(40, 2, 3, 4, 1, generator=generator) < 0.25, 5.0, 0.5)
    found = [match_heads(*map(of_heads, pair)) for pair in heads]
    assert sum(bool(one.matched[1:].any()) for one in found) <= 5
    near = heads[:, :1] + 0.05 * heads[:, 1:]
    same = [match_heads(of_heads(a[0]), of_heads(b[0])) for a, b in zip(heads, near, strict=True)]
    assert sum(float(one.matched[1].double().mean()) for one in same) / len(same) > (0.9 if kind == "alike" else 0.8)


def test_a_score_and_its_negative_count_once():
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 2, 4, 3, generator=generator, dtype=torch.float64)
    twice = [torch.cat([values, -values[..., :1], values[..., 1:2]], -1) for values in (one, other)]
    plain, more = match_heads(of_heads(one), of_heads(other)), match_heads(*map(of_heads, twice))
    assert torch.equal(plain.values, more.values)
    assert torch.equal(plain.p[1], more.p[1])


@pytest.mark.parametrize("measure", ["task_heads", "prefix_matching"])
def test_over_a_trajectory(runs, measure):
    one, other = (trajectory(run, measure, n=6, dtype=torch.float64, progress=False) for run in runs)
    found = match_heads(one, other, one)
    assert [found.of(1, head)[1][1] for head in range(4)] == [inverse(1, head) for head in range(4)]
    assert [found.of(1, head)[2][1] for head in range(4)] == [0, 1, 2, 3]
    assert found.values.max() < 1e-6


def test_distances_and_partners_by_trying_all_permutations():
    """Random scores of three models, [score, layer, head], in different units."""
    generator = torch.Generator().manual_seed(2)
    units = torch.tensor([1.0, 50.0, 0.1, 1.0, 7.0], dtype=torch.float64)[:, None, None]
    values = torch.randn(3, 5, 2, 4, dtype=torch.float64, generator=generator) * units
    values[:, 3] = 0.1 + 1e-16 * values[:, 3]  # rounding, which says nothing
    about = {
        "axes": ("score", "layer", "head"),
        "labels": {"score": tuple("abcde")},
        "quantity": "q",
        "definition": "d",
    }
    found = match_heads(*(Scores(values=one, **about) for one in values))
    spread = values.permute(1, 0, 2, 3).reshape(5, -1).std(-1, correction=0)
    spread[3] = 1.0
    scaled = values / spread[None, :, None, None]
    for model in (1, 2):
        for layer in range(2):
            a, b = scaled[0, :, layer], scaled[model, :, layer]
            gap = [[float((a[:, i] - b[:, j]).norm()) for j in range(4)] for i in range(4)]
            best = min(permutations(range(4)), key=lambda order: sum(gap[i][j] for i, j in enumerate(order)))
            assert found.partner_head[model, layer].tolist() == list(best)
            for i, j in enumerate(best):
                assert float(found.values[model, layer, i]) == pytest.approx(gap[i][j])
                rest = min(gap[i][other] for other in range(4) if other != j)
                assert float(found.nearest_other[model, layer, i]) == pytest.approx(rest)
    assert found.values[0].abs().max() == 0


def test_the_order_of_axes_makes_no_difference(scores):
    turned = [
        replace(s, values=s.values.permute(2, 0, 1), axes=("head", "score", "layer"), chance=None, low=None, high=None)
        for s in scores
    ]
    assert torch.equal(match_heads(*turned).partner_head, match_heads(*scores).partner_head)
    torch.testing.assert_close(match_heads(*turned).nearest_other, match_heads(*scores).nearest_other)


def test_what_the_result_knows(scores, tmp_path):
    found = match_heads(*scores)
    assert found.labels["model"] == tuple(s.provenance["checkpoint"] for s in scores)
    assert match_heads(scores[0], scores[0]).labels["model"] == ("0", "1")
    again = load_result(found.save(tmp_path / "saved"))
    assert isinstance(again, HeadMatches)
    assert again.of(1, 3) == found.of(1, 3)
    with pytest.raises(ResultError, match="there is no head 4"):
        found.of(0, 4)
    before = replace(found, matched=None, p=None, chance=None)  # as an earlier version saved it
    assert before.of(1, 3) == found.of(1, 3)


def test_one_head_per_layer():
    one = Scores(values=torch.tensor([[0.5], [0.2]]), axes=("layer", "head"), quantity="q", definition="d")
    found = match_heads(one, replace(one, values=one.values + 1))
    assert found.of(1, 0) == ((1, 0), (1, 0))
    assert found.nearest_other.isnan().all()
    assert found.p.isnan().all()  # there is nothing to choose from


def test_bad_input(scores):
    one, other = scores
    with pytest.raises(AnalysisError, match="1 scores were given; expected those of at least two models"):
        match_heads(one)
    with pytest.raises(AnalysisError, match="0 scores were given"):
        match_heads()
    smaller = replace(one, values=one.values[:, :, :3], chance=None, low=None, high=None)
    renamed = replace(one, labels={"score": tuple(f"{name}?" for name in one.labels["score"])})
    flat = Scores(values=torch.ones(2), axes=("layer",), quantity="q", definition="d")
    for bad in (smaller, renamed, flat):
        with pytest.raises(AnalysisError, match="expected the same measure of models of one shape"):
            match_heads(other, bad)
        with pytest.raises(AnalysisError, match="expected the same measure of models of one shape"):
            match_heads(bad, other)
    with pytest.raises(AnalysisError, match="with the axes 'layer' and 'head'"):
        match_heads(flat, flat)
