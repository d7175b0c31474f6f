"""Methods that find circuits, graded against the truth: the exact effect of every edge.

What MIB measures (Mueller et al. 2025) stands beside the whole curve: CPR and CMD integrate the faithfulness, and its
distance from 1, over ten shares of the edges. At 479 edges these are 0, 0, 2, 4, 9, 23, 47, 95, 239 and 479 edges, so
that two of ten points are the empty circuit; the curve has every size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from nanogpt_lens.circuits.grade_intervals import grade_intervals
from nanogpt_lens.circuits.graph import names_of
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.ranking import Question, Ranking, SearchMethod, ranking
from nanogpt_lens.circuits.search import Search
from nanogpt_lens.core.checks import check_share, check_whole, default_of
from nanogpt_lens.core.choices import Direction, Source, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, Text, evaluating
from nanogpt_lens.patching.runner import MEMORY
from nanogpt_lens.results import CircuitGrades
from nanogpt_lens.running.metrics import Metric

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of the edges at which MIB measures faithfulness."""

SCORES = {
    "spearman": "rank correlation with the exact effects; with their magnitudes, for a method without sign",
    "sign_agreement": "the share of relevant edges with the right sign",
    "top_k_overlap": "the share of the k largest exact effects that are among the method's first k",
    "average_precision": "average precision at finding the relevant edges",
    "mean_regret": "the faithfulness of the exact order's first n edges less that of the method's, mean over n",
    "worst_regret": "the largest such difference at any n",
    "cpr": "MIB's CPR: the integral of faithfulness over ten shares of the edges",
    "cmd": "MIB's CMD: the integral of its distance from 1",
    "n_edges": "the fewest edges of its order within the tolerance",
    "seconds": "how long the ranking took",
    "n_runs": "forward passes of the ranking; a backward pass counts as two, a layer as its part of a pass",
}
"""What each grade is."""


def grade_circuit_methods(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    methods: Sequence[SearchMethod] = get_args(SearchMethod),
    direction: Direction = "noise",
    k: int | None = None,
    relevant: float = 0.01,
    faithfulness: float = 0.9,
    source: Source = "other",
    reference: Text | None = None,
    steps: int = 5,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> CircuitGrades:
    """Grade methods that find circuits against the exact effects of all edges, on this model and these prompts.

    Args:
        model, clean, corrupted, metric, source, reference, steps, seed, memory, progress: as for `find_circuit`.
        methods: those to grade; "attention" only where there is a corrupted text, and "eap_ig" with the source "other".
        direction: of the exact effects, and of the estimates; circuits are always run as `run_circuit` runs them.
        k: how many edges are the top; None for 10, or as many as a small model has.
        relevant: an edge is relevant if its exact effect is at least this share of the gap between the run of all
            edges and that of none.
        faithfulness: 0.9 counts the edges that bring the faithfulness within 0.1 of 1.

    Returns:
        grades [method, score], `curves`, `regret`, and a `verdict`. Orders are by magnitude. `low` and `high` are the
        bootstrap's over the prompts, for the grades that look at the scores alone (see `grade_intervals`).

    Raises:
        AnalysisError: an unknown method, and whatever `find_circuit` raises.
    """
    chosen = _checked(methods, k=k, relevant=relevant, faithfulness=faithfulness)
    arguments: dict[str, Any] = {
        "model": model, "clean": clean, "corrupted": corrupted, "metric": metric,
        "source": source, "reference": reference, "seed": seed,
    }  # fmt: skip
    with evaluating(model):
        ready = prepare(**arguments)
        search = Search(ready, tolerance=1 - faithfulness, memory=memory)
        names = names_of(search.graph.edges)
        k = default_of(k, 10, len(names))
        if k > len(names):
            raise AnalysisError(f"k is {k}; expected at most {len(names)}, the number of edges")
        asked = Question(arguments=arguments | {"direction": direction}, steps=steps, progress=progress)
        ranked, seconds = _timed_rankings(search, chosen, asked)
        by_method = dict(zip(chosen, ranked, strict=True))
        exact = by_method.get("exact") or ranking(search, "exact", asked)
        curves = torch.stack([search.curve(one.order) for one in ranked])
    return CircuitGrades(
        **_grades(search, exact.scores, ranked, curves, seconds, chosen, k=k, relevant=relevant),
        **_intervals(search, exact, ranked, k=k, relevant=relevant, seed=seed),
        quantity="grades of methods that find circuits",
        definition=(
            f"against the exact effect of every edge ({direction}, source {source}) on {ready.metric.definition}; "
            f"relevant is an effect of at least {relevant:.2g} of the gap between all edges and none; k is {k}; orders "
            f"are by magnitude; MIB's shares are {', '.join(map(str, mib_sizes(len(names))))} of {len(names)} edges"
        ),
        title="methods, graded",
        sample=ready.sample(seed),
        provenance=ready.provenance(methods=chosen, k=k, relevant=relevant, steps=steps, graded_direction=direction),
        edges=names,
        k=k,
        tolerance=search.tolerance,
    )


def _checked(
    methods: Sequence[SearchMethod], *, k: int | None, relevant: float, faithfulness: float
) -> list[SearchMethod]:
    """The methods, each once; AnalysisError where an option cannot be."""
    check_whole(1, k=1 if k is None else k)
    chosen = list(dict.fromkeys(methods))
    for method in chosen:
        check_choice(SearchMethod, methods=method)
    if not chosen:
        raise AnalysisError(f"methods is empty; expected some of {', '.join(get_args(SearchMethod))}")
    check_share(relevant=relevant, faithfulness=faithfulness)
    return chosen


def _grades(
    search: Search,
    exact: Float[Tensor, " edge"],
    ranked: Sequence[Ranking],
    curves: Float[Tensor, "method size"],
    seconds: Sequence[float],
    methods: Sequence[SearchMethod],
    *,
    k: int,
    relevant: float,
) -> dict[str, Any]:
    """The grades of all rankings, as fields of the result."""
    truth = _Truth(exact, exact.abs() >= relevant * abs(search.gap), k)
    best = curves[methods.index("exact")] if "exact" in methods else None
    rows = [
        [*truth.grades(one), *_regret(best, curve), *_mib(curve), _fewest(curve, search.tolerance), took, one.n_runs]
        for one, curve, took in zip(ranked, curves, seconds, strict=True)
    ]
    return {
        "values": torch.tensor(rows, dtype=torch.float64),
        "axes": ("method", "score"),
        "labels": {"method": tuple(methods), "score": tuple(SCORES)},
        "scores": SCORES,
        "units": {"seconds": "s"},
        "exact": exact,
        "estimates": torch.stack([one.scores for one in ranked]),
        "curves": curves,
        "wrong_signs": torch.tensor([truth.wrong_signs(one) for one in ranked], dtype=torch.float64),
        "missed": torch.tensor([truth.missed(one) for one in ranked], dtype=torch.float64),
        "gap": search.gap,
    }


def _intervals(
    search: Search, exact: Ranking, ranked: Sequence[Ranking], *, k: int, relevant: float, seed: int
) -> dict[str, Any]:
    """The fields of the intervals over prompts; none for one prompt, or for a metric without examples."""
    if exact.per_example is None or exact.per_example.shape[1] < 2:
        return {}
    gap = search.full - search.empty
    low, high = grade_intervals(exact.per_example, gap, ranked, n_scores=len(SCORES), k=k, relevant=relevant, seed=seed)
    return {"low": low, "high": high, "interval": "bootstrap"}


def mib_sizes(n_edges: int) -> list[int]:
    """How many edges MIB's ten shares are."""
    return [int(share * n_edges) for share in MIB_SHARES]


def _timed_rankings(
    search: Search, methods: Sequence[SearchMethod], asked: Question
) -> tuple[list[Ranking], list[float]]:
    """The ranking of each method, and how many seconds it took."""
    ranked, seconds = list[Ranking](), list[float]()
    for method in methods:
        start = time.perf_counter()
        ranked.append(ranking(search, method, asked))
        seconds.append(time.perf_counter() - start)
    return ranked, seconds


class _Truth:
    """The exact effects, which rankings are graded against."""

    def __init__(self, exact: Float[Tensor, " edge"], relevant: Bool[Tensor, " edge"], k: int) -> None:
        self.exact, self.relevant, self.k = exact, relevant, k
        self.top = exact.abs().argsort(descending=True, stable=True)[:k]

    def missed(self, one: Ranking) -> int:
        """How many of the top edges are not among a method's first k."""
        return self.k - len({*self.top.tolist()} & {*one.order[: self.k].tolist()})

    def wrong_signs(self, one: Ranking) -> float:
        """How many of the top edges have the wrong sign; nan for a method that knows none."""
        return float((one.scores[self.top].sign() != self.exact[self.top].sign()).sum()) if one.signed else float("nan")

    def grades(self, one: Ranking) -> list[float]:
        """The grades that look at the ranking alone, in the order of `SCORES`."""
        right = (one.scores.sign() == self.exact.sign())[self.relevant].double()
        return [
            _spearman(one.scores if one.signed else one.scores.abs(), self.exact if one.signed else self.exact.abs()),
            float(right.mean()) if one.signed else float("nan"),
            1 - self.missed(one) / self.k,
            self._average_precision(one),
        ]

    def _average_precision(self, one: Ranking) -> float:
        """The mean, over the relevant edges, of the share of relevant ones among those up to it in the order."""
        hits = self.relevant[one.order].double()
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        return float((precision * hits).sum() / hits.sum())


def _spearman(one: Float[Tensor, " edge"], two: Float[Tensor, " edge"]) -> float:
    """The correlation of ranks; equal values share theirs."""
    ranks = torch.stack([torch.from_numpy(rankdata(scores.numpy())) for scores in (one, two)])
    return float(torch.corrcoef(ranks)[0, 1])


def _regret(best: Float[Tensor, " size"] | None, curve: Float[Tensor, " size"]) -> tuple[float, float]:
    """The mean over sizes of what a curve falls short of the exact order's, and the most."""
    if best is None:
        return float("nan"), float("nan")
    return float((best - curve).mean()), float((best - curve).max())


def _mib(curve: Float[Tensor, " size"]) -> tuple[float, float]:
    """MIB's CPR and CMD: trapezoids between its shares of the edges."""
    faithfulness = curve[mib_sizes(len(curve) - 1)]
    shares = torch.tensor(MIB_SHARES, dtype=curve.dtype)
    return (
        float(torch.trapezoid(faithfulness, shares)),
        float(torch.trapezoid((1 - faithfulness).abs(), shares)),
    )


def _fewest(curve: Float[Tensor, " size"], tolerance: float) -> int:
    """The fewest edges with which the faithfulness is within the tolerance of 1."""
    return int(((curve - 1).abs() <= tolerance).nonzero()[0, 0])
