"""Importance: against the native model with a head or MLP taken out, and what the estimate is worth."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
import nanogpt_lens.patching.importance as ngl_importance
from conversion.backends import resolve_backend
from nanogpt_lens.core.errors import AnalysisError
from tests.nanogpt_lens.patching.patching_helpers import model, native

IDS = torch.randint(13, (400,), generator=torch.Generator().manual_seed(0))


def native_loss(tokens, edits=None):
    with torch.no_grad():
        logits = native()(tokens, edits=edits)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_is_the_rise_of_the_native_loss(ablation):
    result = ngl.head_importance(model(), IDS, source=ablation, n=40, progress=False)
    tokens = IDS.view(-1, 10)
    kept = {}
    for layer in range(3):
        name = f"blocks.{layer}.attn.hook_z"
        native_loss(tokens, {name: lambda z, name=name: kept.__setitem__(name, z.clone())})
    for layer in range(3):
        for head in range(2):
            name = f"blocks.{layer}.attn.hook_z"

            def edit(z, head=head, name=name):
                z = z.clone()
                z[:, :, head] = kept[name][:, :, head].mean((0, 1)) if ablation == "mean" else 0
                return z

            expected = native_loss(tokens, {name: edit}) - native_loss(tokens)
            assert abs(result.values[layer, head] - expected) < 1e-10
    assert (result.low <= result.values).all()
    assert (result.values <= result.high).all()


def test_batches_change_nothing_for_zero_ablation(monkeypatch):
    whole = ngl.head_importance(model(), IDS, source="zero", n=40, progress=False)
    monkeypatch.setattr(ngl_importance, "BATCH_TOKENS", 30)
    parts = ngl.head_importance(model(), IDS, source="zero", n=40, progress=False)
    assert (whole.values - parts.values).abs().max() < 1e-12


@pytest.mark.slow
def test_the_estimate_ranks_the_heads_of_a_trained_model():
    hooked = ngl.load("shakespeare_char")
    exact = ngl.head_importance(hooked, n=16, progress=False)
    estimate = ngl.head_importance(hooked, method="attribution", n=16, progress=False)
    a, b = (r.values.flatten().argsort().argsort().double() for r in (exact, estimate))
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.8
    assert tuple(exact.top(1)[["layer", "head"]].iloc[0]) == tuple(estimate.top(1)[["layer", "head"]].iloc[0])


def test_bad_input_is_named():
    for changes, words in (
        ({"source": "median"}, "'median'; expected one of zero, mean, resample"),
        ({"method": "guess"}, "'guess'; expected 'exact' or 'attribution'"),
        ({"n": 1}, "1 sequences of 10 tokens; expected at least 2"),
        ({"seq_len": 11}, "expected 1 to 10"),
    ):
        with pytest.raises(ngl.AnalysisError, match=words):
            ngl.head_importance(model(), IDS, progress=False, **changes)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_an_mlp_is_worth_what_a_plain_hook_says(ablation):
    result = ngl_importance.mlp_importance(model(), IDS, source=ablation, n=40, progress=False)
    tokens = IDS.view(-1, 10)
    with torch.no_grad():
        intact = model()(tokens, return_type="loss")
    assert result.axes == ("layer",)
    for layer in range(3):

        def edit(output, hook):
            return torch.zeros_like(output) + (output.mean((0, 1)) if ablation == "mean" else 0)

        with torch.no_grad():
            hooks = [(f"blocks.{layer}.hook_mlp_out", edit)]
            without = model().run_with_hooks(tokens, return_type="loss", fwd_hooks=hooks)
        assert abs(float(result.values[layer]) - float(without - intact)) < 1e-6
    assert float(result.values.abs().max()) > 1e-3
    assert (result.low <= result.values).all()
    assert (result.values <= result.high).all()


def test_heads_and_mlps_are_measured_on_the_same_sequences():
    heads = ngl.head_importance(model(), IDS, n=7, seed=3, progress=False)
    mlps = ngl_importance.mlp_importance(model(), IDS, n=7, seed=3, progress=False)
    assert heads.sample == mlps.sample
    assert heads.per_example.shape[-1] == mlps.per_example.shape[-1] == 7


@pytest.mark.skipif(resolve_backend("auto") != "hooked", reason="a bridge is made from a checkpoint, which has MLPs")
def test_a_model_without_mlps_is_refused():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    alone = HookedTransformer(
        HookedTransformerConfig(n_layers=1, n_ctx=10, d_model=4, d_head=2, n_heads=2, d_vocab=13, attn_only=True)
    )
    with pytest.raises(AnalysisError, match="expected one with MLPs"):
        ngl_importance.mlp_importance(alone, IDS, progress=False)
