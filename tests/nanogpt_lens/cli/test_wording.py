"""Errors on the command line name its options, not Python's arguments."""

from __future__ import annotations

import re
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch

from conversion.backends import resolve_backend
from nanogpt_lens.cli.app import app
from nanogpt_lens.cli.wording import in_options
from tests.making import content, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run

COMMANDS: dict[str, Any] = {c.name or c.callback.__name__: c.callback for c in app.registered_commands if c.callback}
LIST = "list it in ignore_model_args=['use_flash', 'x']"
TWO_LINES = "pip install 'transformer-lens>=3.9,<4', or use "


@pytest.mark.parametrize(
    ("command", "sentence", "expected"),
    [
        ("check", LIST, "list it in --ignore-model-arg use_flash --ignore-model-arg x"),
        ("check", "give them as ignore_model_args=[...]", "give them as --ignore-model-arg NAME"),
        ("check", "give act_fn='gelu_new' (--act-fn gelu_new)", "give --act-fn gelu_new"),
        ("check", "load it with meta='path/to/meta.pkl' or meta=", "load it with --meta path/to/meta.pkl or --meta"),
        ("check", "do without with val_bin=False", "do without with --no-val-bin"),
        ("convert", "give the right one as val_bin='PATH'", "give the right one as --val-bin PATH"),
        ("train", "start anew with overwrite=True, which deletes", "start anew with --overwrite, which deletes"),
        ("train", "start with resume='auto' or resume=False", "start with --resume or --no-resume"),
        ("train", "n_head is 3, which does not divide n_embd 128", "--n-head is 3, which does not divide --n-embd 128"),
        ("train", "seed is -1; expected 0", "--seed is -1; expected 0"),
        ("train", "give a smaller block_size", "give a smaller --block-size"),
        ("heads", "insist with token_dtype='uint16'", "insist with --token-dtype uint16"),
        ("heads", "/a/seed_1/act_fn.pt has no meta_fn", "/a/seed_1/act_fn.pt has no meta_fn"),
        ("heads", "model_args has n_embd=12; x >= 3, a==b", "model_args has n_embd=12; x >= 3, a==b"),
        ("heads", TWO_LINES + "backend='bridge'", TWO_LINES + "--backend bridge"),
        ("measure", "seq_len=400 is too long; k=2", "--option seq_len=400 is too long; --option k=2"),
        ("trajectory", "give another pattern='*.pt'", "give another --pattern '*.pt'"),
    ],
)  # fmt: skip
def test_arguments_become_options(command, sentence, expected):
    assert in_options(sentence, COMMANDS[command]) == expected


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "analyses"])
def test_every_option_of_every_command_can_be_named(command):
    function = COMMANDS[command]
    written = [in_options(f"give {name}='x'.", function) for name in signature(function).parameters]
    named = [w for w in written if re.fullmatch(r"give --[a-z0-9-]+ x\.", w)]
    arguments = {"check": 1, "measure": 2, "scrub": 2, "compare": 2}.get(command, None if command == "train" else 1)
    assert len(written) - len(named) == (arguments or 0)


@pytest.fixture
def out(tmp_path):
    write_meta(tmp_path / "out")
    write(tmp_path / "out")
    return tmp_path / "out"


def test_a_forks_argument(out):
    stored = content()
    stored["model_args"]["use_flash"] = True
    torch.save(stored, out / "ckpt.pt")
    code, _, err = run("info", out)
    assert code == 2
    assert "--ignore-model-arg use_flash" in err
    assert "ignore_model_args" not in err


def test_a_folder_that_holds_a_run(out, tmp_path):
    (tmp_path / "a.txt").write_text("the king and the sea\n" * 20)
    code, _, err = run("train", "--data", tmp_path / "a.txt", "-o", out, "--block-size", 8)
    assert code == 2
    assert "--overwrite" in err
    assert "overwrite=True" not in err


@pytest.mark.parametrize("name", ["shakespere_char", "shakespeare-char", "checkpoints/Induction", "induction/seed_133"])
def test_a_typo_says_the_nearest_name(name):
    code, _, err = run("info", name)
    assert code == 2
    near = "shakespeare_char" if "shak" in name else "induction"
    assert re.search(rf"did you mean '{near}[\w/]*'\?", err), err


def test_a_name_like_none_gets_no_guess():
    assert "did you mean" not in run("info", "/nowhere/at/all")[2]


class TestTokens:
    """The options about files of tokens."""

    @pytest.fixture
    def half(self, tmp_path):
        ids = np.random.default_rng(0).integers(1, 65, 600)
        np.stack([ids, 0 * ids], 1).flatten().astype("<u2").tofile(tmp_path / "a.bin")
        return tmp_path / "a.bin"

    def test_the_width_is_found_out_or_insisted_on(self, out, half):
        code, text, _ = run("neurons", "search", out, "--text", half, "--json")
        assert code == 0
        assert f"{half} (uint32 tokens)" in text
        code, text, _ = run("neurons", "search", out, "--text", half, "--token-dtype", "uint16", "--json")
        assert code == 0
        assert "uint32" not in text
        code, _, err = run("measure", out, "text_loss", "--token-dtype", "uint16")
        assert (code, "--token-dtype was given without --text; give both" in err) == (2, True)

    def test_a_certificate_does_with_or_without(self, out, half):
        ids = np.arange(60)
        for dtype in ("<u2", "<u4"):  # not what the checkpoint's loss of 1.25 was measured on
            ids.astype(dtype).tofile(out / "val.bin")
            code, text, _ = run("check", out, "--no-edits")
            assert (code, "NOT EQUAL" in text, "--no-val-bin does without" in text) == (1, True, True)
        code, text, _ = run("check", out, "--no-edits", "--no-val-bin")
        assert (code, "PROVEN EQUAL" in text) == (0, True)
        np.full(60, 1).astype("<u4").tofile(out / "val.bin")
        code, _, err = run("check", out, "--no-edits")
        assert code == 2
        for words in ("--token-dtype uint16", "--no-val-bin", "--val-bin PATH"):
            assert words in err
        code, _, err = run("check", out, "--val-bin", half, "--no-val-bin")
        assert (code, "both given" in err) == (2, True)
        code, text, _ = run("check", out, "--no-edits", "--val-bin", out / "val.bin", "--token-dtype", "uint32")
        assert (code, "loss on val.bin" in text) == (1, True)  # read, and not this run's

    def test_converting_does_with_or_without(self, tmp_path):
        out = write(tmp_path, n_layer=1, n_head=1, n_embd=4, block_size=6).parent
        np.full(60, 1).astype("<u4").tofile(out / "val.bin")
        code, _, err = run("convert", out, "-o", tmp_path / "new", "--to", resolve_backend())
        assert (code, "--no-val-bin" in err, "--token-dtype uint32" in err) == (2, True, True)
        code, _, err = run("convert", out, "-o", tmp_path / "new", "--val-bin", out / "val.bin", "--to", "hf")
        assert (code, "--val-bin PATH is for hooked and bridge" in err) == (2, True)
        assert not (tmp_path / "new").exists()
        code, text, _ = run("convert", out, "-o", tmp_path / "new", "--to", resolve_backend(), "--no-val-bin")
        assert (code, "PROVEN EQUAL" in text) == (0, True)

    def test_training_on_a_folder(self, tmp_path):
        write_meta(tmp_path / "data")
        ids = np.random.default_rng(0).integers(1, 65, 600)
        for part in ("train", "val"):
            ids.astype("<u4").tofile(tmp_path / "data" / f"{part}.bin")
        tiny = ("--n-layer", 1, "--n-head", 1, "--n-embd", 8, "--block-size", 8, "--max-iters", 2, "--eval-iters", 1)
        code, _, err = run("train", "--data", tmp_path / "data", "-o", tmp_path / "a", *tiny)
        assert code == 0, err
        assert np.fromfile(tmp_path / "a" / "val.bin", dtype="<u2").tolist() == ids.tolist()
        code, _, err = run("train", "--data", tmp_path / "data", "-o", tmp_path / "b", "--token-dtype", "uint16", *tiny)
        assert code == 0, err
        assert len(np.fromfile(tmp_path / "b" / "val.bin", dtype="<u2")) == 1200
        code, text, _ = run("check", tmp_path / "b", "--no-edits")
        assert (code, "stated" in text) == (0, True)
