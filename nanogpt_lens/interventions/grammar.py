"""How the places of a model are written, in Python and on the command line: one grammar for all.

| written | means |
|---|---|
| "0.1", "L0H1" | head 1 of layer 0; "0.1" is neuron 1 of layer 0 where neurons are spoken of |
| "0.1.k", "L0H1.k" | what that head makes of the stream: its q, k or v, or what it gives: its z |
| "L0N17" | neuron 17 of layer 0 |
| "mlp0" | the MLP of layer 0 |
| "embed", "logits" | the embedding, and the logits |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
