"""The figure of an autoencoder's evaluation, made from numbers by hand: SAELens is not needed to draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import SAEEvaluation, Sample
from nanogpt_lens.viz.figures import figure
from tests.nanogpt_lens.viz.figure_helpers import bars, ends

SCORES = ("l0", "explained_variance", "loss_clean", "loss_sae", "recovered_zero", "dead")


def evaluation() -> SAEEvaluation:
    values = torch.tensor([16.0, 0.97, 1.9, 1.92, 0.99, 0.05])
    return SAEEvaluation(
        values=values,
        low=values - 0.01,
        high=values + 0.02,
        chance=torch.tensor([16.0, 0.44, 1.9, 2.5, 0.85, 0.0]),
        axes=("score",),
        labels={"score": SCORES},
        quantity="quality of 64 features at blocks.2.hook_resid_post",
        definition="10 windows of 8 tokens",
        frequency=torch.tensor([0.0, 0.1, 0.1, 0.01] * 16),
        n_tokens=80,
        sample=Sample(n=10, seq_len=8, n_tokens=80, seed=4),
        provenance={"checkpoint": "out/ckpt.pt"},
    )


def test_scores_of_one_unit_share_a_panel():
    made = evaluation()
    drawn = figure(made)
    panels = {trace.xaxis: bars(drawn, i) for i, trace in enumerate(drawn.data) if trace.type == "bar"}
    assert [sorted(panel) for panel in panels.values()] == [
        ["dead", "explained variance", "recovered zero"],
        ["loss clean", "loss sae"],
        ["l0"],
    ]
    titles = [axis.title.text for axis in drawn.select_xaxes()]
    assert titles == ["fraction", "nats per token", "active features per token"]
    for i, trace in enumerate(drawn.data):
        if trace.type == "bar":
            low, high = ends(trace.error_x, trace.x)
            for j, (label, value) in enumerate(bars(drawn, i).items()):
                at = SCORES.index(label.replace(" ", "_"))
                assert value == pytest.approx(float(made.values[at]), rel=1e-4)
                assert (low[j], high[j]) == (
                    pytest.approx(float(made.low[at]), rel=1e-3),
                    pytest.approx(float(made.high[at]), rel=1e-3),
                )
    ticks = [trace for trace in drawn.data if trace.name == "random directions"]
    assert [trace.showlegend for trace in ticks] == [True, False, False]
    assert dict(zip(ticks[0].y, ticks[0].x, strict=True))["explained variance"] == pytest.approx(0.44, rel=1e-4)
    caption = drawn.layout.meta["caption"]
    assert "80 tokens, 10 sequences of 8 tokens, seed 4" in caption
    assert "Checkpoint out." in caption
    assert list(bars(figure(made, score="l0"))) == ["l0"]


def test_density_counts_the_features_that_are_ever_active():
    made = evaluation()
    drawn = figure(made, kind="density")
    expected = made.density()
    np.testing.assert_array_equal(drawn.data[0].y, expected["features"])
    np.testing.assert_allclose(drawn.data[0].customdata[:, 0], expected["low"], rtol=1e-4, atol=1e-6)
    assert drawn.data[0].y.sum() == 48
    assert drawn.layout.title.text.replace("<br>", " ") == "16 of 64 features are never active"
    assert "not shown" in drawn.layout.meta["caption"]
    with pytest.raises(ResultError, match="kind is 'sparsity'; expected one of scores, density"):
        figure(made, kind="sparsity")
