"""What excites each neuron? One pass over a corpus, every neuron of every layer, constant memory.

Each token is read once. Of each neuron only the best excerpts, running moments and its activation on a
sample of tokens are kept (see `peaks` and `moments`); nothing is held of a batch when the next begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Hooked, provenance, token_labels
from nanogpt_lens.neurons.moments import ActivationSample, Moments
from nanogpt_lens.neurons.peaks import TopWindows, Where
from nanogpt_lens.neurons.promoted import none_promoted, promoted_tokens
from nanogpt_lens.results.neurons import NeuronSearch
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.reading import Engine
from nanogpt_lens.running.streaming import stream
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.sequences import Sequences

PROBABILITIES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
"""The probabilities of the quantiles."""

BINS = 40


def search_neurons(
    model: Hooked,
    corpus: Corpus,
    *,
    layers: Sequence[int] | None = None,
    activation: str = "mlp_post",
    k: int | None = None,
    window: int | None = None,
    batch_size: int | None = None,
    where: Where = "max",
    seq_len: int | None = None,
    sample: int = 4096,
    promoted: bool = True,
    seed: int = 0,
    sae: Any = None,
    engine: Engine = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> NeuronSearch:
    """The excerpts on which each neuron is highest and lowest, and its statistics over the whole corpus.

    The corpus is read in sequences of `seq_len` tokens, which the model sees one by one: a token's
    activation depends on what precedes it in its sequence. Excerpts of one neuron do not overlap: those
    around weaker peaks give way to stronger ones of the same sequence. Of equal values the earlier counts.

    Under `torchrun` or `accelerate launch` every process reads its share, and all get the whole result.

    Args:
        model: the model.
        corpus: a text, a text file, nanoGPT's `.bin` or data folder (its val.bin), or ids [tokens] or
            [example, pos]; of any size.
        layers: the layers; None for all.
        activation: what is read, one of `nanogpt_lens.interventions.units.UNIT_HOOKS`.
        k: the number of excerpts of each neuron, each way; None for 20, or as many as the corpus has room for. On a
            very short corpus a neuron may have fewer (nan, -1 in their place).
        window: the number of tokens of an excerpt; None for 32, or as many as a short context or corpus has.
        batch_size: the sequences of a batch; None for some 4,096 tokens.
        where: rank excerpts by their "max" (lowest: minimum), or by the "mean" over the whole excerpt.
        seq_len: the tokens of a sequence; None for the model's context.
        sample: the number of tokens, drawn at random from the corpus, that quantiles and histogram come from.
        promoted: also find the tokens that each neuron promotes and suppresses, most of the work where the
            vocabulary is large and the corpus short.
        seed: the seed of that draw.
        sae: a SAELens autoencoder, whose features take the place of neurons.
        engine: how activations are computed, see `nanogpt_lens.running.reading`.
        resume: a folder where the state of an unfinished run is kept, so that it can be continued.
        progress: show a bar.

    Returns:
        Values [layer, neuron]: the highest activation (excerpt mean, for where="mean"); see `NeuronSearch`.
        `page(layer, neuron)` is everything about one neuron. What a neuron promotes is its output direction
        through ln_final's weight and the unembedding, mean-free over the vocabulary: per unit of
        activation, before the final LayerNorm divides by its scale.

    Raises:
        AnalysisError: no such layer or activation, a corpus that is empty, shorter than the window or has ids
            outside the vocabulary, k beyond the number of excerpts, activations that are not finite.
    """
    check_whole(1, sample=sample, **{name: n for name, n in (("k", k), ("window", window)) if n is not None})
    check_whole(seed=seed)
    check_choice(Where, where=where)
    units = Units(model, activation=activation, layers=layers, sae=sae)
    sequences = open_corpus(model, corpus).sequences(seq_len=seq_len, batch_size=batch_size, least=window or 1)
    k, window = _excerpts(sequences, k, window, where)
    sites = len(units.names)
    top, low = (TopWindows(sites=sites, k=k, window=window, where=where, lowest=low) for low in (False, True))
    moments = Moments(sites=sites)
    drawn = ActivationSample(sites=sites, n_tokens=sequences.n_tokens, size=sample, seed=seed)
    options = {"k": k, "window": window, "where": where, "sample": sample, "seed": seed, "sae": units.autoencoder}
    used = stream(
        model,
        sequences,
        units.names,
        [top, low, moments, drawn],
        values=units.values,
        engine=engine,
        resume=resume,
        describes=options,
        progress=progress,
        label="neurons",
    )
    units.check_finite(moments.mean)
    return NeuronSearch(
        **_excerpt_fields("top", top, sequences),
        **_excerpt_fields("low", low, sequences),
        **_summaries(drawn, sites),
        **(promoted_tokens if promoted else none_promoted)(model, units),
        **_descriptions(model, units, sequences, k, window, where),
        values=top.value[..., 0],
        mean=moments.mean,
        variance=moments.variance,
        sparsity=moments.sparsity,
        n_tokens=moments.n,
        trace=sequences.trace(),
        sample_size=len(drawn.indices),
        sample=Sample(corpus=sequences.name, n_tokens=moments.n, seed=seed),
        provenance=provenance(
            model,
            corpus=sequences.name,
            activation=units.activation,
            layers=units.layers,
            seq_len=sequences.seq_len,
            batch_size=sequences.batch_size,
            engine=used,
            **options,
            promoted=promoted,
        ),
    )


def _descriptions(
    model: Hooked, units: Units, sequences: Sequences, k: int, window: int, where: Where
) -> dict[str, Any]:
    """The result's fields that say what it is."""
    what = "highest activation" if where == "max" else f"highest mean of {window} tokens"
    return {
        "axes": ("layer", "neuron"),
        "labels": {"layer": tuple(map(str, units.layers))},
        "quantity": f"{what} at {units.activation}",
        "definition": f"all {sequences.n_tokens} tokens of {sequences.name}, read in sequences of {sequences.seq_len}; "
        f"{k} excerpts of {window} tokens each way, which do not overlap; quantiles and histogram from a random "
        "sample of tokens",
        "vocabulary": token_labels(model, torch.arange(model.cfg.d_vocab)),
        "probabilities": PROBABILITIES,
        "title": what,
        "unit_kind": units.kind,
        "ranked_by": where,
    }


def _excerpts(sequences: Sequences, k: int | None, window: int | None, where: Where) -> tuple[int, int]:
    """The number of excerpts and their length: what was asked for, or the usual as far as there is room.

    Raises:
        AnalysisError: sequences do not hold the window, or the corpus not `k` excerpts.
    """
    window = default_of(window, 32, min(sequences.seq_len, sequences.n_tokens))
    if window > sequences.seq_len:
        raise AnalysisError(
            f"window is {window}; expected at most {sequences.seq_len}, the length of a sequence that the model reads"
        )
    rest = sequences.n_tokens % sequences.seq_len
    last = rest // window if where == "mean" or not rest else max(1, rest // window)  # a peak needs no whole excerpt
    most = sequences.n_tokens // sequences.seq_len * (sequences.seq_len // window) + last
    k = default_of(k, 20, most)
    if k > most:
        raise AnalysisError(
            f"k is {k}, but {sequences.name} has room for at most {most} excerpts of {window} tokens; give a "
            "smaller k or window, or a longer text"
        )
    return k, window


def _excerpt_fields(
    which: str, best: TopWindows, sequences: Sequences
) -> dict[str, Shaped[Tensor, "layer neuron k ..."]]:
    """The result's fields of the "top" or the "low" excerpts."""
    return {
        f"{which}_values": best.value,
        f"{which}_positions": best.position,
        f"{which}_starts": best.start,
        f"{which}_tokens": sequences.excerpts(best.start, best.window),
        f"{which}_activations": best.activations,
    }


def _summaries(drawn: ActivationSample, sites: int) -> dict[str, Shaped[Tensor, "layer neuron _"]]:
    """Quantiles, histogram and bounds of the sample."""
    quantiles, histograms, bounds = [], [], []
    for i in range(sites):
        rows = drawn.rows(i)
        wide = (rows if rows.dtype == torch.float64 else rows.float()).T.contiguous().cpu()
        ordered = torch.from_numpy(np.sort(wide.numpy(), axis=1))  # [unit, token]; many times as fast as torch's
        place = torch.tensor(PROBABILITIES, dtype=torch.float64) * (ordered.shape[1] - 1)
        below, part = place.long(), (place - place.floor()).to(ordered)
        above = (below + 1).clamp_max(ordered.shape[1] - 1)
        quantiles.append(torch.lerp(ordered[:, below], ordered[:, above], part))
        least, most = ordered[:, 0], ordered[:, -1]
        step = ((most - least) / BINS).clamp_min(torch.finfo(ordered.dtype).tiny)
        bins = ((ordered - least[:, None]) / step[:, None]).long().clamp(0, BINS - 1)
        counts = torch.zeros(len(ordered), BINS, dtype=torch.int32)
        histograms.append(counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32)))
        bounds.append(torch.stack([least, most], -1))
    return {
        "quantiles": torch.stack(quantiles),
        "histogram": torch.stack(histograms),
        "bounds": torch.stack(bounds),
    }
