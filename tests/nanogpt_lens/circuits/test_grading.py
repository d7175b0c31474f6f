"""Grades of methods: against numbers by hand, and on a model whose circuit is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import spearmanr

from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.estimates import edge_attribution
from nanogpt_lens.circuits.grading import MIB_SHARES, grade_circuit_methods, mib_sizes
from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.core.intervals import times_drawn
from nanogpt_lens.results import CircuitGrades, load_result
from nanogpt_lens.running.metrics import logit_diff
from nanogpt_lens.text.prompts import induction_pairs
from tests.handmade import handmade_model
from tests.nanogpt_lens.circuits import asking

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def grades():
    clean, corrupted = asking.texts()
    return grade_circuit_methods(asking.model(), clean, corrupted, asking.METRIC, k=5, relevant=0.05, **QUIET)


@pytest.fixture(scope="module")
def truth():
    clean, corrupted = asking.texts()
    return edge_effects(asking.model(), clean, corrupted, asking.METRIC, **QUIET).effect.double()


def top(scores, k):
    return {i for i, _ in sorted(enumerate(scores.abs().tolist()), key=lambda pair: (-pair[1], pair[0]))[:k]}


@pytest.mark.parametrize("method", ["exact", "eap", "eap_ig", "greedy", "acdc", "weights", "attention"])
def test_grades_are_those_of_a_few_plain_lines(grades, truth, method):
    row = grades.methods.index(method)
    scores = grades.estimates[row]
    if method in ("eap", "eap_ig"):
        clean, corrupted = asking.texts()
        again = edge_attribution(asking.model(), clean, corrupted, asking.METRIC, method=method, **QUIET).values
        torch.testing.assert_close(scores, again.double())
    signed = method in ("exact", "eap", "eap_ig")
    expected = spearmanr(scores, truth) if signed else spearmanr(scores.abs(), truth.abs())
    found = dict(zip(grades.labels["score"], grades.values[row].tolist(), strict=True))
    assert found["spearman"] == pytest.approx(expected.statistic, abs=1e-12)
    relevant = truth.abs() >= 0.05 * abs(grades.gap)
    if signed:
        assert found["top_k_overlap"] == pytest.approx(len(top(scores, 5) & top(truth, 5)) / 5)
        right = [float(s) * float(t) > 0 for s, t, used in zip(scores, truth, relevant, strict=True) if used]
        assert found["sign_agreement"] == pytest.approx(sum(right) / len(right))
        wrong = sum(float(scores[i]) * float(truth[i]) <= 0 for i in top(truth, 5))
        assert float(grades.wrong_signs[row]) == wrong
        order = sorted(range(len(scores)), key=lambda i: -abs(float(scores[i])))
        precisions = [
            sum(bool(relevant[j]) for j in order[: n + 1]) / (n + 1) for n, i in enumerate(order) if relevant[i]
        ]
        assert found["average_precision"] == pytest.approx(sum(precisions) / len(precisions))
        for n in (0, 4, 13):
            names = [grades.edges[i] for i in order[:n]]
            assert float(grades.curves[row, n]) == pytest.approx(asking.faithfulness(names), abs=1e-9)
    else:
        assert math.isnan(found["sign_agreement"])
        assert math.isnan(float(grades.wrong_signs[row]))
    curve, best = grades.curves[row], grades.curves[grades.methods.index("exact")]
    assert found["mean_regret"] == pytest.approx(float((best - curve).mean()), abs=1e-12)
    assert found["worst_regret"] == pytest.approx(max((best - curve).tolist()), abs=1e-12)
    assert torch.equal(grades.regret[row], best - curve)
    within = [n for n, f in enumerate(curve.tolist()) if abs(f - 1) <= 0.1]
    assert found["n_edges"] == within[0]


def test_mibs_numbers_are_trapezoids_over_its_shares(grades):
    assert mib_sizes(479) == [0, 0, 2, 4, 9, 23, 47, 95, 239, 479]
    curve = grades.curves[grades.methods.index("eap")].tolist()
    points = [(share, curve[int(share * 13)]) for share in MIB_SHARES]
    pairs = list(itertools.pairwise(points))
    cpr = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs)
    cmd = sum((b[0] - a[0]) * (abs(1 - a[1]) + abs(1 - b[1])) / 2 for a, b in pairs)
    assert float(grades.at(method="eap", score="cpr")) == pytest.approx(cpr, abs=1e-12)
    assert float(grades.at(method="eap", score="cmd")) == pytest.approx(cmd, abs=1e-12)


def test_passes_are_counted(grades):
    """At one layer an edge into a head costs the layer, one into the MLP half of it, one into the logits nothing."""
    cost = {name: float(grades.at(method=name, score="n_runs")) for name in grades.methods}
    assert cost["exact"] == 2 + 6 * 1 + 3 * 0.5
    assert cost["eap"] == 5
    assert cost["eap_ig"] == 2 + 3 * 5
    assert cost["weights"] == 0
    assert cost["attention"] == 2
    assert cost["acdc"] > 6
    assert cost["greedy"] > 13


def test_the_exact_order_is_without_fault(grades):
    row = dict(zip(grades.labels["score"], grades.at(method="exact").tolist(), strict=True))
    assert (row["spearman"], row["sign_agreement"], row["top_k_overlap"], row["average_precision"]) == (1, 1, 1, 1)
    assert (row["mean_regret"], row["worst_regret"]) == (0, 0)
    assert grades.is_safe("exact")


def test_verdicts_say_what_is_wrong(grades):
    row = grades.methods.index("eap")
    missed, wrong = int(grades.missed[row]), int(grades.wrong_signs[row])
    said = grades.verdict()
    assert (f"misses {missed} of the top 5" in said) == bool(missed) or grades.is_safe("eap")
    assert (f"gives {wrong} of them the wrong sign" in said) == bool(wrong)
    assert said.endswith(("use EAP", "use EAP-IG", "use exact effects"))
    assert said in repr(grades)


def test_on_the_handmade_model_the_gradient_is_a_poor_guide():
    """Attention is sharp there: EAP sees no effect of the key that carries all, or a wrong one; exact effects do."""
    model = handmade_model()
    pairs = induction_pairs(model, n=8, seq_len=12)
    metric = logit_diff(pairs.answer, pairs.wrong)
    found = grade_circuit_methods(model, pairs.clean, pairs.corrupted, metric, methods=["exact", "eap"], k=3, **QUIET)
    names = {found.edges[i] for i in top(found.exact, 3)}
    assert names == {"embed->0.1.v", "0.1->1.0.k", "1.0->logits"}
    assert float(found.at(method="exact", score="n_edges")) == 3
    assert float(found.at(method="eap", score="n_edges")) > 3
    worst = found.worst("eap", 1)
    i = found.edges.index(worst["edge"][0])
    assert worst["off"][0] == pytest.approx(float(found.estimates[1, i] - found.exact[i]))
    assert abs(worst["off"][0]) == pytest.approx(float((found.estimates[1] - found.exact).abs().max()))


def test_it_is_saved_and_loaded(grades, tmp_path):
    grades.save(tmp_path / "grades")
    again = load_result(tmp_path / "grades")
    assert isinstance(again, CircuitGrades)
    assert again.verdict() == grades.verdict()
    assert again.table().equals(grades.table())
    assert torch.equal(again.curves, grades.curves)
    assert again.edges == grades.edges
    assert len(grades.worst("weights", 4)) == 4


def test_directions_are_graded_against_their_own_truth():
    clean, corrupted = asking.texts()
    options = {"direction": "denoise", "methods": ["exact", "eap"], "k": 3, **QUIET}
    found = grade_circuit_methods(asking.model(), clean, corrupted, asking.METRIC, **options)
    expected = edge_effects(asking.model(), clean, corrupted, asking.METRIC, direction="denoise", **QUIET).effect
    torch.testing.assert_close(found.exact, expected.double())
    estimate = edge_attribution(asking.model(), clean, corrupted, asking.METRIC, direction="denoise", **QUIET).values
    torch.testing.assert_close(found.estimates[1], estimate.double())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ["best"]}, "methods is 'best'"),
        ({"methods": []}, "methods is empty"),
        ({"k": 14}, "k is 14; expected at most 13"),
        ({"k": 0}, "k is 0"),
        ({"relevant": 0}, "relevant is 0; expected a number above 0"),
        ({"source": "zero"}, "expected 'other'"),
    ],
)
def test_bad_input_is_one_sentence(options, said):
    clean, corrupted = asking.texts()
    with pytest.raises(AnalysisError, match=said):
        grade_circuit_methods(asking.model(), clean, corrupted, asking.METRIC, **{"k": 3, **QUIET, **options})


def test_questions_that_the_grades_cannot_answer(grades):
    with pytest.raises(ResultError, match="'best' was not graded; expected one of"):
        grades.worst("best")
    with pytest.raises(ResultError, match="'best' was not graded"):
        grades.is_safe("best")
    clean, corrupted = asking.texts()
    found = grade_circuit_methods(asking.model(), clean, corrupted, asking.METRIC, methods=["eap"], k=3, **QUIET)
    with pytest.raises(ResultError, match="do not include 'exact'"):
        _ = found.regret
    assert math.isnan(float(found.at(method="eap", score="mean_regret")))


def test_intervals_are_those_of_prompts_drawn_again_in_plain_lines(grades, truth):
    """The grades of each resample by other functions; methods that would search anew have none."""
    clean, corrupted = asking.texts()
    effects = edge_effects(asking.model(), clean, corrupted, asking.METRIC, **QUIET)
    exact = (effects.per_example - effects.base_per_example).double()
    estimate = edge_attribution(asking.model(), clean, corrupted, asking.METRIC, **QUIET).per_example.double()
    runs = run_circuit(asking.model(), [[]], clean, corrupted, asking.METRIC, **QUIET)
    gap, drawn = (runs.full - runs.empty).double(), []
    for counts in times_drawn(4, resamples=1000):
        one, two = estimate @ counts / 4, exact @ counts / 4
        used = two.abs() >= 0.05 * abs(float(gap @ counts / 4))
        right = float((one.sign() == two.sign())[used].double().mean())
        drawn.append([spearmanr(one, two).statistic, right, len(top(one, 5) & top(two, 5)) / 5])
    row = grades.methods.index("eap")
    for end, share in ((grades.low, 0.025), (grades.high, 0.975)):
        expected = torch.tensor(drawn).double().quantile(share, dim=0)
        torch.testing.assert_close(end[row, :3], expected, rtol=0, atol=1e-9)
    assert grades.interval == "bootstrap"
    assert bool(grades.low[:, 4:].isnan().all())
    for method in ("greedy", "acdc", "attention"):
        assert bool(grades.low[grades.row_of(method)].isnan().all())
    assert not math.isnan(float(grades.low[grades.row_of("weights"), 0]))
    assert (grades.low.nan_to_num(0) <= grades.high.nan_to_num(1)).all()


def test_one_prompt_or_a_function_of_the_logits_has_no_interval():
    clean, corrupted = asking.texts()
    one = logit_diff(3, 5)
    for asked in ((clean[:1], corrupted[:1], one), (clean, corrupted, lambda logits: logits[:, -1, 3].mean())):
        found = grade_circuit_methods(asking.model(), *asked, methods=["exact", "eap"], k=5, **QUIET)
        assert (found.low, found.high, found.interval) == (None, None, "")
