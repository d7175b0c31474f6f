"""Gradient estimates: against finite differences and exact effects; screening against the exact sweep."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.patching.trust import trust_of
from tests.handmade import INDUCTION, PREVIOUS, handmade_model
from tests.nanogpt_lens.patching.patching_helpers import model, native, native_run, texts

METRIC = ngl.metrics.logit_diff([3, 1, 4], [5, 9, 2], pos=[3, -1])


@pytest.mark.parametrize("activation", KINDS)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_is_the_derivative_at_the_base_point(activation, direction):
    """A central difference of the native model along (source - base), site by site."""
    kind, (clean, corrupted) = KINDS[activation], texts()
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    axes = ("layer", *kind.axes[:2])
    result = ngl.attribution_patching(
        model(), clean, corrupted, METRIC, activation=activation, axes=axes, direction=direction
    )
    assert result.axes == axes
    step, gpt = 1e-4, native()
    for place in [(0, 1, 1), (1, 0, 1), (2, 1, 0), (1, 1, 1)]:
        place = place[: len(axes)]
        name = f"blocks.{place[0]}.{kind.hook}"
        change = native_run(source, [name])[name] - native_run(base, [name])[name]
        inside = torch.zeros_like(change)
        inside[(slice(None), *place[1:])] = 1

        def moved(sign, name=name, change=change, inside=inside):
            with torch.no_grad():
                return METRIC(gpt(base, edits={name: lambda x: x + sign * step * inside * change}))

        assert abs(result.at(**dict(zip(axes, place, strict=True))) - (moved(1) - moved(-1)) / (2 * step)) < 1e-6


@pytest.mark.parametrize("activation", KINDS)
def test_integrated_gradients_sum_to_the_exact_effect_of_a_layer(activation):
    """Completeness; the trapezoid's error falls with the square of the number of steps."""
    clean, corrupted = texts()
    exact = ngl.activation_patching(
        model(), clean, corrupted, METRIC, activation=activation, axes=("layer",), progress=False
    )
    errors = []
    for steps in (50, 200):
        found = ngl.attribution_patching(
            model(),
            clean,
            corrupted,
            METRIC,
            activation=activation,
            axes=("layer", KINDS[activation].axes[0]),
            ig_steps=steps,
        )
        errors.append((found.values.sum(1) - exact.effect).abs().max())
    assert errors[1] < 2e-3
    assert errors[1] < errors[0] / 8


def test_one_step_is_the_mean_of_both_ends():
    clean, corrupted = texts()
    options = {"activation": "z", "axes": ("layer", "head", "pos")}
    start = ngl.attribution_patching(model(), clean, corrupted, METRIC, **options)
    one = ngl.attribution_patching(model(), clean, corrupted, METRIC, ig_steps=1, **options)
    last = 2 * one.values[2] - start.values[2]  # in the last layer, patching all of z is all that happens
    noise = ngl.attribution_patching(model(), clean, corrupted, METRIC, direction="noise", **options)
    assert not torch.allclose(last, -noise.values[2])  # the streams below differ between the runs
    assert (one.values - start.values).abs().max() > 0.01


def test_axes_examples_and_callables():
    clean, corrupted = texts()
    full = ngl.attribution_patching(model(), clean, corrupted, METRIC, activation="q", axes=("head", "pos", "layer"))
    part = ngl.attribution_patching(model(), clean, corrupted, METRIC, activation="q", axes=("layer",))
    assert torch.allclose(full.values.sum((0, 1)), part.values)
    assert torch.allclose(full.per_example.mean(-1), full.values)
    single = ngl.attribution_patching(
        model(),
        clean[1:2],
        corrupted[1:2],
        ngl.metrics.logit_diff(1, 9, pos=[3, -1]),
        activation="q",
        axes=("head", "pos", "layer"),
    )
    assert torch.allclose(full.per_example[..., 1], single.values)
    bare = ngl.attribution_patching(
        model(), clean, corrupted, METRIC.__call__, activation="q", axes=("head", "pos", "layer")
    )
    assert torch.allclose(bare.values, full.values)
    assert bare.per_example is None


def test_gradients_are_by_layer():
    """A patch of all layers at once overwrites itself; a sum of gradients would say something else."""
    clean, corrupted = texts()
    for function in (ngl.attribution_patching, ngl.screen_and_verify):
        with pytest.raises(ngl.AnalysisError, match="expected 'layer' among the axes"):
            function(model(), clean, corrupted, METRIC, activation="resid_pre", axes=("pos",))
        with pytest.raises(ngl.AnalysisError, match="over None; expected 'layer'"):
            function(model(), clean, corrupted, METRIC, activation="resid_pre", axes=None)


def test_a_model_without_gradients_is_named():
    clean, corrupted = texts()
    with torch.inference_mode():
        hooked = model()
    for function in (ngl.attribution_patching, ngl.screen_and_verify):
        with pytest.raises(ngl.AnalysisError, match="loaded under torch.inference_mode"):
            function(hooked, clean, corrupted, METRIC, activation="z", axes=("layer",))
    with pytest.raises(ngl.AnalysisError, match="expected a HookedTransformer"):
        ngl.attribution_patching("model", clean, corrupted, METRIC, activation="z", axes=("layer",))


def test_nothing_is_left_behind():
    hooked, (clean, corrupted) = model(), texts()
    torch.set_grad_enabled(False)
    try:
        with torch.inference_mode():
            ngl.attribution_patching(hooked, clean, corrupted, METRIC, activation="z", axes=("layer",), ig_steps=3)
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    assert not has_hooks(hooked)
    assert all(p.grad is None for p in hooked.parameters())


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_bad_steps_are_named(steps):
    clean, corrupted = texts()
    with pytest.raises(ngl.AnalysisError, match="ig_steps"):
        ngl.attribution_patching(model(), clean, corrupted, METRIC, activation="z", axes=("layer",), ig_steps=steps)


def test_a_metric_without_gradient_is_named():
    clean, corrupted = texts()
    with pytest.raises(ngl.AnalysisError, match="no gradient"):
        ngl.attribution_patching(
            model(),
            clean,
            corrupted,
            lambda logits: (logits.argmax(-1) == 1).double().mean(),
            activation="z",
            axes=("layer",),
        )


class TestScreening:
    OPTIONS: ClassVar = {"activation": "z", "axes": ("layer", "head", "pos"), "progress": False}

    def exact(self, clean, corrupted, metric=METRIC, **options):
        return ngl.activation_patching(model(), clean, corrupted, metric, **self.OPTIONS, **options)

    @pytest.mark.parametrize("source", ["other", "zero", "mean", "resample"])
    @pytest.mark.parametrize("engine", ["auto", "hooks"])
    def test_verified_values_are_exact_and_the_others_are_estimates(self, source, engine):
        clean, corrupted = texts()
        result = ngl.screen_and_verify(
            model(), clean, corrupted, METRIC, k=5, verify=9, sample=6, source=source, engine=engine, **self.OPTIONS
        )
        exact = self.exact(clean, corrupted, source=source)
        assert int(result.verified.sum()) == 15
        assert int(result.sampled.sum()) == 6
        assert (result.values - exact.values)[result.verified].abs().max() < 1e-10
        guess = ngl.attribution_patching(
            model(), clean, corrupted, METRIC, activation="z", axes=("layer", "head", "pos"), source=source
        )
        assert (result.estimate - guess.values).abs().max() < 1e-10
        assert torch.allclose(result.values[~result.verified], (result.base + guess.values)[~result.verified])
        assert result.low.shape == result.values.shape

    def test_both_engines_choose_the_same_sites(self):
        clean, corrupted = texts()
        found = [
            ngl.screen_and_verify(model(), clean, corrupted, METRIC, k=5, engine=engine, **self.OPTIONS).verified
            for engine in ("auto", "hooks")
        ]
        assert torch.equal(*found)

    def test_verifying_everything_is_the_exact_sweep(self):
        clean, corrupted = texts()
        result = ngl.screen_and_verify(model(), clean, corrupted, METRIC, k=54, verify=54, **self.OPTIONS)
        assert (result.values - self.exact(clean, corrupted).values).abs().max() < 1e-10
        assert (result.recall_low, result.missed, result.missed_high) == (1.0, 0.0, 0.0)

    def test_recall_is_that_of_the_whole_when_the_rest_is_sampled_whole(self):
        """With every other site in the sample, the truth is known."""
        clean, corrupted = texts()
        for k, verify in ((3, 3), (10, 10), (10, 20)):
            result = ngl.screen_and_verify(
                model(), clean, corrupted, METRIC, k=k, verify=verify, sample=54 - verify, **self.OPTIONS
            )
            effect = self.exact(clean, corrupted).effect.abs().flatten()
            first = (result.verified & ~result.sampled).flatten()
            top = effect.topk(k).indices
            assert result.recall_among_patched == pytest.approx(float(first[top].double().mean()))
            assert result.missed == pytest.approx(float((effect[~first] > effect[first].topk(k).values[-1]).sum()))

    def test_missed_sites_are_counted_without_bias(self):
        """The mean over samples is the true number, and the upper end is above it in 19 of 20."""
        clean, corrupted = texts(seed=3)
        effect = self.exact(clean, corrupted).effect.abs().flatten()
        result = ngl.screen_and_verify(model(), clean, corrupted, METRIC, k=10, verify=10, **self.OPTIONS)
        first = (result.verified & ~result.sampled).flatten().nonzero().squeeze(1)
        rest = torch.tensor([i for i in range(54) if i not in set(first.tolist())])
        true = int((effect[rest] > effect[first].min()).sum())
        assert true > 2
        found = []
        for seed in range(2000):
            drawn = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:8]]
            index = torch.cat([first, drawn])
            found.append(trust_of(result.estimate.flatten(), index, effect[index], n_first=10, k=10))
        assert abs(sum(f["missed"] for f in found) / len(found) - true) < 0.3
        assert sum(f["missed_high"] >= true for f in found) / len(found) >= 0.95

    def test_trust_by_hand(self):
        """100 sites, the 4 first verified, 12 of the other 96 sampled; one of them is larger than all but one."""
        guess = torch.linspace(1, 0, 100)
        index = torch.cat([torch.arange(4), torch.arange(20, 32)])
        effect = torch.tensor([5.0, 4, 9, 3, *[0.0] * 11, -6.0])
        trust = trust_of(guess, index, effect, n_first=4, k=2)
        assert trust["recall_among_patched"] == 0.5  # of 9 and -6, the 9
        assert trust["recall_curve"].tolist() == [0.0, 0.0, 0.5, 0.5]
        assert trust["missed"] == 8.0  # the sampled site stands for 8
        assert 20 < trust["missed_high"] < 50
        quiet = trust_of(guess, index, torch.tensor([9.0, 5, 4, 3, *[0.0] * 12]), n_first=4, k=2)
        assert quiet["recall_curve"].tolist() == [0.5, 1.0, 1.0, 1.0]
        assert quiet["missed"] == 0.0
        most = int(quiet["missed_high"])  # none of 12 drawn out of 96: below the rule of three, and rarer with one more
        assert math.comb(96 - most, 12) / math.comb(96, 12) > 0.05 >= math.comb(95 - most, 12) / math.comb(96, 12)
        assert math.isnan(quiet["correlation"])
        none = trust_of(guess, index[:4], effect[:4], n_first=4, k=2)
        assert math.isnan(none["missed"])
        assert none["missed_high"] == 96

    def test_what_is_not_verified_has_no_interval(self):
        clean, corrupted = texts()
        result = ngl.screen_and_verify(model(), clean, corrupted, METRIC, k=5, **self.OPTIONS)
        exact = self.exact(clean, corrupted)
        for name in ("low", "high", "effect_low", "effect_high"):
            found = getattr(result, name)
            assert torch.equal(found.isnan(), ~result.verified)
            assert torch.allclose(found[result.verified], getattr(exact, name)[result.verified])

    def test_finds_the_two_heads_of_the_handmade_model(self):
        hooked = handmade_model()
        pair = ngl.induction_pairs(hooked, seq_len=14, n=6)
        result = ngl.screen_and_verify(
            hooked,
            pair.clean,
            pair.corrupted,
            ngl.metrics.logit_diff(pair.answer, pair.wrong),
            activation="z",
            axes=("layer", "head"),
            k=2,
            verify=3,
        )
        top = result.top(2, by="effect")
        assert {tuple(row) for row in top[["layer", "head"]].to_numpy().tolist()} == {PREVIOUS, INDUCTION}
        assert top["recovery"].tolist() == pytest.approx([1.0, 1.0])

    @pytest.mark.parametrize("change", [{"k": 0}, {"k": 5, "verify": 4}, {"sample": -1}, {"k": 2.5}, {"k": 55}])
    def test_bad_numbers_are_named(self, change):
        clean, corrupted = texts()
        with pytest.raises(ngl.AnalysisError, match="1 <= k <= verify|there are 54 sites"):
            ngl.screen_and_verify(model(), clean, corrupted, METRIC, **self.OPTIONS, **change)
