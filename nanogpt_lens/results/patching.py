"""What patching changes, measured and estimated, as results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.tested import Tested, rounding_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PatchingResult(Tested, Result):
    """The metric after each patch.

    Attributes:
        values: the metric, averaged over the examples.
        clean, corrupted: the metric without any patch; `corrupted` is None where there is no corrupted run.
        direction: "denoise" patches into the corrupted run, "noise" into the clean one.
        patched: the activation that is patched, or "paths"; "" where the result does not say.
        per_example: the metric of each example; None for a metric that is a bare callable.
        base_per_example: the metric of each example in the run that was patched; None where it was not kept.
        low, high: 95% interval of `values` over the examples; None for fewer than two.
        recovery: (values - corrupted) / (clean - corrupted): 1 is the clean run, 0 the corrupted
            one; None without a corrupted run, nan where both runs have the same metric.
        effect: values minus the metric of the run that was patched.
        effect_low, effect_high: 95% interval of `effect`, each example against itself.
        lower_is_better: whether the metric is a loss or a divergence.
    """

    clean: float
    corrupted: float | None
    direction: str
    patched: str = ""
    per_example: Float[Tensor, "*axes example"] | None = None
    base_per_example: Float[Tensor, " example"] | None = None
    low: Float[Tensor, "*axes"] | None = None
    high: Float[Tensor, "*axes"] | None = None
    effect_low: Float[Tensor, "*axes"] | None = None
    effect_high: Float[Tensor, "*axes"] | None = None
    lower_is_better: bool = False

    def _summary(self) -> list[str]:
        runs = f"clean {self.clean:.4f}" + ("" if self.corrupted is None else f", corrupted {self.corrupted:.4f}")
        columns = [*self.axes, *(f"{axis}_label" for axis in self.axes if axis in self.labels)]
        frame = self.top(5)
        kept = [c for c in frame if c in (*columns, "value", "effect", "recovery", "p_corrected")]
        return [runs, *frame[kept].round(4).to_string(index=False).splitlines()]

    def differences(self) -> tuple[Float[Tensor, "*axes example"], float] | None:
        """Each example's effect, see `Tested`."""
        if self.per_example is None or self.base_per_example is None:
            return None
        exact = self.per_example.dtype == torch.float64
        size = rounding_of(self.per_example, self.base_per_example, exact=exact)
        return self.per_example - self.base_per_example, size

    @property
    def falls_helps(self) -> bool:
        """Whether a site that helps has an effect below zero: one that brings the metric nearer to the clean run.

        Without a corrupted run, more is better but for losses and divergences.
        """
        away = self.direction == "noise" or self.corrupted is None
        return away != _lower_is_better(self.clean, self.corrupted, self.lower_is_better)

    @property
    def base(self) -> float:
        """The metric of the run that was patched into."""
        return self.clean if self.direction == "noise" or self.corrupted is None else self.corrupted

    @cached_property
    def effect(self) -> Float[Tensor, "*axes"]:
        """What the patch changes: `values` minus the unpatched metric."""
        return self.values - self.base

    @cached_property
    def recovery(self) -> Float[Tensor, "*axes"] | None:
        """(values - corrupted) / (clean - corrupted)."""
        if self.corrupted is None:
            return None
        gap = self.clean - self.corrupted
        return (self.values - self.corrupted) / gap if gap else torch.full_like(self.values, torch.nan)

    def to_dataframe(self) -> pd.DataFrame:
        """The rows of `Result.to_dataframe`, with `effect` and `recovery`."""
        frame = super().to_dataframe()
        frame["effect"] = self.effect.double().flatten().numpy()
        if self.recovery is not None:
            frame["recovery"] = self.recovery.double().flatten().numpy()
        for name in ("p_corrected", "few_examples"):  # what is said of the others stands behind them
            if name in frame:
                frame[name] = frame.pop(name)
        return frame


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionResult(Tested, Result):
    """Estimates by gradient of what patching would change: values near `PatchingResult.effect`.

    Attributes:
        base: the metric of the run at which the gradient was taken.
        patched: the activation that would be patched; "" where the result does not say.
        target: the metric of the run that the activations come from; None where there is none.
        per_example: the estimate of each example; None where the metric has no examples.
        direction, lower_is_better: as in `PatchingResult`; the first is "" where an earlier version made the result.
    """

    base: float
    patched: str = ""
    target: float | None = None
    per_example: Float[Tensor, "*axes example"] | None = None
    direction: str = ""
    lower_is_better: bool = False

    @property
    def falls_helps(self) -> bool:
        """As in `PatchingResult`."""
        away = self.direction != "denoise" or self.target is None
        ends = (self.base, self.target) if away or self.target is None else (self.target, self.base)
        return away != _lower_is_better(*ends, self.lower_is_better)

    def differences(self) -> tuple[Float[Tensor, "*axes example"], float] | None:
        """Each example's estimate, see `Tested`."""
        return None if self.per_example is None else (self.per_example, 0.0)

    @property
    def effect(self) -> Float[Tensor, "*axes"]:
        """The estimates, under the name that exact effects have in `PatchingResult`."""
        return self.values


def _lower_is_better(clean: float, corrupted: float | None, otherwise: bool) -> bool:
    """Whether the clean run has the lower metric; where there is nothing to compare it with, `otherwise`."""
    return otherwise if corrupted is None or clean == corrupted else clean < corrupted


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ScreeningResult(PatchingResult):
    """Exact patching of the sites that a gradient ranks first.

    Attributes:
        values: the exact metric where `verified`, else base + estimate.
        low, high, effect_low, effect_high: nan where not `verified`.
        estimate: the effect that the gradient promises, for all sites.
        verified: whether the site was patched exactly.
        sampled: whether it was verified as one of a random sample, whatever its rank.
        k: how many top sites are asked for.
        recall_low: at least this share of the `k` largest effects was patched exactly, with 95% confidence, if
            estimates of the unpatched sites are as far from the effects as those of the patched ones; nan if an earlier
            version made the result.
        recall_among_patched: of the `k` largest effects among all sites that were patched exactly, the share that
            the first ranks hold. It knows nothing of sites that were neither ranked high nor sampled, so that the
            recall among all sites may be lower.
        recall_curve: the share of those `k` that the first ranks hold, up to each rank.
            If it is flat long before its end, few are likely to be behind the end.
        missed: how many sites that were not verified by rank are likely to have a larger effect than the k-th
            of those that were: unbiased, and coarse where the sample is small.
        missed_high: upper end of its 95% interval, which assumes nothing.
        correlation: Pearson's, of estimate and exact effect, on the random sample alone.
    """

    estimate: Float[Tensor, "*axes"]
    verified: Bool[Tensor, "*axes"]
    sampled: Bool[Tensor, "*axes"]
    k: int
    recall_among_patched: float
    recall_curve: Float[Tensor, " rank"]
    missed: float
    missed_high: float
    correlation: float
    recall_low: float = math.nan

    _former: ClassVar[Mapping[str, str]] = {"recall": "recall_among_patched"}

    def _summary(self) -> list[str]:
        said = f"at least {self.recall_low:.2f} of the top {self.k} were patched exactly (95%; see recall_low)"
        return [*super()._summary(), *([] if math.isnan(self.recall_low) else [said])]
