"""A run leaves its validation data beside its checkpoints, by which they are certified; nobody's data are replaced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint, save_checkpoint
from conversion.token_files import TokenFile
from nanogpt_lens.core.errors import TrainingError
from nanogpt_lens.text.datasets import TextData, write_data
from nanogpt_lens.text.tasks import repeated_random
from tests.nanogpt_lens.training.training_helpers import TINY, quiet

SMALL = replace(TINY, max_iters=20, eval_interval=10, eval_iters=20)


def val_loss(path, **options):
    return [c for c in ngl.check(path, edits=False, **options).comparisons if c.kind == "val_loss"]


def test_check_finds_it_by_itself_and_says_how_far_it_may_be_off(data, tmp_path):
    out = tmp_path / "out"
    quiet(data, out, SMALL, stages=[0, 5])
    assert np.fromfile(out / "val.bin", dtype="<u2").tolist() == data.val.tolist()
    for name in ("ckpt.pt", "ckpt_000000.pt", "ckpt_000005.pt"):
        report = ngl.check(out / name, edits=False)
        (found,) = [c for c in report.comparisons if c.kind == "val_loss"]
        assert report.passed, str(report)
        stated = read_checkpoint(out / name).best_val_loss
        assert f"/ stated {stated:.4f} ± {found.tolerance * stated:.4f} (both are means of samples" in found.detail
        assert f"/ stated {stated:.4f} ± {found.tolerance * stated:.4f}" in str(report)
        (note,) = [note for note in report.notes if "val.bin" in note]
        assert "60 random ones in training" in note
    assert not val_loss(out, val_bin=False)
    assert any("not to be used" in note for note in ngl.check(out, edits=False, val_bin=False).notes)


@pytest.mark.parametrize("dtype", ["<u4", "<i8", "<u2"])
def test_a_val_bin_of_another_width_is_no_ground_for_not_equal(data, tmp_path, dtype):
    out = tmp_path / "out"
    quiet(data, out, SMALL)
    (before,) = val_loss(out)
    data.val.astype(dtype).tofile(out / "val.bin")
    (found,) = val_loss(out)
    assert found.passed
    assert found.detail.split(" (")[0] == before.detail.split(" (")[0]
    (insisted,) = val_loss(out, val_bin=TokenFile(out / "val.bin", np.dtype(dtype).name))
    assert insisted.max_abs == before.max_abs


def test_a_wrong_n_head_is_exposed_by_it(data, tmp_path):
    out = tmp_path / "out"
    quiet(data, out, SMALL)
    checkpoint = read_checkpoint(out)
    save_checkpoint(replace(checkpoint, best_val_loss=checkpoint.best_val_loss / 2), out)
    (found,) = val_loss(out)
    assert not found.passed
    assert "val.bin is not this run's" in found.detail


def test_a_toy_whose_data_are_ambiguous_is_certified_by_its_number_of_tokens(tmp_path):
    ids = np.array([1, 0] * 60)
    toy = TextData(train=ids, val=ids[:80], vocabulary=None, name="toy")
    quiet(toy, tmp_path / "out", replace(SMALL, block_size=8))
    (found,) = val_loss(tmp_path / "out")
    assert found.passed


def test_the_state_to_resume_from_states_another_loss(data, tmp_path, monkeypatch):
    from nanogpt_lens.training.train import _TrainingRun

    out = tmp_path / "out"
    monkeypatch.setattr(_TrainingRun, "run", lambda self: self._evaluate(0) and self._evaluate(10) and None)
    with pytest.raises((TrainingError, KeyError, IndexError)):
        quiet(data, out, SMALL)  # no end of the log
    assert read_checkpoint(out / "resume.pt").run_config["state"] == "resume"
    assert not val_loss(out / "resume.pt")


def test_a_task_has_none(tmp_path):
    quiet(repeated_random(), tmp_path / "out", replace(TINY, block_size=16))
    assert not (tmp_path / "out" / "val.bin").exists()


def test_nobodys_data_are_replaced(data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    np.arange(50, dtype="<u2").tofile(out / "val.bin")
    before = (out / "val.bin").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(TrainingError, match=r"val\.bin holds other tokens than the validation part of this run"):
            quiet(data, out, overwrite=overwrite)
        assert (out / "val.bin").read_bytes() == before
    folder = write_data(data, tmp_path / "data")
    data.val.astype("<u4").tofile(folder / "val.bin")
    data.train.astype("<u4").tofile(folder / "train.bin")
    before = (folder / "val.bin").read_bytes()
    quiet(folder, folder)  # a run in its own data folder
    quiet(folder, folder, overwrite=True)
    assert (folder / "val.bin").read_bytes() == before
    assert read_checkpoint(folder).run_config["token_dtype"] == "uint32 tokens"


def test_another_run_in_its_place_has_its_own(data, tmp_path):
    out = tmp_path / "out"
    quiet(data, out)
    other = replace(data, val=data.val[::-1].copy())
    quiet(other, out, overwrite=True)
    assert np.fromfile(out / "val.bin", dtype="<u2").tolist() == other.val.tolist()
    quiet(repeated_random(), out, replace(TINY, block_size=16), overwrite=True)
    assert not (out / "val.bin").exists()


def test_the_report_knows_it_for_held_out_text(data, tmp_path):
    from nanogpt_lens.reporting.sections.loss import _is_own_validation
    from nanogpt_lens.reporting.subject import Subject

    out = tmp_path / "out"
    quiet(data, out, SMALL)
    html = ngl.report(out, corpus=out, sections=["loss", "certificate"], progress=False).html
    assert "This is the validation part of the run" in html
    assert "within ±" in html
    checkpoint = read_checkpoint(out)
    (tmp_path / "other.bin").write_bytes((out / "val.bin").read_bytes())
    own = (out, out / "val.bin", str(out / "val.bin"), TokenFile(out / "val.bin"))
    for corpus, expected in (*((c, True) for c in own), (data.val, False), (tmp_path / "other.bin", False)):
        assert _is_own_validation(Subject(path=str(out), checkpoint=checkpoint, raw_text=corpus)) is expected
