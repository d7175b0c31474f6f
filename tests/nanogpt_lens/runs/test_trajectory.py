"""One measure over the stages of a run: against the measure on each checkpoint loaded by itself."""

from __future__ import annotations

import gc
import json
from dataclasses import replace

import pytest
import torch

from conversion import read_checkpoint
from nanogpt_lens.catalogue import ANALYSES
from nanogpt_lens.core import unfinished
from nanogpt_lens.core.distributed import alone, world
from nanogpt_lens.core.errors import AnalysisError, DataError, ResultError
from nanogpt_lens.core.intervals import pseudo_values, t_interval
from nanogpt_lens.heads.attention import (
    STATISTICS,
    _AttentionSums,
    attention_patterns,
    statistics_of,
)
from nanogpt_lens.heads.induction import prefix_matching
from nanogpt_lens.heads.on_tasks import task_sequences
from nanogpt_lens.losses.on_text import text_loss
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.model.loading import load
from nanogpt_lens.neurons.statistics import neuron_statistics
from nanogpt_lens.results import Trajectory, load_result
from nanogpt_lens.runs.trajectory import trajectory
from nanogpt_lens.text.from_model import own_text
from nanogpt_lens.text.prompts import repeated_tokens
from tests.nanogpt_lens.runs.stage_helpers import CHARS, CONTEXT, NAMES, TEXT, make_run, task, write_stage
from tests.processes import run_in_two_processes

STEPS = tuple(sorted(NAMES.values()))
FILES = tuple(sorted(NAMES, key=NAMES.__getitem__))
COLUMNS = ("values", "chance", "low", "high", "per_example")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("trajectory") / "run")


WITHOUT_EXAMPLES = {"measure_convergence", "head_importance", "patched_heads", "composition_scores", "copying_score"}
FOLLOWED = (
    *("score_heads", "prefix_matching", "text_loss", "in_context_learning_score", "repeated_sequence_loss"),
    *("induction_accuracy", "measure_convergence", "head_importance", "patched_heads", "composition_scores"),
    *("task_accuracy", "task_heads", "copying_score"),
)


@pytest.fixture
def copy(tmp_path):
    return make_run(tmp_path / "run")


def measured(run, measure, **options):
    return trajectory(run, measure, **{"progress": False, **options})


def options_of(name):
    return {"n": 6} if "n" in ANALYSES[name].options() else {}


def source_of(name):
    return {"corpus": {"corpus": TEXT}, "task": {"task": task()}}.get(ANALYSES[name].looks_at, {})


def singly(run, name, file, **options):
    """The measure on one checkpoint, loaded by itself."""
    if "progress" in ANALYSES[name].options():
        options["progress"] = False
    return ANALYSES[name].function(load(run / file), *source_of(name).values(), **options)


def equal(one, other, **tolerance):
    """All columns of two trajectories."""
    assert (one.axes, one.labels, one.files, one.measure) == (other.axes, other.labels, other.files, other.measure)
    assert (one.quantity, one.definition) == (other.quantity, other.definition)
    for name in COLUMNS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, **{"rtol": 0, "atol": 0, "equal_nan": True, **tolerance})


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLLOWED)
def test_each_step_is_the_measure_on_that_checkpoint(run, name):
    found = measured(run, name, **source_of(name), **options_of(name))
    assert isinstance(found, Trajectory)
    assert (found.steps, found.files, found.measure) == (STEPS, FILES, name)
    for i, file in enumerate(FILES):
        single = singly(run, name, file, **options_of(name))
        assert found.axes == ("step", *single.axes)
        assert {axis: labels for axis, labels in found.labels.items() if axis != "step"} == dict(single.labels)
        again = found.at_step(STEPS[i])
        for column in COLUMNS:
            expected = getattr(single, column, None)
            if expected is None:
                assert getattr(found, column) is None, column
                continue
            for tensor in (getattr(found, column)[i], getattr(again, column)):
                torch.testing.assert_close(tensor, expected.double(), rtol=1e-6, atol=1e-6, equal_nan=True)
    assert (found.values[0] - found.values[-1]).abs().nan_to_num().max() > 1e-3


def test_a_few_lines_of_ones_own_give_the_number(run):
    found = measured(run, "prefix_matching", n=7, seq_len=9, seed=4)
    for step, file in zip(STEPS, FILES, strict=True):
        model = load(run / file)
        tokens = repeated_tokens(model, seq_len=9, n=7, seed=4)
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
        for layer in range(2):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"]  # [example, head, query, key]
            stripe = pattern.diagonal(offset=1 - 9, dim1=-2, dim2=-1)[..., 1:]  # queries of the second copy
            torch.testing.assert_close(
                found.at_step(step).at(layer=layer), stripe.mean((0, 2)).double(), rtol=0, atol=1e-6
            )


def test_options_reach_the_measure(run):
    olsson = measured(run, "prefix_matching", convention="olsson", n=3)
    assert torch.equal(olsson.values[1], singly(run, "prefix_matching", FILES[1], convention="olsson", n=3).values)
    assert "Olsson" in olsson.definition
    values = measured(run, "composition_scores", mode="V", samples=9).values
    assert not torch.equal(values, measured(run, "composition_scores", mode="K", samples=9).values)


def test_in_float64_and_with_a_pattern(run):
    found = measured(run, "text_loss", corpus=TEXT, n=4, dtype=torch.float64, pattern="ckpt_[9b].pt")
    assert found.steps == (20, 1000)
    expected = text_loss(load(run / "ckpt_9.pt", dtype=torch.float64), TEXT, n=4)
    assert found.values[1] == expected.values
    assert found.provenance["model"].endswith("float64")


def test_checkpoints_of_the_old_nanogpt_and_a_vocabulary_from_elsewhere(copy, tmp_path):
    options = {"act_fn": "gelu_new", "meta": copy / "meta.pkl"}
    found = measured(copy, "text_loss", corpus=TEXT, n=6, **options)
    expected = [float(text_loss(load(copy / file, **options), TEXT, n=6).values) for file in FILES]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert (found.values - measured(copy, "text_loss", corpus=TEXT, n=6).values).abs().max() > 1e-6
    (copy / "meta.pkl").rename(tmp_path / "meta.pkl")
    again = measured(copy, "text_loss", corpus=TEXT, n=6, act_fn="gelu_new", meta=tmp_path / "meta.pkl")
    assert torch.equal(again.values, found.values)


def test_text_on_random_measures(run):
    found = measured(run, "prefix_matching", corpus=TEXT, n=4)
    assert torch.equal(found.values[2], prefix_matching(load(run / FILES[2]), TEXT, n=4).values)


# --- functions ------------------------------------------------------------------------------


def test_functions_that_give_numbers_tensors_lists_and_scores(run):
    def norm(model):
        return float(model.W_E.detach().norm())

    norms = [float(load(run / file).W_E.detach().norm()) for file in FILES]
    found = measured(run, norm)
    assert (found.axes, found.values.dtype) == (("step",), torch.float64)
    assert found.values.tolist() == pytest.approx(norms)
    assert found.measure.endswith("norm")
    of_tensor = measured(run, lambda model: model.W_E.norm(dim=1))
    assert of_tensor.shape == {"step": 4, "axis_0": len(CHARS)}
    assert of_tensor.values.square().sum(1).sqrt().tolist() == pytest.approx(norms)
    assert not of_tensor.values.requires_grad
    assert measured(run, lambda model: [1, model.cfg.n_ctx]).values.tolist() == [[1, CONTEXT]] * 4
    scores = measured(run, lambda model: prefix_matching(model, n=5))
    equal(replace(scores, measure="prefix_matching"), measured(run, "prefix_matching", n=5))
    patterns = measured(run, lambda model: attention_patterns(model, "one two"))
    assert patterns.axes == ("step", "layer", "head", "dest_pos", "src_pos")
    assert patterns.labels["src_pos"] == tuple("one two")
    counts = measured(run, lambda model: neuron_statistics(model, TEXT[:200], progress=False))
    assert counts.axes[0] == "step"


def test_an_object_that_can_be_called(run):
    class Norm:
        def __call__(self, model):
            return model.W_U.norm()

    assert measured(run, Norm()).measure.endswith("Norm")


@pytest.mark.parametrize(
    ("value", "words"), [(None, "gave a NoneType"), ("x", "gave a str"), ({"a": 1}, "gave a dict"), ([[1], [1, 2]], "")]
)
def test_what_is_no_measurement(run, value, words):
    with pytest.raises(AnalysisError, match=f"{words}.*; expected a result, a tensor, or a number"):
        measured(run, lambda model: value)


def test_a_measure_whose_axes_change(run):
    def step_of(model):
        return model.nanogpt_origin.iter_num

    with pytest.raises(AnalysisError, match=r"of sizes \[3\] .*ckpt_9.pt, and .* of \[2\] .* the same for every"):
        measured(run, lambda model: torch.ones(2 + (step_of(model) == 1000)))
    with pytest.raises(AnalysisError, match=r"\['axis_0'\].*ckpt_b.pt, and \[\] "):
        measured(run, lambda model: torch.ones([2] * (step_of(model) == 20)))
    with pytest.raises(AnalysisError, match="expected the same for every checkpoint"):
        measured(run, lambda model: attention_patterns(model, "one" if step_of(model) < 100 else "two"))


def test_sequences_that_differ_in_number_are_left_out(run):
    def score(model):
        return prefix_matching(model, n=3 + (model.nanogpt_origin.iter_num == 100))

    found = measured(run, score)
    assert found.per_example is None
    assert found.low is not None


def test_one_model_object_and_nothing_left_on_it(run):
    seen = []

    def look(model):
        seen.append(model)
        assert not has_hooks(model)
        return prefix_matching(model, n=2)

    measured(run, look)
    assert len(seen) == 4
    assert all(model is seen[0] for model in seen)
    assert not has_hooks(seen[0])


@pytest.mark.slow
def test_tensors_in_memory_do_not_grow_with_the_checkpoints(tmp_path):
    """Counted after each step: as many tensors, and as many numbers, as after the second."""
    run = make_run(tmp_path / "run", names={f"ckpt_{i:03d}.pt": i for i in range(5)})
    counted = []

    def count(model):
        gc.collect()
        alive = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
        parameters = [tensor for tensor in alive if issubclass(type(tensor), torch.nn.Parameter)]
        counted.append((len(parameters), sum(t.numel() for t in parameters), len(alive), sum(t.numel() for t in alive)))
        return 1.0

    measured(run, count)
    assert len(counted) == 5
    parameters, numbers, alive, entries = zip(*counted, strict=True)
    assert len(set(parameters)) == len(set(numbers)) == 1
    result = 2  # a value and a hash for each step
    assert [n - alive[1] for n in alive[1:]] == [result * i for i in range(4)]
    assert entries[-1] - entries[1] == 3 * (1 + 32)


# --- where text and tasks come from ----------------------------------------------------------


def test_without_text_it_is_the_task_or_the_last_models_own(run, tmp_path):
    last = load(run / FILES[-1])
    drawn = torch.from_numpy(task_sequences(last, task(), n=128, seed=3).tokens)
    found = measured(run, "text_loss", n=9, seed=3)
    for i, file in enumerate(FILES):
        assert found.values[i] == text_loss(load(run / file), drawn, n=9, seed=3).values
    other = make_run(tmp_path / "run", with_task=False)
    drawn = own_text(last, seq_len=CONTEXT, n=128, seed=3)
    found = measured(other, "text_loss", n=9, seed=3)
    assert found.values[0] == text_loss(load(run / FILES[0]), drawn, n=9, seed=3).values
    given = measured(other, "text_loss", task=task(), n=9, seed=3)
    equal(given, measured(run, "text_loss", n=9, seed=3))


def test_measures_on_a_task(copy):
    own = measured(copy, "task_accuracy", n=5)
    other = measured(copy, "task_accuracy", task=task(n_triggers=2), n=5)
    assert not torch.equal(own.values, other.values)
    (copy / "task.json").unlink()
    equal(measured(copy, "task_accuracy", task=task(), n=5), own)
    with pytest.raises(DataError, match=r"task.json cannot be read .*train --task"):
        measured(copy, "task_accuracy")
    with pytest.raises(AnalysisError, match=r"the task 'own.* has .* characters, and the model 15 tokens or others"):
        measured(copy, "task_heads", task=replace(task("one two three"), name="own"))


@pytest.mark.parametrize(
    ("measure", "options", "words"),
    [
        ("induction", {}, "there is no analysis 'induction'; expected one of score_heads, .*task_heads"),
        ("text_loss", {"m": 3, "batch": 1}, "text_loss has no option batch, m; expected seq_len, n, seed"),
        ("composition_scores", {"n": 3}, "composition_scores has no option n"),
        (
            "measure_convergence",
            {"progress_bar": 1},
            "has no option progress_bar; expected [^;]*seed",
        ),
        ("composition_scores", {"corpus": TEXT}, "'composition_scores' looks at the weights alone; leave it out"),
        ("induction_accuracy", {"corpus": TEXT}, "'induction_accuracy' looks at random tokens; leave it out"),
        ("task_heads", {"corpus": TEXT}, "'task_heads' looks at the task; leave it out"),
        (
            "induction_accuracy",
            {"task": task()},
            "task= was given, but 'induction_accuracy' looks at random",
        ),
        (float, {"corpus": TEXT, "task": task()}, "corpus, task were given for a function of your own"),
        (float, {"n": 3}, "n were given for a function of your own; expected .*put them into the function"),
        ("prefix_matching", {"seq_len": 17}, "seq_len is 17; expected 2 to 16"),
        ("text_loss", {"corpus": "é" * 99}, "é"),
        ("text_loss", {"n": "many"}, "n is 'many'; expected a whole number"),
        ("text_loss", {"seed": "x"}, "seed is 'x'; expected a whole number"),
        ("text_loss", {"n": None}, "n is None; expected a whole number"),
    ],
)
def test_bad_measures_and_options(run, measure, options, words):
    from conversion.errors import NanoGPTLensError

    with pytest.raises(NanoGPTLensError, match=words):
        measured(run, measure, **options)


# --- the result -----------------------------------------------------------------------------


def test_what_the_result_knows(run, tmp_path):
    found = measured(run, "prefix_matching", n=4)
    hashes = [read_checkpoint(run / file).sha256 for file in FILES]
    assert found.provenance["checkpoints_sha256"] == hashes
    assert found.provenance["checkpoint"] == str(run)
    assert found.provenance["arguments"] == {"measure": "prefix_matching", "n": 4}
    assert found.definition.endswith("at 4 checkpoints of one training run")
    again = load_result(found.save(tmp_path / "saved"))
    assert isinstance(again, Trajectory)
    equal(again, found)
    assert again.provenance == found.provenance
    with pytest.raises(ResultError, match="the label '7' of the axis 'step' is not there"):
        found.at_step(7)
    spread = found.values.amax(0) - found.values.amin(0)
    table = found.changes(3)
    assert list(table.columns) == ["layer", "head", *STEPS]
    best = [(int(i) // 2, int(i) % 2) for i in spread.flatten().argsort(descending=True)[:3]]
    assert [tuple(row) for row in table[["layer", "head"]].to_numpy().tolist()] == best
    assert table[20].tolist() == pytest.approx([float(found.values[1][at]) for at in best])
    assert measured(run, lambda model: 3.0).changes().to_numpy().tolist() == [[3.0] * 4]


def test_a_trajectory_has_steps_in_front(run):
    found = measured(run, "text_loss", corpus=TEXT, n=4)
    with pytest.raises(ResultError, match="expected 'step' first"):
        replace(found, labels={"step": ("a", "b", "c", "d")})
    with pytest.raises(ResultError, match="expected 'step' first"):
        replace(found, axes=("time",), labels={})


@pytest.mark.parametrize(
    "name",
    [n for n in FOLLOWED if n not in WITHOUT_EXAMPLES],
)
def test_sequences_have_the_values_as_their_mean_and_the_interval_as_its_spread(run, name):
    found = measured(run, name, **source_of(name), **(options_of(name) | ({"n": 12} if options_of(name) else {})))
    assert found.per_example is not None
    torch.testing.assert_close(found.per_example.mean(-1), found.values, rtol=1e-6, atol=1e-9, equal_nan=True)
    low, high = t_interval(found.per_example)
    torch.testing.assert_close(low, found.low, rtol=1e-6, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(high, found.high, rtol=1e-6, atol=1e-9, equal_nan=True)


# --- the jackknife --------------------------------------------------------------------------


def test_pseudo_values_of_a_mean_are_the_values():
    values = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = values.sum(-1, keepdim=True)
    torch.testing.assert_close(pseudo_values((total - values) / 8, total[..., 0] / 9), values, rtol=0, atol=1e-12)


def positional(patterns):
    """`positional` [layer, head] from patterns [example, layer, head, query, key], pair by pair."""
    n, length = patterns.shape[0], patterns.shape[-1]
    uniform = torch.ones(length, length, dtype=torch.float64).tril()
    deviations = patterns.double() - uniform / uniform.sum(-1, keepdim=True)
    products = {(i, j): (deviations[i] * deviations[j]).sum((-2, -1)) for i in range(n) for j in range(n)}
    between = sum(p for (i, j), p in products.items() if i != j) / (n * (n - 1))
    return between / (sum(products[i, i] for i in range(n)) / n)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_statistics_leave_one_sequence_out(run, n):
    model = load(run / FILES[1], dtype=torch.float64)
    tokens = torch.randint(len(CHARS), (n, 11), generator=torch.Generator().manual_seed(n))
    found = statistics_of(model, tokens, origin="random")
    assert found.per_example is not None
    others = [[j for j in range(n) if j != i] for i in range(n)]
    without = torch.stack([statistics_of(model, tokens[rows], origin="random").values for rows in others], -1)
    expected = n * found.values[..., None] - (n - 1) * without
    expected += (found.values - expected.mean(-1))[..., None]
    of_means = [i for i, name in enumerate(STATISTICS) if name != "duplicate_token"]  # which is a ratio, linearised
    torch.testing.assert_close(found.per_example[of_means], expected[of_means], rtol=1e-9, atol=1e-9)
    patterns = attention_patterns(model, tokens).values
    by_hand = torch.stack([positional(patterns[rows]) for rows in others], -1)
    torch.testing.assert_close(without[list(STATISTICS).index("positional")], by_hand, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.score("positional"), positional(patterns), rtol=1e-9, atol=1e-9)


def test_the_interval_of_positional_covers_it():
    """Heads whose deviations from uniform attention are a common one and noise, on 12 sequences each."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(30, generator=generator, dtype=torch.float64)
    noise = torch.randn(2000, 12, 30, generator=generator, dtype=torch.float64)  # [head, example, place]
    deviations = common + noise * (0.5 + torch.rand(2000, 12, 1, generator=generator, dtype=torch.float64))
    grams = (deviations @ deviations.mT)[None]
    none = torch.zeros(1, 1, 2000, 12, dtype=torch.float64)
    counts = torch.ones(1, 12, dtype=torch.float64)
    sums = _AttentionSums(sums=none, uniform=counts, counts=counts, grams=grams, floor=0.0)
    low, high = t_interval(sums.statistics()[1][-1, 0])
    truth = common.square().sum() / (common.square().sum() + 30 * (1 + 1 / 12))  # E(0.5 + u)**2
    assert float(((low <= truth) & (truth <= high)).double().mean()) >= 0.93


# --- resuming -------------------------------------------------------------------------------


class Counting:
    """A measure that notes the steps it sees, and is interrupted at the k-th call."""

    def __init__(self, stop=None):
        self.stop, self.seen = stop, []

    def __call__(self, model):
        if len(self.seen) + 1 == self.stop:
            raise KeyboardInterrupt
        self.seen.append(model.nanogpt_origin.iter_num)
        return prefix_matching(model, n=3)


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)


@pytest.mark.usefixtures("eager")
def test_a_killed_one_goes_on_where_it_was(run, tmp_path):
    state, whole = tmp_path / "state", measured(run, Counting())
    seen = []
    for stop in (3, 2):
        killed = Counting(stop)
        with pytest.raises(KeyboardInterrupt):
            measured(run, killed, resume=state)
        seen += killed.seen
        assert [f.name for f in state.iterdir()] == ["trajectory_0_of_1.safetensors"]
    last = Counting()
    found = measured(run, last, resume=state)
    assert tuple(seen + last.seen) == STEPS
    equal(found, whole)
    assert found.provenance == whole.provenance
    assert not state.exists()


@pytest.mark.usefixtures("eager")
def test_killed_after_the_last_step_nothing_is_measured_again(run, tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("nanogpt_lens.runs.trajectory._columns", killed)
        measured(run, Counting(), resume=tmp_path / "state")
    none = Counting(1)
    equal(measured(run, none, resume=tmp_path / "state"), measured(run, Counting()))
    assert none.seen == []


@pytest.fixture
def state(run, tmp_path, eager, monkeypatch):
    """That of `loss` on TEXT, interrupted before the last step."""
    calls = []

    def interrupted(model, *args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return text_loss(model, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setitem(ANALYSES, "text_loss", replace(ANALYSES["text_loss"], custom=interrupted))
        patched.setattr("nanogpt_lens.catalogue.Analysis.options", lambda self: dict.fromkeys(("n", "seed", "seq_len")))
        measured(run, "text_loss", corpus=TEXT, n=4, resume=tmp_path / "state")
    return tmp_path / "state"


def test_the_state_of_a_named_measure(run, state):
    equal(measured(run, "text_loss", corpus=TEXT, n=4, resume=state), measured(run, "text_loss", corpus=TEXT, n=4))
    assert not state.exists()


@pytest.mark.parametrize(
    ("measure", "options"),
    [
        ("text_loss", {"n": 5}),
        ("text_loss", {"n": 4, "seed": 1}),
        ("text_loss", {"n": 4, "corpus": TEXT[::-1]}),
        ("text_loss", {"n": 4, "corpus": None}),
        ("text_loss", {"n": 4, "dtype": torch.float64}),
        ("text_loss", {"n": 4, "pattern": "ckpt_[ab]*"}),
        ("in_context_learning_score", {"n": 4}),
    ],
)
def test_the_state_of_another_one_is_refused(run, state, measure, options):
    with pytest.raises(AnalysisError, match="is the unfinished run of another model, corpus or set of options"):
        measured(run, measure, **{"corpus": TEXT, **options}, resume=state)
    assert state.exists()


def test_the_state_of_other_checkpoints_is_refused(copy, state):
    write_stage(copy / "ckpt_a.pt", 100, seed=1)
    with pytest.raises(AnalysisError, match="is the unfinished run of another"):
        measured(copy, "text_loss", corpus=TEXT, n=4, resume=state)


def test_a_damaged_state(run, state):
    file = state / "trajectory_0_of_1.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(AnalysisError, match="cannot be read .*delete it to start again"):
        measured(run, "text_loss", corpus=TEXT, n=4, resume=state)
    with pytest.raises(AnalysisError, match="is a file; expected a folder"):
        measured(run, "text_loss", corpus=TEXT, n=4, resume=file)


# --- several processes ----------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from nanogpt_lens.core.distributed import world
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.neurons.statistics import neuron_statistics
from nanogpt_lens.runs.trajectory import trajectory

run, text = Path(sys.argv[0]).parent / "run", Path(sys.argv[0]).with_name("text.txt").read_text()
rank, _ = world()
seen = []

def statistics(model):
    seen.append(model.nanogpt_origin.iter_num)
    return neuron_statistics(model, text[:300], batch_size=2, progress=False)

def step_of(model):
    return model.nanogpt_origin.iter_num

for name, measure, options in (
    ("heads", "score_heads", {"corpus": text, "n": 5}),
    ("task_accuracy", "task_accuracy", {"n": 5}),
    ("statistics", statistics, {}),
):
    found = trajectory(run, measure, pattern="ckpt_[9ab].pt", progress=False, resume=f"state_{name}", **options)
    found.save(Path(f"rank{rank}") / name)
assert seen == [[20], [100, 1000]][rank], seen
assert world() == (rank, 2)
for measure, options in (
    ("text_loss", {"pattern": "ckpt_a.pt", "corpus": text}),
    (lambda model: torch.ones(2 + (step_of(model) > 20)), {}),
):
    try:
        trajectory(run, measure, progress=False, **options)
    except AnalysisError as error:
        print(f"rank {rank} refuses: {error}", flush=True)
"""


@pytest.mark.slow  # two processes import everything
def test_two_processes_are_as_one(tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "text.txt").write_text(TEXT)
    done = run_in_two_processes(SCRIPT, tmp_path)
    assert done.codes == (0, 0), done.printed[-2000:]
    options = {"pattern": "ckpt_[9ab].pt"}
    expected = {
        "heads": measured(run, "score_heads", corpus=TEXT, n=5, **options),
        "task_accuracy": measured(run, "task_accuracy", n=5, **options),
        "statistics": measured(
            run, lambda model: neuron_statistics(model, TEXT[:300], batch_size=2, progress=False), **options
        ),
    }
    for rank in range(2):
        for name, one in expected.items():
            found = load_result(tmp_path / f"rank{rank}" / name)
            assert isinstance(found, Trajectory)
            equal(replace(found, measure=one.measure), one, rtol=1e-9, atol=1e-9)
            assert found.provenance["checkpoints_sha256"] == one.provenance["checkpoints_sha256"]
            json.dumps(dict(found.provenance))
        assert f"rank {rank} refuses: there are 1 checkpoints for 2 processes; start fewer processes" in done.printed
        assert f"rank {rank} refuses: test_" not in done.printed
    assert done.printed.count("expected the same for every checkpoint") == 2
    assert not list(tmp_path.glob("state_*"))


def test_alone_is_put_back():
    with pytest.raises(KeyError), alone():
        assert world() == (0, 1)
        raise KeyError
    assert world() == (0, 1)
