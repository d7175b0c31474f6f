"""The shipped positive control: what its README says holds, and its command makes its files again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nanogpt_lens as ngl
from tests.handmade import CONTEXT, INDUCTION, PREVIOUS, VOCAB, handmade_checkpoint

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "checkpoints" / "handmade_induction"
CONFIG = json.loads((FOLDER / "config.json").read_text())
LENGTH = CONTEXT // 2


@pytest.fixture(scope="module")
def model():
    return ngl.load("handmade_induction")


def attention_by_hand(model, tokens):
    """Every head's attention, from the weights alone: [layer, head, example, query, key], with LayerNorm's scale."""
    state = {name: tensor.double() for name, tensor in ngl.read_checkpoint(FOLDER).state_dict.items()}
    n, length = tokens.shape
    x = state["transformer.wte.weight"][tokens] + state["transformer.wpe.weight"][:length]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    found = []
    for layer in range(2):
        name = f"transformer.h.{layer}.attn"
        normed = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5)
        qkv = normed @ state[f"{name}.c_attn.weight"].T + state[f"{name}.c_attn.bias"]
        q, k, v = (part.view(n, length, 2, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
        found.append(pattern.transpose(0, 1))
        x = x + (pattern @ v).transpose(1, 2).reshape(n, length, -1) @ state[f"{name}.c_proj.weight"].T
    return torch.stack(found)


def test_prefix_matching_says_yes_to_one_head_alone(model):
    scores = ngl.prefix_matching(model, n=64, seed=3)
    others = [(layer, head) for layer in range(2) for head in range(2) if (layer, head) not in (INDUCTION, PREVIOUS)]
    assert scores.values[INDUCTION] > 0.95
    assert scores.values[PREVIOUS] < 0.01
    for head in others:
        assert scores.values[head] == pytest.approx(float(scores.chance[head]), abs=0.01)
    assert ngl.head_taxonomy(model, n=32).heads("induction") == [INDUCTION]


def test_prefix_matching_is_what_the_weights_give(model):
    """The stripe read from patterns that nothing of ours computed."""
    tokens = ngl.repeated_tokens(model, seq_len=LENGTH, n=8, seed=5)
    patterns = attention_by_hand(model, tokens)
    stripe = patterns.diagonal(offset=1 - LENGTH, dim1=-2, dim2=-1)[..., 1:]  # queries of the second copy
    assert stripe.shape[-1] == LENGTH
    expected = stripe.mean((-1, -2))
    assert ngl.prefix_matching(model, n=8, seq_len=LENGTH, seed=5).values.double() == pytest.approx(expected, abs=1e-5)


def test_it_predicts_what_was_repeated_and_nothing_else(model):
    losses = ngl.repeated_sequence_loss(model, n=64)
    second = losses.values[:, LENGTH:]  # the first token of the second copy cannot be known
    repeated, shuffled, unrepeated = second.mean(1).tolist()
    uniform = float(losses.chance[0, 0])
    assert repeated < 0.01
    assert min(shuffled, unrepeated) > uniform
    assert losses.values[0, : LENGTH - 1].min() > uniform  # the README says so


def test_without_the_head_nothing_is_left(model):
    without = ngl.ablate_induction_heads(model, [INDUCTION], controls=3, n=16, progress=False)
    gain = dict(zip(without.labels["ablated"], without.at(score="gain").tolist(), strict=True))
    assert gain["nothing"] > 5
    assert abs(gain["1.0"]) < 0.01
    assert gain["control 1.1"] == pytest.approx(gain["nothing"], abs=1e-3)


def test_the_keys_come_from_the_previous_token_head(model):
    tokens = ngl.repeated_tokens(model, seq_len=LENGTH, n=8, seed=2)
    other = tokens.clone()
    other[:, 1:LENGTH] = (other[:, 1:LENGTH] + 7) % VOCAB
    metric = ngl.metrics.answer_logprob(tokens[:, LENGTH], pos=-1)
    found = ngl.path_patching(
        model,
        tokens,
        other,
        metric,
        senders=["0.0", "0.1", "mlp0"],
        receivers=["1.0.k", "1.0.q"],
        direction="noise",
        progress=False,
    )
    effect = dict(zip(found.labels["sender"], found.effect.tolist(), strict=True))
    assert effect["0.1"][list(found.labels["receiver"]).index("1.0.k")] < -3
    assert max(abs(v) for name in ("0.0", "mlp0") for v in effect[name]) < 0.01


def test_the_certificate_passes():
    report = ngl.check("handmade_induction")
    assert report.passed, str(report)


def test_it_is_the_model_of_the_tests(model):
    """In float32, and nothing else differs."""
    made, shipped = handmade_checkpoint(), ngl.read_checkpoint(FOLDER)
    assert shipped.config == made.config
    assert shipped.state_dict.keys() == made.state_dict.keys()
    for name, tensor in made.state_dict.items():
        assert torch.equal(shipped.state_dict[name], tensor.float()), name
    assert model.to_str_tokens("abcab") == list("abcab")
    assert "handmade_induction" in ngl.shipped_checkpoints()


def test_the_command_makes_the_same_files(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "make_handmade.py"), str(tmp_path / "made")]
    subprocess.run(command, check=True, capture_output=True)
    names = sorted(file.name for file in FOLDER.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "made").iterdir())
    for name in names:
        assert (tmp_path / "made" / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_files_are_the_ones_described():
    for name, digest in CONFIG["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    readme = (FOLDER / "README.md").read_text()
    for word in (*CONFIG["sha256"].values(), CONFIG["command"], f"{CONFIG['parameters']:,}"):
        assert word in readme
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_500_000
