"""Mean, variance and correlations of neurons over a corpus, and how much correlation chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Hooked, provenance
from nanogpt_lens.neurons.activations import unit_indices
from nanogpt_lens.neurons.comoments import Comoments
from nanogpt_lens.results.effects import NeuronStatistics
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.reading import Engine
from nanogpt_lens.running.streaming import stream
from nanogpt_lens.text.corpus import Corpus, open_corpus

Between: TypeAlias = Literal["neighbours", "all", "none"]
"""Which pairs of different layers are correlated; neighbours are next to each other among the layers chosen."""

LARGEST = 2**27
"""Correlations held at most: 1 GiB in float64."""


def neuron_statistics(
    model: Hooked,
    corpus: Corpus,
    *,
    layers: Sequence[int] | None = None,
    neurons: Sequence[int] | None = None,
    activation: str = "mlp_post",
    between: Between = "neighbours",
    control: bool = True,
    seq_len: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    sae: Any = None,
    engine: Engine = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> NeuronStatistics:
    """Mean and variance of every neuron, and Pearson correlations within and between layers, over all tokens.

    The control correlates each neuron with the other one's activation on another token of the same batch, a random
    distance away (at least one sequence, where a batch has two): the largest magnitude among all pairs says
    what is to be expected of so many pairs on so much text if they had nothing to do with each other. Its cost
    is that of the correlations themselves.

    Under `torchrun` or `accelerate launch` every process reads its share, and all get the whole result.

    Args:
        model: the model.
        corpus: see `nanogpt_lens.search_neurons`.
        layers: the layers; None for all.
        neurons: their indices, the same in every layer; None for all.
        activation: what is read, one of `nanogpt_lens.interventions.units.UNIT_HOOKS`.
        between: "neighbours" (each layer with the next one chosen), "all" pairs of layers, or "none".
        control: measure the control, too.
        seq_len: the tokens of a sequence; None for the model's context.
        batch_size: the sequences of a batch; None for some 4,096 tokens.
        seed: the seed of the control's distances.
        sae: a SAELens autoencoder, whose features take the place of neurons.
        engine: how activations are computed, see `nanogpt_lens.running.reading`.
        resume: a folder where the state of an unfinished run is kept, so that it can be continued.
        progress: show a bar.

    Returns:
        values [layer, neuron]: the mean; variance, `within` [layer, neuron, neuron] and `across` [pair, neuron,
        neuron], see `NeuronStatistics`. Variances are divided by n. A neuron that never changes has a variance of
        exactly 0 and nan for its correlations. `top()` lists the most correlated pairs.

    Raises:
        AnalysisError: no such layer, neuron or activation, too many correlations to hold, an empty corpus, activations
            that are not finite.
    """
    check_choice(Between, between=between)
    check_whole(seed=seed)
    units = Units(model, activation=activation, layers=layers, sae=sae)
    chosen = unit_indices(units, neurons)
    same, different = _pairs(len(units.names), between)
    _check_size(len(chosen), len(same) + len(different), between, control)
    sequences = open_corpus(model, corpus).sequences(seq_len=seq_len, batch_size=batch_size)
    named = None if neurons is None else chosen
    keeper = Comoments(pairs=[*same, *different], control=control, seed=seed, units=named)
    options = {"neurons": named, "between": between, "control": control, "seed": seed, "sae": units.autoencoder}
    used = stream(
        model,
        sequences,
        units.names,
        [keeper],
        values=units.values,
        engine=engine,
        resume=resume,
        describes=options,
        progress=progress,
        label="correlations",
    )
    mean = torch.stack([keeper.mean(i) for i in range(len(same))])
    units.check_finite(mean)
    return NeuronStatistics(
        **_correlations(keeper, same, different, torch.float64 if model.cfg.dtype == torch.float64 else torch.float32),
        values=mean,
        variance=torch.stack([keeper.variance(i) for i in range(len(same))]),
        pairs=tuple((units.layers[a], units.layers[b]) for a, b in different),
        axes=("layer", "neuron"),
        labels={"layer": tuple(map(str, units.layers)), "neuron": tuple(map(str, chosen))},
        quantity=f"mean activation at {units.activation}",
        definition=f"all {keeper.n} tokens of {sequences.name}, read in sequences of {sequences.seq_len}; Pearson "
        "correlations; control: the other unit's activation on another token of the batch, a random distance away",
        n_tokens=keeper.n,
        sample=Sample(corpus=sequences.name, n_tokens=keeper.n, seed=seed),
        provenance=provenance(
            model,
            corpus=sequences.name,
            activation=units.activation,
            layers=units.layers,
            seq_len=sequences.seq_len,
            batch_size=sequences.batch_size,
            engine=used,
            **options,
        ),
    )


def _pairs(n: int, between: Between) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Each hook point with itself, and the pairs of different ones."""
    different = [(a, b) for b in range(n) for a in range(b) if between == "all" or b == a + 1]
    return [(i, i) for i in range(n)], [] if between == "none" else different


def _check_size(n_units: int, n_pairs: int, between: Between, control: bool) -> None:
    """Raise AnalysisError where there would be more correlations than `LARGEST`."""
    n_numbers = n_units**2 * n_pairs * (2 if control else 1)
    if n_numbers > LARGEST:
        raise AnalysisError(
            f"{n_pairs} matrices of {n_units} x {n_units} correlations{', twice for the control,' if control else ''} "
            f"are {n_numbers:.1e} numbers; expected at most {LARGEST:.1e}: choose fewer layers= or neurons=, or give "
            + ("control=False" if between == "none" else "between='none' or control=False")
        )


def _correlations(
    keeper: Comoments, same: Sequence[tuple[int, int]], different: Sequence[tuple[int, int]], dtype: torch.dtype
) -> dict[str, Any]:
    """The result's fields of correlations and of the control."""

    def matrices(pairs: Sequence[tuple[int, int]]) -> Float[Tensor, "pair neuron other_neuron"]:
        return torch.stack([keeper.correlation(pair).to(dtype) for pair in pairs])

    def chance(pairs: Sequence[tuple[int, int]]) -> Float[Tensor, " pair"] | None:
        if not keeper.control or not pairs:
            return None
        return torch.stack([_largest_magnitude(keeper.correlation(pair, control=True), pair) for pair in pairs])

    return {
        "within": matrices(same),
        "across": matrices(different) if different else None,
        "chance_within": chance(same),
        "chance_across": chance(different),
    }


def _largest_magnitude(correlation: Float[Tensor, "neuron other_neuron"], pair: tuple[int, int]) -> Float[Tensor, ""]:
    """The largest magnitude of a correlation; within a layer, of different units."""
    if pair[0] == pair[1]:
        correlation = correlation.clone().fill_diagonal_(0)
    return correlation.abs().nan_to_num(0).max()
