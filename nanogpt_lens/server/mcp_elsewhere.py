"""Controls of an experiment: the same interventions at other places of the same kind, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.model.access import Hooked

_TRIES = 20  # draws for each control that is wanted


def same_elsewhere(
    model: Hooked, interventions: Sequence[Intervention], *, n: int, seed: int, n_pos: int
) -> list[list[Intervention]]:
    """At most `n` different sets of the same interventions at other places.

    Of heads and neurons other heads and neurons are taken, of whole layers other layers, of edges other edges, and of
    a stream that is changed at some positions other positions of it.

    Args:
        model: the model.
        interventions: the experiment.
        n: how many sets.
        seed: of the draw.
        n_pos: how many positions the text has.

    Returns:
        the sets, none of which is the experiment itself; empty where there is no other place.
    """
    generator = torch.Generator().manual_seed(seed)
    own = _key(interventions)
    found: dict[str, list[Intervention]] = {}
    for _ in range(n * _TRIES):
        moved = [_moved(model, one, generator, n_pos) for one in interventions]
        key = _key(moved)
        if key != own and len({_key([one]) for one in moved}) == len(moved):
            found.setdefault(key, moved)
        if len(found) == n:
            break
    return list(found.values())


def _key(some: Sequence[Intervention]) -> str:
    """The places of interventions, whatever their order."""
    return " ".join(sorted(str(one.to_json()) for one in some))


def _moved(model: Hooked, one: Intervention, generator: torch.Generator, n_pos: int) -> Intervention:
    """The same at a place that is drawn: its own is among them."""
    if one.activation == "edge":
        from nanogpt_lens.circuits.graph import CircuitGraph, names_of

        names = [name for name in names_of(CircuitGraph(model).edges) if _same_kind(name, str(one.edge))]
        return replace(one, edge=names[_draw(len(names), generator)]) if names else one
    places: dict[str, Any] = {}
    if one.neuron is not None:
        places["neuron"] = _others(one.neuron, model.cfg.d_mlp, generator)
    elif one.head is not None:
        places["head"] = _others(one.head, model.cfg.n_heads, generator)
    if one.layer is not None and one.neuron is None:
        places["layer"] = _others(one.layer, model.cfg.n_layers, generator)
    if not places and one.pos is not None:
        places["pos"] = _others(one.pos, n_pos, generator)
    return replace(one, **places)


def _same_kind(name: str, own: str) -> bool:
    """Whether two edges end in the same kind of input; an edge without one stands for a head's three."""
    return name.rpartition(".")[2] == own.rpartition(".")[2] if own.rpartition(".")[2] in "qkv" else True


def _others(own: int | tuple[int, ...], size: int, generator: torch.Generator) -> int | tuple[int, ...]:
    """As many indices as there are, drawn."""
    if isinstance(own, int):
        return _draw(size, generator)
    return tuple(sorted(torch.randperm(size, generator=generator)[: len(own)].tolist()))


def _draw(size: int, generator: torch.Generator) -> int:
    return int(torch.randint(size, (1,), generator=generator))
