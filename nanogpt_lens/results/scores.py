"""Scores with their chance level, intervals and p, as results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.tested import Tested, rounding_of


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scores(Tested, Result):
    """Measured scores, with what chance would give.

    Attributes:
        chance: the value under uniform attention, or of the control that `definition` names; None where there is
            no such thing.
        low, high: 95% interval over the sequences, see `interval`; None where nothing was sampled.
        per_example: the value of each sequence, whose mean is `values`; jackknife pseudo-values of a score that is
            no mean over sequences. None where they were not kept.
        chance_per_example: the chance level of each sequence; None where it is the same, or was not kept.
        tested: what `p` is against: "chance", the chance level; "zero", no effect; "" where nothing is tested.
        untested: the scores that do not vary with the examples, and have no p.
    """

    chance: Shaped[Tensor, "*axes"] | None = None
    low: Shaped[Tensor, "*axes"] | None = None
    high: Shaped[Tensor, "*axes"] | None = None
    per_example: Shaped[Tensor, " ..."] | None = None
    chance_per_example: Shaped[Tensor, " ..."] | None = None
    tested: str = ""
    untested: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "untested", tuple(self.untested))

    def differences(self) -> tuple[Shaped[Tensor, "*axes example"], float] | None:
        """What is 0 but for chance, see `Tested`."""
        if not self.tested or self.per_example is None:
            return None
        each, chance = self.per_example, None
        if self.tested == "chance":
            if self.chance is None:
                return None
            chance = self.chance[..., None] if self.chance_per_example is None else self.chance_per_example
            each = each - chance
        if self.untested:
            places = [self.labels["score"].index(name) for name in self.untested]
            each = each.index_fill(self._axis("score"), torch.tensor(places), torch.nan)
        return each, 0.0 if chance is None else rounding_of(self.per_example, chance, exact=False)

    def as_fields(self) -> dict[str, Any]:
        """All that scores say, by field name, for a result that says more of the same scores."""
        return {f.name: getattr(self, f.name) for f in fields(Scores)}

    def score(self, name: str) -> Shaped[Tensor, " ..."]:
        """The values of one of several scores, by name, such as `scores.score("induction")` [layer, head]."""
        return self.at(score=name)

    def select(self, **places: int | str) -> Scores:
        """The scores at indices (or labels) of some axes, without these axes: `scores.select(layer=0, head=1)`.

        Chance, intervals and the value of each sequence come along; `at` gives the values alone. There is no p: it was
        corrected for all places.

        Raises:
            ResultError: no such axis, index or label.
        """
        index: list[Any] = [slice(None)] * len(self.axes)
        for axis, place in places.items():
            dim = self._axis(axis)
            index[dim] = self._index(axis, place)
        whole = {f.name: getattr(self, f.name) for f in fields(Scores)}
        sizes = self.values.shape
        chosen = {
            name: value[tuple(index)]
            for name, value in whole.items()
            if isinstance(value, torch.Tensor) and value.shape[: len(sizes)] == sizes
        }
        if "score" in places and "score" in self.labels:
            name = self.labels["score"][self._index("score", places["score"])]
            chosen |= {"quantity": name.replace("_", " "), "unit": self.unit_of(name), "units": {}, "untested": ()}
            chosen["scores"] = {key: words for key, words in self.scores.items() if key == name}
        kept = {axis: labels for axis, labels in self.labels.items() if axis not in places}
        axes = tuple(axis for axis in self.axes if axis not in places)
        return Scores(**{**whole, **chosen, "axes": axes, "labels": kept, "tested": ""})

    @classmethod
    def side_by_side(
        cls, several: Mapping[str, Scores], *, axis: str = "curve", quantity: str = "", definition: str = ""
    ) -> Scores:
        """Several scores with the same axes as one result, on a new last axis; its `plot` draws them together.

            before, after = scores.select(layer=0, head=1), scores.select(layer=1, head=0)
            Scores.side_by_side({"head 0.1": before, "head 1.0": after}).plot()

        Args:
            several: the scores, by the names that they get on the new axis.
            axis: its name.
            quantity, definition: what they are together; those of the first where nothing is said.

        Returns:
            values; chance levels and intervals where all have them.

        Raises:
            ResultError: there are none, two differ in their axes or labels, or one has the new axis already.
        """
        each = list(several.values())
        if not each:
            raise ResultError("nothing to put side by side; expected scores by name")
        first = each[0]
        for name, scores in several.items():
            if (scores.axes, scores.shape, scores.labels) != (first.axes, first.shape, first.labels):
                raise ResultError(
                    f"{name!r} has the axes {scores.shape}, {next(iter(several))!r} has {first.shape}; expected the "
                    "same axes and labels: `select` takes some away"
                )
        if axis in first.axes:
            raise ResultError(f"the scores have an axis {axis!r} already; give another name as `axis`")
        of_each = {name: [getattr(s, name) for s in each] for name in ("values", "chance", "low", "high")}
        tensors: dict[str, Any] = {
            name: None if any(t is None for t in some) else torch.stack(some, -1) for name, some in of_each.items()
        }
        kinds = {scores.interval for scores in each}
        return Scores(
            **tensors,
            axes=(*first.axes, axis),
            labels={**first.labels, axis: tuple(several)},
            quantity=quantity or first.quantity,
            definition=definition or first.definition,
            interval=kinds.pop() if len(kinds) == 1 else "",
            provenance=first.provenance,
        )
