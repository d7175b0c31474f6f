"""Whether an intervention fits a model and a text, at which hook points it is made, and at which indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.intervention import Indices, Intervention
from nanogpt_lens.interventions.nodes import edges_named, entry_hook, entry_kind, exit_hook, stream_hook
from nanogpt_lens.interventions.sites import KINDS, Kind
from nanogpt_lens.model.access import Hooked


def check_fits(model: Hooked, one: Intervention) -> None:
    """Raise AnalysisError unless the model has the layers, heads and neurons, and room for the positions.

    A direction must have the width of the activation. An edge needs LayerNorms, and to be nothing, or a multiple of
    itself, weights that are not processed.
    """
    cfg = model.cfg
    for axis, size in (("layer", cfg.n_layers), ("head", cfg.n_heads), ("neuron", cfg.d_mlp)):
        for place in as_tuple(getattr(one, axis)):
            if place >= size:
                raise AnalysisError(f"there is no {axis} {place} in this model; expected 0 to {size - 1}")
    for axis in ("pos", "dest_pos", "src_pos"):
        positions_from_start(as_tuple(getattr(one, axis)), cfg.n_ctx, axis)
    for name in (*hook_points(model, one), *recorded_points(model, one)):
        if name not in model.hook_dict:
            raise AnalysisError(f"the model has no hook point {name}; expected a model that has, as nanoGPT's do")
    if not isinstance(one.source, str) and "add" in one.source:
        width = _width(model, one)
        if len(one.source["add"]) != width:
            name = "the stream" if one.edge else one.activation
            raise AnalysisError(
                f"the direction has {len(one.source['add'])} numbers; expected {width}, the width of {name}"
            )
    elif one.edge and (one.source == "zero" or not isinstance(one.source, str)):
        check_nothing(model, one.source)
    if one.edge and model.cfg.normalization_type not in ("LN", "LNPre"):
        raise AnalysisError(
            f"an edge is changed, and the model's normalization_type is {model.cfg.normalization_type!r}; expected LN "
            "or LNPre, as nanoGPT has"
        )


def check_nothing(model: Hooked, source: object) -> None:
    """Raise AnalysisError where the weights are processed, so that a node that writes nothing is another thing."""
    if model.cfg.normalization_type == "LNPre":
        raise AnalysisError(
            f"source is {source!r}, and this model's weights are processed: biases of values are folded into that of "
            "the attention's output, so that nothing is another thing than in the checkpoint; load the model without "
            "process_weights, or take 'mean', 'resample' or 'other'"
        )


def hook_points(model: Hooked, one: Intervention) -> dict[str, Kind]:
    """The names of the hook points that an intervention is made at, and its activation; of an edge its receivers'."""
    n_layers = model.cfg.n_layers
    if one.edge:
        ends = [edge.receiver for edge in edges_named(model, one.edge)]
        return {entry_hook(end, n_layers): entry_kind(end) for end in ends}
    kind = KINDS[one.activation]
    layers = range(n_layers) if one.layer is None else as_tuple(one.layer)
    return {kind.hook_name(layer): kind for layer in layers}


def source_points(model: Hooked, one: Intervention) -> dict[str, Kind]:
    """The hook points of what takes the place: those of `hook_points`, but of an edge its sender's."""
    return dict([exit_hook(edges_named(model, one.edge)[0].sender)]) if one.edge else hook_points(model, one)


def recorded_points(model: Hooked, one: Intervention) -> list[str]:
    """The hook points that an edge needs of the run itself: its sender's, and the stream that its receivers read."""
    if not one.edge:
        return []
    ends = [edge.receiver for edge in edges_named(model, one.edge)]
    streams = [stream_hook(end, model.cfg.n_layers) for end in ends if end.kind != "logits"]
    return list(dict.fromkeys([*source_points(model, one), *streams]))


def place_index(one: Intervention, kind: Kind, shape: Sequence[int]) -> tuple[Any, ...]:
    """The index of an activation [example, ...] at the places of an intervention.

    Raises:
        AnalysisError: the text does not have a position.
    """
    all_places = [as_tuple(getattr(one, axis)) for axis in kind.axes]
    listed = sum(map(bool, all_places))
    index: list[Any] = [slice(None)]
    for axis, places, size in zip(kind.axes, all_places, shape[1 : 1 + len(all_places)], strict=True):
        if not places:
            index.append(slice(None))
            continue
        listed -= 1
        if axis.endswith("pos"):
            places = positions_from_start(places, size, axis)
        index.append(torch.tensor(places).view(-1, *(1,) * listed))  # the axes that are listed span a grid
    return tuple(index)


def positions_from_start(positions: Sequence[int], n_pos: int, axis: str = "pos") -> tuple[int, ...]:
    """Positions counted from the start, ascending, each once.

    Raises:
        AnalysisError: a text of `n_pos` tokens does not have a position.
    """
    for position in positions:
        if not -n_pos <= position < n_pos:
            name = "position" if axis == "pos" else axis
            raise AnalysisError(f"there is no {name} {position} in {n_pos} tokens; expected {-n_pos} to {n_pos - 1}")
    return tuple(sorted({position % n_pos for position in positions}))


def as_tuple(places: Indices) -> tuple[int, ...]:
    """One index, several, or none, as a tuple."""
    return () if places is None else (places,) if isinstance(places, int) else places


def _width(model: Hooked, one: Intervention) -> int:
    """The number of numbers that a direction for this intervention has."""
    cfg = model.cfg
    if one.edge:
        return int(cfg.d_model)
    kind = KINDS[one.activation]
    if kind.name == "pattern":
        return 1
    if "neuron" in kind.axes:
        return len(as_tuple(one.neuron)) or int(cfg.d_mlp)
    return int(cfg.d_head if "head" in kind.axes else cfg.d_model)
