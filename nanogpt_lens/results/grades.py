"""How good methods are that find circuits, against the exact effects of all edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "spearman": True,
    "sign_agreement": True,
    "top_k_overlap": True,
    "average_precision": True,
    "mean_regret": False,
    "worst_regret": False,
    "cpr": True,
    "cmd": False,
    "n_edges": False,
    "seconds": False,
    "n_runs": False,
}
"""For each grade, whether a method with a higher one is the better."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitGrades(Result):
    """The grades of each method, with the axes method and score; `scores` says what each means.

    Attributes:
        exact: the exact effect of every edge.
        estimates: what each method gave every edge.
        curves: the faithfulness of the first n edges of each method's order, for n from 0 to all.
        edges: the names of the edges.
        k: how many edges are the top.
        wrong_signs: of the k edges with the largest exact effects, how many have the wrong sign; nan for a method that
            knows no sign.
        missed: of these k, how many are not among the method's own first k.
        gap: the metric of all edges, less that of none.
        safe_overlap: the share of the top that a method has to find to be called safe.
        tolerance: how far from 1 the faithfulness may be; None in a file of an earlier version.
        low, high: 95% intervals of the grades over the prompts, percentiles of a bootstrap; nan for grades, or methods,
            that have none; None for fewer than two prompts.
    """

    exact: Float[Tensor, " edge"]
    estimates: Float[Tensor, "method edge"]
    curves: Float[Tensor, "method size"]
    edges: tuple[str, ...]
    k: int
    wrong_signs: Float[Tensor, " method"]
    missed: Float[Tensor, " method"]
    gap: float
    safe_overlap: float = 0.8
    tolerance: float | None = None
    low: Float[Tensor, "method score"] | None = None
    high: Float[Tensor, "method score"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "edges", tuple(self.edges))  # a list, in a file

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were graded."""
        return self.labels["method"]

    @cached_property
    def regret(self) -> Float[Tensor, "method size"]:
        """The faithfulness of the exact order's first n edges, less that of each method's, for n from 0 to all.

        Raises:
            ResultError: the exact order was not graded.
        """
        if "exact" not in self.methods:
            raise ResultError("the methods do not include 'exact', which regret is measured from")
        return self.curves[self.methods.index("exact")] - self.curves

    def row_of(self, method: str) -> int:
        """The place of a method.

        Raises:
            ResultError: the method was not graded.
        """
        if method not in self.methods:
            raise ResultError(f"{method!r} was not graded; expected one of {', '.join(self.methods)}")
        return self.methods.index(method)

    def knows_sign(self, method: str) -> bool:
        """Whether a method estimates the effects themselves, in their unit, and not an order alone.

        Raises:
            ResultError: the method was not graded.
        """
        return not bool(torch.isnan(self.wrong_signs[self.row_of(method)]))

    def is_safe(self, method: str) -> bool:
        """Whether a method finds `safe_overlap` of the top edges, with the right signs, and needs few edges.

        Few are no more than half as many again as the exact order needs.

        Raises:
            ResultError: the method was not graded.
        """
        row = self.row_of(method)
        found = self.k - float(self.missed[row]) >= self.safe_overlap * self.k - 1e-9
        return found and not float(self.wrong_signs[row]) > 0 and not self.needs_many(method)

    def verdict(self) -> str:
        """What to use here, in a sentence or two: the cheapest safe method, and what is wrong with the cheaper ones."""
        cost = dict(zip(self.methods, self.at(score="n_runs").tolist(), strict=True))
        estimates = sorted((m for m in self.methods if m in ("eap", "eap_ig")), key=cost.__getitem__)
        said = [self._of(method) for method in estimates]
        safe = next((method for method in estimates if self.is_safe(method)), None)
        advice = "use exact effects" if safe is None else f"use {_NAMES[safe]}"
        return f"{'; '.join(said)}: {advice}" if said else advice

    def _of(self, method: str) -> str:
        row = self.methods.index(method)
        wrong, missed = int(self.wrong_signs[row]), int(self.missed[row])
        if self.is_safe(method) and not missed:
            return f"{_NAMES[method]} finds the top {self.k} edges here, with the right signs"
        faults = [f"misses {missed} of the top {self.k} edges"] if missed else []
        faults += [f"gives {wrong} of them the wrong sign"] if wrong else []
        if self.needs_many(method):
            n, best = (int(self.at(method=name, score="n_edges")) for name in (method, "exact"))
            faults.append(f"needs {n} edges where exact effects need {best}")
        return f"{_NAMES[method]} here {' and '.join(faults)}"

    def needs_many(self, method: str) -> bool:
        """Whether a method's order needs more than half as many edges again as the exact one, if that is known."""
        if "exact" not in self.methods:
            return False
        return float(self.at(method=method, score="n_edges")) > 1.5 * float(self.at(method="exact", score="n_edges"))

    def _summary(self) -> list[str]:
        return [self.verdict(), *self.table().round(3).to_string().splitlines()]

    def table(self) -> pd.DataFrame:
        """One row per method, one column per score."""
        import pandas as pd

        return pd.DataFrame(self.values.double().numpy(), index=list(self.methods), columns=list(self.labels["score"]))

    def worst(self, method: str, k: int = 10) -> pd.DataFrame:
        """The edges on which a method is farthest from the exact effects.

        For a method without unit, those whose place in its order is farthest from that in the exact one.

        Raises:
            ResultError: the method was not graded.
        """
        import pandas as pd

        row = self.row_of(method)
        estimate = self.estimates[row]
        if not self.knows_sign(method):
            off = _places(self.exact).double() - _places(estimate).double()
        else:
            off = estimate - self.exact
        order = off.abs().argsort(descending=True)[:k].tolist()
        return pd.DataFrame(
            {
                "edge": [self.edges[i] for i in order],
                "exact": self.exact[order].double().numpy(),
                "estimate": estimate[order].double().numpy(),
                "off": off[order].double().numpy(),
            }
        )


_NAMES = {"eap": "EAP", "eap_ig": "EAP-IG"}


def _places(scores: Float[Tensor, " edge"]) -> Tensor:
    """The place of each edge in the order of magnitudes."""
    return scores.abs().argsort(descending=True, stable=True).argsort()
