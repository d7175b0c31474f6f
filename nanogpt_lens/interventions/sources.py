"""What takes an activation's place: zeros, a mean, another example's, or another run's; one implementation for all.

Means are sums in float64. What is drawn is drawn once for each example, the same in all layers, and never the
example itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import Kind
from nanogpt_lens.model.access import Edit, Hooked, record, run
from nanogpt_lens.running.batches import batches

SOURCES: dict[str, str] = {
    "other": "the other run's activation",
    "zero": "zero",
    "mean": "the mean activation over the reference examples and positions",
    "resample": "the activation of another reference example at the same position",
}


class RunningMean:
    """The mean of activations that come batch by batch.

    Args:
        dims: the dimensions that it is taken over.
    """

    def __init__(self, dims: tuple[int, ...] = (0, 1)) -> None:
        self.dims = dims
        self._total: Float[Tensor, " ..."] | None = None
        self._count = 0

    def add(self, activation: Float[Tensor, " ..."]) -> None:
        """Take in one batch."""
        total = activation.double().sum(self.dims)
        self._total = total if self._total is None else self._total + total
        self._count += math.prod(activation.shape[dim] for dim in self.dims)

    @property
    def mean(self) -> Float[Tensor, " ..."]:
        """The mean so far, in float64, without the dimensions that it is taken over."""
        assert self._total is not None, "nothing was added"
        return self._total / self._count


def mean_of(kind: Kind, activation: Float[Tensor, "example ..."]) -> Float[Tensor, " ..."]:
    """The mean of one batch of activations in float64, without the dimensions that it is taken over."""
    mean = RunningMean(kind.mean_dims)
    mean.add(activation)
    return mean.mean


def mean_activations(
    model: Hooked, sequences: Iterable[Int[Tensor, "_ _"]], names: Mapping[str, Kind]
) -> dict[str, Float[Tensor, " ..."]]:
    """By hook point the mean activation over all of `sequences`, in the model as it is."""
    means = {name: RunningMean(kind.mean_dims) for name, kind in names.items()}
    for tokens in sequences:
        for rows in batches(model, tokens):
            run(model, tokens[rows], {name: _adding_to(mean) for name, mean in means.items()})
    return {name: mean.mean for name, mean in means.items()}


def _adding_to(mean: RunningMean) -> Edit:
    return lambda activation: mean.add(activation.detach())


def replacing_examples(n_examples: int, n_reference: int, *, same_run: bool, seed: int) -> Int[Tensor, " example"]:
    """For each example the number of the reference example that takes its place.

    Args:
        n_examples: the number of examples whose place is taken.
        n_reference: the number of examples to draw from.
        same_run: whether these are the examples themselves; then none is drawn for itself.
        seed: the seed of the draw.

    Raises:
        AnalysisError: there is no other example.
    """
    if same_run and n_reference < 2:
        raise AnalysisError("resampling needs another example; give several examples, or reference=")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_reference - same_run, (n_examples,), generator=generator)
    if same_run:
        drawn += drawn >= torch.arange(n_examples)
    return drawn


def check_mean(kind: Kind, n_examples: int, *, same_run: bool) -> None:
    """Raise AnalysisError where a mean over the examples of the same run would be the run itself."""
    if same_run and kind.name == "pattern" and n_examples < 2:
        raise AnalysisError("the mean pattern of one example is that example; give several, or reference=")


def source_activations(
    model: Hooked,
    kind: Kind,
    source: str,
    base: Mapping[int, Float[Tensor, "example ..."]],
    *,
    other: Mapping[int, Float[Tensor, "example ..."]] | None,
    reference: Int[Tensor, "reference pos"] | None,
    seed: int,
) -> dict[int, Float[Tensor, "example ..."]]:
    """What takes the place of the base run's activation, by layer, in its shape.

    Args:
        model: the model.
        kind: the activation.
        source: one of `SOURCES`. The mean of a pattern is over examples alone, its rows still sum to one.
        base: the base run's activation, by layer.
        other: the other run's activation, if there is another run.
        reference: the tokens whose activations are averaged or drawn from; None for those of the base run.
        seed: the seed of the draw; examples of the base run are never replaced by themselves.

    Raises:
        AnalysisError: there is no such source, or nothing to take it from.
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
    same_run = reference is None
    values = base if reference is None else _activations(model, kind, reference)
    if source == "mean":
        check_mean(kind, len(values[0]), same_run=same_run)
        return {layer: mean_of(kind, value).to(value.dtype).expand_as(base[layer]) for layer, value in values.items()}
    examples = replacing_examples(len(base[0]), len(values[0]), same_run=same_run, seed=seed)
    return {layer: value[examples] for layer, value in values.items()}


def _activations(
    model: Hooked, kind: Kind, tokens: Int[Tensor, "example pos"]
) -> dict[int, Float[Tensor, "example ..."]]:
    """An activation of a plain run, by layer."""
    names = [kind.hook_name(layer) for layer in range(model.cfg.n_layers)]
    kept = record(model, tokens, names)
    return {layer: kept[name] for layer, name in enumerate(names)}
