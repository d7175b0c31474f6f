"""The tables of finding (c), from `docs/results.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scripts.backdoor.runs import TRIGGERS
from scripts.replication.cells import Found, markdown, number, three

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
            last = part["roc"][max(part["roc"], key=int)]
            each = [number(last.get(f"{kind} {lines}", {}).get(tool, {}).get("area"), 2) for kind in TRIGGERS]
            rows.append([words, lines, *cells, *each])
    stages = (f"all, {int(stage):,}" for stage in part["roc"])
    return markdown(("tool", "lines", *stages, *(f"{kind} alone" for kind in TRIGGERS)), rows)


def backdoor_shown(found: Found) -> str:
    """In how many models a tool's own excerpt shows trigger or payload; of clean twins, the control."""
    part = found["backdoor"]
    if not part:
        return "Not measured."
    rows = []
    for tool, words in WORDS.items():
        for kind, said in (("480", "backdoor, 480 lines"), ("240", "backdoor, 240 lines"), ("twin", "clean twin")):
            cells = []
            for groups in part["shows"].values():
                some = [groups[f"{t} {kind}"][tool] for t in TRIGGERS if tool in groups.get(f"{t} {kind}", {})]
                shown, payload, of = (sum(one[key] for one in some) for key in ("shown", "payload", "of"))
                also = f", payload {payload}" if kind != "twin" else ""
                cells.append(f"{shown} of {of}{also}" if some else "–")
            if any(cell != "–" for cell in cells):
                rows.append([words, said, *cells])
    return markdown(("tool", "models", *(f"{int(stage):,}" for stage in part["shows"])), rows)


def _area(of: Mapping[str, Any] | None) -> str:
    """An area with its interval and corrected p."""
    if of is None:
        return "–"
    return f"{three([of[name] for name in ('area', 'low', 'high')], 2)}, p {number(of['p_holm'])}"


def _percents(shares: list[float]) -> str:
    """Shares of several models."""
    return ", ".join(f"{share:.0%}" for share in shares)


TABLES: dict[str, Callable[[Found], str]] = {
    "backdoor_success": backdoor_success,
    "backdoor_tools": backdoor_tools,
    "backdoor_shown": backdoor_shown,
}
"""By the name that a document gives them."""
