"""A model as nanoGPT computes it: the same losses and samples as the model's own, and none where it is another."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.model.access import evaluating, loss_per_token
from nanogpt_lens.model.plain import last_logits, logits_at, plain_model, samples
from nanogpt_lens.model.sampling import generate
from nanogpt_lens.running import batches
from nanogpt_lens.running.batches import Losses, losses
from nanogpt_lens.running.reading import Reader
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
        assert (last_logits(model, None, tokens) - expected).abs().max() < 5e-5


def test_logits_at_some_positions_are_those_of_a_whole_run(model):
    tokens, places = torch.randint(65, (5, 12), generator=torch.Generator().manual_seed(0)), [0, 3, 10]
    with evaluating(model):
        native, whole = plain_model(model), model(tokens)
        for one in (native, None):
            at = logits_at(model, one, tokens, torch.tensor(places))
            assert (at - whole[:, places]).abs().max() < 5e-5
        expected = loss_per_token(model, tokens)[:, places]
        assert (losses(model, tokens, places) - expected).abs().max() < 5e-5
        many = tokens.repeat(50, 1)  # enough for the other model
        assert (losses(model, many, places)[:5] - expected).abs().max() < 5e-5
        # a hook of the user sees all positions
        seen = []
        model.blocks[1].hook_resid_post.add_hook(lambda value, hook: seen.append(value.shape[1]))
        model.ln_final.hook_normalized.add_hook(lambda value, hook: value * torch.arange(12.0)[:, None])
        hooked = model(tokens)
        assert torch.equal(logits_at(model, None, tokens, torch.tensor(places)), hooked[:, places])
        assert seen == [12, 12]


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


LATE = 128  # from this position on the models below are others


def without_the_late(module, inputs, output):
    keep = (torch.arange(output.shape[1]) < LATE).view(1, -1, *[1] * (output.dim() - 2))
    return output * keep


def forward_of_the_model(model, monkeypatch):
    old = model.forward
    model.forward = lambda *a, **k: without_the_late(None, a, old(*a, **k))


def mlp_of(model, layer):
    """The module that computes; a bridge wraps it, and hands its attributes on."""
    part = model.blocks[layer].mlp
    return getattr(part, "original_component", part)


def forward_of_a_part(model, monkeypatch):
    part = mlp_of(model, 1)
    old = part.forward
    part.forward = lambda *a, **k: without_the_late(None, a, old(*a, **k))


def a_class_of_its_own(model, monkeypatch):
    part = model.blocks[1].mlp
    cls = type(part)
    part.__class__ = type(
        "Late", (cls,), {"forward": lambda self, *a, **k: without_the_late(None, a, cls.forward(self, *a, **k))}
    )


def torch_hook_on_a_part(model, monkeypatch):
    model.blocks[1].mlp.register_forward_hook(without_the_late)


def torch_hook_on_a_hook_point(model, monkeypatch):
    model.hook_dict["blocks.1.hook_resid_post"].register_forward_hook(without_the_late)


def forward_of_the_class(model, monkeypatch):
    """No code of the model itself is replaced: only the comparison at the whole context shows it."""
    old = type(model).forward

    def forward(self, *a, **k):
        return without_the_late(None, a, old(self, *a, **k))

    forward.__module__ = old.__module__
    monkeypatch.setattr(type(model), "forward", forward)


TAMPERED = [
    forward_of_the_model,
    forward_of_a_part,
    a_class_of_its_own,
    torch_hook_on_a_part,
    torch_hook_on_a_hook_point,
    forward_of_the_class,
]


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("long"), block_size=256)


@pytest.mark.parametrize("tamper", TAMPERED)
def test_a_model_that_is_another_from_some_position_on_is_not_replaced(long_folder, monkeypatch, tamper):
    model = ngl.load(long_folder)
    tokens = torch.randint(65, (9, 256), generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        before = losses(model, tokens)
        tamper(model, monkeypatch)
        assert plain_model(model) is None
        found = losses(model, tokens)
        assert (found - loss_per_token(model, tokens)).abs().max() < 1e-5
        assert (found - before)[:, LATE:].abs().max() > 0.1
        assert Reader(model, ["blocks.1.mlp.hook_post"]).engine == "hooks"


def test_the_neurons_of_such_a_model_are_its_own(long_folder):
    model = ngl.load(long_folder)
    part = mlp_of(model, 0)
    old = part.forward
    part.forward = lambda *a, **k: without_the_late(None, a, old(*a, **k))
    tokens = torch.randint(65, (9, 256), generator=torch.Generator().manual_seed(0))
    found = [ngl.search_neurons(model, tokens, k=1, window=8, engine=e, progress=False) for e in ("hooks", "auto")]
    assert torch.equal(found[0].mean, found[1].mean)


def test_losses_under_interventions_and_steering_are_the_edited_models(long_folder):
    model = ngl.load(long_folder)
    tokens = torch.randint(65, (9, 256), generator=torch.Generator().manual_seed(0))
    direction = torch.randn(int(model.cfg.d_model), generator=torch.Generator().manual_seed(1))
    with evaluating(model):
        before = losses(model, tokens)
    whole = ngl.Intervention("mlp_out", layer=1, source="zero")
    for context in (ngl.apply(model, whole), ngl.steer(model, direction, layer=0, scale=5.0)):
        with context, evaluating(model):
            found = losses(model, tokens)
            assert torch.equal(found[:4], losses(model, tokens[:4]))
            assert (found - loss_per_token(model, tokens)).abs().max() < 1e-5
            assert (found - before).abs().max() > 0.1
    with evaluating(model):
        assert torch.equal(losses(model, tokens), before)


def test_losses_of_many_batches_make_one_other_model(model, monkeypatch):
    made = []
    monkeypatch.setattr(
        batches, "plain_model", lambda model, length: (made.append(length), plain_model(model, length=length))[1]
    )
    tokens = torch.randint(65, (400, 12), generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        of = Losses(model)
        found = torch.cat([of(rows) for rows in tokens.split(40)])
        assert made == [12]
        assert (found - loss_per_token(model, tokens)).abs().max() < 5e-5
        of = Losses(model)
        for longest, compared in ((8, [12, 8]), (5, [12, 8]), (12, [12, 8, 12])):  # as long as what is asked about
            of(tokens[:, :longest])
            assert made == compared
