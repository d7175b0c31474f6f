"""Activation patching: every sweep against transformer_lens.patching or a plain loop over the native model."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import nanogpt_lens as ngl
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.model.access import has_hooks
from tests.handmade import INDUCTION, PREVIOUS, handmade_model
from tests.nanogpt_lens.patching.patching_helpers import checkpoint, model, native_run, native_sweep, texts

METRIC = ngl.metrics.logit_diff([3, 1, 4], [5, 9, 2])

TRANSFORMER_LENS = {
    "get_act_patch_resid_pre": ("resid_pre", ("layer", "pos")),
    "get_act_patch_resid_mid": ("resid_mid", ("layer", "pos")),
    "get_act_patch_attn_out": ("attn_out", ("layer", "pos")),
    "get_act_patch_mlp_out": ("mlp_out", ("layer", "pos")),
    "get_act_patch_attn_head_out_by_pos": ("z", ("layer", "pos", "head")),
    "get_act_patch_attn_head_q_by_pos": ("q", ("layer", "pos", "head")),
    "get_act_patch_attn_head_k_by_pos": ("k", ("layer", "pos", "head")),
    "get_act_patch_attn_head_v_by_pos": ("v", ("layer", "pos", "head")),
    "get_act_patch_attn_head_pattern_by_pos": ("pattern", ("layer", "head", "dest_pos")),
    "get_act_patch_attn_head_pattern_dest_src_pos": ("pattern", ("layer", "head", "dest_pos", "src_pos")),
    "get_act_patch_attn_head_out_all_pos": ("z", ("layer", "head")),
    "get_act_patch_attn_head_q_all_pos": ("q", ("layer", "head")),
    "get_act_patch_attn_head_k_all_pos": ("k", ("layer", "head")),
    "get_act_patch_attn_head_v_all_pos": ("v", ("layer", "head")),
    "get_act_patch_attn_head_pattern_all_pos": ("pattern", ("layer", "head")),
}


def transformer_lens_sweep(name, hooked, clean, corrupted, metric):
    """Theirs; its results have torch's default precision."""
    import transformer_lens.patching as patching

    _, cache = hooked.run_with_cache(clean)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return getattr(patching, name)(hooked, corrupted, cache, metric)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("engine", ["auto", "hooks"])
@pytest.mark.parametrize("name", TRANSFORMER_LENS)
def test_equals_transformer_lens_in_float64(name, engine):
    hooked, (clean, corrupted) = model(), texts()
    activation, axes = TRANSFORMER_LENS[name]
    result = ngl.activation_patching(
        hooked, clean, corrupted, METRIC, activation=activation, axes=axes, engine=engine, progress=False
    )
    theirs = transformer_lens_sweep(name, hooked, clean, corrupted, METRIC)
    assert result.axes == axes
    assert (result.values - theirs).abs().max() < 1e-10
    assert result.effect.abs().max() > 0.01
    expected = "continuation" if engine == "auto" else "hook points, sites on the batch axis"
    assert result.provenance["arguments"]["engine"].startswith(expected)


@pytest.mark.parametrize("name", ["get_act_patch_resid_pre", "get_act_patch_attn_head_k_by_pos"])
@pytest.mark.parametrize("processed", [False, True])
def test_equals_transformer_lens_in_float32(name, processed):
    hooked, (clean, corrupted) = model(dtype=torch.float32, process_weights=processed), texts()
    activation, axes = TRANSFORMER_LENS[name]
    result = ngl.activation_patching(hooked, clean, corrupted, METRIC, activation=activation, axes=axes, progress=False)
    theirs = transformer_lens_sweep(name, hooked, clean, corrupted, METRIC)
    assert result.values.dtype == torch.float32
    assert (result.values - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert result.provenance["arguments"]["engine"].startswith("continuation")


@pytest.mark.parametrize(
    ("activation", "axes"),
    [
        ("resid_post", ("pos", "layer")),
        ("mlp_post", ("layer", "neuron")),
        ("mlp_post", ("neuron", "pos", "layer")),
        ("z", ("pos",)),
        ("v", ("head", "pos")),
        ("q", ("layer", "pos")),
        ("k", ("pos", "layer")),
        ("pattern", ("src_pos", "layer")),
        ("pattern", ("dest_pos", "src_pos")),
        ("resid_mid", ("layer",)),
    ],
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_equals_a_plain_loop_over_the_native_model(activation, axes, direction):
    kind = KINDS[activation]
    clean, corrupted = texts(n=2)
    base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    names = [f"blocks.{i}.{kind.hook}" for i in range(3)]
    cached = native_run(other, names)
    metric = ngl.metrics.logit_diff([3, 1], [5, 9], pos=[4, -1])
    expected = native_sweep(base, {i: cached[n] for i, n in enumerate(names)}, kind.hook, kind.axes, axes, metric)
    result = ngl.activation_patching(
        model(), clean, corrupted, metric, activation=activation, axes=axes, direction=direction, progress=False
    )
    assert (result.values - expected).abs().max() < 1e-10
    assert result.effect.abs().max() > 1e-3


@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
@pytest.mark.parametrize("activation", ["z", "resid_mid", "pattern", "mlp_post"])
def test_ablations_equal_a_plain_loop(source, activation):
    kind, (clean, reference) = KINDS[activation], texts(n=3)
    names = [f"blocks.{i}.{kind.hook}" for i in range(3)]
    cached = native_run(reference, names)
    result = ngl.activation_patching(
        model(),
        clean,
        None,
        ngl.metrics.loss(),
        activation=activation,
        axes=("layer", kind.axes[0]),
        source=source,
        reference=reference,
        seed=5,
        progress=False,
    )
    drawn = torch.randint(3, (3,), generator=torch.Generator().manual_seed(5))
    patched_in = {}
    for layer, name in enumerate(names):
        values = cached[name]
        mean = values.mean(0, keepdim=True) if activation == "pattern" else values.mean((0, 1), keepdim=True)
        patched_in[layer] = {"zero": values * 0, "mean": mean.expand_as(values), "resample": values[drawn]}[source]

    def metric(logits):
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), clean[:, 1:].flatten())

    expected = native_sweep(clean, patched_in, kind.hook, kind.axes, ("layer", kind.axes[0]), metric)
    assert (result.values - expected).abs().max() < 1e-10
    assert result.direction == "noise"
    assert result.recovery is None
    assert abs(result.base - float(metric(native_run(clean, [])["logits"]))) < 1e-10


def test_resampling_never_takes_the_example_itself():
    clean, _ = texts(n=2)
    result = ngl.activation_patching(
        model(),
        clean,
        None,
        ngl.metrics.loss(),
        activation="resid_pre",
        axes=("layer", "pos"),
        source="resample",
        progress=False,
    )
    swapped = ngl.activation_patching(
        model(),
        clean,
        clean.flip(0),
        ngl.metrics.loss(),
        activation="resid_pre",
        axes=("layer", "pos"),
        direction="noise",
        progress=False,
    )
    assert (result.values - swapped.values).abs().max() < 1e-12


def test_recovery_interval_and_examples_by_hand():
    clean, corrupted = texts(n=3)
    hooked = model()
    result = ngl.activation_patching(
        hooked, clean, corrupted, METRIC, activation="resid_pre", axes=("layer", "pos"), progress=False
    )
    before, after = (METRIC(hooked(tokens).detach()).item() for tokens in (corrupted, clean))
    assert (result.clean, result.corrupted) == pytest.approx((after, before))
    assert torch.allclose(result.recovery, (result.values - before) / (after - before))
    assert torch.allclose(result.effect, result.values - before)
    assert result.per_example.shape == (3, 9, 3)
    assert torch.allclose(result.per_example.mean(-1), result.values)
    whole = ngl.activation_patching(
        hooked, clean, corrupted, METRIC, activation="resid_pre", axes=("layer",), progress=False
    )
    assert torch.allclose(whole.recovery, torch.ones(3, dtype=torch.float64))  # all positions: the clean run itself
    assert (result.low <= result.values + 1e-9).all()
    assert (result.values <= result.high + 1e-9).all()
    assert (result.high > result.low).any()
    base = torch.stack([METRIC.per_example(hooked(corrupted).detach())])
    paired = t_interval(result.per_example - base)
    assert torch.allclose(result.effect_low, paired[0])
    assert torch.allclose(result.effect_high, paired[1])
    single = ngl.activation_patching(
        hooked, clean[:1], corrupted[:1], ngl.metrics.logit_diff(3, 5), activation="z", axes=("layer",), progress=False
    )
    assert single.low is None
    options = {"activation": "z", "axes": ("layer",), "progress": False}
    constant = ngl.activation_patching(hooked, clean, corrupted, lambda logits: 0 * logits.sum(), **options)
    assert constant.recovery.isnan().all()


@pytest.mark.parametrize("as_given", [lambda t: t, lambda t: t[:1], lambda t: t[0].tolist()])
def test_one_text_twice_is_refused_by_all(as_given):
    clean = as_given(texts()[0])
    for call in (
        lambda: ngl.activation_patching(model(), clean, clean, METRIC, activation="z", axes=("layer",), progress=False),
        lambda: ngl.attribution_patching(model(), clean, clean, METRIC, activation="z", axes=("layer",)),
        lambda: ngl.screen_and_verify(model(), clean, clean, METRIC, activation="z", axes=("layer",), progress=False),
        lambda: ngl.path_patching(model(), clean, clean, METRIC, senders="heads", receivers=["logits"], progress=False),
    ):
        with pytest.raises(ngl.AnalysisError, match="the clean and the corrupted text are the same.*differ in some"):
            call()


def test_noising_is_denoising_with_the_texts_exchanged():
    clean, corrupted = texts()
    options = {"activation": "z", "axes": ("layer", "head"), "progress": False}
    noise = ngl.activation_patching(model(), clean, corrupted, METRIC, direction="noise", **options)
    denoise = ngl.activation_patching(model(), corrupted, clean, METRIC, **options)
    assert torch.allclose(noise.values, denoise.values)
    assert torch.allclose(noise.recovery, 1 - denoise.recovery)


def test_a_bare_callable_sees_all_logits_in_either_engine():
    clean, corrupted = texts()
    seen = []

    def metric(logits):
        seen.append(logits.shape)
        return (logits[:, 0, 1] * logits[:, -1, 2]).mean() + logits[1, 4].max()

    found = [
        ngl.activation_patching(
            model(), clean, corrupted, metric, activation="v", axes=("layer", "pos"), engine=engine, progress=False
        ).values
        for engine in ("auto", "hooks")
    ]
    assert (found[0] - found[1]).abs().max() < 1e-10
    assert set(seen) == {(3, 9, 13)}


@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_hooks_are_gone_also_when_the_metric_raises(engine):
    hooked, (clean, corrupted) = model(), texts()
    calls = 0

    def metric(logits):
        nonlocal calls
        calls += 1
        if calls > 7:
            raise KeyError("mine")
        return logits.mean()

    with pytest.raises(KeyError, match="mine"):
        ngl.activation_patching(
            hooked, clean, corrupted, metric, activation="z", axes=("layer", "pos"), engine=engine, progress=False
        )
    assert not has_hooks(hooked)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_hooks_of_the_user_stay_and_take_effect():
    hooked, (clean, corrupted) = model(), texts()
    name = "blocks.1.hook_mlp_out"
    hooked.add_hook(name, lambda value, hook: value * 0)
    result = ngl.activation_patching(
        hooked, clean, corrupted, METRIC, activation="resid_pre", axes=("layer", "pos"), progress=False
    )
    assert result.provenance["arguments"]["engine"] == "hook points, one site per run"
    assert has_hooks(hooked)
    theirs = transformer_lens_sweep("get_act_patch_resid_pre", hooked, clean, corrupted, METRIC)
    assert (result.values - theirs).abs().max() < 1e-10
    hooked.reset_hooks()
    plain = ngl.activation_patching(
        hooked, clean, corrupted, METRIC, activation="resid_pre", axes=("layer", "pos"), progress=False
    )
    assert (result.values - plain.values).abs().max() > 0.01


def test_a_model_that_the_shortcut_does_not_compute_is_seen(monkeypatch):
    """A continuation that is wrong anywhere is found on the base run, and hook points take over."""
    clean, corrupted = texts()
    monkeypatch.setattr("nanogpt_lens.patching.continuation.score_scale", lambda model, layer: 1.0)
    result = ngl.activation_patching(
        model(), clean, corrupted, METRIC, activation="z", axes=("layer", "head"), progress=False
    )
    assert result.provenance["arguments"]["engine"].startswith("hook points")
    monkeypatch.undo()
    right = ngl.activation_patching(
        model(), clean, corrupted, METRIC, activation="z", axes=("layer", "head"), progress=False
    )
    assert (result.values - right.values).abs().max() < 1e-10


@pytest.mark.hooked
def test_hooks_of_torch_are_seen_too():
    hooked, (clean, corrupted) = model(), texts()
    handle = hooked.blocks[1].mlp.register_forward_hook(lambda module, inputs, out: out * 1.0001)
    result = ngl.activation_patching(
        hooked, clean, corrupted, METRIC, activation="z", axes=("layer", "head"), progress=False
    )
    assert result.provenance["arguments"]["engine"] == "hook points, one site per run"
    handle.remove()
    assert not has_hooks(hooked)


def test_a_metric_that_returns_a_python_number_keeps_its_precision():
    clean, corrupted = texts()
    options = {"activation": "z", "axes": ("layer", "head"), "progress": False}
    plain = ngl.activation_patching(model(), clean, corrupted, lambda lg: float(METRIC(lg)), **options)
    exact = ngl.activation_patching(model(), clean, corrupted, METRIC, **options)
    assert (plain.values - exact.values).abs().max() < 1e-12
    assert plain.per_example is None


def test_ids_of_any_integer_type_and_answers_as_numbers_of_any_kind():
    clean, corrupted = texts(n=1)
    options = {"activation": "z", "axes": ("layer", "head"), "progress": False}
    expected = ngl.activation_patching(model(), clean, corrupted, ngl.metrics.logit_diff(3, 5, pos=3), **options)
    for metric in (
        ngl.metrics.logit_diff(torch.tensor(3), np.int64(5), pos=np.int64(3)),
        ngl.metrics.logit_diff(np.array([3]), torch.tensor([5]), pos=[3]),
    ):
        found = ngl.activation_patching(
            model(), clean.numpy().astype(np.uint16), corrupted.to(torch.int16).tolist(), metric, **options
        )
        assert torch.equal(found.values, expected.values)


def test_half_precision_goes_through_hook_points():
    clean, corrupted = texts()
    result = ngl.activation_patching(
        model(dtype=torch.bfloat16), clean, corrupted, METRIC, activation="z", axes=("layer", "head"), progress=False
    )
    assert result.provenance["arguments"]["engine"].startswith("hook points")


def test_modes_are_left_as_they_were():
    hooked, (clean, corrupted) = model(), texts()
    hooked.train()
    with torch.inference_mode():
        result = ngl.activation_patching(
            hooked, clean, corrupted, METRIC, activation="z", axes=("layer", "head"), progress=False
        )
    assert hooked.training
    assert result.values.shape == (3, 2)
    assert all(p.grad is None for p in hooked.parameters())


@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_memory_does_not_grow_with_the_number_of_sites(engine):
    """The most bytes alive at once, beyond those of a sweep of few sites, stay below the budget."""
    clean, corrupted = texts(n=1)
    hooked, budget = model(), 2**18

    def peak(axes):
        with Watch() as watch:
            ngl.activation_patching(
                hooked,
                clean,
                corrupted,
                ngl.metrics.loss(),
                activation="mlp_post",
                axes=axes,
                engine=engine,
                memory=budget,
                progress=False,
            )
        return watch.peak

    few, many = peak(("layer",)), peak(("layer", "pos", "neuron"))  # 3 sites, 1,728 sites
    values = 1728 * 8 * 6  # the result itself, and its intermediate copies
    assert many - few < budget + values


class Watch(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make and that are alive."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return out

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self.forget, key, size)

    def forget(self, key, size):
        if key in self.known:
            self.known.discard(key)
            self.alive -= size


def test_on_the_handmade_model_only_the_two_heads_matter():
    hooked = handmade_model()
    pair = ngl.induction_pairs(hooked, seq_len=14, n=6)
    metric = ngl.metrics.logit_diff(pair.answer, pair.wrong)
    result = ngl.activation_patching(
        hooked, pair.clean, pair.corrupted, metric, activation="z", axes=("layer", "head"), progress=False
    )
    assert result.clean > 5 > 1 > result.corrupted
    for layer in range(2):
        for head in range(2):
            expected = 1.0 if (layer, head) in (PREVIOUS, INDUCTION) else 0.0
            assert abs(result.recovery[layer, head] - expected) < 1e-6


def test_labels_are_tokens():
    hooked = ngl.load("shakespeare_char")
    result = ngl.activation_patching(
        hooked,
        "ROMEO:",
        "JULIE:",
        ngl.metrics.logit_diff("\n", "a"),
        activation="z",
        axes=("pos", "head"),
        progress=False,
    )
    assert result.labels["pos"] == ("R|J", "O|U", "M|L", "E|I", "O|E", ":")
    assert "repr" not in repr(result)
    assert result.provenance["checkpoint_sha256"] == hooked.nanogpt_origin.sha256


def test_checkpoint_is_of_the_size_the_helpers_say():
    assert checkpoint().config.n_layer == 3
