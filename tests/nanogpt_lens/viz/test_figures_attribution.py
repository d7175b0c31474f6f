"""Direct logit attribution of one text of several, of many components, and without the tokens' text."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.viz.figures import figure
from tests.nanogpt_lens.viz.figure_helpers import TEXT, bars, model, shown


def test_direct_logit_attribution_of_one_of_several_texts():
    texts = [TEXT[:9], TEXT[9:18]]
    made = ngl.direct_logit_attribution(model(), texts, "n", "r", pos=[3, 8])
    for i, text in enumerate(texts):
        alone = ngl.direct_logit_attribution(model(), text, "n", "r", pos=[3, 8])
        got, expected = (bars(figure(one, k=100, pos=1, **o)) for one, o in ((made, {"example": i}), (alone, {})))
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-6)
    drawn = figure(made, example=1, pos=0, k=2)
    kept = sorted(made.values[:, 1, 0].tolist(), key=abs, reverse=True)[:2]
    assert sorted(bars(drawn).values()) == pytest.approx(sorted(kept), rel=1e-3)
    said = drawn.layout.meta["caption"]
    total, rest = float(made.total[1, 0]), float(made.total[1, 0]) - sum(kept)
    assert said.startswith("Example 1 of 2. Answer: “n”, minus that of “r”. ")
    assert (
        f"At position 3. All {made.shape['component']} components sum to {total:.4g}; those not shown to {rest:.4g}"
        in said
    )


def test_of_many_components_the_largest_are_drawn():
    made = ngl.direct_logit_attribution(model(), TEXT[:12], "n", pos=[2, 11], components="neurons")
    drawn = figure(made, kind="heatmap")
    cells = shown(drawn)
    assert len({row for row, _ in cells}) == 48
    largest = made.values.abs().amax(1)
    kept = largest.topk(48).values
    assert sorted(
        max(abs(v) for (r, _), v in cells.items() if r == row) for row in {r for r, _ in cells}
    ) == pytest.approx(sorted(kept.tolist()), rel=1e-2)
    assert f"The 48 components with the largest magnitude, of {len(largest)}" in drawn.layout.meta["caption"]


def test_positions_without_a_text_are_the_texts_own():
    made = ngl.direct_logit_attribution(model(), torch.tensor([[5, 9, 12, 3], [7, 7, 1, 2]]), 4, pos=[1, 3])
    assert {column for _, column in shown(figure(made, kind="heatmap"))} == {"1", "3"}
