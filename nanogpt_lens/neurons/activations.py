"""What some neurons do on a text, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import Units, checked_layers
from nanogpt_lens.model.access import Edit, Hooked, Text, as_tokens, evaluating, provenance, run, token_labels
from nanogpt_lens.results import Result
from nanogpt_lens.running.batches import batches


def get_neuron_activations(
    model: Hooked,
    text: Text,
    neurons: Sequence[int] | int | None = None,
    *,
    layers: Sequence[int] | int | None = None,
    activation: str = "mlp_post",
    sae: Any = None,
) -> Result:
    """Activations of neurons at every token of a text.

    Args:
        model: the model.
        text: one text or several of one length, or token ids [pos] or [example, pos].
        neurons: their indices, the same in every layer; None for all.
        layers: the layers; None for all.
        activation: what is read, one of `nanogpt_lens.interventions.units.UNIT_HOOKS`.
        sae: a SAELens autoencoder, whose features take the place of neurons.

    Returns:
        activations of shape [layer, neuron, pos] for one text, with `example` in front for several. Labels are the
        layers' and neurons' own numbers, and for one text its tokens.

    Raises:
        AnalysisError: no such neuron, layer or activation, or see `as_tokens`.
    """
    tokens = as_tokens(model, text)
    chosen_layers = None if layers is None else checked_layers(model, layers)
    units = Units(model, activation=activation, layers=chosen_layers, sae=sae)
    chosen = unit_indices(units, neurons)
    parts = []
    with evaluating(model):
        for rows in batches(model, tokens):
            kept: dict[int, Float[Tensor, "example neuron pos"]] = {}
            edits = {name: _edit_that_keeps(kept, i, units, chosen) for i, name in enumerate(units.names)}
            run(model, tokens[rows], edits)
            parts.append(torch.stack([kept[i] for i in range(len(units.names))], 1))  # [example, layer, neuron, pos]
    values = torch.cat(parts)
    single = isinstance(text, str) or (isinstance(text, Tensor) and text.dim() == 1) or _is_flat(text)
    labels = {"layer": tuple(map(str, units.layers)), "neuron": tuple(map(str, chosen))}
    return Result(
        values=values[0] if single else values,
        axes=("layer", "neuron", "pos") if single else ("example", "layer", "neuron", "pos"),
        labels={**labels, "pos": token_labels(model, tokens[0])} if single else labels,
        quantity=f"activation of each {units.kind} at {units.activation}",
        definition=f"blocks.<layer>.{units.hook}" + ("" if sae is None else ", encoded by the autoencoder"),
        provenance=provenance(
            model,
            activation=units.activation,
            layers=units.layers,
            neurons=None if neurons is None else chosen,
            tokens=tokens[0].tolist() if single else list(tokens.shape),
        ),
    )


def unit_indices(units: Units, neurons: Sequence[int] | int | None) -> list[int]:
    """The indices of some units, the same in every layer; of all of them for None.

    Raises:
        AnalysisError: there is no index, one twice, or one that no unit has.
    """
    if neurons is None:
        return list(range(units.n_units))
    indices = [neurons] if isinstance(neurons, int) else list(neurons)
    for unit in indices:
        units.checked(units.layers[0], unit)
    if not indices or len(set(indices)) < len(indices):
        raise AnalysisError(f"neurons is {indices}; expected at least one index, each once, or None for all")
    return indices


def _edit_that_keeps(
    kept: dict[int, Float[Tensor, "example unit pos"]], i: int, units: Units, chosen: Sequence[int]
) -> Edit:
    def keep(activation: Float[Tensor, "example pos ..."]) -> None:
        kept[i] = units.values(i, activation)[..., chosen].detach().transpose(1, 2).clone()

    return keep


def _is_flat(text: Text) -> bool:
    return isinstance(text, Sequence) and len(text) > 0 and isinstance(text[0], int)
