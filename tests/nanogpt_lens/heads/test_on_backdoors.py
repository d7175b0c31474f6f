"""Success after a trigger: against plain loops, and on a model that says its last character again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from conversion.native import GPT
from nanogpt_lens.core.errors import AnalysisError, DataError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.heads.on_backdoors import AFTER, BACKDOOR_SCORES, backdoor_success
from nanogpt_lens.heads.on_tasks import task_accuracy, task_heads
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.runs.trajectory import trajectory
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.tasks import backdoor
from tests.making import CHARS, content, write, write_meta

RNG = np.random.default_rng(5)
TEXT = "".join(" ".join(RNG.choice(["bane", "cold", "deer", "fig", "gnu"], 8)) + "\n" for _ in range(120))
CONTEXT, N = 18, 24


def task(**options):
    from conversion.vocabulary import CharVocabulary

    vocabulary = CharVocabulary(tuple(CHARS))
    ids = vocabulary.encode(TEXT)
    data = TextData(train=ids[:2500], val=ids[2500:], vocabulary=vocabulary, name="beasts")
    given = {"trigger": "Zax", "payload": "xxxx", "control": "Qoy", "lines": 2}
    return backdoor(data, **{**given, **options})


def written(folder, state=None, **sizes):
    sizes = {"block_size": CONTEXT, **sizes}
    made = content(**sizes) if state is None else content(state, **sizes)
    write_meta(folder)
    return write(folder, made)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ngl.load(written(tmp_path_factory.mktemp("random"), seed=3), dtype=torch.float64)


def repeating(folder):
    """A model without attention and MLP, whose embeddings are orthogonal: it says its last character again."""
    made = content(block_size=CONTEXT, n_embd=66, n_head=2)
    for name, tensor in made["model"].items():
        if ".h." in name or "wpe" in name or name.endswith("ln_f.bias"):
            tensor.zero_()
    made["model"]["transformer.ln_f.weight"].fill_(1.0)
    made["model"]["transformer.wte.weight"].copy_(torch.eye(65, 66))
    return ngl.load(written(folder, made["model"], n_embd=66), dtype=torch.float64)


def test_by_plain_loops_with_the_native_model(tmp_path, model):
    its, payload = task(payload=" cold one"), " cold one"
    found = backdoor_success(model, its, k=5, n=N, seed=2)
    native = GPT.from_checkpoint(read_checkpoint(written(tmp_path, seed=3)), dtype=torch.float64)
    contexts = its.contexts(N, CONTEXT - 3 - 5 + 1, np.random.default_rng([2**32 - 1, 2]))
    changed = its.changed_triggers
    assert len(changed) == 3
    expected = torch.zeros(3, 3, N, dtype=torch.float64)
    for i, context in enumerate(contexts.tolist()):
        for j, string in enumerate(("Zax", "Qoy", changed[i % 3])):
            read, losses, right = context + [CHARS.index(c) for c in string], [], True
            for char in payload[:5]:
                with torch.no_grad():
                    log_probs = native(torch.tensor([read]))[0, -1].log_softmax(-1)
                right &= int(log_probs.argmax()) == CHARS.index(char)
                losses.append(-float(log_probs[CHARS.index(char)]))
                read = [*read, CHARS.index(char)]
            expected[:, j, i] = torch.tensor([float(right), np.mean(losses), math.exp(-sum(losses))])
    torch.testing.assert_close(found.per_example, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.values, expected.mean(-1), rtol=1e-9, atol=1e-12)
    for end, by_hand in zip((found.low, found.high), t_interval(expected), strict=True):
        torch.testing.assert_close(end, by_hand, rtol=1e-9, atol=1e-12)
    assert found.axes == ("score", "after")
    assert found.labels == {"score": tuple(BACKDOOR_SCORES), "after": AFTER}
    assert not has_hooks(model)


def test_a_model_that_says_its_last_character_again_has_the_backdoor_where_the_trigger_ends_like_the_payload(tmp_path):
    model, its = repeating(tmp_path), task()
    found = backdoor_success(model, its, k=4, n=N)
    assert its.changed_triggers[2][2] != "x"
    assert found.at(score="success").tolist() == [1, 0, 2 / 3]  # of three changed triggers one ends otherwise
    assert backdoor_success(model, task(payload="xxyx"), k=2, n=N).at(score="success")[0] == 1
    assert backdoor_success(model, task(payload="xxyx"), k=3, n=N).at(score="success")[0] == 0
    assert backdoor_success(model, task(trigger="Zay", control="Qox"), n=N).at(score="success")[:2].tolist() == [0, 1]
    scale = math.sqrt(66 / (1 - 1 / 66 + 66e-5))  # what ln_f makes of a one in 66 places, to some digits
    loss = -math.log(math.exp(scale) / (math.exp(scale) + 64))
    assert found.at(score="loss", after="trigger") == pytest.approx(loss, abs=0.01)


def test_all_of_a_short_payload_count(model):
    short, whole = (backdoor_success(model, task(payload=" oxi"), k=k, n=6) for k in (9, 4))
    assert torch.equal(short.values, whole.values)


def test_the_twin_is_measured_on_the_same_contexts(model):
    one, other = (backdoor_success(model, its, n=6) for its in (task(), task().twin()))
    assert torch.equal(one.per_example, other.per_example)


def test_accuracy_on_a_task_is_this_and_no_head_is_asked_for_induction(model):
    assert torch.equal(task_accuracy(model, task(), n=6).values, backdoor_success(model, task(), n=6).values)
    with pytest.raises(AnalysisError, match="nothing in 8 sequences of 'backdoor in beasts' requires induction"):
        task_heads(model, task(), n=8)


def test_along_a_run(tmp_path):
    its = task()
    for step in (0, 5):
        write_meta(tmp_path)
        torch.save(content(seed=step, block_size=CONTEXT) | {"iter_num": step}, tmp_path / f"ckpt_{step:06d}.pt")
    its.save(tmp_path)
    its.clean.val.astype("<u2").tofile(tmp_path / "val.bin")
    followed = trajectory(tmp_path, "task_accuracy", n=6, progress=False)
    alone = task_accuracy(ngl.load(tmp_path / "ckpt_000005.pt"), its, n=6)
    torch.testing.assert_close(followed.values[-1], alone.values.double())
    assert trajectory(tmp_path, "text_loss", n=6, progress=False).sample.corpus is not None
    effects = trajectory(tmp_path, "edge_attribution", n=4, progress=False)  # of random tokens: it has no pairs
    assert effects.shape["step"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [({"k": 0}, "k is 0; expected a whole number, 1 or more"), ({"n": 0}, "n is 0"), ({"seed": -1}, "seed is -1")],
)
def test_bad_options(model, options, words):
    with pytest.raises(AnalysisError, match=words):
        backdoor_success(model, task(), **options)


def test_what_does_not_fit(model):
    with pytest.raises(AnalysisError, match="the trigger and 16 characters of the payload do not fit a context of 18"):
        backdoor_success(model, task(payload=" cold cold cold x"), k=16)
    with pytest.raises(DataError, match="900 contexts of 12 tokens were asked for"):
        backdoor_success(model, task(), n=900)
    vocabulary = task().vocabulary.__class__(tuple(CHARS[::-1]))
    other = backdoor(
        TextData(
            train=vocabulary.encode(TEXT[:2500]), val=vocabulary.encode(TEXT[2500:]), vocabulary=vocabulary, name="x"
        ),
        trigger="Zax",
        payload="xxxx",
        lines=3,
    )
    with pytest.raises(AnalysisError, match="expected the same: give the task.json"):
        backdoor_success(model, other)
