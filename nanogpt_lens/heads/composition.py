"""Composition of heads, from their weights: how much of what an earlier head writes a later head reads.

An induction head, for example, makes its keys from what a previous-token head writes: K-composition.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, evaluating, provenance
from nanogpt_lens.model.weights import head_weights
from nanogpt_lens.results import Sample, Scores

CompositionMode: TypeAlias = Literal["Q", "K", "V"]
"""What the later head makes from what the earlier one writes."""


def composition_scores(model: Hooked, *, mode: CompositionMode = "K", samples: int = 100, seed: int = 0) -> Scores:
    """How much of what each head writes each later head reads into its queries, keys or values.

    With W_OV = W_V W_O of the earlier head and, of the later one, R = W_Q W_K^T for queries, its
    transpose for keys, W_V W_O for values, the score is ||W_OV R|| / (||W_OV|| ||R||), in Frobenius
    norms: 1 at most, if everything goes through one direction. LayerNorm weights are folded in, its scale
    and biases left out (see `head_weights`).

    Random matrices compose as well. `chance` is the mean over random heads, all entries normal, of the
    same shapes in the d_model - 1 directions that LayerNorm leaves; Elhage et al. subtract it. The range
    that holds 95% of the random heads is in the definition. It says what no alignment at all would
    give; trained heads share the embedding's main directions, so that most pairs are above it: compare
    pairs with one another too, and confirm one by path patching.

    Args:
        model: the model.
        mode: "Q", "K" or "V".
        samples: the number of random pairs of heads.
        seed: the seed of the random heads.

    Returns:
        Scores [sender_layer, sender_head, layer, head], from 0 to 1; nan where the sender is not in an
        earlier layer, 0 where one of the heads is zero.

    Raises:
        AnalysisError: the mode is unknown, there are fewer than 2 samples, or the model has no LayerNorm.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", Q-, K- and
    V-composition; `all_composition_scores` of TransformerLens on processed weights.
    """
    if mode not in get_args(CompositionMode):
        raise AnalysisError(f"mode is {mode!r}; expected Q, K or V")
    check_whole(samples=samples, seed=seed)
    if samples < 2:
        raise AnalysisError(f"samples is {samples}; expected at least 2 random pairs of heads, such as 100")
    with evaluating(model):
        weights = head_weights(model)
        reads, passes = {"Q": (weights.q, weights.k), "K": (weights.k, weights.q), "V": (weights.v, weights.o.mT)}[mode]
        values = torch.full((model.cfg.n_layers, model.cfg.n_heads) * 2, torch.nan, dtype=torch.float64)
        for layer in range(1, model.cfg.n_layers):
            for sender in range(layer):
                scores = _composition(weights.v[sender], weights.o[sender], reads[layer], passes[layer])
                values[sender, :, layer] = scores.cpu()
    random = _random_scores(model.cfg.d_model - 1, model.cfg.d_head, samples, seed)
    low, high = torch.quantile(random, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    chance = torch.full_like(values, random.mean().item())
    return Scores(
        values=values,
        axes=("sender_layer", "sender_head", "layer", "head"),
        quantity=f"{mode}-composition, 0 to 1",
        definition=f"||W_OV R|| / (||W_OV|| ||R||), LayerNorm weights folded in (Elhage et al. 2021); chance: random "
        f"heads of the same shapes, 95% of which are from {low:.4f} to {high:.4f}",
        chance=chance.where(~values.isnan(), torch.nan),
        title=f"{mode}-composition",
        sample=Sample(seed=seed),
        provenance={
            **provenance(model, mode=mode, samples=samples, seed=seed),
            "random": {"mean": random.mean().item(), "std": random.std().item(), "low": low, "high": high},
        },
    )


def _composition(
    v: Float[Tensor, "sender d_model d_head"],
    o: Float[Tensor, "sender d_head d_model"],
    reads: Float[Tensor, "receiver d_model d_head"],
    passes: Float[Tensor, "receiver d_model d_head"],
) -> Float[Tensor, "sender receiver"]:
    """The scores of W_OV = v o of the senders with R = reads passes^T of the receivers.

    Multiplying by a matrix with orthonormal columns keeps a norm, so that the outer factors can be
    replaced by the triangles of their QR decompositions: nothing is larger than d_head by d_head.
    """
    before, after = _triangle(v), _triangle(passes).mT
    both = before[:, None] @ (o[:, None] @ reads[None]) @ after[None]
    sender = (before @ _triangle(o.mT).mT).norm(dim=(-2, -1))
    receiver = (_triangle(reads) @ after).norm(dim=(-2, -1))
    return (both.norm(dim=(-2, -1)) / (sender[:, None] * receiver[None])).nan_to_num(0.0)


def _triangle(matrix: Float[Tensor, "head rows columns"]) -> Float[Tensor, "head rank columns"]:
    """The triangle R of the QR decomposition of each head's matrix."""
    return torch.linalg.qr(matrix, mode="r").R


def _random_scores(width: int, d_head: int, samples: int, seed: int) -> Float[Tensor, " sample"]:
    """The scores of random heads; by symmetry the same for Q, K and V."""
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(samples):
        v, o, reads, passes = torch.randn(4, 1, width, d_head, generator=generator, dtype=torch.float64)
        scores.append(_composition(v, o.mT, reads, passes).squeeze())
    return torch.stack(scores)
