"""Mean, variance and correlations of neurons over a corpus, and how much correlation chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Hooked, provenance
from nanogpt_lens.neurons.activations import chosen_units
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
        layers: None for all.
        neurons: which ones of every layer; None for all.
        activation: what is read, one of `nanogpt_lens.interventions.units.UNIT_HOOKS`.
        between: "neighbours" (each layer with the next one chosen), "all" pairs of layers, or "none".
        control: whether to measure the control.
        seq_len: tokens of a sequence; None for the model's context.
        batch_size: sequences of a batch; None for some 4,096 tokens.
        seed: of the control's distances.
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
    chosen = chosen_units(units, neurons)
    own, others = _pairs(len(units.names), between)
    _check_size(len(chosen), len(own) + len(others), between, control)
    sequences = open_corpus(model, corpus).sequences(seq_len=seq_len, batch_size=batch_size)
    named = None if neurons is None else chosen
    keeper = Comoments(pairs=[*own, *others], control=control, seed=seed, units=named)
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
    mean = torch.stack([keeper.mean(i) for i in range(len(own))])
    units.check_finite(mean)
    return NeuronStatistics(
        **_correlations(keeper, own, others, torch.float64 if model.cfg.dtype == torch.float64 else torch.float32),
        values=mean,
        variance=torch.stack([keeper.variance(i) for i in range(len(own))]),
        pairs=tuple((units.layers[a], units.layers[b]) for a, b in others),
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
    """Refuse what does not fit in memory.

    Raises:
        AnalysisError: more correlations than `LARGEST`.
    """
    wanted = n_units**2 * n_pairs * (2 if control else 1)
    if wanted > LARGEST:
        raise AnalysisError(
            f"{n_pairs} matrices of {n_units} x {n_units} correlations{', twice for the control,' if control else ''} "
            f"are {wanted:.1e} numbers; expected at most {LARGEST:.1e}: choose fewer layers= or neurons=, or give "
            + ("control=False" if between == "none" else "between='none' or control=False")
        )


def _correlations(
    keeper: Comoments, own: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]], dtype: torch.dtype
) -> dict[str, Any]:
    def stacked(pairs: Sequence[tuple[int, int]]) -> Tensor:
        return torch.stack([keeper.correlation(pair).to(dtype) for pair in pairs])

    def largest(pairs: Sequence[tuple[int, int]]) -> Tensor | None:
        if not keeper.control or not pairs:
            return None
        return torch.stack([_largest(keeper.correlation(pair, control=True), pair) for pair in pairs])

    return {
        "within": stacked(own),
        "across": stacked(others) if others else None,
        "chance_within": largest(own),
        "chance_across": largest(others),
    }


def _largest(correlation: Tensor, pair: tuple[int, int]) -> Tensor:
    """The largest magnitude; within a layer, of different units."""
    if pair[0] == pair[1]:
        correlation = correlation.clone().fill_diagonal_(0)
    return correlation.abs().nan_to_num(0).max()
