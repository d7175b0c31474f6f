"""A model as nanoGPT computes it: the same losses and samples as the model's own, and none where it is another."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.model.access import evaluating, loss_per_token
from nanogpt_lens.model.plain import last_logits, plain_model, samples
from nanogpt_lens.model.sampling import generate
from nanogpt_lens.running.batches import losses
from tests.making import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def model(folder):
    return ngl.load(folder)


def test_losses_and_last_logits_are_the_models(model):
    tokens = torch.randint(65, (300, 12), generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        native = plain_model(model)
        assert native is not None
        assert (losses(model, tokens) - loss_per_token(model, tokens)).abs().max() < 5e-5
        expected = model(tokens)[:, -1]
        assert (last_logits(model, native, tokens) - expected).abs().max() < 5e-5
        assert torch.equal(last_logits(model, None, tokens), expected)


def test_it_has_the_present_weights(model):
    tokens = torch.randint(65, (300, 12), generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        before = losses(model, tokens)
        model.blocks[0].mlp.W_out.mul_(0.0)
        assert (losses(model, tokens) - loss_per_token(model, tokens)).abs().max() < 5e-5
        assert (losses(model, tokens) - before).abs().max() > 1e-3


@pytest.mark.parametrize("past", [5, 30])
def test_samples_are_what_generate_draws(model, past):
    each = [generate(model, torch.tensor([[3]]), max_new_tokens=past, seed=seed) for seed in (5, 6)]
    assert torch.equal(samples(model, 3, max_new_tokens=past, seeds=[5, 6]), torch.cat(each))


def test_hooks_and_processed_weights_have_none(folder, model):
    processed = ngl.load(folder, process_weights=True)
    assert plain_model(processed) is None
    each = [generate(processed, torch.tensor([[3]]), max_new_tokens=4, seed=seed) for seed in (5, 6)]
    assert torch.equal(samples(processed, 3, max_new_tokens=4, seeds=[5, 6]), torch.cat(each))
    model.blocks[0].hook_mlp_out.add_hook(lambda value, hook: value * 0)
    tokens = torch.randint(65, (300, 12), generator=torch.Generator().manual_seed(0))
    assert plain_model(model) is None
    with evaluating(model):
        assert torch.equal(losses(model, tokens)[:20], loss_per_token(model, tokens)[:20])
