"""Figures show the result's own numbers, at the labelled places: a transposed or shifted picture fails here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures import figure
from tests.hostile import plain
from tests.nanogpt_lens.viz.figure_helpers import TEXT, bars, ends, heats, named, result, shown

CLOSE = {"rel": 1e-4, "abs": 1e-30}


def test_scores_of_heads():
    made = result("prefix_matching")
    for (layer, head), value in shown(figure(made)).items():
        assert value == pytest.approx(float(made.at(layer=int(layer), head=int(head))), **CLOSE)
    drawn = figure(made, kind="bars", k=5)
    listed = bars(drawn)
    assert len(listed) == 5
    for name, value in listed.items():
        layer, head = map(int, name.split("."))
        assert value == pytest.approx(float(made.values[layer, head]), **CLOSE)
    assert min(listed.values()) >= sorted(made.values.flatten().tolist())[-5] - 1e-6
    low, high = ends(drawn.data[0].error_x, drawn.data[0].x)
    for i, name in enumerate(listed):
        layer, head = map(int, name.split("."))
        assert low[i] == pytest.approx(float(made.low[layer, head]), rel=1e-3)
        assert high[i] == pytest.approx(float(made.high[layer, head]), rel=1e-3)
    np.testing.assert_allclose(named(drawn, "chance").x, float(made.chance[0, 0]), rtol=1e-4)


def test_several_scores_each_in_its_panel():
    made = result("score_heads")
    drawn = figure(made)
    titles = [note.text for note in drawn.layout.annotations if note.name is None]
    scores = [score for score in made.labels["score"] if score != "anti_copying"]
    assert titles == [name.replace("_", " ") for name in scores]
    assert torch.equal(made.score("anti_copying"), -made.score("copying")), "one map says both"
    assert "Anti copying is minus copying" in drawn.layout.meta["caption"]
    for i, score in enumerate(scores):
        note = next(n for n in drawn.layout.annotations if n.text == score.replace("_", " "))
        assert note.xref.startswith(drawn.data[i].xaxis)
        for (layer, head), value in shown(drawn, i).items():
            assert value == pytest.approx(float(made.at(score=score, layer=int(layer), head=int(head))), **CLOSE)
        one = figure(made, score=score)
        assert shown(one) == shown(drawn, i)
        assert f"{score}:" in one.layout.meta["caption"]
        assert not [
            other for other in made.labels["score"] if other != score and f"; {other}:" in one.layout.meta["caption"]
        ]


def test_statistics_of_different_units_have_scales_of_their_own():
    made = result("attention_statistics")
    drawn = figure(made)
    tops = [drawn.layout[trace.coloraxis].cmax for trace in heats(drawn)]
    for i, score in enumerate(made.labels["score"]):
        largest = float(made.score(score).abs().max())
        assert tops[i] == 1.0 if made.unit_of(score) == "attention" else largest <= tops[i] < 2.6 * largest
        assert (
            drawn.layout[drawn.data[i].coloraxis].colorbar.x
            == drawn.layout["xaxis" + drawn.data[i].xaxis[1:]].domain[0]
        )
    (unit,) = [n.text for n in figure(made, score="distance").layout.annotations if n.name == "unit"]
    assert unit == "distance (tokens)"


def test_the_taxonomy_frames_the_heads_that_carry_a_name():
    made = result("head_taxonomy")
    drawn = figure(made)
    framed = {
        (shape.xref, round((shape.x0 + shape.x1) / 2), round((shape.y0 + shape.y1) / 2))
        for shape in drawn.layout.shapes
        if shape.name == "carries"
    }
    expected = set()
    maps = {trace.name: trace.xaxis for trace in heats(drawn)}
    for score in made.labels["score"]:
        for layer, head in made.heads(score):
            expected.add((maps["copying" if score == "anti_copying" else score.replace("_", " ")], head, layer))
    assert len(maps) == made.shape["score"] - 1
    copying = drawn.layout[next(trace.coloraxis for trace in heats(drawn) if trace.name == "copying")]
    assert (copying.cmin, copying.cmax) == (-1, 1)
    assert framed == expected
    assert expected, "nothing is tested"


def test_composition_is_sender_by_receiver():
    made = result("composition_scores")
    drawn = figure(made)
    cells = shown(drawn)
    assert ("3.0", "3.1") not in cells
    for (sender, receiver), value in cells.items():
        a, b, c, d = map(int, (*sender.split("."), *receiver.split(".")))
        assert value == pytest.approx(
            float(made.at(sender_layer=a, sender_head=b, layer=c, head=d)), nan_ok=True, **CLOSE
        )
    assert cells["0.1", "2.3"] == pytest.approx(float(made.values[0, 1, 2, 3]), **CLOSE)
    above = shown(figure(made, value="above_chance"))
    assert above["0.1", "2.3"] == pytest.approx(float(made.values[0, 1, 2, 3] - made.chance[0, 1, 2, 3]), rel=1e-3)


def test_loss_by_position_with_bands_and_chance():
    made = result("repeated_sequence_loss")
    drawn = figure(made)
    for condition in ("repeated", "shuffled", "unrepeated"):
        line = named(drawn, condition)
        for position, value in zip(line.x, line.y, strict=True):
            assert value == pytest.approx(float(made.at(condition=condition, pos=str(position))), **CLOSE)
        band = named(drawn, f"{condition}, 95% interval")
        half = len(line.x)
        np.testing.assert_allclose(band.y[:half], made.high[made.labels["condition"].index(condition)], rtol=1e-4)
        np.testing.assert_allclose(band.y[half:][::-1], made.low[made.labels["condition"].index(condition)], rtol=1e-4)
        np.testing.assert_array_equal(band.x[:half], line.x)
    guesses = [trace for trace in drawn.data if trace.name == "a uniform guess"]
    assert len({trace.yaxis for trace in guesses}) == 3, "a panel for each, so that no line hides another"
    for guess in guesses:
        np.testing.assert_allclose(guess.y, np.log(65), rtol=1e-4)
        assert "px" in guess.line.dash
    one = figure(made, condition="shuffled")
    assert [trace.name for trace in one.data if trace.showlegend is not False] == ["a uniform guess"]
    assert [note.text for note in one.layout.annotations if note.name != "caption"] == ["shuffled"]


def test_accuracy_of_clean_and_corrupted_prompts():
    made = result("induction_accuracy")
    drawn = figure(made)
    for prompt in ("clean", "corrupted"):
        trace = named(drawn, prompt)
        low, high = ends(trace.error_y, trace.y)
        for i, score in enumerate(trace.x):
            assert trace.y[i] == pytest.approx(float(made.at(score=score, prompt=prompt)), **CLOSE)
            at = made.labels["score"].index(score), made.labels["prompt"].index(prompt)
            assert (low[i], high[i]) == (
                pytest.approx(float(made.low[at]), abs=1e-5),
                pytest.approx(float(made.high[at]), abs=1e-5),
            )


@pytest.mark.parametrize("name", ["induction_composition", "in_context_learning_score"])
def test_named_scores(name):
    made = result(name)
    for label, value in bars(figure(made)).items():
        assert value == pytest.approx(float(made.score(label.replace(" ", "_"))), **CLOSE)
    one = figure(made, score=made.labels["score"][1])
    assert list(bars(one)) == [made.labels["score"][1].replace("_", " ")]


def test_ablation_of_induction_heads():
    made = result("ablate_induction_heads")
    drawn = figure(made, score="gain_lost")
    listed = bars(drawn)
    assert list(listed) == list(made.labels["ablated"])
    for label, value in listed.items():
        assert value == pytest.approx(float(made.at(ablated=label, score="gain_lost")), **CLOSE)
    assert "mean of controls" in {trace.name for trace in drawn.data}
    assert list(bars(figure(made, show="chosen"))) == ["nothing", "3.2"]


def test_attention_patterns():
    made = result("attention_patterns")
    cells = shown(figure(made, layer=2, head=1))
    assert cells["11 e", "3 s"] == pytest.approx(float(made.values[2, 1, 11, 3]), **CLOSE)
    assert math.isnan(cells["3 s", "11 e"]), "hidden by the causal mask"
    drawn = figure(made, layer=2, head=1)
    assert drawn.layout.yaxis.range == (11.5, -0.5), "the first query is on top"
    assert "hidden by the causal mask" in drawn.layout.meta["caption"]
    every = figure(made)
    assert len(every.data) == 16
    for i, trace in enumerate(every.data):
        layer, head = divmod(i, 4)
        assert trace.name == f"{layer}.{head}"
        assert shown(every, i)["7 i", "2 r"] == pytest.approx(float(made.values[layer, head, 7, 2]), **CLOSE)
    assert [trace.name for trace in figure(made, layer=3).data] == ["3.0", "3.1", "3.2", "3.3"]
    two = result("attention_patterns, two texts")
    assert shown(figure(two, example=1, layer=0, head=0))["8", "4"] == pytest.approx(
        float(two.values[1, 0, 0, 8, 4]), **CLOSE
    )


def test_rollout_and_flow_from_every_position():
    made = result("attention_rollout")
    assert shown(figure(made))["11 e", "3 s"] == pytest.approx(float(made.values[-1, 11, 3]), **CLOSE)
    assert shown(figure(made, layer=1))["11 e", "3 s"] == pytest.approx(float(made.values[1, 11, 3]), **CLOSE)
    two = result("attention_rollout, two texts")
    assert shown(figure(two, example=1))["8", "3"] == pytest.approx(float(two.values[1, -1, 8, 3]), **CLOSE)
    flow = result("attention_flow, positions")
    assert shown(figure(flow))["7 i", "3 s"] == pytest.approx(float(flow.values[7, 3]), **CLOSE)


def links(drawn: Any) -> dict[tuple[str, str, str, str], float]:
    """Of a Sankey: the value between (label, column) and (label, column)."""
    node, link = drawn.data[0].node, drawn.data[0].link
    ends = [(label, column) for label, column in zip(node.label, node.customdata, strict=True)]
    return {(*ends[s], *ends[t]): float(v) for s, t, v in zip(link.source, link.target, link.value, strict=True)}


def test_flow_as_a_sankey():
    made = result("attention_flow")
    found = links(figure(made, links=5))
    largest = made.values.argsort(descending=True)[:5].tolist()
    assert {source.split(" ")[0] for source, *_ in found} == {str(i) for i in largest}
    for (source, _, end, _), value in found.items():
        assert end == "11 e"
        assert value == pytest.approx(float(made.values[int(source.split(" ")[0])]), **CLOSE)
    for label, value in bars(figure(made, kind="bars")).items():
        assert value == pytest.approx(float(made.values[int(label.split(" ")[0])]), **CLOSE)
    layers = result("attention_flow, layers")
    for (source, _, end, _), value in links(figure(layers)).items():
        assert value == pytest.approx(
            float(layers.values[int(end.removeprefix("layer ")), int(source.split(" ")[0])]), **CLOSE
        )


def test_ways_through_all_layers_are_those_of_rollout():
    """All links together carry rollout's shares from the input tokens to the position."""
    patterns, rollout = result("attention_patterns"), result("attention_rollout")
    found = links(figure(patterns, kind="rollout", pos=9, links=10_000))
    for source in range(10):
        label = f"{source} {TEXT[source]}".replace("  ", " ·")
        total = sum(v for (name, column, *_), v in found.items() if (name, column) == (label, "input"))
        assert total == pytest.approx(float(rollout.values[-1, 9, source]), rel=1e-3), label
    few = figure(patterns, kind="rollout", pos=9, links=12)
    shown, strongest = links(few), sorted(found, key=found.get, reverse=True)
    assert 8 <= len(shown) <= 12
    assert shown.items() <= found.items()
    assert strongest[0] in shown
    ends = {end[2:] for end in shown} | {end[:2] for end in shown}
    for node in ends:
        assert node[1] == "input" or any(link[2:] == node for link in shown), "it comes from nowhere"
        assert node[1] == "after layer 3" or any(link[:2] == node for link in shown), "it leads nowhere"
    height = np.array(few.data[0].node.y)
    assert height.min() > 0
    assert height.max() < 1
    with pytest.raises(ResultError, match="expected a number from 0 to 1"):
        figure(patterns, kind="rollout", residual=2)
    with pytest.raises(ResultError, match="there is no dest_pos 12; expected 0 to 11"):
        figure(patterns, kind="rollout", pos=12)


def test_patching_is_layer_head_by_position():
    made = result("activation_patching")
    drawn = figure(made)
    for (site, position), value in shown(drawn).items():
        layer, head = map(int, site.split("."))
        assert value == pytest.approx(float(made.recovery[layer, head, int(position)]), **CLOSE)
    low, high = drawn.data[0].customdata[..., 0], drawn.data[0].customdata[..., 1]
    at = list(drawn.data[0].y).index("0.1"), 9
    gap = made.clean - made.corrupted
    assert (low[at], high[at]) == (
        pytest.approx(float(made.effect_low[0, 1, 9]) / gap, rel=1e-3),
        pytest.approx(float(made.effect_high[0, 1, 9]) / gap, rel=1e-3),
    )
    assert shown(figure(made, value="effect"))["2.3", "9"] == pytest.approx(float(made.effect[2, 3, 9]), **CLOSE)
    assert shown(figure(made, value="value"))["2.3", "9"] == pytest.approx(float(made.values[2, 3, 9]), **CLOSE)
    assert shown(figure(made, head=3))["2", "9"] == pytest.approx(float(made.recovery[2, 3, 9]), **CLOSE)
    assert f"clean run {made.clean:.4g}" in drawn.layout.meta["caption"]


def test_recovery_bars_have_the_intervals_of_the_effect():
    made = result("activation_patching")
    drawn = figure(made, kind="bars", k=6)
    low, high = ends(drawn.data[0].error_x, drawn.data[0].x)
    for i, (label, value) in enumerate(bars(drawn).items()):
        site, position = label.split(", ")
        layer, head = map(int, site.split("."))
        assert value == pytest.approx(float(made.recovery[layer, head, int(position)]), **CLOSE)
        gap = made.clean - made.corrupted
        assert low[i] == pytest.approx(float(made.effect_low[layer, head, int(position)]) / gap, rel=1e-3, abs=1e-6)
        assert high[i] == pytest.approx(float(made.effect_high[layer, head, int(position)]) / gap, rel=1e-3, abs=1e-6)


def test_recovery_of_noising_and_of_a_negative_gap_keep_low_below_high():
    made = result("activation_patching, layers")
    assert made.direction == "noise"
    drawn = figure(made)
    assert list(bars(drawn)) == ["0", "1", "2", "3"], "layers stay in their order"
    low, high = ends(drawn.data[0].error_x, drawn.data[0].x)
    assert (low <= np.array(drawn.data[0].x) + 1e-6).all()
    assert (high >= np.array(drawn.data[0].x) - 1e-6).all()
    gap = made.clean - made.corrupted
    np.testing.assert_allclose(low, 1 + made.effect_low / gap, rtol=1e-3)
    from dataclasses import replace

    flipped = replace(
        made,
        values=-made.values,
        clean=-made.clean,
        corrupted=-made.corrupted,
        effect_low=-made.effect_high,
        effect_high=-made.effect_low,
    )
    again = ends(figure(flipped).data[0].error_x, figure(flipped).data[0].x)
    np.testing.assert_allclose(again, (low, high), rtol=1e-3, atol=1e-6)


def test_axes_in_any_order_and_all_activations():
    made = result("activation_patching, residual")
    assert made.axes == ("pos", "layer")
    assert shown(figure(made))["2", "9 l|h"] == pytest.approx(float(made.recovery[9, 2]), **CLOSE)
    pattern = result("activation_patching, pattern")
    drawn = figure(pattern)
    layer, head = np.unravel_index(int(pattern.effect.abs().amax((2, 3)).argmax()), (4, 4))
    assert f"layer {layer}, head {head}" in drawn.layout.meta["caption"]
    assert shown(drawn)["9 l|h", "8 ·"] == pytest.approx(float(pattern.recovery[layer, head, 9, 8]), **CLOSE)
    assert shown(figure(pattern, layer=1, head=2))["9 l|h", "8 ·"] == pytest.approx(
        float(pattern.recovery[1, 2, 9, 8]), **CLOSE
    )
    neurons = result("activation_patching, neurons")
    cells = bars(figure(neurons, kind="bars", k=3))
    best = max(cells, key=lambda name: abs(cells[name]))
    layer, neuron = map(int, best.split("."))
    assert abs(float(neurons.effect[layer, neuron])) == pytest.approx(float(neurons.effect.abs().max()), **CLOSE)


def test_without_a_corrupted_run_there_is_no_recovery():
    made = result("activation_patching, zero")
    assert shown(figure(made))["3", "1"] == pytest.approx(float(made.effect[3, 1]), **CLOSE)
    with pytest.raises(
        ResultError, match="no recovery, because there is no corrupted run; expected one of effect, value"
    ):
        figure(made, value="recovery")
    with pytest.raises(ResultError, match="there is no layer 9; expected 0 to 3"):
        figure(made, layer=9)


def test_path_patching_is_sender_by_receiver():
    made = result("path_patching")
    cells = shown(figure(made))
    assert cells["0.1", "mlp3"] == pytest.approx(
        float(made.at(sender="0.1", receiver="mlp3") - made.corrupted) / (made.clean - made.corrupted),
        rel=1e-3,
        abs=1e-5,
    )
    positions = result("path_patching, positions")
    drawn = figure(positions)
    assert shown(drawn)["2.3", "9"] == pytest.approx(float(positions.recovery[11, 0, 9]), **CLOSE)
    assert "receiver logits" in drawn.layout.meta["caption"]


def test_estimates_and_what_was_verified():
    made = result("attribution_patching")
    assert shown(figure(made))["1.2", "9 l|h"] == pytest.approx(float(made.values[1, 2, 9]), **CLOSE)
    screened = result("screen_and_verify")
    drawn = figure(screened)
    dots = named(drawn, "patched exactly")
    found = {(site, position) for site, position in zip(dots.y, dots.x, strict=True)}
    expected = {(f"{i}.{j}", str(k)) for i, j, k in screened.verified.nonzero().tolist()}
    assert found == expected
    assert shown(figure(screened, value="estimate"))["0.3", "9"] == pytest.approx(
        float(screened.estimate[0, 3, 9]), **CLOSE
    )


def test_the_lens_table():
    made = result("logit_lens")
    drawn = figure(made, pos=(3, 9))
    trace = drawn.data[0]
    assert list(trace.x) == [f"{i} {TEXT[i]}".replace("  ", " ·") for i in range(3, 9)]
    assert list(trace.y) == [name for *_, name in made.in_depth_order()]
    for row, (layer, point, _) in enumerate(made.in_depth_order()):
        for column, position in enumerate(range(3, 9)):
            token = made.string(int(made.top_tokens[layer, point, position, 0]))
            assert plain(trace.text[row][column]) == {" ": "·", "\n": "↵"}.get(token, token)
            assert trace.z[row, column] == pytest.approx(
                float(made.top_logprobs[layer, point, position, 0].exp()), **CLOSE
            )
            facts = trace.customdata[row, column]
            assert facts[1] == pytest.approx(float(made.kl[layer, point, position]), rel=1e-4, abs=1e-6)
            assert facts[4] == int(made.rank[layer, point, position])
    kl = figure(made, colour="kl")
    assert shown(kl)["1.resid_mid", "4 t"] == pytest.approx(float(made.kl[1, 1, 4]), **CLOSE)
    rank = figure(made, colour="rank", pos=(len(TEXT) - 2, len(TEXT)))
    assert np.isnan(rank.data[0].z[0, -1]), "nothing follows the last token"
    two = result("logit_lens, two texts")
    drawn = figure(two, example=1, colour="entropy")
    assert drawn.data[0].x[0] == "0 i"
    assert shown(drawn)["2.resid_post", "5 ↵"] == pytest.approx(float(two.entropy[2, 2, 1, 5]), **CLOSE)
    for wrong in ((3, 3), (60, 70), 5, "all"):
        with pytest.raises(ResultError, match="expected"):
            figure(made, pos=wrong)


def test_lens_curves():
    made = result("logit_lens")
    drawn = figure(made, kind="curves")
    line = named(drawn, "kl")
    for (layer, point, name), x, y, text in zip(made.in_depth_order(), line.x, line.y, line.text, strict=True):
        assert text == name
        assert x == made.depths()[layer][point] / 2
        assert y == pytest.approx(float(made.kl[layer, point].mean()), rel=1e-4, abs=1e-6)
    assert named(drawn, "bits per char").y[0] == pytest.approx(float(made.bits_per_char[0, 0]), **CLOSE)
    assert named(figure(made, score="logprob"), "logprob").y[0] == pytest.approx(
        float(made.values[0, 0].nanmean()), **CLOSE
    )


def test_convergence():
    made = result("measure_convergence")
    drawn = figure(made)
    line, band = named(drawn, "agreement"), named(drawn, "agreement, 95% interval")
    i = made.labels["score"].index("agreement")
    order = [(a, b) for a, b, _ in made.in_depth_order()]
    np.testing.assert_allclose(line.y, [made.values[i, a, b] for a, b in order], rtol=1e-4)
    np.testing.assert_allclose(band.y[: len(order)], [made.high[i, a, b] for a, b in order], rtol=1e-4)
    levels = [trace.y[0] for trace in drawn.data if trace.name == "chance"]
    np.testing.assert_allclose(levels, made.chance[:, 0, 0], rtol=1e-4)
    depth = named(figure(made, kind="depth"), "mean depth")
    np.testing.assert_allclose(depth.y, made.depth_by_position, rtol=1e-4)


def test_direct_logit_attribution():
    made = result("direct_logit_attribution")
    listed = bars(figure(made, k=100))
    assert sum(listed.values()) == pytest.approx(float(made.total[0]), rel=1e-3)
    for label, value in listed.items():
        i = [name.replace("_", " ") for name in made.labels["component"]].index(label)
        assert value == pytest.approx(float(made.values[i, 0]), rel=1e-3, abs=1e-7)
    several = result("direct_logit_attribution, positions")
    assert shown(figure(several))["2.1", "4 t"] == pytest.approx(
        float(several.values[several.labels["component"].index("2.1"), 4]), **CLOSE
    )
    assert bars(figure(several, pos=4, k=100))["2.1"] == pytest.approx(shown(figure(several))["2.1", "4 t"])


@pytest.mark.parametrize("name", ["train_tuned_lens", "evaluate_lens"])
def test_tuned_beside_logit_lens(name):
    made = result(name)
    drawn = figure(made)
    for score in ("tuned", "logit"):
        line, band = named(drawn, f"{score} lens"), named(drawn, f"{score} lens, 95% interval")
        order = [(a, b) for a, b, _ in made.in_depth_order()][:-1]  # both are 0 at the output
        i = made.labels["score"].index(score)
        np.testing.assert_allclose(line.y, [made.values[i, a, b] for a, b in order], rtol=1e-4)
        np.testing.assert_allclose(band.y[: len(order)], [made.high[i, a, b] for a, b in order], rtol=1e-4)
    assert drawn.layout.yaxis.type == "log"
    assert len(named(figure(made, y="linear"), "tuned lens").y) == len(made.in_depth_order())
    assert named(figure(made, score="gain", y="linear"), "gain").y[0] == pytest.approx(
        float(made.score("gain")[0, 0]), **CLOSE
    )


def test_training_of_the_tuned_lens():
    made = result("train_tuned_lens")
    line = named(figure(made, kind="training"), "resid_mid 1")
    np.testing.assert_array_equal(line.x, made.curve_steps)
    np.testing.assert_allclose(line.y, made.curve[:, made.translated.index(3)], rtol=1e-4)


def test_one_neurons_histogram_and_all_neurons():
    made = result("search_neurons")
    drawn = figure(made, layer=3, neuron=33)
    counts = drawn.data[0]
    np.testing.assert_array_equal(counts.y, made.histogram[1, 33])
    low, high = made.bounds[1, 33].tolist()
    assert counts.customdata[0, 0] == pytest.approx(low, **CLOSE)
    assert counts.customdata[-1, 1] == pytest.approx(high, **CLOSE)
    np.testing.assert_allclose(np.diff(counts.x), (high - low) / len(counts.y), rtol=1e-2)
    mean = next(trace for trace in drawn.data if str(trace.name).startswith("mean"))
    assert mean.x[0] == pytest.approx(float(made.mean[1, 33]), **CLOSE)
    points = named(figure(made), "layer 3")
    at = list(points.text).index("3.33")
    assert points.x[at] == pytest.approx(100 * (1 - float(made.sparsity[1, 33])), rel=1e-3)
    assert points.y[at] == pytest.approx(float(made.values[1, 33]), **CLOSE)
    with pytest.raises(ResultError, match="neuron=33 was given without layer="):
        figure(made, neuron=33)
    with pytest.raises(ResultError, match="'1'"):
        figure(made, layer=1, neuron=0)


def test_correlations():
    made = result("neuron_statistics")
    drawn = figure(made, layer=1, to=2, k=6)
    cells = shown(drawn)
    assert len(cells) == 36
    for (a, b), value in cells.items():
        i, j = (made.labels["neuron"].index(name.split(".")[1]) for name in (a, b))
        assert (a[0], b[0]) == ("1", "2")
        assert value == pytest.approx(float(made.across[0, i, j]), rel=1e-3, abs=1e-6)
    assert max(map(abs, cells.values())) == pytest.approx(float(made.across[0].abs().nan_to_num(0).max()), **CLOSE)
    flipped = shown(figure(made, layer=2, to=1, k=6))
    assert flipped[max(cells, key=cells.get)[::-1]] == pytest.approx(max(cells.values()))
    best = made.top(1).iloc[0]
    within = shown(figure(made, layer=int(best.layer_a))) if best.layer_a == best.layer_b else None
    if within:
        pair = f"{best.layer_a:.0f}.{best.neuron_a:.0f}", f"{best.layer_b:.0f}.{best.neuron_b:.0f}"
        assert within[pair] == within[pair[::-1]] == pytest.approx(best.correlation, **CLOSE)
    spread = figure(made, layer=1, kind="distribution").data[0]
    finite = made.within[0][torch.triu(torch.ones(64, 64), 1).bool()].isfinite().sum()
    assert spread.y.sum() == int(finite)
    with pytest.raises(ResultError, match="the label '3' of the axis 'layer' is not there"):
        figure(made, layer=3)


def test_neurons_that_separate_a_class():
    made = result("find_neurons")
    drawn = figure(made, k=5)
    points = named(drawn, "held out")
    assert [tuple(map(int, name.split("."))) for name in points.y] == made.best(5)
    low, high = ends(points.error_x, points.x)
    for i, (layer, neuron) in enumerate(made.best(5)):
        assert points.x[i] == pytest.approx(float(made.held_out[layer, neuron]), **CLOSE)
        assert low[i] == pytest.approx(float(made.low[layer, neuron]), rel=1e-3)
        assert high[i] == pytest.approx(float(made.high[layer, neuron]), rel=1e-3)
    assert named(drawn, "best by chance").x[0] == pytest.approx(made.chance, rel=1e-4)
    assert drawn.layout.xaxis.range[0] <= made.chance
    assert figure(made, kind="all").data[0].y.sum() == made.values.isfinite().sum()


def test_what_ablation_of_neurons_costs():
    made = result("ablate_neurons")
    drawn = figure(made)
    for label, value in bars(drawn).items():
        assert value == pytest.approx(float(made.values[0, made.labels["score"].index(label)]), rel=1e-3, abs=1e-9)
    assert "loss" not in bars(drawn)
    hits = figure(made, kind="hits", k=4)
    np.testing.assert_allclose(list(bars(hits).values()), made.hit_values[:4], rtol=1e-4)
    assert all("→" in label for label in bars(hits))


def test_activations_on_a_text():
    made = result("get_neuron_activations")
    cells = shown(figure(made, neurons=[7, 5], layer=3))
    assert cells["3.7", "2 r"] == pytest.approx(float(made.values[1, 7, 2]), **CLOSE)
    cells = shown(figure(made, k=4))
    assert max(map(abs, cells.values())) == pytest.approx(float(made.values.abs().max()), **CLOSE)
    for (neuron, position), value in cells.items():
        layer, unit = neuron.split(".")
        assert value == pytest.approx(float(made.at(layer=int(layer))[int(unit), int(position.split(" ")[0])]), **CLOSE)
    two = result("get_neuron_activations, two texts")
    assert shown(figure(two, example=1, layer=2, neurons=[9]))["2.9", "4"] == pytest.approx(
        float(two.values[1, 2, 9, 4]), **CLOSE
    )


def test_directions():
    made = result("principal_components")
    drawn = figure(made, k=4)
    np.testing.assert_allclose(drawn.data[0].y, 100 * made.ratio[:4], rtol=1e-4)
    np.testing.assert_allclose(drawn.data[1].y, 100 * made.ratio[:4].cumsum(0), rtol=1e-4)
    tokens = result("project_direction")
    listed = bars(figure(tokens, k=3))
    assert len(listed) == 6
    order = tokens.values.argsort(descending=True).tolist()
    np.testing.assert_allclose(list(listed.values()), tokens.values[order[:3] + order[-3:]], rtol=1e-4)
    first = tokens.labels["token"][order[0]]
    assert next(iter(listed)) == f"“{ {' ': '·', chr(10): '↵'}.get(first, first) }”"
    similar = result("direction_similarity")
    listed = bars(figure(similar, which="output", k=3))
    largest = similar.kind("output").abs().flatten().topk(3)
    assert [f"{i // 512}.{i % 512}" for i in largest.indices.tolist()] == list(listed)
    np.testing.assert_allclose(np.abs(list(listed.values())), largest.values, rtol=1e-4)
    ticks = figure(similar, which="output", k=3).data[1].x
    np.testing.assert_allclose(np.abs(ticks), similar.chance_of_largest["output"], rtol=1e-4)


def test_steering_is_in_the_order_of_the_scales():
    made = result("steering_effect")
    assert made.scales == (4.0, -4.0, 0.0)
    drawn = figure(made, score="kl")
    line = named(drawn, "this direction")
    np.testing.assert_array_equal(line.x, [-4, 0, 4])
    np.testing.assert_allclose(line.y, made.score("kl")[[1, 2, 0]], rtol=1e-4, atol=1e-9)
    i = made.labels["score"].index("kl")
    np.testing.assert_allclose(named(drawn, "random directions").y, made.chance[[1, 2, 0], i], rtol=1e-4, atol=1e-9)
    band = named(drawn, "random directions, lowest to highest")
    np.testing.assert_allclose(band.y[:3], made.chance_high[[1, 2, 0], i], rtol=1e-4, atol=1e-9)


def test_trajectories():
    made = result("steps")
    drawn = figure(made, mark=(100, 40, 600))
    line, band = named(drawn, "previous token"), named(drawn, "previous token, low to high")
    np.testing.assert_array_equal(line.x, [0, 10, 50, 100, 500, 1000])
    np.testing.assert_allclose(line.y, made.score("previous_token"), rtol=1e-4)
    np.testing.assert_allclose(band.y[:6], made.high[:, 1], rtol=1e-4)
    np.testing.assert_allclose(band.y[6:][::-1], made.low[:, 1], rtol=1e-4)
    assert set(named(drawn, "chance").y) == {np.float32(0.25)}
    lines = [shape for shape in drawn.layout.shapes if shape.type == "line"]
    areas = [shape for shape in drawn.layout.shapes if shape.type == "rect"]
    assert [shape.x0 for shape in lines] == [100]
    assert [(shape.x0, shape.x1) for shape in areas] == [(40, 600)]
    assert "Dotted: step 100 (interval 40 to 600)" in drawn.layout.meta["caption"]
    log = figure(made, x="log", mark=0)
    np.testing.assert_array_equal(named(log, "sink").x, [5, 10, 50, 100, 500, 1000])
    assert log.layout.xaxis.ticktext[0] == "0"
    assert log.layout.xaxis.tickvals[0] == 5
    for wrong in ("now", (5, 9, 1), (1, 2), True, -4, float("nan")):
        with pytest.raises(ResultError, match="mark is"):
            figure(made, mark=wrong)


def test_trajectories_of_many_heads_name_those_that_change_most():
    made = result("steps of heads")
    drawn = figure(made, k=2)
    spread = (made.values.amax(0) - made.values.amin(0)).flatten()
    best = {f"{i // 4}.{i % 4}" for i in spread.topk(2).indices.tolist()}
    assert {trace.name for trace in drawn.data if trace.showlegend} == {*best, "chance"}
    np.testing.assert_allclose(named(drawn, "2.3").y, made.values[:, 2, 3], rtol=1e-4)
    assert {trace.name for trace in figure(made, layer=1, head=2).data} == {
        "head score",
        "head score, low to high",
        "chance",
    }
    assert "layer 1, head 2" in figure(made, layer=1, head=2).layout.meta["caption"]
    colours = [trace.line.color for trace in figure(made, k=12).data if trace.showlegend and trace.name != "chance"]
    dashes = [trace.line.dash for trace in figure(made, k=12).data if trace.showlegend and trace.name != "chance"]
    assert len(set(zip(colours, dashes, strict=True))) == 12, "colours come back dashed"
    assert style.CATEGORIES[0] in colours
