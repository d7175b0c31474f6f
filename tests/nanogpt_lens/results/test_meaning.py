"""What a result says in fields: they are saved with it, part of its JSON, and an old file does without them."""

from __future__ import annotations

import json
import math

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import PatchingResult, Result, SAEEvaluation, Sample, Scores


def made() -> Scores:
    values = torch.tensor([[0.5, -2.0], [1.5, math.nan]], dtype=torch.float64)
    return Scores(
        values=values,
        axes=("score", "head"),
        labels={"score": ("a", "b")},
        quantity="something, in nats",
        definition="by hand",
        title="something",
        unit="nats",
        units={"b": "tokens"},
        signed=True,
        scores={"a": "the first", "b": "the second"},
        sample=Sample(corpus="input.txt", n=4, seq_len=8, seed=3),
        provenance={"checkpoint": "out/ckpt.pt", "arguments": {"n": 4}},
        low=values - 1,
        per_example=values[..., None].expand(2, 2, 3),
    )


def test_fields_are_saved_and_loaded(tmp_path):
    one = made()
    two = ngl.load_result(one.save(tmp_path))
    assert two.meaning() == one.meaning()
    assert two.sample == Sample(corpus="input.txt", n=4, seq_len=8, seed=3)


def test_a_file_without_the_fields_loads(tmp_path):
    made().save(tmp_path)
    file = tmp_path / "result.json"
    plain = json.loads(file.read_text())
    for name in ("title", "unit", "units", "signed", "scores", "sample"):
        del plain[name]
    file.write_text(json.dumps(plain))
    old = ngl.load_result(tmp_path)
    assert torch.equal(old.values.nan_to_num(9), made().values.nan_to_num(9))
    assert (old.heading, old.unit, old.signed, old.sample) == ("something, in nats", "", False, None)
    with pytest.raises(ResultError, match="does not say how long its sequences were"):
        old.seq_len  # noqa: B018 - it is asked for


def test_a_sample_with_an_unknown_field_is_no_complete_result(tmp_path):
    made().save(tmp_path)
    file = tmp_path / "result.json"
    plain = json.loads(file.read_text())
    plain["sample"]["weather"] = "fine"
    file.write_text(json.dumps(plain))
    with pytest.raises(ResultError, match="weather"):
        ngl.load_result(tmp_path)


def test_units_headings_and_explanations():
    one = made()
    assert (one.unit_of("a"), one.unit_of("b")) == ("nats", "tokens")
    assert one.explanation() == "a: the first; b: the second; by hand"
    assert one.explanation("b") == "b: the second; by hand"
    assert one.explanation("c") == "by hand"
    assert one.seq_len == 8
    assert (one.checkpoint, one.checkpoint_sha256, one.made_here) == ("out/ckpt.pt", None, False)


def test_to_json_is_json_with_all_fields_and_a_row_per_value():
    plain = json.loads(json.dumps(made().to_json(), allow_nan=False))
    assert plain.pop("rows") == [
        {"score": 0, "score_label": "a", "head": 0, "value": 0.5, "low": -0.5},
        {"score": 0, "score_label": "a", "head": 1, "value": -2.0, "low": -3.0},
        {"score": 1, "score_label": "b", "head": 0, "value": 1.5, "low": 0.5},
        {"score": 1, "score_label": "b", "head": 1, "value": None, "low": None},
    ]
    nothing = {"chance": None, "high": None, "chance_per_example": None, "interval": "", "tested": "", "untested": []}
    sample = {"corpus": "input.txt", "own_text": False, "n": 4, "seq_len": 8, "n_tokens": None, "seed": 3}
    sample |= {"seen_share": None, "seen_by": ""}
    assert plain == {
        "kind": "Scores",
        "axes": ["score", "head"],
        "labels": {"score": ["a", "b"]},
        "quantity": "something, in nats",
        "definition": "by hand",
        "title": "something",
        "unit": "nats",
        "units": {"b": "tokens"},
        "signed": True,
        "scores": {"a": "the first", "b": "the second"},
        "sample": sample,
        "provenance": {"checkpoint": "out/ckpt.pt", "arguments": {"n": 4}},
        **nothing,
    }


def test_to_json_has_the_extra_fields_of_a_class():
    patched = PatchingResult(
        values=torch.tensor([1.0, 2.0]),
        axes=("layer",),
        quantity="q",
        definition="d",
        clean=3.0,
        corrupted=math.nan,
        direction="denoise",
        patched="z",
    ).to_json()
    assert [patched[name] for name in ("kind", "clean", "corrupted", "direction", "patched")] == [
        "PatchingResult",
        3.0,
        None,
        "denoise",
        "z",
    ]


def test_units_that_a_class_fixes():
    measured = SAEEvaluation(
        values=torch.ones(2),
        axes=("score",),
        labels={"score": ("l0", "dead")},
        quantity="q",
        definition="d",
        frequency=torch.ones(2),
        n_tokens=2,
    )
    assert [measured.unit_of(name) for name in ("l0", "loss_sae", "dead")] == [
        "active features per token",
        "nats per token",
        "fraction",
    ]


def test_a_step_of_a_trajectory_keeps_the_meaning():
    curve = ngl.results.Trajectory(
        values=torch.ones(2, 3),
        axes=("step", "head"),
        labels={"step": ("0", "10")},
        **{**made().meaning(), "units": {}, "scores": {}},
    )
    assert curve.at_step(10).meaning() == curve.meaning()
    assert isinstance(curve.at_step(10), Result)
