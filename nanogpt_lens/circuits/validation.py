"""Whether a circuit holds what it claims.

Faithfulness, completeness and minimality are those of Wang et al. 2022 ("Interpretability in the Wild"), in shares of
the gap between the run with all edges and that with none. The tests are those that Shi et al. 2024 state
(`hypotheses`). The robustness table runs the circuit in the other ways that are in use (`robustness`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph, Edges, names_of
from nanogpt_lens.circuits.hypotheses import equivalence_p, holm, independence_p, share_at_least
from nanogpt_lens.circuits.prepared import Prepared, prepare
from nanogpt_lens.circuits.random_circuits import random_circuits, random_way
from nanogpt_lens.circuits.robustness import CHOICES, robustness
from nanogpt_lens.circuits.search import Search
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.model.access import Hooked, Text, evaluating
from nanogpt_lens.patching.runner import MEMORY
from nanogpt_lens.results import Circuit, CircuitValidation
from nanogpt_lens.running.metrics import Metric
from nanogpt_lens.text.seen import share_of_rows

AskedOn: TypeAlias = tuple[Text, Text | None, Metric | Callable[[Tensor], Any]]
"""Clean prompts, corrupted prompts, and the metric that asks for their answers."""

CHECKS = {
    "faithfulness": "(circuit - no edge) / (all edges - no edge), a ratio of means over the prompts",
    "mean_of_ratios": "the mean of each prompt's own faithfulness; prompts without a gap count for much",
    "complement": "the faithfulness of all edges but the circuit's",
    "completeness_random": "the largest |F(C without K) - F(M without K)| over random halves K of the circuit's edges",
    "completeness_node": "the same over the edges of one sender at a time",
    "completeness_greedy": "the same over senders that are added one by one, each time the worst",
    "minimality": "what leaving out an edge changes in the circuit or a part of it, for the edge that changes least",
    "equivalence": "the share of prompts on which the circuit's metric is above the model's; H0: near a half",
    "independence": "the correlation of the complement's metric with the model's; H0: they are independent",
    "random_circuits": "the mean faithfulness of random circuits of this size; H0: the circuit is one of them",
    "random_complements": "the mean faithfulness of what random circuits leave out; H0: the complement is one of them",
    "held_out": "the faithfulness on prompts that the circuit was not found on",
}
"""What each check is."""


def validate_circuit(
    model: Hooked,
    circuit: Circuit | Edges,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    held_out: AskedOn | None = None,
    found_on: Sequence[Sequence[int]] | None = None,
    tasks: Mapping[str, AskedOn] | None = None,
    source: Source = "other",
    reference: Text | None = None,
    n_random: int = 200,
    knockouts: int = 32,
    margin: float = 0.1,
    seed: int = 0,
    memory: int = MEMORY,
) -> CircuitValidation:
    """Check what a circuit claims: that it is faithful, complete, minimal, and more than chance would find.

    Args:
        model: a HookedTransformer or a TransformerBridge, without processed weights.
        circuit: what `find_circuit` found, or edges such as ["embed->0.1.v", "0.1->logits"].
        clean, corrupted, metric, source, reference, memory: as for `run_circuit`.
        held_out: other prompts of the same task, as (clean, corrupted, metric).
        found_on: the clean prompts that edges were found on, as ids; a `Circuit` says it of itself.
        tasks: prompts of other tasks by name, on which a circuit that is specific does little.
        n_random: how many random circuits, random edges and permutations are drawn.
        knockouts: how many random halves of the circuit are left out, for completeness.
        margin: how far from 1/2 the share of prompts may be in the equivalence test.
        seed: of all that is drawn.

    Returns:
        the checks with intervals and p, `edge_p`, the robustness table, and a `verdict`.

    Raises:
        AnalysisError: an empty circuit, an option that cannot be, and whatever `run_circuit` raises.
    """
    check_whole(1, n_random=n_random, knockouts=knockouts)
    check_whole(seed=seed)
    if not 0 <= margin < 0.5:
        raise AnalysisError(f"margin is {margin!r}; expected 0 or more and less than 0.5")
    arguments: dict[str, Any] = {
        "model": model, "clean": clean, "corrupted": corrupted, "metric": metric,
        "source": source, "reference": reference, "seed": seed,
    }  # fmt: skip
    with evaluating(model):
        graph = CircuitGraph(model)
        edges = graph.read(circuit.edges if isinstance(circuit, Circuit) else circuit)
        if not edges:
            raise AnalysisError("the circuit has no edge; expected some, such as ['embed->0.1.v', '0.1->logits']")
        ready = prepare(**arguments)
        checks = _Checks(Search(ready, memory=memory), graph.flags(edges), seed)
        checks.faithfulness()
        checks.completeness(knockouts)
        checks.tests(n_random, margin)
        edge_p = checks.edges_against_random(n_random)
        more = {"held_out": held_out} | {f"task {name}": prompts for name, prompts in (tasks or {}).items()}
        for name, prompts in more.items():
            if prompts is not None:
                there = arguments | _prompts(name, prompts)
                checks.elsewhere(name, Search(prepare(**there), memory=memory))
        table = robustness(checks.search, checks.circuit, arguments, memory=memory)
    return CircuitValidation(
        **checks.fields(),
        axes=("check",),
        edges=names_of(edges),
        edge_p=edge_p,
        choice_names=tuple(CHOICES),
        **table,
        quantity="checks of a circuit",
        definition=(
            f"{len(edges)} edges, source {source}, on {ready.metric.definition}; shares of the gap between all edges "
            f"and none; intervals are over prompts, those of random circuits over {n_random} draws"
        ),
        title="circuit, validated",
        sample=replace(ready.sample(seed), seen_share=_seen(circuit, found_on, ready), seen_by="the search"),
        provenance=ready.provenance(
            circuit=list(names_of(edges)), n_random=n_random, knockouts=knockouts, margin=margin
        ),
    )


def _seen(circuit: Circuit | Edges, found_on: Sequence[Sequence[int]] | None, ready: Prepared) -> float | None:
    """The share of the prompts that a circuit was found on; None where nobody knows."""
    if isinstance(circuit, Circuit):
        found_on = circuit.provenance.get("arguments", {}).get("clean")
    if found_on is None:
        return None
    return share_of_rows(ready.clean, found_on)


def _prompts(name: str, prompts: Any) -> dict[str, Any]:
    """Prompts as arguments; AnalysisError where they are not three things."""
    if not isinstance(prompts, tuple | list) or len(prompts) != 3:
        raise AnalysisError(f"the prompts of {name} are {type(prompts).__name__}; expected (clean, corrupted, metric)")
    return dict(zip(("clean", "corrupted", "metric"), prompts, strict=True))


class _Checks:
    """The checks of one circuit, as rows of a table."""

    def __init__(self, search: Search, circuit: Bool[Tensor, " edge"], seed: int) -> None:
        self.search, self.circuit = search, circuit
        self.generator = torch.Generator().manual_seed(seed)
        self._rows: dict[str, tuple[float, float, float, float]] = {}

    def fields(self) -> dict[str, Any]:
        """The rows, as fields of the result."""
        columns = torch.tensor(list(self._rows.values()), dtype=torch.float64).T
        names = dict(zip(("values", "low", "high", "p"), columns, strict=True))
        said = {name: CHECKS.get(name, "the faithfulness on prompts of another task") for name in self._rows}
        return {**names, "labels": {"check": tuple(self._rows)}, "scores": said, "interval": "t"}

    def faithfulness(self) -> None:
        """Ratio of means, mean of ratios, and the complement's."""
        search = self.search
        inside, outside = search.values(torch.stack([self.circuit, ~self.circuit]))
        ratios = (inside - search.empty) / (search.full - search.empty)
        for name, each in (
            ("faithfulness", search.parts(inside)),
            ("mean_of_ratios", ratios),
            ("complement", search.parts(outside)),
        ):
            self._add_mean(name, each)
        self.inside, self.outside = inside, outside

    def completeness(self, knockouts: int) -> None:
        """How differently circuit and model suffer from knock-outs, and what edges do in parts of the circuit."""
        circuit = self.circuit
        random = (torch.rand(knockouts, len(circuit), generator=self.generator) < 0.5) & circuit
        self._add("completeness_random", float(self._incompleteness(random).max()))
        nodes = self._edges_by_sender()
        self._add("completeness_node", float(self._incompleteness(nodes).max()))
        worst, gone = 0.0, torch.zeros_like(circuit)
        while len(nodes):
            more = nodes | gone
            off = self._incompleteness(more)
            best = int(off.argmax())
            if float(off[best]) <= worst:
                break
            worst, gone = float(off[best]), more[best]
            nodes = torch.cat([nodes[:best], nodes[best + 1 :]])
        self._add("completeness_greedy", worst)
        self._add("minimality", float(self._changes(random[: min(8, knockouts)]).max(0).values.min()))

    def _incompleteness(self, gone: Bool[Tensor, "set edge"]) -> Float[Tensor, " set"]:
        """|F(C without K) - F(M without K)| for each K."""
        inside, whole = self.search.faithfulness(torch.cat([self.circuit & ~gone, ~gone])).chunk(2)
        return (inside - whole).abs()

    def _edges_by_sender(self) -> Bool[Tensor, "node edge"]:
        """The circuit's edges from each of its senders."""
        graph = self.search.graph
        senders = [graph.senders.index(edge.sender) for edge in graph.edges]
        places = torch.tensor(senders)
        return torch.stack([(places == i) & self.circuit for i in places[self.circuit].unique().tolist()])

    def _changes(self, gone: Bool[Tensor, "set edge"]) -> Float[Tensor, "more_by_one kept"]:
        """How the faithfulness of the circuit without K changes without each edge besides; 0 for edges in K."""
        places = self.circuit.nonzero()[:, 0]
        rows = []
        for one in torch.cat([torch.zeros_like(self.circuit)[None], gone]):
            rest = self.circuit & ~one
            before = self.search.faithfulness(rest[None])[0]
            rows.append((self.search.without_each(rest) - before).abs().nan_to_num(0.0)[places])
        return torch.stack(rows)

    def tests(self, n_random: int, margin: float) -> None:
        """Equivalence, independence, and random circuits and their complements as controls."""
        search = self.search
        differences = self.inside - search.full
        above = (differences > 0).double() + (differences == 0).double() / 2
        self._add("equivalence", float(above.mean()), p=equivalence_p(differences, margin=margin))
        p = independence_p(self.outside, search.full, draws=n_random, generator=self.generator)
        paired = torch.stack([self.outside, search.full])
        varied = len(differences) > 1 and bool((paired.std(1) > 0).all())
        self._add("independence", float(torch.corrcoef(paired)[0, 1]) if varied else float("nan"), p=p)
        drawn = random_circuits(search.graph, n_random, n_edges=int(self.circuit.sum()), generator=self.generator)
        own = search.off(torch.stack([self.circuit, ~self.circuit]))
        for name, sets, mine, sign in (
            ("random_circuits", drawn, float(own[0]), -1),
            ("random_complements", ~drawn, float(own[1]), 1),
        ):
            found = search.faithfulness(sets)
            off = (found - 1).abs()
            low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
            self._rows[name] = (float(found.mean()), low, high, share_at_least(sign * off, sign * mine))

    def edges_against_random(self, n_random: int) -> Float[Tensor, " edge"]:
        """The p of each edge mattering no more than a random edge of a circuit that has a random way too many."""
        search, graph = self.search, self.search.graph
        n_edges = int(self.circuit.sum())
        n = max(n_random, 20 * n_edges)  # so that the corrected p can be small
        larger, smaller = list[Tensor](), list[Tensor]()
        while len(larger) < n:
            more = self.circuit | random_way(graph, self.generator)
            new = (more & ~self.circuit).nonzero()[:, 0]
            if len(new):
                gone = int(new[int(torch.randint(len(new), (1,), generator=self.generator))])
                larger.append(more)
                smaller.append(more.clone().index_fill_(0, torch.tensor([gone]), False))
            elif bool(self.circuit.all()):
                return torch.ones(n_edges, dtype=torch.float64)
        with_it, without_it = search.faithfulness(torch.stack(larger + smaller)).chunk(2)
        null = (with_it - without_it).abs()
        own = search.faithfulness(self.circuit[None])[0]
        changes = (search.without_each(self.circuit)[self.circuit] - own).abs()
        return holm(torch.tensor([share_at_least(null, float(change)) for change in changes], dtype=torch.float64))

    def elsewhere(self, name: str, search: Search) -> None:
        """The faithfulness on other prompts."""
        self._add_mean(name, search.parts(search.values(self.circuit[None])[0]))

    def _add_mean(self, name: str, each: Float[Tensor, " example"]) -> None:
        ends = t_interval(each)
        low, high = (float("nan"), float("nan")) if ends is None else (float(ends[0]), float(ends[1]))
        self._rows[name] = (float(each.mean()), low, high, float("nan"))

    def _add(self, name: str, value: float, *, p: float = float("nan")) -> None:
        self._rows[name] = (value, float("nan"), float("nan"), p)
