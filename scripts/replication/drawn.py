"""The pictures of findings (a), (c) and (e), from `docs/results.json` and the data that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nanogpt_lens.viz.style import template
from scripts.backdoor.runs import CLEAN_LINES, TRIGGERS
from scripts.backdoor.summary import TEXT_TOOLS
from scripts.backdoor.tables import WORDS
from scripts.replication.smallest import ACCURACY, points, words_of

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


def backdoor_shown(found: Mapping[str, Any]) -> Any:
    """In how many of the models with a backdoor a tool's own excerpt shows trigger or payload, by iteration."""
    import plotly.express as px

    rows = []
    for stage, groups in found["backdoor"]["shows"].items():
        for tool in TEXT_TOOLS:
            some = [groups[f"{trigger} {CLEAN_LINES}"][tool] for trigger in TRIGGERS]
            shown, of = (sum(one[key] for one in some) for key in ("shown", "of"))
            rows.append({"tool": WORDS[tool], "iteration": f"iteration {int(stage):,}", "shown": shown, "of": of})
    made = px.bar(
        rows,
        x="shown",
        y="tool",
        orientation="h",
        color="iteration",
        barmode="group",
        category_orders={"tool": [WORDS[tool] for tool in TEXT_TOOLS]},
        labels={"shown": "models of nine whose excerpt shows trigger or payload", "tool": "", "iteration": ""},
        title="Comparison with a clean model shows the trigger, early and almost always",
        template=template(),
        height=400,
    )
    made.update_xaxes(range=[0, 9.4])
    return legend_below(made)


def legend_below(made: Any) -> Any:
    """The figure with its legend below, and panels that say their value alone."""
    made.update_layout(legend={"orientation": "h", "y": -0.25, "x": 0})
    made.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2] or note.text))
    return made


def smallest(data: Mapping[str, Any]) -> Any:
    """Accuracy of every model of finding (a) over its width; filled where an induction head formed."""
    import plotly.express as px

    widths = ["8", "16", "32", "64"]
    made = by_category(
        px.scatter,
        points(data),
        x="width",
        y="accuracy",
        top=1.02,
        facet_col="layers",
        color="heads",
        symbol="induction head",
        symbol_map={"formed": "circle", "not formed": "circle-open"},
        category_orders={
            "layers": [words_of(layers) for layers in (1, 2, 3)],
            "width": widths,
            "heads": ["1", "2", "4"],
        },
        hover_data=["seed", "parameters", "prefix matching"],
        labels={"width": "wide", "accuracy": "right where induction is required"},
        title="Two layers, one head each and 32 dimensions are enough",
    )
    made.update_traces(marker={"size": 11, "line": {"width": 2}}, opacity=0.85)
    made.add_hline(y=ACCURACY, line_dash="dot", line_width=1)
    made.update_xaxes(categoryorder="array", categoryarray=widths)
    return made.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2] or note.text))


def by_category(draw: Callable[..., Any], rows: Any, *, top: float, **options: Any) -> Any:
    """A figure of Plotly's own, as the house looks: rows over the categories of `x`, and `y` from 0 up to `top`."""
    made = draw(rows, template=template(), height=380, **options)
    return made.update_xaxes(type="category").update_yaxes(range=[0, top])
