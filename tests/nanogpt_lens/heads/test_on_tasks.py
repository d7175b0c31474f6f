"""Scores on a task's own sequences: against plain loops, by hand, and on a model whose circuit is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.heads.on_tasks import (
    HEAD_SCORES,
    POSITIONS,
    ratio_per_example,
    task_accuracy,
    task_heads,
    task_sequences,
)
from nanogpt_lens.losses.on_text import text_loss
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.model.loading import load
from nanogpt_lens.text.corpus import windows
from nanogpt_lens.text.tasks import RepeatedRandom
from tests.conftest import convert
from tests.handmade import CONTEXT as SHORT
from tests.handmade import INDUCTION, PREVIOUS, VOCAB, handmade_checkpoint, handmade_model
from tests.making import CHARS as LETTERS
from tests.nanogpt_lens.runs.stage_helpers import CHARS, CONTEXT, TEXT, make_run, task, write_stage

N = 9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(make_run(tmp_path_factory.mktemp("scores") / "run") / "ckpt_a.pt", dtype=torch.float64)


def periods(vocabulary, shortest=4):
    return RepeatedRandom(vocabulary=vocabulary, name="repeated", shortest=shortest)


@pytest.fixture(params=["trigger_bigrams", "repeated_random"])
def given(request):
    """A task with the characters of the model."""
    return task() if request.param == "trigger_bigrams" else periods(task().vocabulary)


def kind(drawn, example, at):
    return "required" if drawn.required[example, at] else "unseen" if drawn.unseen[example, at] else "other"


# --- sequences ------------------------------------------------------------------------------


def test_sequences_are_new_and_follow_from_the_seed(model, given):
    one, again, other = (task_sequences(model, given, n=4, seed=seed).tokens for seed in (1, 1, 2))
    assert one.shape == (4, CONTEXT)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_task_of_other_characters_is_refused(model):
    for other in (task("one two three four"), periods(replace(task().vocabulary, chars=tuple(CHARS[::-1])))):
        with pytest.raises(
            AnalysisError, match=r"the task '.*' has \d+ characters, .* expected the same: give the task"
        ):
            task_accuracy(model, other, n=4)
    with pytest.raises(AnalysisError, match="n is 0; expected a whole number, 1 or more"):
        task_heads(model, task(), n=0)
    with pytest.raises(AnalysisError, match="seed is -1"):
        task_heads(model, task(), seed=-1)


# --- accuracy -------------------------------------------------------------------------------


def test_accuracy_by_plain_loops(model, given):
    found = task_accuracy(model, given, n=N, seed=2)
    drawn = task_sequences(model, given, n=N, seed=2)
    sums = {position: [0, 0.0, 0.0, 0] for position in POSITIONS}
    for example in range(N):
        row = drawn.tokens[example].tolist()
        with torch.no_grad():
            logits = model(torch.tensor([row]))[0]
        for at in range(CONTEXT - 1):
            probabilities = logits[at].softmax(-1).tolist()
            right = row[at + 1]
            entry = sums[kind(drawn, example, at)]
            entry[0] += max(range(len(probabilities)), key=probabilities.__getitem__) == right
            entry[1] -= math.log(probabilities[right])
            entry[2] += probabilities[right]
            entry[3] += 1
    assert sum(entry[3] for entry in sums.values()) == N * (CONTEXT - 1)
    for position, (right, loss, probability, count) in sums.items():
        if position == "other" and isinstance(given, RepeatedRandom):
            assert count == 0
            assert found.at(position="other").isnan().all()
            continue
        assert count > 5
        expected = {"accuracy": right, "loss": loss, "probability": probability}
        for score, total in expected.items():
            assert float(found.at(score=score, position=position)) == pytest.approx(total / count, abs=1e-10)
    assert found.per_example.shape == (3, 3, N)


def test_where_positions_do_not_occur_the_interval_is_nan_too(model):
    found = task_accuracy(model, periods(task().vocabulary), n=3)
    assert found.values.isnan().tolist() == [[False, False, True]] * 3
    assert found.low.isnan().tolist() == found.high.isnan().tolist() == [[False, False, True]] * 3


def test_training_mode_and_hooks_are_left_as_they_were(model, given):
    model.train()
    before = task_accuracy(model, given, n=3).values
    assert model.training
    model.eval()
    assert torch.equal(task_accuracy(model, given, n=3).values.nan_to_num(9), before.nan_to_num(9))
    task_heads(model, given, n=3)
    assert not has_hooks(model)


# --- heads ----------------------------------------------------------------------------------


def test_attention_by_plain_loops(model, given):
    found = task_heads(model, given, n=N, seed=5)
    drawn = task_sequences(model, given, n=N, seed=5)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.from_numpy(drawn.tokens))
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"].tolist()
        for head in range(2):
            before, matching, uniform_before, uniform = [], [], [], []
            for example, row in enumerate(drawn.tokens.tolist()):
                for at in range(CONTEXT):
                    weights = pattern[example][head][at]
                    if at:
                        before.append(weights[at - 1])
                        uniform_before.append(1 / (at + 1))
                    if drawn.required[example, at]:
                        keys = [key for key in range(1, at + 1) if row[key - 1] == row[at]]
                        matching.append(sum(weights[key] for key in keys))
                        uniform.append(len(keys) / (at + 1))
            places = {"layer": layer, "head": head}
            assert float(found.at(score="previous_token", **places)) == pytest.approx(np.mean(before), abs=1e-12)
            assert float(found.at(score="induction", **places)) == pytest.approx(np.mean(matching), abs=1e-12)
            chance = found.chance[:, layer, head].tolist()
            assert chance == pytest.approx([np.mean(uniform_before), np.mean(uniform)], abs=1e-12)


def test_uniform_attention_has_the_score_of_chance(tmp_path, given):
    """Zero W_Q and zero biases of the queries; the other half of the queries stays as it is."""
    run = make_run(tmp_path / "run")
    write_stage(run / "ckpt.pt", 5)
    content = torch.load(run / "ckpt.pt", weights_only=True)
    for layer in range(2):
        for part in ("weight", "bias"):
            content["model"][f"transformer.h.{layer}.attn.c_attn.{part}"][:16] = 0
    torch.save(content, run / "ckpt.pt")
    found = task_heads(load(run / "ckpt.pt", dtype=torch.float64), given, n=N)
    torch.testing.assert_close(found.values, found.chance, rtol=0, atol=1e-12)
    harmonic = sum(1 / (at + 1) for at in range(1, CONTEXT)) / (CONTEXT - 1)
    assert found.at(score="previous_token")[0, 0] == pytest.approx(harmonic, abs=1e-12)


def test_the_handmade_model_does_both_with_one_head_each():
    model = handmade_model()
    vocabulary = replace(task().vocabulary, chars=tuple(LETTERS[:VOCAB]))
    own = periods(vocabulary, shortest=4)
    heads = task_heads(model, own, n=40)
    assert heads.labels["score"] == tuple(HEAD_SCORES)
    assert heads.score("previous_token")[PREVIOUS] > 0.99
    assert heads.score("induction")[INDUCTION] > 0.99
    for score, one in (("previous_token", PREVIOUS), ("induction", INDUCTION)):
        for head in ((layer, head) for layer in range(2) for head in range(2) if (layer, head) not in (one,)):
            if score == "previous_token" or head != PREVIOUS:
                assert heads.score(score)[head] < heads.chance[heads.labels["score"].index(score)][head] + 0.1
    found = task_accuracy(model, own, n=40)
    assert found.at(score="accuracy", position="required") > 0.99
    assert found.at(score="accuracy", position="unseen") < 0.2
    assert model.cfg.n_ctx == SHORT
    ablated = handmade_checkpoint()
    ablated.state_dict["transformer.h.0.attn.c_proj.weight"].zero_()  # without the previous-token head
    broken = convert(ablated, dtype=torch.float64)
    assert task_heads(broken, own, n=40).score("induction")[INDUCTION] < 0.5
    assert task_accuracy(broken, own, n=40).at(score="accuracy", position="required") < 0.5


def test_batches_make_no_difference(model, given, monkeypatch):
    whole = [measure(model, given, n=N) for measure in (task_accuracy, task_heads)]
    monkeypatch.setattr("nanogpt_lens.running.batches._NUMBERS", 1)
    for one, measure in zip(whole, (task_accuracy, task_heads), strict=True):
        again = measure(model, given, n=N)
        for name, tensor in one.tensors().items():
            torch.testing.assert_close(again.tensors()[name], tensor, rtol=0, atol=1e-12, equal_nan=True)


# --- ratios ---------------------------------------------------------------------------------


@pytest.fixture
def ratios():
    generator = torch.Generator().manual_seed(3)
    counts = torch.randint(0, 9, (40,), generator=generator).double()
    rates = torch.rand(2, 40, generator=generator, dtype=torch.float64)
    return rates * counts, counts


def test_the_mean_is_the_ratio_of_totals(ratios):
    sums, counts = ratios
    each = ratio_per_example(sums, counts)
    assert each.shape == (2, 40)
    torch.testing.assert_close(each.mean(-1), sums.sum(-1) / counts.sum(), rtol=0, atol=1e-14)
    alike = torch.full((40,), 5.0, dtype=torch.float64)
    torch.testing.assert_close(ratio_per_example(sums, alike), sums / 5, rtol=0, atol=1e-14)
    assert ratio_per_example(sums, counts * 0).isnan().all()


def test_the_spread_is_that_of_a_bootstrap_of_the_ratio(ratios):
    sums, counts = ratios
    generator = np.random.default_rng(0)
    drawn = generator.integers(40, size=(20_000, 40))
    again = sums.numpy()[:, drawn].sum(-1) / counts.numpy()[drawn].sum(-1)  # [ratio, resample]
    error = ratio_per_example(sums, counts).std(-1) / 40**0.5
    assert error.tolist() == pytest.approx(again.std(-1).tolist(), rel=0.06)
    low, high = t_interval(ratio_per_example(sums, counts)) or (None, None)
    for i in range(2):
        width = float(high[i] - low[i])
        assert [float(low[i]), float(high[i])] == pytest.approx(np.quantile(again[i], [0.025, 0.975]), abs=0.1 * width)


def test_intervals_are_over_sequences(model):
    found = task_accuracy(model, task(), n=30, seed=4)
    low, high = t_interval(found.per_example) or (None, None)
    assert torch.equal(found.low, low)
    assert torch.equal(found.high, high)
    single = task_heads(model, task(), n=1)
    assert single.low is None
    assert single.values.isfinite().all()


# --- the loss on text -----------------------------------------------------------------------


def test_text_loss_by_plain_loops(model):
    found = text_loss(model, TEXT, seq_len=10, n=5, seed=3)
    rows = windows(model, TEXT, seq_len=10, n=5, seed=3)
    expected = []
    for row in rows.tolist():
        with torch.no_grad():
            logits = model(torch.tensor([row]))[0].log_softmax(-1)
        expected.append(np.mean([-float(logits[at, row[at + 1]]) for at in range(9)]))
    assert found.per_example.tolist() == pytest.approx(expected, abs=1e-10)
    assert float(found.values) == pytest.approx(np.mean(expected), abs=1e-10)
    assert float(found.chance) == pytest.approx(math.log(len(CHARS)))
    assert float(found.low) < float(found.values) < float(found.high)
    with pytest.raises(AnalysisError, match="seq_len is 1; expected a whole number, 2 or more"):
        text_loss(model, TEXT, seq_len=1)
