"""Whether a model does induction, in one sentence: the same on the first screen and in the section."""

from __future__ import annotations

import math

import torch

from nanogpt_lens.reporting.words import NEGLIGIBLE, at, list_of, number, share
from nanogpt_lens.results import InductionHeads, Scores

_GAIN = 0.05  # nats; it has no interval, so that a smaller gain is not counted as evidence
_HARDLY = 0.005  # of attention: what is no more than chance
_PLACE = "the right place"
_RIGHT = "what followed the same token before"


def shown_head(matching: InductionHeads) -> tuple[int, int] | None:
    """The head that is spoken of; None where no head has a score.

    It is the best induction head; else the best of those that may be one; else that with the highest score.
    """
    heads = matching.heads()
    if heads:
        return heads[0]
    values = matching.values.double()
    if not bool(values.isfinite().any()):
        return None
    may = 2 * values - matching.sure_low > matching.threshold
    of = values.masked_fill(~may, torch.nan) if bool(may.any()) else values
    return divmod(int(of.nan_to_num(-math.inf).argmax()), matching.shape["head"])


def sure_interval(matching: InductionHeads, layer: int, head: int) -> tuple[float, float]:
    """The interval of a head's score that holds for all heads together, within 0 and 1."""
    value, low = float(matching.values[layer, head]), float(matching.sure_low[layer, head])
    return max(0.0, low), min(1.0, 2 * value - low)


def induction_says(
    matching: InductionHeads, *, accuracy: Scores | None = None, repeated: Scores | None = None
) -> tuple[str, bool]:
    """The verdict, and whether it says that there is induction.

    Args:
        matching: which heads are induction heads.
        accuracy: on [A][B]...[A] prompts; None where it was not measured.
        repeated: losses on repeated sequences; None likewise.
    """
    best = shown_head(matching)
    if best is None:
        return "Induction could not be measured: no head's attention to the right place is a number.", False
    passes = bool(matching.heads())
    if accuracy is None or repeated is None:
        return (_is_one(matching) if passes else _none(matching, *best)), passes
    answers, gain = is_answered(accuracy), gain_of_order(repeated)
    if passes and answers and gain >= NEGLIGIBLE:
        return f"It does induction: {_gives(matching, *best)}.", True
    if not passes and not answers and gain < _GAIN:
        return _none(matching, *best), False
    how = [
        "heads look at the right place" if passes else "no head surely looks at the right place",
        "prompts are answered" if answers else "prompts are not surely answered better than the control",
        f"order makes the repeat {number(abs(gain), 2)} nats per token {'cheaper' if gain >= 0 else 'dearer'}",
    ]
    return f"The evidence for induction is mixed: {list_of(how)}.", False


def _is_one(matching: InductionHeads) -> str:
    heads = matching.heads()
    if len(heads) > 1:
        named = [f"{layer}.{head}" for layer, head in heads[:3]] + ([f"{len(heads) - 3} more"] if heads[3:] else [])
        return f"Heads {list_of(named)} are induction heads: {_gives(matching, *heads[0])}."
    layer, head = heads[0]
    looked = share(matching.values[layer, head])
    return f"Head {layer}.{head} is an induction head: {looked} of its attention goes to {_RIGHT}."


def _gives(matching: InductionHeads, layer: int, head: int) -> str:
    best = ", the best," if len(matching.heads()) > 1 else ""
    chance = at(matching.chance, layer, head)
    beside = "" if chance is None else f", where chance is {share(chance)}"
    return f"head {layer}.{head}{best} gives {share(matching.values[layer, head])} of its attention to {_RIGHT}{beside}"


def _none(matching: InductionHeads, layer: int, head: int) -> str:
    """That no head is an induction head, or that none surely is."""
    value, threshold = float(matching.values[layer, head]), float(matching.threshold[layer, head])
    low, high = sure_interval(matching, layer, head)
    gives = f"the best one, head {layer}.{head}, gives {share(value)} of its attention to {_PLACE}"
    if high > threshold:
        ends = f"({share(low)} to {share(high)}, for all heads together)"
        return f"No head is surely an induction head: {gives} {ends}, where more than {share(threshold)} is needed."
    none, chance = "It has no induction head:", at(matching.chance, layer, head)
    if chance is None or math.isnan(chance):
        return f"{none} {gives}."
    if value <= chance or high <= chance + _HARDLY:
        return f"{none} the best one, head {layer}.{head}, looks at {_PLACE} no more than chance does."
    if low <= chance:
        return f"{none} {gives}, not surely more than chance does, {share(chance)}."
    return f"{none} {gives}, where chance is {share(chance)}."


def is_answered(accuracy: Scores) -> bool:
    """Whether clean prompts are answered better than the control, interval against interval."""
    i = accuracy.labels["score"].index("accuracy")
    clean, control = (accuracy.labels["prompt"].index(p) for p in ("clean", "corrupted"))
    if accuracy.low is None or accuracy.high is None:
        return False
    return bool(accuracy.low[i, clean] > accuracy.high[i, control])


def second_half(losses: Scores, condition: str) -> float:
    """The mean loss of the second half without its first token, which nothing can tell."""
    return float(losses.at(condition=condition)[losses.shape["pos"] // 2 + 1 :].mean())


def gain_of_order(losses: Scores) -> float:
    """How much lower the loss is on a second half in the old order than on a shuffled one."""
    return second_half(losses, "shuffled") - second_half(losses, "repeated")
