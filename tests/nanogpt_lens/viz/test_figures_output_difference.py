"""Outputs compared: rows and their intervals, gains and losses, excerpts, hostile tokens and names."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.compare.outputs import compare_outputs
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.output_difference import MEASURES
from nanogpt_lens.viz.figures import figure
from nanogpt_lens.viz.widgets import widget
from tests.nanogpt_lens.viz.figure_helpers import QUIET, heats, model, result
from tests.nanogpt_lens.viz.test_figures_hostile import TOKENS, check


def made() -> Any:
    return result("compare_outputs")


def title(drawn: Any) -> str:
    return drawn.layout.title.text.replace("<br>", " ").replace("\u2060", "")


def rows(drawn: Any) -> dict[str, tuple[float, float | None, float | None]]:
    """By label the value and the ends of the interval's line, as drawn."""
    (dots,) = [trace for trace in drawn.data if trace.name == "measured"]
    lines = {shape.y0: (shape.x0, shape.x1) for shape in drawn.layout.shapes}
    names = dict(zip(drawn.layout.yaxis.tickvals, drawn.layout.yaxis.ticktext, strict=True))
    return {names[y]: (float(x), *lines.get(y, (None, None))) for x, y in zip(dots.x, dots.y, strict=True)}


def test_dots_are_the_means_with_intervals_for_all_that_were_ranked():
    drawn, measured = figure(made(), k=3), made()
    found = rows(drawn)
    assert found["all places"] == pytest.approx(measured.measure("kl_ab"), rel=1e-4)
    kinds = measured.where("kind", k=None, least=1).set_index("kind")
    for kind, row in kinds.iterrows():
        expected = (row["mean"], row["low_all"], row["high_all"])
        assert found[str(kind)] == pytest.approx(expected, rel=1e-4)
    top = measured.where("answer", k=3)
    for _, row in top.iterrows():
        token = row["token"].replace("\n", "↵").replace(" ", "·")
        assert found[f"“{token}”"] == pytest.approx((row["mean"], row["low_all"], row["high_all"]), rel=1e-4)
    assert len(found) == 1 + len(kinds) + 3
    mean = measured.measure("kl_ab")[0]
    assert title(drawn).startswith(f"KL(step 800 || step 1200): {mean:.3g} in the mean, {top['mean'][0]:.3g} before “")
    assert "Bonferroni" in drawn.layout.meta["caption"]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("by", ["answer", "context", "kind"])
def test_every_measure_and_group_is_drawn(measure, by):
    drawn = figure(made(), measure=measure, by=by)
    assert rows(drawn)["all places"][0] == pytest.approx(made().measure(measure)[0], rel=1e-4)
    assert drawn.layout.xaxis.range[0] <= min(value for value, *_ in rows(drawn).values())


def test_gains_are_percentage_points():
    drawn = figure(made(), kind="gains", k=4)
    found = list(rows(drawn).values())
    both = [made().gains(4), made().gains(4, order="low")]
    expected = [100 * value for frame in both for value in frame["difference"]]
    assert [value for value, *_ in found] == pytest.approx(expected, rel=1e-4)
    assert title(drawn).endswith("percentage points")


@pytest.mark.parametrize("which", ["differing", "worse", "better"])
def test_cells_of_excerpts_are_tokens_and_their_values(which):
    drawn = figure(made(), kind="excerpts", which=which, k=2)
    (cells,) = heats(drawn)
    for i, excerpt in enumerate(made().excerpts(which)[:2]):
        assert "".join(cells.text[i]).replace("·", " ").replace("↵", "\n") == excerpt.text
        known = np.isfinite(excerpt.activations)
        np.testing.assert_allclose(np.asarray(cells.z)[i][known], np.array(excerpt.activations)[known], rtol=1e-4)
    shown = widget(made(), k=2)
    assert shown.component == "TopkSamples"
    assert len(shown.props["tokens"]) == 3
    assert len(shown.props["tokens"][0][0]) == 3  # two excerpts and the scale


def test_models_that_are_the_same():
    same = compare_outputs(model(), model(), "ROMEO:\nWhat is the sea?\n" * 20, **QUIET)
    assert title(figure(same)) == "a and b predict exactly the same"
    assert title(figure(same, kind="gains")) == "a and b give all tokens the same probability"
    with pytest.raises(ResultError, match="there is no excerpt of this kind"):
        figure(same, kind="excerpts")
    with pytest.raises(ResultError, match="differ nowhere"):
        widget(same)


def test_a_text_of_one_sequence_has_dots_without_intervals():
    short = compare_outputs(model(), model(), "ROMEO:\nWhat", **QUIET)
    assert list(rows(figure(short))) == ["all places"]


def test_options_that_do_not_fit_are_refused():
    for options, said in (
        ({"kind": "bars"}, "kind is 'bars'"),
        ({"by": "token"}, "by is 'token'"),
        ({"measure": "kl"}, "measure is 'kl'"),
        ({"kind": "excerpts", "which": "best"}, "which is 'best'"),
        ({"kind": "gains", "by": "kind"}, "by is 'kind', but this picture has kind='gains'"),
        ({"which": "worse"}, "expected kind='excerpts'"),
        ({"k": 0}, "k is 0"),
    ):
        with pytest.raises(ResultError, match=said):
            figure(made(), **options)
    with pytest.raises(ResultError, match="k is 0"):
        widget(made(), k=0)


@pytest.mark.parametrize("kind", ["where", "gains", "excerpts"])
def test_hostile_tokens_and_names(kind):
    tokens = tuple(TOKENS[i % len(TOKENS)] for i in range(65))
    hostile = replace(made(), vocabulary=tokens, names=(TOKENS[0] or "x", TOKENS[1] or "y"))
    drawn = figure(hostile, kind=kind)
    for note in drawn.layout.annotations:  # headings are bold
        note.text = re.sub("</?b>", "", note.text)
    check(drawn)
    page = widget(hostile).static
    assert "<script" not in page.lower()
    assert "<img" not in page.lower()


def test_the_same_picture_from_a_file(tmp_path):
    made().save(tmp_path / "kept")
    read = type(made()).load(tmp_path / "kept")
    assert figure(read).to_json() == figure(made()).to_json()
    assert torch.equal(read.values, made().values)
