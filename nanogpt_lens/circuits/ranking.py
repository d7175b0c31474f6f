"""The order in which a method ranks all edges, and the circuit that it chooses by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.elimination import acdc, backward
from nanogpt_lens.circuits.estimates import edge_attribution
from nanogpt_lens.circuits.rivals import by_attention, by_weights
from nanogpt_lens.circuits.search import Search

SearchMethod: TypeAlias = Literal["greedy", "exact", "acdc", "eap_ig", "eap", "weights", "attention"]
"""How the edges of a circuit are chosen; the last two look neither at the metric nor at its gradient."""

Divergence: TypeAlias = Literal["metric", "kl"]
"""How ACDC compares a run with the whole model's: by the metric's mean, or by KL divergence of the outputs."""

THRESHOLDS = tuple(10 ** (i / 2) for i in range(-6, 0))
"""ACDC's thresholds where none is given, as shares of the distance between the run with no edge and that with all."""

IN_WORDS: dict[SearchMethod, str] = {
    "greedy": "leaving out the least missed edge, scored anew each time",
    "exact": "each edge's exact effect, by magnitude",
    "acdc": "ACDC",
    "eap_ig": "EAP-IG, by magnitude",
    "eap": "EAP, by magnitude",
    "weights": "composition of the weights alone",
    "attention": "attention alone",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What was asked of a search: the arguments that its methods share.

    Attributes:
        arguments: model, clean, corrupted, metric, source, reference and seed, as for `edge_effects`.
        steps: the midpoints of EAP-IG.
        threshold: ACDC's, in units of its distance; None for several.
        divergence: ACDC's distance.
        at_once: see `elimination.backward`.
        n_edges: how many edges are asked for; None for as many as the tolerance asks for.
        progress: show bars.
    """

    arguments: dict[str, Any]
    steps: int = 5
    threshold: float | None = None
    divergence: Divergence = "metric"
    at_once: float = 0.5
    n_edges: int | None = None
    progress: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """What a method says of the edges.

    Attributes:
        scores: what the method gave each edge; with a sign where the method knows one.
        order: all edges, the most important first.
        signed: whether the scores have a sign.
        chosen: the circuit that the method chooses by itself; None where it only ranks.
        circuits: other circuits that it came by, one for each of ACDC's thresholds.
        per_example: the scores in each example, whose mean they are; of one that they are in all examples; None where
            they are no means, and where the metric does not tell examples apart.
        n_runs: how many forward passes it took; a backward pass counts as two, a layer as its part of a pass.
    """

    scores: Float[Tensor, " edge"]
    order: Int[Tensor, " edge"]
    signed: bool = True
    chosen: Bool[Tensor, " edge"] | None = None
    circuits: Bool[Tensor, "threshold edge"] | None = None
    per_example: Float[Tensor, "edge _"] | None = None
    n_runs: float = 0.0

    @property
    def rank(self) -> Int[Tensor, " edge"]:
        """The place of each edge in the order."""
        return self.order.argsort()


def ranking(search: Search, method: SearchMethod, asked: Question) -> Ranking:
    """The ranking of one method.

    Raises:
        AnalysisError: as `edge_effects` and `edge_attribution` raise it; "attention" without a corrupted text.
    """
    before = search.n_runs
    ranked = _METHODS[method](search, asked)
    return replace(ranked, n_runs=ranked.n_runs + search.n_runs - before)


def _exact(search: Search, asked: Question) -> Ranking:
    result = edge_effects(**asked.arguments, memory=search.memory, progress=asked.progress)
    examples, base = result.per_example, result.base_per_example
    return replace(
        _by_magnitude(result.effect),
        per_example=None if examples is None or base is None else examples - base,
        n_runs=2 + sum(map(search.graph.layers_behind, search.graph.edges)),
    )


def _estimated(method: Literal["eap", "eap_ig"]) -> Callable[[Search, Question], Ranking]:
    def estimate(search: Search, asked: Question) -> Ranking:
        result = edge_attribution(**asked.arguments, method=method, steps=asked.steps, progress=asked.progress)
        n_runs = 2 + 3 * (asked.steps if method == "eap_ig" else 1)
        return replace(_by_magnitude(result.values), per_example=result.per_example, n_runs=n_runs)

    return estimate


def _weights(search: Search, asked: Question) -> Ranking:
    ranked = _by_magnitude(by_weights(asked.arguments["model"]))
    return replace(ranked, signed=False, per_example=ranked.scores[:, None])


def _attention(search: Search, asked: Question) -> Ranking:
    scores = by_attention(asked.arguments["model"], search.ready.clean, search.ready.corrupted)
    return replace(_by_magnitude(scores), signed=False, n_runs=2)


def _greedy(search: Search, asked: Question) -> Ranking:
    chosen, order = backward(search, n_edges=asked.n_edges, at_once=asked.at_once, progress=asked.progress)
    return Ranking(scores=(len(order) - order.argsort()).double(), order=order, signed=False, chosen=chosen)


def _acdc(search: Search, asked: Question) -> Ranking:
    """ACDC at one threshold or several: an edge's score is the least at which it goes."""
    distance = search.divergence if asked.divergence == "kl" else search.metric_distance
    thresholds = list(THRESHOLDS) if asked.threshold is None else [asked.threshold]
    if asked.threshold is None:
        scale = float(distance(torch.zeros_like(search.everything)[None])[0])
        thresholds = [share * scale for share in thresholds]
    scores = torch.full(search.everything.shape, torch.inf, dtype=torch.float64)
    circuits, missed = list[Tensor](), torch.zeros_like(scores)
    for threshold in thresholds:
        kept, grown = acdc(search, distance, threshold, progress=asked.progress)
        scores[~kept] = scores[~kept].clamp_max(threshold)
        missed = grown if not circuits else missed
        circuits.append(kept)
    order = torch.tensor(sorted(range(len(scores)), key=lambda i: (-float(scores[i]), -float(missed[i]))))
    chosen = circuits[0] if asked.threshold is not None else None
    return Ranking(scores=scores, order=order, signed=False, chosen=chosen, circuits=torch.stack(circuits))


_METHODS: dict[SearchMethod, Callable[[Search, Question], Ranking]] = {
    "greedy": _greedy,
    "exact": _exact,
    "acdc": _acdc,
    "eap_ig": _estimated("eap_ig"),
    "eap": _estimated("eap"),
    "weights": _weights,
    "attention": _attention,
}


def _by_magnitude(scores: Float[Tensor, " edge"]) -> Ranking:
    scores = scores.double()
    return Ranking(scores=scores, order=scores.abs().argsort(descending=True, stable=True))
