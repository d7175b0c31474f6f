"""The checkpoints of a folder in order, and every way in which they are not those of one run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from conversion import CheckpointError, read_checkpoint, save_compact
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.model.loading import load
from nanogpt_lens.runs.stages import Walk, list_stages
from nanogpt_lens.runs.trajectory import trajectory
from tests.making import content, write_meta
from tests.nanogpt_lens.runs.stage_helpers import CHARS, CONTEXT, NAMES, make_run, write_stage


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def refused(path, *words, **options):
    """The message of the refusal: one sentence with every word."""
    with pytest.raises(CheckpointError) as caught:
        walk = Walk(list_stages(path, **options))
        for stage in walk.stages:
            walk.at(stage)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


# --- order ----------------------------------------------------------------------------------


def test_the_order_is_that_of_the_iterations(run):
    stages = list_stages(run)
    assert [(stage.step, stage.path.name) for stage in stages] == sorted((step, name) for name, step in NAMES.items())
    assert [stage.path.name for stage in list_stages(run / "ckpt_b.pt")] == [stage.path.name for stage in stages]


def test_a_pattern_chooses(run):
    write_stage(run / "other_7.pt", 7)
    assert [stage.step for stage in list_stages(run, pattern="ckpt_[ab].pt")] == [20, 100]
    assert [stage.step for stage in list_stages(run, pattern="*.pt")] == [0, 7, 20, 100, 1000]


@pytest.mark.parametrize("pattern", ["", "/ckpt*.pt"])
def test_a_pattern_that_is_none(run, pattern):
    refused(run, f"pattern is {pattern!r}; expected names of files", pattern=pattern)


def test_the_last_checkpoint_that_is_a_stage_too_counts_once(run):
    write_stage(run / "ckpt.pt", 1000)
    stages = list_stages(run)
    assert [stage.step for stage in stages] == [0, 20, 100, 1000]
    assert stages[-1].path.name == "ckpt.pt"


@pytest.mark.parametrize("bits", [3, 5, 10])
def test_a_stage_made_compact_is_the_same_checkpoint(run, bits):
    write_stage(run / "ckpt.pt", 1000)
    save_compact(read_checkpoint(run / "ckpt.pt"), run / "ckpt_9.pt", bits=bits)
    assert [stage.path.name for stage in list_stages(run)][-1] == "ckpt.pt"
    changed = content(seed=1000, block_size=CONTEXT, vocab_size=len(CHARS)) | {"iter_num": 1000}
    changed["model"]["transformer.ln_f.weight"][3] *= 1 + 2.0 ** (1 - bits)  # more than the rounding
    torch.save(changed, run / "ckpt.pt")
    refused(run, "ckpt.pt", "ckpt_9.pt", "both of iteration 1000")


def test_two_different_ones_of_one_iteration(run):
    write_stage(run / "ckpt.pt", 100, seed=5)
    refused(run, run / "ckpt.pt", run / "ckpt_a.pt", "both of iteration 100 and differ", "move one of them away")


def test_weights_that_differ_in_one_bit_differ(run):
    made = content(seed=100, block_size=CONTEXT, vocab_size=len(CHARS)) | {"iter_num": 100}
    weight = made["model"]["transformer.h.1.mlp.c_proj.bias"]
    weight[5] = torch.nextafter(weight[5], torch.tensor(9.0))
    torch.save(made, run / "ckpt.pt")
    refused(run, "both of iteration 100 and differ")


# --- what is no run -------------------------------------------------------------------------


def test_an_empty_folder(tmp_path):
    refused(tmp_path, f"{tmp_path} has no ckpt*.pt", "nanogpt-lens train --stages")
    assert "there are checkpoints in" not in refused(tmp_path, "has no")


def test_runs_in_folders_below(tmp_path):
    for seed in (1, 2):
        write_stage(tmp_path / f"seed{seed}" / "ckpt.pt", 10)
    refused(tmp_path, "has no ckpt*.pt", f"there are checkpoints in {tmp_path / '*'}", "name one of these folders")


def test_no_folder(tmp_path):
    refused(tmp_path / "absent", "absent does not exist", "shakespeare_char")


def test_a_folder_that_is_called_like_a_checkpoint_is_passed_over(run):
    (run / "ckpt_folder.pt").mkdir()
    assert len(list_stages(run)) == 4


@pytest.mark.parametrize("step", [None, "seven", float("nan"), True])
def test_a_missing_iteration(run, step):
    write_stage(run / "ckpt_a.pt", step, seed=3)
    refused(run, run / "ckpt_a.pt", "has no iter_num", "store iter_num, or move the file away")


def test_a_truncated_one(run):
    file = run / "ckpt_a.pt"
    file.write_bytes(file.read_bytes()[:5000])
    refused(run, file, "truncated")


def test_a_stage_that_is_being_written_is_not_seen(run):
    (run / f".ckpt_000500.pt.{os.urandom(6).hex()}.tmp").write_bytes(b"half")
    (run / "resume.pt").write_bytes(b"half")
    assert [stage.step for stage in list_stages(run)] == [0, 20, 100, 1000]


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["iter_num", "config", "optimizer", "model"])
def test_code_in_a_checkpoint_is_not_run(run, tmp_path, where):
    made = content(block_size=CONTEXT, vocab_size=len(CHARS)) | {"iter_num": 50}
    torch.save(made | {where: Attack(tmp_path / "owned")}, run / "ckpt_c.pt")
    refused(run, run / "ckpt_c.pt", "not plain data", "nothing was executed")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"n_layer": 3}, "n_layer is 3, expected 2"),
        ({"n_head": 4}, "n_head is 4, expected 2"),
        ({"block_size": 16}, "block_size is 16, expected 32"),
        ({"bias": False}, "bias is False, expected True"),
        ({"vocab_size": 64}, "vocab_size is 64"),
    ],
)
def test_checkpoints_of_different_models(run, sizes, words):
    write_stage(run / "ckpt_a.pt", 100, **sizes)
    refused(run, f"the weights of {run / 'ckpt_a.pt'}", f"the model made from {run / 'ckpt_b.pt'}", words)
    with pytest.raises(CheckpointError, match=words):
        trajectory(run, "composition_scores", progress=False)


def test_a_run_with_another_vocabulary(run, tmp_path):
    walk = Walk(list_stages(run))
    walk.at(walk.stages[0])
    write_meta(run, chars=CHARS[::-1])
    with pytest.raises(CheckpointError, match=r"its vocabulary is 15 tokens .*, expected 15 tokens"):
        walk.at(walk.stages[1])


def test_a_file_that_changes_on_the_way(run):
    walk = Walk(list_stages(run))
    write_stage(run / "ckpt_a.pt", 200)
    walk.at(walk.stages[0])
    with pytest.raises(CheckpointError, match=r"ckpt_a.pt was of iteration 100, and is of 200 now; .*pattern="):
        walk.at(walk.stages[2])
    (run / "ckpt_a.pt").unlink()
    with pytest.raises(CheckpointError, match="ckpt_a.pt does not exist"):
        walk.at(walk.stages[2])


# --- the walk -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("processed", [False, True])
def test_one_model_with_the_weights_of_each(run, dtype, processed):
    walk = Walk(list_stages(run), dtype=dtype, process_weights=processed)
    tokens = torch.arange(12)[None]
    assert walk.model is None
    first = walk.at(walk.stages[0])
    outputs = []
    for stage in (*walk.stages, *reversed(walk.stages)):
        model = walk.at(stage)
        assert model is first is walk.model
        assert not has_hooks(model)
        assert model.nanogpt_origin.path == stage.path
        with torch.no_grad():
            outputs.append(model(tokens))
            fresh = load(stage.path, dtype=dtype, process_weights=processed)(tokens)
        assert torch.equal(outputs[-1], fresh)
    assert (outputs[0] - outputs[1]).abs().max() > 0.1
