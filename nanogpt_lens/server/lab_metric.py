"""What the lab measures at one row of logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked


@dataclass(frozen=True)
class LabMetric:
    """The logit of an answer against something else.

    Attributes:
        row: the position that is read.
        answer: the token.
        wrong: the token whose logit is taken off; None for the logarithm of all, which leaves a log-probability.
        contrast: take off the mean logit in place of that.
    """

    row: int
    answer: int
    wrong: int | None
    contrast: bool = False

    def of(self, logits: Float[Tensor, "pos token"]) -> float:
        """The value for the logits of a run."""
        row = logits[self.row].double()
        if self.wrong is not None:
            return float(row[self.answer] - row[self.wrong])
        return float(row[self.answer] - (row.mean() if self.contrast else row.logsumexp(0)))


def metric_of(model: Hooked, given: Any, n: int) -> LabMetric:
    """The metric that a request names.

    Raises:
        AnalysisError: there is no such position or token.
    """
    if not isinstance(given, Mapping):
        raise AnalysisError(f"the metric is {given!r:.40}; expected an object with answer")
    pos, answer, wrong = given.get("pos", -1), given.get("answer", -1), given.get("wrong")
    if isinstance(pos, bool) or not isinstance(pos, int) or not -n <= pos < n:
        raise AnalysisError(f"there is no position {pos!r:.40} in {n} tokens; expected {-n} to {n - 1}")
    size = int(model.cfg.d_vocab)
    for token in (answer, answer if wrong is None else wrong):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
            raise AnalysisError(f"the answer {token!r:.40} is no token; expected 0 to {size - 1}")
    return LabMetric(pos % n, answer, wrong, bool(given.get("contrast")))
