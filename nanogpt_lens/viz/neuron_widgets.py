"""What neurons do on texts, as widgets: activations along a text, their extremes, and the excerpts of a search."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import Excerpt, NeuronSearch, Result
from nanogpt_lens.viz.choosing import finite, one_example, own_numbers, places
from nanogpt_lens.viz.token_widgets import static_text
from nanogpt_lens.viz.tokens import harmless, rounded
from nanogpt_lens.viz.widget import Widget

MOST = 200_000
"""Activations that a widget carries; more would be megabytes of text."""


def text_neuron_activations(
    activations: Result, *, layer: Sequence[int] | int | None = None, neuron: Sequence[int] | int | None = None
) -> Widget:
    """A text coloured by the activation of a neuron, chosen by layer and number.

    Args:
        activations: what `get_neuron_activations` returned for one text: [layer, neuron, pos].
        layer, neuron: which, by their own numbers; None for all.

    Raises:
        ResultError: no such layer or neuron, several texts, or more than `MOST` activations.
    """
    layers, neurons, values = _activations(activations, layer, neuron)
    tokens = list(activations.labels["pos"])
    bound = max(float(values.abs().max()), 1e-7)
    scale = [[_numbers([v] * len(neurons)) for _ in layers] for v in (-bound, 0.0, bound)]
    along_text = rearrange(values, "layer neuron pos -> pos layer neuron").tolist()
    props = {
        "tokens": [[_text(token) for token in tokens], legend(bound)],
        "activations": [[[_numbers(row) for row in rows] for rows in along_text], scale],
        "firstDimensionName": "Layer",
        "secondDimensionName": "Neuron",
        "firstDimensionLabels": [str(i) for i in layers],
        "secondDimensionLabels": [str(i) for i in neurons],
    }
    first = static_text(tokens, values[0, 0].tolist(), low=-bound, high=bound)
    return Widget(
        component="TextNeuronActivations",
        props=props,
        static=f"<p>neuron {layers[0]}.{neurons[0]}:</p>{first}",
        caption=f"{activations.quantity}: {len(layers)} layers, {len(neurons)} neurons, {len(tokens)} tokens. "
        f"One scale for all, from rust at {-bound:.4g} over white at 0 to teal at {bound:.4g}, shown below the text",
        height=260,
    )


def legend(bound: float) -> list[str]:
    """Three tokens that stand for the ends and the middle of a scale.

    CircuitsVis takes the lowest and the highest value of all samples for the full colours; a sample with both ends of
    a scale makes that scale symmetric, and shows it.
    """
    return [harmless(text, spaces=False) for text in (f" {-bound:.3g} ", " 0 ", f" {bound:.3g} ")]


def topk_tokens(
    activations: Result,
    *,
    layer: Sequence[int] | int | None = None,
    neuron: Sequence[int] | int | None = None,
    k: int = 10,
) -> Widget:
    """A table of the tokens of a text on which each neuron is highest and lowest.

    Args:
        activations, layer, neuron: see `text_neuron_activations`.
        k: how many tokens of each.

    Raises:
        ResultError: see `text_neuron_activations`, or `k` below 1.
    """
    layers, neurons, values = _activations(activations, layer, neuron)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ResultError(f"k is {k!r}; expected a whole number, 1 or more")
    scale = max(float(values.abs().max()), 1e-7)  # CircuitsVis' colours go from 0 to 1
    tokens = list(activations.labels["pos"])
    parts = {"whole text": (0, len(tokens)), **_lines(tokens)}  # CircuitsVis shows one neuron alone of a single sample
    extremes = [_extremes(values[..., a:b] / scale, min(k, b - a)) for a, b in parts.values()]
    props = {
        "tokens": [[_text(token, spaces=True) for token in tokens[a:b]] for a, b in parts.values()],
        **{name: [part[name] for part in extremes] for name in extremes[0]},
        "firstDimensionName": "Layer",
        "thirdDimensionName": "Neuron, as chosen",
        "sampleLabels": list(parts),
        "firstDimensionLabels": [str(i) for i in layers],
    }
    high = values.topk(min(k, len(tokens)), dim=-1)
    lists = [_tokens_with_values(tokens, high.indices[0, n], high.values[0, n]) for n in range(len(neurons[:10]))]
    rows = "".join(
        f"<tr><td>{layers[0]}.{neuron}</td><td>{text}</td></tr>"
        for neuron, text in zip(neurons[:10], lists, strict=True)
    )
    named = ", ".join(map(str, neurons[:12])) + (", ..." if len(neurons) > 12 else "")
    return Widget(
        component="TopkTokens",
        props=props,
        static=f"<table><tr><th>neuron<th>highest on</tr>{rows}</table>",
        caption=f"{activations.quantity}, divided by {scale:.4g}, the largest magnitude: the {k} highest and lowest "
        f"tokens of the text for each neuron. Columns 0, 1, ... are the neurons {named}",
        height=700,
    )


def topk_samples(search: NeuronSearch, *, neurons: Sequence[tuple[int, int]] | None = None, k: int = 10) -> Widget:
    """The excerpts of a corpus on which neurons are highest and lowest, chosen by neuron.

    Args:
        search: what `search_neurons` returned.
        neurons: (layer, neuron) pairs; None for the 12 whose highest activation is the most standard deviations above
            their mean.
        k: excerpts of each, at the most.

    Raises:
        ResultError: no such neuron, or one without excerpts.
    """
    if neurons is None:
        neurons = salient_neurons(search, 12)
    pages = [search.page(layer, neuron) for layer, neuron in neurons]
    least = min((len(part) for page in pages for part in (page.highest, page.lowest)), default=0)
    k = min(k, least)
    if k < 1:
        raise ResultError("there is a neuron without excerpts, or none at all; choose others, or k of at least 1")
    ends = [[page.highest[:k] for page in pages], [page.lowest[:k] for page in pages]]
    bounds = [max([1e-7, *(abs(v) for e in (*p.highest[:k], *p.lowest[:k]) for v in e.activations)]) for p in pages]
    props = {
        "tokens": [
            [[*([_text(t) for t in e.tokens] for e in part), legend(b)] for part, b in zip(end, bounds, strict=True)]
            for end in ends
        ],
        "activations": [
            [
                [*(_numbers(e.activations) for e in part), _numbers([-b, 0.0, b])]
                for part, b in zip(end, bounds, strict=True)
            ]
            for end in ends
        ],
        "zerothDimensionName": "Excerpts",
        "zerothDimensionLabels": ["highest", "lowest"],
        "firstDimensionName": search.unit_kind.capitalize(),
        "firstDimensionLabels": [f"{page.layer}.{page.neuron}" for page in pages],
    }
    first = pages[0]
    return Widget(
        component="TopkSamples",
        props=props,
        static=f"<p>{first.kind} {first.layer}.{first.neuron}, highest:</p>{static_excerpts(first.highest[:5])}",
        caption=f"{search.quantity}: the {k} excerpts of {search.n_tokens:,} tokens on which each of {len(pages)} "
        f"{search.unit_kind}s is highest, and lowest, the most extreme first; then the scale, rust below zero, teal "
        "above",
        height=420,
    )


def _lines(tokens: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The first and the last token (exclusive) of each line of a text, by name."""
    ends = [i + 1 for i, token in enumerate(tokens) if "\n" in token]
    cuts = sorted({0, *ends, len(tokens)})
    return {f"line {i + 1}": (a, b) for i, (a, b) in enumerate(pairwise(cuts))}


def _extremes(values: Float[Tensor, "layer neuron pos"], k: int) -> dict[str, list]:
    """The k highest and lowest values and their positions, each [layer, k, neuron]."""
    high, low = values.topk(k, dim=-1), values.topk(k, dim=-1, largest=False)
    numbers = {"topkVals": high.values, "bottomkVals": low.values.flip(-1)}
    indices = {"topkIdxs": high.indices, "bottomkIdxs": low.indices.flip(-1)}
    table = "layer neuron k -> layer k neuron"
    return {
        **{n: [[_numbers(row) for row in rows] for rows in rearrange(t, table).tolist()] for n, t in numbers.items()},
        **{n: rearrange(t, table).tolist() for n, t in indices.items()},
    }


def salient_neurons(search: NeuronSearch, n: int) -> list[tuple[int, int]]:
    """The (layer, neuron) pairs whose highest activation is the most standard deviations above their mean."""
    spread = search.variance.double().sqrt()
    z = ((search.values.double() - search.mean.double()) / spread).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    layers, width = search.labels["layer"], search.shape["neuron"]
    best = rearrange(z, "layer neuron -> (layer neuron)").argsort(descending=True, stable=True)[:n].tolist()
    return [(int(layers[i // width]), i % width) for i in best]


def static_excerpts(excerpts: Sequence[Excerpt]) -> str:
    """HTML of excerpts that needs no script, on one scale."""
    bound = max([1e-7, *(abs(v) for e in excerpts for v in e.activations)])
    return "".join(static_text(e.tokens, e.activations, low=-bound, high=bound) for e in excerpts)


def _activations(
    activations: Result, layer: Sequence[int] | int | None, neuron: Sequence[int] | int | None
) -> tuple[list[int], list[int], Float[Tensor, "layer neuron pos"]]:
    """The numbers of the layers and neurons chosen, and their activations."""
    values = one_example(activations, activations.values, 0)
    if "pos" not in activations.labels:
        raise ResultError("the activations are of several texts; expected those of one: ask for one text")
    indices, numbers = [], []
    for axis, chosen in (("layer", layer), ("neuron", neuron)):
        known = own_numbers(activations, axis)
        indices.append(places(chosen, known, axis))
        numbers.append([known[i] for i in indices[-1]])
    values = finite(values[indices[0]][:, indices[1]].double(), activations.quantity)
    if not values.numel() or values.numel() > MOST:
        raise ResultError(
            f"{values.numel():,} activations; expected 1 to {MOST:,}: choose with layer= and neuron=, such as "
            "neuron=range(64)"
        )
    return numbers[0], numbers[1], values


def _tokens_with_values(tokens: list[str], places: Int[Tensor, " k"], values: Float[Tensor, " k"]) -> str:
    """The first five places, each with its token and value, as HTML."""
    pairs = zip(places[:5].tolist(), values[:5].tolist(), strict=True)
    return html.escape(", ".join(f"{i} {harmless(tokens[i])} {v:.3g}" for i, v in pairs))


def _numbers(values: Sequence[float]) -> list[float]:
    return [rounded(v) or 0.0 for v in values]


def _text(token: str, *, spaces: bool = False) -> str:
    return harmless(token, spaces=spaces, breaks=not spaces)
