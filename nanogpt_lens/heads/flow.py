"""Rollout and flow: how much each input token reaches a position through all layers of attention.

Both look at one graph: a node for each position before the first and after every layer, and from
each node edges down to the layer before, weighted by attention, the residual stream counted as
attention to oneself. Rollout multiplies the weights along paths; flow takes them as capacities
of pipes. Neither sees what the heads write, nor the MLPs: they bound where information can come
from, and say nothing of what it does.

Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.attention import attention_patterns
from nanogpt_lens.model.access import Hooked, Text, provenance
from nanogpt_lens.results import AttentionPatterns, MixedAttention

Heads: TypeAlias = Literal["mean", "max"]
"""How the heads of a layer become one: their mean, as in the paper, or their largest attention."""

_UNIT = 2**30  # scipy's flows are 32-bit integers; wider ones would overflow without an error


def attention_rollout(model: Hooked, text: Text, *, residual: float = 0.5, heads: Heads = "mean") -> MixedAttention:
    """Attention rollout: the product of all layers' attention up to each layer.

    A layer's matrix is residual * I + (1 - residual) * A, A the heads' mean (or maximum), with
    each row divided by its sum.

    Args:
        model: the model.
        text: one text or several of one length, or token ids [pos] or [example, pos].
        residual: the weight of the residual stream, from 0 to 1; the paper has one half.
        heads: how the heads of a layer become one.

    Returns:
        Shares [layer, dest_pos, src_pos], with `example` in front for several texts: how much of
        position `dest_pos` after `layer` comes from the input token `src_pos`. Rows sum to 1.

    Raises:
        AnalysisError: `residual` or `heads` is another, or the tokens do not fit the model.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".
    """
    patterns, mixed = _graph(model, text, residual, heads)
    total = torch.eye(mixed.shape[-1], dtype=mixed.dtype)
    products = []
    for layer in mixed.unbind(-3):
        total = layer @ total
        products.append(total)
    axes = tuple(axis for axis in patterns.axes if axis != "head")
    return MixedAttention(
        values=torch.stack(products, dim=-3),
        axes=axes,
        labels=patterns.labels,
        quantity="attention rollout",
        definition=f"product over layers of {_formula(residual, heads)} (Abnar and Zuidema 2020)",
        method="rollout",
        provenance=provenance(model, residual=residual, heads=heads),
    )


def attention_flow(
    model: Hooked,
    text: Text,
    *,
    pos: int | None = -1,
    layer: int | None = -1,
    residual: float = 0.5,
    heads: Heads = "mean",
    progress: bool = True,
) -> MixedAttention:
    """Attention flow: the largest flow from a position after a layer down to each input token.

    The capacities are the matrices of `attention_rollout`; the flow is computed for every pair of
    position and token by itself, so that a row does not sum to 1. (The authors' code divides each
    row by its sum.) Capacities are rounded to multiples of 2**-30, so that each flow is wrong by at
    most 2**-31 times the number of edges of a minimum cut, some 1e-7.

    Args:
        model: the model.
        text: one text, or its token ids [pos].
        pos: the position that the flow starts from, negative from the end; None for all.
        layer: the layer after which it starts, negative from the end; None for all.
        residual: the weight of the residual stream, from 0 to 1; the paper has one half.
        heads: how the heads of a layer become one.
        progress: show a bar.

    Returns:
        Flows [src_pos] from 0 to 1, with `dest_pos` in front where `pos` is None, and `layer` before
        that where `layer` is None.

    Raises:
        AnalysisError: there are several texts, there is no such position or layer, `residual` or `heads`
            is another, or the tokens do not fit the model.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".
    """
    patterns, mixed = _graph(model, text, residual, heads)
    if mixed.dim() != 3:
        raise AnalysisError(f"there are {len(mixed)} texts; expected one: call attention_flow for each")
    n_layers, n_pos = mixed.shape[:2]
    positions = [_index(pos, n_pos, "pos")] if pos is not None else list(range(n_pos))
    layers = [_index(layer, n_layers, "layer")] if layer is not None else list(range(n_layers))
    values = torch.zeros(len(layers), len(positions), n_pos, dtype=torch.float64)
    graph = _network(mixed)
    with tqdm(
        total=len(layers) * sum(p + 1 for p in positions), desc="attention flow", delay=1, disable=not progress
    ) as bar:
        for i, above in enumerate(layers):
            for j, start in enumerate(positions):
                values[i, j, : start + 1] = _flows(graph, (above + 1) * n_pos + start, start + 1)
                bar.update(start + 1)
    values = values[:, 0] if pos is not None else values
    values = values[0] if layer is not None else values
    axes = (*(["layer"] if layer is None else []), *(["dest_pos"] if pos is None else []), "src_pos")
    origin = "" if pos is None else f" from position {positions[0]}"
    origin += "" if layer is None else f" after layer {layers[0]}"
    return MixedAttention(
        values=values,
        axes=axes,
        labels={axis: labels for axis, labels in patterns.labels.items() if axis in axes},
        quantity="attention flow",
        definition=f"maximum flow{origin} to each input token, through capacities {_formula(residual, heads)} "
        "rounded to 2**-30 (Abnar and Zuidema 2020)",
        method="flow",
        pos=None if pos is None else positions[0],
        provenance=provenance(model, pos=pos, layer=layer, residual=residual, heads=heads),
    )


def _graph(
    model: Hooked, text: Text, residual: float, heads: Heads
) -> tuple[AttentionPatterns, Float[Tensor, "*example layer dest_pos src_pos"]]:
    """The patterns, and one matrix for each layer, with the residual stream mixed in; float64."""
    if heads not in get_args(Heads):
        raise AnalysisError(f"heads is {heads!r}; expected mean or max")
    number = isinstance(residual, int | float) and not isinstance(residual, bool) and math.isfinite(residual)
    if not number or not 0 <= residual <= 1:
        raise AnalysisError(f"residual is {residual!r}; expected a number from 0 to 1, such as 0.5")
    patterns = attention_patterns(model, text)
    each = patterns.values.double()
    combined = each.mean(-3) if heads == "mean" else each.amax(-3)
    mixed = residual * torch.eye(each.shape[-1], dtype=torch.float64) + (1 - residual) * combined
    return patterns, mixed / mixed.sum(-1, keepdim=True)


def _network(mixed: Float[Tensor, "layer dest_pos src_pos"]) -> Any:
    """A sparse matrix of integer capacities; its node (layer + 1) * n_pos + pos is a position after a layer."""
    from scipy.sparse import csr_array

    n_layers, n_pos = mixed.shape[:2]
    capacity = (mixed * _UNIT).round().to(torch.int32)
    layer, dest, src = capacity.nonzero(as_tuple=True)
    ends = ((layer + 1) * n_pos + dest).numpy(), (layer * n_pos + src).numpy()
    n_nodes = (n_layers + 1) * n_pos
    return csr_array((capacity[layer, dest, src].numpy(), ends), shape=(n_nodes, n_nodes))


def _flows(graph: Any, start: int, n_inputs: int) -> Float[Tensor, " src_pos"]:
    """The maximum flow from a node to each of the first inputs."""
    from scipy.sparse.csgraph import maximum_flow

    flows = [maximum_flow(graph, start, sink).flow_value for sink in range(n_inputs)]
    return torch.tensor(flows, dtype=torch.float64) / _UNIT


def _index(number: int, n: int, name: str) -> int:
    """A position or layer counted from 0; AnalysisError unless it is one of `n`."""
    if isinstance(number, bool) or not isinstance(number, int) or not -n <= number < n:
        raise AnalysisError(f"{name} is {number!r}; expected {-n} to {n - 1}, or None for all")
    return number % n


def _formula(residual: float, heads: str) -> str:
    """What the matrix of a layer is, in words."""
    return f"{residual:g} * I + {1 - residual:g} * ({heads} over heads of A), rows divided by their sum,"
