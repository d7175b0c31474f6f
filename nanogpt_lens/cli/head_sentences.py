"""What is found about heads, as sentences for the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nanogpt_lens.core.head_jobs import job_of

if TYPE_CHECKING:
    from nanogpt_lens.results import HeadTaxonomy

_SHORT = {
    "99% of the same heads with a random rotation between W_V and W_O stay below": "99% of such heads stay below "
    "if W_V and W_O are rotated at random",
    "on text and random tokens, the head does not raise the logits of the tokens that it attends to": "when run, "
    "it does not raise the logits of what it attends to",
    "on text and random tokens, the head does not lower the logits of the tokens that it attends to": "when run, "
    "it does not lower the logits of what it attends to",
}
"""Reasons of thresholds, shorter."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NAMED = 2  # heads that are named; more are counted


def what_heads_do(taxonomy: HeadTaxonomy) -> str:
    """Who does what, such as "Head 0.1 copies; no head does induction."."""
    labels_of: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for label in taxonomy.labels["score"]:
        if places := tuple(sorted(taxonomy.heads(label))):
            labels_of.setdefault(places, []).append(label)
    parts = [
        f"{_heads(places)} {' and '.join(_does(label, len(places)) for label in labels)}"
        for places, labels in labels_of.items()
    ]
    if not parts:
        n = taxonomy.shape["layer"] * taxonomy.shape["head"]
        parts.append(f"none of the {n} heads earns a name" if n > 1 else "the only head earns no name")
    if "induction" in taxonomy.labels["score"] and not taxonomy.heads("induction"):
        parts.append("no head does induction")
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}."


def _does(label: str, n: int) -> str:
    """What so many heads with a label do."""
    job = job_of(label)
    return job.one if n == 1 else job.several


def _heads(places: Iterable[tuple[int, int]]) -> str:
    """Some heads as the subject of a sentence: named where they are few, counted where they are many."""
    names = [f"{layer}.{head}" for layer, head in sorted(places)]
    if len(names) == 1:
        return f"head {names[0]}"
    if len(names) <= _NAMED:
        return f"heads {' and '.join(names)}"
    return f"{_NUMBERS[len(names)] if len(names) < len(_NUMBERS) else len(names)} heads"


def stars(taxonomy: HeadTaxonomy) -> list[str]:
    """For the labels that heads carry, the thresholds and why they are what they are, one line each."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for i, label in enumerate(taxonomy.labels["score"]):
        if places := taxonomy.heads(label):
            limits = sorted({f"{float(taxonomy.threshold[(i, *place)]):.2f}" for place in places})
            limit = limits[0] if len(limits) == 1 else f"{limits[0]} to {limits[-1]}"
            reasons = sorted({taxonomy.reason_words[int(taxonomy.reason[(i, *place)])] for place in places})
            why = "; ".join(_SHORT.get(reason, reason) for reason in reasons)
            grouped.setdefault((limit, why), []).append(label.replace("_", " "))
    return [f"* {', '.join(labels)}: above {limit} ({why})" for (limit, why), labels in grouped.items()]


def without_star(taxonomy: HeadTaxonomy) -> list[str]:
    """The heads with a high score that earned no star, one line for each reason."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for label, layer, head, words in taxonomy.unnamed():
        why = words.partition(" is not enough")[2].strip(",; ").removeprefix("threshold none: ")
        grouped.setdefault((label.replace("_", " "), _SHORT.get(why, why)), []).append(f"{layer}.{head}")
    heads = taxonomy.shape["layer"] * taxonomy.shape["head"]
    said = []
    for (label, why), names in grouped.items():
        where = " at any head" if len(names) == heads > 1 else f", {', '.join(names)}"
        said.append(f"no star for {label}{where}: {why}")
    return said
