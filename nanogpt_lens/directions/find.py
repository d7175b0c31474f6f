"""Directions of the residual stream: principal components, what a direction says on the vocabulary, and similar ones.

Several functions take `direction`: d_model numbers. Each of them raises AnalysisError unless they are finite and not
all zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import LEVEL
from nanogpt_lens.interventions.sites import kind_of
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Hooked, check_model, n_tokens, provenance, token_labels
from nanogpt_lens.model.weights import centred, embedding, norm_weight, unembedding
from nanogpt_lens.neurons.comoments import Comoments
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.results.effects import PrincipalComponents, SimilarDirections
from nanogpt_lens.running.reading import Engine
from nanogpt_lens.running.streaming import stream
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.sequences import Sequences

_HOOK_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
_RANDOM = 400  # the number of random directions that give the chance level
_PIECE = 2**24  # about how many cosines are in memory at once


def principal_components(
    model: Hooked,
    corpus: Corpus,
    activation: str,
    *,
    layer: int | None = None,
    k: int | None = None,
    seq_len: int | None = None,
    batch_size: int | None = None,
    engine: Engine = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> PrincipalComponents:
    """The directions in which an activation varies most over a corpus.

    The covariance over all tokens, about their mean, is computed in one pass in float64. Under `torchrun` or
    `accelerate launch` every process reads its share, and all get the whole result.

    Args:
        model: the model.
        corpus: the text, see `nanogpt_lens.search_neurons`.
        activation: a name as in patching ("resid_post", "mlp_out", "mlp_post", "z") with `layer`, or a whole hook
            point such as "blocks.1.hook_resid_post".
        layer: the layer; None if `activation` names it.
        k: the number of components; None for 10, or as many as a small model or corpus has.
        seq_len: the tokens of a sequence; None for the model's context.
        batch_size: the sequences of a batch; None for some 4,096 tokens.
        engine: how activations are computed, see `nanogpt_lens.running.reading`.
        resume: a folder where the state of an unfinished run is kept, so that it can be continued.
        progress: show a bar.

    Returns:
        Values [component, unit], orthonormal rows, the largest variance first, each with its entry of largest
        magnitude positive; with the share of the variance, see `PrincipalComponents`. Components of the
        residual stream are directions for `project_direction` and `steer`. The units of z are those of all heads.

    Raises:
        AnalysisError: there is no such hook point or layer, there are more components than the activation has units
            or the corpus has tokens, the activation never varies, or the corpus is empty.
    """
    check_model(model)
    units = Units(model, activation=(place := _place(activation, layer))[1], layers=[place[0]])
    sequences = open_corpus(model, corpus).sequences(seq_len=seq_len, batch_size=batch_size, least=2)
    k = _n_components(k, units, sequences)
    keeper = Comoments(pairs=[(0, 0)])
    engine_used = stream(
        model,
        sequences,
        units.names,
        [keeper],
        values=units.values,
        engine=engine,
        resume=resume,
        describes={"analysis": "covariance"},
        progress=progress,
        label="covariance",
    )
    covariance = keeper.covariance((0, 0))
    if not bool(covariance.isfinite().all()) or not float(covariance.trace()) > 0:
        raise AnalysisError(f"{units.names[0]} is not finite or never varies on this text; there are no components")
    variance, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    components = vectors.T.flip(0)[:k]
    extreme = components.gather(1, components.abs().argmax(1, keepdim=True))
    variance = variance.flip(0).clamp_min(0)
    return PrincipalComponents(
        values=components * extreme.sign(),
        variance=variance[:k],
        ratio=variance[:k] / variance.sum(),
        mean=keeper.mean(0),
        n_tokens=keeper.n,
        axes=("component", "unit"),
        quantity=f"principal components of {units.names[0]}",
        definition=f"eigenvectors of the covariance over all {keeper.n} tokens of {sequences.name}, read in sequences "
        f"of {sequences.seq_len}; the entry of largest magnitude is positive",
        sample=Sample(corpus=sequences.name, n_tokens=keeper.n),
        provenance=provenance(
            model,
            corpus=sequences.name,
            activation=units.names[0],
            k=k,
            seq_len=sequences.seq_len,
            batch_size=sequences.batch_size,
            engine=engine_used,
        ),
    )


def _n_components(k: int | None, units: Units, sequences: Sequences) -> int:
    """The number of components: what was asked for, or ten as far as there are so many."""
    most = min(units.n_units, sequences.n_tokens)
    k = default_of(k, 10, most)
    check_whole(1, k=k)
    if k > most:
        raise AnalysisError(
            f"k is {k}; expected at most {most}: {units.names[0]} has {units.n_units} units and {sequences.name} "
            f"{sequences.n_tokens} tokens"
        )
    return k


def project_direction(model: Hooked, direction: Tensor | Sequence[float]) -> Scores:
    """What a direction of the residual stream, as it is at the end of the model, adds to each token's logit.

    That is the direction times the unembedding with ln_final's weight folded in, mean-free over the vocabulary
    (`head_weights.unembedding`): the change of the logits relative to each other, before the final
    LayerNorm divides by its scale. What later layers make of the direction is not in it.

    Args:
        model: the model.
        direction: the direction [d_model], which is not normalised: twice the direction gives twice the values.

    Returns:
        Values [token]; `top(k, order="high")` are the tokens that it promotes, order="low" those that it
        suppresses. `chance` is the magnitude below which 95% of random directions of the same length stay at that
        token; with many tokens some exceed it.

    Raises:
        AnalysisError: `direction` is not finite, not of the model's width, or all zero.
    """
    check_model(model)
    vector = as_direction(model, direction)
    readout = unembedding(model)
    spread = vector.norm() * readout.norm(dim=0) / model.cfg.d_model**0.5
    return Scores(
        values=vector @ readout,
        chance=spread * NormalDist().inv_cdf((1 + LEVEL) / 2),
        axes=("token",),
        labels={"token": token_labels(model, torch.arange(n_tokens(model)))},
        quantity="logit, mean-free over the vocabulary, before the final LayerNorm's scale",
        definition="direction @ unembedding with ln_final's weight folded in; chance: 95% of random directions of the "
        "same length, to which the normal distribution is an approximation",
        title="logit",
        unit="logits",
        signed=True,
        provenance=provenance(model, norm=float(vector.norm())),
    )


def direction_similarity(model: Hooked, direction: Tensor | Sequence[float], *, seed: int = 0) -> SimilarDirections:
    """Cosines of a direction with what every neuron reads and writes, and with every token's vectors.

    All are centred over d_model, because every LayerNorm centres what it reads. A neuron's input is its
    column of W_in with ln2's weight folded in; its output is its row of W_out. A token's embedding is its row of W_E,
    without position; its unembedding is its column of W_U with ln_final's weight folded in, mean-free
    over the vocabulary.

    Args:
        model: the model.
        direction: the direction [d_model].
        seed: the seed of the random directions that give the chance level.

    Returns:
        Values [vector], see `SimilarDirections`: `top(k)` lists the largest, `kind("output")` gives [layer, neuron].
        `chance` is what 95% of 400 random directions do not exceed at that vector; `chance_of_largest` what the
        largest cosine of a kind does not exceed for 95% of them.

    Raises:
        AnalysisError: `direction` is not finite, not of the model's width, or the same in every coordinate, which
            LayerNorm does not see.
    """
    check_model(model)
    check_whole(seed=seed)
    vector = _unit_rows(centred(as_direction(model, direction), -1)[None])
    if not bool(vector.any()):
        raise AnalysisError("the direction is the same in every coordinate, which LayerNorm does not see; give another")
    vectors = {name: _unit_rows(rows) for name, rows in _vectors(model).items()}
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_RANDOM, model.cfg.d_model, dtype=torch.float64, generator=generator).to(vector.device)
    random = _unit_rows(centred(noise, -1))
    values, chance, largest = [], [], {}
    for name, rows in vectors.items():
        values.append(rows @ vector[0])
        most = torch.zeros(_RANDOM, dtype=torch.float64, device=rows.device)
        for piece in rows.split(max(1, _PIECE // _RANDOM)):
            cosines = (piece @ random.T).abs()
            chance.append(cosines.quantile(LEVEL, dim=1))
            most = torch.maximum(most, cosines.amax(0))
        largest[name] = float(most.quantile(LEVEL))
    layers = int(model.cfg.n_layers)
    neurons = [f"{layer}.{unit}" for layer in range(layers) for unit in range(model.cfg.d_mlp)]
    tokens = [str(i) for i in range(n_tokens(model))]
    labels_of = {"input": neurons, "output": neurons, "embedding": tokens, "unembedding": tokens}
    return SimilarDirections(
        values=torch.cat(values),
        chance=torch.cat(chance),
        chance_of_largest=largest,
        axes=("vector",),
        labels={"vector": tuple(f"{name} {label}" for name, labels in labels_of.items() for label in labels)},
        texts=token_labels(model, torch.arange(n_tokens(model))),
        layers=layers,
        quantity="cosine",
        definition="centred over d_model, LayerNorm weights folded into what reads; chance: 95% of "
        f"{_RANDOM} random directions",
        sample=Sample(seed=seed),
        provenance=provenance(model, seed=seed),
    )


def as_direction(model: Hooked, direction: Tensor | Sequence[float]) -> Float[Tensor, " d_model"]:
    """A direction in float64, on the model's device.

    Raises:
        AnalysisError: `direction` has another shape, is not finite, or is all zero.
    """
    try:
        vector = torch.as_tensor(direction)
    except (TypeError, ValueError, RuntimeError):
        raise AnalysisError(
            f"the direction is a {type(direction).__name__}; expected {model.cfg.d_model} numbers, one for each "
            "coordinate of the residual stream"
        ) from None
    if vector.shape != (model.cfg.d_model,):
        raise AnalysisError(f"the direction has shape {list(vector.shape)}; expected [{model.cfg.d_model}]")
    if vector.is_complex() or not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise AnalysisError("the direction is complex, not finite, or zero; expected finite numbers that are not all 0")
    return vector.detach().double().to(model.W_E.device)


def _place(activation: str, layer: int | None) -> tuple[int, str]:
    """The layer, and the name of the hook point in it."""
    match = _HOOK_NAME.fullmatch(str(activation))
    if match:
        if layer is not None and layer != int(match[1]):
            raise AnalysisError(f"activation is {activation!r} and layer is {layer}; give the layer once")
        return int(match[1]), match[2]
    name = kind_of(activation).name
    if layer is None:
        raise AnalysisError(
            f"activation is {activation!r}, of no layer; give layer=, or a name such as "
            f"{kind_of(activation).hook_name(0)}"
        )
    return layer, name


def _vectors(model: Hooked) -> dict[str, Float[Tensor, "_ d_model"]]:
    """The centred vectors of each kind, LayerNorm weights folded in."""
    gains = torch.stack([norm_weight(model, block.ln2) for block in model.blocks])[:, :, None]
    read = rearrange(model.W_in.detach().double() * gains, "layer d_model neuron -> (layer neuron) d_model")
    written = rearrange(model.W_out.detach().double(), "layer neuron d_model -> (layer neuron) d_model")
    return {
        "input": centred(read, -1),
        "output": centred(written, -1),
        "embedding": embedding(model),
        "unembedding": unembedding(model).T,
    }


def _unit_rows(rows: Float[Tensor, "vector d_model"]) -> Float[Tensor, "vector d_model"]:
    """The rows divided by their lengths; rows that are zero up to rounding become zero."""
    norms = rows.norm(dim=-1, keepdim=True)
    return torch.where(norms > 1e-12, rows / norms, 0)
