"""Metrics by hand, and what each reads."""

from __future__ import annotations

import json
import math

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.running.metrics import bind, metric_from_json
from tests.nanogpt_lens.patching.patching_helpers import model, texts

LOGITS = torch.randn(2, 5, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_logit_diff_by_hand():
    assert ngl.metrics.logit_diff(3, 4)(LOGITS) == pytest.approx(float((LOGITS[:, -1, 3] - LOGITS[:, -1, 4]).mean()))
    own = ngl.metrics.logit_diff([3, 1], torch.tensor([4, 2]), pos=[0, 2]).per_example(LOGITS)
    by_hand = [
        (LOGITS[0, 0, 3] - LOGITS[0, 0, 4] + LOGITS[0, 2, 3] - LOGITS[0, 2, 4]) / 2,
        (LOGITS[1, 0, 1] - LOGITS[1, 0, 2] + LOGITS[1, 2, 1] - LOGITS[1, 2, 2]) / 2,
    ]
    assert own.tolist() == pytest.approx([float(x) for x in by_hand])


def test_answer_logprob_by_hand():
    total = sum(math.exp(x) for x in LOGITS[1, 1].tolist())
    found = ngl.metrics.answer_logprob([0, 7], pos=1).per_example(LOGITS)
    assert float(found[1]) == pytest.approx(LOGITS[1, 1, 7].item() - math.log(total))


def test_kl_by_hand_and_zero_at_home():
    clean = LOGITS.roll(1, 0)
    assert float(ngl.metrics.kl_to(LOGITS)(LOGITS)) == pytest.approx(0, abs=1e-12)
    p, q = clean[0, -1].softmax(-1), LOGITS[0, -1].softmax(-1)
    assert float(ngl.metrics.kl_to(clean).per_example(LOGITS)[0]) == pytest.approx(float((p * (p / q).log()).sum()))


def test_loss_is_torchs_cross_entropy():
    tokens = torch.randint(13, (2, 5), generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(LOGITS[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert float(ngl.metrics.loss(tokens)(LOGITS)) == pytest.approx(float(expected))
    one = torch.nn.functional.cross_entropy(LOGITS[:, 2], tokens[:, 3])
    assert float(ngl.metrics.loss(tokens, pos=2)(LOGITS)) == pytest.approx(float(one))


def test_loss_of_a_model_is_its_own():
    hooked, (clean, _) = model(), texts()
    with torch.no_grad():
        assert float(ngl.metrics.loss(clean)(hooked(clean))) == pytest.approx(float(hooked(clean, return_type="loss")))


def test_each_knows_what_it_reads():
    hooked, (clean, _) = model(), texts()
    assert bind(ngl.metrics.logit_diff(1, 2), hooked, clean).reads == (8,)
    assert bind(ngl.metrics.logit_diff(1, 2, pos=[-1, 3, 3]), hooked, clean).reads == (3, 8)
    assert bind(ngl.metrics.loss(), hooked, clean).reads == tuple(range(8))
    assert bind(ngl.metrics.answer_logprob(1, pos=None), hooked, clean).reads == tuple(range(9))
    assert bind(lambda logits: logits.mean(), hooked, clean).reads == tuple(range(9))
    assert not bind(lambda logits: logits.mean(), hooked, clean).per_example


def test_only_those_positions_matter():
    hooked, (clean, _) = model(), texts()
    for metric in (
        ngl.metrics.logit_diff(1, 2, pos=[1, 4]),
        ngl.metrics.loss(clean, pos=3),
        ngl.metrics.kl_to(hooked(clean), pos=2),
    ):
        bound = bind(metric, hooked, clean)
        logits = torch.randn(3, 9, 13, dtype=torch.float64)
        other = torch.randn_like(logits)
        other[:, list(bound.reads)] = logits[:, list(bound.reads)]
        assert torch.equal(metric(logits), metric(other))


def test_strings_become_ids():
    hooked = ngl.load("shakespeare_char")
    tokens = hooked.to_tokens("ROMEO:")
    named = bind(ngl.metrics.logit_diff("a", ["\n"]), hooked, tokens)
    ids = bind(ngl.metrics.logit_diff(hooked.to_single_token("a"), hooked.to_single_token("\n")), hooked, tokens)
    logits = hooked(tokens).detach()[None, :, [-1]]
    assert torch.equal(named(logits), ids(logits))
    with pytest.raises(ngl.AnalysisError, match="needs a model's tokenizer"):
        ngl.metrics.logit_diff("a", "b")(hooked(tokens))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (ngl.metrics.loss(pos=-1), "the last, which has no next token"),
        (ngl.metrics.loss(torch.zeros(2, 4, dtype=torch.long)), r"tokens of shape \[2, 4\]; expected \[3, 9\]"),
        (ngl.metrics.kl_to(torch.zeros(3, 8, 13)), r"expected \[3, 9, 13\]"),
        (ngl.metrics.logit_diff(1, 2, pos=[]), "reads no position"),
        (ngl.metrics.logit_diff(1, 2, pos=[1, 12]), "position 12"),
        (ngl.metrics.logit_diff(1, 2, pos=True), "reads position True; expected -9 to 8"),
        (ngl.metrics.kl_to(torch.full((3, 9, 13), math.nan)), "no logits, or logits with nan; expected those of the"),
    ],
)
def test_what_does_not_fit_is_named(metric, words):
    with pytest.raises(ngl.AnalysisError, match=words):
        bind(metric, model(), texts()[0])


@pytest.mark.parametrize(
    "metric",
    [
        ngl.metrics.logit_diff(torch.tensor([3, 1]), [4, 2], pos=(0, 2)),
        ngl.metrics.logit_diff("a", 4, pos=None),
        ngl.metrics.answer_logprob(torch.tensor(7), pos=1),
    ],
)
def test_a_metric_as_plain_data_and_back(metric):
    plain = json.loads(json.dumps(metric.to_json()))
    again = metric_from_json(plain)
    assert type(again) is type(metric)
    assert again.to_json() == plain
    if plain["answer"] != "a":
        assert again.per_example(LOGITS).tolist() == metric.per_example(LOGITS).tolist()


def test_metrics_that_are_more_than_tokens_are_no_plain_data():
    assert ngl.metrics.loss().to_json() is None
    assert ngl.metrics.kl_to(LOGITS).to_json() is None


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        {"name": "loss"},
        {"name": ["logit_diff"], "answer": 1},
        {"name": "logit_diff", "answer": [1]},
        {"name": "answer_logprob", "answer": [1], "wrong": [2]},
        {"name": "answer_logprob", "answer": [1.5]},
        {"name": "answer_logprob", "answer": [True]},
        {"name": "answer_logprob", "answer": [2**40]},
        {"name": "answer_logprob", "answer": [1], "pos": "last"},
        {"name": "answer_logprob", "answer": [1], "pos": [[1]]},
    ],
)
def test_plain_data_that_is_no_metric(plain):
    with pytest.raises(ngl.AnalysisError, match="is no metric; expected one such as"):
        metric_from_json(plain)


def test_logits_that_do_not_fit_are_named():
    with pytest.raises(ngl.AnalysisError, match=r"logits have shape \[5, 13\]; expected \[example, pos, d_vocab\]"):
        ngl.metrics.logit_diff(1, 2)(LOGITS[0])
    with pytest.raises(ngl.AnalysisError, match=r"loss has no tokens; give loss\(tokens\)"):
        ngl.metrics.loss()(LOGITS)
    with pytest.raises(ngl.AnalysisError, match="the text has 1 token; loss needs at least 2"):
        ngl.metrics.loss(torch.zeros(2, 1, dtype=torch.long))(LOGITS[:, :1])
