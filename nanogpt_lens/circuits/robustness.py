"""One circuit, run in the ways that are in use, which do not agree (Miller et al. 2024).

"Transformer Circuit Faithfulness Metrics are not Robust" names six choices: the size of the parts that are kept, which
kinds of parts, what takes the place of the others, at which positions, whether the others are ablated or the circuit is
restored, and whether the circuit is run or its complement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.search import Search
from nanogpt_lens.core.intervals import ratio_per_example, t_interval

CHOICES = ("granularity", "components", "ablation", "positions", "direction", "part")
"""The six choices."""

_USUAL = {
    "granularity": "edges",
    "components": "heads and MLPs",
    "ablation": "other",
    "positions": "all",
    "direction": "ablate",
    "part": "circuit",
}

_LEAST_GAP = 0.1
"""The share of the usual gap between all edges and none that another ablation must leave for faithfulness to mean
something; it is nan where that is less, or the reverse."""

Row: TypeAlias = tuple[dict[str, str], Float[Tensor, " example"]]
"""Which choices are not the usual ones, and each prompt's part of the faithfulness."""

_SHARE = 0.01
"""The share of the gap that the effect of an edge at a position must have for the edge to be kept there."""


def robustness(
    search: Search, circuit: Bool[Tensor, " edge"], arguments: dict[str, Any], *, memory: int
) -> dict[str, Any]:
    """The robustness table, as fields of a validation: each row is one way of running the circuit."""
    rows = list(_rows(search, circuit, arguments, memory))
    usual = _USUAL | {"ablation": arguments["source"]}
    ends = [t_interval(each) for _, each in rows]
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    return {
        "choices": tuple(tuple((usual | change)[name] for name in CHOICES) for change, _ in rows),
        "robustness": torch.stack([each.mean() for _, each in rows]),
        "robustness_low": torch.stack([nan if end is None else end[0] for end in ends]),
        "robustness_high": torch.stack([nan if end is None else end[1] for end in ends]),
    }


def _rows(search: Search, circuit: Bool[Tensor, " edge"], arguments: dict[str, Any], memory: int) -> Iterator[Row]:
    """What is changed of the usual choices, and each prompt's part of the faithfulness then."""
    texts = ["other"] if search.ready.corrupted is not None else []
    others = ["resample"] if len(search.ready.clean) > 1 or arguments["reference"] is not None else []
    folded = search.ready.runs.model.cfg.normalization_type == "LNPre"  # there zero is another thing
    for source in [*texts, *([] if folded else ["zero"]), "mean", *others]:
        here = search if source == arguments["source"] else _search(arguments, memory, source=source)
        told = here.gap * search.gap > 0 and abs(here.gap) >= _LEAST_GAP * abs(search.gap)
        for change, kept in _sets(search.graph, circuit):
            each = here.parts(here.values(kept[None])[0])
            yield change | {"ablation": source}, each if told else torch.full_like(each, torch.nan)
    if texts:
        back = _search(arguments, memory, source="other", direction="denoise")
        for change, kept in _sets(search.graph, circuit):
            if change.get("part") != "complement":
                recovered = ratio_per_example(back.values(~kept[None])[0] - back.full, back.empty - back.full)
                yield change | {"ablation": "other", "direction": "restore"}, recovered
    yield {"positions": "where it matters"}, _at_positions(search, circuit, arguments)


def _search(arguments: dict[str, Any], memory: int, **changed: Any) -> Search:
    options: dict[str, Any] = arguments | changed
    return Search(prepare(**options), memory=memory)


def _sets(
    graph: CircuitGraph, circuit: Bool[Tensor, " edge"]
) -> Iterator[tuple[dict[str, str], Bool[Tensor, " edge"]]]:
    """The circuit in other sizes and kinds of parts, and its complement."""
    yield {}, circuit
    yield {"part": "complement"}, ~circuit
    yield {"granularity": "q, k, v together"}, _together(graph, circuit)
    yield {"granularity": "nodes"}, _between_nodes(graph, circuit)
    yield {"components": "heads alone"}, circuit | torch.tensor([edge.sender.kind != "head" for edge in graph.edges])


def _together(graph: CircuitGraph, circuit: Bool[Tensor, " edge"]) -> Bool[Tensor, " edge"]:
    """All edges from a sender to a head that has one of them."""
    ends = [(edge.sender, graph.node_of(edge.receiver)) for edge in graph.edges]
    kept = {end for end, flag in zip(ends, circuit.tolist(), strict=True) if flag}
    return torch.tensor([end in kept for end in ends])


def _between_nodes(graph: CircuitGraph, circuit: Bool[Tensor, " edge"]) -> Bool[Tensor, " edge"]:
    """All edges between the nodes that the circuit touches."""
    ends = [(edge.sender, graph.node_of(edge.receiver)) for edge in graph.edges]
    nodes = {node for end, flag in zip(ends, circuit.tolist(), strict=True) if flag for node in end}
    return torch.tensor([sender in nodes and receiver in nodes for sender, receiver in ends])


def _at_positions(
    search: Search, circuit: Bool[Tensor, " edge"], arguments: dict[str, Any]
) -> Float[Tensor, " example"]:
    """The faithfulness where each edge is kept only at the positions at which it has an effect by itself."""
    graph, runs = search.graph, search.ready.runs
    chosen = [edge for edge, flag in zip(graph.edges, circuit.tolist(), strict=True) if flag]
    effects = edge_effects(**arguments, edges=chosen, positions="each", progress=False).effect.double()
    kept = torch.zeros(len(circuit), effects.shape[1], dtype=torch.bool)
    kept[circuit] = effects.abs() >= _SHARE * abs(search.gap)
    mask = torch.zeros(1, *graph.all_edges.shape, effects.shape[1], dtype=torch.bool)
    mask[:, graph.all_edges] = kept
    with torch.no_grad():
        values = search.ready.metric(runs(mask[..., : runs.live.shape[2]]))[0].double()
    return search.parts(values)
