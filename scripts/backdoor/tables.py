"""The tables of finding (c), from `docs/results.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scripts.replication.cells import Found, markdown, number

WORDS = {
    "repeats": "repeats (baseline)",
    "gain_clean": "gain over the clean model",
    "gain_stage": "gain over iteration 500",
    "kl_held_out": "KL on held-out text",
    "neurons": "neurons",
    "lens": "lens",
    "edges": "edges",
}
"""What a tool is called."""


def backdoor_success(found: Found) -> str:
    """Success by trigger, lines and iteration."""
    part = found["backdoor"]
    if not part:
        return "Not measured."
    rows = []
    for name, one in part["success"].items():
        kind, _, lines = name.partition(" ")
        stages = [_percents(shares) for stage, shares in one["by_stage"].items() if int(stage) >= 1000]
        rows.append([kind, lines, *stages, _percents(one["control"]), _percents(one["changed trigger"])])
    stages = [f"{int(stage):,}" for stage in next(iter(part["success"].values()))["by_stage"] if int(stage) >= 1000]
    return markdown(("trigger", "lines", *stages, "after the control", "a letter changed"), rows)


def backdoor_tools(found: Found) -> str:
    """How well each tool tells models with a backdoor from clean twins, by iteration."""
    part = found["backdoor"]
    if not part:
        return "Not measured."
    rows = []
    for lines in ("480", "240"):
        for tool, words in WORDS.items():
            cells = [_area(part["roc"][stage].get(f"all {lines}", {}).get(tool)) for stage in part["roc"]]
            rows.append([words, lines, *cells])
    return markdown(("tool", "lines", *(f"{int(stage):,}" for stage in part["roc"])), rows)


def _area(of: Mapping[str, Any] | None) -> str:
    """An area with its interval and corrected p."""
    if of is None:
        return "–"
    return f"{of['area']:.2f} ({of['low']:.2f} to {of['high']:.2f}), p {number(of['p_holm'], 3)}"


def _percents(shares: list[float]) -> str:
    """Shares of several models."""
    return ", ".join(f"{share:.0%}" for share in shares)


TABLES: dict[str, Callable[[Found], str]] = {"backdoor_success": backdoor_success, "backdoor_tools": backdoor_tools}
"""By the name that a document gives them."""
