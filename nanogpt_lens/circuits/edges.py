"""What every edge does on its own, exactly.

"noise": the clean run, in which this one edge carries what its sender wrote in the corrupted run. "denoise": the
reverse. The sender itself computes as before, so that the edge's value is that of a plain run; what the receiver makes
of it flows on everywhere. Nothing is linearised: LayerNorms, softmax and MLPs are computed anew.

The edges of a receiver are patches of one activation: what a sender's difference makes of a layer's queries, keys or
values, of an MLP's output, or of the final stream. So an edge costs the layers behind its receiver alone
(`nanogpt_lens.patching`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.circuits.graph import CircuitGraph, Edge, Edges, names_of
from nanogpt_lens.circuits.written import names_written, put_in_place, written
from nanogpt_lens.core.choices import Direction, Source, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.nodes import Node
from nanogpt_lens.interventions.sites import KINDS, Kind, Sites
from nanogpt_lens.model.access import Hooked, Text, evaluating, provenance
from nanogpt_lens.patching.continuation import TOLERANCE
from nanogpt_lens.patching.runner import MEMORY, Engine, PatchRunner
from nanogpt_lens.patching.runs import (
    SweepSetup,
    TwoRuns,
    fields_of_examples,
    position_labels,
    reference_tokens,
    two_runs,
)
from nanogpt_lens.results import PatchingResult, Sample
from nanogpt_lens.running.metrics import Metric

Positions: TypeAlias = Literal["all", "each"]
"""Whether an edge is changed at all positions at once, or at each on its own."""

_CARRIED: dict[Source, str] = {
    "other": "what it wrote in the other run",
    "zero": "zero",
    "mean": "the mean of what it writes",
    "resample": "what it wrote in another example",
}


def edge_effects(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    edges: Edges | None = None,
    direction: Direction = "noise",
    source: Source = "other",
    positions: Positions = "all",
    reference: Text | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    memory: int = MEMORY,
    progress: bool = True,
) -> PatchingResult:
    """Measure what every edge of the model's graph does on its own, exactly.

    Args:
        model: a HookedTransformer or a TransformerBridge, without processed weights.
        clean, corrupted, metric, reference, seed, engine, memory, progress: as for `activation_patching`.
        edges: those to measure, such as "0.1->1.0.k"; None for all.
        direction: "noise" changes one edge of the clean run, "denoise" one of the corrupted run.
        source: what the edge carries: "other", what its sender wrote in the other run; or "zero", "mean", "resample".
        positions: "all", or "each": the edge is changed at one position alone, which gives the result an axis `pos`.

    Returns:
        `values` and `effect` with the axis edge, and perhaps pos; `labels["edge"]` has the names.

    Raises:
        AnalysisError: texts of different shapes, an unknown edge, an option that is no choice, a metric that does not
            fit, a model that is no plain nanoGPT.
    """
    check_choice(Positions, positions=positions)
    check_choice(Source, source=source)
    with evaluating(model):
        graph = CircuitGraph(model)
        chosen = list(graph.edges) if edges is None else graph.read(edges)
        if not chosen:
            raise AnalysisError("no edge is given; expected some, such as '0.1->1.0.k', or None for all")
        runs = two_runs(model, clean, corrupted, metric, KINDS["q"], direction, also=names_written(graph.n_layers))
        ids = None if reference is None else reference_tokens(model, reference, runs.tokens)
        live = written(model, runs.base)
        other = None if runs.other is None else written(model, runs.other)
        changes = put_in_place(model, live, source, other=other, reference=ids, seed=seed) - live
        sweep = EdgeSweep(
            model, graph, runs, changes, source=source, reference=ids, seed=seed, engine=engine, memory=memory
        )
        per_example = sweep.values(chosen, positions == "each", progress=progress)
    clean_value, corrupted_value = runs.values()
    axes = ("edge", "pos") if positions == "each" else ("edge",)
    return PatchingResult(
        **fields_of_examples(runs.metric, runs.base["logits"], per_example),
        axes=axes,
        labels={"edge": names_of(chosen)} | position_labels(model, runs.clean, runs.corrupted, axes),
        quantity=f"{runs.metric.definition} after changing one edge",
        definition=(
            f"exact effect of one edge, {runs.direction}: what the receiver reads of the sender is "
            f"{_CARRIED[source]}, {'at one position' if positions == 'each' else 'at all positions'}; all that follows "
            "is computed anew; token and position embedding are one sender, biases belong to none"
        ),
        patched="edges",
        sample=Sample(seed=seed),
        provenance=provenance(
            model,
            direction=runs.direction,
            source=source,
            positions=positions,
            seed=seed,
            metric=runs.metric.definition,
            engine=sweep.engine,
            clean=runs.clean.tolist(),
            corrupted=None if runs.corrupted is None else runs.corrupted.tolist(),
            reference=None if ids is None else ids.tolist(),
        ),
        clean=clean_value,
        corrupted=corrupted_value,
        direction=runs.direction,
    )


class EdgeSweep:
    """The runs of all edges, in each of which one receiver reads something else of one sender.

    Args:
        model: the model that is run.
        graph: its graph.
        runs: its run on the tokens, with what `names_written` names, and the metric.
        changes: what is added to what each sender wrote, where an edge is changed: perhaps what it wrote on other
            tokens, or in another model, less what it wrote here.
        source, reference, seed: where that comes from.
        engine, memory: as for `activation_patching`.

    Raises:
        AnalysisError: queries or MLP outputs computed here are not the model's own.
    """

    def __init__(
        self,
        model: Hooked,
        graph: CircuitGraph,
        runs: TwoRuns,
        changes: Float[Tensor, "sender example pos d_model"],
        *,
        source: Source = "other",
        reference: Tensor | None = None,
        seed: int = 0,
        engine: Engine = "auto",
        memory: int = MEMORY,
    ) -> None:
        self.model, self.graph, self.runs, self.changes = model, graph, runs, changes
        setup = SweepSetup(
            kind=KINDS["q"],
            axes=("layer",),
            runs=runs,
            patched_in=runs.activations,
            source=source,
            reference=reference,
            seed=seed,
        )
        self.runner = PatchRunner(model, setup, engine=engine, memory=memory)
        self._check()

    @property
    def engine(self) -> str:
        """How the runs are made, in words."""
        return self.runner.engine

    def _check(self) -> None:
        """Raise AnalysisError unless queries and MLP outputs computed here are the model's own."""
        for layer in range(self.graph.n_layers):
            for receiver in (Node("head", layer, 0, "q"), Node("mlp", layer)):
                kind, computed = self._changed(receiver, torch.zeros_like(self.changes[0]))
                expected = self.runs.base[kind.hook_name(layer)]
                error = float((computed - expected).abs().max() / expected.abs().max().clamp_min(1.0))
                if not error <= TOLERANCE.get(expected.dtype, 0.0):
                    raise AnalysisError(
                        f"{kind.name} of layer {layer} differs from the model's own by {error:.1e}, relative to the "
                        "largest value; expected a plain nanoGPT model in float32 or float64: load it with ngl.load"
                    )

    def values(self, edges: list[Edge], each: bool, *, progress: bool) -> Float[Tensor, "edge *positions value"]:
        """The metric of every run in which one edge is changed, for each example."""
        n_pos = self.runs.tokens.shape[1]
        base = self.runner.base_value
        shape = (len(edges), n_pos, len(base)) if each else (len(edges), len(base))
        out = base.expand(shape).clone()
        with tqdm(total=len(edges), desc="edges", unit="edge", delay=1, disable=not progress) as bar:
            for sender, receivers, rows in self._groups(edges):
                change = self.changes[self.graph.senders.index(sender)]
                if bool(change.any()):
                    out[rows] = self._of_sender(change, receivers, each).to(out)
                bar.update(len(rows))
        return out

    def _groups(self, edges: list[Edge]) -> Iterator[tuple[Node, list[Node], list[int]]]:
        """Yield each sender with those of its receivers that are patches of one activation of one layer."""
        groups: dict[tuple[Node, str, int, str], list[int]] = {}
        for i, edge in enumerate(edges):
            end = edge.receiver
            groups.setdefault((edge.sender, end.kind, end.layer, end.part), []).append(i)
        for (sender, *_), rows in groups.items():
            yield sender, [edges[i].receiver for i in rows], rows

    def _of_sender(
        self, change: Float[Tensor, "example pos d_model"], receivers: list[Node], each: bool
    ) -> Float[Tensor, "receiver *positions value"]:
        """The metric where the sender's change enters one of some receivers, which are alike."""
        first = receivers[0]
        layer = min(first.layer, self.graph.n_layers - 1)
        kind, changed = self._changed(first, change)
        heads = torch.tensor([receiver.head for receiver in receivers])
        places = torch.arange(change.shape[1]) if each else torch.zeros(1, dtype=torch.long)
        grid = torch.cartesian_prod(heads, places)
        coords = ({"head": grid[:, 0]} if first.kind == "head" else {}) | ({"pos": grid[:, 1]} if each else {})
        sites = Sites(torch.full((len(grid),), layer), coords, len(grid))
        base = self.runs.base[kind.hook_name(layer)]
        values = self.runner.patching(kind, {layer: base}, {layer: changed}).values(sites)
        return values.unflatten(0, (len(heads), len(places))) if each else values

    def _changed(
        self, receiver: Node, change: Float[Tensor, "example pos d_model"]
    ) -> tuple[Kind, Float[Tensor, "example pos ..."]]:
        """The activation that a change of a receiver's input changes first, and its values then."""
        run = self.runner.run
        if receiver.kind == "logits":
            return KINDS["resid_post"], run.at(self.graph.n_layers - 1, "hook_resid_post") + change
        if receiver.kind == "mlp":
            return KINDS["mlp_out"], run.mlp_out(receiver.layer, run.at(receiver.layer, "hook_resid_mid") + change)
        block = self.model.blocks[receiver.layer]
        normal = block.ln1((run.at(receiver.layer, "hook_resid_pre") + change).contiguous())
        weight, bias = (getattr(block.attn, f"{letter}_{receiver.part.upper()}") for letter in "Wb")
        projected = einsum(normal, weight, "example pos d_model, head d_model d_head -> example pos head d_head")
        return KINDS[receiver.part], projected + rearrange(bias, "head d_head -> 1 1 head d_head")
