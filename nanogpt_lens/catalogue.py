"""Every analysis by name: its function, what it looks at, its options, and what it returns.

The name of an analysis is the name of its function. `trajectory`, the report and the command line ask this table,
so that an analysis registered here appears in all of them:

    ngl.catalogue.register(my_scores, looks_at="corpus", about="my scores of every head", in_report=True)

Nothing is imported before an analysis is used, so that `--help` needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, Literal, TypeAlias, get_args

from nanogpt_lens.core.choices import check_choice, did_you_mean
from nanogpt_lens.core.errors import AnalysisError

LooksAt: TypeAlias = Literal["weights", "random tokens", "corpus", "text", "prompts", "task", "direction", "hypothesis"]
"""What an analysis needs beside the model: nothing (it looks at the weights, or draws tokens), a corpus to measure on,
one text, clean and corrupted prompts with a metric, a run's task, a direction of the residual stream, or a hypothesis
and prompts."""

Source: TypeAlias = Literal["corpus", "task"]
"""What an analysis that is followed over training or made from the command line takes behind the model."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """An analysis of a model.

    Attributes:
        name: of its function.
        module: that holds the function, below `nanogpt_lens`.
        looks_at: what it needs beside the model.
        about: what it says, in a few words.
        command: a command that prints it alone, "" for `nanogpt-lens measure`.
        in_report: whether the report shows it in its section of further analyses; most have a section already.
        custom: the function itself, where it is not in this package.
    """

    name: str
    looks_at: LooksAt
    about: str
    module: str = ""
    command: str = ""
    in_report: bool = False
    custom: Callable[..., Any] | None = None

    @property
    def function(self) -> Callable[..., Any]:
        """The function: called with the model, and what it looks at."""
        return self.custom or getattr(import_module(f"nanogpt_lens.{self.module}"), self.name)

    @property
    def result(self) -> str:
        """The name of the class that it returns."""
        stated = signature(self.function).return_annotation
        return stated if isinstance(stated, str) else getattr(stated, "__name__", str(stated))

    def options(self) -> dict[str, Any]:
        """The options by name, with their defaults."""
        parameters = signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is Parameter.KEYWORD_ONLY}

    def needs(self) -> tuple[str, ...]:
        """The names of the arguments behind the model that have no default."""
        _, *rest = signature(self.function).parameters.values()
        return tuple(p.name for p in rest if p.default is Parameter.empty and p.kind not in _VARIADIC)

    def takes(self, source: str) -> bool:
        """Whether the first argument behind the model is a corpus, or a task."""
        names = [p.name for p in signature(self.function).parameters.values() if p.kind is not Parameter.KEYWORD_ONLY]
        return names[1:2] == [source]

    @property
    def alone(self) -> bool:
        """Whether the model and at most a corpus or a task are enough, so that it can be followed over training."""
        return set(self.needs()) <= set(get_args(Source))

    def call(self, model: Any, *sources: Any, **options: Any) -> Any:
        """The result of the analysis; `progress` is passed on only where the function has such an option.

        Raises:
            AnalysisError: an option that it does not have.
        """
        self.check(options)
        if "progress" not in self.options():
            options.pop("progress", None)
        return self.function(model, *sources, **options)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise AnalysisError unless all options are options of this analysis."""
        known = [name for name in self.options() if name != "progress"]
        if unknown := sorted(set(options) - {*known, "progress"}):
            raise AnalysisError(
                f"{self.name} has no option {', '.join(unknown)}; expected {', '.join(known) or 'none'}"
                + did_you_mean(unknown[0], known)
            )

    def command_words(self) -> tuple[list[str], list[str]]:
        """The words of the command that prints it: those before the checkpoint, and those behind it."""
        return (self.command.split(), []) if self.command else (["measure"], [self.name])


_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

ANALYSES: dict[str, Analysis] = {}
"""All analyses by name."""


def find(name: str) -> Analysis:
    """The analysis of that name.

    Raises:
        AnalysisError: there is none.
    """
    if name not in ANALYSES:
        near = did_you_mean(name, ANALYSES) or f"; expected one of {', '.join(ANALYSES)}"
        raise AnalysisError(f"there is no analysis {name!r}{near}")
    return ANALYSES[name]


def register(
    function: Callable[..., Any], *, looks_at: LooksAt, about: str, name: str | None = None, in_report: bool = False
) -> Callable[..., Any]:
    """Add an analysis to the catalogue, which trajectories, the command line and the report then know.

    Args:
        function: takes a model, then at most a corpus or a task, then keyword-only options; returns a result.
        looks_at: what it needs beside the model.
        about: what it says, in a few words.
        name: None for the name of the function.
        in_report: also show it in the report.

    Returns:
        the function.

    Raises:
        AnalysisError: the name is taken, or it is no function of a model.
    """
    called = name or getattr(function, "__name__", "")
    check_choice(LooksAt, looks_at=looks_at)
    if not called.isidentifier() or not callable(function) or not signature(function).parameters:
        raise AnalysisError(f"{function!r} cannot be registered as {called!r}; expected a named function of a model")
    if called in ANALYSES:
        raise AnalysisError(f"there is an analysis {called!r} already; give another name=")
    ANALYSES[called] = Analysis(name=called, looks_at=looks_at, about=about, in_report=in_report, custom=function)
    return function


def options_from_words(words: list[str]) -> dict[str, Any]:
    """Options as they are written on the command line, such as `n=16`, `source=mean` or `layers=[0,1]`.

    Raises:
        AnalysisError: one without a name or a value.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise AnalysisError(f"the option {word!r} has no name or no value; expected name=value, such as n=16")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _row(name: str, module: str, looks_at: LooksAt, about: str, command: str = "") -> None:
    ANALYSES[name] = Analysis(name=name, module=module, looks_at=looks_at, about=about, command=command)


_row("score_heads", "heads.taxonomy", "corpus", "the eight scores of every head")
_row("head_taxonomy", "heads.taxonomy", "corpus", "the names that heads earn by their scores", "heads")
_row("prefix_matching", "heads.induction", "random tokens", "induction score on repeated random tokens", "induction")
_row("find_induction_heads", "heads.induction_rule", "random tokens", "which heads are induction heads, by one rule")
_row("induction_accuracy", "heads.induction", "random tokens", "accuracy on [A][B]...[A] prompts", "induction")
_row("repeated_sequence_loss", "heads.induction", "random tokens", "loss by position on repeated tokens", "induction")
_row("induction_composition", "heads.induction_composition", "random tokens", "K-composition of the induction circuit")
_row("ablate_induction_heads", "heads.ablation", "random tokens", "induction without its heads, and controls")
_row("composition_scores", "heads.composition", "weights", "K-, Q- or V-composition of heads")
_row("copying_score", "heads.copying", "weights", "how much each head copies")
_row("attention_statistics", "heads.attention", "corpus", "entropy, distance, sinks, ... of every head")
_row("syntax_attention", "heads.syntax", "corpus", "attention to starts of words and lines, names, brackets")
_row("attention_patterns", "heads.attention", "text", "who attends to whom")
_row("attention_rollout", "heads.flow", "text", "attention of all layers, multiplied up")
_row("attention_flow", "heads.flow", "text", "the largest flow of attention through all layers")
_row("task_accuracy", "heads.on_tasks", "task", "accuracy where the run's task needs induction")
_row("task_heads", "heads.on_tasks", "task", "attention of heads on the run's task")
_row("text_loss", "losses.on_text", "corpus", "loss on text")
_row("in_context_learning_score", "losses.on_text", "corpus", "loss late in the context minus loss early in it")
_row("text_quality", "losses.words", "corpus", "how varied its text is, and how many words exist")
_row("head_importance", "patching.importance", "corpus", "rise of the loss without each head", "heads")
_row("patched_heads", "patching.heads", "random tokens", "each head patched on [A][B]...[A] prompts")
_row("activation_patching", "patching.sweeps", "prompts", "what each activation carries, exactly", "patch")
_row("path_patching", "patching.paths", "prompts", "what goes along each direct path")
_row("attribution_patching", "patching.attribution", "prompts", "a gradient's estimate of patching")
_row("screen_and_verify", "patching.screening", "prompts", "the largest effects: ranked by gradient, then exact")
_row("edge_effects", "circuits.edges", "prompts", "what every edge of the graph does on its own, exactly")
_row("edge_attribution", "circuits.estimates", "prompts", "a gradient's estimate of every edge")
_row("run_circuit", "circuits.running", "prompts", "the model with some of its edges alone")
_row("find_circuit", "circuits.discovery", "prompts", "few edges that do what all do, and whether any can go")
_row("grade_circuit_methods", "circuits.grading", "prompts", "methods that find circuits, against the truth")
_row("validate_circuit", "circuits.validation", "prompts", "whether a circuit holds what it claims")
_row("scrub", "circuits.scrubbing", "hypothesis", "what is left where only a hypothesis is true")
_row("logit_lens", "lens.logit", "text", "what each layer would predict", "lens")
_row("measure_convergence", "lens.convergence", "corpus", "the logit lens by depth: KL, entropy, loss", "lens")
_row("direct_logit_attribution", "lens.attribution", "text", "what each component adds to a logit", "lens")
_row("train_tuned_lens", "lens.tuned", "corpus", "a lens with a trained map for each point", "tune-lens")
_row("evaluate_lens", "lens.evaluation", "corpus", "how good a tuned lens is")
_row("search_neurons", "neurons.search", "corpus", "the excerpts on which each neuron is highest", "neurons search")
_row("find_neurons", "neurons.find", "corpus", "the neurons that separate a class of tokens", "neurons find")
_row("ablate_neurons", "neurons.ablation", "corpus", "the loss without some neurons", "neurons ablate")
_row("neuron_statistics", "neurons.statistics", "corpus", "mean, variance and correlations of neurons")
_row("get_neuron_activations", "neurons.activations", "text", "what neurons do, token by token")
_row("evaluate_sae", "sae.evaluation", "corpus", "how sparse and how faithful an autoencoder is")
_row("principal_components", "directions.find", "corpus", "the directions in which an activation varies most")
_row("project_direction", "directions.find", "direction", "what a direction adds to every logit")
_row("direction_similarity", "directions.find", "direction", "neurons and tokens that resemble a direction")
_row("intervene", "interventions.intervene", "text", "what interventions change in one run")
_row("steering_effect", "directions.steer", "corpus", "what adding a direction changes")
