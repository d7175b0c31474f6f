"""Two cheap scores of edges, as rivals: what the weights alone say, and what attention alone says.

Neither is an estimate of an effect: they have no unit and no sign, and only their order means something.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.nodes import Node
from nanogpt_lens.model.access import Hooked, record
from nanogpt_lens.model.weights import centred, embedding, head_weights, norm_weight, unembedding


def by_weights(model: Hooked) -> Float[Tensor, " edge"]:
    """How much of what each sender writes each receiver reads: ||W R|| / (||W|| ||R||), in Frobenius norms.

    W is a head's W_V W_O, an MLP's W_out or the embedding; R a head's W_Q W_K^T, its transpose or W_V W_O, an MLP's
    W_in, or the unembedding. LayerNorm weights are folded in, and biases left out.

    Source: Elhage et al. 2021, composition; here for all edges.
    """
    graph, heads = CircuitGraph(model), head_weights(model)
    ov = heads.v @ heads.o
    qk = heads.q @ heads.k.mT

    def writes(node: Node) -> Tensor:
        if node.kind == "head":
            return ov[node.layer, node.head]
        if node.kind == "mlp":
            return centred(model.blocks[node.layer].mlp.W_out.detach().double(), -1)
        return torch.cat([embedding(model), centred(model.W_pos.detach().double(), -1)])

    def reads(node: Node) -> Tensor:
        if node.kind == "head":
            matrix = {"q": qk, "k": qk.mT, "v": ov}[node.part]
            return matrix[node.layer, node.head]
        if node.kind == "mlp":
            block = model.blocks[node.layer]
            return centred(block.mlp.W_in.detach().double() * norm_weight(model, block.ln2)[:, None], 0)
        return unembedding(model)

    written, read = {s: writes(s) for s in graph.senders}, {r: reads(r) for r in graph.receivers}
    scores = [_composition(written[edge.sender], read[edge.receiver]) for edge in graph.edges]
    return torch.tensor(scores, dtype=torch.float64)


def by_attention(
    model: Hooked, clean: Float[Tensor, "example pos"] | Tensor, corrupted: Tensor | None
) -> Float[Tensor, " edge"]:
    """How much the patterns of the heads at an edge's ends differ between both runs; the product, where both are heads.

    A head's number is the mean over examples of the largest total variation of any query's attention. MLPs, the
    embedding and the logits count as 1, having none.

    Raises:
        AnalysisError: there is no corrupted text.
    """
    if corrupted is None:
        raise AnalysisError("attention compares the clean and the corrupted run; give a corrupted text")
    graph = CircuitGraph(model)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(graph.n_layers)]
    one, two = record(model, clean, names), record(model, corrupted, names)
    moved = torch.stack([((one[name] - two[name]).abs().sum(-1) / 2).amax(-1).mean(0) for name in names]).double()

    def share(node: Node) -> float:
        return float(moved[node.layer, node.head]) if node.kind == "head" else 1.0

    return torch.tensor([share(edge.sender) * share(edge.receiver) for edge in graph.edges], dtype=torch.float64)


def _composition(written: Float[Tensor, "_ d_model"], read: Float[Tensor, "d_model _"]) -> float:
    norms = written.norm() * read.norm()
    return float((written @ read).norm() / norms) if norms > 0 else 0.0
