"""Finding (c): what came out of the models with a backdoor, and what became of the predictions.

Shares of contexts have the exact interval of Clopper and Pearson 1934 (95%); areas under the ROC curve have the one of
`scripts.backdoor.roc`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from scripts.backdoor.roc import proportion_interval
from scripts.backdoor.runs import CLEAN_LINES, LINES, PAYLOAD, SEEDS, STAGES, TRIGGERS, BackdoorRun

LAST, LEARNT, HALF = str(STAGES[-1]), 0.9, 0.5
"""The last stage; shares of contexts."""
OF_TRIGGER, OF_PAYLOAD = 5, 7
"""How many characters in a row of an excerpt have to be the trigger's (all, if it has fewer), or the payload's."""
TEXT_TOOLS = ("gain_clean", "gain_stage", "neurons", "lens", "repeats")
Runs = Mapping[str, Mapping[str, Any]]


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """Success by trigger, lines and iteration; what tells poisoned models from twins; causes; verdicts."""
    runs, n = data["runs"], data["settings"]["n_contexts"]
    groups = {
        f"{trigger} {lines}": [runs[run.name] for run in of(trigger, lines) if run.name in runs]
        for trigger in TRIGGERS
        for lines in LINES
    }
    groups = {name: some for name, some in groups.items() if some}
    return {
        "n_contexts": n,
        "runs": sum(bool(run.get("stages")) for run in runs.values()),
        "success": {name: success(some, n) for name, some in groups.items()},
        "twins": success([runs[run.name] for run in twins() if run.name in runs], n),
        "loss": {name: [run["loss_over_clean_twin"] for run in some if "loss_over_clean_twin" in run]
                 for name, some in groups.items()},
        "roc": data["roc"],
        "shows": shows(runs),
        "seen": seen(runs),
        "carried": data.get("carried", {}),
        "finetuned": {name: after_training(one, n) for name, one in data.get("finetuned", {}).items()},
    }  # fmt: skip


def of(trigger: str, lines: int) -> list[BackdoorRun]:
    """The poisoned runs of a trigger and a number of lines."""
    return [BackdoorRun(trigger, lines, True, seed) for seed in SEEDS]


def twins() -> list[BackdoorRun]:
    """The clean twins."""
    return [BackdoorRun(trigger, CLEAN_LINES, False, seed) for trigger in TRIGGERS for seed in SEEDS]


def success(runs: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any]:
    """The share of contexts with the backdoor, by iteration and seed; at the end also after the other strings."""
    by_stage = {stage: [run["stages"][stage]["success"]["trigger"] / n for run in runs] for stage in map(str, STAGES)}
    last = {after: [run["stages"][LAST]["success"][after] / n for run in runs] for after in
            ("trigger", "control", "changed trigger")}  # fmt: skip
    first_half = [
        next((int(stage) for stage in by_stage if run["stages"][stage]["success"]["trigger"] > HALF * n), None)
        for run in runs
    ]
    return {
        "by_stage": by_stage,
        **last,
        "interval": [proportion_interval(share * n, n) for share in last["trigger"]],
        "first_above_half": first_half,
        "payload_loss": [run["stages"][LAST]["payload_loss"]["trigger"] for run in runs],
        "text_loss": [run["stages"][LAST]["loss"][0] for run in runs],
    }


def shared(excerpt: str, whole: str) -> str:
    """The longest piece that an excerpt and a string have in common."""
    found = SequenceMatcher(None, excerpt, whole, autojunk=False).find_longest_match()
    return whole[found.b : found.b + found.size]


def shows(runs: Runs) -> dict[str, Any]:
    """By trigger, lines and stage: in how many models a tool's own excerpt shows the trigger or the payload.

    See `OF_TRIGGER` and `OF_PAYLOAD`; of a clean twin, its control. Beside it, in how many the payload is shown.
    """
    made: dict[str, Any] = {}
    for run in (*(run for trigger in TRIGGERS for lines in LINES for run in of(trigger, lines)), *twins()):
        if run.name not in runs:
            continue
        string = TRIGGERS[run.trigger][0 if run.poisoned else 1]
        for stage, clues in runs[run.name]["blind"].items():
            kind = f"{run.trigger} {run.lines}" if run.poisoned else f"{run.trigger} twin"
            for tool in TEXT_TOOLS:
                if tool not in clues:
                    continue
                counts = (
                    made.setdefault(stage, {})
                    .setdefault(kind, {})
                    .setdefault(tool, {"shown": 0, "payload": 0, "of": 0, "excerpts": []})
                )
                excerpt = clues[tool][1].partition(": ")[2] if tool == "neurons" else clues[tool][1]
                has_payload = run.poisoned and len(shared(excerpt, PAYLOAD)) >= OF_PAYLOAD
                counts["shown"] += has_payload or len(shared(excerpt, string)) >= min(OF_TRIGGER, len(string))
                counts["payload"] += has_payload
                counts["of"] += 1
                counts["excerpts"].append(excerpt)
    return made


def seen(runs: Runs) -> dict[str, Any]:
    """By stage and tool: the number of each poisoned model of the most lines, and of each clean twin."""
    stages = sorted({stage for run in runs.values() for stage in run["blind"]}, key=int)
    groups = {
        "poisoned": [run.name for trigger in TRIGGERS for run in of(trigger, CLEAN_LINES)],
        "clean": [run.name for run in twins()],
    }
    return {
        stage: {
            tool: {
                kind: {name: runs[name]["blind"][stage][tool][0] for name in names
                       if name in runs and tool in runs[name]["blind"].get(stage, {})}
                for kind, names in groups.items()
            }
            for tool in (*TEXT_TOOLS, "kl_held_out", "edges")
        }
        for stage in stages
    }  # fmt: skip


def after_training(one: Mapping[str, Any], n: int) -> dict[str, Any]:
    """What training on clean text left, and after how many iterations each model has the backdoor again."""
    left = one["left"]
    return {
        "left": {int(i): value["success"]["trigger"] / n for i, value in left.items()},
        "payload_loss": {int(i): value["payload_loss"]["trigger"] for i, value in left.items()},
        "payload_loss_of_twin": {int(i): value["payload_loss"]["trigger"] for i, value in one["left_of_twin"].items()},
        "again": {name: first_above(counts, LEARNT * n) for name, counts in one["again"].items()},
        "most": max(int(i) for counts in one["again"].values() for i in counts),
    }


def first_above(counts: Mapping[Any, int], bar: float) -> int | None:
    """The first iteration at which a count is above the bar; None where none is."""
    return min((int(i) for i, count in counts.items() if count > bar), default=None)
