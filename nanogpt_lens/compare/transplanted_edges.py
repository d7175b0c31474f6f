"""Which edges carry the difference between two models that share a start: activations of one, put into the other.

Both are run on the same tokens. In the receiver's run one node reads, along one edge, what the sender wrote in the
donor's run; everything else is the receiver's, and what the node makes of it flows on. So an edge moves what the
donor's weights before it did, as far as it goes through that edge, while `transplant` moves the weights themselves.
The biases that belong to no sender (of attention's output and of MLPs) stay the receiver's. Nothing is linearised; the
sweep is that of `circuits.edges`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.circuits.edges import EdgeSweep
from nanogpt_lens.circuits.graph import CircuitGraph, Edge, Edges, names_of
from nanogpt_lens.circuits.written import names_written, written, written_in
from nanogpt_lens.compare.components import check_one_shape
from nanogpt_lens.compare.kinship import check_difference, check_start
from nanogpt_lens.compare.transplant_text import TransplantText, transplant_text
from nanogpt_lens.compare.transplants import DIRECTIONS, Measure, measure_of
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.model.access import Hooked, Text, evaluating, kl, log_probs, provenance, run
from nanogpt_lens.patching.runner import MEMORY, Engine
from nanogpt_lens.patching.runs import two_runs
from nanogpt_lens.results.transplants import TransplantedEdges
from nanogpt_lens.running.metrics import BoundMetric, Metric, kl_to
from nanogpt_lens.text.corpus import Corpus
from nanogpt_lens.text.opened import Opened


def transplant_edges(
    a: Hooked,
    b: Hooked,
    corpus: Corpus | Opened | Text,
    *,
    metric: Metric | None = None,
    seq_len: int | None = None,
    n: int = 16,
    edges: Edges | None = None,
    by: Measure | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    memory: int = MEMORY,
    progress: bool = True,
) -> TransplantedEdges:
    """Measure how much of the difference between two models moves along each edge, by activations, exactly.

    Args:
        a, b, corpus, metric, seq_len, n, seed, progress: as for `transplant`.
        edges: those to measure, such as "0.1->1.0.k"; None for all.
        by: how like the donor a run is: "kl", by its output; "loss", or with a metric "metric". None for "metric" where
            one is given, else "kl".
        engine, memory: as for `edge_effects`.

    Returns:
        the share of every edge in both directions, with intervals over the sequences, and the effect in the measure's
        own unit.

    Raises:
        AnalysisError: as for `transplant`; an unknown edge.
    """
    check_whole(seed=seed)
    check_one_shape(a, b)
    measure = measure_of(metric, by)
    text = transplant_text(a, b, corpus, metric, seq_len=seq_len, n=n, seed=seed)
    cosine = check_start(a, b, seed)
    graph = CircuitGraph(b)
    chosen = list(graph.edges) if edges is None else graph.read(edges)
    if not chosen:
        raise AnalysisError("no edge is given; expected some, such as '0.1->1.0.k', or None for all")
    options: dict[str, Any] = {"measure": measure, "engine": engine, "memory": memory, "progress": progress}
    found = [_one_direction(donor, receiver, text, chosen, **options) for donor, receiver in ((a, b), (b, a))]
    fields: dict[str, Any] = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    return TransplantedEdges(
        **fields,
        axes=("direction", "edge"),
        labels={"direction": DIRECTIONS, "edge": names_of(chosen)},
        quantity="share of the difference between a and b that moves along an edge",
        definition="in the receiver's run one node reads, along one edge, what the sender wrote in the donor's run on "
        f"the same tokens; {_said(measure, text.metric)}; ratios of means over {len(text.tokens)} sequences of "
        f"{text.name}; biases belong to no sender",
        title="transplanted edges",
        signed=True,
        measured="output" if measure == "kl" else "loss" if measure == "loss" else text.metric.definition,
        cosine=cosine,
        by=measure,
        interval="t" if len(text.tokens) > 1 else "",
        sample=text.sample(seed),
        provenance=provenance(
            b, a=provenance(a), corpus=text.name, metric=text.metric.definition, by=measure, edges=names_of(chosen),
            seed=seed,
        ),
    )  # fmt: skip


def _said(measure: Measure, metric: BoundMetric) -> str:
    """What the share is, in words."""
    if measure == "kl":
        return "1 - KL(donor, changed) / KL(donor, receiver)"
    return f"(changed - receiver) / (donor - receiver) of {metric.definition}"


def _one_direction(
    donor: Hooked,
    receiver: Hooked,
    text: TransplantText,
    edges: list[Edge],
    *,
    measure: Measure,
    engine: Engine,
    memory: int,
    progress: bool,
) -> dict[str, Tensor]:
    """The fields of one direction."""
    with evaluating(donor):
        there, logits = written_in(donor, text.tokens), run(donor, text.tokens)
    with evaluating(receiver):
        metric = text.metric.function
        assert isinstance(metric, Metric)
        if measure == "kl":
            metric = kl_to(logits, pos=list(text.metric.reads))
        graph = CircuitGraph(receiver)
        also = names_written(graph.n_layers)
        runs = two_runs(receiver, text.tokens, None, metric, KINDS["q"], "noise", also=also)
        sweep = EdgeSweep(receiver, graph, runs, there - written(receiver, runs.base), engine=engine, memory=memory)
        values = sweep.values(edges, each=False, progress=progress).double()
        base, end = (runs.metric.of_run(one).double() for one in (runs.base["logits"], logits))
    effect, gap = (values - base).cpu(), (end - base).cpu()
    check_difference(receiver, float(kl(log_probs(logits), log_probs(runs.base["logits"])).mean(-1).max()))
    ends = t_interval(gap)
    sure = measure == "kl" or (ends is not None and bool((ends[0] > 0) | (ends[1] < 0)))
    shares = ratio_per_example(effect, gap) if sure else torch.full_like(effect, torch.nan)
    return {
        "values": shares.mean(-1),
        **_ends("", shares),
        "effect": effect.mean(-1),
        **_ends("effect_", effect),
        "gap": gap.mean(-1),
        **_ends("gap_", gap),
        "base": base.cpu().mean(-1),
    }


def _ends(name: str, per_example: Float[Tensor, "*axes example"]) -> dict[str, Tensor]:
    """The ends of the interval of a mean over the sequences, as fields; nan for one sequence."""
    ends = t_interval(per_example)
    low, high = ends if ends is not None else (torch.full_like(per_example[..., 0], torch.nan),) * 2
    return {f"{name}low": low, f"{name}high": high}
