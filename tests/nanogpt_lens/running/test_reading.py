"""Activations shown run after run: both engines show the native model's, and what does not fit is named."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.running.reading import Reader
from tests.nanogpt_lens.patching.patching_helpers import model, native_run, texts

NAMES = ["blocks.0.hook_resid_mid", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post"]


@pytest.mark.parametrize("engine", ["native", "hooks"])
def test_each_is_shown_once_and_in_order(engine):
    tokens, _ = texts()
    seen = []
    Reader(model(), NAMES, engine=engine)(tokens, lambda i, value: seen.append((i, value.clone())))
    assert [i for i, _ in seen] == [0, 1, 2]
    expected = native_run(tokens, NAMES)
    for name, (_, value) in zip(NAMES, seen, strict=True):
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)


def test_the_engine_that_fits_is_taken_and_one_that_does_not_is_refused():
    folded = model(process_weights=True)
    assert Reader(model(), NAMES).engine == "native"
    assert Reader(folded, NAMES).engine == "hooks"
    with pytest.raises(ngl.AnalysisError, match=r"engine='native' does not fit this model .processed weights"):
        Reader(folded, NAMES, engine="native")


def test_a_hook_point_that_is_not_there_is_named():
    with pytest.raises(ngl.AnalysisError, match=r"no hook point 'blocks.9.hook_z'; expected one such as blocks.0.mlp"):
        Reader(model(), [NAMES[0], "blocks.9.hook_z"])
