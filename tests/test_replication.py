"""The documents agree with `docs/results.json`, and the file with what its data and weights give."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import nanogpt_lens as ngl
from scripts.replication.tables import fill
from scripts.results import DOCUMENTS, SEEDS, of_run, place

ROOT = Path(__file__).parent.parent
FOUND = json.loads((ROOT / "docs" / "results.json").read_text())


def close(one, other, tolerance=2e-3):
    """Equal JSON, but for the last digits of numbers, which differ between machines."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=tolerance) or (one != one and other != other)
    return one == other


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tables_are_those_of_the_results(name):
    text = (ROOT / "docs" / name).read_text()
    assert fill(text, FOUND) == text


def test_a_changed_result_would_be_noticed():
    text = (ROOT / "docs" / "RESULTS.md").read_text()
    other = json.loads(json.dumps(FOUND))
    other["induction"]["1337"]["formation"]["random"]["induction"]["values"] += 0.01
    assert fill(text, other) != text


@pytest.mark.parametrize("name", ["induction", "induction_control"])
@pytest.mark.parametrize("seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])])
def test_verdicts_and_intervals_follow_from_the_data(name, seed):
    assert close(of_run(name, seed), FOUND[name][seed])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_users_own_lines_give_the_induction_scores(seed):
    """`run_with_cache` and a diagonal, on the sequences that `ngl.repeated_tokens` draws."""
    model = ngl.load(place("induction", seed))
    tokens = ngl.repeated_tokens(model, seq_len=50, n=64, seed=0)
    _, cache = model.run_with_cache(tokens)
    scores = FOUND["causes"][seed]["heads"]["scores"]
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]  # [example, head, query, key]
        stripe = pattern.diagonal(offset=-49, dim1=-2, dim2=-1)[..., 1:]  # queries 50 to 99
        previous = pattern.diagonal(offset=-1, dim1=-2, dim2=-1)
        for head in range(4):
            assert abs(float(stripe[:, head].mean()) - scores[f"{layer}.{head}"]["induction_random"]["value"]) < 1e-3
            assert abs(float(previous[:, head].mean()) - scores[f"{layer}.{head}"]["previous_random"]["value"]) < 1e-3


def test_a_users_own_lines_give_the_accuracy():
    """A plain loop over the task's sequences, without the package's own counting."""
    model, task = ngl.load("induction"), ngl.tasks.read_task(ROOT / "checkpoints" / "induction")
    from nanogpt_lens.heads.on_tasks import task_sequences

    drawn = task_sequences(model, task, n=256, seed=0)
    logits = model(torch.from_numpy(drawn.tokens), return_type="logits")
    right = total = 0
    for row, tokens in enumerate(drawn.tokens):
        seen = set()
        for pos, token in enumerate(tokens[:-1]):
            if token in seen and (drawn.required | drawn.unseen)[row, pos]:
                total += 1
                right += int(logits[row, pos].argmax()) == tokens[pos + 1]
            seen.add(token)
    whole = FOUND["causes"]["1337"]["ablation"]["mean"]["nothing"]["accuracy"]
    assert abs(right / total - whole["value"]) < 2e-3
    assert right / total >= 0.95
