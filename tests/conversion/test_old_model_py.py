"""A model.py of early 2023 as the native side: what it computes is compared, whatever axes it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conversion import check_equivalence, read_checkpoint
from tests.making import content, random_state, write

OLD = Path(__file__).parent.parent / "old_model.py"
UNSQUEEZED = "pos = torch.arange(0, t, dtype=torch.long, device=idx.device).unsqueeze(0)  # shape (1, t)"


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as nanoGPT of early 2023 saves it: with masks, without `bias` and `dropout` in its arguments."""
    sizes = {"n_layer": 1, "n_embd": 8, "block_size": 6, "vocab_size": 11}
    mask = torch.ones(6, 6).tril().view(1, 1, 6, 6)
    stored = content(random_state(**sizes) | {"transformer.h.0.attn.bias": mask}, **sizes)
    del stored["model_args"]["bias"], stored["model_args"]["dropout"]
    return read_checkpoint(write(tmp_path, stored), act_fn="gelu_new")


def positions(checkpoint, put: str, folder: Path, *, edits: bool = True):
    """The certificate against the old model.py, its positions computed in another way."""
    text = OLD.read_text()
    assert UNSQUEEZED in text
    (folder / "model.py").write_text(text.replace(UNSQUEEZED, put))
    return check_equivalence(checkpoint, model_py=folder / "model.py", edits=edits)


@pytest.mark.parametrize(
    "put",
    [
        UNSQUEEZED,
        "pos = torch.arange(t)",
        "pos = torch.arange(t).expand(b, t)",
    ],
)
def test_positions_with_whatever_axis_of_examples_are_proven(checkpoint, tmp_path, put):
    report = positions(checkpoint, put, tmp_path)
    assert report.passed, report.verdict()
    compared = {c.name for c in report.comparisons}
    assert {"hook_pos_embed", "zero at hook_pos_embed"} <= compared


def test_positions_that_no_module_computes_are_left_out_and_said_to_be(checkpoint, tmp_path):
    file = tmp_path / "model.py"
    file.write_text(OLD.read_text().replace("self.transformer.wpe(pos)", "self.transformer.wpe.weight[pos]"))
    report = check_equivalence(checkpoint, model_py=file)
    assert report.passed, report.verdict()
    assert not any(c.name.endswith("hook_pos_embed") for c in report.comparisons)
    assert any("hook_pos_embed" in note and "not compared" in note for note in report.notes)


def test_positions_of_another_order_are_not_equal(checkpoint, tmp_path):
    report = positions(checkpoint, "pos = torch.arange(t).flip(0).unsqueeze(0)", tmp_path, edits=False)
    assert not report.passed
    assert report.first_difference.name == "hook_pos_embed"


def test_the_exact_gelu_is_not_that_of_the_old_code(checkpoint, tmp_path):
    report = check_equivalence(read_checkpoint(checkpoint.path), model_py=OLD, edits=False)
    assert not report.passed
    assert report.first_difference.name == "blocks.0.mlp.hook_post"
