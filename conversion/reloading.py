"""New weights for a model that exists already, so that one model can go through a training run's checkpoints.

Building a model costs more than its weights do, and a new one loses hooks, references and
whatever else was attached to the old one. Here every parameter stays the same object in the
same memory, and gets new values.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from conversion.errors import CheckpointError
from conversion.layout import HookedState, to_bridge_layout
from conversion.nanogpt_to_hooked import converted_state, is_processed
from conversion.vocabulary import CharVocabulary, TokenizerVocabulary, Vocabulary


def reload_weights(model: Any, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model made of another checkpoint of the same run.

    The model then computes, bit by bit, what a new conversion of `checkpoint` computes in the
    model's precision. Its weights are processed if they were before. Edits of the old weights are
    lost; hooks, references to parameters and the gradients in `.grad` stay.

    Args:
        model: a model that `to_hooked_transformer` or `to_bridge` returned; it is changed in place, or not at all.
        checkpoint: a checkpoint of the same architecture with the same vocabulary, which does not change.

    Raises:
        CheckpointError: the model does not know its checkpoint, the checkpoint has no weights, its
            config differs in anything but dropout, its vocabulary differs, or the model's
            parameters are not those that the conversion gave it.
    """
    origin: Checkpoint | None = getattr(model, "nanogpt_origin", None)
    if origin is None:
        raise CheckpointError(
            f"this {type(model).__name__} was not made from a nanoGPT checkpoint (it has no nanogpt_origin), so no "
            "weights can be put into it; make it with conversion.to_hooked_transformer or conversion.to_bridge"
        )
    _check_fits(origin, checkpoint)
    old = next(model.parameters())
    state = converted_state(checkpoint, process_weights=is_processed(model), device=old.device, dtype=old.dtype)
    named = dict(model.named_parameters())
    if hasattr(model, "original_model"):  # whose b_U is no parameter, and whose parameters have other names
        state, named = dict(to_bridge_layout(state, model.cfg)), named | model.state_dict(keep_vars=True)
    targets = dict({id(tensor): (name, tensor) for name, tensor in named.items()}.values())  # each tensor once
    _check_parameters(targets, state)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state.pop(name))
    model.nanogpt_origin = checkpoint.without_weights()


def _check_fits(origin: Checkpoint, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the model of `origin` could have been made from `checkpoint` too."""
    same_run = f"the weights of {checkpoint.name} cannot go into the model made from {origin.name}"
    old, new = (replace(config, dropout=0.0) for config in (origin.config, checkpoint.config))
    differing = [
        f"{f.name} is {getattr(new, f.name)!r}, expected {getattr(old, f.name)!r}"
        for f in fields(NanoGPTConfig)
        if getattr(new, f.name) != getattr(old, f.name)
    ]
    if differing:
        raise CheckpointError(f"{same_run}: {', '.join(differing)}; convert it into a model of its own")
    if _content(origin.vocabulary) != _content(checkpoint.vocabulary):
        raise CheckpointError(
            f"{same_run}: its vocabulary is {_described(checkpoint.vocabulary)}, expected "
            f"{_described(origin.vocabulary)}; read it with meta= the same vocabulary, or convert it into a model "
            "of its own"
        )
    if set(checkpoint.state_dict) != set(checkpoint.config.shapes()):
        raise CheckpointError(
            f"{checkpoint.name} has {len(checkpoint.state_dict)} of its {len(checkpoint.config.shapes())} tensors, "
            "because a conversion has consumed them or `without_weights` left them out; read it again"
        )


def _content(vocabulary: Vocabulary | None) -> tuple[str, ...] | str | None:
    """The content of a vocabulary, whatever file it came from."""
    if isinstance(vocabulary, TokenizerVocabulary):
        return vocabulary.serialized
    return vocabulary and (vocabulary.chars if isinstance(vocabulary, CharVocabulary) else vocabulary.strings)


def _described(vocabulary: Vocabulary | None) -> str:
    """A vocabulary in words, for messages."""
    if vocabulary is None:
        return "none"
    return f"{vocabulary.size} tokens ({vocabulary.kind}) of {vocabulary.source or 'no file'}"


def _check_parameters(targets: dict[str, Shaped[Tensor, " ..."]], state: HookedState) -> None:
    """Raise CheckpointError unless a model's parameters are exactly the converted ones, in names and shapes."""
    problems = [f"it has {name}, which a checkpoint does not fill" for name in targets if name not in state]
    problems += [f"it has no {name} of its own" for name in state if name not in targets]
    problems += [
        f"its {name} is {list(targets[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in state.items()
        if name in targets and targets[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(
            f"the model was changed since it was converted: {'; '.join(problems[:4])}"
            f"{'; ...' if len(problems) > 4 else ''}; take off what was added (SAEs, adapters), or convert anew"
        )
