"""Random changes of the size of a patch: are they of that size, random, and at their place alone?"""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.patching import same_size
from nanogpt_lens.patching.same_size import same_size_changes
from tests.making import write

CLEAN = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])
CORRUPTED = torch.tensor([[1, 2, 30, 4, 5], [9, 80 % 65, 7, 6, 5]])
METRIC = ngl.metrics.logit_diff([3, 4], [5, 6])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ngl.load(write(tmp_path_factory.mktemp("same"), n_head=3, n_embd=24), dtype=torch.float64)


def recorded(model, monkeypatch, **options):
    """What the runs were told to change: by hook point, the activation before and after, of every run."""
    runs, real = [], same_size.run

    def run(model, tokens, edits):
        ((name, edit),) = edits.items()

        def noted(value):
            after = edit(value.clone())
            runs.append((name, value.detach().clone(), after.detach().clone()))
            return after

        return real(model, tokens, {name: noted})

    monkeypatch.setattr(same_size, "run", run)
    return same_size_changes(model, CLEAN, CORRUPTED, METRIC, **options), runs


@pytest.mark.parametrize(("activation", "n_runs"), [("z", 6), ("mlp_out", 2)])
def test_each_change_is_as_long_as_the_difference_of_the_runs(model, monkeypatch, activation, n_runs):
    scores, runs = recorded(model, monkeypatch, activation=activation, draws=4)
    assert scores.shape["draw"] == 4
    assert len(runs) == n_runs
    _, clean = model.run_with_cache(CLEAN)
    _, corrupted = model.run_with_cache(CORRUPTED)
    for i, (name, before, after) in enumerate(runs):
        moved = (after - before).unflatten(0, (4, 2))
        difference = corrupted[name] - clean[name]
        if activation == "z":
            others = [head for head in range(3) if head != i % 3]
            assert torch.equal(moved[..., others, :], torch.zeros_like(moved[..., others, :]))
            moved, difference = moved[..., i % 3, :], difference[..., i % 3, :]
        torch.testing.assert_close(moved.norm(dim=-1), difference.norm(dim=-1).expand(4, 2, 5))
        assert len({tuple(row.flatten().tolist()) for row in moved}) == 4


def test_the_effect_is_that_of_the_change(model, monkeypatch):
    scores, runs = recorded(model, monkeypatch, activation="z", draws=3)
    name, _, after = runs[4]  # layer 1, head 1
    for draw in range(3):
        put = after.unflatten(0, (3, 2))[draw]
        logits = model.run_with_hooks(CLEAN, fwd_hooks=[(name, lambda value, hook, put=put: put)])
        expected = METRIC(logits) - METRIC(model(CLEAN))
        torch.testing.assert_close(scores.values[draw, 1, 1], expected)


def test_denoising_pushes_the_corrupted_run(model, monkeypatch):
    _, runs = recorded(model, monkeypatch, activation="z", draws=2, direction="denoise")
    _, corrupted = model.run_with_cache(CORRUPTED)
    name, before, _ = runs[0]
    torch.testing.assert_close(before.unflatten(0, (2, 2))[1], corrupted[name])


def test_a_seed_draws_the_same_and_another_another(model):
    one, two, same = (same_size_changes(model, CLEAN, CORRUPTED, METRIC, draws=3, seed=s).values for s in (0, 1, 0))
    assert torch.equal(one, same)
    assert not torch.equal(one, two)


def test_many_draws_in_several_runs_are_the_same(model, monkeypatch):
    whole = same_size_changes(model, CLEAN, CORRUPTED, METRIC, draws=5).values
    monkeypatch.setattr(same_size, "_RUN", 10)
    torch.testing.assert_close(same_size_changes(model, CLEAN, CORRUPTED, METRIC, draws=5).values, whole)


def test_what_cannot_be_is_said(model):
    for options in ({"activation": "q"}, {"draws": 0}, {"seed": -1}, {"direction": "up"}):
        with pytest.raises(AnalysisError):
            same_size_changes(model, CLEAN, CORRUPTED, METRIC, **options)
