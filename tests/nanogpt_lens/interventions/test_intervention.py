"""Interventions as data: JSON and back, the grammar of places, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.applying import apply
from nanogpt_lens.interventions.controls import control_sets
from nanogpt_lens.interventions.grammar import Place, layer_and_index, read_place
from nanogpt_lens.interventions.intervene import intervene
from nanogpt_lens.interventions.intervention import Intervention, as_interventions
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.interventions.sources import RunningMean
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results import load_result
from tests.nanogpt_lens.patching.patching_helpers import model, texts

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(0, 9)


def indices(numbers):
    return st.none() | numbers | st.lists(numbers, min_size=1, max_size=3, unique=True).map(tuple)


EDGES = st.sampled_from(["embed->0.0.q", "0.1->1.0.k", "0.1->1.0", "mlp0->mlp2", "2.9->logits", "L0H1 -> L1H0.V"])


@st.composite
def interventions(draw):
    kind = draw(st.sampled_from(list(KINDS.values())))
    places = {a: draw(indices(st.integers(-9, 9) if a.endswith("pos") else WHOLE)) for a in ("layer", *kind.axes)}
    source = draw(
        st.sampled_from(["zero", "mean", "resample", "other"])
        | st.fixed_dictionaries({"scale": NUMBERS})
        | st.fixed_dictionaries({"add": st.lists(NUMBERS, min_size=1, max_size=4), "scale": NUMBERS})
    )
    if draw(st.booleans()):
        return Intervention("edge", edge=draw(EDGES), pos=draw(indices(st.integers(-9, 9))), source=source)
    return Intervention(kind.name, **places, source=source)


@given(interventions())
def test_json_and_back(one):
    text = json.dumps(one.to_json(), allow_nan=False)
    again = Intervention.from_json(json.loads(text))
    assert again == one
    assert hash(again) == hash(one)
    assert again.to_json() == one.to_json()
    assert as_interventions(text) == [one] == as_interventions(one) == as_interventions([one.to_json()])
    if isinstance(one.source, dict):
        assert all(type(number) is float for number in one.source.get("add", ()))
    if one.edge:
        assert Intervention.at(one.edge, one.source, pos=one.pos) == one
        assert Intervention.from_json({"place": f" {one.edge} ", "source": one.source, "pos": one.pos}) == one
        assert Intervention.at(one.edge, one.source, pos=one.pos, activation="edge") == one


def test_plain_numbers_whatever_was_given():
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    one = Intervention(["blocks", "0", "hook_resid_post"][-1], layer=[0, 2], source={"add": direction})
    assert one.activation == "resid_post"
    assert one.layer == (0, 2)
    assert one.to_json() == {
        "activation": "resid_post",
        "layer": [0, 2],
        "source": {"add": direction.double().tolist(), "scale": 1.0},
    }


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("0.1", Place("unit", 0, 1)),
        (" L0H1 ", Place("head", 0, 1)),
        ("l0h1.K", Place("head", 0, 1, "k")),
        ("2.10.z", Place("head", 2, 10, "z")),
        ("L3N33", Place("neuron", 3, 33)),
        ("mlp0", Place("mlp", 0)),
        ("m 12", Place("mlp", 12)),
        ("embed", Place("embed")),
        ("logits", Place("logits")),
        *((word, None) for word in ("", "1", "0.1.x", "0.-1", "L0N1.k", "mlp", "0.1.", "head 0.1")),
    ],
)
def test_grammar(word, place):
    assert read_place(word) == place


def test_heads_and_neurons_by_the_same_words():
    assert layer_and_index("0.1", "head") == layer_and_index("0.1", "neuron") == (0, 1)
    assert layer_and_index("L0H1", "neuron") is None
    assert layer_and_index("L0N1", "head") is None
    assert layer_and_index("0.1.k", "head") is None
    assert layer_and_index((4, 5), "head") == (4, 5)
    assert layer_and_index(7, "head") is None


@pytest.mark.parametrize(
    ("word", "activation", "expected"),
    [
        ("0.1", None, {"activation": "z", "layer": 0, "head": 1}),
        ("0.1.k", None, {"activation": "k", "layer": 0, "head": 1}),
        ("L0H1", "pattern", {"activation": "pattern", "layer": 0, "head": 1}),
        ("mlp1", None, {"activation": "mlp_out", "layer": 1}),
        ("3.33", "mlp_post", {"activation": "mlp_post", "layer": 3, "neuron": 33}),
        ("L3N33", "mlp_pre", {"activation": "mlp_pre", "layer": 3, "neuron": 33}),
        ("L3N33", None, {"activation": "mlp_post", "layer": 3, "neuron": 33}),
    ],
)
def test_an_intervention_at_a_written_place(word, activation, expected):
    one = Intervention.at(word, "mean", activation=activation)
    assert one == Intervention(**expected, source="mean")
    fields = {"place": word, "source": "mean"} | ({} if activation is None else {"activation": activation})
    assert Intervention.from_json(fields) == one


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "scores"}, "the activation 'scores' cannot be patched; expected one of resid_pre"),
        ({"activation": "z", "source": "nothing"}, "source is 'nothing'; expected 'zero', 'mean'"),
        ({"activation": "z", "source": {"times": 2}}, "source is {'times': 2}; expected 'zero'"),
        ({"activation": "z", "source": {"scale": float("inf")}}, "scale is inf; expected a finite number"),
        ({"activation": "z", "source": {"scale": True}}, "scale is True; expected a finite number"),
        ({"activation": "z", "source": {"add": [1.0, float("nan")]}}, "numbers that are not finite"),
        ({"activation": "z", "source": {"add": "up"}}, "the direction is a str; expected a list of numbers"),
        ({"activation": "z", "source": {"add": []}}, "expected a list of finite numbers, at least one"),
        (
            {"activation": "pattern", "pos": 1},
            "pattern has no pos, and pos is 1; expected some of layer, head, dest_pos",
        ),
        ({"activation": "resid_pre", "head": 0}, "resid_pre has no head, and head is 0"),
        ({"activation": "z", "neuron": 0}, "z has no neuron"),
        ({"activation": "z", "head": -1}, "head is -1; expected a whole number, 0 or more"),
        ({"activation": "z", "head": 1.5}, "head is 1.5; expected a whole number"),
        ({"activation": "z", "pos": True}, "pos is True; expected a whole number"),
        ({"activation": "z", "pos": []}, r"pos is \[\], which names none"),
        ({"activation": "z", "head": (1, 1)}, r"head is \(1, 1\); expected each once"),
        ({"activation": "z", "layers": 1}, "an intervention has no field 'layers'; expected some of activation"),
        ({"layer": 1}, "names no activation"),
        ({"place": "0.1", "head": 1}, "has no field 'head'; expected some of place, source"),
        ({"place": "logits"}, "'logits' is no place that can be replaced"),
        ({"place": "L0H1", "activation": "mlp_post"}, "'L0H1' is no place of the activation 'mlp_post'"),
        ({"place": "0.1", "activation": "edge"}, "'0.1' is no place of the activation 'edge' that can be replaced"),
        ({"place": "0.1->1.0", "activation": "k"}, "'0.1->1.0' is no place of the activation 'k'"),
        ({"activation": "edge"}, "the activation is 'edge' and edge is missing; expected edge=, such as"),
        ({"activation": "z", "edge": "0.1->1.0.k"}, "z has no edge, and edge is '0.1->1.0.k'; expected the activation"),
        ({"activation": "edge", "edge": "0.1->1.0.k", "layer": 1}, "edge has no layer, and layer is 1; expected pos"),
        ({"activation": "edge", "edge": "0.1->1.0.k", "head": (0, 1)}, "edge has no head"),
        ({"activation": "edge", "edge": "0.1->mlp0", "neuron": 3}, "edge has no neuron, and neuron is 3; expected pos"),
        ({"activation": "edge", "edge": "0.1->1.0.k", "src_pos": 1}, "edge has no src_pos"),
        *(
            ({"activation": "edge", "edge": name}, f"{name!r} is no edge; expected a sender")
            for name in (
                "0.1",
                "0.1->",
                "0.1->1.0.z",
                "0.1.k->1.0",
                "logits->1.0",
                "0.0->embed",
                "L0N1->1.0",
                "a->b",
                3,
            )
        ),
        ({"activation": "edge", "edge": "0.1->0.1->1.0"}, "'0.1->0.1->1.0' is no edge"),
        ({"place": "1.0->0.1.k"}, "'1.0->0.1.k' is no edge: 0.1.k is computed before 1.0 or beside it"),
        ({"place": "0.0->0.1.q"}, "'0.0->0.1.q' is no edge"),
        ({"place": "mlp0->mlp0"}, "'mlp0->mlp0' is no edge: mlp0 is computed before mlp0 or beside it"),
        ({"place": "mlp0->0.1"}, "'mlp0->0.1' is no edge"),
        ("{", "the intervention is no JSON"),
        ("[1]", r"the intervention is \[1\]; expected a JSON object"),
    ],
)
def test_what_is_no_intervention(fields, message):
    with pytest.raises(AnalysisError, match=message):
        Intervention.from_json(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "z", "layer": 3}, "there is no layer 3 in this model; expected 0 to 2"),
        ({"activation": "z", "head": (0, 2)}, "there is no head 2 in this model; expected 0 to 1"),
        ({"activation": "mlp_pre", "neuron": 64}, "there is no neuron 64 in this model; expected 0 to 63"),
        ({"activation": "z", "pos": 9}, "there is no position 9 in 9 tokens; expected -9 to 8"),
        ({"activation": "z", "pos": -11}, "there is no position -11 in 10 tokens"),
        ({"activation": "pattern", "src_pos": 99}, "there is no src_pos 99 in 10 tokens"),
        (
            {"activation": "z", "source": {"add": [1.0] * 16}},
            "the direction has 16 numbers; expected 8, the width of z",
        ),
        ({"activation": "resid_mid", "source": {"add": [1.0]}}, "the direction has 1 numbers; expected 16"),
        ({"activation": "mlp_post", "neuron": (1, 2), "source": {"add": [1.0]}}, "1 numbers; expected 2"),
        ({"activation": "z", "source": "other"}, "the source is 'other' and there is no other run; give other="),
        ({"place": "3.0->logits"}, "'3.0' is not in this model of 3 layers with 2 heads each"),
        ({"place": "0.0->3.0"}, "'3.0' is not in this model"),
        ({"place": "0.2->1.0.k"}, "'0.2' is not in this model"),
        ({"place": "mlp0->1.5"}, "'1.5' is not in this model"),
        ({"place": "0.0->1.0.k", "pos": 9}, "there is no position 9 in 9 tokens; expected -9 to 8"),
        ({"place": "0.0->1.0.k", "source": {"add": [1.0] * 8}}, "8 numbers; expected 16, the width of the stream"),
        ({"place": "0.0->1.0.k", "source": "other"}, "the source is 'other' and there is no other run; give other="),
        ([], None),
        (7, "the interventions are 7; expected an Intervention, several, or their JSON"),
        ("no", "the interventions are no JSON"),
    ],
)
def test_what_fits_no_model(fields, message):
    ours, (tokens, _) = model(), texts()
    if message is None:
        assert torch.equal(intervene(ours, tokens, fields).logits, ours(tokens, return_type="logits"))
        return
    with pytest.raises(AnalysisError, match=message):
        intervene(ours, tokens, fields)
    assert not has_hooks(ours)


def test_runs_that_do_not_fit():
    ours, (tokens, _) = model(), texts()
    taken = Intervention("z", layer=0, source="other")
    with pytest.raises(AnalysisError, match="the other run's activation at blocks.0.attn.hook_z has shape"):
        intervene(ours, tokens, taken, other=tokens[:, :4])
    with pytest.raises(AnalysisError, match="the other run's activation at blocks.0.hook_mlp_out has shape"):
        intervene(ours, tokens, Intervention.at("mlp0->1.0", "other"), other=tokens[:, :4])
    with pytest.raises(AnalysisError, match="resampling needs another example"):
        intervene(ours, tokens[:1], Intervention("z", source="resample"))
    short = Intervention("pattern", layer=1, source="mean")
    with pytest.raises(AnalysisError, match="the mean at blocks.1.attn.hook_pattern has shape"):
        intervene(ours, tokens, short, reference=tokens[:, :4])
    with pytest.raises(AnalysisError, match="the mean pattern of one example is that example"):
        intervene(ours, tokens[:1], Intervention("pattern", source="mean"))
    with pytest.raises(AnalysisError, match="there is no activation 'nothing'"):
        intervene(ours, tokens, taken, other=tokens, activations=["nothing"])
    with pytest.raises(AnalysisError, match="seed is -1"), apply(ours, taken, other=tokens, seed=-1):
        pass
    assert not has_hooks(ours)


def test_the_result_is_saved_and_loaded(tmp_path):
    ours, (tokens, _) = model(), texts()
    metric = ngl.metrics.logit_diff(3, 4)
    result = ngl.intervene(ours, tokens, {"place": "0.1"}, metric=metric, activations=["z", "blocks.1.hook_resid_post"])
    again = load_result(result.save(tmp_path / "result"))
    assert isinstance(again, type(result))
    assert torch.equal(again.values, result.values)
    assert [*again.activations] == [*result.activations] or {*again.activations} == {*result.activations}
    assert all(torch.equal(again.activations[name], result.activations[name]) for name in result.activations)
    assert not result.activations["blocks.0.attn.hook_z"][:, :, 1].any()
    assert result.base_activations["blocks.0.attn.hook_z"][:, :, 1].any()
    assert Intervention.from_json(again.interventions[0]) == Intervention.at("0.1")
    before, after = (logits[:, -1, 3] - logits[:, -1, 4] for logits in (result.base, result.values))
    assert torch.allclose(result.change, after - before)
    kl = torch.nn.functional.kl_div(
        result.values.log_softmax(-1), result.base.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(again.kl, kl)
    assert "z (layer 0, head 1) replaced by zero" in repr(again)
    with pytest.raises(ngl.errors.ResultError, match="no metric was measured"):
        _ = intervene(ours, tokens, []).change


def test_means_are_summed_in_float64():
    batches = [torch.randn(n, 5, 3, generator=torch.Generator().manual_seed(n)) * 1e4 for n in (2, 7, 4)]
    mean = RunningMean()
    for batch in batches:
        mean.add(batch)
    assert mean.mean.dtype == torch.float64
    assert torch.allclose(mean.mean, torch.cat(batches).double().mean((0, 1)), rtol=1e-14)


def test_control_sets():
    chosen = [(0, 1), (1, 0)]
    free = control_sets(chosen, range(2), 3, n=4, seed=0)
    assert len(set(free)) == 4
    assert not {one for some in free for one in some} & set(chosen)
    assert len(control_sets(chosen, range(2), 3, n=99, seed=0)) == 6  # all pairs of four
    layered = control_sets(chosen, range(2), 3, n=5, seed=0, same_layers=True)
    assert [[layer for layer, _ in some] for some in layered] == [[0, 1]] * 5
    assert not {one for some in layered for one in some} & set(chosen)
    with pytest.raises(AnalysisError, match="2 heads are to be ablated, and 0 are left"):
        control_sets([(0, 0), (0, 1)], range(1), 2, n=1, seed=0)
    with pytest.raises(AnalysisError, match="2 of the 3 neurons of layer 0 are to be ablated"):
        control_sets([(0, 0), (0, 1)], range(1), 3, n=1, seed=0, same_layers=True, unit="neuron")
