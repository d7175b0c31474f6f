"""What was checked of a circuit: in how many ways it was run, and the checks with their intervals and p."""

from __future__ import annotations

import math
from typing import Literal

from nanogpt_lens.results.validation import IDEAL, CircuitValidation
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.dots import Dot, DotRows
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import words

_LOW, _HIGH = -0.5, 1.5  # of faithfulness: seen at least, and at most where something lies beyond
_GROUPED = ("ablation", "direction", "positions")
_FILLED = {
    "other": "the corrupted run's values",
    "zero": "zero",
    "mean": "means",
    "resample": "values of other prompts",
}
_CHECKS = {
    "faithfulness": "faithfulness",
    "mean_of_ratios": "mean of ratios",
    "complement": "its complement",
    "completeness_random": "incomplete: halves",
    "completeness_node": "incomplete: a node",
    "completeness_greedy": "incomplete: greedy",
    "minimality": "minimality",
    "equivalence": "equivalence (share)",
    "independence": "independence (r)",
    "random_circuits": "random circuits",
    "random_complements": "their complements",
    "held_out": "held-out prompts",
}
_CIRCUIT, _COMPLEMENT = style.ACCENT, style.RUST


def validation(result: CircuitValidation, *, kind: Literal["robustness", "checks"] = "robustness") -> Drawing:
    """The circuit under each way of running it, or the checks with intervals and p.

    Args:
        result: of `ngl.validate_circuit`.
        kind: "robustness", or "checks".

    Raises:
        ResultError: another kind.
    """
    one_of("kind", kind, ("robustness", "checks"))
    return _robustness(result) if kind == "robustness" else _checks(result)


def _robustness(result: CircuitValidation) -> Drawing:
    """A dot for every way of running the circuit, the ways grouped by what the other edges carry."""
    groups: dict[tuple[str, ...], list[Dot]] = {}
    ends = zip(result.robustness.tolist(), result.robustness_low.tolist(), result.robustness_high.tolist(), strict=True)
    for choice, (value, low, high) in zip(result.choices, ends, strict=True):
        named = dict(zip(result.choice_names, choice, strict=True))
        group = tuple(named.pop(name, "") for name in _GROUPED)
        circuit = named.get("part", "circuit") == "circuit"
        hover = ", ".join(words(word) for word in choice)
        dot = Dot(
            label=_way(named),
            value=value,
            low=low,
            high=high,
            colour=_CIRCUIT if circuit else _COMPLEMENT,
            hover=hover,
        )
        groups.setdefault(group, []).append(dot)
    rows = DotRows([(_heading(group), dots) for group, dots in groups.items()], _LOW, _HIGH)
    figure = rows.draw()
    figure.add_vline(x=1, line={"color": style.MUTED, "width": 1, "dash": "dot"}, layer="below", name="all edges")
    figure.update_xaxes(title_text="faithfulness: 0 as with no edge, 1 as with all")
    notes = ["Each row is a way of running the same edges. Rust: what the circuit leaves out, run instead of it"]
    return Drawing(
        figure=figure,
        title=_spread(result),
        notes=(*notes, *filter(None, [rows.note, interval_of(result, "Lines")])),
        definition=result.definition,
        intervals_told=True,
        plot=rows.height,
        left=rows.left,
    )


def _way(named: dict[str, str]) -> str:
    """What sets a row apart within its group."""
    if named.get("part", "circuit") != "circuit":
        return words(named["part"])
    if named.get("components", "heads and MLPs") != "heads and MLPs":
        return words(named["components"])
    return words(named.get("granularity", "edges"))


def _heading(group: tuple[str, ...]) -> str:
    """What a group of rows has in common."""
    ablation, direction, positions = group
    filled = _FILLED.get(ablation, words(ablation))
    said = f"put back into {'the corrupted run' if ablation == 'other' else filled}" if direction == "restore" else ""
    return said or (f"others carry {filled}" if positions in ("all", "") else f"edges kept {words(positions)}")


def _spread(result: CircuitValidation) -> str:
    """From where to where the circuit's faithfulness goes, in a sentence."""
    low, high, n = result.spread
    if math.isnan(low):
        return "The circuit was run in no way"
    if n == 1:
        return f"The circuit does {_percent(low)} of the work"
    return f"The circuit does {_percent(low)} to {_percent(high)} of the work, by how it is run: {n} ways"


def _checks(result: CircuitValidation) -> Drawing:
    """A dot for every check, a tick where a perfect circuit would be, and p."""
    columns = zip(
        result.labels["check"],
        result.values.tolist(),
        result.low.tolist(),
        result.high.tolist(),
        result.p.tolist(),
        strict=True,
    )
    dots = [
        Dot(
            label=_CHECKS.get(name, words(name)),
            value=value,
            low=low,
            high=high,
            colour=_CIRCUIT if not name.startswith("random_") else style.MUTED,
            hover=words(name),
            ideal=IDEAL.get(name, math.nan),
            beside="" if math.isnan(p) else f"p {'under 0.001' if p < 0.001 else f'= {p:.3f}'}",
        )
        for name, value, low, high, p in columns
        if not math.isnan(value)
    ]
    rows = DotRows([("", dots)], _LOW, _HIGH + 0.5, ideal=True)  # room for p
    figure = rows.draw()
    figure.update_xaxes(title_text="value of the check", tickvals=[-0.5, 0, 0.5, 1, 1.5])
    missing = len(result.labels["check"]) - len(dots)
    notes = ["A tick: what a perfect circuit would have. Grey: random circuits of the same size"]
    notes += [f"{missing} check{'s have' if missing > 1 else ' has'} no value here"] if missing else []
    return Drawing(
        figure=figure,
        title=_checks_title(result),
        notes=(*notes, *filter(None, [rows.note, interval_of(result, "Lines")])),
        intervals_told=True,
        plot=rows.height,
        left=rows.left,
    )


def _checks_title(result: CircuitValidation) -> str:
    """What the circuit does, beside random ones, and on other prompts."""
    names = result.labels["check"]
    said = f"The circuit does {_percent(result.check('faithfulness'))} of the work" if "faithfulness" in names else ""
    if said and "held_out" in names:
        said += f", {_percent(result.check('held_out'))} on other prompts"
    if said and "random_circuits" in names:
        said += f"; random ones {_percent(result.check('random_circuits'))}"
    return said or "Checks of a circuit"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("-0%", "0%").replace("-", "−")
