"""Open up nanoGPT checkpoints with TransformerLens.

    import nanogpt_lens as ngl

    model = ngl.load("out-shakespeare-char")
    ngl.check("out-shakespeare-char").raise_if_failed()

What most people need is here; classes of results are in `ngl.results`, metrics in `ngl.metrics`, tasks to train on in
`ngl.tasks`, directions of the stream in `ngl.directions`, sparse autoencoders in `ngl.sae`, errors in `ngl.errors`,
every analysis by name in `ngl.catalogue`, hypotheses for `ngl.scrub` in `ngl.scrubbing`. Names are imported when they
are first used, so that `nanogpt-lens --help` needs no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conversion.checkpoint import save_checkpoint
    from conversion.transformerlens_to_nanogpt import to_nanogpt
    from nanogpt_lens.circuits.discovery import find_circuit
    from nanogpt_lens.circuits.edges import edge_effects
    from nanogpt_lens.circuits.estimates import edge_attribution
    from nanogpt_lens.circuits.grading import grade_circuit_methods
    from nanogpt_lens.circuits.running import run_circuit
    from nanogpt_lens.circuits.scrubbing import scrub
    from nanogpt_lens.circuits.validation import validate_circuit
    from nanogpt_lens.compare.circuits import compare_circuits
    from nanogpt_lens.compare.comparing import compare
    from nanogpt_lens.compare.heads import match_heads
    from nanogpt_lens.core.errors import AnalysisError, NanoGPTLensError
    from nanogpt_lens.directions.steer import steer, steering_effect
    from nanogpt_lens.heads.ablation import ablate_induction_heads
    from nanogpt_lens.heads.attention import attention_patterns, attention_statistics
    from nanogpt_lens.heads.composition import composition_scores
    from nanogpt_lens.heads.copying import copying_score
    from nanogpt_lens.heads.flow import attention_flow, attention_rollout
    from nanogpt_lens.heads.induction import induction_accuracy, prefix_matching, repeated_sequence_loss
    from nanogpt_lens.heads.induction_composition import induction_composition
    from nanogpt_lens.heads.induction_rule import find_induction_heads
    from nanogpt_lens.heads.on_tasks import task_accuracy, task_heads
    from nanogpt_lens.heads.taxonomy import head_taxonomy, score_heads
    from nanogpt_lens.interventions.applying import apply
    from nanogpt_lens.interventions.intervene import intervene
    from nanogpt_lens.interventions.intervention import Intervention
    from nanogpt_lens.lab.making import lab
    from nanogpt_lens.lens.attribution import direct_logit_attribution
    from nanogpt_lens.lens.convergence import measure_convergence
    from nanogpt_lens.lens.evaluation import evaluate_lens
    from nanogpt_lens.lens.logit import logit_lens
    from nanogpt_lens.lens.tuned import train_tuned_lens
    from nanogpt_lens.losses.on_text import in_context_learning_score, text_loss
    from nanogpt_lens.model.encoding import encode_text
    from nanogpt_lens.model.loading import check, load, read_checkpoint
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
    from nanogpt_lens.reporting.making import report
    from nanogpt_lens.results import load_result
    from nanogpt_lens.runs.change_points import find_change_point
    from nanogpt_lens.runs.stages import list_stages
    from nanogpt_lens.runs.trajectory import trajectory
    from nanogpt_lens.sae.evaluation import evaluate_sae
    from nanogpt_lens.text.datasets import read_data
    from nanogpt_lens.text.pairs import find_prompt_pair
    from nanogpt_lens.text.prompts import induction_pairs, repeated_tokens
    from nanogpt_lens.training.config import TrainConfig
    from nanogpt_lens.training.train import train
    from nanogpt_lens.viz.widget import setup_notebook

_NAMES: dict[str, tuple[str, ...]] = {
    "conversion.checkpoint": ("save_checkpoint",),
    "conversion.transformerlens_to_nanogpt": ("to_nanogpt",),
    "nanogpt_lens.circuits.discovery": ("find_circuit",),
    "nanogpt_lens.circuits.edges": ("edge_effects",),
    "nanogpt_lens.circuits.estimates": ("edge_attribution",),
    "nanogpt_lens.circuits.grading": ("grade_circuit_methods",),
    "nanogpt_lens.circuits.running": ("run_circuit",),
    "nanogpt_lens.circuits.scrubbing": ("scrub",),
    "nanogpt_lens.circuits.validation": ("validate_circuit",),
    "nanogpt_lens.compare.circuits": ("compare_circuits",),
    "nanogpt_lens.compare.comparing": ("compare",),
    "nanogpt_lens.compare.heads": ("match_heads",),
    "nanogpt_lens.core.errors": ("AnalysisError", "NanoGPTLensError"),
    "nanogpt_lens.directions.steer": ("steer", "steering_effect"),
    "nanogpt_lens.heads.ablation": ("ablate_induction_heads",),
    "nanogpt_lens.heads.attention": ("attention_patterns", "attention_statistics"),
    "nanogpt_lens.heads.composition": ("composition_scores",),
    "nanogpt_lens.heads.copying": ("copying_score",),
    "nanogpt_lens.heads.flow": ("attention_flow", "attention_rollout"),
    "nanogpt_lens.heads.induction": ("induction_accuracy", "prefix_matching", "repeated_sequence_loss"),
    "nanogpt_lens.heads.induction_composition": ("induction_composition",),
    "nanogpt_lens.heads.induction_rule": ("find_induction_heads",),
    "nanogpt_lens.heads.on_tasks": ("task_accuracy", "task_heads"),
    "nanogpt_lens.heads.taxonomy": ("head_taxonomy", "score_heads"),
    "nanogpt_lens.interventions.applying": ("apply",),
    "nanogpt_lens.interventions.intervene": ("intervene",),
    "nanogpt_lens.interventions.intervention": ("Intervention",),
    "nanogpt_lens.lab.making": ("lab",),
    "nanogpt_lens.lens.attribution": ("direct_logit_attribution",),
    "nanogpt_lens.lens.convergence": ("measure_convergence",),
    "nanogpt_lens.lens.evaluation": ("evaluate_lens",),
    "nanogpt_lens.lens.logit": ("logit_lens",),
    "nanogpt_lens.lens.tuned": ("train_tuned_lens",),
    "nanogpt_lens.losses.on_text": ("in_context_learning_score", "text_loss"),
    "nanogpt_lens.model.encoding": ("encode_text",),
    "nanogpt_lens.model.loading": ("check", "load", "read_checkpoint"),
    "nanogpt_lens.model.places": ("shipped_checkpoints",),
    "nanogpt_lens.model.sampling": ("generate",),
    "nanogpt_lens.neurons.ablation": ("ablate_neurons",),
    "nanogpt_lens.neurons.activations": ("get_neuron_activations",),
    "nanogpt_lens.neurons.find": ("find_neurons",),
    "nanogpt_lens.neurons.search": ("search_neurons",),
    "nanogpt_lens.neurons.statistics": ("neuron_statistics",),
    "nanogpt_lens.patching.attribution": ("attribution_patching",),
    "nanogpt_lens.patching.importance": ("head_importance",),
    "nanogpt_lens.patching.paths": ("path_patching",),
    "nanogpt_lens.patching.screening": ("screen_and_verify",),
    "nanogpt_lens.patching.sweeps": ("activation_patching",),
    "nanogpt_lens.reporting.making": ("report",),
    "nanogpt_lens.results": ("load_result",),
    "nanogpt_lens.runs.change_points": ("find_change_point",),
    "nanogpt_lens.runs.stages": ("list_stages",),
    "nanogpt_lens.runs.trajectory": ("trajectory",),
    "nanogpt_lens.sae.evaluation": ("evaluate_sae",),
    "nanogpt_lens.text.datasets": ("read_data",),
    "nanogpt_lens.text.pairs": ("find_prompt_pair",),
    "nanogpt_lens.text.prompts": ("induction_pairs", "repeated_tokens"),
    "nanogpt_lens.training.config": ("TrainConfig",),
    "nanogpt_lens.training.train": ("train",),
    "nanogpt_lens.viz.widget": ("setup_notebook",),
}
"""The public names, by the module that each is from: the one table."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = {
    "catalogue": "nanogpt_lens.catalogue",
    "errors": "nanogpt_lens.core.errors",
    "metrics": "nanogpt_lens.running.metrics",
    "scrubbing": "nanogpt_lens.circuits.scrubbing",
    "tasks": "nanogpt_lens.text.tasks",
    "widgets": "nanogpt_lens.reporting.widgets",
    **{folder: f"nanogpt_lens.{folder}" for folder in ("directions", "results", "sae", "viz")},
}

__all__ = [*sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]


class _Package(ModuleType):
    """The package: `ngl.lab` is the function, also after a file of the folder `lab` was imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("nanogpt-lens")
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
