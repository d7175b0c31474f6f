"""Paths that are not there: the message names what is near them."""

from __future__ import annotations

import pytest

from conversion.errors import CheckpointError
from nanogpt_lens.model.places import find_checkpoint
from nanogpt_lens.runs.stages import list_stages
from tests.making import write


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("shakespear_char", "shakespeare_char"),
        ("checkpoints/shakespeare_chr", "shakespeare_char"),
        ("inducton", "induction"),
    ],
)
def test_the_nearest_shipped_name(typed, meant):
    with pytest.raises(CheckpointError, match=rf"did you mean '{meant}'"):
        find_checkpoint(typed)


def test_the_nearest_path(tmp_path):
    write(tmp_path / "out-shakespeare")
    with pytest.raises(CheckpointError, match=r"did you mean '.*/out-shakespeare'\?"):
        find_checkpoint(tmp_path / "out-shakspeare")
    with pytest.raises(CheckpointError, match=r"one of those names$"):
        find_checkpoint(tmp_path / "quite another")


def test_a_run_whose_files_have_other_names(tmp_path):
    write(tmp_path).rename(tmp_path / "model_00100.pt")
    with pytest.raises(CheckpointError, match=r"there are model_00100\.pt: give pattern='model_\*\.pt'"):
        list_stages(tmp_path)
    assert [stage.step for stage in list_stages(tmp_path, pattern="*.pt")] == [7]
