"""Direct logit attribution: what each component adds to a logit."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.attribution import LogitAttribution
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import extremes
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import index_of, places, title_of
from nanogpt_lens.viz.figures.lines import bar_chart
from nanogpt_lens.viz.figures.numbers import Measured
from nanogpt_lens.viz.tokens import visible

_MOST = 48


def contributions(
    result: LogitAttribution,
    *,
    kind: Literal["bars", "heatmap"] | None = None,
    k: int = 20,
    example: int = 0,
    pos: int | None = None,
) -> Drawing:
    """Bars of the largest contributions at one position, or a heat map of component by position.

    Args:
        result: values [component, pos], perhaps with `example`.
        kind: "bars" or "heatmap"; None for bars where there is one position.
        k: how many bars.
        example: which text.
        pos: index among the positions attributed; None for the last, or for all in the heat map.

    Raises:
        ResultError: another kind, or a place that is not there.
    """
    values, total, notes, i = result.values, result.total, [], 0
    if "example" in result.axes:
        i = index_of(result, "example", example)
        values, total = values.select(result.axes.index("example"), i), total[i]
        notes.append(f"Example {i} of {result.shape['example']}")
    one_place = values.shape[1] == 1 or pos is not None
    kind = one_of("kind", kind or ("bars" if one_place else "heatmap"), ("bars", "heatmap"))  # type: ignore[assignment]
    unit = f"contribution to the logit{'' if result.wrong is None else ' difference'} ({result.unit})"
    if kind == "heatmap":
        return _heatmap(result, values, unit, notes)
    at = index_of(result, "pos", -1 if pos is None else pos)
    names, one = places(result, "component"), values[:, at]
    order = one.abs().argsort(descending=True, stable=True)[: count("k", k)]
    order = order[one[order].argsort(descending=True, stable=True)]
    ids = [None if t is None else int((t if t.dim() == 1 else t[i])[at]) for t in (result.answer, result.wrong)]
    answer, wrong = (None if token is None else _name_of(result, token) for token in ids)
    notes.append(f"Answer: {answer}" + ("" if wrong is None else f", minus that of {wrong}"))
    rest = float(one.sum() - one[order].sum())
    notes.append(
        f"At position {result.positions[at]}. All {len(one)} components sum to {float(total[at]):.4g}"
        + (f"; those not shown to {rest:.4g}" if len(order) < len(one) else "")
    )
    return bar_chart(
        [names[i] for i in order.tolist()],
        Measured(one[order]),
        title=extremes(names, Measured(one), what="Direct effect", unit=result.unit),
        unit=unit,
        what="component",
        notes=notes,
    )


def _name_of(result: LogitAttribution, token: int) -> str:
    """The name of a token: its text, where the model has one for it, else its id."""
    text = result.strings.get(str(token))
    return f"token id {token}" if text is None or text == str(token) else f"“{visible(text, longest=14)}”"


def _heatmap(result: LogitAttribution, values: Float[Tensor, "component pos"], unit: str, notes: list[str]) -> Drawing:
    names, columns = places(result, "component"), places(result, "pos")
    if "pos" not in result.labels:
        columns = [str(position) for position in result.positions]
    if len(names) > _MOST:
        kept = values.abs().amax(1).argsort(descending=True, stable=True)[:_MOST].sort().values
        notes.append(f"The {_MOST} components with the largest magnitude, of {len(names)}")
        names, values = [names[i] for i in kept.tolist()], values[kept]
    title = extremes(
        [f"{name}, {place}" for name in names for place in columns],
        Measured(values),
        what="Direct effect",
        unit=result.unit,
    )
    picture = Map(z=values, x=columns, y=names, hover="Component %{y}, position %{x}: %{z:.4g}.")
    return heat_map(
        picture,
        title=title,
        unit=unit,
        x_title=title_of("pos", result),
        y_title="component",
        signed=True,
        notes=notes,
    )
