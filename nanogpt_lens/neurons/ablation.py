"""What happens without some neurons: how much the loss rises, on which tokens, and is that more than by chance?

The control takes out as many random other neurons of the same layers. With a class of tokens, the rise
at positions of the class is compared with the rise elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import NeuronSource, On, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields, ratio_per_example
from nanogpt_lens.interventions.controls import control_sets
from nanogpt_lens.interventions.grammar import layer_and_index
from nanogpt_lens.interventions.sources import RunningMean
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Edit, Hooked, device_of, evaluating, loss_per_token, provenance, run, token_labels
from nanogpt_lens.results.effects import NeuronAblation, SeparatingNeurons
from nanogpt_lens.results.neurons import NeuronSearch
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.predicates import Predicate, labels_of, token_class
from nanogpt_lens.text.sequences import Sequences

Neuron: TypeAlias = tuple[int, int]
"""(layer, neuron)."""

_POSITIONS: tuple[On, ...] = ("token", "next")


def ablate_neurons(
    model: Hooked,
    corpus: Corpus,
    neurons: Sequence[Neuron | str],
    *,
    source: NeuronSource = "zero",
    chosen_by: SeparatingNeurons | NeuronSearch | None = None,
    predicate: Predicate | None = None,
    activation: str = "mlp_post",
    each: bool = False,
    controls: int | None = None,
    n: int | None = 512,
    k: int = 20,
    seq_len: int | None = None,
    seed: int = 0,
    sae: Any = None,
    progress: bool = True,
) -> NeuronAblation:
    """How much the loss on each next token rises without these neurons, and where most.

    The neurons are replaced at all positions, all together, by zero or by their mean over these very sequences
    in the model as it is. A loss belongs to the position at which the next token is predicted.

    With a `predicate`, positions are of the class in two ways: "token", where a token of the class is read, so that
    the loss is that of the token after it; "next", where a token of the class is predicted, so that the loss is
    its own. These are what `find_neurons` means by `on`.

    Args:
        model: the model.
        corpus: see `nanogpt_lens.search_neurons`.
        neurons: (layer, neuron) pairs, or "0.17" or "L0N17".
        source: what takes the neurons' place, "zero" or "mean".
        chosen_by: the result that the neurons were chosen from; `seen_share` then says how much of the corpus is text
            that they were chosen on, and `in_sample` whether it is any.
        predicate: a class of tokens, see `nanogpt_lens.text.predicates`.
        activation: what is read, one of `nanogpt_lens.interventions.units.UNIT_HOOKS`.
        each: also take out each neuron alone.
        controls: the number of sets of as many random other neurons, layer by layer; 0 for none; None for 20, or
            none where too few neurons are left.
        n: the largest number of sequences, one drawn from each of equal stretches of the corpus; None for all.
        k: the number of tokens that are kept, those hit hardest.
        seq_len: the tokens of a sequence; None for the model's context.
        seed: the seed of the draws.
        sae: a SAELens autoencoder, whose features take the place of neurons.
        progress: show a bar.

    Returns:
        values [ablated, score], nats per token. `ablated` is the neurons ("0.17+2.3"), each alone where asked for,
        then the control sets. `score` is "loss", "rise", and for each of "token" and "next": "rise on ...", "rise off
        ..." (at all other positions), "difference ..." (on minus off). Intervals are over the
        sequences; `chance` is the mean over the control sets.

    Raises:
        AnalysisError: no such neuron, layer, activation or class, an option out of range, a corpus of fewer than two
            tokens, too few other neurons for a control.
    """
    check_choice(NeuronSource, source=source)
    check_whole(seed=seed, **({} if controls is None else {"controls": controls}))
    check_whole(1, k=k, **({} if n is None else {"n": n}))
    units, chosen = units_and_neurons(model, neurons, activation=activation, sae=sae)
    alone = [(neuron,) for neuron in chosen] if each and len(chosen) > 1 else []
    drawn = control_sets(chosen, units.layers, units.n_units, n=controls, seed=seed, same_layers=True, unit=units.kind)
    sets = [tuple(chosen), *alone, *drawn]
    text = open_corpus(model, corpus)
    sequences = text.sequences(seq_len=seq_len, least=2)
    tokens, at = sequences.drawn(n, seed=seed)
    if tokens.shape[1] < 2:
        raise AnalysisError(f"sequences have seq_len={seq_len}; expected at least 2 tokens, one to predict")
    groups, called = _groups(model, sequences, predicate, at)
    sums = torch.zeros(len(sets), len(groups), len(tokens), dtype=torch.float64)
    with evaluating(model):
        base, after = _losses(model, tokens.to(device_of(model)), units, sets, source, groups, sums, progress)
    names, per_example = _scores(sums, groups, base.sum(1))
    values = per_example.mean(-1)
    share = text.share_seen(None if chosen_by is None else chosen_by.trace)
    seen: dict[str, Any] = {"seen_share": share, "seen_by": "the choice of neurons"}
    controls_from = len(sets) - len(drawn)
    stronger = (values[controls_from:] >= values[0]).double().mean(0)
    return NeuronAblation(
        **mean_fields(per_example),
        chance=values[controls_from:].mean(0).expand_as(values).clone() if drawn else None,
        controls_as_strong=stronger if drawn else torch.full_like(values[0], torch.nan),
        axes=("ablated", "score"),
        labels={"ablated": tuple(_names(sets, len(alone))), "score": names},
        quantity="loss, nats per token",
        definition=_definition(units, source, tokens, sequences, called),
        **_hits(model, tokens, at, base, after, k),
        n_class=tuple(int(mask.sum()) for mask in groups[1::2]),
        title="loss",
        sample=Sample(corpus=sequences.name, n=len(tokens), seq_len=tokens.shape[1], seed=seed, **seen),
        provenance=provenance(
            model,
            corpus=sequences.name,
            neurons=chosen,
            source=source,
            predicate=called,
            activation=units.activation,
            n=len(tokens),
            seq_len=tokens.shape[1],
            controls=len(drawn),
            seed=seed,
            sae=units.autoencoder,
        ),
    )


def _definition(
    units: Units, source: NeuronSource, tokens: Int[Tensor, "example pos"], sequences: Sequences, called: str | None
) -> str:
    """What was done to which sequences, in words."""
    return (
        f"{units.activation} replaced by {source if source == 'zero' else 'its mean over these sequences'} "
        f"at all positions; {len(tokens)} sequences of {tokens.shape[1]} tokens of {sequences.name}"
        + (f"; class: {called}" if called else "")
        + "; chance: mean over sets of as many random other neurons of the same layers"
    )


def units_and_neurons(
    model: Hooked, neurons: Sequence[Neuron | str], *, activation: str, sae: Any
) -> tuple[Units, list[Neuron]]:
    """The units of the layers that the neurons are of, and the (layer, neuron) pairs.

    Raises:
        AnalysisError: there is no neuron, one twice, or one that the model does not have.
    """
    if isinstance(neurons, str) or not isinstance(neurons, Iterable):
        raise AnalysisError(f'neurons is {neurons!r}; expected a list of neurons, such as [(0, 17)] or ["0.17"]')
    every = Units(model, activation=activation, sae=sae)
    pairs: list[Neuron] = []
    for neuron in neurons:
        match layer_and_index(neuron, "neuron"):
            case (int(layer), int(index)):
                every.checked(layer, index)
                pairs.append((layer, index))
            case _:
                raise AnalysisError(f'there is no neuron {neuron!r}; expected (layer, neuron) or "layer.neuron"')
    if not pairs or len(set(pairs)) < len(pairs):
        raise AnalysisError(f"neurons is {pairs}; expected at least one (layer, neuron), each once")
    return Units(model, activation=activation, layers=sorted({layer for layer, _ in pairs}), sae=sae), pairs


def _groups(
    model: Hooked, sequences: Sequences, predicate: Predicate | None, at: Int[np.ndarray, "example pos"]
) -> tuple[list[Bool[Tensor, "example pos-1"]], str | None]:
    """Masks of all losses; then, with a class, of those on and off it, for "token" and "next"; and the class' name.

    Raises:
        AnalysisError: none of the losses is of the class, or all.
    """
    shape = (len(at), at.shape[1] - 1)
    groups = [torch.ones(shape, dtype=torch.bool)]
    if predicate is None:
        return groups, None
    mask, called = token_class(model, sequences, predicate)
    for on in _POSITIONS:
        in_class = torch.from_numpy(labels_of(mask[at], on)[:, : shape[1]].copy())
        if in_class.all() or not in_class.any():
            raise AnalysisError(
                f"{called} holds for {int(in_class.sum())} of {in_class.numel()} positions (on={on!r}) of the "
                "sequences drawn; expected some, and not all: give a larger n"
            )
        groups += [in_class, ~in_class]
    return groups, called


def _losses(
    model: Hooked,
    tokens: Int[Tensor, "example pos"],
    units: Units,
    sets: Sequence[Sequence[Neuron]],
    source: NeuronSource,
    groups: Sequence[Bool[Tensor, "example pos-1"]],
    sums: Float[Tensor, "set group example"],
    progress: bool,
) -> tuple[Float[Tensor, "example pos-1"], Float[Tensor, "example pos-1"]]:
    """The losses with all neurons, and those without the first set.

    Every set's rises are summed over each group of each sequence into `sums`.
    """
    means = _mean_activations(model, tokens, units) if source == "mean" else None
    base, after = [], []
    with tqdm(
        total=len(tokens) * (len(sets) + 1), unit="sequence", desc="ablation", delay=1, disable=not progress
    ) as bar:
        for rows in batches(model, tokens):
            base.append(loss_per_token(model, tokens[rows]).double().cpu())
            bar.update(len(base[-1]))
            for i, neurons in enumerate(sets):
                lost = loss_per_token(model, tokens[rows], _edits_without(units, neurons, means)).double().cpu()
                for j, mask in enumerate(groups):
                    sums[i, j, rows] = ((lost - base[-1]) * mask[rows]).sum(1)
                if i == 0:
                    after.append(lost)
                bar.update(len(lost))
    return torch.cat(base), torch.cat(after)


def _edits_without(
    units: Units, neurons: Sequence[Neuron], means: Sequence[Float[Tensor, " unit"]] | None
) -> Mapping[str, Edit]:
    """The edits that put zero, or a mean, in the place of some neurons."""
    edits: dict[str, Edit] = {}
    for i, layer in enumerate(units.layers):
        removed = [unit for at, unit in neurons if at == layer]
        if removed:
            edits[units.names[i]] = units.setting(i, removed, 0.0 if means is None else means[i][removed])
    return edits


def _mean_activations(model: Hooked, tokens: Int[Tensor, "example pos"], units: Units) -> list[Float[Tensor, " unit"]]:
    """For each hook point the units' means over all positions of these sequences, in float64."""
    means = [RunningMean() for _ in units.names]

    def adding(i: int) -> Edit:
        return lambda activation: means[i].add(units.values(i, activation))

    for rows in batches(model, tokens):
        run(model, tokens[rows], {name: adding(i) for i, name in enumerate(units.names)})
    return [mean.mean for mean in means]


def _scores(
    sums: Float[Tensor, "set group example"],
    groups: Sequence[Bool[Tensor, "example target"]],
    base: Float[Tensor, " example"],
) -> tuple[tuple[str, ...], Float[Tensor, "set score example"]]:
    """The names of the scores; and what each sequence adds to them, linearised.

    `base` is the sum of each sequence's losses with all neurons.
    """
    counts = torch.stack([mask.sum(1) for mask in groups]).double()  # [group, example]
    rises = ratio_per_example(sums, counts)
    names = ["loss", "rise"]
    columns = [ratio_per_example(base, counts[0]) + rises[:, 0], rises[:, 0]]
    for i, on in enumerate(_POSITIONS[: len(groups) // 2]):
        there, elsewhere = rises[:, 1 + 2 * i], rises[:, 2 + 2 * i]
        names += [f"rise on {on}", f"rise off {on}", f"difference {on}"]
        columns += [there, elsewhere, there - elsewhere]
    return tuple(names), torch.stack(columns, 1)


def _hits(
    model: Hooked,
    tokens: Int[Tensor, "example pos"],
    at: Int[np.ndarray, "example pos"],
    base: Float[Tensor, "example pos-1"],
    after: Float[Tensor, "example pos-1"],
    k: int,
) -> dict[str, Any]:
    """The result's fields that say whose loss rises most."""
    rise = after - base
    best = rearrange(rise, "example pos -> (example pos)").topk(min(k, rise.numel()))
    texts, positions = [], []
    for flat in best.indices.tolist():
        row, pos = divmod(flat, rise.shape[1])
        labels = token_labels(model, tokens[row, : pos + 2])
        texts.append(("".join(labels[:-1]), labels[-1]))
        positions.append(int(at[row, pos + 1]))
    return {
        "hit_values": best.values,
        "hit_losses": torch.stack([base.flatten()[best.indices], after.flatten()[best.indices]], 1),
        "hit_positions": torch.tensor(positions),
        "hit_texts": tuple(texts),
    }


def _names(sets: Sequence[Sequence[Neuron]], alone: int) -> list[str]:
    """What each set is called."""
    written = ["+".join(f"{layer}.{unit}" for layer, unit in neurons) for neurons in sets]
    return [*written[: 1 + alone], *(f"control {name}" for name in written[1 + alone :])]
