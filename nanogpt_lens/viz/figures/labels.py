"""What stands at the axes: titles with units, and distinct labels that are taken neither for numbers nor for HTML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.viz.tokens import harmless, numbered

POSITIONS = ("pos", "dest_pos", "src_pos")
"""Axes whose labels are the tokens of a text."""

TITLES = {
    "pos": "position and token",
    "dest_pos": "query: position and token",
    "src_pos": "key: position and token",
    "sender_layer": "sender's layer",
    "sender_head": "sender's head",
    "step": "training step (iterations)",
    "scale": "scale of the direction",
    "component": "component",
    "token": "token",
}

LONGEST = 12
"""Characters of a token at an axis."""


def title_of(axis: str, result: Result | None = None) -> str:
    """The title of an axis; without tokens where the result's texts differ and it has none."""
    title = TITLES.get(axis, axis.replace("_", " "))
    bare = result is not None and axis in POSITIONS and axis not in result.labels
    return title.replace(" and token", "") if bare else title


def words(name: str, *, longest: int = 40) -> str:
    """A name of ours or a label, as text: "previous token" for "previous_token"."""
    plain = name.replace("_", " ") if re.fullmatch(r"[a-z][a-z0-9_]*", name) else name
    return harmless(plain, spaces=False, longest=longest)


def places(result: Result, axis: str, *, longest: int = LONGEST) -> list[str]:
    """A distinct label for each index of an axis."""
    labels = result.labels.get(axis)
    if labels is None:
        return [str(i) for i in range(result.shape[axis])]
    if axis in POSITIONS:
        return numbered(labels, longest=longest)
    return distinct([words(label, longest=max(longest, 24)) for label in labels])


def distinct(labels: Sequence[str]) -> list[str]:
    """The same labels; those that occur more than once with their index."""
    if len(set(labels)) == len(labels):
        return list(labels)
    times = Counter(labels)
    return [label if times[label] == 1 else f"{i} {label}" for i, label in enumerate(labels)]


def index_of(result: Result, axis: str, place: Any) -> int:
    """The index of a place on an axis, negative ones from the end.

    Raises:
        ResultError: there is no such axis or place.
    """
    n = result.values.shape[result._axis(axis)]
    if isinstance(place, str) and axis not in result.labels:
        raise ResultError(f"{axis} is {place!r}, but this axis has no labels; expected a number from 0 to {n - 1}")
    return result._index(axis, place) % n


def spot(result: Result, **indices: Any) -> str:
    """Some indices in words, each by its own label: "layer 1, head 0"."""
    said = []
    for axis, i in indices.items():
        label = places(result, axis)[i]
        said.append(f"{title_of(axis).split(':')[0]} {label}" if axis not in POSITIONS else f"position {label}")
    return ", ".join(said)
