"""What is inside of two models on the same text: how similar their representations are, and what differs on average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.results.base import Result


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RepresentationSimilarity(Result):
    """Linear CKA of each point of the residual stream in a with each in b, [point_a, point_b].

    The estimator is unbiased in each of its three parts, so that independent representations have 0 on average, and a
    value may be a little below 0 or above 1. It is 1 where one is a rotation of the other, scaled and shifted.

    Attributes:
        low, high: 95% intervals, by the jackknife over the rows.
        chance: what the rows of b in random order stay below in 95 of 100 orders, cell by cell.
        chance_of_all: what they stay below in all cells at once, in 95 of 100 orders; nan where that is not known.
        p: of a value that large where rows have nothing to do with each other, corrected for all cells: the share of
            orders whose largest cell is at least as large; 1 / (orders + 1) or more.
        names: what a and b are called.
        n_rows: how many tokens, each of another sequence.
        n_permutations: how many orders.
        reference: the same of a with a third model, [point_a, point_reference]; None where none was given.
        reference_low, reference_high: its intervals.
        reference_points: its points.
        reference_name: what it is called.
    """

    low: Float[Tensor, "point_a point_b"]
    high: Float[Tensor, "point_a point_b"]
    chance: Float[Tensor, "point_a point_b"]
    p: Float[Tensor, "point_a point_b"]
    names: tuple[str, str]
    n_rows: int
    n_permutations: int
    reference: Float[Tensor, "point_a point_reference"] | None = None
    reference_low: Float[Tensor, "point_a point_reference"] | None = None
    reference_high: Float[Tensor, "point_a point_reference"] | None = None
    reference_points: tuple[str, ...] = ()
    chance_of_all: float = float("nan")
    reference_name: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("names", "reference_points"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, in a file

    @property
    def same_points(self) -> bool:
        """Whether both models have the same points, so that there is a diagonal."""
        return self.labels["point_a"] == self.labels["point_b"]

    @property
    def best(self) -> tuple[tuple[str, str, float], ...]:
        """For each point of a the point of b that is most similar to it, and how much; nan where nothing is known."""
        filled = self.values.nan_to_num(-torch.inf)
        places = filled.argmax(1).tolist()
        return tuple(
            (point, self.labels["point_b"][j], float(self.values[i, j]))
            for i, (point, j) in enumerate(zip(self.labels["point_a"], places, strict=True))
        )

    def sentence(self) -> str:
        """Where the two are most and least similar, in one sentence."""
        a, b = self.names
        if self.same_points:
            here = [(float(self.values[i, i]), i) for i in range(len(self.labels["point_a"]))]
            what = "at the same point"
        else:
            here = [(value, i) for i, (_, _, value) in enumerate(self.best)]
            what = "at the most similar point"
        known = [(value, i) for value, i in here if value == value]
        if not known:
            return f"the representations of {a} and {b} do not vary over these tokens, so that nothing can be said"
        (low, least), (high, most) = min(known), max(known)
        points = self.labels["point_a"]
        said = f"{what} the CKA of {a} and {b} is {low:.2f} ({points[least]}) to {high:.2f} ({points[most]})"
        if f"{low:.2f}" == f"{high:.2f}":
            said = f"{what} the CKA of {a} and {b} is {low:.2f} everywhere"
        said += f"; rows in random order stay below {self.chance_of_all:.2g} in 95 of 100 orders"
        if self.reference is not None and self.reference_points == points:
            diagonal = self.reference.diagonal()
            ends = [f"{float(end):.2f}" for end in (diagonal.nan_to_num(1).min(), diagonal.nan_to_num(-1).max())]
            said += f"; of {a} and {self.reference_name} it is {' to '.join(dict.fromkeys(ends))}"
        return said

    def _summary(self) -> list[str]:
        import pandas as pd

        table = pd.DataFrame(self.values.numpy(), index=self.labels["point_a"], columns=self.labels["point_b"])
        return [self.sentence(), *table.round(2).to_string().splitlines()]
