"""How good a sparse autoencoder is, as a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.scores import Scores

if TYPE_CHECKING:
    import pandas as pd

_UNITS = {
    **dict.fromkeys(("loss_clean", "loss_sae", "loss_zero", "loss_mean"), "nats per token"),
    "l0": "active features per token",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SAEEvaluation(Scores):
    """What `evaluate_sae` measured: values [score], the control's as `chance`.

    Attributes:
        frequency: the share of the tokens on which each feature is active.
        n_tokens: how many tokens were read.

    `sample.seen_share` is the share of the text that the autoencoder was trained on, and `in_sample` whether it is more
    than texts have in common by chance.
    """

    frequency: Float[Tensor, " feature"]
    n_tokens: int
    unit: str = "fraction"
    units: Mapping[str, str] = field(default_factory=lambda: dict(_UNITS))

    @property
    def same_text(self) -> bool | None:
        """The same as `in_sample`, by its earlier name."""
        return self.in_sample

    @property
    def dead(self) -> list[int]:
        """The features that were active on none of the tokens."""
        return (self.frequency == 0).nonzero().flatten().tolist()

    def density(self, *, bins: int = 20) -> pd.DataFrame:
        """The histogram of log10 frequency over the features that were active at least once.

        Returns:
            a row for each of the equal bins: `low`, `high` (log10 of the frequency), and `features`, their number.

        Raises:
            ResultError: `bins` is below 1.
        """
        import pandas as pd

        if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
            raise ResultError(f"bins is {bins!r}; expected a whole number, 1 or more")
        alive = self.frequency[self.frequency > 0].double().log10()
        edges = torch.linspace(-torch.tensor(float(self.n_tokens)).log10().item(), 0.0, bins + 1, dtype=torch.float64)
        place = (torch.bucketize(alive, edges, right=True) - 1).clamp(0, bins - 1)
        counts = torch.bincount(place, minlength=bins)
        return pd.DataFrame({"low": edges[:-1].numpy(), "high": edges[1:].numpy(), "features": counts.numpy()})

    def _summary(self) -> list[str]:
        return self.to_dataframe().drop(columns="score").round(4).to_string(index=False).splitlines()
