"""A wrong shape fails where it is made: the import hook of `tests/conftest.py` is on, and bites."""

import sys

import pytest
from jaxtyping import TypeCheckError, install_import_hook

MODULE = """
from __future__ import annotations
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor

def total(values: Float[Tensor, "layer head"], times: int) -> Float[Tensor, "layer"]:
    return values.sum(1) if times else values

@dataclass(frozen=True)
class Interval:
    low: Float[Tensor, "layer head"]
    high: Float[Tensor, "layer head"] | None = None
"""


def test_shapes_are_checked_and_nothing_else(tmp_path, monkeypatch):
    import torch

    (tmp_path / "shaped_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with install_import_hook("shaped_module", "tests.shapes.shapes"):
        import shaped_module
    try:
        values = torch.zeros(2, 3)
        assert shaped_module.total(values, "not an int").shape == (2,)
        assert shaped_module.Interval(values).high is None
        for wrong in (
            lambda: shaped_module.total(values, 0),
            lambda: shaped_module.total(values[0], 1),
            lambda: shaped_module.Interval(values, torch.zeros(2, 4)),
        ):
            with pytest.raises(TypeCheckError):
                wrong()
    finally:
        del sys.modules["shaped_module"]


def test_the_hook_is_on():
    from nanogpt_lens.heads import attention

    assert "jaxtyping" in type(attention.__loader__).__module__
