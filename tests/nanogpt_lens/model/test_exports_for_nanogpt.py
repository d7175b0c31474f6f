"""Exported checkpoints under a reader with nanoGPT's habits: sampled from, and trained on from where they were."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

import nanogpt_lens as ngl
from conversion import ConversionError, EquivalenceError, NanoGPTConfig, read_checkpoint
from conversion.optimizer_state import fresh_optimizer, misfit
from nanogpt_lens.model.exporting import export
from tests import nanogpt_client as client
from tests.making import content, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run

SETTINGS = {"dataset": "tiny", "learning_rate": 1e-2, "beta1": 0.8, "beta2": 0.97, "weight_decay": 0.3}


def batches(n: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(65, (4, 13), generator=generator) for _ in range(n)]


def trained(folder: Path, *, bias: bool = True, **more: Any) -> Path:
    """A run of three steps, saved as nanoGPT's train.py saves it."""
    stored = content(bias=bias)
    model = client.model_of(stored["model_args"], stored["model"])
    optimizer = client.optimizer_of(list(model.parameters()), SETTINGS)
    client.steps(model, optimizer, batches(3, 0))
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "config": SETTINGS}
    write_meta(folder)
    return write(folder, stored | kept | more)


def exported(source: Path, folder: Path, *options: Any) -> tuple[Path, str]:
    """What the command saved, and what it printed."""
    code, text, err = run("convert", source, "--to", "nanogpt", "-o", folder, *options)
    assert (code, err) == (0, "")
    return folder, text


def losses(folder: Path) -> list[float]:
    model, optimizer, *_ = client.resume(folder, SETTINGS)
    return client.steps(model, optimizer, batches(3, 1))


@pytest.mark.parametrize("bias", [True, False])
def test_training_goes_on_as_if_nothing_had_happened(tmp_path, bias):
    source = trained(tmp_path / "out", bias=bias)
    folder, text = exported(source, tmp_path / "again")
    assert "note" not in text
    model, optimizer, iteration, best = client.resume(folder, SETTINGS)
    assert (iteration, best) == (7, 1.25)
    assert losses(folder) == losses(source.parent)
    first = optimizer.state_dict()["state"][0]
    assert first["step"] == 3
    assert torch.equal(first["exp_avg"], torch.load(source)["optimizer"]["state"][0]["exp_avg"])
    assert len(list(model.parameters())) == len(optimizer.state_dict()["state"])


def sorted_by_name(state: dict[str, Any]) -> dict[str, Any]:
    """The order of nanoGPT before February 2023: each group sorted by the parameters' names."""
    stored = content()
    named = [name for name, _ in client.model_of(stored["model_args"], stored["model"]).named_parameters()]
    wide = [name for name in named if name.endswith("weight") and "ln_" not in name]
    order = [*wide, *(name for name in named if name not in wide)]
    old = [*sorted(wide), *sorted(name for name in named if name not in wide)]
    return state | {"state": {old.index(name): state["state"][i] for i, name in enumerate(order)}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda o: None, "the source has none"),
        (lambda o: {"state": {}, "param_groups": []}, "groups of \\[\\] parameters, where nanoGPT has \\[10, 18\\]"),
        (lambda o: [o, o], "it is no state of a PyTorch optimizer"),
        (sorted_by_name, "its parameter 0 is not one of \\[65, 16\\] with AdamW's moments"),
        (lambda o: o | {"state": {0: {"momentum_buffer": torch.ones(65, 16)}}}, "not one of .* with AdamW's moments"),
    ],
)
def test_without_its_optimizer_training_begins_with_a_fresh_one_and_says_so(tmp_path, change, why):
    source = trained(tmp_path / "out")
    stored = torch.load(source)
    stored["optimizer"] = change(stored["optimizer"])
    if stored["optimizer"] is None:
        del stored["optimizer"]
    torch.save(stored, source)
    folder, text = exported(source, tmp_path / "again")
    assert "note: the optimizer was not taken along" in text
    assert re.search(why, text)
    model, optimizer, *_ = client.resume(folder, SETTINGS)
    fresh = client.model_of(stored["model_args"], stored["model"])
    expected = client.steps(fresh, client.optimizer_of(list(fresh.parameters()), SETTINGS), batches(3, 1))
    assert client.steps(model, optimizer, batches(3, 1)) == expected


def test_what_fits_and_what_is_fresh():
    for bias in (True, False):
        stored = content(bias=bias)
        model = client.model_of(stored["model_args"], stored["model"])
        optimizer = client.optimizer_of(list(model.parameters()), SETTINGS)
        config = NanoGPTConfig.from_model_args(stored["model_args"])
        before = optimizer.state_dict()
        assert fresh_optimizer(config, SETTINGS) == before
        assert misfit(before, config) == ""
        client.steps(model, optimizer, batches(1, 0))
        assert misfit(optimizer.state_dict(), config) == ""
    defaults = fresh_optimizer(config, {"learning_rate": "fast", "beta1": float("nan"), "weight_decay": True})
    assert defaults["param_groups"][0]["betas"] == (0.9, 0.95)
    assert [group["weight_decay"] for group in defaults["param_groups"]] == [0.1, 0.0]


def test_arguments_that_were_ignored_are_left_out(tmp_path):
    arguments = content()["model_args"] | {"use_flash": True, "note": "mine"}
    source = trained(tmp_path / "out", model_args=arguments)
    ignore = ("--ignore-model-arg", "use_flash", "--ignore-model-arg", "note")
    folder, text = exported(source, tmp_path / "again", *ignore)
    assert "note: model_args has no note, use_flash" in text
    assert client.resume(folder, SETTINGS)[2] == 7
    assert "use_flash" not in torch.load(folder / "ckpt.pt")["model_args"]
    assert ngl.load(folder).cfg.d_vocab == 65  # without --ignore-model-arg


def test_it_is_sampled_from(tmp_path):
    folder, _ = exported(trained(tmp_path / "out"), tmp_path / "again")
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    (folder / "meta.pkl").rename(tmp_path / "data" / "tiny" / "meta.pkl")
    text = client.sample(folder, tmp_path / "data", "ROMEO:", 20)
    model = ngl.load(folder)
    assert text == ngl.generate(model, "ROMEO:", max_new_tokens=20, temperature=0)


def run_line(line: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the printed line gives, run as it is printed."""
    monkeypatch.chdir(cwd)
    *statements, expression = line.split("; ")
    names: dict[str, Any] = {}
    exec("\n".join(statements), names)
    return eval(expression, names)


@pytest.mark.parametrize(("to", "act_fn"), [("nanogpt", "gelu_new"), ("nanogpt", "gelu"), ("hf", "gelu_new")])
def test_the_printed_line_loads_it(tmp_path, monkeypatch, to, act_fn):
    source = trained(tmp_path / "out it's")
    code, text, _ = run("convert", source, "--to", to, "-o", tmp_path / "again", "--act-fn", act_fn)
    assert code == 0
    saved = next(line for line in text.splitlines() if line.startswith("saved in"))
    model = run_line(saved.partition(": ")[2], tmp_path, monkeypatch)
    expected = ngl.load(source, act_fn=act_fn)
    tokens = torch.randint(65, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(tokens)
        assert (getattr(logits, "logits", logits) - expected(tokens)).abs().max() < 1e-4
    assert ("nn.GELU(approximate='tanh')" in text) == (to == "nanogpt" and act_fn == "gelu_new")


@pytest.mark.hooked
def test_the_folder_for_transformer_lens_loads_itself(tmp_path, monkeypatch):
    source = trained(tmp_path / "out")
    result = export(read_checkpoint(source), "hooked", tmp_path / "tl")
    assert result.how_to_load.startswith("run `from load import model`")
    monkeypatch.syspath_prepend(tmp_path / "tl")
    names: dict[str, Any] = {}
    exec("from load import model", names)
    model = names["model"]
    assert model.to_str_tokens("abc") == ["a", "b", "c"]
    assert len(model.generate("ab\n", max_new_tokens=5, do_sample=False, verbose=False)) == 8
    assert torch.equal(model("abc"), ngl.load(source)("abc"))


def test_what_nanogpt_would_do_otherwise_is_said(tmp_path):
    stored = content()
    stored["model"]["lm_head.weight"] = stored["model"]["lm_head.weight"] + 1
    stored["config"] = {}
    result = export(read_checkpoint(write(tmp_path / "out", stored), optimizer=True), "nanogpt", tmp_path / "again")
    told = " ".join(result.notes)
    for words in ("nanoGPT's model.py ties them", "names no dataset", "the optimizer was not taken along"):
        assert words in told
    assert all("\n" not in note for note in result.notes)


def test_an_edited_model_can_be_trained_on(tmp_path):
    model = ngl.load(trained(tmp_path / "out"))
    with torch.no_grad():
        model.blocks[0].attn.W_Q[1] = 0
    ngl.save_checkpoint(ngl.to_nanogpt(model), tmp_path / "edited")
    resumed, optimizer, iteration, best = client.resume(tmp_path / "edited", SETTINGS)
    assert (iteration, best) == (7, 1e9)
    assert not optimizer.state_dict()["state"]
    assert not resumed.transformer.h[0].attn.c_attn.weight[8:16].any()
    assert client.steps(resumed, optimizer, batches(2, 1))[0] > 0


def test_a_lower_precision_can_be_trained_on(tmp_path):
    folder, _ = exported(trained(tmp_path / "out"), tmp_path / "again", "--dtype", "bfloat16")
    model, optimizer, *_ = client.resume(folder, SETTINGS)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert optimizer.state_dict()["state"][0]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "onnx"}, "to is 'onnx'; expected hooked, bridge, hf or nanogpt"),
        ({"to": "hf", "dtype": "int8"}, "dtype is 'int8'; expected one of float32"),
        ({"to": "hf", "val_bin": "x"}, "val_bin='PATH' is for hooked and bridge; hf is compared without data"),
        ({"to": "nanogpt", "process_weights": True}, "process_weights is for hooked and bridge; nanogpt keeps"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(tmp_path, options, words):
    checkpoint = read_checkpoint(trained(tmp_path / "out"))
    with pytest.raises(ConversionError, match=words):
        export(checkpoint, folder=tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("to", ["hf", "nanogpt"])
def test_nothing_is_written_where_what_would_be_saved_is_another_model(tmp_path, monkeypatch, to):
    checkpoint = read_checkpoint(trained(tmp_path / "out"))
    other = read_checkpoint(write(tmp_path / "other", seed=1))
    if to == "hf":
        from conversion.nanogpt_to_huggingface import to_huggingface

        wrong = to_huggingface(other, dtype=torch.float64)
        monkeypatch.setattr("conversion.nanogpt_to_huggingface.to_huggingface", lambda *_, **__: wrong)
    else:
        monkeypatch.setattr("nanogpt_lens.model.exporting.read_checkpoint", lambda *_, **__: other)
    with pytest.raises(EquivalenceError, match=r"(logits differ by .*|does not read back); nothing saved"):
        export(checkpoint, to, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".x*"))


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "x").mkdir()
    export(read_checkpoint(trained(tmp_path / "out")), "nanogpt", tmp_path / "x")
    assert read_checkpoint(tmp_path / "x").iter_num == 7


def test_subwords_that_sample_py_would_take_for_gpt2s(tmp_path):
    source = trained(tmp_path / "out")
    (tmp_path / "out" / "meta.pkl").unlink()
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(65)}, unk_token="w0"))
    words.save(str(tmp_path / "out" / "tokenizer.json"))
    notes = export(read_checkpoint(source, optimizer=True), "nanogpt", tmp_path / "x").notes
    assert notes == ("sample.py does not read tokenizer.json, and would take the tokens for GPT-2's",)
