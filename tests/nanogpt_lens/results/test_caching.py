"""The cache: the same result, not computed twice, and never that of another model or argument."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.results.caching import ResultCache
from tests.nanogpt_lens.patching.patching_helpers import model, texts

OPTIONS = {"activation": "z", "axes": ("layer", "head"), "progress": False}
METRIC = ngl.metrics.logit_diff(1, 2)


def test_the_second_call_reads(tmp_path, monkeypatch):
    cached, (clean, corrupted) = ResultCache(tmp_path), texts()
    first = cached(ngl.activation_patching, model(), clean, corrupted, METRIC, **OPTIONS)
    monkeypatch.setattr("nanogpt_lens.patching.sweeps.set_up", None)
    second = cached(ngl.activation_patching, model(), clean, corrupted, METRIC, **(OPTIONS | {"progress": True}))
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.recovery, second.recovery)
    assert len(list(tmp_path.iterdir())) == 1


def test_whatever_differs_has_a_key_of_its_own(tmp_path):
    cached, (clean, corrupted) = ResultCache(tmp_path), texts()

    def key(hooked=None, first=clean, metric=METRIC, **changes):
        return cached.key(ngl.activation_patching, hooked or model(), first, corrupted, metric, **(OPTIONS | changes))

    edited = model()
    next(edited.parameters()).data.view(-1)[0] += 1e-9
    keys = [
        key(),
        key(hooked=edited),
        key(hooked=model(dtype=torch.float32)),
        key(first=clean.flip(0)),
        key(metric=ngl.metrics.logit_diff(1, 3)),
        key(metric=ngl.metrics.logit_diff(1, 2, pos=3)),
        key(metric=ngl.metrics.answer_logprob(1)),
        key(axes=("head", "layer")),
        key(source="zero"),
        key(seed=1),
        key(direction="noise"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    assert key(seed=0) == keys[0]  # a default, spelled out
    assert key(first=clean.clone()) == keys[0]


def test_a_folder_of_text_is_known_by_its_content(tmp_path):
    ids = torch.randint(13, (300,)).numpy().astype("uint16")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train.bin", "val.bin"):
        ids.tofile(data / name)
    cached, hooked = ResultCache(tmp_path / "cache"), model()
    first = cached.key(ngl.attention_statistics, hooked, data)
    assert cached.key(ngl.attention_statistics, hooked, data) == first
    ids[::-1].tofile(data / "val.bin")
    assert cached.key(ngl.attention_statistics, hooked, data) != first


def test_what_is_damaged_is_made_again(tmp_path):
    cached = ResultCache(tmp_path)
    first = cached(ngl.attention_rollout, model(), [1, 2, 3])
    (arrays,) = tmp_path.glob("*/*.safetensors")
    arrays.write_bytes(b"x")
    assert torch.equal(cached(ngl.attention_rollout, model(), [1, 2, 3]).values, first.values)
    assert torch.equal(cached(ngl.attention_rollout, model(), [1, 2, 3]).values, first.values)
    assert "1 results" in repr(cached)


def test_what_has_no_key_is_refused(tmp_path):
    cached, (clean, corrupted) = ResultCache(tmp_path), texts()
    with pytest.raises(ngl.AnalysisError, match="metric is a function, which cannot be part of a cache key"):
        cached(ngl.activation_patching, model(), clean, corrupted, lambda logits: logits.mean(), **OPTIONS)
    hooked = model()
    hooked.add_hook("blocks.0.hook_mlp_out", lambda value, hook: value * 0)
    with pytest.raises(ngl.AnalysisError, match="hooks attached"):
        cached(ngl.activation_patching, hooked, clean, corrupted, METRIC, **OPTIONS)
    with pytest.raises(ngl.AnalysisError, match="takes the function and its arguments"):
        cached(ngl.prefix_matching(model(), n=2))
    with pytest.raises(ngl.AnalysisError, match="takes no model"):
        cached(ngl.metrics.logit_diff, 1, 2)
    assert not list(Path(tmp_path).iterdir())


def weighted(model, weights=None, **options):
    """An analysis that somebody wrote."""
    return model.W_E.sum().item()


def test_arguments_of_every_kind_are_known_by_their_content(tmp_path):
    cached, hooked = ResultCache(tmp_path), model()
    array = np.arange(6.0).reshape(2, 3)

    def key(weights, **options):
        return cached.key(weighted, hooked, weights, **options)

    keys = [
        key(array),
        key(array.astype(np.float32)),
        key(array + 1),
        key(array.T),
        key({"a": [1, 2]}),
        key({"a": [2, 1]}),
        key({"b": [1, 2]}),
        key([{"a": 1}]),
        key("12"),
        key([1, 2]),
        key(None, seed=[1, 2]),
    ]
    assert len(set(keys)) == len(keys)
    assert key(array.copy(order="F")) == keys[0]
    assert key({"a": (1, 2)}) == keys[4]


def test_what_is_no_result_is_not_kept(tmp_path):
    with pytest.raises(ngl.AnalysisError, match="weighted returned a float; only results can be cached"):
        ResultCache(tmp_path)(weighted, model())
    assert not list(tmp_path.iterdir())
