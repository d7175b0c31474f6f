"""Edges along which one model reads what another wrote, against plain hooks, in float64."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.compare.transplanted_edges import transplant_edges
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.fingerprints import weights_hash
from nanogpt_lens.results import TransplantedEdges
from nanogpt_lens.running.metrics import answer_logprob
from tests.nanogpt_lens.compare.kin import drawn_from, hybrid_state, later, model_of, start

TOKENS = drawn_from(model_of(start()), 24, 9)
QUIET = {"progress": False, "n": 24}


@cache
def pair():
    return model_of(start()), model_of(later(start()))


@cache
def result(by="loss"):
    return transplant_edges(*pair(), TOKENS, seq_len=9, by=by, **QUIET)


def recorded(model, names):
    kept = {}

    def keep(name):
        return name, lambda value, hook=None: kept.__setitem__(name, value.detach().clone())

    with torch.no_grad():
        logits = model.run_with_hooks(TOKENS, fwd_hooks=[keep(name) for name in names])
    return kept, logits


def wrote(model, sender):
    """What a sender writes, from the model's own hook points."""
    if sender == "embed":
        kept, _ = recorded(model, ["hook_embed", "hook_pos_embed"])
        return kept["hook_embed"] + kept["hook_pos_embed"]
    if sender.startswith("mlp"):
        name = f"blocks.{sender[3:]}.hook_mlp_out"
        return recorded(model, [name])[0][name] - model.blocks[int(sender[3:])].mlp.b_out.detach()
    layer, head = map(int, sender.split("."))
    name = f"blocks.{layer}.attn.hook_z"
    return recorded(model, [name])[0][name][:, :, head] @ model.W_O[layer, head].detach()


def logits_by_hand(donor, receiver, edge):
    """The receiver's logits where one node reads what the donor's sender wrote: one hook, LayerNorm by hand."""
    sender, end = edge.split("->")
    change = wrote(donor, sender) - wrote(receiver, sender)

    def normal(x, which, layer):
        norm = getattr(receiver.blocks[layer], which)
        weight = norm.w if hasattr(norm, "w") and norm.w is not None else norm.weight
        bias = norm.b if hasattr(norm, "b") and norm.b is not None else norm.bias
        return torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, eps=1e-5)

    if end == "logits":
        name, new = f"blocks.{receiver.cfg.n_layers - 1}.hook_resid_post", lambda value: value + change
    elif end.startswith("mlp"):
        layer = int(end[3:])
        stream = f"blocks.{layer}.hook_resid_mid"
        x = recorded(receiver, [stream])[0][stream] + change
        mlp = receiver.blocks[layer].mlp
        inside = normal(x, "ln2", layer) @ mlp.W_in + mlp.b_in
        name, new = f"blocks.{layer}.mlp.hook_pre", lambda value: inside
    else:
        layer, head, part = end.split(".")
        layer, head = int(layer), int(head)
        stream = f"blocks.{layer}.hook_resid_pre"
        x = recorded(receiver, [stream])[0][stream] + change
        attn = receiver.blocks[layer].attn
        own = normal(x, "ln1", layer) @ getattr(attn, f"W_{part.upper()}")[head]
        own = own + getattr(attn, f"b_{part.upper()}")[head]

        def new(value):
            value = value.clone()
            value[:, :, head] = own
            return value

        name = f"blocks.{layer}.attn.hook_{part}"
    with torch.no_grad():
        return receiver.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda value, hook=None: new(value))])


def loss_of(logits):
    return -logits[:, :-1].log_softmax(-1).gather(-1, TOKENS[:, 1:, None])[..., 0].mean(-1)


EDGES = [
    "embed->0.1.q", "embed->0.0.v", "embed->mlp0", "0.1->mlp0", "0.0->1.1.k", "0.1->1.0.v", "mlp0->1.0.q", "mlp0->mlp1",
    "1.1->mlp1", "1.0->logits", "mlp1->logits", "embed->logits",
]  # fmt: skip


@pytest.mark.parametrize("edge", EDGES)
def test_against_plain_hooks(edge):
    a, b = pair()
    with torch.no_grad():
        ends = {id(model): model(TOKENS) for model in pair()}
        for direction, donor, receiver in (("a into b", a, b), ("b into a", b, a)):
            logits = logits_by_hand(donor, receiver, edge)
            changed, base, end = (loss_of(x).mean() for x in (logits, ends[id(receiver)], ends[id(donor)]))
            found = result()
            at = found.edges.index(edge)
            row = found.labels["direction"].index(direction)
            assert float(found.effect[row, at]) == pytest.approx(float(changed - base), abs=1e-9)
            assert float(found.gap[row]) == pytest.approx(float(end - base), abs=1e-9)
            assert found.share(edge, direction) == pytest.approx(float((changed - base) / (end - base)), abs=1e-7)
            p, q, own = (x[:, :-1].log_softmax(-1) for x in (ends[id(donor)], ends[id(receiver)], logits))
            far, near = ((p.exp() * (p - other)).sum(-1).mean() for other in (q, own))
            assert result("kl").share(edge, direction) == pytest.approx(float(1 - near / far), abs=1e-9)


def test_one_head_of_the_last_layer():
    """Only what that head writes differs, so only the edges out of it do anything; b's MLP behind it is a's."""
    state = start()
    changed = model_of(hybrid_state(later(state, size=1.0), state, ["1.1"]))
    found = transplant_edges(model_of(state), changed, TOKENS, seq_len=9, **QUIET)
    out = [edge.startswith("1.1->") or edge == "mlp1->logits" for edge in found.edges]
    for row in range(2):
        moved = {edge for edge, effect in zip(found.edges, found.effect[row].tolist(), strict=True) if effect != 0}
        assert moved == {"1.1->mlp1", "1.1->logits", "mlp1->logits"}
    assert sum(out) == 3


def test_the_last_mlp_has_one_edge_and_it_moves_all():
    state = start()
    other = later(state, size=1.0, only="h.1.mlp.c_fc")
    found = transplant_edges(model_of(state), model_of(other), TOKENS, seq_len=9, **QUIET)
    for direction in ("a into b", "b into a"):
        assert found.share("mlp1->logits", direction) == pytest.approx(1.0, abs=1e-9)
        assert (found.table(direction)["edge"][0]) == "mlp1->logits"
    assert (found.values != 0).sum() == 2


def test_the_same_model_on_other_tokens_is_edge_effects_still():
    """The sweep itself did not change: edges of one model between two texts, against `edge_effects` noise."""
    a, _ = pair()
    metric = answer_logprob(3)
    found = edge_effects(a, TOKENS, TOKENS.roll(1, 0), metric, edges=["0.1->1.0.q", "mlp0->logits"], progress=False)
    assert found.effect.abs().min() > 1e-6


def test_both_models_stay_and_the_result_is_kept(tmp_path):
    a, b = pair()
    before = weights_hash(a), weights_hash(b)
    found = result()
    assert (weights_hash(a), weights_hash(b)) == before
    again = TransplantedEdges.load(found.save(tmp_path / "e"))
    assert again.sentence() == found.sentence()
    assert "moves along" in found.sentence()
    assert torch.equal(again.effect, found.effect)


def test_a_metric_and_some_edges():
    a, b = pair()
    found = transplant_edges(a, b, TOKENS, metric=answer_logprob(3), edges=["0.1->1.0", "mlp1->logits"], **QUIET)
    assert found.edges == ("0.1->1.0.q", "0.1->1.0.k", "0.1->1.0.v", "mlp1->logits")
    assert found.by == "metric"
    with torch.no_grad():
        values = [x[:, -1].log_softmax(-1)[:, 3].mean() for x in (logits_by_hand(a, b, "mlp1->logits"), b(TOKENS))]
    assert float(found.effect[0, -1]) == pytest.approx(float(values[0] - values[1]), abs=1e-9)


def test_refusals():
    a, b = pair()
    with pytest.raises(AnalysisError, match="no common start"):
        transplant_edges(a, model_of(start(seed=4)), TOKENS, **QUIET)
    with pytest.raises(AnalysisError, match="not in this model"):
        transplant_edges(a, b, TOKENS, edges=["0.7->1.0.q"], **QUIET)
    with pytest.raises(AnalysisError, match="no edge is given"):
        transplant_edges(a, b, TOKENS, edges=[], **QUIET)
    with pytest.raises(AnalysisError, match="by is 'metric'"):
        transplant_edges(a, b, TOKENS, by="metric", **QUIET)
    with pytest.raises(AnalysisError, match="identical"):
        transplant_edges(a, a, TOKENS, **QUIET)
