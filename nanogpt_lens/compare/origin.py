"""Whether two models come from one start, told by their weights alone.

What training leaves of a start is a direction of every matrix: two models that share one have matrices with a positive
cosine, long after they have come to do different things. Those of separate starts are related as if one of them had
its residual stream's dimensions in another order, for these have no order of their own: initial weights are drawn
independently, and training treats all dimensions alike. So the cosines after such a reordering, of all matrices
together, are what separate starts would give: a permutation test, exact whatever the two have learnt from the same
data. LayerNorms, which all stay near 1, are left out.

Training may move weights so far that nothing of the start is left to see: "separate starts" says that none is seen.

The matrices are of a form that neither the order of heads or neurons nor the basis inside a head changes: the
embeddings, the unembedding, and for each layer the sums over heads of W_Q W_K^T and of W_V W_O, and W_in W_out.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.compare.components import check_one_shape, different_sizes, differing
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, provenance
from nanogpt_lens.model.weights import centred
from nanogpt_lens.results import Sample
from nanogpt_lens.results.weight_difference import Origin

LEVEL = 0.001
"""The share of pairs of separate starts that are taken for a shared one."""

_PIECE = 2**20
ORDERS = 999
"""The orders of the residual stream's dimensions that are drawn, so that the smallest p is `LEVEL`."""


def shared_start(a: Hooked, b: Hooked, *, seed: int = 0) -> Origin:
    """Tell from their weights alone whether two models come from one start.

    Args:
        a, b: HookedTransformers or TransformerBridges, without processed weights.
        seed: of the orders that are drawn.

    Returns:
        the cosine of each matrix with its range by chance, and the verdict: "identical" (every parameter is equal),
        "shared start" (the mean cosine is above that of all 999 orders: p = 0.001), "separate starts", "other shape".

    Raises:
        AnalysisError: a model is no plain nanoGPT model, or they differ in precision.
    """
    check_whole(seed=seed)
    for model in (a, b):
        check_model(model)
    different = different_sizes(a, b)
    if different:
        return _origin(a, b, [], torch.zeros(0), torch.zeros(ORDERS, 0), seed, "other shape", different)
    check_one_shape(a, b)
    if a.cfg.d_model < 7:  # 7! orders are the fewest of which 999 are mostly different
        raise AnalysisError(
            f"the residual stream has {a.cfg.d_model} dimensions, which have too few orders to tell a shared start by; "
            "expected 7 or more"
        )
    with torch.no_grad():
        names, cosines, drawn = _cosines(a, b, seed)
    p = (int((drawn.mean(1) >= cosines.mean()).sum()) + 1) / (ORDERS + 1)
    verdict = "shared start" if p <= LEVEL else "separate starts"
    if not bool(differing(a, b).any()):
        verdict = "identical"
    return _origin(a, b, names, cosines, drawn, seed, verdict, "", p)


def _origin(
    a: Hooked,
    b: Hooked,
    names: list[str],
    cosines: Float[Tensor, " matrix"],
    drawn: Float[Tensor, "order matrix"],
    seed: int,
    verdict: Any,
    different: str,
    p: float = float("nan"),
) -> Origin:
    """The result; without matrices where the models have other shapes."""
    drawn = drawn.double()
    ends = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype), dim=0) if names else torch.zeros(2, 0)
    mean, null = (cosines.double().mean(), drawn.mean(1)) if names else (torch.tensor(float("nan")), torch.zeros(2))
    return Origin(
        values=cosines.double(),
        axes=("matrix",),
        labels={"matrix": tuple(names)},
        quantity="cosine of a matrix of b with that of a",
        definition="between centred matrices in a form that neither the order of heads and neurons nor the basis "
        f"inside a head changes; by chance: {ORDERS} orders of b's residual dimensions, the same for all its matrices",
        title="shared start",
        signed=True,
        verdict=verdict,
        chance_low=ends[0],
        chance_high=ends[1],
        cosine=float(mean),
        chance_mean=float(null.mean()) if names else float("nan"),
        chance_deviation=float(null.std()) if names else float("nan"),
        p=p,
        level=LEVEL,
        different=different,
        sample=Sample(seed=seed),
        provenance=provenance(b, a=provenance(a), seed=seed),
    )


def _cosines(
    a: Hooked, b: Hooked, seed: int
) -> tuple[list[str], Float[Tensor, " matrix"], Float[Tensor, "order matrix"]]:
    """The names of the matrices, their cosines, and their cosines under each order of b's residual dimensions."""
    generator = torch.Generator().manual_seed(seed)
    d_model = a.cfg.d_model
    orders = torch.stack([torch.randperm(d_model, generator=generator) for _ in range(ORDERS)])
    rows, names = [], list[str]()
    plain = torch.arange(d_model)[None]
    every = torch.cat([plain, orders]).to(a.W_E.device)
    for name in ("embed", "pos_embed", "unembed"):
        one, two = _outer(a, name), _outer(b, name)
        together = one.T @ two  # entry [i, j]: what dimension i of a has in common with j of b
        rows.append(together[torch.arange(d_model, device=one.device), every].sum(1) / (one.norm() * two.norm()))
        names.append(name)
    for layer in range(a.cfg.n_layers):
        for name, one, two in zip(("qk", "ov", "mlp"), _inner(a, layer), _inner(b, layer), strict=True):
            scale = one.norm() * two.norm()
            pieces = every.split(max(1, _PIECE // d_model**2))
            products = [(one * two[piece[:, :, None], piece[:, None]]).sum((1, 2)) for piece in pieces]
            rows.append(torch.cat(products) / scale)
            names.append(f"{layer}.{name}")
    cosines = torch.stack(rows).nan_to_num(0.0).double().cpu()  # a matrix of zeros has no direction
    return names, cosines[:, 0], cosines[:, 1:].T


def _outer(model: Hooked, name: str) -> Float[Tensor, "row d_model"]:
    """An embedding or the unembedding, centred over the residual dimensions."""
    matrix = {"embed": lambda: model.W_E, "pos_embed": lambda: model.W_pos, "unembed": lambda: model.W_U.T}[name]()
    return centred(matrix.detach().double(), -1)


def _inner(model: Hooked, layer: int) -> list[Float[Tensor, "d_model d_model"]]:
    """What the heads of a layer compare, what they move, and what its MLP would map linearly, centred on both sides."""
    attention, mlp = model.blocks[layer].attn, model.blocks[layer].mlp
    q, k, v, o = (getattr(attention, f"W_{part}").detach().double() for part in "QKVO")
    matrices = [
        einsum(q, k, "head i d_head, head j d_head -> i j"),
        einsum(v, o, "head i d_head, head d_head j -> i j"),
        mlp.W_in.detach().double() @ mlp.W_out.detach().double(),
    ]
    return [centred(centred(matrix, 0), 1) for matrix in matrices]
