"""Open up nanoGPT checkpoints with TransformerLens.

    import nanogpt_lens as ngl

    model = ngl.load("out-shakespeare-char")
    ngl.check("out-shakespeare-char").raise_if_failed()

Names are imported when they are first used, so that `nanogpt-lens --help` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
    from conversion.errors import (
        BackendError,
        CheckpointError,
        ConversionError,
        EquivalenceError,
        NanoGPTLensError,
        VocabularyError,
    )
    from conversion.report import EquivalenceReport
    from conversion.transformerlens_to_nanogpt import to_nanogpt
    from nanogpt_lens.compare.heads import match_heads
    from nanogpt_lens.core.errors import AnalysisError, ResultError
    from nanogpt_lens.directions.find import direction_similarity, principal_components, project_direction
    from nanogpt_lens.directions.steer import steer, steering_effect
    from nanogpt_lens.heads.ablation import ablate_induction_heads
    from nanogpt_lens.heads.attention import attention_patterns, attention_statistics
    from nanogpt_lens.heads.composition import composition_scores
    from nanogpt_lens.heads.copying import copying_score
    from nanogpt_lens.heads.flow import attention_flow, attention_rollout
    from nanogpt_lens.heads.induction import induction_accuracy, prefix_matching, repeated_sequence_loss
    from nanogpt_lens.heads.induction_composition import induction_composition
    from nanogpt_lens.heads.on_tasks import task_accuracy, task_heads
    from nanogpt_lens.heads.taxonomy import head_taxonomy, score_heads
    from nanogpt_lens.interventions.applying import apply
    from nanogpt_lens.interventions.intervene import intervene
    from nanogpt_lens.interventions.intervention import Intervention
    from nanogpt_lens.lens.attribution import direct_logit_attribution
    from nanogpt_lens.lens.convergence import measure_convergence
    from nanogpt_lens.lens.evaluation import evaluate_lens
    from nanogpt_lens.lens.logit import logit_lens
    from nanogpt_lens.lens.tuned import train_tuned_lens
    from nanogpt_lens.losses.on_text import in_context_learning_score, text_loss
    from nanogpt_lens.losses.words import text_quality
    from nanogpt_lens.model.encoding import encode_text
    from nanogpt_lens.model.loading import check, load
    from nanogpt_lens.model.places import shipped_checkpoints
    from nanogpt_lens.model.sampling import generate
    from nanogpt_lens.neurons.ablation import ablate_neurons
    from nanogpt_lens.neurons.activations import get_neuron_activations
    from nanogpt_lens.neurons.find import find_neurons
    from nanogpt_lens.neurons.search import search_neurons
    from nanogpt_lens.neurons.statistics import neuron_statistics
    from nanogpt_lens.patching.attribution import attribution_patching
    from nanogpt_lens.patching.importance import head_importance
    from nanogpt_lens.patching.paths import path_patching
    from nanogpt_lens.patching.screening import screen_and_verify
    from nanogpt_lens.patching.sweeps import activation_patching
    from nanogpt_lens.reporting.making import Report, report
    from nanogpt_lens.results import (
        AttentionPatterns,
        AttributionResult,
        ChangePoint,
        ConvergenceResult,
        HeadMatches,
        HeadTaxonomy,
        InterventionResult,
        LensResult,
        LensScores,
        LogitAttribution,
        NeuronAblation,
        NeuronSearch,
        NeuronStatistics,
        PatchingResult,
        PrincipalComponents,
        Result,
        SAEEvaluation,
        Scores,
        ScreeningResult,
        SeparatingNeurons,
        SimilarDirections,
        SteeringEffect,
        Trajectory,
        TunedLens,
        load_result,
    )
    from nanogpt_lens.results.caching import ResultCache
    from nanogpt_lens.running.metrics import answer_logprob, kl_to, logit_diff, loss
    from nanogpt_lens.runs.change_points import find_change_point
    from nanogpt_lens.runs.stages import list_stages
    from nanogpt_lens.runs.trajectory import trajectory
    from nanogpt_lens.sae.evaluation import evaluate_sae
    from nanogpt_lens.sae.training import load_sae, save_sae, train_sae
    from nanogpt_lens.text.datasets import read_data
    from nanogpt_lens.text.pairs import PromptPair, find_prompt_pair
    from nanogpt_lens.text.prompts import induction_pairs, repeated_tokens
    from nanogpt_lens.text.tasks import read_task, repeated_random, trigger_bigrams
    from nanogpt_lens.training.config import TrainConfig
    from nanogpt_lens.training.train import train
    from nanogpt_lens.viz.widget import Widget, setup_notebook

_HOMES = {
    "AnalysisError": "nanogpt_lens.core.errors",
    "AttentionPatterns": "nanogpt_lens.results",
    "AttributionResult": "nanogpt_lens.results",
    "BackendError": "conversion.errors",
    "ChangePoint": "nanogpt_lens.results",
    "Checkpoint": "conversion.checkpoint",
    "CheckpointError": "conversion.errors",
    "ConvergenceResult": "nanogpt_lens.results",
    "ConversionError": "conversion.errors",
    "EquivalenceError": "conversion.errors",
    "EquivalenceReport": "conversion.report",
    "HeadMatches": "nanogpt_lens.results",
    "HeadTaxonomy": "nanogpt_lens.results",
    "Intervention": "nanogpt_lens.interventions.intervention",
    "InterventionResult": "nanogpt_lens.results",
    "LensResult": "nanogpt_lens.results",
    "LensScores": "nanogpt_lens.results",
    "NanoGPTLensError": "conversion.errors",
    "LogitAttribution": "nanogpt_lens.results",
    "NeuronAblation": "nanogpt_lens.results",
    "NeuronSearch": "nanogpt_lens.results",
    "NeuronStatistics": "nanogpt_lens.results",
    "PatchingResult": "nanogpt_lens.results",
    "PrincipalComponents": "nanogpt_lens.results",
    "PromptPair": "nanogpt_lens.text.pairs",
    "Report": "nanogpt_lens.reporting.making",
    "Result": "nanogpt_lens.results",
    "ResultCache": "nanogpt_lens.results.caching",
    "ResultError": "nanogpt_lens.core.errors",
    "SAEEvaluation": "nanogpt_lens.results",
    "Scores": "nanogpt_lens.results",
    "ScreeningResult": "nanogpt_lens.results",
    "SeparatingNeurons": "nanogpt_lens.results",
    "SimilarDirections": "nanogpt_lens.results",
    "SteeringEffect": "nanogpt_lens.results",
    "TrainConfig": "nanogpt_lens.training.config",
    "Trajectory": "nanogpt_lens.results",
    "TunedLens": "nanogpt_lens.results",
    "VocabularyError": "conversion.errors",
    "Widget": "nanogpt_lens.viz.widget",
    "ablate_induction_heads": "nanogpt_lens.heads.ablation",
    "ablate_neurons": "nanogpt_lens.neurons.ablation",
    "activation_patching": "nanogpt_lens.patching.sweeps",
    "answer_logprob": "nanogpt_lens.running.metrics",
    "apply": "nanogpt_lens.interventions.applying",
    "attention_flow": "nanogpt_lens.heads.flow",
    "attention_patterns": "nanogpt_lens.heads.attention",
    "attention_rollout": "nanogpt_lens.heads.flow",
    "attention_statistics": "nanogpt_lens.heads.attention",
    "attribution_patching": "nanogpt_lens.patching.attribution",
    "check": "nanogpt_lens.model.loading",
    "composition_scores": "nanogpt_lens.heads.composition",
    "copying_score": "nanogpt_lens.heads.copying",
    "direct_logit_attribution": "nanogpt_lens.lens.attribution",
    "direction_similarity": "nanogpt_lens.directions.find",
    "encode_text": "nanogpt_lens.model.encoding",
    "evaluate_lens": "nanogpt_lens.lens.evaluation",
    "evaluate_sae": "nanogpt_lens.sae.evaluation",
    "find_change_point": "nanogpt_lens.runs.change_points",
    "find_neurons": "nanogpt_lens.neurons.find",
    "find_prompt_pair": "nanogpt_lens.text.pairs",
    "generate": "nanogpt_lens.model.sampling",
    "get_neuron_activations": "nanogpt_lens.neurons.activations",
    "head_importance": "nanogpt_lens.patching.importance",
    "head_taxonomy": "nanogpt_lens.heads.taxonomy",
    "in_context_learning_score": "nanogpt_lens.losses.on_text",
    "induction_accuracy": "nanogpt_lens.heads.induction",
    "induction_composition": "nanogpt_lens.heads.induction_composition",
    "induction_pairs": "nanogpt_lens.text.prompts",
    "intervene": "nanogpt_lens.interventions.intervene",
    "kl_to": "nanogpt_lens.running.metrics",
    "list_stages": "nanogpt_lens.runs.stages",
    "load": "nanogpt_lens.model.loading",
    "load_result": "nanogpt_lens.results",
    "load_sae": "nanogpt_lens.sae.training",
    "logit_diff": "nanogpt_lens.running.metrics",
    "logit_lens": "nanogpt_lens.lens.logit",
    "loss": "nanogpt_lens.running.metrics",
    "match_heads": "nanogpt_lens.compare.heads",
    "measure_convergence": "nanogpt_lens.lens.convergence",
    "neuron_statistics": "nanogpt_lens.neurons.statistics",
    "path_patching": "nanogpt_lens.patching.paths",
    "prefix_matching": "nanogpt_lens.heads.induction",
    "principal_components": "nanogpt_lens.directions.find",
    "project_direction": "nanogpt_lens.directions.find",
    "read_checkpoint": "conversion.checkpoint",
    "read_data": "nanogpt_lens.text.datasets",
    "read_task": "nanogpt_lens.text.tasks",
    "repeated_random": "nanogpt_lens.text.tasks",
    "repeated_sequence_loss": "nanogpt_lens.heads.induction",
    "repeated_tokens": "nanogpt_lens.text.prompts",
    "report": "nanogpt_lens.reporting.making",
    "save_checkpoint": "conversion.checkpoint",
    "save_sae": "nanogpt_lens.sae.training",
    "score_heads": "nanogpt_lens.heads.taxonomy",
    "screen_and_verify": "nanogpt_lens.patching.screening",
    "search_neurons": "nanogpt_lens.neurons.search",
    "setup_notebook": "nanogpt_lens.viz.widget",
    "shipped_checkpoints": "nanogpt_lens.model.places",
    "steer": "nanogpt_lens.directions.steer",
    "steering_effect": "nanogpt_lens.directions.steer",
    "task_accuracy": "nanogpt_lens.heads.on_tasks",
    "task_heads": "nanogpt_lens.heads.on_tasks",
    "text_loss": "nanogpt_lens.losses.on_text",
    "text_quality": "nanogpt_lens.losses.words",
    "to_nanogpt": "conversion.transformerlens_to_nanogpt",
    "train": "nanogpt_lens.training.train",
    "train_sae": "nanogpt_lens.sae.training",
    "train_tuned_lens": "nanogpt_lens.lens.tuned",
    "trajectory": "nanogpt_lens.runs.trajectory",
    "trigger_bigrams": "nanogpt_lens.text.tasks",
}

_MODULES = {
    "viz": "nanogpt_lens.viz",
    "widgets": "nanogpt_lens.reporting.widgets",
    "catalogue": "nanogpt_lens.catalogue",
}

__all__ = [
    "AnalysisError",
    "AttentionPatterns",
    "AttributionResult",
    "BackendError",
    "ChangePoint",
    "Checkpoint",
    "CheckpointError",
    "ConvergenceResult",
    "ConversionError",
    "EquivalenceError",
    "EquivalenceReport",
    "HeadMatches",
    "HeadTaxonomy",
    "Intervention",
    "InterventionResult",
    "LensResult",
    "LensScores",
    "LogitAttribution",
    "NanoGPTLensError",
    "NeuronAblation",
    "NeuronSearch",
    "NeuronStatistics",
    "PatchingResult",
    "PrincipalComponents",
    "PromptPair",
    "Report",
    "Result",
    "ResultCache",
    "ResultError",
    "SAEEvaluation",
    "Scores",
    "ScreeningResult",
    "SeparatingNeurons",
    "SimilarDirections",
    "SteeringEffect",
    "TrainConfig",
    "Trajectory",
    "TunedLens",
    "VocabularyError",
    "Widget",
    "ablate_induction_heads",
    "ablate_neurons",
    "activation_patching",
    "answer_logprob",
    "apply",
    "attention_flow",
    "attention_patterns",
    "attention_rollout",
    "attention_statistics",
    "attribution_patching",
    "check",
    "composition_scores",
    "copying_score",
    "direct_logit_attribution",
    "direction_similarity",
    "encode_text",
    "evaluate_lens",
    "evaluate_sae",
    "find_change_point",
    "find_neurons",
    "find_prompt_pair",
    "generate",
    "get_neuron_activations",
    "head_importance",
    "head_taxonomy",
    "in_context_learning_score",
    "induction_accuracy",
    "induction_composition",
    "induction_pairs",
    "intervene",
    "kl_to",
    "list_stages",
    "load",
    "load_result",
    "load_sae",
    "logit_diff",
    "logit_lens",
    "loss",
    "match_heads",
    "measure_convergence",
    "neuron_statistics",
    "path_patching",
    "prefix_matching",
    "principal_components",
    "project_direction",
    "read_checkpoint",
    "read_data",
    "read_task",
    "repeated_random",
    "repeated_sequence_loss",
    "repeated_tokens",
    "report",
    "save_checkpoint",
    "save_sae",
    "score_heads",
    "screen_and_verify",
    "search_neurons",
    "setup_notebook",
    "shipped_checkpoints",
    "steer",
    "steering_effect",
    "task_accuracy",
    "task_heads",
    "text_loss",
    "text_quality",
    "to_nanogpt",
    "train",
    "train_sae",
    "train_tuned_lens",
    "trajectory",
    "trigger_bigrams",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("nanogpt-lens")
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
