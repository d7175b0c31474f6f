"""The pictures of findings (a) to (e), from `docs/results.json` and the data that are kept."""

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
        title="Order comes in through one head before its attention has moved much",
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
    return with_plain_panels(made).update_layout(legend={"orientation": "h", "y": -0.25, "x": 0})


def with_plain_panels(made: Any) -> Any:
    """The figure with panels that say their value alone, without the name of what they are by."""
    return made.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2] or note.text))


def blind(found: Mapping[str, Any]) -> Any:
    """How much of the previous-token head's true effect two gradients see, by iteration: finding (b)."""
    import plotly.express as px

    seen = found["head_agreement"]["seen_of_previous_token"]
    names = {"attribution": "one gradient", "attribution_ig": "integrated gradients, four steps"}
    rows = [
        {"iteration": f"{int(step):,}", "share": share, "by": names[by]}
        for by, steps in seen.items()
        for step, shares in steps.items()
        for share in shares
    ]
    made = by_category(
        px.strip,
        rows,
        x="iteration",
        y="share",
        top=1.1,
        color="by",
        stripmode="overlay",
        title="The better the circuit, the less of it one gradient sees",
        labels={"share": "of the true effect", "by": ""},
    )
    made.update_layout(legend={"orientation": "h", "y": -0.3}, margin={"t": 70})
    return made.update_yaxes(tickformat=".0%")


def syntax(found: Mapping[str, Any]) -> Any:
    """How far heads of each layer go beyond characters over training, three seeds: finding (d)."""
    import plotly.express as px

    names = {"own_line_break": "the last line break", "own_word_start": "the first letter of the word"}
    rows = [
        {"iteration": step, "attention": by_layer[layer], "layer": f"layer {layer}", "class": words, "seed": seed}
        for seed, classes in found["syntax"]["training"].items()
        for name, words in names.items()
        for step, by_layer in zip(classes[name]["steps"], classes[name]["beyond"], strict=True)
        for layer in range(4)
        if step >= 50
    ]
    made = px.line(
        rows,
        x="iteration",
        y="attention",
        color="layer",
        line_group="seed",
        facet_col="class",
        log_x=True,
        markers=True,
        title="Layers 1 and 2 find the last line break, then layer 2 the start of the word",
        labels={"attention": "more attention than to others like it", "layer": ""},
        template=template(),
        height=400,
    )
    with_plain_panels(made).update_layout(legend={"orientation": "h", "y": -0.3}, margin={"t": 90})
    return made.update_xaxes(tickvals=[50, 100, 300, 1000, 2000], ticktext=["50", "100", "300", "1,000", "2,000"])


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
    return with_plain_panels(made)


def by_category(draw: Callable[..., Any], rows: Any, *, top: float, **options: Any) -> Any:
    """A figure of Plotly's own, as the house looks: rows over the categories of `x`, and `y` from 0 up to `top`."""
    made = draw(rows, template=template(), height=380, **options)
    return made.update_xaxes(type="category").update_yaxes(range=[0, top])
