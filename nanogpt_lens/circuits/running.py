"""Circuits, run: the model in which only some edges carry what the clean text makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.circuits.graph import CircuitGraph, Edge, Edges
from nanogpt_lens.circuits.masked import MaskedRuns
from nanogpt_lens.circuits.prepared import Prepared, prepare
from nanogpt_lens.core.choices import Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import interval_fields
from nanogpt_lens.model.access import Hooked, Text, evaluating
from nanogpt_lens.patching.runner import MEMORY
from nanogpt_lens.results import CircuitRuns
from nanogpt_lens.running.metrics import Metric

Measure: TypeAlias = Callable[[Float[Tensor, "set example read d_vocab"]], Shaped[Tensor, "set _"]]
"""A value for each set and example, from the logits that the metric reads."""

TOKENS = 2048
"""The tokens of all runs of a chunk: more than that leave the processor's cache."""


def run_circuit(
    model: Hooked,
    edges: Edges | Sequence[Edges],
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    source: Source = "other",
    reference: Text | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> CircuitRuns:
    """Run circuits: the edges of each carry what their senders compute, all others the corrupted run's.

    A sender computes from what its own edges bring it, so that an edge carries what the circuit makes of the clean
    text. All edges are the clean run, no edge is the corrupted run.

    Args:
        model: a HookedTransformer or a TransformerBridge, without processed weights.
        edges: one circuit, such as ["embed->0.1.v", "0.1->logits"], or a list of circuits, which are run in one batch.
        clean, corrupted, metric, reference, seed, progress: as for `activation_patching`.
        source: what the other edges carry: "other", the corrupted run; or "zero", "mean", "resample".
        memory: the bytes for the runs of a chunk.

    Returns:
        `values` with the axis circuit, and `faithfulness`.

    Raises:
        AnalysisError: an unknown edge, texts of different shapes, a metric that does not fit, clean and corrupted
            runs with the same metric, a model that is no plain nanoGPT.
    """
    with evaluating(model):
        circuits = circuits_of(CircuitGraph(model), edges)
        ready = prepare(model, clean, corrupted, metric, source=source, reference=reference, seed=seed)
        empty, full = ready.ends().double()
        check_gap(float(empty.mean()), float(full.mean()))
        masks = torch.stack([ready.graph.mask(circuit) for circuit in circuits])
        per_example = values_of(ready, masks, memory=memory, progress=progress)
    kept = ready.metric.per_example
    return CircuitRuns(
        values=per_example.mean(-1),
        axes=("circuit",),
        quantity=f"{ready.metric.definition} of a circuit",
        definition=(
            "the circuit's edges carry what their senders compute, all others "
            f"{'the corrupted run' if source == 'other' else source}; faithfulness is (circuit - no edge) / "
            "(all edges - no edge), a ratio of means over the examples"
        ),
        sample=ready.sample(seed),
        provenance=ready.provenance(circuits=[[str(edge) for edge in circuit] for circuit in circuits]),
        n_edges=tuple(map(len, circuits)),
        full=full if kept else full.mean(-1, keepdim=True),
        empty=empty if kept else empty.mean(-1, keepdim=True),
        per_example=per_example if kept else None,
        **{name: value for name, value in interval_fields(per_example).items() if kept},
    )


def circuits_of(graph: CircuitGraph, edges: Edges | Sequence[Edges]) -> list[list[Edge]]:
    """The circuits that are meant: one, or each of a list of lists.

    Raises:
        AnalysisError: there is none, or a name that is no edge.
    """
    some: list[Any] = [edges] if isinstance(edges, str | Edge) else list(edges)
    if not some:
        return [[]]
    single = [isinstance(one, str | Edge) for one in some]
    if any(single) and not all(single):
        raise AnalysisError("edges mixes edges and lists of edges; expected one circuit, or a list of circuits")
    if not all(isinstance(one, str | Edge | Iterable) for one in some):
        raise AnalysisError(f"edges is {edges!r}; expected names such as '0.1->1.0.k', or lists of them")
    return [graph.read(some)] if single[0] else [graph.read(one) for one in some]


def check_gap(empty: float, full: float) -> None:
    """Raise AnalysisError where the whole graph has the metric of no edge, so that nothing can be recovered."""
    if abs(full - empty) <= 1e-9 * max(1.0, abs(full), abs(empty)):
        raise AnalysisError(
            f"with all edges the metric is {full:.4f}, and with none {empty:.4f}: there is no gap for a circuit to "
            "close; give texts that the metric tells apart"
        )


def values_of(
    ready: Prepared,
    masks: Bool[Tensor, "set receiver sender"],
    *,
    memory: int,
    progress: bool,
    measure: Measure | None = None,
) -> Float[Tensor, "set example"]:
    """The metric of each circuit, or another measure of its logits, for each example."""
    size = max(1, min(memory // _bytes_of_one(ready.runs), TOKENS // ready.runs.live[0, ..., 0].numel()))
    values = []
    with torch.no_grad(), tqdm(total=len(masks), unit="circuit", delay=1, disable=not progress) as bar:
        for some in masks.split(size):
            values.append((measure or ready.metric)(ready.runs(some, shared=ready.runs.shared_by(some))))
            bar.update(len(some))
    return torch.cat(values)


def _bytes_of_one(runs: MaskedRuns) -> int:
    """The bytes that the run of one circuit takes at its peak."""
    cfg = runs.model.cfg
    n_senders, n_examples, n_pos, _ = runs.live.shape
    width = (2 * n_senders + 9 * cfg.n_heads + 4) * cfg.d_model + 3 * cfg.d_mlp + 3 * cfg.n_heads * n_pos
    return n_examples * (n_pos * width + len(runs.reads) * cfg.d_vocab * 3) * runs.live.element_size()
