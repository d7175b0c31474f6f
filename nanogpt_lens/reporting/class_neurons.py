"""The neuron that tells a class of characters apart, in one sentence for the first screen and the section."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nanogpt_lens.reporting.words import share
from nanogpt_lens.results import SeparatingNeurons
from nanogpt_lens.text.predicates import USUAL

FEATURED = ("speaker_name", "upper_case", "newline")
"""Classes of characters, the most telling first: those that no single token decides."""


@dataclass(frozen=True, kw_only=True)
class ClassNeuron:
    """A neuron that surely tells a class apart.

    Attributes:
        what: the class in words.
        layer, neuron: its place, by the layer's own number.
        higher: whether it is higher on the class, else lower.
        held_out: its AUROC on text that did not choose it.
        chance: what the best of all neurons stays at or below in 95 of 100 shifts.
    """

    what: str
    layer: int
    neuron: int
    higher: bool
    held_out: float
    chance: float

    @property
    def sentence(self) -> str:
        """What it does, and how well."""
        return (
            f"Neuron {self.layer}.{self.neuron} tells {self.what} apart: it is {'higher' if self.higher else 'lower'} "
            f"on them than on other tokens in {share(self.held_out)} of pairs, on text that did not choose it."
        )


def class_neuron(found: SeparatingNeurons, what: str) -> ClassNeuron | None:
    """The neuron that tells a class apart best; None where it is not surely above chance on text of its own.

    Args:
        found: how well neurons do.
        what: the class in words.
    """
    layer, neuron = found.best(1)[0]
    held_out, low, sign = _measured(found, layer, neuron)
    if math.isnan(held_out) or not low > found.chance:
        return None
    return ClassNeuron(
        what=what, layer=layer, neuron=neuron, higher=sign > 0, held_out=held_out, chance=float(found.chance)
    )


def first_class_neuron(separating: Mapping[str, SeparatingNeurons]) -> ClassNeuron | None:
    """That of the first featured class that has one, unless the neuron tells another class apart better.

    A neuron of capitals is higher on speakers' names too; it is no neuron of names.
    """
    for name in FEATURED:
        found = separating.get(name)
        one = None if found is None else class_neuron(found, USUAL[name])
        others = [other for key, other in separating.items() if key != name]
        if one is not None and not any(_surely(other, one) > one.held_out for other in others):
            return one
    return None


def _surely(found: SeparatingNeurons, one: ClassNeuron) -> float:
    """How well the same neuron, in the same direction, tells another class apart; 0 where that is not sure."""
    held_out, low, sign = _measured(found, one.layer, one.neuron)
    return held_out if (sign > 0) == one.higher and low > found.chance else 0.0


def _measured(found: SeparatingNeurons, layer: int, neuron: int) -> tuple[float, float, float]:
    """What a neuron reaches on held-out text, where its interval begins, and its sign; the layer by its own number."""
    place = [int(label) for label in found.labels["layer"]].index(layer), neuron
    held_out, low, sign = (float(tensor[place]) for tensor in (found.held_out, found.low, found.sign))
    return held_out, low, sign
