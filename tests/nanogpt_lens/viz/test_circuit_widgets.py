"""The circuit's widget carries the result's own edges, values and faithfulness, and refuses what it cannot show."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import AttributionResult, PatchingResult, Scores
from nanogpt_lens.viz.circuit_widgets import MOST
from nanogpt_lens.viz.style import RUST, TEAL
from tests.hostile import HOSTILE
from tests.nanogpt_lens.viz.circuit_helpers import KEPT, NAMES, made


def effects(values, tokens=None, *, low=None, high=None, names=NAMES, per_example=None):
    """Made-up effects of edges: the metric is 3 without a change."""
    labels = {"edge": tuple(names)} | ({"pos": tuple(tokens)} if tokens else {})
    return PatchingResult(
        values=values + 3.0,
        axes=("edge", "pos") if values.dim() == 2 else ("edge",),
        labels=labels,
        quantity="the metric after changing one edge",
        definition="made up",
        clean=3.0,
        corrupted=1.0,
        direction="noise",
        patched="edges",
        effect_low=low,
        effect_high=high,
        low=None if low is None else low + 3.0,
        high=None if high is None else high + 3.0,
        per_example=per_example,
        interval="t",
    )


def values_of(seed=0, n_pos=None):
    shape = (len(NAMES),) if n_pos is None else (len(NAMES), n_pos)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names_in(props):
    """The edges of a widget by name, as a reader of its data would spell them."""
    nodes = props["nodes"]
    return [f"{nodes[a]}->{nodes[b]}" + (f".{part}" if part else "") for a, b, part in props["edges"]]


class TestCircuit:
    def test_the_edges_are_in_the_order_of_their_rank_with_their_own_scores(self):
        circuit = made()
        props = circuit.widget().props
        by_rank = sorted(zip(circuit.rank.tolist(), NAMES, circuit.values.tolist(), strict=True))
        assert names_in(props) == [name for _, name, _ in by_rank]
        assert [row[0] for row in props["values"]] == [value for _, _, value in by_rank]
        assert sorted(names_in(props)[i] for i in props["circuit"]) == sorted(KEPT)

    def test_each_number_of_edges_has_its_faithfulness(self):
        circuit = made()
        props = circuit.widget().props
        assert props["curve"] == pytest.approx([circuit.faithfulness_at(n) for n in range(len(NAMES) + 1)])
        assert props["faithfulness"] == pytest.approx(circuit.faithfulness)

    def test_a_greedy_circuit_shows_what_is_lost_without_an_edge(self):
        circuit = made(method="greedy")
        props = circuit.widget().props
        shown = dict(zip(names_in(props), (row[0] for row in props["values"]), strict=True))
        assert [shown[name] for name in KEPT] == pytest.approx([0.2 - circuit.faithfulness] * 3, abs=1e-3)
        assert {shown[name] for name in NAMES if name not in KEPT} == {None}

    def test_an_infinite_score_is_as_large_as_the_largest(self):
        values = made().values.clone()
        values[3] = torch.inf
        props = made(values=values).widget().props
        assert props["values"][names_in(props).index(NAMES[3])] == [4.0]

    def test_the_circuit_is_whole_where_the_first_by_rank_are_not(self):
        names = tuple(f"{sender}->1.{head}.q" for head in range(700) for sender in ("embed", "0.0"))
        rank = torch.arange(len(names)).flip(0)
        kept = (names[0], names[-1])
        fields = {"values": torch.rand(len(names)), "rank": rank, "curve": torch.ones(len(names) + 1)}
        widget = made(names, kept=kept, **fields).widget()
        assert len(widget.props["edges"]) == MOST + 1  # the circuit's edge of the last rank beside the first
        assert len(widget.props["curve"]) == MOST + 1
        assert {names_in(widget.props)[i] for i in widget.props["circuit"]} == set(kept)
        assert f"{MOST + 1:,} strongest of 1,400 edges" in widget.caption

    def test_edges_that_are_none_of_a_model(self):
        with pytest.raises(ResultError, match="is no edge of a circuit"):
            made(("<b>->1.0.q", *NAMES[1:])).widget()


class TestEdgeEffects:
    def test_effects_and_their_intervals(self):
        values = values_of()
        props = effects(values, low=values - 1, high=values + 1).widget().props
        by_name = dict(zip(NAMES, values.tolist(), strict=True))
        for name, [value], [[low, high]] in zip(names_in(props), props["values"], props["ranges"], strict=True):
            assert value == pytest.approx(by_name[name], rel=1e-3)
            assert [low, high] == pytest.approx([by_name[name] - 1, by_name[name] + 1], rel=1e-3)
        assert sorted(abs(row[0]) for row in props["values"])[::-1] == [abs(row[0]) for row in props["values"]]

    def test_few_prompts_are_said_to_be_few(self):
        values = values_of()
        few = effects(values, low=values - 1, high=values + 1, per_example=values[:, None].expand(-1, 4) + 3.0)
        assert "Few examples: n = 4" in few.widget().caption

    def test_each_position_has_its_own_effects(self):
        values = values_of(n_pos=3)
        props = effects(values, ["a", " b", "\n"]).widget(pos=-1).props
        assert (props["tokens"], props["pos"]) == (["a", "·b", "↵"], 2)
        by_name = dict(zip(NAMES, values.tolist(), strict=True))
        for name, row in zip(names_in(props), props["values"], strict=True):
            assert row == pytest.approx(by_name[name], rel=1e-3)

    def test_the_first_position_is_that_of_the_largest_effects(self):
        values = values_of(n_pos=4)
        values[:, 2] *= 100
        assert effects(values, "abcd").widget().props["pos"] == 2

    def test_positions_without_tokens_are_numbers(self):
        assert effects(values_of(n_pos=3)).widget().props["tokens"] == ["0", "1", "2"]

    def test_estimates_are_told_from_effects(self):
        estimates = AttributionResult(
            values=values_of(), axes=("edge",), labels={"edge": NAMES}, quantity="q", definition="d", base=1.0
        )
        assert estimates.widget().props["value"] == "estimated effect"
        assert effects(values_of()).widget().props["value"] == "effect"

    @pytest.mark.parametrize("pos", [3, -4, True, "a", 1.0])
    def test_a_position_that_is_not_there(self, pos):
        with pytest.raises(ResultError, match="expected a whole number from -3 to 2"):
            effects(values_of(n_pos=3), "abc").widget(pos=pos)

    def test_what_is_nan_is_refused(self):
        values = values_of()
        values[0] = torch.nan
        with pytest.raises(ResultError, match="nan or infinite"):
            effects(values).widget()

    def test_results_that_are_not_of_edges_have_no_such_widget(self):
        layers = effects(values_of(), names=[f"site {i}" for i in range(len(NAMES))])
        scores = Scores(values=torch.zeros(2, 2), axes=("layer", "head"), quantity="q", definition="d")
        for result in (layers, scores):
            with pytest.raises(ResultError, match="there is no widget for a"):
                result.widget()


@pytest.mark.parametrize(
    ("direction", "corrupted", "lower", "falls"),
    [
        ("noise", 1.0, False, True),
        ("noise", 5.0, False, False),  # a loss: the corrupted run has more of it
        ("denoise", 1.0, False, False),
        ("denoise", 5.0, False, True),
        ("denoise", None, False, True),  # an ablation
        ("denoise", None, True, False),  # and of a loss
    ],
)
def test_teal_is_what_helps_whichever_way_it_was_asked(direction, corrupted, lower, falls):
    values = values_of()
    changed = {"direction": direction, "corrupted": corrupted, "lower_is_better": lower}
    measured = replace(effects(values), **changed)
    base = 3.0 if direction == "noise" or corrupted is None else corrupted
    measured = replace(measured, values=values + base)
    target = corrupted if direction == "noise" or corrupted is None else 3.0
    estimated = AttributionResult(
        values=values, axes=("edge",), labels={"edge": NAMES}, quantity="q", definition="d", base=base, target=target,
        patched="edges", direction=direction, lower_is_better=lower,
    )  # fmt: skip
    for result in (measured, estimated):
        assert result.falls_helps is falls
        props = result.widget().props
        assert props["falls_helps"] is falls
        assert props["legend"][0] == ["up", f"helps: changed, the metric {'falls' if falls else 'rises'}"]
        picture = result.plot(kind="bars", k=len(NAMES), **({"value": "effect"} if result is measured else {}))
        bars = picture.data[0]
        assert {(x < 0, c) for x, c in zip(bars.x, bars.marker.color, strict=True)} == {
            (True, TEAL if falls else RUST),
            (False, RUST if falls else TEAL),
        }
        layout: Any = result.plot(**({"value": "effect"} if result is measured else {})).layout
        table = layout.coloraxis
        assert [table.colorscale[i][1] for i in (0, -1)] == ([TEAL, RUST] if falls else [RUST, TEAL])
        assert 'stroke="' + (TEAL if falls == (values.abs().max() == -values.min()) else RUST) in result.widget().static


class TestLooks:
    @pytest.mark.parametrize("names", [NAMES, (*NAMES[:6], "embed->logits")])
    def test_an_edge_begins_at_its_sender_and_ends_at_its_receiver(self, names):
        props = made(names).widget().props
        for (sender, receiver, part), way in zip(props["edges"], props["ways"], strict=True):
            (x, y), (to_x, to_y) = way[:2], way[-2:]
            from_x, from_y, _, from_tall = props["boxes"][sender]
            at_x, at_y, wide, tall = props["boxes"][receiver]
            assert y == pytest.approx(from_y - from_tall / 2, abs=0.01)
            assert to_y == pytest.approx(at_y + tall / 2, abs=0.01)
            assert abs(to_x - at_x - (props["ports"][part] if part else 0)) <= wide / 2
            assert abs(x - from_x) <= 0.5 * props["boxes"][sender][2]
            assert to_y < y  # upwards

    def test_the_static_picture_has_the_circuit(self):
        static = made().widget().static
        assert len(re.findall("<path ", static)) == len(KEPT)
        assert all(f">{node}</text>" in static for node in ("embed", "0.0", "mlp1", "logits"))

    def test_nothing_hostile_is_written_as_it_is(self):
        tokens = list(HOSTILE)
        widget = effects(values_of(n_pos=len(tokens)), tokens).widget()
        circuit = made(method="<img/src=x/onerror=window.pwned=1>").widget()
        for text in (widget.with_caption("w"), circuit.with_caption("w")):
            assert not re.search(r"<(img|script>window|svg/on|b>)", text)
