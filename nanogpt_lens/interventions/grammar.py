"""How the places of a model are written, in Python and on the command line: one grammar for all.

| written | means |
|---|---|
| "0.1", "L0H1" | head 1 of layer 0; "0.1" is neuron 1 of layer 0 where neurons are spoken of |
| "0.1.k", "L0H1.k" | what that head makes of the stream: its q, k or v, or what it gives: its z |
| "L0N17" | neuron 17 of layer 0 |
| "mlp0" | the MLP of layer 0 |
| "embed", "logits" | the embedding, and the logits |
| "0.1->1.0.k" | an edge: what the keys of head 1.0 read of what head 0.1 wrote |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nanogpt_lens.core.errors import AnalysisError

ARROW = "->"

Unit: TypeAlias = Literal["head", "neuron"]

_UNIT = re.compile(r"L?(\d+)([.HN])(\d+)(?:\.([qkvz]))?", re.IGNORECASE)
_MLP = re.compile(r"(?:mlp|m)[ .]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A place as it is written, not yet held against a model.

    Attributes:
        kind: "head", "neuron", "unit" (a head or a neuron, as "0.1" may be either), "mlp", "embed" or "logits".
        layer: its layer; -1 where it is in none.
        index: the number of the head or neuron; -1 where it is neither.
        part: "q", "k", "v" or "z" of a head, "" where none is named.
    """

    kind: Literal["head", "neuron", "unit", "mlp", "embed", "logits"]
    layer: int = -1
    index: int = -1
    part: str = ""


def read_place(word: str) -> Place | None:
    """The place that a word names; None where it names none."""
    word = word.strip()
    if word in ("embed", "logits"):
        return Place("embed" if word == "embed" else "logits")
    if mlp := _MLP.fullmatch(word):
        return Place("mlp", int(mlp[1]))
    unit = _UNIT.fullmatch(word)
    if unit is None:
        return None
    layer, letter, index, part = int(unit[1]), unit[2].upper(), int(unit[3]), (unit[4] or "").lower()
    if letter == "N":
        return None if part else Place("neuron", layer, index)
    return Place("head" if letter == "H" or part else "unit", layer, index, part)


def edge_name(word: object) -> str:
    """The name of an edge as it is usually written, such as "0.1->1.0.k" for "L0H1 -> L1H0.k".

    Raises:
        AnalysisError: the word names no edge, or one from a node that is computed after its reader.
    """
    ends = [read_place(end) for end in word.split(ARROW)] if isinstance(word, str) else []
    match ends:
        case [Place() as sender, Place() as receiver] if _may_send(sender) and _may_receive(receiver):
            name = f"{_node_name(sender)}{ARROW}{_node_name(receiver)}"
        case _:
            raise AnalysisError(
                f"{word!r} is no edge; expected a sender (embed, a head such as 0.1, an MLP such as mlp0), '->', and a "
                "receiver (a head's 1.0.q, 1.0.k or 1.0.v, 1.0 for all three, an MLP, logits), such as '0.1->1.0.k'"
            )
    order = (sender.layer, sender.kind == "mlp") < (receiver.layer, receiver.kind == "mlp")
    if receiver.kind != "logits" and not order:
        raise AnalysisError(
            f"{name!r} is no edge: {_node_name(receiver)} is computed before {_node_name(sender)} or beside it; "
            "expected a receiver behind the sender"
        )
    return name


def _may_send(place: Place) -> bool:
    """Whether a node of that name writes into the residual stream."""
    return place.kind in ("embed", "unit", "head", "mlp") and not place.part


def _may_receive(place: Place) -> bool:
    """Whether a node of that name reads from the residual stream."""
    return place.kind in ("unit", "head", "mlp", "logits") and place.part != "z"


def _node_name(place: Place) -> str:
    """A node as it is usually written."""
    if place.kind in ("unit", "head"):
        return f"{place.layer}.{place.index}" + (f".{place.part}" if place.part else "")
    return f"mlp{place.layer}" if place.kind == "mlp" else place.kind


def layer_and_index(item: object, unit: Unit) -> tuple[int, int] | None:
    """The numbers of a head or neuron, from a pair of them or a word such as "0.1"; None where it is neither."""
    if isinstance(item, str):
        place = read_place(item)
        if place is None or place.part or place.kind not in ("unit", unit):
            return None
        return place.layer, place.index
    match item:
        case (int(layer), int(index)):
            return layer, index
        case _:
            return None
