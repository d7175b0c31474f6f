"""The lab's engine in Python, against the package's analyses and against a run by hand."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.lab_engine import LabEngine
from nanogpt_lens.server.lab_routes import packed_answer
from nanogpt_lens.server.lab_sampling import numbers
from tests.making import write
from tests.nanogpt_lens.lab.lab_helpers import SIZES, Requests

MEAN = {"place": "0.0", "source": "mean"}


@pytest.fixture(scope="module", params=list(SIZES))
def model(request, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("engine") / request.param, seed=3, **SIZES[request.param])
    return ngl.load(path, dtype=torch.float64)


@pytest.fixture
def engine(model):
    generator = torch.Generator().manual_seed(5)
    return LabEngine(model, torch.randint(65, (3, model.cfg.n_ctx), generator=generator).tolist())


def test_runs_are_those_of_intervene(engine, model):
    requests = Requests(model, seed=1)
    for _ in range(25):
        request = requests.request()
        got = engine.answer("run", {**request, "activations": ["z", "blocks.0.attn.hook_pattern"]})
        expected = ngl.intervene(
            model,
            request["tokens"],
            request["interventions"],
            other=request["other"],
            reference=engine.reference,
            activations=["z", "blocks.0.attn.hook_pattern"],
        )
        assert got["logits"]["data"].dtype == np.float32
        np.testing.assert_allclose(got["logits"]["data"], expected.values[0].numpy(), atol=1e-4, rtol=1e-5)
        assert set(got["activations"]) == set(expected.activations)
        for name, values in expected.activations.items():
            np.testing.assert_allclose(got["activations"][name]["data"], values[0].numpy(), atol=1e-4, rtol=1e-5)


def test_a_sweep_is_the_metric_of_each_run(engine, model):
    request = Requests(model, seed=2).request()
    candidates = [[{"place": "0.0", "source": "zero"}], [{"place": "mlp0", "source": "other"}], []]
    got = engine.answer("sweep", {**request, "candidates": candidates, "metric": {"answer": 3, "wrong": 5, "pos": -1}})
    for value, candidate in zip(got["values"], candidates, strict=True):
        changed = {**request, "interventions": [*request["interventions"], *candidate]}
        row = engine.answer("run", changed)["logits"]["data"][-1]
        assert value == pytest.approx(float(row[3]) - float(row[5]), abs=1e-4)
    assert got["base"] == pytest.approx(got["values"][2])
    got = engine.answer("sweep", {**request, "interventions": [], "candidates": [], "metric": {"answer": 3, "pos": 0}})
    logits = torch.tensor(engine.answer("run", {"tokens": request["tokens"]})["logits"]["data"]).double()
    assert got["base"] == pytest.approx(float(logits[0].log_softmax(-1)[3]), abs=1e-5)
    assert got["values"].shape == (0,)


def test_the_lens_is_the_logit_lens(engine, model):
    request = Requests(model, seed=3).request()
    got = engine.answer("lens", {"tokens": request["tokens"], "answer": 7})
    _, cache = model.run_with_cache(torch.tensor([request["tokens"]]))
    n = len(request["tokens"])
    assert got["shape"] == [2 * model.cfg.n_layers, n]
    assert got["rows"] == [f"{layer} {part}" for layer in range(model.cfg.n_layers) for part in ("attn", "mlp")]
    for i, row in enumerate(got["rows"]):
        layer, part = row.split()
        stream = cache[f"blocks.{layer}.hook_resid_{'mid' if part == 'attn' else 'post'}"]
        probability = model.unembed(model.ln_final(stream))[0].softmax(-1)
        np.testing.assert_allclose(got["prob"][i * n : (i + 1) * n], probability.max(-1).values.detach(), atol=1e-6)
        assert got["top"][i * n : (i + 1) * n].tolist() == probability.argmax(-1).tolist()
        np.testing.assert_allclose(got["answer"][i * n : (i + 1) * n], probability[:, 7].detach(), atol=1e-6)


def test_contributions_are_direct_logit_attribution(engine, model):
    tokens = Requests(model, seed=4).ids(model.cfg.n_ctx)
    got = engine.answer("contributions", {"tokens": tokens, "metric": {"answer": 4, "wrong": 9, "pos": -1}})
    split = ngl.direct_logit_attribution(model, tokens, 4, 9)
    parts = dict(zip(split.labels["component"], split.values[:, 0].tolist(), strict=True))
    heads = [[parts[f"{i}.{j}"] for j in range(model.cfg.n_heads)] for i in range(model.cfg.n_layers)]
    np.testing.assert_allclose(got["heads"], heads, atol=1e-8)
    assert got["embed"] == pytest.approx(parts["embed"] + parts["pos_embed"], abs=1e-8)
    assert got["total"] == pytest.approx(float(split.total), abs=1e-8)
    every = got["embed"] + sum(map(sum, got["heads"])) + sum(got["mlps"]) + got["biases"]
    assert every == pytest.approx(got["total"])


def test_contributions_add_up_with_interventions(engine, model):
    request = Requests(model, seed=6).request()
    got = engine.answer("contributions", {**request, "metric": {"answer": 4}})
    row = engine.answer("run", request)["logits"]["data"][-1].astype(float)
    assert got["total"] == pytest.approx(row[4] - row.mean(), abs=1e-4)


def test_samples_at_temperature_zero_are_what_generate_gives(engine, model):
    tokens = [1, 2, 3]
    got = engine.answer("sample", {"tokens": tokens, "n": model.cfg.n_ctx + 4, "temperature": 0})
    expected = ngl.generate(model, tokens, max_new_tokens=model.cfg.n_ctx + 4, temperature=0.0)
    ids = expected[0] if isinstance(expected, torch.Tensor) else torch.tensor(expected)
    assert got["ids"].tolist() == ids.flatten().tolist()[-len(got["ids"]) :]


def test_samples_hold_interventions_where_they_are_of_the_prompt(engine, model):
    """Each token anew, by a run of all tokens so far with the interventions at the prompt's places."""
    tokens, other = [5, 6, 7], [9, 8, 7]
    some = [
        {"activation": "z", "layer": 0, "head": 0, "source": "other"},
        {"activation": "mlp_out", "layer": 0, "pos": -1, "source": {"scale": 2.0}},
        {"activation": "resid_post", "layer": 0, "source": {"scale": 1.3}},
        {"activation": "pattern", "layer": 0, "head": 0, "source": "mean"},
    ]
    n = model.cfg.n_ctx - 3
    asked = {"tokens": tokens, "other": other, "interventions": some, "n": n, "temperature": 0}
    got = engine.answer("sample", asked)["ids"].tolist()
    placed = [
        {**some[0], "pos": [0, 1, 2]},
        {**some[1], "pos": 2},
        some[2],
        {**some[3], "dest_pos": [0, 1, 2], "src_pos": [0, 1, 2]},
    ]
    for i in range(n):
        run = [*tokens, *got[:i]]
        padded = [*other, *[0] * i]  # what comes behind the prompt does not reach back
        result = ngl.intervene(model, run, placed, other=padded, reference=engine.reference)
        assert int(result.values[0, -1, :65].argmax()) == got[i]


def test_proof_is_of_the_cases_of_a_page(engine, model):
    proof = engine.answer("prove", {})
    assert proof["equal"]
    assert proof["n"] > 60
    assert proof["largest"] < 1e-10
    assert engine.answer("prove", {}) == proof


def test_a_broken_model_is_not_proven(engine, model, monkeypatch):
    real = LabEngine.recorded

    def broken(self, *arguments):
        kept = real(self, *arguments)
        return {**kept, "logits": kept["logits"] * 1.001}

    monkeypatch.setattr(LabEngine, "recorded", broken)
    assert not engine.answer("prove", {})["equal"]


@pytest.mark.parametrize(
    ("task", "request_", "said"),
    [
        ("eval", {}, "there is no task 'eval'"),
        ("run", [], "the request is a list"),
        ("run", {}, "tokens is None"),
        ("run", {"tokens": []}, "shape"),
        ("run", {"tokens": "/etc/passwd"}, "expected a list of ids"),
        ("run", {"tokens": [1, 1000]}, "expected ids from 0 to 64"),
        ("run", {"tokens": [1] * 99}, "expected at most"),
        ("run", {"tokens": [1], "interventions": [{"place": "9.9"}]}, "there is no"),
        ("run", {"tokens": [1], "interventions": {}}, ""),
        ("run", {"tokens": [1], "interventions": "x"}, "no list"),
        ("run", {"tokens": [1], "interventions": [{"place": "0.0", "source": "resample"}]}, "does not draw"),
        ("run", {"tokens": [1], "interventions": [{"place": "0.0", "source": "other"}]}, "no other run"),
        ("run", {"tokens": [1], "other": [1, 2], "interventions": [{"place": "0.0", "source": "other"}]}, "as many"),
        ("run", {"tokens": [1], "activations": ["hook_nothing"]}, "there is no activation"),
        ("run", {"tokens": [1], "activations": ["blocks.0.attn.W_Q"]}, "there is no activation"),
        ("run", {"tokens": [1], "reference": [[1]] * 65, "interventions": [MEAN]}, "1 to 64"),
        ("sweep", {"tokens": [1], "candidates": [], "metric": None}, "the metric is None"),
        ("sweep", {"tokens": [1], "candidates": [], "metric": {"answer": 65}}, "the answer 65 is no token"),
        ("sweep", {"tokens": [1], "candidates": [], "metric": {"answer": 1, "pos": 4}}, "there is no position 4"),
        ("sweep", {"tokens": [1], "candidates": [[]] * 513, "metric": {"answer": 1}}, "at most 512"),
        ("lens", {"tokens": [1], "answer": 99}, "no token"),
        ("sample", {"tokens": [1], "n": 10**6}, "expected 0 to 1024"),
        ("sample", {"tokens": [1], "n": 1, "temperature": -1}, "the temperature"),
        ("sample", {"tokens": [1], "n": 1, "temperature": 10**400}, "the temperature"),
        ("sample", {"tokens": [1], "n": 1, "temperature": math.nan}, "the temperature"),
        ("sample", {"tokens": [1], "n": 1, "top_k": 0}, "top_k"),
        ("sample", {"tokens": [1], "n": 1, "top_k": math.inf}, "top_k"),
        ("sample", {"tokens": [1], "n": 1, "top_k": 10**400}, "top_k"),
        ("sample", {"tokens": [1], "n": 1, "seed": 10**400}, "the seed"),
        ("sample", {"tokens": [1], "n": 1, "seed": math.nan}, "the seed"),
        ("run", {"tokens": [10**400]}, "neither text nor ids"),
        ("run", {"tokens": [math.inf]}, "expected integer"),
        ("run", {"tokens": [[1], [1]]}, "one prompt"),
        ("run", {"tokens": [1] * 10**5}, "expected at most"),
        ("contributions", {"tokens": [1], "metric": [1]}, "the metric is"),
        ("run", {"tokens": [1], "interventions": [{"place": "0.0", "source": {"scale": 10**400}}]}, "a finite number"),
        ("run", {"tokens": [1], "interventions": [{"place": "0.0", "source": {"scale": math.inf}}]}, "a finite number"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(engine, task, request_, said):
    if request_ == {"tokens": [1], "interventions": {}}:  # none, as JavaScript may say it
        engine.answer(task, request_)
        return
    with pytest.raises(AnalysisError, match=said):
        engine.answer(task, request_)


def test_directions_by_name(engine, model):
    for add, expected in (
        ({"token": 4}, model.W_U[:, 4] / model.W_U[:, 4].norm()),
        ({"neuron": [0, 3]}, model.W_out[0, 3] / model.W_out[0, 3].norm()),
    ):
        source = {"add": add, "scale": 2.0}
        one = {"activation": "resid_post", "layer": 0, "source": source}
        got = engine.answer("run", {"tokens": [1, 2], "interventions": [one]})
        numeric = {**one, "source": {"add": expected.tolist(), "scale": 2.0}}
        want = engine.answer("run", {"tokens": [1, 2], "interventions": [numeric]})
        np.testing.assert_array_equal(got["logits"]["data"], want["logits"]["data"])
    with pytest.raises(AnalysisError, match="there is no direction"):
        engine.answer("run", {"tokens": [1], "interventions": [{**one, "source": {"add": {"token": -1}}}]})
    with pytest.raises(AnalysisError, match="cannot be added to z"):
        z = {"activation": "z", "layer": 0, "source": {"add": {"token": 1}}}
        engine.answer("run", {"tokens": [1], "interventions": [z]})


def test_numbers_of_seeds_are_from_0_to_1():
    values = [numbers(seed)() for seed in range(200)]
    assert all(0 <= value < 1 for value in values)
    assert abs(sum(values) / 200 - 0.5) < 4 / math.sqrt(12 * 200)


def test_answers_are_packed_as_the_page_reads_them():
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = packed_answer({"a": {"data": grid}, "b": np.array([1, 2], dtype=np.int32), "c": {"d": 1.5, "e": None}})
    (size,) = struct.unpack("<I", packed[:4])
    said = json.loads(packed[4 : 4 + size])
    assert said["c"] == {"d": 1.5, "e": None}
    lost = packed_answer({"heads": [[1.0, math.nan]], "total": -math.inf})
    assert json.loads(lost[4:], parse_constant=None) == {"heads": [[1.0, None]], "total": None}
    assert said["a"] == {"array": "float32", "shape": [2, 3], "at": 0}
    assert said["b"] == {"array": "int32", "shape": [2], "at": 24, "flat": True}
    assert packed[4 + size :] == grid.tobytes() + np.array([1, 2], dtype="<i4").tobytes()
