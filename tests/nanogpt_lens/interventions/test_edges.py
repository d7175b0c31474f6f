"""Interventions at edges: against circuits, against plain lines in which one reader reads something else."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import nanogpt_lens as ngl
from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.applying import apply
from nanogpt_lens.interventions.intervene import intervene
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.running.metrics import logit_diff
from tests.conftest import convert
from tests.making import random_state
from tests.nanogpt_lens.circuits import plain
from tests.nanogpt_lens.patching.patching_helpers import N_POS, SIZES, checkpoint, model, texts

METRIC = logit_diff([3, 1, 4], [5, 9, 2], pos=[3, -1])
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def ours():
    return model()


def without_bias():
    return Checkpoint(
        config=NanoGPTConfig(**SIZES, bias=False), state_dict=random_state(**SIZES, bias=False, dtype=torch.float64)
    )


def edge(name, source="other", **places):
    return Intervention("edge", edge=name, source=source, **places)


def read_in_plain_lines(changes, tokens, state=None, zeroed=()):
    """The logits where each receiver adds what `changes[receiver](written)` says to what it reads.

    From nanoGPT's own weights, without the package; `written` has what each sender wrote before, an MLP without its
    bias. `zeroed` names heads that write nothing.
    """
    state = checkpoint().state_dict if state is None else state
    weight = lambda name: state.get(f"transformer.{name}")  # noqa: E731
    n_head, width, n_pos = 2, state["transformer.wte.weight"].shape[1], tokens.shape[1]
    size, past = width // n_head, torch.ones(n_pos, n_pos).tril().bool()

    def norm(x, name):
        return F.layer_norm(x, (width,), weight(f"{name}.weight"), weight(f"{name}.bias"), 1e-5)

    def reading(x, receiver):
        return x + changes[receiver](wrote) if receiver in changes else x

    x = weight("wte.weight")[tokens] + weight("wpe.weight")[:n_pos]
    wrote = {"embed": x}
    for i in range(3):
        attn, bias = weight(f"h.{i}.attn.c_attn.weight"), weight(f"h.{i}.attn.c_attn.bias")
        c_proj, heads = weight(f"h.{i}.attn.c_proj.weight"), []
        for h in range(n_head):
            made = []
            for p, part in enumerate("qkv"):
                rows = slice(p * width + h * size, p * width + (h + 1) * size)
                entering = norm(reading(x, f"{i}.{h}.{part}"), f"h.{i}.ln_1")
                made.append(F.linear(entering, attn[rows], None if bias is None else bias[rows]))
            q, k, v = made
            scores = (q @ k.transpose(1, 2) / size**0.5).masked_fill(~past, -torch.inf)
            z = scores.softmax(-1) @ v * (f"{i}.{h}" not in zeroed)
            heads.append(z @ c_proj[:, h * size : (h + 1) * size].T)
        wrote |= {f"{i}.{h}": heads[h] for h in range(n_head)}
        x = x + sum(heads) + (0 if bias is None else weight(f"h.{i}.attn.c_proj.bias"))
        entering = norm(reading(x, f"mlp{i}"), f"h.{i}.ln_2")
        hidden = F.gelu(F.linear(entering, weight(f"h.{i}.mlp.c_fc.weight"), weight(f"h.{i}.mlp.c_fc.bias")))
        wrote[f"mlp{i}"] = hidden @ weight(f"h.{i}.mlp.c_proj.weight").T
        x = x + wrote[f"mlp{i}"] + (0 if bias is None else weight(f"h.{i}.mlp.c_proj.bias"))
    return F.linear(norm(reading(x, "logits"), "ln_f"), state["lm_head.weight"])


def written_plainly(tokens):
    """What every sender writes in a plain run, an MLP without its bias."""
    return plain.run(checkpoint().state_dict, 2, tokens, None, set())


@pytest.mark.parametrize("bias", [True, False])
def test_each_edge_is_its_exact_effect(bias):
    """With "other", every edge of the model is `edge_effects` of noise."""
    hooked = model() if bias else convert(without_bias(), dtype=torch.float64)
    clean, corrupted = texts()
    expected = edge_effects(hooked, clean, corrupted, METRIC, **QUIET)
    names = expected.labels["edge"]
    assert len(names) == len(CircuitGraph(hooked).edges) > 80
    for i, name in enumerate(names):
        result = intervene(hooked, clean, edge(name), other=corrupted, metric=METRIC)
        assert (result.metric - expected.per_example[i]).abs().max() < 1e-10, name
        at = result.change.abs().max()
        assert bool(at > 1e-6) or float(expected.effect[i].abs()) < 1e-6
    assert not has_hooks(hooked)


@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
def test_other_sources_are_those_of_circuits(ours, source):
    clean, _ = texts()
    reference, _ = texts(5, seed=4)
    for given in (None, reference):
        expected = edge_effects(ours, clean, None, METRIC, source=source, reference=given, seed=3, **QUIET)
        for i, name in list(enumerate(expected.labels["edge"]))[::7]:
            result = intervene(ours, clean, edge(name, source), reference=given, metric=METRIC, seed=3)
            assert (result.metric - expected.per_example[i]).abs().max() < 1e-10, name


@pytest.mark.parametrize(("seed", "source"), [*((seed, "other") for seed in range(4)), (1, "mean"), (2, "resample")])
def test_a_set_of_edges_is_the_circuit_of_all_others(ours, seed, source):
    clean, corrupted = texts()
    names = [str(one) for one in CircuitGraph(ours).edges]
    chosen = torch.rand(len(names), generator=torch.Generator().manual_seed(seed)) < (0.1, 0.3, 0.6, 1.0)[seed]
    changed = [name for name, flag in zip(names, chosen, strict=True) if flag]
    kept = [name for name in names if name not in changed]
    expected = run_circuit(ours, kept, clean, corrupted, METRIC, source=source, seed=seed, **QUIET)
    some = [edge(name, source) for name in changed[::-1]]
    result = intervene(ours, clean, some, other=corrupted, metric=METRIC, seed=seed)
    assert (result.metric - expected.per_example[0]).abs().max() < 1e-10
    if len(changed) == len(names):  # nothing of the clean text is left
        assert (result.logits - ours(corrupted, return_type="logits")).abs().max() < 1e-10


SOME = ("embed->0.1.q", "0.1->1.0.k", "0.0->mlp0", "mlp0->2.1.v", "1.1->logits", "embed->mlp2", "mlp2->logits")


@pytest.mark.parametrize("places", [None, -1, (0, 4, -2)])
@pytest.mark.parametrize("source", ["zero", "mean", "other", "scale", "add"])
@pytest.mark.parametrize("name", SOME)
def test_every_source_and_position_in_plain_lines(ours, name, source, places):
    tokens, other = texts()
    sender, receiver = name.split("->")
    direction = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    here, there = written_plainly(tokens)[sender], written_plainly(other)[sender]
    puts = {
        "zero": lambda live: 0 * live,
        "mean": lambda live: here.mean((0, 1)).expand_as(live),
        "other": lambda live: there,
        "scale": lambda live: -1.7 * live,
        "add": lambda live: live + 0.6 * direction,
    }
    forms = {"scale": {"scale": -1.7}, "add": {"add": direction, "scale": 0.6}}
    inside = torch.zeros(N_POS, dtype=torch.bool)
    inside[slice(None) if places is None else list(places) if isinstance(places, tuple) else [places]] = True
    change = {receiver: lambda wrote: torch.where(inside[:, None], puts[source](wrote[sender]) - wrote[sender], 0)}
    expected = read_in_plain_lines(change, tokens)
    one = edge(name, forms.get(source, source), pos=places)
    result = intervene(ours, tokens, one, other=other)
    assert (result.logits - expected).abs().max() < 1e-10
    moved = (result.logits - result.base).abs().amax((0, 2)) > 1e-9
    assert not moved[: int(inside.nonzero()[0])].any()
    assert moved.any()
    with apply(ours, one.to_json(), other=other):  # the mean is that of the run itself
        assert (ours(tokens, return_type="logits") - expected).abs().max() < 1e-10


def test_a_head_as_a_whole_is_its_three(ours):
    tokens, other = texts()
    three = [edge(f"0.1->1.0.{part}", pos=(2, -1)) for part in "qkv"]
    whole = intervene(ours, tokens, edge("0.1->1.0", pos=(2, -1)), other=other)
    assert torch.equal(whole.logits, intervene(ours, tokens, three, other=other).logits)


def test_nobody_else_sees_it(ours):
    tokens, other = texts()
    names = [f"blocks.{i}.{hook}" for i in range(3) for hook in ("attn.hook_q", "attn.hook_k", "mlp.hook_pre")]
    kept = [*names, "blocks.1.hook_resid_pre", "blocks.1.ln1.hook_normalized"]
    result = intervene(ours, tokens, edge("0.1->1.0.k"), other=other, activations=kept)
    changed = {n for n in kept if not torch.equal(result.activations[n], result.base_activations[n])}
    assert changed == {"blocks.1.attn.hook_k", "blocks.1.mlp.hook_pre", *(n for n in names if "blocks.2" in n)}
    keys = (result.activations["blocks.1.attn.hook_k"] - result.base_activations["blocks.1.attn.hook_k"]).abs()
    assert keys[:, :, 0].max() > 1e-3
    assert not keys[:, :, 1].any()


def test_the_sender_is_the_one_of_the_edited_run(ours):
    """A head that writes nothing is read as nothing, whatever the factor; half of it is half of what it now writes."""
    tokens, other = texts()
    silent = Intervention.at("0.1")
    both = intervene(ours, tokens, [edge("0.1->1.0.k", {"scale": 5.0}), silent])
    assert (both.logits - intervene(ours, tokens, silent).logits).abs().max() < 1e-12
    put = intervene(ours, tokens, [silent, edge("0.1->1.0.k")], other=other)
    there = written_plainly(other)["0.1"]
    expected = read_in_plain_lines({"1.0.k": lambda wrote: there - wrote["0.1"]}, tokens, zeroed=("0.1",))
    assert (put.logits - expected).abs().max() < 1e-10
    for name in ("mlp0", "L0N3"):  # an MLP by its output, or by a neuron
        before = Intervention.at(name, {"scale": 3.0})
        undone = [edge(f"mlp0->{end}", "other") for end in ("mlp1", "mlp2", "logits", "1.0", "1.1", "2.0", "2.1")]
        result = intervene(ours, tokens, [before, *undone], other=tokens)
        assert (result.logits - result.base).abs().max() < 1e-10
        assert (intervene(ours, tokens, before).logits - result.base).abs().max() > 1e-3


def test_several_into_one_receiver(ours):
    """Senders add up; interventions at one edge are made one after the other; those on the activation come last."""
    tokens, other = texts()
    here, there = written_plainly(tokens), written_plainly(other)
    some = [edge("0.0->1.0.k"), edge("mlp0->1.0.k", "zero"), edge("0.0->1.0.k", {"scale": 2.0}, pos=-1)]
    last = torch.zeros(N_POS, 1, dtype=torch.float64)
    last[-1] = 1

    def change(wrote):
        return there["0.0"] * (1 + last) - wrote["0.0"] - wrote["mlp0"]

    expected = read_in_plain_lines({"1.0.k": change}, tokens)
    assert (intervene(ours, tokens, some, other=other).logits - expected).abs().max() < 1e-10
    keys = Intervention("k", layer=1, head=0, pos=(0, 1))
    result = intervene(ours, tokens, [keys, *some], other=other, activations=["k"])
    alone = intervene(ours, tokens, some, other=other, activations=["k"]).activations["blocks.1.attn.hook_k"]
    assert not result.activations["blocks.1.attn.hook_k"][:, :2, 0].any()
    assert torch.equal(result.activations["blocks.1.attn.hook_k"][:, 2:], alone[:, 2:])
    assert here  # what the text itself writes is not used


def test_processed_weights(ours):
    """Differences are the same where weights are processed; nothing is not, and is refused, as by circuits."""
    folded = model(process_weights=True)
    tokens, other = texts()
    for name in ("embed->0.0.q", "0.1->1.0.v", "mlp0->mlp1", "1.1->logits"):
        for source in ("other", "mean"):
            two = [intervene(m, tokens, edge(name, source), other=other).logits.log_softmax(-1) for m in (ours, folded)]
            assert (two[0] - two[1]).abs().max() < 1e-9
    for source in ("zero", {"scale": 0.5}):
        with pytest.raises(AnalysisError, match="weights are processed"):
            intervene(folded, tokens, edge("0.1->1.0.v", source))


def test_another_normalization_is_refused(ours, monkeypatch):
    monkeypatch.setattr(ours.cfg, "normalization_type", "RMS")
    with pytest.raises(AnalysisError, match="normalization_type is 'RMS'; expected LN or LNPre"):
        intervene(ours, texts()[0], edge("0.1->1.0.v", "mean"))


def test_gradients_go_through_an_edge(ours):
    """The gradient of a head's output, against differences of the run itself."""
    tokens, _ = texts(1)
    step, kept = torch.randn(1, N_POS, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), []

    def value(size):
        def moved(z, hook=None):
            kept.append(z + size * step)
            kept[-1].retain_grad()
            return kept[-1]

        with ours.hooks(fwd_hooks=[("blocks.0.attn.hook_z", moved)]), apply(ours, edge("0.1->1.0.k", {"scale": -2.0})):
            return ours(tokens, return_type="logits")[0, -1, 3]

    value(0.0).backward()
    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    assert abs((kept[0].grad * step).sum() - expected).item() < 1e-7
    ours.zero_grad(set_to_none=True)


def test_nothing_is_left_behind_and_nothing_old_is_read(ours):
    tokens, other = texts()
    plain_logits = ours(tokens, return_type="logits")
    with pytest.raises(RuntimeError, match="mine"), apply(ours, edge("0.1->1.0.k", "zero")):
        raise RuntimeError("mine")
    with apply(ours, edge("0.1->1.0.k", "zero", pos=5)):
        first = ours(tokens, return_type="logits")
        with pytest.raises(AnalysisError, match="there is no position 5 in 4 tokens"):
            ours(tokens[:, :4])
        assert torch.equal(ours(tokens, return_type="logits"), first)
        ours(other)
        stream = torch.randn(3, N_POS, 16, dtype=torch.float64)
        with pytest.raises(AnalysisError, match="expected a run that begins at the embedding"):
            ours(stream, start_at_layer=1, return_type="logits")
    assert not has_hooks(ours)
    assert torch.equal(ours(tokens, return_type="logits"), plain_logits)


def test_sweeps_know_no_edge(ours):
    clean, corrupted = texts()
    for sweep in (ngl.activation_patching, ngl.attribution_patching):
        with pytest.raises(AnalysisError, match="the activation 'edge' cannot be patched; expected one of resid_pre"):
            sweep(ours, clean, corrupted, METRIC, activation="edge", axes=("layer",), **QUIET)
    with pytest.raises(AnalysisError, match="there is no activation 'edge'"):
        intervene(ours, clean, [], activations=["edge"])


def test_the_result_says_it(ours):
    tokens, other = texts()
    result = ngl.intervene(ours, tokens, {"place": "L0H1 -> 1.0.K", "source": "other", "pos": -1}, other=other)
    assert result.interventions == ({"activation": "edge", "edge": "0.1->1.0.k", "pos": -1, "source": "other"},)
    assert "edge 0.1->1.0.k (pos -1) replaced by other" in repr(result)
    again = intervene(ours, tokens, json.dumps(list(result.interventions)), other=other)
    assert torch.equal(again.logits, result.logits)
