"""Two texts, run once, from which runs with some of the edges are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.masked import MaskedRuns, names_read
from nanogpt_lens.circuits.written import names_written, put_in_place, written, written_in
from nanogpt_lens.core.choices import Source
from nanogpt_lens.model.access import Hooked, Text, provenance, record
from nanogpt_lens.patching.runs import check_direction, pair_of, reference_tokens
from nanogpt_lens.results import Sample
from nanogpt_lens.running.metrics import BoundMetric, Metric, bind


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What runs with some of the edges share.

    Attributes:
        runs: the runs; in the whole graph all edges carry what the first text makes of them.
        metric: what is measured.
        clean, corrupted: the ids of both texts; no corrupted one where the source needs none.
        direction: "noise" where the first text is the clean one.
        arguments: what a result's provenance says.
    """

    runs: MaskedRuns
    metric: BoundMetric
    clean: Int[Tensor, "example pos"]
    corrupted: Int[Tensor, "example pos"] | None
    direction: str
    arguments: dict[str, Any]

    @property
    def graph(self) -> CircuitGraph:
        """The graph of the model."""
        return self.runs.graph

    def ends(self) -> Float[Tensor, "2 example"]:
        """The metric of the run without edges, and of the whole graph, for each example."""
        whole = self.graph.all_edges
        with torch.no_grad():
            return self.metric(self.runs(torch.stack([torch.zeros_like(whole), whole])))

    def sample(self, seed: int) -> Sample:
        """What was measured on."""
        return Sample(n=len(self.clean), seq_len=self.clean.shape[1], seed=seed)

    def provenance(self, **more: Any) -> dict[str, Any]:
        """What is needed to make the runs again."""
        return provenance(self.runs.model, **self.arguments, **more)


def prepare(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    direction: str = "noise",
    source: Source,
    reference: Text | None,
    seed: int,
) -> Prepared:
    """Run both texts once.

    Raises:
        AnalysisError: see `run_circuit`.
    """
    check_direction(direction)
    first, second = pair_of(model, clean, corrupted)
    bound = bind(metric, model, first)
    base, other = (second, first) if direction == "denoise" and second is not None else (first, second)
    ids = None if reference is None else reference_tokens(model, reference, first)
    n_layers = model.cfg.n_layers
    run = record(model, base, [*names_written(n_layers), *names_read(n_layers)])
    there = None if other is None or source != "other" else written_in(model, other)
    others = put_in_place(model, written(model, run), source, other=there, reference=ids, seed=seed)
    return Prepared(
        runs=MaskedRuns(model, run, others, bound.reads),
        metric=bound,
        clean=first,
        corrupted=second,
        direction="noise" if second is None else direction,
        arguments={
            "metric": bound.definition,
            "source": source,
            "seed": seed,
            "clean": first.tolist(),
            "corrupted": None if second is None else second.tolist(),
            "reference": None if ids is None else ids.tolist(),
        },
    )
