"""Controls of an experiment: the same interventions at other places of the same kind, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nanogpt_lens.interventions.intervention import AXES, Indices, Intervention
from nanogpt_lens.model.access import Hooked

_TRIES = 10  # draws for each control that is wanted
_TRIES_OF_ONE = 64  # draws for one intervention's place


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
        the sets, none of which changes anything that the experiment changes; empty where no such places were found.
    """
    generator = torch.Generator().manual_seed(seed)
    edges: Sequence[str] = ()
    if any(one.activation == "edge" for one in interventions):
        from nanogpt_lens.circuits.graph import CircuitGraph, names_of

        edges = names_of(CircuitGraph(model).edges)
    draw = _Draw(model, interventions, edges, n_pos, generator)
    found: dict[str, list[Intervention]] = {}
    for _ in range(n * _TRIES if interventions else 0):
        if (moved := draw.all_moved()) is not None:
            found.setdefault(_key(moved), moved)
        if len(found) == n:
            break
    return list(found.values())


def _key(some: Sequence[Intervention]) -> str:
    """The places of interventions, whatever their order."""
    return " ".join(sorted(str(one.to_json()) for one in some))


@dataclass(frozen=True, eq=False)
class _Draw:
    """Draws other places for the interventions of an experiment."""

    model: Hooked
    own: Sequence[Intervention]
    edges: Sequence[str]
    n_pos: int
    generator: torch.Generator

    def all_moved(self) -> list[Intervention] | None:
        """All of them at places that the experiment does not touch; None where none were found.

        Two are at places of their own, except where the two of the experiment share one.
        """
        moved: list[Intervention] = []
        for i, one in enumerate(self.own):
            for _ in range(_TRIES_OF_ONE):
                new = self._moved(one)
                taken = any(
                    self._touch(new, other) and not self._touch(one, self.own[j]) for j, other in enumerate(moved)
                )
                if not taken and not any(self._touch(new, other) for other in self.own):
                    moved.append(new)
                    break
            if len(moved) == i:
                return None
        return moved

    def _moved(self, one: Intervention) -> Intervention:
        """The same at a place that is drawn: its own is among them."""
        if one.activation == "edge":
            names = _alike(self.edges, str(one.edge))
            return replace(one, edge=names[_draw(len(names), self.generator)]) if names else one
        cfg = self.model.cfg
        places: dict[str, Any] = {}
        if one.neuron is not None:
            places["neuron"] = _others(one.neuron, cfg.d_mlp, self.generator)
        elif one.head is not None:
            places["head"] = _others(one.head, cfg.n_heads, self.generator)
        if one.layer is not None and one.neuron is None:
            places["layer"] = _others(one.layer, cfg.n_layers, self.generator)
        if not places and one.pos is not None:
            places["pos"] = _others(one.pos, self.n_pos, self.generator)
        return replace(one, **places)

    def _touch(self, one: Intervention, other: Intervention) -> bool:
        """Whether two change something in common, whatever takes its place."""
        if one.activation != other.activation or not _same_edge(one.edge, other.edge):
            return False
        return all(self._meet(getattr(one, axis), getattr(other, axis)) for axis in AXES)

    def _meet(self, one: Indices, other: Indices) -> bool:
        """Whether two choices of indices, of which None is all, have one in common; -1 is the last position."""
        if one is None or other is None:
            return True
        some, others = (
            {index if index >= 0 else index + self.n_pos for index in ((each,) if isinstance(each, int) else each)}
            for each in (one, other)
        )
        return bool(some & others)


def _same_edge(one: str | None, other: str | None) -> bool:
    """Whether two edges have one in common: "0.1->1.0" is those into the queries, keys and values."""
    if one is None or other is None:
        return one == other
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _alike(edges: Sequence[str], own: str) -> list[str]:
    """The edges that end in the same kind of input; where one into a head stands for its three, others that do."""
    ends = (".q", ".k", ".v")
    if own.endswith(ends):
        return [name for name in edges if name.endswith(own[-2:])]
    if "." in own.rpartition(">")[2]:
        return list(dict.fromkeys(name[:-2] for name in edges if name.endswith(ends)))
    return [name for name in edges if not name.endswith(ends)]


def _others(own: int | tuple[int, ...], size: int, generator: torch.Generator) -> int | tuple[int, ...]:
    """As many indices as there are, drawn."""
    if isinstance(own, int):
        return _draw(size, generator)
    return tuple(sorted(torch.randperm(size, generator=generator)[: len(own)].tolist()))


def _draw(size: int, generator: torch.Generator) -> int:
    return int(torch.randint(size, (1,), generator=generator))
