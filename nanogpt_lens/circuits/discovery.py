"""Circuits that are found: few edges that do what all do, with a certificate that none of them can go.

Every method ranks the edges, or leaves them out one after the other. Whatever it says, the circuit is run: faithfulness
is measured, never estimated. Edges that lead nowhere are left out, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.circuits.connected import without_dangling
from nanogpt_lens.circuits.elimination import minimal_in_order
from nanogpt_lens.circuits.exchange import exchanged
from nanogpt_lens.circuits.graph import names_of
from nanogpt_lens.circuits.kept import asks_of
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.ranking import IN_WORDS, Divergence, Question, Ranking, SearchMethod, ranking
from nanogpt_lens.circuits.search import Search
from nanogpt_lens.core.checks import check_share, check_whole
from nanogpt_lens.core.choices import Source, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, Text, evaluating
from nanogpt_lens.patching.runner import MEMORY
from nanogpt_lens.results import Circuit
from nanogpt_lens.running.metrics import Metric


def find_circuit(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    method: SearchMethod = "greedy",
    n_edges: int | None = None,
    threshold: float | None = None,
    faithfulness: float = 0.9,
    source: Source = "other",
    reference: Text | None = None,
    steps: int = 5,
    divergence: Divergence = "metric",
    exchanges: int = 1,
    orders: int = 4,
    at_once: float = 0.5,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> Circuit:
    """Find few edges of the model's graph that do what all of them do.

    Args:
        model: a HookedTransformer or a TransformerBridge, without processed weights.
        clean, corrupted, metric, source, reference, memory: as for `run_circuit`.
        method: "greedy" leaves out the least missed edge again and again; "exact", "eap", "eap_ig", "weights" and
            "attention" take the first edges of their ranking; "acdc" asks each edge once, from the logits down.
        n_edges: how many edges; None for as few as `faithfulness` allows.
        threshold: take the edges whose score is at least this, in the metric's unit; ACDC's tau.
        faithfulness: 0.9 asks for the smallest circuit found whose faithfulness is within 0.1 of 1; also the tolerance
            of the certificate.
        steps: the midpoints of "eap_ig".
        divergence: what ACDC compares runs by: "metric", or "kl" of the outputs, in nats.
        exchanges: how many rounds of exchanges "greedy" may make for a smaller circuit.
        orders: from how many random orders of leaving edges out other minimal circuits are found; 0 for none.
        at_once: the largest share of the edges that "greedy" leaves out between two scorings.
        seed: of those orders, and of the source "resample".
        progress: show bars.

    Returns:
        the circuit: `edges`, `faithfulness`, the `curve` over all sizes, and the certificate, `is_minimal`. It was
        chosen on these prompts: measure it on others with `run_circuit` or `validate_circuit`.

    Raises:
        AnalysisError: an option that is no choice, no gap between the run of all edges and that of none, and whatever
            `run_circuit` raises.
    """
    check_choice(SearchMethod, method=method)
    check_choice(Divergence, divergence=divergence)
    check_whole(exchanges=exchanges, orders=orders, seed=seed)
    _check_request(n_edges, threshold, faithfulness, at_once, method)
    arguments: dict[str, Any] = {
        "model": model, "clean": clean, "corrupted": corrupted, "metric": metric,
        "source": source, "reference": reference, "seed": seed,
    }  # fmt: skip
    with evaluating(model):
        ready = prepare(**arguments)
        search = Search(ready, tolerance=1 - faithfulness, memory=memory)
        if n_edges is not None and n_edges > len(search.everything):
            raise AnalysisError(f"n_edges is {n_edges}; expected at most {len(search.everything)}, which the model has")
        asked = Question(
            arguments=arguments,
            steps=steps,
            threshold=threshold,
            divergence=divergence,
            at_once=at_once,
            n_edges=n_edges,
            progress=progress,
        )
        ranked = ranking(search, method, asked)
        curve = search.curve(ranked.order)
        chosen = _chosen(search, ranked, curve, n_edges, threshold)
        if method == "greedy" and n_edges is None and exchanges:
            chosen = exchanged(search, chosen, ranked.order, rounds=exchanges, progress=progress)
        kept = without_dangling(search.graph, chosen, source)
        options = {"n_edges": n_edges, "threshold": threshold, "faithfulness": faithfulness, "orders": orders}
        return Circuit(
            **_fields(search, kept, ranked, curve),
            **_others(search, orders, seed, progress=progress),
            method=method,
            n_dangling=int(chosen.sum() - kept.sum()),
            n_runs=search.n_runs,
            sample=replace(ready.sample(seed), seen_share=1.0, seen_by="the search"),
            provenance=ready.provenance(method=method, steps=steps, divergence=divergence, **options),
            quantity="score of an edge",
            definition=_definition(method, source, ready.metric.definition, faithfulness),
            title="circuit",
            signed=ranked.signed,
            asks=asks_of(model, ready.metric),
        )


def _check_request(
    n_edges: int | None, threshold: float | None, faithfulness: float, at_once: float, method: str
) -> None:
    """Raise AnalysisError where two things are asked for at once, or something that cannot be."""
    if n_edges is not None and threshold is not None:
        raise AnalysisError("both n_edges and threshold are given; expected one of them, or faithfulness alone")
    if n_edges is not None:
        check_whole(n_edges=n_edges)
    if threshold is not None and (method == "greedy" or not threshold >= 0):
        raise AnalysisError(
            f"threshold is {threshold!r} for the method {method!r}; expected 0 or more, and a method that scores "
            "edges: 'exact', 'acdc', 'eap', 'eap_ig', 'weights' or 'attention'"
        )
    check_share(faithfulness=faithfulness, at_once=at_once)


def _chosen(
    search: Search,
    ranked: Ranking,
    curve: Float[Tensor, " size"],
    n_edges: int | None,
    threshold: float | None,
) -> Bool[Tensor, " edge"]:
    """The edges that answer what was asked for."""
    if ranked.chosen is not None:
        return ranked.chosen
    if n_edges is not None:
        return _first(ranked, n_edges)
    if threshold is not None:
        return ranked.scores.abs() >= threshold
    if ranked.circuits is not None:
        off = search.off(ranked.circuits)
        fitting = [row for row, far in zip(ranked.circuits, off.tolist(), strict=True) if far <= search.tolerance]
        return min(fitting, key=lambda row: int(row.sum()), default=search.everything)
    within = ((curve - 1).abs() <= search.tolerance).nonzero()[:, 0]
    return _first(ranked, int(within[0]))  # all edges are within


def _first(ranked: Ranking, n_edges: int) -> Bool[Tensor, " edge"]:
    """The first edges of a ranking."""
    return ranked.rank < n_edges


def _fields(
    search: Search, kept: Bool[Tensor, " edge"], ranked: Ranking, curve: Float[Tensor, " size"]
) -> dict[str, Any]:
    """What a circuit says of its edges."""
    return {
        "values": ranked.scores,
        "axes": ("edge",),
        "labels": {"edge": names_of(search.graph.edges)},
        "kept": kept,
        "rank": ranked.rank,
        "curve": curve,
        "tolerance": search.tolerance,
        "without": search.without_each(kept),
        "full": search.full,
        "empty": search.empty,
        "per_example": search.values(kept[None])[0],
    }


def _others(search: Search, orders: int, seed: int, *, progress: bool) -> dict[str, Any]:
    """Other minimal circuits, and whether each does the other's work."""
    if not orders:
        return {}
    generator = torch.Generator().manual_seed(seed)
    n_edges = len(search.everything)
    drawn = [torch.randperm(n_edges, generator=generator) for _ in range(orders)]
    circuits = torch.stack([minimal_in_order(search, search.everything, order, progress=progress) for order in drawn])
    gone = torch.stack([~(one & ~two) for one in circuits for two in circuits])
    return {
        "other_circuits": circuits,
        "other_faithfulness": search.faithfulness(circuits),
        "replaced": search.faithfulness(gone).view(orders, orders),
    }


_SCORE: dict[SearchMethod, str] = {
    "greedy": "the place from the end of the order, the last to go the highest",
    "exact": "what changing the edge alone changes of the metric",
    "eap": "the estimate of what changing the edge alone changes of the metric",
    "eap_ig": "the estimate of what changing the edge alone changes of the metric",
    "acdc": "the least threshold at which the edge goes, infinite where it never does",
}


def _definition(method: SearchMethod, source: Source, metric: str, faithfulness: float) -> str:
    return (
        f"edges chosen by {IN_WORDS[method]}; the circuit's edges carry what their senders compute, all others "
        f"{'the corrupted run' if source == 'other' else source}; faithfulness is (circuit - no edge) / (all edges "
        f"- no edge) of {metric}, a ratio of means over the prompts; a circuit holds within {1 - faithfulness:.2g} of "
        f"1; the score is {_SCORE.get(method, 'a share without a unit')}"
    )
