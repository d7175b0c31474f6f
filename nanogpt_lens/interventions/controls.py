"""Sets of other heads or neurons, as many as are studied, that are taken out for comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch

from nanogpt_lens.core.errors import AnalysisError

USUAL = 20
"""The number of sets where none is asked for."""

Numbered: TypeAlias = tuple[int, int]
"""A head or a neuron: (layer, index)."""


def control_sets(
    chosen: Sequence[Numbered],
    layers: Sequence[int],
    width: int,
    *,
    n: int | None,
    seed: int,
    same_layers: bool = False,
    unit: str = "head",
) -> list[tuple[Numbered, ...]]:
    """Random sets of as many others as are chosen.

    Args:
        chosen: the heads or neurons that are studied; none of them is in a control set.
        layers: the layers that the others may be in.
        width: the number of heads or neurons of a layer.
        n: the number of sets; None for 20, or none where there are too few others.
        seed: the seed of the draw.
        same_layers: whether a set has as many of each layer as are chosen there. Such sets may share members with
            each other and even be equal; other sets are all different, and are all that there are where that is
            no more than `n`.
        unit: what they are called in an error, "head" or "neuron".

    Raises:
        AnalysisError: there are too few others for the sets that were asked for.
    """
    if n is None:
        try:
            return control_sets(chosen, layers, width, n=USUAL, seed=seed, same_layers=same_layers, unit=unit)
        except AnalysisError:
            return []
    generator = torch.Generator().manual_seed(seed)
    if same_layers:
        return [
            tuple(itertools.chain(*(_of_layer(chosen, layer, width, generator, unit) for layer in layers)))
            for _ in range(n)
        ]
    others = [one for one in itertools.product(layers, range(width)) if one not in chosen]
    size = len(chosen)
    if n and len(others) < size:
        raise AnalysisError(
            f"{size} {unit}s are to be ablated, and {len(others)} are left, too few for a control set of {size}; "
            f"give fewer {unit}s, or controls=0"
        )
    if math.comb(len(others), size) <= n:
        return list(itertools.combinations(others, size))
    different: dict[tuple[Numbered, ...], None] = {}
    while len(different) < n:
        picked = torch.randperm(len(others), generator=generator)[:size].sort().values
        different[tuple(others[i] for i in picked.tolist())] = None
    return list(different)


def sets_of_the_same_layers(chosen: Sequence[Numbered], width: int, *, n: int, seed: int) -> list[tuple[Numbered, ...]]:
    """At most `n` different sets of others, each with as many of each layer as are chosen there; none where too few.

    All such sets where there are no more than `n`; else some that are drawn.

    Args:
        chosen: the heads or neurons that are studied.
        width: the number of heads or neurons of a layer.
        n: the number of sets.
        seed: the seed of the draw.
    """
    layers = sorted({layer for layer, _ in chosen})
    others = [[(layer, i) for i in range(width) if (layer, i) not in chosen] for layer in layers]
    counts = [sum(at == layer for at, _ in chosen) for layer in layers]
    of_layers = list(zip(others, counts, strict=True))
    if math.prod(math.comb(len(of_layer), count) for of_layer, count in of_layers) <= n:
        parts = itertools.product(*(itertools.combinations(of_layer, count) for of_layer, count in of_layers))
        return [tuple(itertools.chain(*part)) for part in parts]
    generator, different = torch.Generator().manual_seed(seed), dict[tuple[Numbered, ...], None]()
    while len(different) < n:
        picked: list[Numbered] = []
        for of_layer, count in of_layers:
            order = torch.randperm(len(of_layer), generator=generator)[:count].sort().values
            picked += [of_layer[i] for i in order.tolist()]
        different[tuple(picked)] = None
    return list(different)


def _of_layer(
    chosen: Sequence[Numbered], layer: int, width: int, generator: torch.Generator, unit: str
) -> list[Numbered]:
    """As many others of a layer as are chosen in it."""
    taken = [index for at, index in chosen if at == layer]
    if width < 2 * len(taken):
        raise AnalysisError(
            f"{len(taken)} of the {width} {unit}s of layer {layer} are to be ablated, too many for a control of as "
            "many others; give fewer, or controls=0"
        )
    weights = torch.ones(width, dtype=torch.float64)
    weights[taken] = 0
    drawn = torch.multinomial(weights, len(taken), generator=generator).sort().values
    return [(layer, index) for index in drawn.tolist()]
