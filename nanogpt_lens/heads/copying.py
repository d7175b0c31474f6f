"""Copying: how much a head raises the logit of the token that it attends to.

There are two measures: one of the weights alone (Elhage et al. 2021), and one of what the head does on
random tokens (Olsson et al. 2022, "copying" head evaluator).
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields
from nanogpt_lens.model.access import Edit, Hooked, check_model, evaluating, n_tokens, provenance, run
from nanogpt_lens.model.weights import embedding, head_weights, rounding, unembedding
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.prompts import random_tokens

CopyingMethod: TypeAlias = Literal["eigenvalues", "logits"]
"""Whether copying is measured on the weights, or on what the head writes on random tokens."""


def copying_score(
    model: Hooked, *, method: CopyingMethod = "eigenvalues", seq_len: int | None = None, n: int = 32, seed: int = 0
) -> Scores:
    """How much each head copies, from -1 (never the attended token) to 1 (that token alone).

    "eigenvalues": sum(Re λ) / sum(|λ|) over the eigenvalues λ of the full OV circuit
    W_E W_V W_O W_U, which maps an attended token to logits; 1 where all are positive. W_U is centred over
    the vocabulary, so that what a head writes has logits of mean zero: that changes no softmax, but the score,
    which for the raw W_U can be far from this one. LayerNorm
    weights are folded in, its scale and all biases left out (see `head_weights`); position
    embeddings and what other layers do to the token are left out as well. Chance is 0: W_V and
    -W_V have opposite scores. (Elhage et al. 2021, "Detecting copying behavior".)

    "logits": for each attended token, what the head writes from it is mapped to logits along the
    direct path, their mean over the vocabulary is subtracted, and a ReLU keeps what is raised.
    With a the raise of the attended token and T that of all tokens of the sequence, the ratio
    a / (a + T), from 0 to 1/2, is scaled to -1 to 1. Scores are averaged over attended tokens with
    the head's attention as weights, then over positions and sequences. Chance is the same score with
    a random token of the sequence in the place of the attended one; it is near -1, not near 0.
    (Olsson et al. 2022, "Head activation evaluators": they name the ReLU, the ratio, and its range
    from 0 to 0.5. That each attended token is scored by itself, and biases are left out, is our choice.
    They leave out the most and least common tokens, which takes a corpus; this function does not.)

    A head whose circuit is zero up to rounding scores 0.

    Args:
        model: the model.
        method: "eigenvalues" or "logits", see above.
        seq_len: for "logits": the tokens of a sequence; None for 25, or as many as context and
            vocabulary allow without repeats.
        n, seed: for "logits": the number of sequences, and the seed of their tokens.

    Returns:
        Scores [layer, head] without unit; "logits" with intervals over the sequences.

    Raises:
        AnalysisError: the method is unknown, the sequences do not fit the context, or the model has no LayerNorm.
    """
    if method not in get_args(CopyingMethod):
        raise AnalysisError(f"method is {method!r}; expected {' or '.join(get_args(CopyingMethod))}")
    check_model(model)
    check_whole(seed=seed)
    check_whole(1, n=n)
    if method == "eigenvalues":
        with evaluating(model):
            values = _eigenvalue_scores(model)
        return Scores(
            values=values,
            axes=("layer", "head"),
            quantity="copying score, -1 to 1",
            definition="sum(Re λ) / sum(|λ|) of W_E W_V W_O W_U, W_U centred over the vocabulary, LayerNorm weights "
            "folded in (Elhage et al. 2021)",
            chance=torch.zeros_like(values),
            title="copying score",
            signed=True,
            provenance=provenance(model, method=method),
        )
    length = min(25, model.cfg.n_ctx, n_tokens(model)) if seq_len is None else seq_len
    check_whole(seq_len=length)
    if not 2 <= length <= model.cfg.n_ctx:
        raise AnalysisError(f"seq_len is {length}; expected 2 to {model.cfg.n_ctx}, the model's context")
    tokens = random_tokens(model, n, length, repeats="forbid", generator=torch.Generator().manual_seed(seed))
    with evaluating(model):
        scores, chance = _logit_scores(model, tokens)
    return Scores(
        **mean_fields(scores),
        axes=("layer", "head"),
        quantity="copying score, -1 to 1",
        definition="4a / (a + T) - 1, a: raise of the attended token's logit, T: of all tokens' in the sequence, "
        "weighted by attention (Olsson et al. 2022); chance: a random token of the sequence for the attended one",
        chance=chance.mean(-1),
        chance_per_example=chance,
        tested="chance",
        title="copying score",
        signed=True,
        sample=Sample(n=n, seq_len=length, seed=seed),
        provenance=provenance(model, method=method, seq_len=length, n=n, seed=seed),
    )


def _eigenvalue_scores(model: Hooked) -> Float[Tensor, "layer head"]:
    """The scores by eigenvalues: those of AB other than zero are those of BA, which is d_head by d_head here."""
    weights = head_weights(model)
    between = unembedding(model) @ embedding(model)  # [d_model, d_model]
    circuit = weights.o @ between @ weights.v  # [layer, head, d_head, d_head]
    scale = weights.o.norm(dim=(-2, -1)) * between.norm() * weights.v.norm(dim=(-2, -1))
    eigenvalues = torch.linalg.eigvals(circuit)
    total = eigenvalues.abs().sum(-1)
    nothing = circuit.norm(dim=(-2, -1)) <= rounding(model) * scale
    return (eigenvalues.real.sum(-1) / total).masked_fill(nothing | (total == 0), 0.0)


def _logit_scores(
    model: Hooked, tokens: Int[Tensor, "example pos"]
) -> tuple[Float[Tensor, "layer head example"], Float[Tensor, "layer head example"]]:
    """The scores by logits, and their chance level."""
    weights = head_weights(model)
    unembed = unembedding(model)
    norms = weights.v.norm(dim=(-2, -1)) * weights.o.norm(dim=(-2, -1)) * unembed.norm(dim=0).max()
    tiny = rounding(model) * model.cfg.d_model**0.5 * norms  # [layer, head]; a normalised stream has this length
    pieces: list[Tensor] = []
    for rows in batches(model, tokens):
        read = unembed[:, tokens[rows]]  # [d_model, example, token of the sequence]
        kept: dict[str, Tensor] = {}
        run(model, tokens[rows], {name: _keep(kept, name) for name in _names(model)})
        layers = []
        for layer in range(model.cfg.n_layers):
            stream = kept[f"blocks.{layer}.ln1.hook_normalized"].double()
            written = torch.einsum("bjm,hmd,hdn->bjhn", stream, weights.v[layer], weights.o[layer])
            logits = torch.einsum("bjhn,nbk->hbjk", written, read)
            attended, random = _scores_of_keys(logits, tiny[layer])
            received = kept[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)  # [head, example, attended token]
            layers.append(torch.stack([(received * attended).sum(-1), (received * random).sum(-1)]))
        pieces.append(torch.stack(layers, 1))
    scores, chance = torch.cat(pieces, -1)
    return scores, chance


def _names(model: Hooked) -> list[str]:
    """The hook points of what the heads read, and of their patterns."""
    hooks = ("ln1.hook_normalized", "attn.hook_pattern")
    return [f"blocks.{layer}.{hook}" for layer in range(model.cfg.n_layers) for hook in hooks]


def _keep(kept: dict[str, Tensor], name: str) -> Edit:
    """An edit that keeps the stream; of a pattern only its mean over queries, [example, head, key]."""

    def edit(value: Tensor) -> None:
        kept[name] = value.double().mean(2) if name.endswith("pattern") else value.clone()

    return edit


def _scores_of_keys(
    logits: Float[Tensor, "head example key key"], tiny: Float[Tensor, " head"]
) -> tuple[Float[Tensor, "head example key"], Float[Tensor, "head example key"]]:
    """The score of each attended token, and that of a random token of the sequence in its place.

    Args:
        logits: what is written from each key, onto the token of each key.
        tiny: the magnitude up to which a head's logit is rounding.
    """
    logits = logits.where(logits.abs() > tiny[:, None, None, None], 0.0)
    raised = logits.relu()
    ratio = raised / (raised + raised.sum(-1, keepdim=True))
    score = (4 * ratio.nan_to_num(0.0) - 1) * (logits != 0).any(-1, keepdim=True)
    return score.diagonal(dim1=-2, dim2=-1), score.mean(-1)
