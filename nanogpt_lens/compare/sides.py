"""What is compared: a model, its circuit, the prompts that it is run on, and what every edge does there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.graph import CircuitGraph, Edges, names_of
from nanogpt_lens.circuits.kept import KeptCircuit
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.search import Search
from nanogpt_lens.core.choices import Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, Text, check_model
from nanogpt_lens.results import AttributionResult, Circuit, PatchingResult
from nanogpt_lens.running.metrics import Metric
from nanogpt_lens.text.seen import share_of_rows

Found: TypeAlias = Circuit | KeptCircuit | Edges
"""A circuit as `find_circuit` gives it, as `read_circuit` reads it from a file, or as names of edges."""

Compared: TypeAlias = tuple[Hooked, Found, Text, Text | None, Metric | Callable[[Tensor], Any]]
"""A model, its circuit, clean prompts, corrupted prompts and the metric, as `run_circuit` takes them."""

Effects: TypeAlias = PatchingResult | AttributionResult | Circuit
"""What says of every edge what it does, or how a method scored it."""

_ASKED = ("method", "n_edges", "threshold", "faithfulness", "steps", "divergence")


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the things that are compared.

    Attributes:
        name: what it is called.
        arguments: model, clean, corrupted, metric, source and seed, as `edge_effects` takes them.
        search: the runs on its prompts.
        circuit: its edges.
        effects: what every edge does, or its score.
        per_example: the same in each example; None where there is no such thing.
        signed: whether the effects have a sign.
        finding: how circuits are found as this one was, as options of `find_circuit`.
        seen_share: the share of the prompts that the circuit was found on; None where nobody knows.
    """

    name: str
    arguments: Mapping[str, Any]
    search: Search
    circuit: Bool[Tensor, " edge"]
    effects: Float[Tensor, " edge"]
    per_example: Float[Tensor, "edge example"] | None
    signed: bool
    finding: Mapping[str, Any]
    seen_share: float | None

    @property
    def model(self) -> Hooked:
        """The model."""
        return self.arguments["model"]

    @property
    def graph(self) -> CircuitGraph:
        """The graph of the model."""
        return self.search.graph

    def has_prompts_of(self, other: Side) -> bool:
        """Whether the prompts are those of another, one by one."""
        one, two = self.search.ready, other.search.ready
        both = (one.corrupted is None) == (two.corrupted is None) and torch.equal(one.clean, two.clean)
        return both and (one.corrupted is None or two.corrupted is None or torch.equal(one.corrupted, two.corrupted))

    def asks_what(self, other: Side) -> bool:
        """Whether model, prompts and metric are those of another, so that circuits do the same in both."""
        mine, its = self.search, other.search
        same = torch.equal(mine.full, its.full) and torch.equal(mine.empty, its.empty)
        return same and self.model is other.model and self.has_prompts_of(other)

    def on(self, examples: Int[Tensor, " example"]) -> dict[str, Any]:
        """The arguments for some of the examples; for metrics that tell examples apart."""
        ready = self.search.ready
        assert isinstance(ready.metric.function, Metric)
        metric = on_examples(ready.metric.function, examples, len(ready.clean))
        some = {"clean": ready.clean[examples], "metric": metric}
        return {
            **self.arguments,
            **some,
            "corrupted": None if ready.corrupted is None else ready.corrupted[examples],
        }


def models_of(things: Sequence[Compared], names: Sequence[str] | None) -> list[Hooked]:
    """The models of all that is compared.

    Raises:
        AnalysisError: there are fewer than two things, they are no such tuples, or have no names of their own; or the
            models have different numbers of layers or heads.
    """
    if len(things) < 2:
        raise AnalysisError(
            f"{len(things)} circuit{'s were' if len(things) != 1 else ' was'} given; expected two or more to compare"
        )
    called = _names(len(things), names)
    for name, thing in zip(called, things, strict=True):
        if not isinstance(thing, tuple | list) or len(thing) != 5:
            raise AnalysisError(
                f"{name} is a {type(thing).__name__}{_length(thing)}; expected (model, circuit, clean, corrupted, "
                "metric), the circuit as find_circuit gives it or as names of edges"
            )
        check_model(thing[0])
    models = [thing[0] for thing in things]
    _check_shapes(called, models)
    return models


def read_sides(
    things: Sequence[Compared],
    names: Sequence[str] | None,
    effects: Sequence[Effects | None] | None,
    *,
    source: Source,
    seed: int,
    memory: int,
    progress: bool,
) -> list[Side]:
    """All that is compared, each run and its effects measured where they are not given.

    Raises:
        AnalysisError: a circuit is empty or of another graph; prompts have no gap; effects are not of these edges.
    """
    called = _names(len(things), names)
    if effects is not None and len(effects) != len(things):
        raise AnalysisError(f"there are {len(effects)} effects for {len(things)} circuits; expected one, or None, each")
    sides = []
    for i, (name, thing) in enumerate(zip(called, things, strict=True)):
        measured = None if effects is None else effects[i]
        try:
            sides.append(_side(name, thing, measured, source=source, seed=seed, memory=memory, progress=progress))
        except AnalysisError as error:
            raise AnalysisError(f"{name}: {error}") from None
    return sides


def _names(n: int, names: Sequence[str] | None) -> list[str]:
    """The names of all, apart; letters where none are given."""
    if names is None:
        return [f"circuit {i + 1}" for i in range(n)]
    called = [str(name) for name in names] if not isinstance(names, str) else [names]
    if len(called) != n or len(set(called)) != n:
        raise AnalysisError(f"names are {called}; expected {n} different ones, one for each circuit")
    return called


def _length(thing: object) -> str:
    return f" of {len(thing)}" if isinstance(thing, tuple | list) else ""


def _check_shapes(names: Sequence[str], models: Sequence[Hooked]) -> None:
    """Raise AnalysisError unless all models have as many layers and heads, so that edges correspond."""
    first = models[0].cfg
    for name, model in zip(names[1:], models[1:], strict=True):
        for what, one, two in (
            ("layers", first.n_layers, model.cfg.n_layers),
            ("heads in a layer", first.n_heads, model.cfg.n_heads),
        ):
            if one != two:
                raise AnalysisError(
                    f"{names[0]} is of a model with {one} {what}, {name} of one with {two}; expected models of one "
                    "shape, whose edges correspond"
                )


def _side(
    name: str, thing: Compared, effects: Effects | None, *, source: Source, seed: int, memory: int, progress: bool
) -> Side:
    """One of the things, run."""
    model, circuit, clean, corrupted, metric = thing
    graph = CircuitGraph(model)
    arguments: dict[str, Any] = {"model": model, "clean": clean, "corrupted": corrupted, "metric": metric}
    arguments |= {"source": source, "seed": seed}
    flags = _flags(graph, circuit)
    search = Search(prepare(**arguments, reference=None), memory=memory)
    if effects is None:
        effects = edge_effects(**arguments, memory=memory, progress=progress)
    values, per_example, signed = _of_effects(graph, effects)
    return Side(
        name=name,
        arguments=arguments,
        search=search,
        circuit=flags,
        effects=values,
        per_example=per_example,
        signed=signed,
        finding=_finding(circuit, int(flags.sum())),
        seen_share=_seen(circuit, search),
    )


def _flags(graph: CircuitGraph, circuit: Found) -> Bool[Tensor, " edge"]:
    """The edges of a circuit; AnalysisError where there is none, or it is of another graph."""
    if isinstance(circuit, Circuit):
        _check_edges(graph, circuit, "the circuit")
        flags = circuit.kept
    else:
        flags = graph.flags(graph.read(circuit.edges if isinstance(circuit, KeptCircuit) else circuit))
    if not bool(flags.any()):
        raise AnalysisError("the circuit has no edge; expected some, such as ['embed->0.1.v', '0.1->logits']")
    return flags


def _check_edges(graph: CircuitGraph, result: Effects, called: str) -> None:
    """Raise AnalysisError unless a result is of all edges of this graph, in its order."""
    names = tuple(result.labels.get("edge", ()))
    if result.axes != ("edge",) or names != names_of(graph.edges):
        raise AnalysisError(
            f"{called} is of {len(names)} edges {list(names[:2])}..., and the model of {graph.n_layers} layers with "
            f"{graph.n_heads} heads has {len(graph.edges)}; expected one of all edges of this model's graph"
        )


def _of_effects(
    graph: CircuitGraph, effects: Effects
) -> tuple[Float[Tensor, " edge"], Float[Tensor, "edge example"] | None, bool]:
    """What every edge does, the same in each example, and whether that has a sign."""
    if not isinstance(effects, PatchingResult | AttributionResult | Circuit):
        raise AnalysisError(
            f"the effects are a {type(effects).__name__}; expected what edge_effects, edge_attribution or find_circuit "
            "gives, or None"
        )
    _check_edges(graph, effects, "the effects' result")
    if isinstance(effects, Circuit):
        scores = effects.values.double()
        most = float(scores[scores.isfinite()].max()) if bool(scores.isfinite().any()) else 0.0
        return scores.nan_to_num(posinf=most + 1), None, effects.signed
    each = effects.differences()
    return effects.effect.double(), None if each is None else each[0].double(), True


def _asked_of(circuit: Found) -> Mapping[str, Any] | None:
    """The arguments with which a circuit was found; None for edges that were just given."""
    if isinstance(circuit, Circuit):
        return circuit.provenance.get("arguments", {})
    return circuit.arguments if isinstance(circuit, KeptCircuit) else None


def _finding(circuit: Found, n_edges: int) -> dict[str, Any]:
    """How a circuit is found as this one was; where that is not known, by exact effects, as many edges."""
    asked = _asked_of(circuit) or {}
    if asked.get("method") is None:
        return {"method": "exact", "n_edges": n_edges}
    return {name: asked[name] for name in _ASKED if asked.get(name) is not None}


def _seen(circuit: Found, search: Search) -> float | None:
    """The share of the prompts that a circuit was found on; None where nobody knows."""
    found_on = circuit.found_on if isinstance(circuit, KeptCircuit) else (_asked_of(circuit) or {}).get("clean")
    return None if found_on is None else share_of_rows(search.ready.clean, found_on)


def on_examples(metric: Metric, examples: Int[Tensor, " example"], n: int) -> Metric:
    """A metric that is bound to `n` examples, on some of them: what it has one of for each example, it has of these."""
    each = {}
    for f in fields(metric):
        value = getattr(metric, f.name)
        if f.name != "pos" and isinstance(value, Tensor) and value.dim() and len(value) == n:
            each[f.name] = value[examples.to(value.device)]
    return replace(metric, **each)
