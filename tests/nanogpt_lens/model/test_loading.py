"""`load` and `check`, as a user calls them."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

import nanogpt_lens as ngl
from conversion.backends import resolve_backend
from conversion.errors import CheckpointWarning
from conversion.report import EquivalenceReport
from tests.making import CHARS, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run


@pytest.mark.parametrize("processed", [False, True])
def test_load_is_the_original(golden, processed):
    model = ngl.load(golden.folder, process_weights=processed, dtype=torch.float64)
    with torch.no_grad():
        error = (
            model(golden.expected["tokens"]).log_softmax(-1) - golden.expected["logits_float64"].log_softmax(-1)
        ).abs()
    assert error.max() < 1e-9
    assert type(model).__name__ == {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[resolve_backend()]
    assert next(model.parameters()).dtype == torch.float64


def test_load_attaches_the_tokenizer(tmp_path):
    write_meta(tmp_path / "data" / "tiny")
    model = ngl.load(write(tmp_path / "out"))
    assert model.to_str_tokens("ROMEO:\n") == list("ROMEO:\n")
    assert ngl.load(tmp_path / "out", meta=write_meta(tmp_path / "x", CHARS[::-1])).to_tokens("\n")[0, 0] == 64


@pytest.mark.parametrize(("chars", "doubted"), [(CHARS, False), (CHARS[:8], True)])
def test_load_doubts_a_vocabulary_of_another_size(tmp_path, chars, doubted):
    write_meta(tmp_path, chars)
    file = write(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ngl.load(tmp_path)
    about = [str(one.message) for one in said if one.category is CheckpointWarning]
    sentence = "the vocabulary has 8 tokens and the model 65, which is not that rounded up: it may be another run's"
    assert about == ([f"{file}: {sentence}"] if doubted else [])
    if doubted:
        assert all(one.filename == __file__ for one in said if one.category is CheckpointWarning)
        code, text, err = run("sample", tmp_path, "--max-new-tokens", 1)  # as `info` and `check` print it
        assert (code, err) == (0, f"note: {sentence}\n")
        assert "vocabulary" not in text


def test_load_uses_the_activation(tmp_path):
    write(tmp_path)
    tokens = torch.arange(12)[None]
    exact, tanh = (ngl.load(tmp_path, act_fn=a)(tokens) for a in ("gelu", "gelu_new"))
    assert 1e-6 < (exact - tanh).abs().max() < 1e-1


def test_shipped_names_work_as_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ngl.shipped_checkpoints()
    assert "shakespeare_char" in names
    model = ngl.load("shakespeare_char")
    assert model.cfg.n_ctx == 64
    assert model.to_string(model.to_tokens("ROMEO:")) == ["ROMEO:"]
    again = ngl.load("checkpoints/shakespeare_char")
    assert torch.equal(again.W_E, model.W_E)
    write(tmp_path / "shakespeare_char", block_size=9)  # a path that exists comes first
    assert ngl.load("shakespeare_char").cfg.n_ctx == 9


def test_a_name_that_is_nothing():
    with pytest.raises(ngl.errors.CheckpointError, match="out-nothing does not exist and is no shipped checkpoint"):
        ngl.load("out-nothing")
    with pytest.raises(ngl.errors.CheckpointError, match="is no shipped checkpoint"):
        ngl.load("../pyproject.toml/x")


def test_check_returns_the_certificate(golden):
    report = ngl.check(golden.folder, edits=False)
    assert report.passed
    assert isinstance(report, EquivalenceReport)
    assert ngl.check(ngl.read_checkpoint(golden.folder), edits=False) == report


def test_devices_and_precisions_that_are_not_there(golden):
    with pytest.raises(ngl.errors.ConversionError, match="device 'cudaa' cannot be used here"):
        ngl.load(golden.folder, device="cudaa")
    for dtype in ("float32", torch.int8):
        with pytest.raises(ngl.errors.ConversionError, match="expected one such as torch.float32"):
            ngl.load(golden.folder, dtype=dtype)


def test_the_certificate_says_what_it_could_not_see(golden):
    assert any("no val.bin" in note for note in ngl.check(golden.folder, edits=False).notes)


def test_check_with_the_wrong_activation_still_proves_the_conversion(golden):
    """Both sides use it, so the certificate must say which it was."""
    report = ngl.check(golden.folder, act_fn="gelu_new", edits=False)
    assert report.passed
    assert report.architecture["act_fn"] == "gelu_new"


@pytest.mark.parametrize("module", ["nanogpt_lens", "conversion", "nanogpt_lens.cli.app"])
def test_importing_costs_no_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'transformer_lens'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import conversion

    for package in (ngl, conversion):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = package.nothing
