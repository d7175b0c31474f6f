"""What an analysis returns: frozen values with named axes, which say how they were made.

Every result can be saved and loaded (safetensors for tensors, JSON for the rest, nothing is
ever unpickled), read as a data frame, and asked for its largest entries.
"""

from __future__ import annotations

from nanogpt_lens.results.attribution import LogitAttribution
from nanogpt_lens.results.base import Result, load_result
from nanogpt_lens.results.caching import ResultCache
from nanogpt_lens.results.circuit_atlas import CircuitAtlas
from nanogpt_lens.results.circuits import CircuitRuns
from nanogpt_lens.results.compared_circuits import CircuitComparison
from nanogpt_lens.results.comparison import ModelComparison
from nanogpt_lens.results.effects import (
    NeuronAblation,
    NeuronStatistics,
    PrincipalComponents,
    SeparatingNeurons,
    SimilarDirections,
    SteeringEffect,
)
from nanogpt_lens.results.found_circuits import Circuit
from nanogpt_lens.results.grades import CircuitGrades
from nanogpt_lens.results.heads import (
    AttentionPatterns,
    ClassAttention,
    HeadMatches,
    HeadTaxonomy,
    InductionCircuit,
    InductionHeads,
    MixedAttention,
)
from nanogpt_lens.results.intervening import InterventionResult
from nanogpt_lens.results.lens import ConvergenceResult, LensResult, LensScores, TunedLens
from nanogpt_lens.results.mean_difference import MeanDifference
from nanogpt_lens.results.neurons import Excerpt, NeuronPage, NeuronSearch
from nanogpt_lens.results.output_difference import OutputDifference
from nanogpt_lens.results.patching import AttributionResult, PatchingResult, ScreeningResult
from nanogpt_lens.results.representations import RepresentationSimilarity
from nanogpt_lens.results.sae import SAEEvaluation
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.results.scores import Scores
from nanogpt_lens.results.scrubbing import Scrubbing
from nanogpt_lens.results.trajectory import ChangePoint, Trajectory
from nanogpt_lens.results.transplants import TransplantedEdges, Transplants
from nanogpt_lens.results.validation import CircuitValidation
from nanogpt_lens.results.weight_difference import Origin, WeightDifference

__all__ = [
    "AttentionPatterns",
    "AttributionResult",
    "ChangePoint",
    "Circuit",
    "CircuitAtlas",
    "CircuitComparison",
    "CircuitGrades",
    "CircuitRuns",
    "CircuitValidation",
    "ClassAttention",
    "ConvergenceResult",
    "Excerpt",
    "HeadMatches",
    "HeadTaxonomy",
    "InductionCircuit",
    "InductionHeads",
    "InterventionResult",
    "LensResult",
    "LensScores",
    "LogitAttribution",
    "MeanDifference",
    "MixedAttention",
    "ModelComparison",
    "NeuronAblation",
    "NeuronPage",
    "NeuronSearch",
    "NeuronStatistics",
    "Origin",
    "OutputDifference",
    "PatchingResult",
    "PrincipalComponents",
    "RepresentationSimilarity",
    "Result",
    "ResultCache",
    "SAEEvaluation",
    "Sample",
    "Scores",
    "ScreeningResult",
    "Scrubbing",
    "SeparatingNeurons",
    "SimilarDirections",
    "SteeringEffect",
    "Trajectory",
    "TransplantedEdges",
    "Transplants",
    "TunedLens",
    "WeightDifference",
    "load_result",
]
