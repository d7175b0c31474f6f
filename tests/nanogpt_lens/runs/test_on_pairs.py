"""Analyses of prompt pairs over training: against the analysis on each checkpoint loaded by itself."""

from __future__ import annotations

from functools import wraps

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core import unfinished
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.results import load_result
from nanogpt_lens.running.metrics import logit_diff_of
from nanogpt_lens.runs.trajectory import trajectory
from nanogpt_lens.text.prompts import induction_pairs
from nanogpt_lens.text.task_pairs import task_pairs
from tests.nanogpt_lens.runs.stage_helpers import NAMES, make_run, task

FILES = tuple(sorted(NAMES, key=NAMES.__getitem__))
N, LENGTH = 4, 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("on_pairs") / "run")


def measured(run, measure="edge_effects", **options):
    given = {"progress": False, "n": N, "seq_len": LENGTH, "dtype": torch.float64}
    return trajectory(run, measure, **{k: v for k, v in (given | options).items() if v is not None})


@pytest.fixture(scope="module")
def found(run):
    return measured(run)


def singly(run, file, made, measure=ngl.edge_effects, **options):
    model = ngl.load(run / file, dtype=torch.float64)
    pairs = made(model)
    return measure(model, pairs.clean, pairs.corrupted, logit_diff_of(pairs), progress=False, **options)


def of_task(model):
    return task_pairs(model, task(), n=N, seq_len=LENGTH, seed=0)


def of_induction(model):
    return induction_pairs(model, n=N, seq_len=LENGTH, seed=3)


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_each_step_is_edge_effects_on_that_checkpoint(run, found, direction):
    found = found if direction == "noise" else measured(run, direction=direction)
    assert (found.axes, found.steps) == (("step", "edge"), tuple(sorted(NAMES.values())))
    for i, file in enumerate(FILES):
        single = singly(run, file, of_task, direction=direction)
        assert found.labels["edge"] == single.labels["edge"]
        for ours, theirs in (
            (found.values[i], single.effect),
            (found.low[i], single.effect_low),
            (found.high[i], single.effect_high),
            (found.per_example[i], single.per_example - single.base_per_example),
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert float(found.values.std(0).max()) > 1e-3  # the stages differ


def test_an_effect_is_what_the_metric_changes_by(run, found):
    """A second way, without a result in between: the two runs' logits."""
    model = ngl.load(run / FILES[-1], dtype=torch.float64)
    pairs = of_task(model)
    edge = "mlp1->logits"
    with torch.no_grad():
        _, other = model.run_with_cache(pairs.corrupted)
        _, clean = model.run_with_cache(pairs.clean)
        stream = clean["blocks.1.hook_resid_post"] + other["blocks.1.hook_mlp_out"] - clean["blocks.1.hook_mlp_out"]
        rows = torch.arange(N)

        def metric(resid):
            logits = model.unembed(model.ln_final(resid))[:, -1]
            return logits[rows, pairs.answer] - logits[rows, pairs.wrong]

        expected = metric(stream) - metric(clean["blocks.1.hook_resid_post"])
    place = found.labels["edge"].index(edge)
    torch.testing.assert_close(found.per_example[-1, place], expected, rtol=0, atol=1e-10)


def test_pairs_of_a_word_and_pairs_that_were_made_before(run, found):
    model = ngl.load(run / FILES[0], dtype=torch.float64)
    by_word = measured(run, pairs="induction", seed=3)
    made = measured(run, pairs=of_induction(model), n=None, seq_len=None)
    assert torch.equal(by_word.values, made.values)
    torch.testing.assert_close(by_word.values[2], singly(run, FILES[2], of_induction).effect, rtol=0, atol=1e-12)
    assert not torch.equal(by_word.values, found.values)
    assert by_word.provenance["arguments"]["pairs"] == "induction"


def test_without_a_task_the_pairs_are_of_induction(tmp_path):
    bare = make_run(tmp_path / "bare", with_task=False)
    assert torch.equal(measured(bare).values, measured(bare, pairs="induction").values)


def test_estimates_are_followed_too(run):
    found = measured(run, "edge_attribution")
    single = singly(run, FILES[1], of_task, ngl.edge_attribution)
    torch.testing.assert_close(found.values[1], single.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.per_example[1], single.per_example, rtol=0, atol=1e-12)


def test_what_it_says(found, tmp_path):
    assert (found.quantity, found.signed, found.unit) == ("effect on the logit difference", True, "logits")
    assert (found.sample.n, found.sample.seq_len, found.sample.seed) == (N, LENGTH, 0)
    again = load_result(found.save(tmp_path / "saved"))
    assert torch.equal(again.values, found.values)
    assert again.labels == found.labels


def test_a_killed_call_goes_on(run, found, tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    calls = []
    original = ngl.edge_effects

    @wraps(original)
    def killed(model, *rest, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return original(model, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr("nanogpt_lens.circuits.edges.edge_effects", killed)
        with pytest.raises(KeyboardInterrupt):
            measured(run, resume=tmp_path / "kept")
    with pytest.raises(AnalysisError, match="another model, corpus or set of options"):
        measured(run, resume=tmp_path / "kept", pairs="induction")
    seen = []

    @wraps(original)
    def counted(model, *rest, **options):
        seen.append(1)
        return original(model, *rest, **options)

    monkeypatch.setattr("nanogpt_lens.circuits.edges.edge_effects", counted)
    again = measured(run, resume=tmp_path / "kept")
    assert len(seen) == len(FILES) - 2
    assert torch.equal(again.values, found.values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pairs": 3}, "pairs is 3; expected prompt pairs, the name of a task, or None"),
        ({"measure": "prefix_matching", "pairs": "induction", "seq_len": None}, "pairs= was given, but"),
        ({"corpus": "text"}, "corpus= was given, but 'edge_effects' looks at prompts; leave it out"),
        ({"size": 4}, "edge_effects has no option size"),
        ({"measure": "find_circuit"}, "find_circuit needs clean, corrupted, metric"),
    ],
)
def test_refusals(run, options, said):
    with pytest.raises(AnalysisError, match=said.replace("(", r"\(")):
        measured(run, **options)


def test_pairs_that_were_made_before_are_not_made_again(run):
    model = ngl.load(run / FILES[0])
    with pytest.raises(AnalysisError, match="n was given with pairs that are made already"):
        measured(run, pairs=of_induction(model), seq_len=None)
