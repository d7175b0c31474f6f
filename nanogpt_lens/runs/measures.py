"""What can be followed over training by name; anything else is a function of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.composition import composition_scores
from nanogpt_lens.heads.induction import induction_accuracy, prefix_matching, repeated_sequence_loss
from nanogpt_lens.heads.on_tasks import task_accuracy, task_heads
from nanogpt_lens.heads.taxonomy import score_heads
from nanogpt_lens.lens.convergence import measure_convergence
from nanogpt_lens.losses.on_text import in_context_learning_score, text_loss
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.patching.importance import head_importance
from nanogpt_lens.patching.sweeps import activation_patching
from nanogpt_lens.results import Scores
from nanogpt_lens.running.metrics import logit_diff
from nanogpt_lens.text.prompts import induction_pairs

Subject = Literal["random", "corpus", "task", "weights"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of a model.

    Attributes:
        function: called with the model; with a corpus or a task as the second argument, where it has one.
        on: what it looks at.
        about: what it says.
    """

    function: Callable[..., Any]
    on: Subject
    about: str

    def options(self) -> list[str]:
        """The options that it takes."""
        return [name for name, p in inspect.signature(self.function).parameters.items() if p.kind is p.KEYWORD_ONLY]


def patched_heads(model: Hooked, *, seq_len: int | None = None, n: int = 32, seed: int = 0) -> Scores:
    """What each head's output z of `[A][B]...[A]` prompts does in prompts without the first [A], exactly.

    Args:
        model: the model.
        seq_len, n, seed: of `prompts.induction_pairs`.

    Returns:
        the rise of logit([B]) - logit(another token of the prompt) at the last position, [layer, head], when
        the head is patched at all positions (denoising), with intervals over the prompts.

    Raises:
        AnalysisError: see `prompts.induction_pairs`.
    """
    pair = induction_pairs(model, seq_len=seq_len, n=n, seed=seed)
    found = activation_patching(
        model,
        pair.clean,
        pair.corrupted,
        logit_diff(pair.answer, pair.wrong),
        activation="z",
        axes=("layer", "head"),
        seed=seed,
        progress=False,
    )
    return Scores(
        values=found.effect,
        axes=found.axes,
        quantity="effect on the logit difference of [B] and another token",
        definition=f"z of {n} [A][B]...[A] prompts patched into the same without the first [A], head by head, at all "
        "positions",
        low=found.effect_low,
        high=found.effect_high,
        provenance=found.provenance,
    )


MEASURES: dict[str, Measure] = {
    "heads": Measure(function=score_heads, on="corpus", about="the eight scores of every head"),
    "prefix_matching": Measure(
        function=prefix_matching, on="random", about="induction score on random repeated tokens"
    ),
    "loss": Measure(function=text_loss, on="corpus", about="loss on text"),
    "in_context": Measure(
        function=in_context_learning_score, on="corpus", about="loss late in the context minus loss early in it"
    ),
    "repeated_loss": Measure(
        function=repeated_sequence_loss, on="random", about="loss by position on repeated random tokens"
    ),
    "accuracy": Measure(function=induction_accuracy, on="random", about="accuracy on [A][B]...[A] prompts"),
    "lens": Measure(function=measure_convergence, on="corpus", about="the logit lens by depth: KL, entropy, loss"),
    "ablation": Measure(function=head_importance, on="corpus", about="rise of the loss without each head"),
    "patching": Measure(function=patched_heads, on="random", about="each head patched on [A][B]...[A] prompts"),
    "composition": Measure(function=composition_scores, on="weights", about="K-, Q- or V-composition of heads"),
    "task_accuracy": Measure(function=task_accuracy, on="task", about="accuracy where the run's task needs induction"),
    "task_heads": Measure(function=task_heads, on="task", about="attention of heads on the run's task"),
}
"""By name."""


def find_measure(name: str, options: dict[str, Any]) -> Measure:
    """A measure by name, its options checked.

    Raises:
        AnalysisError: no such measure, or an option that it does not have.
    """
    if name not in MEASURES:
        raise AnalysisError(
            f"there is no measure {name!r}; expected one of {', '.join(MEASURES)}, or a function of the model"
        )
    measure = MEASURES[name]
    known = [option for option in measure.options() if option != "progress"]
    if unknown := sorted(set(options) - set(known)):
        raise AnalysisError(
            f"the measure {name!r} has no option {', '.join(unknown)}; expected {', '.join(known) or 'none'}"
        )
    return measure
