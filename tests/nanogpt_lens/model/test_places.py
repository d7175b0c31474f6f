"""Paths that are not there: the message names what is near them."""

from __future__ import annotations

import inspect

import pytest

import conversion
import nanogpt_lens as ngl
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


def test_the_public_reader_knows_shipped_names_and_has_the_options_of_the_conversions():
    assert ngl.read_checkpoint("handmade_induction").sha256 == conversion.read_checkpoint(
        find_checkpoint("handmade_induction")
    ).sha256  # fmt: skip
    assert inspect.signature(ngl.read_checkpoint) == inspect.signature(conversion.read_checkpoint)
    with pytest.raises(CheckpointError, match="did you mean 'shakespeare_char'"):
        ngl.read_checkpoint("shakespear_char")
    with pytest.raises(TypeError):
        ngl.read_checkpoint("handmade_induction", heads=2)
