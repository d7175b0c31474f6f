"""Runs over HTTP are `ngl.intervene`, to the last digit, also when many clients intervene at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from starlette.testclient import TestClient

import nanogpt_lens as ngl
from nanogpt_lens.model.access import record
from nanogpt_lens.server.served import ServedModel
from nanogpt_lens.server.sizes import numbers_of
from tests.nanogpt_lens.server.conftest import TOKEN

TEXT = "ROMEO: hear me speak"


@pytest.fixture(scope="module")
def model(folder):
    return ngl.load(folder)


def run(client, name, body):
    answer = client.post(f"/v1/models/{name}/run", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_all_numbers_are_those_of_the_direct_call(client, name, model):
    interventions = [
        {"place": "1.0", "source": "zero"},
        {"activation": "resid_post", "layer": 0, "pos": -1, "source": {"add": [0.5] * 16, "scale": 2.0}},
        {"activation": "z", "layer": 0, "head": 1, "source": "other"},
        {"place": "L1N3", "source": "mean"},
    ]
    body = {
        "text": [TEXT, "JULIET: hear me spea"],
        "interventions": interventions,
        "other": "KING:: hear me speak",
        "reference": ["abcdefghijklmnopqrst", "tsrqponmlkjihgfedcba"],
        "metric": {"name": "logit_diff", "answer": ["a", "b"], "wrong": "c", "pos": [-1, -2]},
        "return": {"top": 4, "positions": [0, -1], "logits": True, "activations": ["z", "blocks.1.hook_resid_post"]},
        "seed": 3,
    }
    said = run(client, name, body)
    direct = ngl.intervene(
        model,
        body["text"],
        interventions,
        other=body["other"],
        reference=body["reference"],
        metric=ngl.metrics.logit_diff(["a", "b"], "c", pos=[-1, -2]),
        activations=["z", "blocks.1.hook_resid_post"],
        seed=3,
    )
    at = direct.values[:, [0, 19]]
    assert said["positions"] == [0, 19]
    assert said["logits"] == at.tolist()
    assert said["base_logits"] == direct.base[:, [0, 19]].tolist()
    assert said["kl"] == direct.kl[:, [0, 19]].tolist()
    assert said["metric"]["values"] == direct.metric.tolist()
    assert said["metric"]["base"] == direct.base_metric.tolist()
    assert said["metric"]["change"] == direct.change.tolist()
    assert said["activations"] == {name: value.tolist() for name, value in direct.activations.items()}
    assert said["base_activations"] == {name: value.tolist() for name, value in direct.base_activations.items()}
    first = said["next_tokens"][1][0]
    assert [token["id"] for token in first] == at[1, 0].topk(4).indices.tolist()
    assert first[0]["token"] == model.tokenizer.decode([first[0]["id"]])
    assert first[2]["base_logit"] == float(direct.base[1, 0, first[2]["id"]])
    assert first[0]["probability"] == pytest.approx(float(at[1, 0].double().softmax(-1).max()), abs=1e-12)
    here: dict = {}
    exec(said["python"], here)
    assert torch.equal(here["result"].values, direct.values)
    assert here["result"].metric.tolist() == said["metric"]["values"]


def test_a_plain_run(client, name, model):
    said = run(client, name, {"text": [1, 2, 3], "return": {"positions": "all", "logits": True, "top": 0}})
    assert said["logits"] == model(torch.tensor([[1, 2, 3]])).tolist()
    assert said["logits"] == said["base_logits"]
    assert (said["tokens"], said["kl"], said["metric"]) == ([[1, 2, 3]], [[0.0, 0.0, 0.0]], None)


def test_a_text_that_names_a_file_is_a_text(client, name, model, tmp_path, monkeypatch):
    (tmp_path / "ROMEO").write_text("something else")
    monkeypatch.chdir(tmp_path)
    assert run(client, name, {"text": "ROMEO"})["tokens"] == [model.tokenizer.encoder.encode("ROMEO").tolist()]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "text is missing"),
        ({"text": ""}, 422, "text"),
        ({"text": "a" * 33}, 422, "has 33 tokens; expected at most 32"),
        ({"text": [[1]] * 4096, "return": {"logits": True}}, 413, "numbers were asked for"),
        ({"text": [[1] * 32] * 4096, "return": {"activations": ["pattern"]}}, 413, "numbers were asked for"),
        ({"text": [[1] * 32] * 4096, "reference": [[1] * 32] * 4096, "other": [[1] * 32] * 4096}, 413, "tokens were"),
        ({"text": [1, 2], "return": {"activations": ["blocks.0.attn.hook_result"]}}, 422, "activation"),
        ({"text": "abc", "return": {"positions": [3]}}, 422, "the position 3 is not there; expected -3 to 2"),
        ({"text": "abc", "interventions": [{"place": "9.0"}]}, 422, "layer"),
        ({"text": "abc", "interventions": [{"place": "x"}]}, 422, "'x' is no place"),
        ({"text": "abc", "interventions": [{"plce": "1.0"}]}, 422, "no field 'plce'"),
        ({"text": "abc", "interventions": [{"place": "1.0", "source": "other"}]}, 422, "other"),
        ({"text": "abc", "interventions": "[]"}, 422, "interventions"),
        ({"text": "abc", "metric": {"name": "logit_diff", "answer": "a"}}, 422, "wrong is missing"),
        ({"text": "abc", "metric": {"name": "loss", "answer": "a"}}, 422, "takes no token"),
        ({"text": "abc", "metric": {"name": "answer_logprob", "answer": "ab"}}, 422, "ab"),
        ({"text": "abc", "return": {"activations": ["zz"]}}, 422, "no activation 'zz'"),
        ({"text": "abc", "return": {"top": 1000}}, 422, "return.top"),
        ({"text": "abc", "seed": -1}, 422, "seed"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(client, name, body, status, words):
    answer = client.post(f"/v1/models/{name}/run", json=body)
    assert answer.status_code == status, answer.text[:300]
    assert words in answer.json()["error"]["message"]


def test_what_is_too_large_is_refused_before_it_is_computed(client, name, monkeypatch):
    """From 3 MB of ids of one token a run took 6 GB."""
    monkeypatch.setattr("nanogpt_lens.server.running.intervene", lambda *_, **__: pytest.fail("it was computed"))
    rows = [[1] * 32] * 500
    means = [{"activation": a, "source": "mean"} for a in ("z", "pattern", "q", "k", "mlp_post")]
    for some in (
        {"return": {"activations": ["pattern", "z"]}},
        {"return": {"positions": "all", "logits": True}},
        {"interventions": means},
    ):
        monkeypatch.setattr("nanogpt_lens.server.running.MOST_HELD", 10**6)
        answer = client.post(f"/v1/models/{name}/run", json={"text": rows, **some})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_sizes_are_those_of_the_activations(model):
    names = [f"blocks.1.{hook}" for hook in ("attn.hook_pattern", "attn.hook_z", "mlp.hook_post", "hook_resid_pre")]
    tokens = torch.ones((3, 7), dtype=torch.long)
    real = sum(value.numel() for name, value in record(model, tokens, names).items() if name in names)
    assert numbers_of(model, names, n_examples=3, n_pos=7) == real
    assert numbers_of(model, [], n_examples=3, n_pos=7) == 0


SOURCES = [
    {"place": f"{layer}.{head}", "source": {"scale": scale}}
    for layer in (0, 1)
    for head in (0, 1)
    for scale in (0.0, 3.0)
]


def answers_of_many(app, name, rounds):
    """The KL of every intervention, asked by as many clients at once, several times."""

    def ask(intervention):
        client = TestClient(app, base_url="http://localhost", headers={"Authorization": f"Bearer {TOKEN}"})
        body = {"text": TEXT, "interventions": [intervention], "return": {"positions": "all", "logits": True, "top": 0}}
        return [run(client, name, body)["logits"] for _ in range(rounds)]

    with ThreadPoolExecutor(len(SOURCES)) as pool:
        return list(pool.map(ask, SOURCES))


def direct_answers(model):
    return [ngl.intervene(model, TEXT, [one]).values.tolist() for one in SOURCES]


def test_interventions_of_many_clients_never_mix(app, name, model):
    expected = direct_answers(model)
    assert len({json.dumps(one) for one in expected}) == len(SOURCES)
    for asked, direct in zip(answers_of_many(app, name, rounds=6), expected, strict=True):
        assert all(answer == direct for answer in asked)


def test_without_the_lock_they_would_mix(app, name, model, monkeypatch):
    """What the test above would see: the same requests with a model that two threads have at once."""

    @contextmanager
    def unlocked(self):
        yield model

    monkeypatch.setattr(ServedModel, "open", unlocked)
    expected = direct_answers(model)
    for _ in range(20):
        asked = answers_of_many(app, name, rounds=6)
        if any(answer != direct for all_of_one, direct in zip(asked, expected, strict=True) for answer in all_of_one):
            return
    pytest.fail("nothing mixed: the test above would not see it")
