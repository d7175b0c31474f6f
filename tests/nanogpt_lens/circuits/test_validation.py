"""What is checked of a circuit: against plain lines, all subsets, and the circuit that is known."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.circuits.discovery import find_circuit
from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.validation import CHECKS, validate_circuit
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results import CircuitValidation, load_result
from nanogpt_lens.running.metrics import logit_diff
from nanogpt_lens.text.prompts import induction_pairs
from tests.handmade import handmade_model
from tests.nanogpt_lens.circuits import asking, plain

CIRCUIT = ("embed->0.0.v", "embed->0.1.k", "0.0->mlp0", "embed->mlp0", "0.0->logits", "mlp0->logits", "0.1->logits")
SMALL = {"n_random": 20, "knockouts": 4}


def validate(circuit=CIRCUIT, **options):
    clean, corrupted = asking.texts()
    return validate_circuit(asking.model(), circuit, clean, corrupted, asking.METRIC, **{**SMALL, **options})


@pytest.fixture(scope="module")
def known():
    """The handmade circuit, found and validated, with other prompts of the task and another task."""
    model = handmade_model()
    pairs, others = (induction_pairs(model, n=12, seq_len=12, seed=seed) for seed in (0, 1))
    metric = logit_diff(pairs.answer, pairs.wrong)
    circuit = find_circuit(model, pairs.clean, pairs.corrupted, metric, method="exact", orders=0, progress=False)
    held_out = (others.clean, others.corrupted, logit_diff(others.answer, others.wrong))
    validation = validate_circuit(
        model, circuit, pairs.clean, pairs.corrupted, metric, held_out=held_out, tasks={"again": held_out}, n_random=60
    )
    assert not has_hooks(model)
    return circuit, validation


def test_the_handmade_circuit_passes(known):
    circuit, validation = known
    assert validation.edges == circuit.edges
    assert {*CHECKS, "task again"} == {*validation.labels["check"]}
    assert validation.check("faithfulness") == pytest.approx(1, abs=1e-6)
    assert validation.check("mean_of_ratios") == pytest.approx(1, abs=1e-6)
    assert validation.check("held_out") == pytest.approx(1, abs=1e-6)
    assert validation.check("task again") == validation.check("held_out")
    for name in ("complement", "completeness_random", "completeness_node", "completeness_greedy"):
        assert validation.check(name) == pytest.approx(0, abs=1e-6)
    assert validation.check("minimality") == pytest.approx(1, abs=1e-6)
    assert validation.p_of("random_circuits") < 0.05
    assert validation.p_of("equivalence") > 0.05
    assert bool((validation.edge_p < 0.05).all())
    assert validation.in_sample
    assert "100% on prompts that it was not found on" in validation.verdict()
    assert validation.verdict() in repr(validation)


def test_faithfulness_and_its_parts_are_those_of_plain_lines():
    validation = validate()
    clean, corrupted = asking.texts()
    every = {*map(str, CircuitGraph(asking.model()).edges)}
    assert validation.check("faithfulness") == pytest.approx(asking.faithfulness(CIRCUIT), abs=1e-9)
    assert validation.check("complement") == pytest.approx(asking.faithfulness(every - {*CIRCUIT}), abs=1e-9)
    state, metric = asking.checkpoint().state_dict, asking.METRIC.resolved(asking.model(), clean)
    other = plain.run(state, 2, corrupted, None, set())
    run = lambda live: metric.per_example(plain.run(state, 2, clean, other, live)["logits"])  # noqa: E731
    ratios = (run({*CIRCUIT}) - run(set())) / (run(every) - run(set()))
    assert validation.check("mean_of_ratios") == pytest.approx(float(ratios.mean()), rel=1e-9)
    nodes = {}
    for name in CIRCUIT:
        nodes.setdefault(name.split("->")[0], set()).add(name)
    off = [abs(asking.faithfulness({*CIRCUIT} - gone) - asking.faithfulness(every - gone)) for gone in nodes.values()]
    assert validation.check("completeness_node") == pytest.approx(max(off), abs=1e-9)
    assert validation.check("completeness_greedy") >= max(off) - 1e-9
    alone = [abs(asking.faithfulness({*CIRCUIT} - {name}) - asking.faithfulness(CIRCUIT)) for name in CIRCUIT]
    assert validation.check("minimality") >= min(alone) - 1e-9


def test_the_six_choices_are_those_of_plain_lines():
    validation = validate()
    clean, corrupted = asking.texts()
    every = {*map(str, CircuitGraph(asking.model()).edges)}
    together = {*CIRCUIT, *(f"embed->0.{head}.{part}" for head in (0, 1) for part in "qkv")}
    between = {name for name in every if "" not in name.split("->")}  # all nodes are touched here
    without_heads = {*CIRCUIT} | {name for name in every if not name.startswith(("0.0", "0.1"))}
    sets = {
        ("edges", "heads and MLPs", "circuit"): {*CIRCUIT},
        ("edges", "heads and MLPs", "complement"): every - {*CIRCUIT},
        ("q, k, v together", "heads and MLPs", "circuit"): together,
        ("nodes", "heads and MLPs", "circuit"): between,
        ("edges", "heads alone", "circuit"): without_heads,
    }
    state, metric = asking.checkpoint().state_dict, asking.METRIC.resolved(asking.model(), clean)
    value = lambda tokens, other, live: float(  # noqa: E731
        metric.per_example(plain.run(state, 2, tokens, other, live)["logits"]).mean()
    )
    there = plain.run(state, 2, clean, None, set())
    full, empty = value(clean, None, set()), value(corrupted, None, set())
    frame = validation.robustness_table()
    assert len(frame) == 4 * 5 + 4 + 1
    for row in frame.to_dict("records"):
        live = sets[row["granularity"], row["components"], row["part"]]
        if row["direction"] == "restore":  # the clean run into the corrupted one
            expected = (value(corrupted, there, every - live) - empty) / (full - empty)
        elif row["ablation"] == "resample" or row["positions"] != "all":
            continue
        else:
            expected = asking.faithfulness(live, row["ablation"])
        assert row["faithfulness"] == pytest.approx(expected, abs=1e-8), row
    at_places = frame[frame["positions"] != "all"].iloc[0]
    effects = edge_effects(
        asking.model(), clean, corrupted, asking.METRIC, edges=list(CIRCUIT), positions="each", progress=False
    )
    kept = effects.effect.abs() >= 0.01 * abs(full - empty)
    live = dict(zip(effects.labels["edge"], kept, strict=True))
    assert at_places["faithfulness"] == pytest.approx(asking.faithfulness(live), abs=1e-8)


def test_random_edges_are_no_better_than_random():
    """A circuit with an edge that does nothing: that edge's p says so."""
    model = handmade_model()
    pairs = induction_pairs(model, n=12, seq_len=12)
    edges = ["embed->0.1.v", "0.1->1.0.k", "1.0->logits", "mlp0->logits"]
    metric = logit_diff(pairs.answer, pairs.wrong)
    validation = validate_circuit(model, edges, pairs.clean, pairs.corrupted, metric, n_random=60)
    p = dict(zip(validation.edges, validation.edge_p.tolist(), strict=True))
    assert p["mlp0->logits"] > 0.5
    assert max(p[name] for name in edges[:3]) < 0.05
    assert validation.in_sample is None  # nobody knows what these were chosen on


def test_the_seed_decides_and_it_is_saved(tmp_path):
    one, two = validate(seed=5), validate(seed=5)
    assert torch.equal(one.values.nan_to_num(), two.values.nan_to_num())
    assert torch.equal(one.edge_p, two.edge_p)
    one.save(tmp_path / "validation")
    again = load_result(tmp_path / "validation")
    assert isinstance(again, CircuitValidation)
    assert again.verdict() == one.verdict()
    assert again.choices == one.choices
    assert again.robustness_table().equals(one.robustness_table())
    assert again.explanation("equivalence").startswith("equivalence: ")


def test_without_a_corrupted_text():
    clean, _ = asking.texts()
    options = {"source": "mean", **SMALL}
    validation = validate_circuit(asking.model(), CIRCUIT, clean, None, asking.METRIC, **options)
    assert validation.check("faithfulness") == pytest.approx(asking.faithfulness(CIRCUIT, "mean"), abs=1e-9)
    assert {*validation.robustness_table()["ablation"]} == {"zero", "mean", "resample"}
    assert {*validation.robustness_table()["direction"]} == {"ablate"}


@pytest.mark.parametrize(
    ("circuit", "options", "said"),
    [
        ([], {}, "the circuit has no edge"),
        (["0.0->9.9.k"], {}, "9.9"),
        (CIRCUIT, {"margin": 0.5}, "margin is 0.5"),
        (CIRCUIT, {"n_random": 0}, "n_random is 0"),
        (CIRCUIT, {"held_out": "ROMEO"}, "the prompts of held_out are str; expected"),
    ],
)
def test_bad_input_is_one_sentence(circuit, options, said):
    with pytest.raises(AnalysisError, match=said):
        validate(circuit, **options)


def test_a_check_that_is_not_there(known):
    with pytest.raises(ResultError, match="there is no check 'truth'; expected one of faithfulness"):
        known[1].check("truth")


def test_one_prompt_and_processed_weights_leave_out_what_they_cannot_have():
    clean, corrupted = asking.texts()
    one = validate_circuit(asking.model(), CIRCUIT, clean[:1], corrupted[:1], logit_diff(3, 5), **SMALL)
    assert {*one.robustness_table()["ablation"]} == {"other", "zero", "mean"}
    folded = validate_circuit(asking.model(process_weights=True), CIRCUIT, clean, corrupted, asking.METRIC, **SMALL)
    assert {*folded.robustness_table()["ablation"]} == {"other", "mean", "resample"}
    assert folded.check("faithfulness") == pytest.approx(asking.faithfulness(CIRCUIT), abs=1e-9)
