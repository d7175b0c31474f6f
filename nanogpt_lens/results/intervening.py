"""What interventions change in one run, as a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InterventionResult(Result):
    """The logits of a run in which interventions are made, beside those of the run as it is.

    Attributes:
        values: logits [example, pos, token] with the interventions; `base` those without.
        interventions: what was done, as JSON values; `Intervention.from_json` takes each.
        activations: by hook point the activation with the interventions, after them; `base_activations` without.
        metric, base_metric: the metric with and without the interventions, one value where it is a bare function;
            None where no metric was asked for.
        metric_name: its definition.
    """

    base: Float[Tensor, "*axes"]
    interventions: tuple[Mapping[str, Any], ...]
    activations: Mapping[str, Shaped[Tensor, " ..."]] = field(default_factory=dict)
    base_activations: Mapping[str, Shaped[Tensor, " ..."]] = field(default_factory=dict)
    metric: Float[Tensor, " example"] | None = None
    base_metric: Float[Tensor, " example"] | None = None
    metric_name: str | None = None

    _long: ClassVar[tuple[str, ...]] = ("activations", "base_activations")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "interventions", tuple(self.interventions))

    @property
    def logits(self) -> Float[Tensor, "example pos token"]:
        """The logits with the interventions."""
        return self.values

    @property
    def change(self) -> Float[Tensor, " example"]:
        """How much the metric changes.

        Raises:
            ResultError: no metric was asked for.
        """
        if self.metric is None or self.base_metric is None:
            raise ResultError("no metric was measured; give one, such as metric=ngl.metrics.logit_diff(...)")
        return self.metric - self.base_metric

    @property
    def kl(self) -> Float[Tensor, "example pos"]:
        """KL(without || with the interventions) in nats."""
        before, after = (logits.double().log_softmax(-1) for logits in (self.base, self.values))
        return (before.exp() * (before - after)).sum(-1)

    def _summary(self) -> list[str]:
        lines = [f"KL(without || with), mean over {self.kl.numel()} positions: {float(self.kl.mean()):.4f} nats"]
        if self.metric is not None and self.base_metric is not None:
            means = [float(value.double().mean()) for value in (self.base_metric, self.metric, self.change)]
            lines.append("{}: {:.4f} -> {:.4f} ({:+.4f})".format(self.metric_name, *means))
        agree = float(torch.eq(self.base.argmax(-1), self.values.argmax(-1)).double().mean())
        return [*lines, f"the likeliest token is the same at {100 * agree:.1f}% of the positions"]
