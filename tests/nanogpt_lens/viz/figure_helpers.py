"""Real results of every public function, for the tests of figures; and what a figure shows, by its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

import nanogpt_lens as ngl
from nanogpt_lens.compare.characters import loss_per_character
from nanogpt_lens.compare.mean_difference import mean_difference_lens
from nanogpt_lens.compare.origin import shared_start
from nanogpt_lens.compare.outputs import compare_outputs
from nanogpt_lens.compare.representations import compare_representations
from nanogpt_lens.compare.transplanted_edges import transplant_edges
from nanogpt_lens.compare.transplants import transplant
from nanogpt_lens.compare.weights import compare_weights
from nanogpt_lens.heads.syntax import syntax_attention
from nanogpt_lens.results import Result, Sample, Scores
from tests.nanogpt_lens.circuits import asking
from tests.nanogpt_lens.neurons.neuron_helpers import play

ROOT = Path(__file__).parents[3]
QUIET = {"progress": False}
PLAIN = ["embed->logits"]
CLEAN = ["ROMEO: I l", "HENRY: I l", "LUCIO: I l", "TYBAL: I l"]
CORRUPTED = ["JULIE: I h", "ROMEO: I h", "MARCI: I h", "DUKEE: I h"]
TEXT = "First Citizen:\nBefore we proceed any further"
HYPOTHESIS: dict[str, Any] = {
    "logits": {"reads": {"mlp0": {"reads": {"embed": {"depends_on": "token"}}}, "embed": {"depends_on": "token"}}}
}
SOME = ["embed->0.0.q", "0.1->mlp3", "mlp3->logits", "0.1->logits"]
FEW: dict[str, Any] = {"n": 6, "seq_len": 8, "components": ["embed", "0.0", "mlp3", "ln_final"], **QUIET}
Z = {"activation": "z", "axes": ("layer", "head", "pos"), **QUIET}


@cache
def model() -> Any:
    return ngl.load("shakespeare_char")


@cache
def early() -> Any:
    return ngl.load(ROOT / "checkpoints/shakespeare_char/ckpt_000800.pt")


@cache
def stages() -> tuple[Any, Any]:
    """An early stage of the shipped run, and its end."""
    return ngl.load("shakespeare_char/ckpt_000300.pt"), model()


@cache
def corpus() -> str:
    return play(6000)


def metric() -> Any:
    return ngl.metrics.logit_diff("o", "a")


@cache
def direction() -> torch.Tensor:
    return ngl.directions.principal_components(model(), corpus(), "resid_post", layer=1, **QUIET).values[0]


def _two(function: Callable[..., Any], **options: Any) -> Any:
    return function(model(), CLEAN, CORRUPTED, metric(), **options)


def _one(function: Callable[..., Any], **options: Any) -> Any:
    return function(model(), CLEAN[0], CORRUPTED[0], metric(), **options)


def steps(*axes: str) -> Scores:
    """A trajectory as an analysis over checkpoints would give it: [step, score] or [step, layer, head]."""
    labels = ("0", "10", "50", "100", "500", "1000")
    sizes = {"score": 3, "layer": 3, "head": 4}
    values = torch.rand(len(labels), *(sizes[axis] for axis in axes), generator=torch.Generator().manual_seed(0))
    names = {"score": ("induction", "previous_token", "sink")} if "score" in axes else {}
    return Scores(
        values=values,
        axes=("step", *axes),
        labels={"step": labels, **names},
        quantity="head score, 0 to 1",
        title="head score",
        sample=Sample(n=8, seed=3),
        definition="the largest score of any head",
        low=values - 0.1,
        high=values + 0.2,
        chance=torch.full_like(values, 0.25),
        provenance={"checkpoint": "run"},
    )


RESULTS: dict[str, Callable[[], Result]] = {
    "score_heads": lambda: ngl.score_heads(model(), corpus(), n=8),
    "head_taxonomy": lambda: ngl.head_taxonomy(model(), corpus(), n=8),
    "syntax_attention": lambda: syntax_attention(model(), corpus(), n=16),
    "attention_statistics": lambda: ngl.attention_statistics(model(), corpus(), n=8),
    "prefix_matching": lambda: ngl.prefix_matching(model(), n=8),
    "copying_score": lambda: ngl.copying_score(model(), method="eigenvalues"),
    "copying_score, logits": lambda: ngl.copying_score(model(), method="logits", n=8),
    "composition_scores": lambda: ngl.composition_scores(model(), mode="K", samples=64),
    "repeated_sequence_loss": lambda: ngl.repeated_sequence_loss(model(), n=8),
    "induction_accuracy": lambda: ngl.induction_accuracy(model(), n=32),
    "induction_composition": lambda: ngl.induction_composition(model(), n=8),
    "in_context_learning_score": lambda: ngl.in_context_learning_score(model(), corpus(), n=16),
    "text_loss": lambda: ngl.text_loss(model(), corpus(), n=8),
    "text_quality": lambda: ngl.catalogue.find("text_quality").function(
        model(), ngl.read_data("shakespeare"), words=160, **QUIET
    ),
    "task_accuracy": lambda: ngl.task_accuracy(model(), ngl.tasks.read_task("induction"), n=8),
    "task_heads": lambda: ngl.task_heads(model(), ngl.tasks.read_task("induction"), n=8),
    "trajectory": lambda: ngl.trajectory("shakespeare_char", "prefix_matching", n=8, **QUIET),
    "find_change_point": lambda: ngl.find_change_point(result("trajectory"), layer=3, head=2),
    "match_heads": lambda: ngl.match_heads(result("score_heads"), ngl.score_heads(early(), corpus(), n=8)),
    "ablate_induction_heads": lambda: ngl.ablate_induction_heads(model(), heads=[(3, 2)], controls=4, n=8),
    "head_importance": lambda: ngl.head_importance(model(), corpus(), n=8, **QUIET),
    "attention_rollout": lambda: ngl.attention_rollout(model(), TEXT[:12]),
    "attention_rollout, two texts": lambda: ngl.attention_rollout(model(), [TEXT[:9], TEXT[9:18]]),
    "attention_flow": lambda: ngl.attention_flow(model(), TEXT[:12], **QUIET),
    "attention_flow, layers": lambda: ngl.attention_flow(model(), TEXT[:12], layer=None, **QUIET),
    "attention_flow, positions": lambda: ngl.attention_flow(model(), TEXT[:8], pos=None, **QUIET),
    "attention_flow, all": lambda: ngl.attention_flow(model(), TEXT[:6], pos=None, layer=None, **QUIET),
    "attention_patterns": lambda: ngl.attention_patterns(model(), TEXT[:12]),
    "attention_patterns, two texts": lambda: ngl.attention_patterns(model(), [TEXT[:9], TEXT[9:18]]),
    "activation_patching": lambda: _two(ngl.activation_patching, **Z),
    "activation_patching, residual": lambda: _one(
        ngl.activation_patching, activation="resid_pre", axes=("pos", "layer"), **QUIET
    ),
    "activation_patching, layers": lambda: _two(
        ngl.activation_patching, activation="mlp_out", axes=("layer",), direction="noise", **QUIET
    ),
    "activation_patching, pattern": lambda: _one(
        ngl.activation_patching, activation="pattern", axes=("layer", "head", "dest_pos", "src_pos"), **QUIET
    ),
    "activation_patching, neurons": lambda: _one(
        ngl.activation_patching, activation="mlp_post", axes=("layer", "neuron"), **QUIET
    ),
    "activation_patching, zero": lambda: ngl.activation_patching(
        model(), CLEAN[0], None, metric(), activation="z", axes=("layer", "head"), source="zero", **QUIET
    ),
    "path_patching": lambda: _two(ngl.path_patching, senders="heads", receivers=["3.0.v", "mlp3", "logits"], **QUIET),
    "path_patching, positions": lambda: _two(
        ngl.path_patching, senders="heads", receivers=["logits"], positions="each", **QUIET
    ),
    "attribution_patching": lambda: _one(ngl.attribution_patching, **Z),
    "screen_and_verify": lambda: _two(ngl.screen_and_verify, k=5, **Z),
    "find_induction_heads": lambda: ngl.find_induction_heads(model(), n=8),
    "edge_effects": lambda: _two(ngl.edge_effects, **QUIET),
    "edge_effects, positions": lambda: _one(
        ngl.edge_effects, edges=["0.1->1.0", "mlp2->logits"], positions="each", **QUIET
    ),
    "edge_attribution": lambda: _two(ngl.edge_attribution, **QUIET),
    "run_circuit": lambda: ngl.run_circuit(
        model(), [["embed->mlp0", "mlp0->logits"], ["embed->logits"]], CLEAN, CORRUPTED, metric(), **QUIET
    ),
    "find_circuit": lambda: _two(ngl.find_circuit, method="exact", orders=0, **QUIET),
    "grade_circuit_methods": lambda: ngl.grade_circuit_methods(
        asking.model(), *asking.texts(), asking.METRIC, k=4, **QUIET
    ),
    "validate_circuit": lambda: ngl.validate_circuit(
        asking.model(), ["embed->mlp0", "mlp0->logits"], *asking.texts(), asking.METRIC, n_random=20, knockouts=4
    ),
    "scrub": lambda: ngl.scrub(
        asking.model(), HYPOTHESIS, ngl.induction_pairs(asking.model(), n=12, seq_len=6), **QUIET
    ),
    "compare_circuits": lambda: ngl.compare_circuits(
        *((asking.model(), edges, *asking.texts(), asking.METRIC) for edges in (["embed->0.1", "0.1->logits"], PLAIN)),
        n_random=5,
        draws=9,
        splits=1,
        **QUIET,
    ),
    "compare_outputs": lambda: compare_outputs(
        early(), model(), corpus(), names=("step 800", "step 1200"), k=4, window=16, **QUIET
    ),
    "loss_per_character": lambda: loss_per_character(early(), model(), corpus(), piece=60, n=8),
    "compare_representations": lambda: compare_representations(
        early(), model(), corpus(), n=60, reference=early(), permutations=5, **QUIET
    ),
    "mean_difference_lens": lambda: mean_difference_lens(early(), model(), corpus(), n=24, **QUIET),
    "logit_lens": lambda: ngl.logit_lens(model(), TEXT),
    "logit_lens, two texts": lambda: ngl.logit_lens(model(), [TEXT[:9], TEXT[9:18]]),
    "measure_convergence": lambda: ngl.measure_convergence(model(), corpus(), n=8, **QUIET),
    "direct_logit_attribution": lambda: ngl.direct_logit_attribution(model(), "First Citize", "n", "r"),
    "direct_logit_attribution, positions": lambda: ngl.direct_logit_attribution(
        model(), "First Citize", pos=list(range(11))
    ),
    "train_tuned_lens": lambda: ngl.train_tuned_lens(model(), corpus(), steps=10, **QUIET),
    "evaluate_lens": lambda: ngl.evaluate_lens(model(), corpus(), result("train_tuned_lens"), n=8, **QUIET),
    "search_neurons": lambda: ngl.search_neurons(model(), corpus(), layers=[0, 3], k=3, **QUIET),
    "neuron_statistics": lambda: ngl.neuron_statistics(
        model(), corpus(), layers=[1, 2], neurons=list(range(0, 512, 8)), **QUIET
    ),
    "find_neurons": lambda: ngl.find_neurons(model(), corpus(), "upper_case", layers=[0, 1], permutations=20, **QUIET),
    "ablate_neurons": lambda: ngl.ablate_neurons(
        model(), corpus(), ["0.251", "3.33"], predicate="upper_case", n=16, controls=4, **QUIET
    ),
    "get_neuron_activations": lambda: ngl.get_neuron_activations(model(), TEXT[:12], layers=[0, 3]),
    "get_neuron_activations, two texts": lambda: ngl.get_neuron_activations(model(), [TEXT[:9], TEXT[9:18]]),
    "principal_components": lambda: ngl.directions.principal_components(
        model(), corpus(), "resid_post", layer=1, **QUIET
    ),
    "project_direction": lambda: ngl.directions.project_direction(model(), direction()),
    "direction_similarity": lambda: ngl.directions.direction_similarity(model(), direction()),
    "intervene": lambda: ngl.intervene(model(), "the king", {"place": "1.0"}, metric=ngl.metrics.loss()),
    "steering_effect": lambda: ngl.steering_effect(
        model(), corpus(), direction(), layer=1, scales=(4, -4, 0), tokens=["e", " "], n=4, controls=3, **QUIET
    ),
    "transplant": lambda: transplant(*stages(), corpus(), **FEW, n_random=4),
    "transplant, no search": lambda: transplant(*stages(), corpus(), **FEW, search=False),
    "transplant_edges": lambda: transplant_edges(*stages(), corpus(), n=4, seq_len=8, edges=SOME, **QUIET),
    "compare_weights": lambda: compare_weights(*stages()),
    "shared_start": lambda: shared_start(*stages()),
    "steps": lambda: steps("score"),
    "steps of heads": lambda: steps("layer", "head"),
    "steps alone": lambda: steps(),
    "five axes": lambda: Result(
        values=torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(1)),
        axes=("layer", "feature", "case", "pos"),
        quantity="something signed, change",
        signed=True,
        definition="made up",
    ),
}
"""A result of every function that returns one, and of its variants; evaluate_sae has tests of its own."""


@cache
def result(name: str) -> Any:
    return RESULTS[name]()


def shown(figure: go.Figure, trace: int = 0) -> dict[tuple[str, str], float]:
    """Of a heat map: the value at every (row label, column label)."""
    data: Any = figure.data[trace]
    z = np.asarray(data.z)
    assert z.shape == (len(data.y), len(data.x))
    return {(row, column): float(z[i, j]) for i, row in enumerate(data.y) for j, column in enumerate(data.x)}


def heats(figure: go.Figure) -> list[Any]:
    """The heat maps of a figure, without the letters in their cells."""
    return [trace for trace in figure.data if trace.type == "heatmap"]


def shown_of(heat: Any) -> dict[tuple[str, str], float]:
    """Of a heat map's trace: the value at every (row label, column label)."""
    z = np.asarray(heat.z)
    return {(row, column): float(z[i, j]) for i, row in enumerate(heat.y) for j, column in enumerate(heat.x)}


def bars(figure: go.Figure, trace: int = 0) -> dict[str, float]:
    """Of horizontal bars: the value of every label."""
    data: Any = figure.data[trace]
    assert data.orientation == "h"
    return dict(zip(data.y, map(float, data.x), strict=True))


def ends(error: Any, middle: Any) -> tuple[np.ndarray, np.ndarray]:
    """The ends of error bars."""
    return np.asarray(middle) - np.asarray(error.arrayminus), np.asarray(middle) + np.asarray(error.array)


def named(figure: go.Figure, name: str) -> Any:
    """The trace of that name."""
    found = [trace for trace in figure.data if trace.name == name]
    assert len(found) == 1, [trace.name for trace in figure.data]
    return found[0]


def texts(value: Any) -> Iterator[str]:
    """Every string in a figure's data and layout, keys and the template left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            if key != "template":
                yield from texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        for part in value.flatten():
            yield from texts(part)
