"""The tokens whose logits each unit's output direction raises and lowers most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Hooked, n_tokens
from nanogpt_lens.model.weights import unembedding
from nanogpt_lens.results.neurons import NeuronSearch

_TOKENS_SHOWN = 5
_AT_ONCE = 2**25
"""Logits that are computed at once: 256 MiB."""

_NAMES = ("promoted", "suppressed")


def promoted_tokens(model: Hooked, units: Units) -> dict[str, Shaped[Tensor, "layer unit token"]]:
    """The fields of a `NeuronSearch` on what its units promote and suppress, of all units."""
    readout = unembedding(model)
    layers = [_of_directions(units.directions(i), readout) for i in range(len(units.layers))]
    return {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}


def none_promoted(model: Hooked, units: Units) -> dict[str, Shaped[Tensor, "layer unit token"]]:
    """The same fields where nobody asked for them: -1, and nan."""
    shape = len(units.layers), units.n_units, min(_TOKENS_SHOWN, n_tokens(model))
    ids = {name: torch.full(shape, -1, dtype=torch.int32) for name in _NAMES}
    return ids | {f"{name}_logits": torch.full(shape, torch.nan) for name in _NAMES}


def with_promoted(model: Hooked, search: NeuronSearch, neurons: Sequence[int]) -> NeuronSearch:
    """A search of an MLP's neurons (`activation="mlp_post"`, no autoencoder) that also knows what some of them promote.

    Args:
        model: that was searched.
        search: made with `promoted=False`.
        neurons: places among all that were searched, layer after layer.
    """
    readout, width = unembedding(model), search.shape["neuron"]
    units = Units(model, layers=[int(name) for name in search.labels["layer"]])
    fields = {name: getattr(search, name).clone() for kind in _NAMES for name in (kind, f"{kind}_logits")}
    chosen = torch.tensor(sorted(neurons), dtype=torch.long)
    for i in range(search.shape["layer"]):
        here = chosen[chosen.div(width, rounding_mode="floor") == i] - i * width
        if len(here):
            directions = units.directions(i)
            for name, values in _of_directions(directions[here.to(directions.device)], readout).items():
                fields[name][i, here] = values.to(fields[name])
    return replace(search, **fields)


def _of_directions(
    directions: Float[Tensor, "unit d_model"], readout: Float[Tensor, "d_model d_vocab"]
) -> dict[str, Int[Tensor, "unit token"] | Float[Tensor, "unit token"]]:
    """The fields of some units of one layer."""
    shown = min(_TOKENS_SHOWN, readout.shape[1])
    columns: list[dict[str, Tensor]] = []
    for part in directions.split(max(1, _AT_ONCE // readout.shape[1])):
        logits = part @ readout
        column: dict[str, Tensor] = {}
        for name, largest in zip(_NAMES, (True, False), strict=True):
            best = logits.topk(shown, largest=largest)
            column |= {name: best.indices.int(), f"{name}_logits": best.values.float()}
        columns.append(column)
    return {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
