"""Where a position's information comes from, as a Sankey: the strongest links, input tokens on the left."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, TypeAlias

import plotly.graph_objects as go
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.heads import AttentionPatterns, MixedAttention
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import largest_of
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import index_of, places, words
from nanogpt_lens.viz.figures.lines import bar_chart
from nanogpt_lens.viz.figures.numbers import Measured, digits

Link: TypeAlias = tuple[int, int, float]
"""The node that it leaves, the node that it reaches, and how much."""

_NODE, _PAD = 21, 9  # pixels of height for each node of the fullest column; between two of them


def flows(
    result: Result, *, kind: Literal["sankey", "bars", "heatmap"] | None = None, links: int = 24, k: int = 20
) -> Drawing:
    """Attention flow from a position: to each input token, after one layer or after every layer.

    Args:
        result: values [src_pos] or [layer, src_pos].
        kind: "sankey" (input tokens to the position); "bars" (of one layer: the `k` largest); "heatmap" (of several).
            None for "sankey".
        links: how many of the strongest links are drawn.
        k: how many bars.

    Raises:
        ResultError: another kind.
    """
    several = "layer" in result.axes
    kind = one_of("kind", kind or "sankey", ("sankey", "heatmap") if several else ("sankey", "bars"))  # type: ignore[assignment]
    tokens = places(result, "src_pos")
    if kind == "bars":
        order = result.values.argsort(descending=True, stable=True)[: count("k", k)]
        return bar_chart(
            [tokens[i] for i in order.tolist()],
            Measured(result.values[order]),
            title=_mostly(result, result.values, tokens),
            unit=f"{words(result.quantity)} (0 to 1)",
            what="input position and token",
        )
    values = result.values if several else result.values[None]
    start = result.pos if isinstance(result, MixedAttention) else None
    end = "the position" if start is None else tokens[start]
    names = [f"layer {label}" for label in places(result, "layer")] if several else [end]
    if kind == "heatmap":
        picture = Map(
            z=values, x=tokens, y=places(result, "layer"), hover="After layer %{y}, from %{x}: flow %{z:.4g}."
        )
        return heat_map(
            picture,
            top=1.0,
            title=_mostly(result, values[-1], tokens),
            unit=f"{words(result.quantity)} (0 to 1)",
            x_title="input position and token",
            y_title="after layer",
            signed=False,
        )
    return _sankey(
        [(i, len(tokens) + j, float(values[j, i])) for j in range(len(values)) for i in range(len(tokens))],
        [*tokens, *names],
        [0] * len(tokens) + [1] * len(names),
        links,
        title=_mostly(result, values[-1], tokens),
        said="each link is one flow from an input token",
        heads=["input token", f"{end} after" if several else "the position"],
    )


def _mostly(result: Result, values: Float[Tensor, " src_pos"], tokens: Sequence[str]) -> str:
    """From which input token most comes."""
    best, name = largest_of(values), result.quantity.capitalize()
    total = float(values.double().nansum())
    return (
        name
        if best is None or total <= 0
        else f"{name}: most comes from {tokens[best]}, {float(values[best]) / total:.0%}"
    )


def through_layers(
    result: AttentionPatterns, example: int | None, pos: int | str, residual: float, links: int
) -> Drawing:
    """The way from a position back to the input: shares that split at each layer by attention, averaged over heads.

    Raises:
        ResultError: no such position, another `residual`, or layers that are not the model's first ones in a row.
    """
    if not isinstance(residual, int | float) or isinstance(residual, bool) or not 0 <= residual <= 1:
        raise ResultError(f"residual is {residual!r}; expected a number from 0 to 1, such as 0.5")
    if tuple(result.layers) != tuple(range(len(result.layers))):
        raise ResultError(
            f"these are layers {list(result.layers)}; expected all layers from 0 on: take the patterns of all"
        )
    axes = [axis for axis in result.axes if axis != "example"]
    values = result.values if example is None else result.values.select(result.axes.index("example"), example)
    each = rearrange(values, f"{' '.join(axes)} -> layer head dest_pos src_pos").double().mean(1)
    n_layers, n_pos = each.shape[:2]
    end = _position(result, pos, n_pos)
    tokens = places(result, "src_pos") if "src_pos" in result.labels else [str(i) for i in range(n_pos)]
    mixed = residual * torch.eye(n_pos, dtype=torch.float64) + (1 - residual) * each
    mixed = mixed / mixed.sum(-1, keepdim=True)
    share = torch.zeros(n_pos, dtype=torch.float64)
    share[end] = 1.0
    flows = []
    for layer in reversed(range(n_layers)):
        moved = share[:, None] * mixed[layer]  # [dest_pos, src_pos]
        for dest, src in moved.nonzero().tolist():
            flows.append((layer * n_pos + src, (layer + 1) * n_pos + dest, float(moved[dest, src])))
        share = moved.sum(0)
    stages = ["input", *(f"after layer {layer}" for layer in range(n_layers))]
    return _sankey(
        flows,
        tokens * (n_layers + 1),
        [i for i in range(n_layers + 1) for _ in range(n_pos)],
        links,
        title=f"Rollout to position {tokens[end]}: {float(share.max()):.0%} comes from {tokens[int(share.argmax())]}",
        heads=stages,
        said=f"at each layer a position's share splits as {residual:g} * I + {1 - residual:g} * (mean over heads of "
        "attention); shares of the last position add up to 1 at each layer",
    )


def _position(result: Result, pos: int | str, n: int) -> int:
    """The index of the destination."""
    if "dest_pos" in result.axes:
        return index_of(result, "dest_pos", pos)
    return int(pos) % n


def _sankey(
    every: Sequence[Link],
    names: Sequence[str],
    stage: Sequence[int],
    links: int,
    *,
    title: str,
    said: str,
    heads: Sequence[str],
) -> Drawing:
    """The strongest links; nodes without one are left out."""
    kept = _strongest(every, stage, count("links", links))
    nodes = sorted({end for link in kept for end in link[:2]})
    index = {node: i for i, node in enumerate(nodes)}
    x, y, height = _places(nodes, kept, stage)
    total, carried = (_by_stage(some, stage) for some in (every, kept))
    part = min((carried[i] / total[i] for i in carried if total[i] > 0), default=1.0)
    figure = go.Figure(
        go.Sankey(
            arrangement="fixed",
            valueformat=".4g",
            node={
                "label": [names[node] for node in nodes],
                "x": x,
                "y": y,
                "pad": _PAD,
                "thickness": 10,
                "color": [style.ACCENT if stage[node] else style.OTHER for node in nodes],
                "line": {"width": 0},
                "customdata": [heads[stage[node]] for node in nodes],
                "hovertemplate": "%{label}, %{customdata}: %{value:.4g}.<extra></extra>",
            },
            link={
                "source": [index[s] for s, _, _ in kept],
                "target": [index[t] for _, t, _ in kept],
                "value": digits([v for *_, v in kept]),
                "color": style.faint(style.ACCENT, 0.28),
                "hovertemplate": "from %{source.label} to %{target.label}: %{value:.4g}.<extra></extra>",
            },
            textfont={"size": style.SMALL, "color": style.INK},
        )
    )
    _add_headings(figure, heads)
    notes = [f"The {len(kept)} strongest of {sum(v > 0 for *_, v in every)} links; {said}"]
    if part < 0.9995:
        notes.append(f"They carry {100 * part:.0f}% or more of each step")
    return Drawing(figure=figure, title=title, notes=tuple(notes), plot=height, left=18, right=18, above=24, below=18)


def _strongest(links: Sequence[Link], stage: Sequence[int], most: int) -> list[Link]:
    """The strongest links, at most so many, all of them on ways from the first column to the last."""
    order = sorted((link for link in links if link[2] > 0), key=lambda link: (-link[2], link[1], link[0]))
    sizes = range(len(order) + 1)
    n = bisect_right(sizes, most, key=lambda size: len(_complete(order[:size], stage))) - 1
    return sorted(_complete(order[:n], stage) or order[:most])


def _complete(links: Sequence[Link], stage: Sequence[int]) -> list[Link]:
    """The links without those that lead from nowhere or to nowhere."""
    last, kept = max(stage), list(links)
    while True:
        into, out = {target for _, target, _ in kept}, {source for source, *_ in kept}
        left = [(s, t, v) for s, t, v in kept if (stage[s] == 0 or s in into) and (stage[t] == last or t in out)]
        if len(left) == len(kept):
            return kept
        kept = left


def _by_stage(links: Sequence[Link], stage: Sequence[int]) -> dict[int, float]:
    """The sum of the links that leave each column."""
    sums: dict[int, float] = {}
    for source, _, value in links:
        sums[stage[source]] = sums.get(stage[source], 0.0) + value
    return sums


def _places(nodes: Sequence[int], links: Sequence[Link], stage: Sequence[int]) -> tuple[list[float], list[float], int]:
    """The x and y at which Plotly has to draw each node so that none covers another, and the height in pixels."""
    size = {
        node: max(sum(v for s, _, v in links if s == node), sum(v for _, t, v in links if t == node)) for node in nodes
    }
    columns: dict[int, list[int]] = {}
    for node in nodes:
        columns.setdefault(stage[node], []).append(node)
    height = max(170, min(900, _NODE * max((len(column) for column in columns.values()), default=1) + 30))
    scale = min(
        ((height - _PAD * (len(column) - 1)) / sum(size[node] for node in column) for column in columns.values()),
        default=1.0,
    )
    centre: dict[int, float] = {}
    for column in columns.values():
        top = (height - sum(size[node] for node in column) * scale - _PAD * (len(column) - 1)) / 2
        for node in column:
            centre[node] = (top + size[node] * scale / 2) / height
            top += size[node] * scale + _PAD
    last = max(columns, default=1) or 1
    edge = 1e-3  # Plotly takes 0 for nothing
    return (
        [min(1 - edge, max(edge, stage[node] / last)) for node in nodes],
        [min(1 - edge, max(edge, centre[node])) for node in nodes],
        height,
    )


def _add_headings(figure: go.Figure, heads: Sequence[str]) -> None:
    """Put the name of each column on top of it, short between the first and the last, where there is no room."""
    last = len(heads) - 1
    for i, head in enumerate(heads):
        short = head if last <= 2 else head.replace("after layer " if 0 < i < last else "after ", "")
        figure.add_annotation(
            text=short,
            xref="paper",
            yref="paper",
            x=i / max(last, 1),
            y=1,
            yanchor="bottom",
            showarrow=False,
            xanchor="left" if i == 0 else "right" if i == last else "center",
            font={"size": style.SMALL, "color": style.MUTED},
        )
