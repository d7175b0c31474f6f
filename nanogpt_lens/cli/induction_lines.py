"""What `nanogpt-lens induction` prints: the verdict, the heads, and what they do for the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nanogpt_lens.cli.tables import finding, fixed, interval, note, print_table, say

if TYPE_CHECKING:
    from nanogpt_lens.results import Result

_SHOWN = 5
_NAMED = 4  # control heads that are named


def print_induction(results: dict[str, Result]) -> None:
    """Print the results of the command by their names: what was found, the heads, the rest, how it was measured."""
    by_name: dict[str, Any] = results
    matching = by_name["prefix_matching"]
    finding(_capital(f"{matching.verdict}."))
    rows = [
        [f"{r.layer:.0f}.{r.head:.0f}", interval(r.value, r.low, r.high) + (" *" if _carries(matching, r) else "")]
        for r in matching.top(_SHOWN, order="high").itertuples()
    ]
    chance = float(matching.chance.flatten()[0])
    print_table(["head", "prefix matching"], [*rows, ["chance", fixed(chance, 3)]])
    if bool(matching.carries.any()):
        limits = sorted({f"{float(x):.2f}" for x in matching.threshold[matching.carries]})
        say(f"* an induction head: surely, for all heads together, above {' or '.join(limits)}", indent=2)
    for line in _further(by_name):
        say(line, indent=2)
    note(f"prefix matching: {matching.definition}")


def _capital(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _carries(matching: Any, row: Any) -> bool:
    return bool(matching.carries[int(row.layer), int(row.head)])


def _further(by_name: dict[str, Any]) -> list[str]:
    """A line for each other result."""
    lines = []
    if "text_prefix_matching" in by_name:
        top = next(by_name["text_prefix_matching"].top(1, order="high").itertuples())
        lines.append(f"on repeated text: head {top.layer:.0f}.{top.head:.0f}, {interval(top.value, top.low, top.high)}")
    if "accuracy" in by_name:
        lines += _accuracy_lines(by_name["accuracy"])
    for key, what in (("repeated_loss", "random tokens"), ("repeated_text_loss", "text")):
        if key in by_name:
            lines.append(_loss_line(by_name[key], what))
    learning = by_name["in_context_learning"]
    ends = (None, None) if learning.low is None else (learning.low[0], learning.high[0])
    value = interval(learning.values[0], *ends)
    lines.append(f"in-context learning: {value} nats ({learning.definition})")
    if "composition" in by_name:
        lines.append(_composition_line(by_name["composition"]))
    lines.append(_ablation_line(by_name["ablation"]) if "ablation" in by_name else "nothing to ablate")
    return lines


def _accuracy_lines(accuracy: Any) -> list[str]:
    lines, i = [], accuracy.labels["score"].index("accuracy")
    for prompt in ("clean", "corrupted"):
        j = accuracy.labels["prompt"].index(prompt)
        value = interval(accuracy.values[i, j], accuracy.low[i, j], accuracy.high[i, j])
        lines.append(f"accuracy on {prompt} [A][B]...[A] prompts: {value}, chance {accuracy.chance[i, j]:.3f}")
    return lines


def _ablation_line(ablation: Any) -> str:
    at = ablation.labels["score"].index
    before, after = ablation.values[:2, at("gain")]
    control = ablation.chance[1, at("gain_lost")] if ablation.chance is not None else math.nan
    beyond, strong = at("beyond_controls"), ablation.values[1, at("controls_as_strong")]
    more = interval(ablation.values[1, beyond], ablation.low[1, beyond], ablation.high[1, beyond])
    names = [label.removeprefix("control ") for label in ablation.labels["ablated"][2:]]
    named = ", ".join(names[:_NAMED]) + (f", ... ({len(names)} in all)" if len(names) > _NAMED else "")
    where = "the same layers" if ablation.provenance["arguments"]["same_layers"] else "any layers"
    return (
        f"ablation of {ablation.labels['ablated'][1]}, on other sequences: induction gain {before:.3f} -> {after:.3f} "
        f"nats; as many other heads of {where} ({named}) lose {control:.3f} on average, {more} less; p of as much by "
        f"such a set {strong:.2f}"
    )


def _loss_line(losses: Any, what: str) -> str:
    second = losses.values[:, losses.shape["pos"] // 2 + 1 :].mean(1)
    parts = ", ".join(f"{name} {value:.3f}" for name, value in zip(losses.labels["condition"], second, strict=True))
    return f"loss on the second half, {what}, nats per token: {parts}"


def _composition_line(composition: Any) -> str:
    values = zip(composition.labels["score"], composition.values, composition.chance, strict=True)
    parts = ", ".join(f"{name.replace('_', ' ')} {v:.3f} (chance {c:.3f})" for name, v, c in values)
    pair = f"previous-token head {composition.sender} -> induction head {composition.receiver}"
    return f"{pair}, the best candidates: {parts}"
