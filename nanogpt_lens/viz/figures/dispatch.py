"""Which function draws which result, and the check of its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import plotly.graph_objects as go

import nanogpt_lens.viz.figures.attention as attention
import nanogpt_lens.viz.figures.attribution as attribution
import nanogpt_lens.viz.figures.bars as bars
import nanogpt_lens.viz.figures.circuit as circuit
import nanogpt_lens.viz.figures.circuit_atlas as circuit_atlas
import nanogpt_lens.viz.figures.circuit_comparison as circuit_comparison
import nanogpt_lens.viz.figures.circuit_grades as circuit_grades
import nanogpt_lens.viz.figures.circuit_validation as circuit_validation
import nanogpt_lens.viz.figures.composition as composition
import nanogpt_lens.viz.figures.directions as directions
import nanogpt_lens.viz.figures.flow as flow
import nanogpt_lens.viz.figures.gain as gain
import nanogpt_lens.viz.figures.generic as generic
import nanogpt_lens.viz.figures.heads as heads
import nanogpt_lens.viz.figures.induction as induction
import nanogpt_lens.viz.figures.lens as lens
import nanogpt_lens.viz.figures.neurons as neurons
import nanogpt_lens.viz.figures.output_difference as output_difference
import nanogpt_lens.viz.figures.patching as patching
import nanogpt_lens.viz.figures.representations as representations
import nanogpt_lens.viz.figures.sae as sae
import nanogpt_lens.viz.figures.scrubbing as scrubbing
import nanogpt_lens.viz.figures.separating as separating
import nanogpt_lens.viz.figures.trajectories as trajectories
import nanogpt_lens.viz.figures.transplants as transplants
import nanogpt_lens.viz.figures.tuned as tuned
import nanogpt_lens.viz.figures.weight_difference as weight_difference
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import (
    AttentionPatterns,
    AttributionResult,
    Circuit,
    CircuitAtlas,
    CircuitComparison,
    CircuitGrades,
    CircuitValidation,
    ConvergenceResult,
    HeadTaxonomy,
    LensResult,
    LensScores,
    LogitAttribution,
    MeanDifference,
    NeuronAblation,
    NeuronSearch,
    NeuronStatistics,
    Origin,
    OutputDifference,
    PatchingResult,
    PrincipalComponents,
    RepresentationSimilarity,
    Result,
    SAEEvaluation,
    Scrubbing,
    SeparatingNeurons,
    SimilarDirections,
    SteeringEffect,
    TransplantedEdges,
    Transplants,
    TunedLens,
    WeightDifference,
)
from nanogpt_lens.viz.figures.captions import caption_of, short_caption_of
from nanogpt_lens.viz.figures.choices import count
from nanogpt_lens.viz.figures.drawing import Drawing, figure_of

Draw: TypeAlias = Callable[..., Drawing]

COMMON = ("title", "width", "height")
"""Options that every figure has: its title, its size in pixels."""

KINDS: dict[type[Result], Draw] = {
    AttentionPatterns: attention.patterns,
    AttributionResult: patching.estimates,
    Circuit: circuit.circuit,
    CircuitComparison: circuit_comparison.comparison,
    CircuitAtlas: circuit_atlas.atlas,
    CircuitGrades: circuit_grades.grades,
    CircuitValidation: circuit_validation.validation,
    ConvergenceResult: lens.convergence,
    HeadTaxonomy: heads.taxonomy,
    LensResult: lens.reading,
    LensScores: tuned.scores,
    LogitAttribution: attribution.contributions,
    MeanDifference: representations.mean_difference,
    NeuronAblation: separating.ablation,
    NeuronSearch: neurons.search,
    NeuronStatistics: neurons.statistics,
    OutputDifference: output_difference.difference,
    Origin: weight_difference.start,
    PatchingResult: patching.effects,
    PrincipalComponents: directions.components,
    RepresentationSimilarity: representations.similarity,
    SAEEvaluation: sae.evaluation,
    Scrubbing: scrubbing.scrubbing,
    SeparatingNeurons: separating.best,
    SimilarDirections: directions.similar,
    SteeringEffect: directions.steering,
    TransplantedEdges: transplants.edges,
    Transplants: transplants.transplants,
    TunedLens: tuned.lens,
    WeightDifference: weight_difference.difference,
}
"""The function of each class; a subclass without an entry is drawn as its base."""

AXES: dict[frozenset[str], Draw] = {
    frozenset(axes): draw
    for axes, draw in [
        (("layer", "head"), heads.scores),
        (("score", "layer", "head"), heads.several),
        (("sender_layer", "sender_head", "layer", "head"), composition.pairs),
        (("condition", "pos"), induction.losses),
        (("score", "prompt"), induction.accuracy),
        (("ablated", "score"), induction.ablation),
        (("gain", "pos"), gain.over_positions),
        (("score",), bars.scores),
        (("src_pos",), flow.flows),
        (("layer", "src_pos"), flow.flows),
        (("dest_pos", "src_pos"), attention.mixed),
        (("layer", "dest_pos", "src_pos"), attention.mixed),
        (("example", "layer", "dest_pos", "src_pos"), attention.mixed),
        (("token",), directions.tokens),
        (("layer", "neuron", "pos"), neurons.activations),
        (("example", "layer", "neuron", "pos"), neurons.activations),
    ]
}
"""The function of each set of axes, for results of no special class."""


def figure(result: Result, **options: Any) -> go.Figure:
    """A figure of a result.

    Args:
        result: of any analysis.
        options: of the function that draws it, see `options_of`; and for every figure `title`, and `width` and `height`
            in pixels.

    Raises:
        ResultError: an option that this figure does not have, a word that it does not know, or a place that is not
            there.
    """
    draw, known = _drawer(result), options_of(result)
    if unknown := [name for name in options if name not in known]:
        raise ResultError(
            f"the figure of this {type(result).__name__} has no option {unknown[0]!r}; expected "
            f"{', '.join(known[:-1])} or {known[-1]}"
        )
    common = {name: options.pop(name, None) for name in COMMON}
    for name in ("width", "height"):
        if common[name] is not None and (not isinstance(common[name], int) or common[name] < 200):
            raise ResultError(f"{name} is {common[name]!r}; expected pixels, a whole number from 200 on")
    if common["title"] is not None and not isinstance(common["title"], str):
        raise ResultError(f"title is {common['title']!r}; expected text")
    _check(result, options)
    drawing = draw(result, **options)
    if not result.made_here:
        _rename_intervals(drawing.figure)
    caption = caption_of(
        result, notes=drawing.notes, definition=drawing.definition, intervals_told=drawing.intervals_told
    )
    short = short_caption_of(result, notes=drawing.notes, definition=drawing.definition)
    return figure_of(drawing, caption, short, **common)


def _check(result: Result, options: dict[str, Any]) -> None:
    """Raise ResultError unless `k` and `links` are counts, and `example` is there, which figures may not look at."""
    for name in ("k", "links"):
        if options.get(name) is not None:
            count(name, options[name])
    example = options.get("example", 0)
    if "example" not in result.axes and (isinstance(example, bool) or example not in (0, -1)):
        raise ResultError(f"there is no example {example!r}; expected 0: the result is of one text")


def _rename_intervals(figure: go.Figure) -> None:
    """Take "95%" out of the names of intervals, which another program may have made at another level."""
    traces: Any = figure.data
    for trace in traces:
        for name in ("name", "hovertemplate"):
            text = getattr(trace, name, None)
            if isinstance(text, str) and "95% interval" in text:
                setattr(trace, name, text.replace("95% interval", "low to high:" if name != "name" else "low to high"))


def options_of(result: Result) -> tuple[str, ...]:
    """The options that the figure of a result takes."""
    parameters = inspect.signature(_drawer(result)).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    places = [*result.axes] if any(p.kind is p.VAR_KEYWORD for p in parameters) else []
    return tuple(dict.fromkeys([*options, *places, *COMMON]))


def _drawer(result: Result) -> Draw:
    """The function that draws such a result."""
    if "step" in result.axes and not isinstance(result, CircuitAtlas):
        return trajectories.over_steps
    for kind in type(result).__mro__:
        if kind in KINDS:
            return KINDS[kind]
    return AXES.get(frozenset(result.axes), generic.anything)
