"""Whether a circuit holds what it claims, with controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd

IDEAL: Mapping[str, float] = {
    "faithfulness": 1.0,
    "mean_of_ratios": 1.0,
    "complement": 0.0,
    "completeness_random": 0.0,
    "completeness_node": 0.0,
    "completeness_greedy": 0.0,
    "equivalence": 0.5,
    "independence": 0.0,
    "held_out": 1.0,
}
"""What each check would be of a perfect circuit, where that is known."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitValidation(Result):
    """What was measured of a circuit, one value for each check; `scores` says what each is.

    Attributes:
        values: the checks; shares of the gap between all edges and none, where nothing else is said.
        low, high: 95% intervals over the prompts, or over what was drawn; nan where there is none.
        p: of the hypothesis that a check states; nan where it states none.
        edges: the circuit.
        edge_p: of each edge mattering no more than a random one, corrected by Holm for all edges.
        choices: how the circuit was run for each row of the robustness table, one word for each of `choice_names`.
        choice_names: the six choices of Miller et al. 2024.
        robustness: the faithfulness of the circuit under each of them; nan where there is no gap between all edges and
            none, or the reverse of the usual one.
        robustness_low, robustness_high: its 95% intervals over the prompts.
    """

    low: Float[Tensor, " check"]
    high: Float[Tensor, " check"]
    p: Float[Tensor, " check"]
    edges: tuple[str, ...]
    edge_p: Float[Tensor, " edge"]
    choices: tuple[tuple[str, ...], ...]
    choice_names: tuple[str, ...]
    robustness: Float[Tensor, " choice"]
    robustness_low: Float[Tensor, " choice"]
    robustness_high: Float[Tensor, " choice"]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "edges", tuple(self.edges))  # lists, in a file
        object.__setattr__(self, "choices", tuple(map(tuple, self.choices)))
        object.__setattr__(self, "choice_names", tuple(self.choice_names))

    def check(self, name: str) -> float:
        """The value of one check.

        Raises:
            ResultError: there is no such check.
        """
        return float(self.values[self._place(name)])

    def p_of(self, name: str) -> float:
        """The p of one check; nan where it states no hypothesis.

        Raises:
            ResultError: there is no such check.
        """
        return float(self.p[self._place(name)])

    @property
    def spread(self) -> tuple[float, float, int]:
        """The least and the largest faithfulness of the circuit (not of what it leaves out), and in how many ways.

        Ways without a gap do not count; nan, nan and 0 for none.
        """
        part = self.choice_names.index("part") if "part" in self.choice_names else None
        own = [part is None or choice[part] == "circuit" for choice in self.choices]
        values = [
            value for value, mine in zip(self.robustness.tolist(), own, strict=True) if mine and not math.isnan(value)
        ]
        return (min(values), max(values), len(values)) if values else (float("nan"), float("nan"), 0)

    def robustness_table(self) -> pd.DataFrame:
        """The faithfulness of the circuit under each way of running it."""
        import pandas as pd

        frame = pd.DataFrame(list(self.choices), columns=list(self.choice_names))
        frame["faithfulness"] = self.robustness.double().numpy()
        frame["low"], frame["high"] = self.robustness_low.double().numpy(), self.robustness_high.double().numpy()
        return frame

    def verdict(self) -> str:
        """What stands and what does not, in a few sentences."""
        faithful, other = self.check("faithfulness"), self.check("random_circuits")
        said = [
            f"the circuit does {faithful:.0%} of what the whole model does; random circuits of its size do {other:.0%} "
            f"(p = {self.p_of('random_circuits'):.3f})"
        ]
        if "held_out" in self.labels["check"]:
            said.append(f"{self.check('held_out'):.0%} on prompts that it was not found on")
        if self.p_of("independence") <= 0.05:
            said.append("what it leaves out still goes with the model's answers, prompt by prompt")
        if self.p_of("equivalence") <= 0.05:
            said.append("it errs to one side, prompt by prompt")
        weak = int((self.edge_p > 0.05).sum())
        said.append(f"{weak} of {len(self.edges)} edges are not surely above a random edge")
        low, high, ways = self.spread
        said.append(f"run in {ways} ways that are in use it does {low:.0%} to {high:.0%}")
        return "; ".join(said)

    def _place(self, name: str) -> int:
        if name not in self.labels["check"]:
            raise ResultError(f"there is no check {name!r}; expected one of {', '.join(self.labels['check'])}")
        return self.labels["check"].index(name)

    def _summary(self) -> list[str]:
        frame = self.to_dataframe().drop(columns=["check"]).set_index("check_label")
        table = frame[["value", "low", "high", "p"]].round(3).to_string()
        return [self.verdict(), *table.splitlines(), *self.robustness_table().round(3).to_string().splitlines()]
