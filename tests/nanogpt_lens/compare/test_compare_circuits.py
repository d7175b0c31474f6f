"""Circuits compared: renamed heads, transfer by hand, unrelated models, ceilings, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.estimates import edge_attribution
from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.compare.circuits import SCORES, compare_circuits
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results import CircuitComparison, load_result
from nanogpt_lens.running.metrics import logit_diff
from nanogpt_lens.text.prompts import induction_pairs
from tests.handmade import handmade_model
from tests.nanogpt_lens.circuits import asking, plain
from tests.nanogpt_lens.compare.renamed import METRIC, ORDER, model, new_name, renamed, state, texts

QUICK = {"splits": 0, "n_random": 5, "draws": 19, "progress": False}
SOME = (
    "embed->0.2.v",
    "embed->0.0.k",
    "0.2->mlp0",
    "0.0->1.3.q",
    "mlp0->1.3.v",
    "0.2->1.1.v",
    "1.3->mlp1",
    "1.1->logits",
)
SOME += ("mlp1->logits", "mlp0->logits")


def one(seed=0, edges=SOME):
    return model(seed), edges, *texts(), METRIC


def other(edges=SOME, order=ORDER):
    return renamed(), [new_name(edge, order) for edge in edges], *texts(), METRIC


@pytest.mark.parametrize("match", ["behaviour", "effects"])
def test_the_same_model_whose_heads_are_called_otherwise(match):
    """Effects correlate by 1, all edges are shared, and each circuit does in the other what it does at home."""
    found = compare_circuits(one(), other(), match=match, **QUICK)
    assert torch.equal(found.partner[0, 1], ORDER)
    assert found.head_in(0, 1, 0, 3) == int(ORDER[0, 3])
    assert torch.equal(found.partner[1, 0].gather(-1, ORDER), torch.arange(4).expand(2, 4))
    assert found.score("rank_correlation").flatten().tolist() == pytest.approx([1] * 4, abs=1e-9)
    assert found.score("jaccard").flatten().tolist() == [1] * 4
    home = float(run_circuit(model(0), [*SOME], *texts(), METRIC, progress=False).faithfulness[0])
    assert found.score("transfer").flatten().tolist() == pytest.approx([home] * 4, abs=1e-9)
    assert float(found.score("rank_correlation", "p")[0, 1]) == pytest.approx(1 / 20)


def test_by_number_they_are_not_the_same():
    found = compare_circuits(one(), other(), match="numbers", **QUICK)
    assert float(found.score("rank_correlation")[0, 1]) < 0.7
    assert float(found.score("jaccard")[0, 1]) < 0.5


def test_transfer_is_what_run_circuit_says_of_the_renamed_edges():
    """Two models with nothing in common, and edges renamed as text."""
    found = compare_circuits(one(), one(1, SOME[2:]), match="effects", names=("a", "b"), **QUICK)
    for i, j, edges, there in ((0, 1, SOME, model(1)), (1, 0, SOME[2:], model(0))):
        names = [new_name(edge, found.partner[i, j]) for edge in edges]
        run = run_circuit(there, names, *texts(), METRIC, progress=False)
        assert run.faithfulness_interval is not None
        assert float(found.score("transfer")[i, j]) == pytest.approx(float(run.faithfulness[0]), abs=1e-9)
        for what, end in zip(("low", "high"), run.faithfulness_interval, strict=True):
            assert float(found.score("transfer", what)[i, j]) == pytest.approx(float(end[0]), abs=1e-9)


def test_transfer_by_plain_lines_over_the_weights():
    found = compare_circuits(one(), one(1, SOME[2:]), match="numbers", **QUICK)
    clean, corrupted = texts()
    weights, bound = state(1), METRIC.resolved(model(1), clean)

    def value(live, others):
        return float(bound.per_example(plain.run(weights, 4, clean, others, live)["logits"]).mean())

    away = plain.run(weights, 4, corrupted, None, set())
    whole, empty = value(set(), None), value(set(), away)
    expected = (value(set(SOME), away) - empty) / (whole - empty)
    assert float(found.score("transfer")[0, 1]) == pytest.approx(expected, abs=1e-8)
    assert float(found.gap[1]) == pytest.approx(whole - empty, abs=1e-8)


def test_effects_are_those_of_edge_effects_and_may_be_given():
    measured = [edge_effects(model(seed), *texts(), METRIC, progress=False) for seed in (0, 1)]
    found = compare_circuits(one(), one(1), match="numbers", **QUICK)
    given = compare_circuits(one(), one(1), match="numbers", effects=(None, measured[1]), **QUICK)
    assert torch.equal(found.values, given.values)
    ranked = torch.stack([r.effect.argsort().argsort().double() for r in measured])  # no two are equal
    assert float(found.score("rank_correlation")[0, 1]) == pytest.approx(float(torch.corrcoef(ranked)[0, 1]))


@pytest.mark.slow
def test_methods_on_one_model():
    """The estimates against the truth, as the grades have them; a method without a sign by its magnitudes."""
    made, (clean, corrupted) = model(0), texts()
    eap = edge_attribution(made, clean, corrupted, METRIC, progress=False)
    greedy = ngl.find_circuit(made, clean, corrupted, METRIC, method="acdc", threshold=0.1, orders=0, progress=False)
    things = [one(), one(), (made, greedy, clean, corrupted, METRIC)]
    found = compare_circuits(*things, effects=(None, eap, greedy), names=("exact", "eap", "acdc"), **QUICK)
    grades = ngl.grade_circuit_methods(made, clean, corrupted, METRIC, methods=["exact", "eap"], k=3, progress=False)
    expected = float(grades.at(method="eap", score="spearman"))
    assert found.match == "numbers"
    assert float(found.score("rank_correlation")[0, 1]) == pytest.approx(expected, abs=1e-6)
    assert bool(found.score("rank_correlation", "low")[:2, 2].isnan().all())  # no scores by example
    assert bool(found.score("rank_correlation", "ceiling").isnan()[0, 1])  # both see the same noise
    assert found.n_edges[2] == greedy.n_edges


SWAPPED = torch.tensor([[1, 0], [0, 1]])
TOKEN = ("embed->0.1.v", "0.1->1.0.k", "1.0->logits")


@pytest.fixture(scope="module")
def handmade():
    made = handmade_model()
    pairs = induction_pairs(made, n=8, seq_len=12)
    return made, pairs.clean, pairs.corrupted, logit_diff(pairs.answer, pairs.wrong)


def test_a_known_transfer(handmade):
    """The handmade circuit does all of the work, through the other head of layer 0 none of it."""
    made, *prompts = handmade
    wrong = [new_name(edge, SWAPPED) for edge in TOKEN]
    found = compare_circuits((made, TOKEN, *prompts), (made, wrong, *prompts), names=("right", "wrong"), **QUICK)
    assert found.score("transfer").tolist() == [pytest.approx([1, 1], abs=1e-6), pytest.approx([0, 0], abs=1e-6)]
    assert found.worth[:, 0].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert bool(found.worth[:, 1].isnan().all())  # the wrong one's own does nothing
    assert int(found.shared[0, 1]) == 1
    assert float(found.score("jaccard")[0, 1]) == pytest.approx(1 / 5)


def test_a_circuit_on_another_task(handmade):
    """What followed [A] is another token in place of [A] itself: the way is that of values, and not of keys."""
    made, clean, corrupted, metric = handmade
    values = clean.clone()
    for row, token in zip(values, metric.wrong.tolist(), strict=True):
        places = (row[:-1] == row[-1]).nonzero()[:, 0] + 1
        row[places] = token
    things = ((made, TOKEN, clean, corrupted, metric), (made, ("embed->1.0.v", "1.0->logits"), clean, values, metric))
    found = compare_circuits(*things, names=("where", "what"), **QUICK)
    assert found.score("transfer").diagonal().tolist() == pytest.approx([1, 1], abs=1e-6)
    assert found.score("transfer")[0, 1] == pytest.approx(0, abs=1e-6)
    assert found.score("transfer")[1, 0] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_the_ceiling_of_prompts_without_noise_is_one():
    """Where all prompts are the same, both halves agree on everything, and a half's circuit does what it did there."""
    clean, corrupted = (row[:1].repeat(8, 1) for row in texts())
    metric = logit_diff([3] * 8, [5] * 8)
    things = [(model(seed), SOME, clean, corrupted, metric) for seed in (0, 1)]
    found = compare_circuits(*things, match="numbers", **(QUICK | {"splits": 1}))
    assert found.score("rank_correlation", "ceiling").flatten().tolist() == pytest.approx([1] * 4)
    assert found.score("jaccard", "ceiling").flatten().tolist() == pytest.approx([1] * 4)
    for seed in (0, 1):
        like = ngl.find_circuit(
            model(seed), clean[:4], corrupted[:4], logit_diff([3] * 4, [5] * 4), method="exact", n_edges=len(SOME),
            orders=0, progress=False,
        )  # fmt: skip
        assert float(found.half_transfer[seed, 0]) == pytest.approx(like.faithfulness, abs=1e-9)


@pytest.mark.slow
def test_halves_of_noisy_prompts_agree_less_and_are_those_of_the_effects():
    found = compare_circuits(one(), one(1), match="numbers", **(QUICK | {"splits": 3}))
    assert found.half_correlation.shape == (2, 3)
    half = found.half_correlation[0].mean()
    assert float(found.score("rank_correlation", "ceiling")[0, 0]) == pytest.approx(float(2 * half / (1 + half)))
    both = found.score("rank_correlation", "ceiling")
    assert float(both[0, 1]) == pytest.approx(float((both[0, 0] * both[1, 1]).sqrt()))
    assert bool((found.half_correlation < 1).all())


@pytest.mark.slow
def test_unrelated_models_do_not_agree():
    """Random models, heads matched by behaviour: correlations are about those of random orders, p small in few."""
    things = [one(seed) for seed in range(8)]
    found = compare_circuits(*things, **(QUICK | {"n_random": 2, "draws": 39}))
    off = torch.ones(8, 8).triu(1).bool()
    above = (found.score("rank_correlation") - found.score("rank_correlation", "chance"))[off]
    assert abs(float(above.mean())) < 0.08
    assert int((found.score("rank_correlation", "p")[off] <= 0.05).sum()) <= 5  # of 28, which are not independent


def test_what_a_result_says(tmp_path):
    clean, corrupted = texts()
    circuit = ngl.find_circuit(model(0), clean, corrupted, METRIC, method="exact", orders=0, progress=False)
    found = compare_circuits((model(0), circuit, clean, corrupted, METRIC), other(), names=("a", "b"), **QUICK)
    assert tuple(found.labels["score"]) == tuple(SCORES)
    assert found.sentence().startswith("after matching heads by what they do, edge effects correlate 1.00 in ranks (")
    frame = found.to_dataframe()
    assert len(frame) == 4 * 2 * 2
    assert {"value", "low", "high", "chance", "p", "ceiling", "one_label"} <= set(frame)
    assert found.table("transfer").loc["a", "b"] == float(found.score("transfer")[0, 1])
    read = load_result(found.save(tmp_path / "kept"))
    assert isinstance(read, CircuitComparison)
    assert read.sentence() == found.sentence()
    assert read.n_edges == found.n_edges
    assert torch.equal(read.partner, found.partner)
    assert torch.equal(read.values, found.values)
    with pytest.raises(ResultError, match="there is no head 2.0"):
        found.head_in("a", "b", 2, 0)
    with pytest.raises(ResultError, match="is nothing of a score"):
        found.score("transfer", "middle")
    assert not has_hooks(model(0))


def test_a_gap_that_is_hardly_there_is_said():
    found = compare_circuits(one(), one(1), match="numbers", names=("a", "b"), **QUICK)
    assert not found.weak
    small = replace(found, gap=torch.tensor([1.0, 0.05], dtype=torch.float64))
    assert small.weak == ("b",)
    assert small.sentence().endswith("hardly any gap in b: faithfulness there says little")


def test_the_same_seed_the_same_answer():
    first, again, others = (
        compare_circuits(one(), one(1), match="effects", **(QUICK | {"n_random": 2, "seed": seed}))
        for seed in (0, 0, 1)
    )
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor.nan_to_num(), again.tensors()[name].nan_to_num())
    assert not torch.equal(first.chance.nan_to_num(), others.chance.nan_to_num())


def test_a_bare_function_has_no_intervals_and_no_ceiling():
    def first_logit(logits):
        return logits[:, -1, 3].mean()

    things = [(model(seed), SOME, *texts(), first_logit) for seed in (0, 1)]
    found = compare_circuits(*things, match="numbers", **(QUICK | {"splits": 1}))
    assert bool(found.score("rank_correlation", "low").isnan().all())
    assert bool(found.ceiling.isnan().all())
    assert bool(found.score("transfer").isfinite().all())


GRAPH = "is of 13 edges"


def test_what_cannot_be_compared():
    clean, corrupted = texts()
    small = asking.model(), ["embed->logits"], *asking.texts(), asking.METRIC
    there = ngl.find_circuit(*small[:1], *small[2:], method="exact", orders=0, progress=False)
    for things, options, said in (
        ([one()], {}, "1 circuit was given; expected two or more"),
        ([one(), one()[:4]], {}, "circuit 2 is a tuple of 4; expected \\(model, circuit, clean, corrupted, metric\\)"),
        ([one(), model(0)], {}, "circuit 2 is a .*; expected \\(model, circuit"),
        ([one(), ("model", *one()[1:])], {}, "the model is a str"),
        ([one(), small], {}, "circuit 1 is of a model with 2 layers, circuit 2 of one with 1"),
        ([one(), (model(0), there, clean, corrupted, METRIC)], {}, f"circuit 2: the circuit {GRAPH}"),
        ([one(), one(edges=["0.1->2.0.k"])], {}, "circuit 2: .*is not in this model"),
        ([one(), one(edges=[])], {}, "circuit 2: the circuit has no edge"),
        ([one(), (model(0), SOME, clean, clean.flip(1).flip(1), METRIC)], {}, "circuit 2: .*are the same"),
        ([one(), (model(0), SOME, clean, corrupted, logit_diff(3, 3))], {}, "circuit 2: .*there is no gap"),
        ([one(), one()], {"names": ("a", "a")}, "expected 2 different ones"),
        ([one(), one()], {"match": "number"}, "match is 'number'.*did you mean 'numbers'"),
        ([one(), one()], {"effects": (None,)}, "1 effects for 2 circuits"),
        ([one(), one()], {"effects": (None, there)}, f"circuit 2: the effects' result {GRAPH}"),
        ([one(), one()], {"effects": (None, "eap")}, "circuit 2: the effects are a str"),
        ([one(), one()], {"n_random": 0}, "n_random is 0"),
        ([one(), one()], {"source": "nothing"}, "source is 'nothing'"),
    ):
        with pytest.raises(AnalysisError, match=said):
            compare_circuits(*things, **(QUICK | options))


def test_matches_of_your_own():
    scores = [ngl.score_heads(m, n=8) for m in (model(0), renamed())]
    matches = ngl.match_heads(*scores)
    found = compare_circuits(one(), other(), match=matches, **QUICK)
    assert (found.match, found.score("jaccard")[0, 1]) == ("matches", 1)
    with pytest.raises(AnalysisError, match="the matches are of \\[2, 2, 4\\].*expected \\[3, 2, 4\\]"):
        compare_circuits(one(), other(), other(), match=matches, **QUICK)


def test_the_mode_of_each_model_returns():
    for some in (model(0), model(1)):
        some.train()
    compare_circuits(one(), one(1), match="numbers", **QUICK)
    assert model(0).training
    assert model(1).training
    for some in (model(0), model(1)):
        some.eval()
