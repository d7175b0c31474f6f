"""A circuit that was found, with all that says how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.core.intervals import few_examples, ratio_per_example, t_interval
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Circuit(Result):
    """Some of the edges of a model's graph, which do nearly what all do.

    Attributes:
        values: the score that the method gave each of all edges; `kept` says which are the circuit.
        kept: whether an edge belongs to the circuit.
        rank: the place of each edge in the method's order, 0 the most important.
        curve: the faithfulness of the first n edges of that order, for n from 0 to all.
        method: how the edges were chosen.
        tolerance: how far from 1 the faithfulness may be; what `is_minimal` and `removable` go by.
        without: the faithfulness of the circuit without one of its edges; nan for the others.
        full, empty: the metric of each example with all edges, and with none; one value for a bare callable.
        per_example: the metric of each example with the circuit's edges; one value for a bare callable.
        n_dangling: how many edges were left out because they lead nowhere or carry nothing.
        n_runs: how many forward passes the search took.
        other_circuits: circuits from which no edge can go, found by leaving edges out in random orders.
        other_faithfulness: the faithfulness of each of them.
        replaced: the faithfulness of the whole model without those edges of the circuit in the row that the circuit in
            the column does not have: near 1 where the one does the other's work.
        asks: the metric and the vocabulary as plain data, so that the circuit can be run on other checkpoints (see
            `circuits.kept`); empty for a metric that cannot be written down.
    """

    kept: Bool[Tensor, " edge"]
    rank: Int[Tensor, " edge"]
    curve: Float[Tensor, " size"]
    method: str
    tolerance: float
    without: Float[Tensor, " edge"]
    full: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]
    per_example: Float[Tensor, " example"]
    n_dangling: int = 0
    n_runs: float = 0.0
    other_circuits: Bool[Tensor, "order edge"] | None = None
    other_faithfulness: Float[Tensor, " order"] | None = None
    replaced: Float[Tensor, "order order"] | None = None
    asks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of the circuit's edges, in the order of the graph."""
        return self._names(self.kept)

    @property
    def n_edges(self) -> int:
        """How many edges the circuit has."""
        return int(self.kept.sum())

    @property
    def falls_helps(self) -> bool:
        """Whether the metric falls without an edge that helps; it rises where the whole model has the lower metric."""
        return bool(self.full.mean() >= self.empty.mean())

    @property
    def n_examples(self) -> int | None:
        """How many prompts were measured; None where the metric does not tell them apart."""
        return self.sample.n if self.sample is not None and len(self.per_example) > 1 else None

    @property
    def few_examples(self) -> str:
        """The warning that the interval of the faithfulness is of few prompts; "" where it is not."""
        return few_examples(self.n_examples, "t") if self.faithfulness_interval is not None else ""

    @property
    def faithfulness(self) -> float:
        """(circuit - no edge) / (all edges - no edge), of the means over the prompts."""
        empty = self.empty.double().mean()
        return float((self.per_example.double().mean() - empty) / (self.full.double().mean() - empty))

    @cached_property
    def faithfulness_interval(self) -> tuple[float, float] | None:
        """The 95% interval of `faithfulness` over the prompts; None for fewer than two.

        The edges were chosen on these prompts: see `validate_circuit` for others.
        """
        ends = t_interval(ratio_per_example(self.per_example - self.empty, self.full - self.empty))
        return None if ends is None else (float(ends[0]), float(ends[1]))

    @property
    def holds(self) -> bool:
        """Whether the faithfulness is within the tolerance."""
        return self._within(self.faithfulness)

    @property
    def removable(self) -> tuple[str, ...]:
        """The edges that could go, each alone, with the faithfulness still within the tolerance."""
        return tuple(n for n, f in zip(self.labels["edge"], self.without.tolist(), strict=True) if self._within(f))

    @property
    def is_minimal(self) -> bool:
        """Whether the circuit holds, and none of its edges can go: the certificate of 1-minimality."""
        return self.holds and not self.removable

    @cached_property
    def different(self) -> tuple[tuple[str, ...], ...]:
        """The different circuits that random orders found, each as the names of its edges."""
        rows = () if self.other_circuits is None else self.other_circuits.unbind()
        return tuple(dict.fromkeys(self._names(row) for row in rows))

    @cached_property
    def overlap(self) -> float | None:
        """The mean over pairs of circuits, of this one and the random orders', of edges shared / edges in either."""
        if self.other_circuits is None:
            return None
        every = torch.cat([self.kept[None], self.other_circuits])
        sets = every.double()
        both, sizes = sets @ sets.T, sets.sum(1)
        either = sizes[:, None] + sizes - both
        pairs = torch.ones_like(both).triu(1).bool()
        return float((both / either.clamp_min(1))[pairs].mean())

    @property
    def core(self) -> tuple[str, ...]:
        """The edges that the circuit and those of all random orders have."""
        return self.edges if self.other_circuits is None else self._names(self.kept & self.other_circuits.all(0))

    def sentence(self) -> str:
        """What was found, in a sentence or two."""
        said = f"{self.n_edges} of {len(self.kept)} edges do {self.faithfulness:.0%} of what all do ({self.method})"
        allowed = f"{1 - self.tolerance:.0%} to {1 + self.tolerance:.0%}"
        if not self.holds:
            return f"{said}; that is outside {allowed}"
        if self.is_minimal:
            return f"{said}; without any one of them it is outside {allowed}"
        return f"{said}; {len(self.removable)} of them could go, each alone"

    def faithfulness_at(self, n_edges: int) -> float:
        """The faithfulness of the first `n_edges` edges in the method's order.

        Raises:
            ResultError: there are not so many edges.
        """
        if not 0 <= n_edges < len(self.curve):
            raise ResultError(f"n_edges is {n_edges}; expected 0 to {len(self.curve) - 1}")
        return float(self.curve[n_edges])

    def to_dataframe(self) -> pd.DataFrame:
        """The rows of `Result.to_dataframe`, those of the circuit first, by rank."""
        frame = super().to_dataframe()
        return frame.sort_values(["kept", "rank"], ascending=[False, True], ignore_index=True)

    def _within(self, faithfulness: float) -> bool:
        return abs(faithfulness - 1) <= self.tolerance  # nan is not

    def _names(self, flags: Bool[Tensor, " edge"]) -> tuple[str, ...]:
        return tuple(name for name, flag in zip(self.labels["edge"], flags.tolist(), strict=True) if flag)

    def _summary(self) -> list[str]:
        lines = [self.sentence(), ", ".join(self.edges)]
        if self.other_circuits is not None and self.overlap is not None:
            lines.append(
                f"{len(self.other_circuits)} random orders found {len(self.different)} different minimal circuits of "
                f"{int(self.other_circuits.sum(1).min())} to {int(self.other_circuits.sum(1).max())} edges; two share "
                f"{self.overlap:.0%} of their edges; all have {len(self.core)}"
            )
        return lines
