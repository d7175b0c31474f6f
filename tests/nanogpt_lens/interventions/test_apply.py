"""What interventions do: against the native model with edits, TransformerLens' own hooks, and patching."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.applying import apply
from nanogpt_lens.interventions.intervene import intervene
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.running.metrics import loss
from tests.nanogpt_lens.patching.patching_helpers import N_POS, model, native, native_run, texts

SEED = 3
STREAMS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
PLACES: list[dict[str, Any]] = [
    *({"activation": name, "layer": 1} for name in KINDS),
    *({"activation": name, "layer": (0, 2), "pos": (1, -1)} for name in STREAMS),
    *({"activation": name, "layer": 1, "head": 1, "pos": -2} for name in "zqkv"),
    {"activation": "z", "layer": 0, "head": (0, 1), "pos": (0, 4, -1)},
    {"activation": "pattern", "layer": 1, "head": 0, "dest_pos": -1, "src_pos": (0, 2)},
    {"activation": "pattern", "layer": 2, "src_pos": 3},
    {"activation": "mlp_post", "layer": 1, "neuron": (5, 3), "pos": 4},
    {"activation": "mlp_pre", "layer": 0, "neuron": 7},
]


@pytest.fixture(scope="module")
def ours():
    return model()


def cells(one, shape):
    """A mask of the entries that an intervention is about, cell by cell."""
    mask = torch.ones(shape, dtype=torch.bool)
    for dim, axis in enumerate(KINDS[one.activation].axes, start=1):
        places = getattr(one, axis)
        if places is not None:
            numbers = [places] if isinstance(places, int) else list(places)
            allowed = torch.zeros(shape[dim], dtype=torch.bool)
            allowed[numbers] = True
            mask &= allowed.view(-1, *(1,) * (len(shape) - dim - 1))
    return mask


def layers(one):
    return range(3) if one.layer is None else [one.layer] if isinstance(one.layer, int) else one.layer


def added(one, value):
    """The direction at each entry of the last dimension that it is about."""
    direction = torch.tensor(one.source["add"], dtype=torch.float64)
    if one.activation == "pattern":
        return direction.expand(value.shape[-1])
    if one.neuron is None:
        return direction
    wide = torch.zeros(value.shape[-1], dtype=torch.float64)
    for neuron, number in zip([one.neuron] if isinstance(one.neuron, int) else one.neuron, direction, strict=True):
        wide[neuron] = number
    return wide


def native_logits(one, tokens, other):
    """The native model's logits under an intervention, from its own runs."""
    kind = KINDS[one.activation]
    names = [kind.hook_name(layer) for layer in layers(one)]
    here, there = native_run(tokens, names), native_run(other, names)
    drawn = torch.randint(len(tokens) - 1, (len(tokens),), generator=torch.Generator().manual_seed(SEED))
    drawn += drawn >= torch.arange(len(tokens))
    assert (drawn != torch.arange(len(tokens))).all()

    def edit(value, name):
        if one.source == "zero":
            new = torch.zeros_like(value)
        elif one.source == "other":
            new = there[name]
        elif one.source == "resample":
            new = here[name][drawn]
        elif one.source == "mean":
            new = here[name].mean((0,) if one.activation == "pattern" else (0, 1)).expand_as(value)
        elif "add" in one.source:
            new = value + one.source["scale"] * added(one, value)
        else:
            new = one.source["scale"] * value
        return torch.where(cells(one, value.shape), new, value)

    with torch.no_grad():
        return native()(tokens, edits={name: lambda value, name=name: edit(value, name) for name in names})


def width(place):
    if place["activation"] == "pattern":
        return 1
    if place["activation"].startswith("mlp_p"):
        neuron = place.get("neuron", range(64))
        return 1 if isinstance(neuron, int) else len(neuron)
    return 16 if place["activation"] in STREAMS else 8


@pytest.mark.parametrize("source", ["zero", "mean", "resample", "other", "scale", "add"])
@pytest.mark.parametrize("place", PLACES, ids=lambda p: "-".join(map(str, p.values())))
def test_every_place_and_source_against_the_native_model(ours, place, source):
    tokens, other = texts()
    if source == "scale":
        source = {"scale": -1.7}
    elif source == "add":
        direction = torch.randn(width(place), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        source = {"add": direction, "scale": 0.6}
    one = Intervention(**place, source=source)
    result = intervene(ours, tokens, one, other=other, seed=SEED)
    assert (result.logits - native_logits(one, tokens, other)).abs().max() < 1e-10
    assert (result.base - native_run(tokens, [])["logits"]).abs().max() < 1e-10
    unseen = one.activation == "k" and one.pos is None and "add" in one.source  # softmax does not see one shift of all
    assert (result.logits - result.base).abs().max() > 1e-6 or unseen
    with apply(
        ours, one.to_json(), other=other, reference=None, seed=SEED
    ):  # of one layer, what arrives is the run's own
        again = ours(tokens, return_type="logits")
    if isinstance(one.layer, int):
        assert (again - result.logits).abs().max() < 1e-10
    assert not has_hooks(ours)


def test_against_hooks_of_transformer_lens(ours):
    tokens, _ = texts()

    def halved(z, hook=None):
        z = z.clone()
        z[:, 2, 1] *= 0.5
        return z

    expected = ours.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", halved)], return_type="logits")
    with apply(ours, Intervention("z", layer=1, head=1, pos=2, source={"scale": 0.5})) as inside:
        assert inside is ours
        assert torch.equal(ours(tokens, return_type="logits"), expected)
        logits, cache = ours.run_with_cache(tokens)
        assert torch.equal(logits, expected)
        assert torch.equal(ours(tokens, return_type="logits"), expected)  # run_with_cache took no hook away
    _, plain = ours.run_with_cache(tokens)
    assert torch.allclose(cache["blocks.1.attn.hook_z"][:, 2, 1], 0.5 * plain["blocks.1.attn.hook_z"][:, 2, 1])
    assert not has_hooks(ours)


@pytest.mark.parametrize("source", ["other", "zero", "mean", "resample"])
@pytest.mark.parametrize("activation", ["z", "pattern", "mlp_pre"])
def test_against_activation_patching(ours, activation, source):
    clean, corrupted = texts()
    axes = ("layer", "neuron" if activation == "mlp_pre" else "head")
    swept = ngl.activation_patching(
        ours,
        clean,
        corrupted,
        loss(clean),
        activation=activation,
        axes=axes,
        source=source,
        seed=SEED,
        direction="noise",
        progress=False,
    )
    for layer, index in ((0, 1), (2, 0)):
        one = Intervention(activation, layer=layer, source=source, **{axes[1]: index})
        result = intervene(ours, clean, one, other=corrupted, metric=loss(clean), seed=SEED)
        assert torch.allclose(result.metric, swept.per_example[layer, index], atol=1e-10)
        assert torch.allclose(result.change.mean(), swept.effect[layer, index], atol=1e-10)


def test_several_at_one_hook_are_made_in_order(ours):
    tokens, other = texts()
    ones = torch.ones(8, dtype=torch.float64)
    doubled = Intervention("z", layer=1, head=0, source={"scale": 2.0})
    shifted = Intervention("z", layer=1, source={"add": ones})
    name = "blocks.1.attn.hook_z"
    _, cache = ours.run_with_cache(tokens)
    z = cache[name]
    first = intervene(ours, tokens, [doubled, shifted], activations=[name]).activations[name]
    second = intervene(ours, tokens, [shifted, doubled], activations=["attn.hook_z"]).activations[name]
    factor = torch.tensor([2.0, 1.0], dtype=torch.float64)[:, None]
    assert torch.allclose(first, factor * z + 1, atol=1e-12)
    assert torch.allclose(second, factor * (z + 1), atol=1e-12)
    taken = intervene(ours, tokens, [doubled, Intervention("z", layer=1, source="other")], other=other)
    alone = intervene(ours, tokens, Intervention("z", layer=1, source="other"), other=other)
    assert torch.equal(taken.logits, alone.logits)


def test_a_reference_is_read_in_the_model_as_it_is(ours):
    tokens, reference = texts(4, seed=1)
    wanted = [Intervention("z", source="mean"), Intervention("mlp_out", layer=2, source="resample")]
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
    kept = native_run(reference, [*names, "blocks.2.hook_mlp_out"])
    drawn = torch.randint(4, (4,), generator=torch.Generator().manual_seed(SEED))
    edits = {name: lambda z, name=name: kept[name].mean((0, 1)).expand_as(z) for name in names}
    edits["blocks.2.hook_mlp_out"] = lambda out: kept["blocks.2.hook_mlp_out"][drawn]
    with torch.no_grad():
        expected = native()(tokens, edits=edits)
    assert (intervene(ours, tokens, wanted, reference=reference, seed=SEED).logits - expected).abs().max() < 1e-10
    with apply(ours, wanted, reference=reference, seed=SEED):
        assert (ours(tokens, return_type="logits") - expected).abs().max() < 1e-10


def test_nothing_is_left_behind(ours):
    tokens, _ = texts()
    plain = ours(tokens, return_type="logits")
    with pytest.raises(RuntimeError, match="mine"), apply(ours, Intervention.at("1.0")):
        raise RuntimeError("mine")
    assert not has_hooks(ours)
    late = pytest.raises(AnalysisError, match="there is no position 9 in 9 tokens")  # while the model runs
    with late, apply(ours, Intervention("z", pos=9)):
        ours(tokens)
    assert not has_hooks(ours)
    with apply(ours, Intervention.at("0.0")):
        with apply(ours, Intervention.at("0.1")):
            both = ours(tokens, return_type="logits")
        one = ours(tokens, return_type="logits")
    assert torch.equal(both, intervene(ours, tokens, [Intervention.at("0.0"), Intervention.at("0.1")]).logits)
    assert torch.equal(one, intervene(ours, tokens, Intervention.at("0.0")).logits)
    assert torch.equal(ours(tokens, return_type="logits"), plain)


def test_what_is_generated_sees_it(ours):
    tokens, _ = texts(1)
    towards = ours.W_U[:, 5] - ours.W_U.mean(1)
    with apply(ours, Intervention("resid_post", layer=2, source={"add": towards, "scale": 500.0})):
        drawn = ngl.generate(ours, tokens, max_new_tokens=4, temperature=0.0)
    best = int((towards.detach() @ ours.W_U.detach()).argmax())
    assert (drawn[0, N_POS:] == best).all()


def test_folded_weights_do_not_matter_to_a_pattern():
    tokens, other = texts()
    one = Intervention("pattern", layer=1, head=0, source="other")
    logits = [intervene(model(process_weights=w), tokens, one, other=other).logits for w in (False, True)]
    assert (logits[0].log_softmax(-1) - logits[1].log_softmax(-1)).abs().max() < 1e-9


def test_the_mean_pattern_of_longer_sequences_is_that_of_their_beginnings(ours):
    """Attention is causal: what comes later changes no row of the pattern before it."""
    tokens, reference = texts(4, seed=1)
    one = Intervention("pattern", layer=(0, 2), head=1, dest_pos=(2, 4), source="mean")
    cut = intervene(ours, tokens[:, :5], one, reference=reference)
    same = intervene(ours, tokens[:, :5], one, reference=reference[:, :5])
    assert (cut.logits - same.logits).abs().max() < 1e-12
    assert (cut.logits - cut.base).abs().max() > 1e-4
    kept = native_run(reference, ["blocks.1.attn.hook_pattern"])["blocks.1.attn.hook_pattern"].mean(0)
    with torch.no_grad():
        edit = {"blocks.1.attn.hook_pattern": lambda p: kept[:, : p.shape[-2], : p.shape[-1]].expand_as(p)}
        expected = native()(tokens[:, :5], edits=edit)
    with apply(ours, Intervention("pattern", layer=1, source="mean"), reference=reference):
        assert (ours(tokens[:, :5], return_type="logits") - expected).abs().max() < 1e-10
