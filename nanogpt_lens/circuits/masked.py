"""Any set of edges in one run, and many sets in one batch.

An input is what it would be if every sender wrote what is put in its place, plus, for every edge of the set, the
difference that the sender makes in this very run. So the whole graph is the clean run, no edge is the other run, and
an edge of the set carries what its sender computes from the set, not what it computed in the clean run. The mask of a
set is [receiver, sender]; sets ride on the batch axis. `MaskedRuns` proves on the run at hand that the whole graph
gives the model's own logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.written import written
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.nodes import Node
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.patching.continuation import TOLERANCE, is_plain, score_scale


def hook_read(receiver: Node, n_layers: int) -> str:
    """The hook point of the residual stream that a receiver reads."""
    if receiver.kind == "logits":
        return f"blocks.{n_layers - 1}.hook_resid_post"
    return f"blocks.{receiver.layer}." + ("hook_resid_mid" if receiver.kind == "mlp" else "hook_resid_pre")


def names_read(n_layers: int) -> list[str]:
    """The hook points that `MaskedRuns` needs of the clean run, beside `names_written`."""
    streams = [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in ("hook_resid_pre", "hook_resid_mid")]
    return [*streams, f"blocks.{n_layers - 1}.hook_resid_post"]


class MaskedRuns:
    """Runs in which only some edges carry what their senders compute.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        run: the clean run's activations at `names_written` and `names_read`, and its "logits".
        others: what takes the place of what the senders wrote.
        reads: the positions whose logits are read, ascending.

    Raises:
        AnalysisError: the model is of another architecture, or somebody attached hooks to it.
    """

    def __init__(
        self,
        model: Hooked,
        run: Mapping[str, Float[Tensor, ...]],
        others: Float[Tensor, "sender example pos d_model"],
        reads: Sequence[int],
    ) -> None:
        self.model, self.graph, self.reads = model, CircuitGraph(model), list(reads)
        end = self.reads[-1] + 1  # what comes after changes nothing that is read
        self.live, self.others = written(model, run)[:, :, :end], others[:, :, :end]
        self.logits = run["logits"][:, self.reads]
        changes = (self.others - self.live).cumsum(0)
        self._without: dict[str, Tensor] = {
            str(receiver): run[hook_read(receiver, self.graph.n_layers)][:, :end]
            + changes[self.graph.n_before(receiver) - 1]
            for receiver in self.graph.receivers
        }
        self._check()

    def _check(self) -> None:
        """Raise AnalysisError unless the whole graph gives the model's own logits."""
        cfg = self.model.cfg
        if not is_plain(self.model) or getattr(cfg, "attn_only", False) or self.logits.dtype not in TOLERANCE:
            raise AnalysisError(
                "circuits need a nanoGPT model in float32 or float64 to which no hooks are attached; this one is "
                f"{type(self.model).__name__}, {str(cfg.dtype).removeprefix('torch.')}: load it with ngl.load"
            )
        with torch.no_grad():
            again = self(self.graph.all_edges[None].to(self.logits))[0]
        error = float((again - self.logits).abs().max() / self.logits.abs().max().clamp_min(1.0))
        if not error <= TOLERANCE[self.logits.dtype]:
            raise AnalysisError(
                f"the whole graph gives logits that are {error:.1e} from the model's own, relative to the largest; "
                "expected the same: the model computes something that a graph of heads and MLPs does not know"
            )

    def __call__(
        self,
        masks: Shaped[Tensor, "set receiver sender"],
        *,
        embed: Float[Tensor, "example pos d_model"] | None = None,
        probes: Mapping[str, Float[Tensor, ...]] | None = None,
    ) -> Float[Tensor, "set example read d_vocab"]:
        """The logits at the positions that are read, of one run for each set.

        Args:
            masks: for each set 1 where an edge carries what its sender computes, 0 where it does not; something
                between mixes both.
            embed: what the embedding writes; None for the clean run's.
            probes: by the name of a receiver, what is added to its input; for gradients.
        """
        masks, probes = masks.to(self.live), probes or {}
        start = self.live[0] if embed is None else embed
        differences = (start - self.others[0]).expand(len(masks), 1, *start.shape)
        row = 0
        for layer in range(self.graph.n_layers):
            nodes, (other_heads, other_mlp) = self.graph.attention_inputs(layer), self._others(layer)
            inputs = self._inputs(nodes, masks[:, row : row + len(nodes)], differences, probes)
            differences = torch.cat([differences, self._heads(layer, inputs) - other_heads], 1)
            row += len(nodes)
            inputs = self._inputs([self.graph.receivers[row]], masks[:, row : row + 1], differences, probes)
            differences = torch.cat([differences, self._mlp(layer, inputs) - other_mlp], 1)
            row += 1
        final = self._inputs([self.graph.receivers[row]], masks[:, row:], differences, probes)[:, 0]
        flat = rearrange(final[:, :, self.reads], "set example read d_model -> (set example) read d_model")
        logits = self.model.unembed(self.model.ln_final(flat.contiguous()))
        return rearrange(logits, "(set example) read d_vocab -> set example read d_vocab", set=len(masks))

    def _inputs(
        self,
        receivers: Sequence[Node],
        masks: Float[Tensor, "set receiver sender"],
        differences: Float[Tensor, "set before example pos d_model"],
        probes: Mapping[str, Float[Tensor, ...]],
    ) -> Float[Tensor, "set receiver example pos d_model"]:
        """What enters some receivers, which read the same senders."""
        names = [str(receiver) for receiver in receivers]
        n_before = differences.shape[1]
        carried = einsum(
            masks[:, :, :n_before],
            differences,
            "set receiver before, set before example pos d_model -> set receiver example pos d_model",
        )
        inputs = self._without[names[0]] + carried
        if any(name in probes for name in names):
            inputs = inputs + torch.stack([probes[name] for name in names])
        return inputs

    def _others(self, layer: int) -> tuple[Tensor, Tensor]:
        """What is put in the place of a layer's heads [head, example, pos, d_model], and of its MLP [1, ...]."""
        n_heads = self.graph.n_heads
        heads, mlp = self.others[1 + layer * (n_heads + 1) :][: n_heads + 1].split([n_heads, 1])
        return heads, mlp

    def _heads(
        self, layer: int, inputs: Float[Tensor, "set part_head example pos d_model"]
    ) -> Float[Tensor, "set head example pos d_model"]:
        """What a layer's heads write, from what enters their queries, keys and values."""
        block = self.model.blocks[layer]
        n_sets, n_examples = inputs.shape[0], inputs.shape[2]
        flat = rearrange(inputs, "set part_head example pos d_model -> (set part_head example) pos d_model")
        normal = rearrange(
            block.ln1(flat.contiguous()),
            "(set part head example) pos d_model -> part set head example pos d_model",
            set=n_sets,
            part=3,
            example=n_examples,
        )
        q, k, v = (
            einsum(x, weight, "set head example pos d_model, head d_model d_head -> set head example pos d_head")
            + rearrange(bias, "head d_head -> head 1 1 d_head")
            for x, weight, bias in zip(
                normal,
                (block.attn.W_Q, block.attn.W_K, block.attn.W_V),
                (block.attn.b_Q, block.attn.b_K, block.attn.b_V),
                strict=True,
            )
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / score_scale(self.model, layer))
        return einsum(
            z, block.attn.W_O, "set head example pos d_head, head d_head d_model -> set head example pos d_model"
        )

    def _mlp(
        self, layer: int, inputs: Float[Tensor, "set 1 example pos d_model"]
    ) -> Float[Tensor, "set 1 example pos d_model"]:
        """What a layer's MLP writes, from what enters it."""
        block = self.model.blocks[layer]
        flat = rearrange(inputs, "set one example pos d_model -> (set one example) pos d_model")
        return block.mlp(block.ln2(flat.contiguous())).view_as(inputs)
