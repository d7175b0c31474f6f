"""The pictures of findings (c) and (e), from `docs/results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanogpt_lens.viz.style import template
from scripts.backdoor.tables import WORDS

ORDER, EDGE, ATTENTION = (
    "order is worth, nats",
    "into the head's values, nats",
    "attention to the previous token / uniform",
)


def arrival(found: Mapping[str, Any]) -> Any:
    """What order is worth, what goes into the head, and how far its attention is from uniform, over training."""
    import plotly.express as px

    rows = [
        {"seed": f"seed {seed}", "iteration": int(step), "what": what, "value": value}
        for seed, run in found["arrival"]["seeds"].items()
        for step, one in run.items()
        for what, value in (
            (ORDER, one["order"][0]),
            (EDGE, one["into_head"][0]),
            (ATTENTION, one["to_the_previous"][0]),
        )
    ]
    made = px.line(
        rows,
        x="iteration",
        y="value",
        color="what",
        facet_col="seed",
        markers=True,
        line_dash="what",
        line_dash_map={ORDER: "solid", EDGE: "dash", ATTENTION: "dot"},
        labels={"value": "", "what": ""},
        title="Order comes in through one head whose attention is still nearly even",
        template=template(),
        height=400,
    )
    return legend_below(made)


def backdoor_tools(found: Mapping[str, Any]) -> Any:
    """Every tool's number for each poisoned model and each clean twin, at the last stage."""
    import plotly.express as px

    part = found["backdoor"]["seen"]
    stage = max(part, key=int)
    kinds = {"poisoned": "backdoor", "clean": "clean twin"}
    rows = [
        {"tool": WORDS[tool], "model": kinds[kind], "value": scaled(value, groups), "name": name}
        for tool, groups in part[stage].items()
        for kind, values in groups.items()
        for name, value in values.items()
    ]
    made = px.strip(
        rows,
        x="value",
        y="tool",
        color="model",
        hover_data=["name"],
        category_orders={"tool": list(WORDS.values()), "model": list(kinds.values())},
        labels={"value": "suspicion, from the least of all models to the largest", "tool": "", "model": ""},
        title="One comparison tells every backdoor from its clean twin",
        template=template(),
        height=440,
    )
    made.update_traces(marker={"size": 10, "line": {"width": 1, "color": "white"}}, jitter=0.3)
    return legend_below(made)


def scaled(value: float, groups: Mapping[str, Mapping[str, float]]) -> float:
    """A number of a tool as a share of the range of all its numbers."""
    every = [one for values in groups.values() for one in values.values()]
    return (value - min(every)) / ((max(every) - min(every)) or 1.0)


def legend_below(made: Any) -> Any:
    """The figure with its legend below, and panels that say their value alone."""
    made.update_layout(legend={"orientation": "h", "y": -0.25, "x": 0})
    made.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2] or note.text))
    return made
