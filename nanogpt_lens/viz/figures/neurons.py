"""Neurons: an overview of a search, one neuron's histogram, correlations, activations on a text."""

from __future__ import annotations

from typing import Literal

import numpy as np
import plotly.graph_objects as go
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.effects import NeuronStatistics
from nanogpt_lens.results.neurons import NeuronSearch
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import extremes, largest_of, said
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import index_of, places, title_of, words
from nanogpt_lens.viz.figures.lines import histogram, log_axis, upright
from nanogpt_lens.viz.figures.numbers import Measured, digits, plain


def search(
    result: NeuronSearch,
    *,
    layer: int | str | None = None,
    neuron: int | None = None,
    y: Literal["log", "linear"] = "log",
) -> Drawing:
    """One neuron's histogram of activations; or all neurons, how often they are active and how strongly.

    Args:
        result: of a search.
        layer: by its own number; None for all layers.
        neuron: of that layer; None for all.
        y: scale of the histogram's counts.

    Raises:
        ResultError: a neuron without a layer, or a place that is not there.
    """
    from nanogpt_lens.core.errors import ResultError

    one_of("y", y, ("log", "linear"))
    if neuron is None:
        return _overview(result, layer)
    if layer is None:
        raise ResultError(f"neuron={neuron!r} was given without layer=; expected both")
    page = result.page(layer, neuron)  # type: ignore[arg-type]
    i, j = index_of(result, "layer", layer), index_of(result, "neuron", neuron)
    counts = result.histogram[i, j].double().numpy()
    low, high = result.bounds[i, j].double().tolist()
    figure = go.Figure()
    edges = np.linspace(low, high if high > low else low + 1.0, len(counts) + 1)
    histogram(figure, edges, counts, name="tokens", what="tokens of the sample")
    top = float(counts.max()) or 1.0
    upright(figure, page.mean, name=f"mean {page.mean:.3g}", top=top)
    if 0.99 in page.quantiles:
        share = page.quantiles[0.99]
        upright(figure, share, name=f"99% of tokens below {share:.3g}", top=top, dash="dot", colour=style.CATEGORIES[1])
    figure.update_xaxes(title_text=f"activation of {page.kind} {page.layer}.{page.neuron}")
    figure.update_yaxes(title_text="tokens of the sample", type=y, rangemode="tozero" if y == "linear" else "normal")
    if y == "log":
        log_axis(figure, 0.9, top)
    notes = (
        f"{result.sample_size:,} tokens drawn from {result.n_tokens:,}; above 0 on "
        f"{100 * (1 - page.sparsity):.1f}% of all tokens",
        f"Highest activation {float(result.values[i, j]):.4g}" if result.ranked_by == "max" else "",
    )
    return Drawing(
        figure=figure,
        title=f"{page.kind.capitalize()} {page.layer}.{page.neuron} is above 0 on {_percent(1 - page.sparsity)} of "
        "tokens",
        notes=notes,
        plot=260,
        legend=True,
    )


def _percent(share: float) -> str:
    """A share in percent, whole above 10."""
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def _overview(result: NeuronSearch, layer: int | str | None) -> Drawing:
    figure, names = go.Figure(), places(result, "layer")
    chosen = range(len(names)) if layer is None else [index_of(result, "layer", layer)]
    for i in chosen:
        active, numbers = 1 - result.sparsity[i].double(), [f"{names[i]}.{j}" for j in range(result.shape["neuron"])]
        figure.add_trace(
            go.Scatter(
                x=digits(100 * active),
                y=digits(result.values[i]),
                mode="markers",
                name=f"layer {names[i]}",
                text=numbers,
                marker={"size": 4, "color": style.colour_of(i), "opacity": 0.6, "symbol": i % 5},
                hovertemplate=f"{result.unit_kind.capitalize()} %{{text}}: above 0 on %{{x:.3g}}% of tokens; "
                f"{plain(words(result.heading))} %{{y:.4g}}.<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="tokens on which it is above 0 (%)", rangemode="tozero")
    figure.update_yaxes(title_text=words(result.heading, longest=60), rangemode="tozero")
    note = f"A point is one {result.unit_kind}; one {result.unit_kind}'s histogram by layer= and neuron="
    rows = result.values[list(chosen)].double()
    best = largest_of(rows.flatten())
    title = f"All {result.unit_kind}s: how often, how strongly"
    if best is not None:
        i, j = divmod(best, rows.shape[1])
        place, share = f"{names[chosen[i]]}.{j}", _percent(float(1 - result.sparsity[chosen[i], j]))
        title = f"{result.unit_kind.capitalize()} {place} is highest, {said(float(rows[i, j]))}; above 0 on {share}"
    return Drawing(figure=figure, title=title, notes=(note,), plot=310, legend=True)


def statistics(
    result: NeuronStatistics,
    *,
    kind: Literal["correlation", "distribution"] = "correlation",
    layer: int | str | None = None,
    to: int | str | None = None,
    k: int = 24,
) -> Drawing:
    """Correlations of the neurons in the strongest pairs, or the distribution of all correlations beside chance.

    Args:
        result: of `ngl.neuron_statistics`.
        kind: "correlation" or "distribution".
        layer: by its own number; None for the layer with the strongest pair.
        to: the other layer of a pair; None for the layer itself.
        k: how many neurons at most in each direction.

    Raises:
        ResultError: another kind, a layer or a pair of layers that is not there.
    """
    one_of("kind", kind, ("correlation", "distribution"))
    count("k", k)
    first = int(result.top(1)["layer_a"].iloc[0]) if layer is None and to is None else layer
    matrix, chance, names = _matrix(result, first, to)
    within = names[0] == names[1]
    pairs = matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool), torch.nan) if within else matrix
    called = f"within layer {names[0]}" if within else f"of layers {names[0]} and {names[1]}"
    told = [] if chance is None else [f"Chance: of the control's pairs the largest magnitude is {chance:.3g}"]
    if kind == "distribution":
        return _distribution(result, pairs, chance, within, called, told)
    rows, columns = _in_strongest(pairs, k, within)
    numbers = result.labels["neuron"]
    picture = Map(
        z=pairs[rows][:, columns],
        x=[f"{names[1]}.{numbers[j]}" for j in columns],
        y=[f"{names[0]}.{numbers[i]}" for i in rows],
        hover="Neurons %{y} and %{x}: correlation %{z:.4g}.",
        downwards=True,
    )
    notes = [f"The neurons of the strongest pairs {called}, {result.shape['neuron']} in each layer", *told]
    return heat_map(
        picture,
        title=_strongest_pair(result, pairs, chance, names, called),
        unit="Pearson correlation of activations",
        x_title="neuron",
        y_title="neuron",
        signed=True,
        top=1.0,
        notes=notes,
    )


def _strongest_pair(
    result: NeuronStatistics,
    pairs: Float[Tensor, "neuron neuron"],
    chance: float | None,
    names: tuple[str, str],
    called: str,
) -> str:
    """The strongest correlation, beside the largest of the control."""
    best = largest_of(pairs.abs().flatten())
    if best is None:
        return f"Correlations {called}"
    i, j = divmod(best, pairs.shape[1])
    numbers = result.labels["neuron"]
    a, b = f"{names[0]}.{numbers[i]}", f"{names[1]}.{numbers[j]}"
    pair = f"Neurons {a} and {b} correlate most {called}, {said(float(pairs[i, j]))}"
    return pair + ("" if chance is None else f"; control {said(chance)}")


def _matrix(
    result: NeuronStatistics, layer: int | str | None, to: int | str | None
) -> tuple[Float[Tensor, "neuron neuron"], float | None, tuple[str, str]]:
    """The correlations of two layers' neurons, the largest magnitude in the control, and the layers' labels."""
    from nanogpt_lens.core.errors import ResultError

    labels = result.labels["layer"]
    a = labels[index_of(result, "layer", layer if layer is not None else to)]
    b = a if to is None else labels[index_of(result, "layer", to)]
    if a == b:
        i = labels.index(a)
        chance = None if result.chance_within is None else float(result.chance_within[i])
        return result.within[i].double(), chance, (a, a)
    pair = (int(a), int(b))
    known = [p for p in result.pairs if p in (pair, pair[::-1])]
    if result.across is None or not known:
        pairs = ", ".join(f"{x} and {y}" for x, y in result.pairs) or "none"
        raise ResultError(f"layers {a} and {b} were not correlated; expected one of these pairs: {pairs}")
    i = result.pairs.index(known[0])
    across = result.across[i].double()
    chance = None if result.chance_across is None else float(result.chance_across[i])
    return (across if known[0] == pair else across.T), chance, (a, b)


def _in_strongest(pairs: Float[Tensor, "neuron neuron"], k: int, within: bool) -> tuple[list[int], list[int]]:
    """The neurons that take part in the strongest pairs, in their own order."""
    size = pairs.abs().nan_to_num(-1)
    rows: list[int] = []
    columns: list[int] = []
    width = pairs.shape[1]
    for place in size.flatten().argsort(descending=True, stable=True)[: 40 * k].tolist():
        i, j = divmod(place, width)
        ends = [(rows, i), (rows, j)] if within else [(rows, i), (columns, j)]
        for chosen, new in ends:
            if new not in chosen and len(chosen) < k:
                chosen.append(new)
    return sorted(rows), sorted(rows if within else columns)


def _distribution(
    result: NeuronStatistics,
    pairs: Float[Tensor, "neuron neuron"],
    chance: float | None,
    within: bool,
    called: str,
    told: list[str],
) -> Drawing:
    values = pairs[torch.triu(torch.ones_like(pairs), 1).bool()] if within else pairs.flatten()
    values = values[values.isfinite()].numpy()
    counts, edges = np.histogram(values, bins=80, range=(-1, 1))
    figure = go.Figure()
    histogram(figure, edges, counts, name="pairs", what="pairs of neurons")
    top = float(counts.max()) or 1.0
    for sign in (-1, 1) if chance is not None else ():
        upright(figure, sign * (chance or 0.0), name="largest in the control", top=top, legend=sign > 0)
    beyond = int((np.abs(values) > chance).sum()) if chance is not None else 0
    figure.update_xaxes(title_text="Pearson correlation of activations", range=[-1, 1])
    figure.update_yaxes(title_text="pairs of neurons")
    log_axis(figure, 0.9, top)
    title = f"{beyond:,} of {len(values):,} pairs of neurons correlate {called} more than any of the control"
    if chance is None:
        title = f"The strongest correlation {called} is {said(float(np.abs(values).max(initial=0.0)))}"
    return Drawing(figure=figure, title=title, notes=tuple(told), plot=260, legend=chance is not None)


def activations(
    result: Result, *, layer: int | str | None = None, neurons: list[int] | None = None, example: int = 0, k: int = 20
) -> Drawing:
    """Activations on a text: neurons in rows, positions in columns.

    Args:
        result: values [layer, neuron, pos], perhaps with `example` in front.
        layer: only this one; None for all.
        neurons: indices among those of the result; None for the `k` with the largest activations.
        example: which text.
        k: how many neurons.

    Raises:
        ResultError: a place that is not there.
    """
    values, notes = result.values, []
    if "example" in result.axes:
        i = index_of(result, "example", example)
        values = values.select(result.axes.index("example"), i)
        notes.append(f"Example {i} of {result.shape['example']}")
    axes = [axis for axis in result.axes if axis != "example"]
    values = rearrange(values, f"{' '.join(axes)} -> layer neuron pos")
    layers, numbers = places(result, "layer"), places(result, "neuron")
    chosen = list(range(len(layers))) if layer is None else [index_of(result, "layer", layer)]
    width = values.shape[1]
    if neurons is not None:
        rows = [i * width + index_of(result, "neuron", j) for i in chosen for j in neurons]
    else:
        size = values[chosen].abs().nan_to_num(-1).amax(-1).flatten()
        best = size.argsort(descending=True, stable=True)[: count("k", k)].sort().values.tolist()
        rows = [chosen[place // width] * width + place % width for place in best]
        if len(rows) < len(size):
            notes.append(f"The {len(rows)} neurons with the largest activation, of {len(size):,}")
    picture = Map(
        z=rearrange(values, "layer neuron pos -> (layer neuron) pos")[rows],
        x=places(result, "pos"),
        hover="Neuron %{y}, position %{x}: activation %{z:.4g}.",
        y=[f"{layers[i // width]}.{numbers[i % width]}" for i in rows],
        downwards=True,
    )
    return heat_map(
        picture,
        title=extremes(
            lambda place: f"neuron {picture.y[place // len(picture.x)]}, position {picture.x[place % len(picture.x)]}",
            Measured(picture.z),
            what="Activation",
        ),
        unit="activation",
        x_title=title_of("pos", result),
        y_title="neuron",
        signed=True,
        notes=notes,
    )
