"""What each component adds to a logit, as a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogitAttribution(Result):
    """What each component adds to a logit or a logit difference, [component, pos] or [component, example, pos].

    Attributes:
        total: the logit (difference) of the run, the sum of `values` over "component".
        positions: the position that each index of "pos" is.
        answer: the ids attributed.
        wrong: the ids whose logit is taken off; None for a single logit.
        tokens: the ids of the text.
        strings: the text of the ids attributed, by the id as a string.
    """

    total: Float[Tensor, "*read"]
    positions: tuple[int, ...]
    answer: Int[Tensor, "*read"]
    tokens: Int[Tensor, "*text"]
    wrong: Int[Tensor, "*read"] | None = None
    strings: Mapping[str, str] = field(default_factory=dict)
    unit: str = "logits"
    signed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "positions", tuple(self.positions))

    def to_dataframe(self) -> pd.DataFrame:
        """As for every result; "pos" is the position in the text, not the index among those that were read."""
        frame = super().to_dataframe()
        return frame.assign(pos=[self.positions[i] for i in frame["pos"]])

    def heads(self) -> Float[Tensor, "layer head ..."]:
        """The heads alone; only where they were kept apart.

        Raises:
            AnalysisError: the components are whole layers.
        """
        heads = {label: i for i, label in enumerate(self.labels["component"]) if label.replace(".", "").isdecimal()}
        if not heads:
            raise AnalysisError("the components are layers, without heads; expected components='heads' or 'neurons'")
        n_layers, n_heads = (1 + max(int(label.split(".")[part]) for label in heads) for part in (0, 1))
        values = self.values[list(heads.values())]
        return rearrange(values, "(layer head) ... -> layer head ...", layer=n_layers, head=n_heads)

    def _summary(self) -> list[str]:
        total = f"in all {float(self.total.mean()):.4f}" + (" on average" if self.total.numel() > 1 else "")
        return [total, *super()._summary()]
