"""What is patched in: the other run's activations, zeros, a mean, or another example's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import Kind
from nanogpt_lens.model.access import Hooked, record

SOURCES: dict[str, str] = {
    "other": "the other run's activation",
    "zero": "zero",
    "mean": "the mean activation over the reference examples and positions",
    "resample": "the activation of another reference example at the same position",
}


def source_activations(
    model: Hooked,
    kind: Kind,
    source: str,
    base: Mapping[int, Tensor],
    *,
    other: Mapping[int, Tensor] | None,
    reference: Tensor | None,
    seed: int,
) -> dict[int, Tensor]:
    """What takes the place of the base run's activation, by layer, in its shape [example, ...].

    Args:
        model: the model.
        kind: which activation.
        source: one of `SOURCES`. The mean of a pattern is over examples alone, its rows still sum to one.
        base: the base run's activations.
        other: the other run's activations, where there is one.
        reference: the tokens whose activations are averaged or drawn from; None for the base run's own.
        seed: of the draw; examples of the base run are never replaced by themselves.

    Raises:
        AnalysisError: no such source, or nothing to take it from.
    """
    if source not in SOURCES:
        raise AnalysisError(f"source is {source!r}; expected one of {', '.join(SOURCES)}")
    if source == "zero":
        return {layer: torch.zeros_like(value) for layer, value in base.items()}
    if source == "other":
        if other is None:
            raise AnalysisError(
                "there is no corrupted run to patch with; give one, or source='zero', 'mean', 'resample'"
            )
        return dict(other)
    own = reference is None
    found = base if reference is None else _activations(model, kind, reference)
    n_examples, n_found = len(base[0]), len(found[0])
    if source == "mean":
        if kind.name == "pattern" and own and n_found < 2:
            raise AnalysisError("the mean pattern of one example is that example; give several, or reference=")
        dims = (0,) if kind.name == "pattern" else (0, 1)
        return {layer: value.mean(dims, keepdim=True).expand_as(base[layer]) for layer, value in found.items()}
    if own and n_found < 2:
        raise AnalysisError("resampling needs another example; give several examples, or reference=")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_found - own, (n_examples,), generator=generator)
    if own:  # any example but itself
        drawn += drawn >= torch.arange(n_examples)
    return {layer: value[drawn] for layer, value in found.items()}


def _activations(model: Hooked, kind: Kind, tokens: Tensor) -> dict[int, Tensor]:
    names = [kind.hook_name(layer) for layer in range(model.cfg.n_layers)]
    kept = record(model, tokens, names)
    return {layer: kept[name] for layer, name in enumerate(names)}
