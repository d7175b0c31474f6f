"""Words that an option can take, the same in Python and on the command line; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, get_args

from nanogpt_lens.core.errors import AnalysisError

Activation: TypeAlias = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "mlp_post", "mlp_pre"
]
"""An activation that can be patched, by TransformerLens' name without `hook_`."""

Intervened: TypeAlias = Literal[Activation, "edge"]
"""What an intervention changes: an activation, or an edge, what one node reads of what another wrote."""

Direction: TypeAlias = Literal["denoise", "noise"]
"""Which run is patched: the corrupted one with clean activations, or the clean one with corrupted activations."""

Ablation: TypeAlias = Literal["zero", "mean", "resample"]
"""What takes an activation's place if there is no other run: nothing, its mean, or that of another example."""

NeuronSource: TypeAlias = Literal["zero", "mean"]
"""What takes a neuron's activation's place: nothing, or its mean."""

Source: TypeAlias = Literal["other", "zero", "mean", "resample"]
"""What takes an activation's place: the other run's, nothing, its mean, or that of another example."""

On: TypeAlias = Literal["token", "next"]
"""Which token a class is about: the one that is read, or the one that comes next."""

ExportFormat: TypeAlias = Literal["hooked", "bridge", "hf", "nanogpt"]
"""What a checkpoint can be exported to."""

TrainOn: TypeAlias = Literal["text", "trigger_bigrams", "repeated_random", "backdoor"]
"""What a model can be trained on: a text itself, a task made from its characters, or a text with a backdoor."""

Inserted: TypeAlias = Literal["trigger", "control", "nothing"]
"""What the chosen lines of a backdoor's text get: trigger and payload, the control instead, or nothing new."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence: what was probably meant by a word that is not known; nothing where none is near."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
    return f": did you mean {by_lower[near[0]]!r}?" if near else ""


def check_choice(choices: Any, **options: object) -> None:
    """Raise AnalysisError unless every option is one of the words of a Literal; the message names the option."""
    for name, value in options.items():
        if value not in get_args(choices):
            known = [str(choice) for choice in get_args(choices)]
            raise AnalysisError(
                f"{name} is {value!r}; expected one of {', '.join(known)}{did_you_mean(str(value), known)}"
            )
