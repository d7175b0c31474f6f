"""The folders that the package exports are checkpoints again, for `load`, `check` and the command line."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from conversion.errors import CheckpointError
from conversion.nanogpt_to_huggingface import to_huggingface
from conversion.saving import save_transformer_lens
from tests.conftest import convert
from tests.making import content, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small checkpoint, and its exports by kind."""
    folder = tmp_path_factory.mktemp("exported")
    write_meta(folder / "out")
    checkpoint = ngl.read_checkpoint(write(folder / "out", content(n_layer=1, n_head=4)))
    save_transformer_lens(convert(checkpoint), checkpoint, folder / "tl")
    to_huggingface(checkpoint, folder / "hf")
    return folder, checkpoint


@pytest.mark.parametrize("kind", ["tl", "hf"])
def test_exports_load_again(exported, kind):
    folder, checkpoint = exported
    tokens = torch.randint(65, (2, 12), generator=torch.Generator().manual_seed(0))
    model = ngl.load(folder / kind, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model(tokens), convert(checkpoint, dtype=torch.float64)(tokens))
    assert model.to_str_tokens("ROMEO", prepend_bos=False) == list("ROMEO")
    assert ngl.check(folder / kind, edits=False).passed


@pytest.mark.parametrize("kind", ["tl", "hf"])
def test_the_command_line_takes_them(exported, kind):
    code, text, _ = run("info", exported[0] / kind)
    assert code == 0
    assert "n_head 4" in text


def test_processed_weights_cannot_be_undone(exported, tmp_path):
    _, checkpoint = exported
    save_transformer_lens(convert(checkpoint, process_weights=True), checkpoint, tmp_path / "p")
    with pytest.raises(CheckpointError, match="processed weights"):
        ngl.load(tmp_path / "p")


def test_n_head_and_act_fn_on_the_command_line(exported, tmp_path):
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 12, 12).tril()}
    file = write(tmp_path, {**exported[1].state_dict, **mask})
    code, _, complaint = run("info", file)
    assert code == 2
    assert "--n-head" in complaint
    code, text, complaint = run("info", file, "--n-head", 4, "--act-fn", "gelu_new")
    assert (code, complaint) == (0, "")
    assert "act_fn gelu_new" in text
    code, text, complaint = run("info", file, "--n-head", 4)
    assert code == 0
    assert "act_fn gelu\n" in text
    assert complaint.startswith("warning: ")
    assert complaint.count("\n") == 1
