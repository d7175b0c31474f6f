"""Which neurons separate a class of tokens from the others, more than chance would, and on new text too?

A neuron's separation is the area under the ROC curve, from ranks (Mann-Whitney), in whichever direction is
better. The best of thousands of neurons looks good by chance alone, so there are two checks: the largest
separation of any neuron when the class is shifted along the text, which keeps its clumps but breaks its
bond with the activations; and the separation on held-out text, which had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import On
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import LEVEL
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Hooked, provenance
from nanogpt_lens.neurons.auroc import auroc, auroc_interval, n_pieces
from nanogpt_lens.neurons.moments import ActivationSample
from nanogpt_lens.results.effects import SeparatingNeurons
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.reading import Engine
from nanogpt_lens.running.streaming import stream
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.predicates import Predicate, check_on, labels_of, token_class
from nanogpt_lens.text.sequences import Sequences

_HELD = 2**27
"""Activations held at once at most, unless one layer has more; half a gigabyte in float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Positions that count, consecutive in the sequences drawn.

    Attributes:
        places: which of the drawn tokens they are.
        labels: whether the class is there.
        pieces: which piece of text each is of: a sequence, or some that a clump of the class goes through.
    """

    places: Int[np.ndarray, " position"]
    labels: Bool[np.ndarray, " position"]
    pieces: Int[np.ndarray, " position"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Class:
    """A class of tokens.

    Attributes:
        called: its name.
        parts: the part of the text that chooses neurons, and the held-out one if there is one.
        labels: where the class is in the first, and behind that where it is if it is shifted.
    """

    called: str
    parts: list[_Part]
    labels: Bool[np.ndarray, "shift position"]


def find_neurons(
    model: Hooked,
    corpus: Corpus,
    predicate: Predicate,
    *,
    on: On = "token",
    layers: Sequence[int] | None = None,
    activation: str = "mlp_post",
    k: int = 10,
    sample: int | None = 2**16,
    held_out: float = 0.5,
    permutations: int = 200,
    seq_len: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    sae: Any = None,
    engine: Engine = "auto",
    progress: bool = True,
) -> SeparatingNeurons:
    """How well each neuron's activation separates the tokens of a class from all others.

    The class is decided on the text of the whole corpus (`nanogpt_lens.text.predicates`). A corpus of more
    than `sample` tokens is represented by whole sequences, one drawn from each of equal stretches; a shorter
    sequence at the end is left out. The first of them choose neurons, signs and p-values, the others are held
    out. Within each part AUROC is exact.

    Chance: the class of the first part is shifted around it by random distances of at least a sequence, and
    each time the largest separation of any neuron is noted. p = (1 + shifts whose largest is at least the
    neuron's) / (1 + shifts), so that it is already corrected for the number of neurons.

    Args:
        model: the model.
        corpus: see `nanogpt_lens.search_neurons`.
        predicate: the class: a name such as "upper_case", "after_newline" or "speaker_name", a regular expression,
            characters, a function, or a mask, see `Predicate`.
        on: "token": the neuron's activation on tokens of the class; "next": just before them, where they are to
            be predicted (the last position of each sequence is left out).
        layers: the layers; None for all.
        activation: what is read, one of `nanogpt_lens.interventions.units.UNIT_HOOKS`.
        k: the number of neurons, the best ones, that get an interval.
        sample: the largest number of tokens; None for all. Memory grows with their number times the neurons of a layer.
        held_out: the share of the sequences that is held out, from the end; 0 for none.
        permutations: the number of shifts.
        seq_len: the tokens of a sequence; None for the model's context.
        batch_size: the sequences of a batch; None for some 4,096 tokens.
        seed: the seed of the draws.
        sae: a SAELens autoencoder, whose features take the place of neurons.
        engine: how activations are computed, see `nanogpt_lens.running.reading`.
        progress: show a bar.

    Returns:
        AUROC [layer, neuron] on the first part, and more: see `SeparatingNeurons`; `top()` lists the best.

    Raises:
        AnalysisError: no such class, layer or activation; a part without the class, or without anything else; an
            option out of range; activations that are not finite.
    """
    options: dict[str, Any] = {"on": on, "sample": sample, "held_out": held_out, "permutations": permutations}
    reading: dict[str, Any] = {"activation": activation, "layers": layers, "seq_len": seq_len, "batch_size": batch_size}
    options |= {**reading, "k": k, "seed": seed, "sae": sae, "engine": engine, "progress": progress}
    (result,) = find_neurons_of_each(model, corpus, [predicate], **options)
    if isinstance(result, AnalysisError):
        raise result
    return result


def find_neurons_of_each(
    model: Hooked,
    corpus: Corpus,
    predicates: Sequence[Predicate],
    *,
    on: On = "token",
    layers: Sequence[int] | None = None,
    activation: str = "mlp_post",
    k: int = 10,
    sample: int | None = 2**16,
    held_out: float = 0.5,
    permutations: int = 200,
    seq_len: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    sae: Any = None,
    engine: Engine = "auto",
    progress: bool = True,
) -> list[SeparatingNeurons | AnalysisError]:
    """What `find_neurons` gives for each of several classes, from one reading and one ranking of the activations.

    Returns:
        Of each class the result; or the error, where the sample does not hold the class, or holds nothing else.

    Raises:
        AnalysisError: see `find_neurons`; what is wrong is not the class.
    """
    check_whole(1, k=k, permutations=permutations, **({} if sample is None else {"sample": sample}))
    check_whole(seed=seed)
    if isinstance(held_out, bool) or not 0 <= held_out < 1:
        raise AnalysisError(f"held_out is {held_out!r}; expected a share from 0 on and below 1")
    units = Units(model, activation=activation, layers=layers, sae=sae)
    text = open_corpus(model, corpus)
    if seq_len is None and held_out and text.n_tokens >= 4:  # at least two sequences, one of which is held out
        seq_len = text.room(2)
    whole = text.sequences(seq_len=seq_len, batch_size=batch_size)
    tokens, at = whole.drawn(None if sample is None else max(1, sample // whole.seq_len), seed=seed)
    check_on(on)
    classes: list[_Class | AnalysisError] = []
    for predicate in predicates:
        try:
            mask, called = token_class(model, whole, predicate)
            parts = _parts(mask[at], at, on, held_out, called, whole.seq_len)
            labels = _class_and_shifts(parts[0].labels, permutations, tokens.shape[1], seed)
        except AnalysisError as error:
            classes.append(error)
            continue
        classes.append(_Class(called=called, parts=parts, labels=labels))
    there = [one for one in classes if isinstance(one, _Class)]
    fields: Iterator[dict[str, Any]] = iter(())
    if there:
        sequences = open_corpus(model, tokens).sequences(seq_len=tokens.shape[1], batch_size=batch_size)
        fields = iter(_separation_fields(_activations(model, sequences, units, engine, progress), there, k))
    arguments = {"on": on, "sample": sample, "held_out": held_out, "permutations": permutations, "seed": seed, "k": k}
    shared = _SharedFields(model=model, whole=whole, tokens=tokens, units=units, arguments=arguments)
    return [one if isinstance(one, AnalysisError) else shared.result(one, next(fields)) for one in classes]


@dataclass(frozen=True, kw_only=True, eq=False)
class _SharedFields:
    """What the results of several classes share: where the activations are from, and the options."""

    model: Hooked
    whole: Sequences
    tokens: Int[Tensor, "example pos"]
    units: Units
    arguments: dict[str, Any]

    def result(self, one: _Class, fields: dict[str, Any]) -> SeparatingNeurons:
        """The result of a class, from the fields of its own."""
        tokens, units, whole, arguments = self.tokens, self.units, self.whole, self.arguments
        held_out, parts = arguments["held_out"], one.parts
        return SeparatingNeurons(
            **fields,
            axes=("layer", "neuron"),
            labels={"layer": tuple(map(str, units.layers))},
            quantity=f"AUROC of {units.activation} for {one.called}"
            + (" (the next token)" if arguments["on"] == "next" else ""),
            definition=f"{tokens.shape[0]} sequences of {tokens.shape[1]} tokens of {whole.name}; Mann-Whitney, "
            f"average ranks; chance: largest separation of any {units.kind} under {arguments['permutations']} circular "
            "shifts of the class; interval: over pieces of text, which are sequences, or some that a clump of the "
            "class goes through (Obuchowski 1997)",
            trace=open_corpus(self.model, tokens[: len(tokens) - round(held_out * len(tokens))]).trace(),
            n_tokens=(len(parts[0].labels), len(parts[1].labels) if len(parts) > 1 else 0),
            n_class=(int(parts[0].labels.sum()), int(parts[1].labels.sum()) if len(parts) > 1 else 0),
            predicate=one.called,
            sample=Sample(
                corpus=whole.name,
                seed=arguments["seed"],
                **({} if held_out else {"seen_share": 1.0, "seen_by": f"the choice of the best {units.kind}s"}),
            ),
            provenance=provenance(
                self.model,
                corpus=whole.name,
                predicate=one.called,
                activation=units.activation,
                layers=units.layers,
                seq_len=whole.seq_len,
                sae=units.autoencoder,
                **arguments,
            ),
        )


def _parts(
    mask: Bool[np.ndarray, "example pos"],
    at: Int[np.ndarray, "example pos"],
    on: On,
    held_out: float,
    called: str,
    seq_len: int,
) -> list[_Part]:
    """The first part of the sequences and the held-out one, if there is one; `at` is where in the text they are.

    Raises:
        AnalysisError: too few sequences to hold some out, or a part without the class or without others.
    """
    labels = labels_of(mask, on)
    first = len(mask) - round(held_out * len(mask))
    if held_out and not 0 < first < len(mask):
        raise AnalysisError(
            f"{len(mask)} sequences of {seq_len} tokens cannot be divided with held_out={held_out}; give a longer "
            "corpus, give a smaller seq_len or held_out=0"
        )
    flat = "example pos -> (example pos)"
    goes_on = mask[:-1, -1] & mask[1:, 0] & (at[1:, 0] == at[:-1, -1] + 1)
    piece = np.concatenate([[0], np.cumsum(~goes_on)])
    everywhere = np.arange(mask.size).reshape(mask.shape)[:, : labels.shape[1]]
    parts = []
    for name, rows in (("first", slice(0, first)), ("held-out", slice(first, None))):
        in_class = labels[rows]
        if name == "held-out" and not held_out:
            continue
        count = int(in_class.sum())
        if count in (0, in_class.size):
            raise AnalysisError(
                f"{called} holds for {count} of {in_class.size} tokens of the {name} part; expected some, and not all: "
                "give a longer corpus, a larger sample, or held_out=0"
            )
        which = np.broadcast_to(piece[rows][:, None], in_class.shape)
        ways = {"places": everywhere[rows], "labels": in_class, "pieces": which}
        parts.append(_Part(**{name: rearrange(values, flat) for name, values in ways.items()}))
    return parts


def _class_and_shifts(
    labels: Bool[np.ndarray, " position"], n: int, seq_len: int, seed: int
) -> Bool[np.ndarray, "shift position"]:
    """The class as it is, and behind it the class shifted around `n` times."""
    size = len(labels)
    least = seq_len if size > 2 * seq_len else 1
    if size < 3:
        raise AnalysisError(f"there are {size} tokens to choose neurons on; expected at least 3: give a longer corpus")
    by = torch.randint(least, size - least + 1, (n,), generator=torch.Generator().manual_seed(seed))
    return np.stack([labels, *(np.roll(labels, int(distance)) for distance in by)])


def _activations(
    model: Hooked, sequences: Sequences, units: Units, engine: Engine, progress: bool
) -> Iterator[Float[np.ndarray, "token unit"]]:
    """Yield the units' activations, layer by layer; as many layers are read in a run as fit in memory."""
    at_once = max(1, _HELD // (units.n_units * sequences.n_tokens))
    for start in range(0, len(units.names), at_once):
        names = units.names[start : start + at_once]
        held = ActivationSample(sites=len(names), n_tokens=sequences.n_tokens, size=sequences.n_tokens, seed=0)
        stream(
            model,
            sequences,
            names,
            [held],
            values=lambda i, value, start=start: units.values(start + i, value),
            engine=engine,
            progress=progress,
            label="activations",
        )
        bar = tqdm(range(len(names)), desc="ranks", delay=1, disable=not progress, unit="layer")
        for i in bar:
            rows = held.rows(i)
            if not bool(rows.isfinite().all()):
                raise AnalysisError(f"some activations at {names[i]} are not finite; the model overflows on this text")
            yield (rows if rows.dtype == torch.float64 else rows.float()).cpu().numpy()


def _separation_fields(
    activations: Iterator[Float[np.ndarray, "token unit"]], classes: Sequence[_Class], k: int
) -> list[dict[str, Any]]:
    """The fields of each class's result. Positions are the same in all classes, so that they are ranked once."""
    first, last = classes[0].parts[0], classes[0].parts[-1]
    has_other = len(classes[0].parts) > 1
    stacked = np.concatenate([one.labels for one in classes])
    others = np.stack([one.parts[-1].labels for one in classes])
    ends = np.cumsum([len(one.labels) for one in classes])[:-1]
    kept = [_OfClass(one, k) for one in classes]
    for values in activations:
        of_shifts = np.split(auroc(values[first.places], stacked), ends)  # [shift, unit] of each class
        new = values[last.places]
        held = auroc(new, others) if has_other else np.full((len(classes), values.shape[1]), np.nan)
        for one, areas, area in zip(kept, of_shifts, held, strict=True):
            one.add(areas, area, new)
    return [one.fields() for one in kept]


class _OfClass:
    """How well each layer's units separate one class, layer by layer."""

    def __init__(self, one: _Class, k: int) -> None:
        self.labels, self.last, self.k = one.labels, one.parts[-1], k
        self.areas: list[Float[np.ndarray, " unit"]] = []
        self.held: list[Float[np.ndarray, " unit"]] = []
        self.best: list[tuple[Int[np.ndarray, " best"], Float[np.ndarray, "position best"]]] = []
        self.largest = np.zeros(len(one.labels) - 1)

    def add(
        self,
        of_shifts: Float[np.ndarray, "shift unit"],
        held: Float[np.ndarray, " unit"],
        values: Float[np.ndarray, "position unit"],
    ) -> None:
        """Take in a layer: AUROC of the class as it is and shifted, on the other part, and that part's activations."""
        self.areas.append(of_shifts[0])
        self.largest = np.maximum(self.largest, np.maximum(of_shifts[1:], 1 - of_shifts[1:]).max(1))
        self.held.append(held)
        strongest = np.argsort(-np.maximum(of_shifts[0], 1 - of_shifts[0]), kind="stable")[: self.k]
        self.best.append((strongest, values[:, strongest]))

    def fields(self) -> dict[str, Any]:
        """The fields of the result."""
        area, largest, last = torch.from_numpy(np.stack(self.areas)), self.largest, self.last
        sign = torch.where(area >= 0.5, 1.0, -1.0).double()
        separation = torch.where(sign > 0, area, 1 - area)
        beyond = torch.from_numpy(largest)[:, None, None] >= separation - 1e-12
        new = torch.from_numpy(np.stack(self.held))
        low, high = (torch.full_like(area, torch.nan) for _ in range(2))
        for flat in separation.flatten().argsort(descending=True, stable=True)[: self.k].tolist():
            layer, unit = divmod(flat, area.shape[1])
            column = self.best[layer][1][:, int(np.flatnonzero(self.best[layer][0] == unit)[0])]
            low[layer, unit], high[layer, unit] = auroc_interval(
                float(sign[layer, unit]) * column, last.labels, last.pieces
            )
        return {
            "values": area,
            "separation": separation,
            "sign": sign,
            "held_out": torch.where(sign > 0, new, 1 - new),
            "low": low,
            "high": high,
            "interval": "t",
            "n_pieces": n_pieces(last.labels, last.pieces),
            "p": (1 + beyond.sum(0)) / (1 + len(largest)),
            "null": torch.from_numpy(largest),
            "chance": float(np.quantile(largest, LEVEL, method="higher")),
        }
