"""Results: frozen, named, the same after saving and loading, and safe to load."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.results import AttentionPatterns, HeadTaxonomy, PatchingResult, Result, Scores
from nanogpt_lens.results.files import as_json


def scores(**changes):
    values = torch.tensor([[0.5, -2.0], [1.5, math.nan]], dtype=torch.float64)
    given = {
        "values": values,
        "axes": ("score", "head"),
        "labels": {"score": ("a", "b")},
        "quantity": "something",
        "definition": "as hand-made",
        "provenance": {"seed": 3, "arguments": {"x": [1, None]}},
        "chance": torch.full_like(values, 0.25),
    }
    return Scores(**(given | changes))


def test_it_is_frozen_and_detached():
    result = scores(values=torch.ones(2, 2, requires_grad=True))
    assert not result.values.requires_grad
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.quantity = "else"


def test_axes_and_labels_must_fit():
    for changes in (
        {"axes": ("score",)},
        {"axes": ("head", "head")},
        {"labels": {"score": ("a",)}},
        {"labels": {"x": ()}},
    ):
        with pytest.raises(ngl.errors.ResultError):
            scores(**changes)


def test_values_by_name():
    result = scores()
    assert result.shape == {"score": 2, "head": 2}
    assert result.at(score="a").tolist() == [0.5, -2.0]
    assert result.at(score=1, head=0) == 1.5
    assert result.score("b")[0] == 1.5
    for where, words in (
        ({"layer": 0}, "no axis 'layer'"),
        ({"score": "c"}, "'c'.*is not there"),
        ({"head": 2}, "no head 2"),
    ):
        with pytest.raises(ngl.errors.ResultError, match=words):
            result.at(**where)


def test_a_data_frame_has_a_row_for_every_value():
    frame = scores().to_dataframe()
    assert list(frame) == ["score", "score_label", "head", "value", "chance"]
    assert frame["value"].tolist()[:3] == [0.5, -2.0, 1.5]
    assert frame["score_label"].tolist() == ["a", "a", "b", "b"]
    assert set(frame["chance"]) == {0.25}


def test_top_by_size_by_value_and_lowest():
    result = scores()
    assert result.top(2)["value"].tolist() == [-2.0, 1.5]
    assert result.top(2, order="high")["value"].tolist() == [1.5, 0.5]
    assert result.top(1, order="low")["value"].tolist() == [-2.0]
    assert len(result.top(10)) == 3  # nan has no rank
    with pytest.raises(ngl.errors.ResultError, match="expected one of value, chance"):
        result.top(1, by="effect")
    for wrong in ({"k": -1}, {"order": "down"}):
        with pytest.raises(ngl.errors.ResultError, match="expected k >= 0"):
            result.top(**({"k": 1} | wrong))


def test_numbered_layers_go_by_their_own_numbers():
    result = scores(axes=("layer", "head"), labels={"layer": ("2", "5")})
    assert result.at(layer=5, head=0) == 1.5
    assert result.at(layer="2", head=0) == 0.5
    for wrong in (0, 1, "x"):
        with pytest.raises(ngl.errors.ResultError, match="is not there; give an index or one of 2, 5"):
            result.at(layer=wrong)
    with pytest.raises(ngl.errors.ResultError, match="no head slice"):
        result.at(head=slice(0, 1))


def test_it_prints_its_numbers():
    assert "-2.0" in repr(scores())
    text = repr(patching())
    assert "clean 5.0000, corrupted 1.0000" in text
    assert "0.5" in text
    assert len(repr(scores(definition="long " * 1000))) < 1000


def patching():
    return PatchingResult(
        values=torch.tensor([[1.0, 3.0]]),
        axes=("layer", "pos"),
        quantity="q",
        definition="d",
        clean=5.0,
        corrupted=1.0,
        direction="denoise",
        low=torch.tensor([[0.5, 2.0]]),
        per_example=torch.tensor([[[1.0], [3.0]]]),
        labels={"pos": ("<b>", "\n")},
    )


def test_patching_derives_effect_and_recovery():
    result = patching()
    assert result.effect.tolist() == [[0.0, 2.0]]
    assert result.recovery.tolist() == [[0.0, 0.5]]
    assert result.top(1, by="recovery")["pos_label"].tolist() == ["\n"]
    assert dataclasses.replace(result, values=torch.tensor([[9.0, 1.5]])).top(1)["effect"].tolist() == [8.0]
    assert dataclasses.replace(result, corrupted=-9.0, values=torch.tensor([[-9.1, 1.0]])).top(1)["pos"].tolist() == [1]
    noise = dataclasses.replace(result, direction="noise")
    assert noise.effect.tolist() == [[-4.0, -2.0]]
    assert dataclasses.replace(result, corrupted=5.0).recovery.isnan().all()


@pytest.mark.parametrize("make", [scores, patching])
def test_saving_and_loading_give_the_same(make, tmp_path):
    result = make()
    result.save(tmp_path / "r")
    for loaded in (ngl.load_result(tmp_path / "r"), type(result).load(tmp_path / "r")):
        assert type(loaded) is type(result)
        assert loaded.tensors().keys() == result.tensors().keys()
        for name, tensor in result.tensors().items():
            assert torch.equal(loaded.tensors()[name].nan_to_num(7), tensor.nan_to_num(7))
            assert loaded.tensors()[name].dtype == tensor.dtype
        for field in dataclasses.fields(result):
            if field.name not in result.tensors():
                assert getattr(loaded, field.name) == getattr(result, field.name), field.name
    assert sorted(p.suffix for p in (tmp_path / "r").iterdir()) == [".json", ".safetensors"]


def test_every_kind_survives(tmp_path):
    plain = Result(values=torch.eye(2), axes=("a", "b"), quantity="q", definition="d")
    plain.save(tmp_path / "plain")
    assert torch.equal(ngl.load_result(tmp_path / "plain").values, torch.eye(2))
    patterns = AttentionPatterns(
        values=torch.ones(1, 1, 2, 2),
        axes=("layer", "head", "dest_pos", "src_pos"),
        quantity="q",
        definition="d",
        tokens=torch.tensor([1, 2]),
        layers=(3,),
    )
    assert patterns.at(layer=0).shape == (1, 2, 2)
    patterns.save(tmp_path / "p")
    assert AttentionPatterns.load(tmp_path / "p").layers == (3,)
    taxonomy = HeadTaxonomy(
        values=torch.tensor([[[0.9, 0.1]], [[0.8, 0.2]]]),
        axes=("score", "layer", "head"),
        quantity="q",
        definition="d",
        labels={"score": ("x", "y")},
        threshold=torch.full((2, 1, 2), 0.5),
        sure_low=torch.tensor([[[0.8, 0.1]], [[0.7, 0.1]]]),
        reason=torch.zeros(2, 1, 2, dtype=torch.int64),
        reason_words=("the default",),
        least={"x": 0.5, "y": 0.5},
        carries=torch.tensor([[[True, False]], [[True, False]]]),
    )
    taxonomy.save(tmp_path / "t")
    loaded = HeadTaxonomy.load(tmp_path / "t")
    assert loaded.of(0, 0) == ("x", "y")
    assert loaded.of(0, 1) == ()
    assert loaded.heads("x") == [(0, 0)]


@dataclasses.dataclass
class Options:
    """As somebody's own analysis may keep them."""

    lr: float
    steps: int


def test_what_a_result_remembers_is_plain_in_the_file(tmp_path):
    remembered = {
        "file": Path("/data/x.txt"),
        "tensor": torch.tensor([[1, 2]]),
        "array": np.array([0.5, 1.5]),
        "number": np.float32(0.25),
        "options": Options(lr=0.1, steps=3),
        "mapping": MappingProxyType({"a": 1}),
    }
    plain = {
        "file": "/data/x.txt",
        "tensor": [[1, 2]],
        "array": [0.5, 1.5],
        "number": 0.25,
        "options": {"lr": 0.1, "steps": 3},
        "mapping": {"a": 1},
    }
    scores(provenance=remembered).save(tmp_path / "r")
    assert ngl.load_result(tmp_path / "r").provenance == plain
    assert as_json(remembered | {"inf": math.inf, 3: (math.nan, True)}) == plain | {"inf": None, "3": [None, True]}
    with pytest.raises(ngl.errors.ResultError, match=r"a set cannot be saved in result\.json; expected text, numbers"):
        scores(provenance={"seen": {1, 2}}).save(tmp_path / "s")
    assert not list((tmp_path / "s").glob("*"))


def test_a_result_is_replaced_and_nothing_else_is(tmp_path):
    scores().save(tmp_path)
    scores(quantity="new").save(tmp_path)
    assert ngl.load_result(tmp_path).quantity == "new"
    assert len(list(tmp_path.iterdir())) == 2
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("x")
    for place in (other, other / "mine.txt"):
        with pytest.raises(ngl.errors.ResultError, match="no saved result"):
            scores().save(place)


def test_a_save_that_dies_leaves_the_old_result(tmp_path, monkeypatch):
    import nanogpt_lens.results.files as files

    scores().save(tmp_path)

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_text", dies)
    with pytest.raises(KeyboardInterrupt):
        scores(quantity="new", values=torch.zeros(2, 2)).save(tmp_path)
    assert ngl.load_result(tmp_path).quantity == "something"
    assert ngl.load_result(tmp_path).values[0, 0] == 0.5


def test_what_is_damaged_is_named(tmp_path):
    scores().save(tmp_path)
    file = tmp_path / "result.json"
    plain = json.loads(file.read_text())
    arrays = tmp_path / plain["arrays"]
    damaged = [
        ("{", "not JSON"),
        (json.dumps(plain | {"format": 99}), "format 1"),
        (json.dumps(plain | {"arrays": "../../etc/passwd"}), "names no file of tensors"),
        (json.dumps(plain | {"kind": "Popen"}), "holds a Popen; expected Result"),
        (json.dumps(plain | {"evil": 1}), "evil, which a Scores does not have"),
        (json.dumps({k: v for k, v in plain.items() if k != "quantity"}), "not a complete Scores"),
    ]
    for text, words in damaged:
        file.write_text(text)
        with pytest.raises(ngl.errors.ResultError, match=words):
            ngl.load_result(tmp_path)
    file.write_text(json.dumps(plain))
    with pytest.raises(ngl.errors.ResultError, match="expected PatchingResult"):
        PatchingResult.load(tmp_path)
    arrays.write_bytes(arrays.read_bytes()[:20])
    with pytest.raises(ngl.errors.ResultError, match="cannot be read"):
        ngl.load_result(tmp_path)
    with pytest.raises(ngl.errors.ResultError, match="cannot be read"):
        ngl.load_result(tmp_path / "nowhere")


def test_the_public_names_are_there():
    assert isinstance(scores(), ngl.results.Result)
    assert issubclass(ngl.results.Scores, Result)
