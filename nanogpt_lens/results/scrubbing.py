"""What a causal scrubbing finds: how much of a model's performance a hypothesis keeps, and what each claim costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd

HYPOTHESIS, NOTHING, FREE = "hypothesis", "nothing scrubbed", "drawn freely"
PERMUTED, UNIFORM = "features permuted", "uniform guess"
"""The hypothesis and its controls, as labels of the axis condition."""

FEW_AGREE = 0.1
"""The share of places without another one that agrees, above which a sentence says so."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scrubbing(Result):
    """The share of a metric that a hypothesis recovers, with the axis condition: the hypothesis and its controls.

    Attributes:
        values: (drawn freely - scrubbed) / (drawn freely - nothing scrubbed), of means over prompts and draws.
        low, high: 95% intervals over prompts, and over draws, which each prompt has of its own.
        metric: the metric of each prompt, the mean over draws.
        over_draws: the recovered share of each draw alone.
        hypothesis: the hypothesis, as plain values.
        claims: the path of every claim.
        features: what each is said to depend on.
        alone: for each claim, the share of its places that agree with no other place, and stand in for themselves.
        n_values: for each claim, how many values its feature has.
        cost: what is recovered in addition if a claim's feature says nothing, so that nothing is scrubbed there.
        need: what is lost if a claim is taken out, and any place may stand in.
        rest: what is recovered in addition if what a claim does not name comes from its own place; nan where it says
            nothing of what it reads.
        cost_low, cost_high, need_low, need_high, rest_low, rest_high: their 95% intervals, of each by itself.
        cost_p, rest_p: of none at all, corrected for all costs and rests together; need_p, for all needs.
    """

    low: Float[Tensor, " condition"]
    high: Float[Tensor, " condition"]
    metric: Float[Tensor, "condition example"]
    over_draws: Float[Tensor, "condition draw"]
    hypothesis: Mapping[str, Any]
    claims: tuple[str, ...]
    features: tuple[str, ...]
    alone: Float[Tensor, " claim"]
    n_values: Int[Tensor, " claim"]
    cost: Float[Tensor, " claim"] | None = None
    cost_low: Float[Tensor, " claim"] | None = None
    cost_high: Float[Tensor, " claim"] | None = None
    cost_p: Float[Tensor, " claim"] | None = None
    need: Float[Tensor, " claim"] | None = None
    need_low: Float[Tensor, " claim"] | None = None
    need_high: Float[Tensor, " claim"] | None = None
    need_p: Float[Tensor, " claim"] | None = None
    rest: Float[Tensor, " claim"] | None = None
    rest_low: Float[Tensor, " claim"] | None = None
    rest_high: Float[Tensor, " claim"] | None = None
    rest_p: Float[Tensor, " claim"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("claims", "features"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, in a file

    @property
    def name(self) -> str:
        """The name of the hypothesis; "the hypothesis" where it has none."""
        return str(self.hypothesis.get("name") or "the hypothesis")

    @property
    def _quoted(self) -> str:
        return self.name if self.name == "the hypothesis" else f'"{self.name}"'

    @property
    def recovered(self) -> float:
        """The share that the hypothesis recovers: 1 is what the model does, 0 what a random prompt's logits do."""
        return self.of(HYPOTHESIS)

    @property
    def interval_of_recovered(self) -> tuple[float, float]:
        """The 95% interval of `recovered`."""
        place = self._place(HYPOTHESIS)
        return float(self.low[place]), float(self.high[place])

    def of(self, condition: str) -> float:
        """The share that one condition recovers.

        Raises:
            ResultError: there is no such condition.
        """
        return float(self.values[self._place(condition)])

    @property
    def above_permuted(self) -> tuple[float, float, float]:
        """What is recovered beyond the same claims with permuted features, and the ends of its 95% interval, paired."""
        hypothesis, own, free, permuted = (
            self.metric[self._place(name)].double() for name in (HYPOTHESIS, NOTHING, FREE, PERMUTED)
        )
        return _share(permuted - hypothesis, free - own)

    @property
    def change(self) -> Float[Tensor, " example"]:
        """What the hypothesis changes of each prompt's metric: a mean of 0 may hide changes that cancel."""
        return self.metric[self._place(HYPOTHESIS)] - self.metric[self._place(NOTHING)]

    def recovered_of(self, examples: Int[Tensor, " some"]) -> tuple[float, float, float]:
        """The share that the hypothesis recovers of some prompts, by their places, and the ends of its 95% interval.

        The others have stood in for them all the same. For one prompt the ends are the share.
        """
        scrubbed, own, free = (
            self.metric[self._place(name)][examples].double() for name in (HYPOTHESIS, NOTHING, FREE)
        )
        return _share(free - scrubbed, free - own)

    def claims_table(self) -> pd.DataFrame:
        """A row for each claim: its feature, how its places agree, and what it costs and is needed for.

        Without the columns of `cost`, `need` and `rest` where they were not measured.
        """
        import pandas as pd

        frame = pd.DataFrame({"claim": self.claims, "depends_on": self.features})
        frame["n_values"], frame["alone"] = self.n_values.numpy(), self.alone.double().numpy()
        for what in ("cost", "need", "rest"):
            for column in (what, f"{what}_low", f"{what}_high", f"{what}_p"):
                values = getattr(self, column)
                if values is not None:
                    frame[column] = values.double().numpy()
        return frame

    def sentence(self) -> str:
        """What was found, in a few sentences."""
        low, high = self.interval_of_recovered
        said = [
            f"{self._quoted} recovers {self.recovered:.0%} ({low:.0%} to {high:.0%}) of what the model does; with its "
            f"features permuted {self.of(PERMUTED):.0%}, by a uniform guess {self.of(UNIFORM):.0%}"
        ]
        if self.above_permuted[1] <= 0:
            said.append(
                "that is not surely more than with permuted features, so that what they are hardly matters here"
            )
        said += self._costliest()
        said += self._alone()
        return "; ".join(said)

    def _costliest(self) -> list[str]:
        """The sentence about the part of the hypothesis that costs most, if one surely costs something."""
        if self.cost is None or self.rest is None or self.cost_p is None or self.rest_p is None:
            return []
        costs = torch.cat([self.cost, self.rest.nan_to_num(-torch.inf)])
        p = torch.cat([self.cost_p, self.rest_p.nan_to_num(1.0)])
        costs = costs.where(p <= 0.05, -torch.inf)
        most = int(costs.argmax())
        if not float(costs[most]) > 0:
            return []
        claim = self.claims[most % len(self.claims)]
        if most < len(self.claims):
            return [f"that {claim} depends on {self.features[most]} alone costs most, {float(costs[most]):.0%}"]
        return [f"that nothing else matters for {claim} costs most, {float(costs[most]):.0%}"]

    def _alone(self) -> list[str]:
        """The sentence about the claim whose places agree least, if it has too few that do."""
        shares = {
            claim: alone
            for claim, feature, alone in zip(self.claims, self.features, self.alone.tolist(), strict=True)
            if alone > FEW_AGREE and feature != "everything"
        }
        if not shares:
            return []
        most = max(shares, key=shares.__getitem__)
        others = f" (and more than {FEW_AGREE:.0%} of {_others(len(shares) - 1)})" if len(shares) > 1 else ""
        return [
            f"{shares[most]:.0%} of the places of {most}{others} agree with no other and stand in for themselves, "
            "which tests nothing: give more prompts, or a feature with fewer values"
        ]

    def _place(self, condition: str) -> int:
        if condition not in self.labels["condition"]:
            raise ResultError(
                f"there is no condition {condition!r}; expected one of {', '.join(self.labels['condition'])}"
            )
        return self.labels["condition"].index(condition)

    def _summary(self) -> list[str]:
        frame = self.to_dataframe().drop(columns=["condition"]).set_index("condition_label")
        tables = [frame[["value", "low", "high"]], self.claims_table().set_index("claim")]
        return [self.sentence(), *(line for table in tables for line in table.round(3).to_string().splitlines())]


def _share(part: Float[Tensor, " example"], gap: Float[Tensor, " example"]) -> tuple[float, float, float]:
    """A share of the gap and the ends of its 95% interval; for one prompt the ends are the share."""
    each = ratio_per_example(part, gap)
    low, high = t_interval(each) or (each.mean(), each.mean())
    return float(each.mean()), float(low), float(high)


def _others(n: int) -> str:
    """How many other claims, in words."""
    return "another claim" if n == 1 else f"{n} other claims"
