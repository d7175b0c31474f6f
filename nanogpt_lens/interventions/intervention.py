"""An intervention is data: which activation, at which places, is replaced by what.

    Intervention("z", layer=1, head=0, source="mean")
    Intervention("pattern", layer=0, head=1, dest_pos=-1, src_pos=(0, 1), source="zero")
    Intervention("resid_post", layer=1, source={"add": direction, "scale": 4.0})
    Intervention.at("1.0", "zero")                      # written as `grammar` says
    Intervention("edge", edge="0.1->1.0.k", source="other")   # what one node reads of what another wrote

It goes to JSON and comes back unchanged, so that a command line, a page or a server can speak of it.
`nanogpt_lens.interventions.applying` makes it happen in a model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, TypeAlias, get_args

import torch

from nanogpt_lens.core.choices import Intervened, Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.grammar import ARROW, Place, edge_name, read_place
from nanogpt_lens.interventions.sites import kind_of

Indices: TypeAlias = int | tuple[int, ...] | None
"""One, several, or None for all."""

AXES = ("layer", "head", "neuron", "pos", "dest_pos", "src_pos")
"""The axes along which an intervention may name some places."""

_FROM_END = ("pos", "dest_pos", "src_pos")
_FORMS = "'zero', 'mean', 'resample', 'other', {'scale': x} or {'add': direction, 'scale': x}"


@dataclass(frozen=True)
class Intervention:
    """What takes an activation's place, and at which places.

    Attributes:
        activation: one of `nanogpt_lens.core.choices.Activation`, with or without `hook_` in front; or "edge".
        layer, head, neuron: which of them; None for all, several as a tuple.
        pos: at which positions; negative ones count from the end.
        dest_pos, src_pos: of a pattern, the attending and the attended positions, instead of `pos`.
        source: what takes its place. "zero"; "mean", over the reference's examples and positions (of a pattern over
            its examples alone, so that rows still sum to one); "resample", another reference example's at the same
            position; "other", another run's; {"scale": x}, itself times x; {"add": direction, "scale": x}, itself plus
            x times a direction. A direction has d_model numbers for a stream, d_head for z, q, k and v, one for each
            neuron that is named (all d_mlp where none is), one number for a pattern, and d_model for an edge.
        edge: of the activation "edge", which one: "0.1->1.0.k" is what the keys of head 1.0 read of what head 0.1
            writes, "0.1->1.0" the same of its queries, keys and values. The receiver reads what the source says
            instead, at its positions `pos`; nobody else sees it, and the biases stay.

    Raises:
        AnalysisError: no such activation, source or edge, an axis that the activation does not have, or something that
            is no whole number where a place is named.
    """

    activation: Intervened
    layer: Indices = None
    head: Indices = None
    neuron: Indices = None
    pos: Indices = None
    dest_pos: Indices = None
    src_pos: Indices = None
    source: Source | Mapping[str, Any] = "zero"
    edge: str | None = None

    def __post_init__(self) -> None:
        if self.activation == "edge":
            name, known = "edge", ("pos",)
        else:
            kind = kind_of(self.activation, also=("edge",))
            name, known = kind.name, ("layer", *kind.axes)
        object.__setattr__(self, "activation", name)
        object.__setattr__(self, "edge", _edge(self.edge, name))
        for axis in AXES:
            places = _indices(axis, getattr(self, axis))
            if places is not None and axis not in known:
                some = f"{'' if len(known) == 1 else 'some of '}{', '.join(known)}"
                raise AnalysisError(f"{name} has no {axis}, and {axis} is {places}; expected {some}")
            object.__setattr__(self, axis, places)
        object.__setattr__(self, "source", _source(self.source))

    def __hash__(self) -> int:
        return hash((self.activation, self.edge, *(getattr(self, axis) for axis in AXES)))

    @classmethod
    def at(
        cls,
        place: str,
        source: Source | Mapping[str, Any] = "zero",
        *,
        activation: Intervened | None = None,
        pos: Indices = None,
    ) -> Intervention:
        """The intervention at a place that is written as `nanogpt_lens.interventions.grammar` says.

        Args:
            place: "0.1" is a head's z, "0.1.k" its keys, "mlp0" an MLP's output, "L3N33" a neuron's activation,
                "0.1->1.0.k" an edge.
            source: what takes its place, as above.
            activation: None for the one that the place means; "mlp_post" and "mlp_pre" make "3.33" a neuron.
            pos: at which positions, as above.

        Raises:
            AnalysisError: the place is none that can be replaced, or not one of that activation.
        """
        asked = activation if activation in (None, "edge") else kind_of(activation, also=("edge",)).name
        if isinstance(place, str) and ARROW in place and asked in (None, "edge"):
            return cls("edge", edge=place, pos=pos, source=source)
        written = read_place(place) if isinstance(place, str) else None
        meant, places = _activation_and_places(written, asked)
        if meant is None:
            of = "" if activation is None else f" of the activation {activation!r}"
            raise AnalysisError(
                f"{place!r} is no place{of} that can be replaced; expected a head such as '0.1', its '0.1.k', an MLP "
                "such as 'mlp0', a neuron such as 'L3N33', or an edge such as '0.1->1.0.k'"
            )
        return cls(meant, **places, pos=pos, source=source)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the fields that say something, tuples as lists."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if isinstance(self.source, Mapping):
            kept["source"] = {key: _plain(value) for key, value in self.source.items()}
        return {name: _plain(value) for name, value in kept.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Intervention:
        """The intervention that `to_json` wrote, or one with "place" ("0.1") for the fields that this stands for.

        Raises:
            AnalysisError: it is not JSON, no object, or has a field that there is not.
        """
        if isinstance(data, str):
            try:
                data = json.loads(data)
            except ValueError as error:
                raise AnalysisError(f"the intervention is no JSON ({error}); expected one object") from None
        if not isinstance(data, Mapping):
            raise AnalysisError(f"the intervention is {data!r}; expected a JSON object with the field 'activation'")
        known = [f.name for f in fields(cls)]
        if "place" in data:
            known = ["place", "source", "activation", "pos"]
        if unknown := [str(name) for name in data if name not in known]:
            raise AnalysisError(
                f"an intervention has no field {', '.join(map(repr, unknown))}; expected some of {', '.join(known)}"
            )
        if "place" in data:
            return cls.at(**data)
        if "activation" not in data:
            raise AnalysisError(f"the intervention {dict(data)!r} names no activation; expected the field 'activation'")
        return cls(**data)


Interventions: TypeAlias = Intervention | Mapping[str, Any] | str | Sequence[Intervention | Mapping[str, Any] | str]
"""One intervention or several; each as such, or as its JSON, read or not."""


def as_interventions(some: Interventions) -> list[Intervention]:
    """Every intervention of one, several, or their JSON.

    Raises:
        AnalysisError: one of them is no intervention.
    """
    if isinstance(some, str):
        try:
            some = json.loads(some)
        except ValueError as error:
            raise AnalysisError(f"the interventions are no JSON ({error}); expected an object, or a list") from None
    if isinstance(some, Intervention | Mapping):
        some = [some]
    if isinstance(some, str) or not isinstance(some, Sequence):
        raise AnalysisError(f"the interventions are {some!r}; expected an Intervention, several, or their JSON")
    return [one if isinstance(one, Intervention) else Intervention.from_json(one) for one in some]


def _plain(value: Any) -> Any:
    """A value as JSON has it, tuples as lists."""
    return list(value) if isinstance(value, tuple) else value


def _activation_and_places(
    place: Place | None, activation: Intervened | None
) -> tuple[Intervened | None, dict[str, Any]]:
    """The activation that a written place means, and its layer and head or neuron; None where it means none."""
    if place is None or activation == "edge" or place.kind in ("embed", "logits"):
        return None, {}
    if place.kind == "mlp":
        fits = activation in (None, "mlp_out", "mlp_post", "mlp_pre")
        return (activation or "mlp_out") if fits else None, {"layer": place.layer}
    if place.kind == "neuron" or (place.kind == "unit" and activation in ("mlp_post", "mlp_pre")):
        fits = activation in (None, "mlp_post", "mlp_pre")
        return (activation or "mlp_post") if fits else None, {"layer": place.layer, "neuron": place.index}
    part: Any = place.part or activation or "z"
    fits = part in ("z", "q", "k", "v", "pattern") and activation in (None, part)
    return part if fits else None, {"layer": place.layer, "head": place.index}


def _edge(edge: Any, activation: str) -> str | None:
    """The usual name of an edge where an edge is changed, else None."""
    if activation == "edge" and edge is None:
        raise AnalysisError("the activation is 'edge' and edge is missing; expected edge=, such as '0.1->1.0.k'")
    if activation != "edge" and edge is not None:
        raise AnalysisError(f"{activation} has no edge, and edge is {edge!r}; expected the activation 'edge'")
    return None if edge is None else edge_name(edge)


def _indices(axis: str, places: Any) -> Indices:
    """Whole numbers, as an int or a tuple of ints."""
    if places is None:
        return None
    several = isinstance(places, Sequence) and not isinstance(places, str)
    each: tuple[Any, ...] = tuple(places) if several else (places,)
    least = "" if axis in _FROM_END else ", 0 or more"
    for place in each:
        if isinstance(place, bool) or not isinstance(place, Integral) or (place < 0 and axis not in _FROM_END):
            raise AnalysisError(f"{axis} is {places!r}; expected a whole number{least}, several, or None for all")
    if not each:
        raise AnalysisError(f"{axis} is {places!r}, which names none; expected at least one, or None for all")
    numbers = tuple(int(place) for place in each)
    if axis not in _FROM_END and len(set(numbers)) < len(numbers):
        raise AnalysisError(f"{axis} is {places!r}; expected each once")
    return numbers if several else numbers[0]


def _source(source: Any) -> str | dict[str, Any]:
    """A source, its numbers plain floats."""
    if isinstance(source, str) and source in get_args(Source):
        return source
    if not isinstance(source, Mapping) or set(source) not in ({"scale"}, {"add"}, {"add", "scale"}):
        raise AnalysisError(f"source is {source!r}; expected {_FORMS}")
    scale = source.get("scale", 1.0)
    size: Any = abs(scale) if isinstance(scale, Real) and not isinstance(scale, bool) else float("inf")
    if not size <= sys.float_info.max:
        raise AnalysisError(f"scale is {scale!r:.40}; expected a finite number")
    if "add" not in source:
        return {"scale": float(scale)}
    return {"add": _direction(source["add"]), "scale": float(scale)}


def _direction(numbers: Any) -> tuple[float, ...]:
    """A direction as plain floats."""
    try:
        direction = torch.as_tensor(numbers, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise AnalysisError(f"the direction is a {type(numbers).__name__}; expected a list of numbers") from None
    if direction.dim() != 1 or not len(direction) or not bool(direction.isfinite().all()):
        raise AnalysisError(
            f"the direction has shape {list(direction.shape)} or numbers that are not finite; expected a list of "
            "finite numbers, at least one"
        )
    return tuple(direction.tolist())
