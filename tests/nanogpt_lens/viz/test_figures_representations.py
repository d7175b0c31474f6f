"""CKA and the mean difference as pictures: the numbers, the third model, what is beyond the control, hostile names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.viz.figures import figure
from tests.nanogpt_lens.viz.figure_helpers import heats, result
from tests.nanogpt_lens.viz.test_figures_hostile import TOKENS, check


def made() -> Any:
    return result("compare_representations")


def moved() -> Any:
    return result("mean_difference_lens")


def title(drawn: Any) -> str:
    return drawn.layout.title.text.replace("<br>", " ").replace("\u2060", "")


def test_lines_are_the_diagonals_of_both_models():
    drawn = figure(made())
    lines = {trace.name: trace for trace in drawn.data if trace.mode and "lines" in trace.mode and trace.fill is None}
    assert list(lines) == ["a and b", "a and reference", "rows in random order, 95%"]
    for name, values in (("a and b", made().values), ("a and reference", made().reference)):
        np.testing.assert_allclose(lines[name].y, values.diagonal(), rtol=1e-4)
    np.testing.assert_allclose(lines["rows in random order, 95%"].y, made().chance.diagonal(), rtol=1e-3)
    assert list(drawn.layout.xaxis.ticktext) == list(made().labels["point_a"])
    bands = [trace for trace in drawn.data if trace.fill == "toself"]
    assert len(bands) == 2
    np.testing.assert_allclose(bands[0].y[:9], made().high.diagonal(), rtol=1e-4)


def test_the_map_has_all_pairs():
    drawn = figure(made(), kind="map")
    (cells,) = heats(drawn)
    np.testing.assert_allclose(cells.z, made().values, rtol=1e-4)
    assert cells.text[0][0] == f"{float(made().values[0, 0]):.2f}".lstrip("0")
    assert drawn.layout.coloraxis.cmax == 1
    low, high = made().values.diagonal().min(), made().values.diagonal().max()
    assert title(drawn).startswith(f"CKA of a and b: {low:.2f} (")
    assert f"to {high:.2f} at the same point" in title(drawn)


def test_models_with_other_points_have_a_map():
    one = made()
    other = replace(
        one,
        **{name: getattr(one, name)[:, :3] for name in ("values", "low", "high", "chance", "p")},
        labels={**one.labels, "point_b": one.labels["point_b"][:3]},
    )
    assert figure(other).data[0].type == "heatmap"
    assert "at the most similar point" in title(figure(other))
    with pytest.raises(ResultError, match="give kind='map'"):
        figure(other, kind="points")
    with pytest.raises(ResultError, match="kind is 'matrix'"):
        figure(one, kind="matrix")


def test_what_does_not_vary_is_said():
    nothing = torch.full_like(made().values, torch.nan)
    empty = replace(made(), values=nothing, low=nothing, high=nothing, chance=nothing, p=nothing, reference=None)
    for kind in ("points", "map"):
        assert title(figure(empty, kind=kind)) == "Nothing in a and b varies over these tokens"
    assert "nothing can be said" in empty.sentence()


def test_cells_of_the_mean_difference_hold_tokens_beyond_the_control():
    for reader, which in (("a", 0), ("b", 1)):
        (cells,) = heats(figure(moved(), reader=reader))
        np.testing.assert_allclose(cells.z, moved().values, rtol=1e-4)
        for i, point in enumerate(moved().labels["point"]):
            for j, position in enumerate(moved().labels["position"]):
                best = moved().tokens(point, position, reader=reader).iloc[0]
                sure = best["beyond_control"] and bool(moved().beyond_control[i, j])
                assert bool(cells.text[i][j]) == sure
                assert float(moved().promoted_logits[which, i, j, 0]) == best["logit"]
    assert title(figure(moved())).startswith("The mean moves by ")
    with pytest.raises(ResultError, match="reader is 'c'"):
        figure(moved(), reader="c")


def test_nothing_beyond_the_control():
    still = replace(moved(), values=torch.zeros_like(moved().values))
    assert title(figure(still)) == "The means of a and b differ no more than those of two halves of the texts"
    assert not any(figure(still).data[0].text[0])


def test_hostile_names_and_tokens():
    names = (TOKENS[0] or "x", TOKENS[1] or "y")
    for kind in ("points", "map"):
        check(figure(replace(made(), names=names, reference_name=TOKENS[2]), kind=kind))
    tokens = tuple(TOKENS[i % len(TOKENS)] for i in range(65))
    check(figure(replace(moved(), names=names, vocabulary=tokens)))
