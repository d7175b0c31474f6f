"""Any set of edges in one run, and many sets in one batch.

An input is what it would be if every sender wrote what is put in its place, plus, for every edge of the set, the
difference that the sender makes in this very run. So the whole graph is the clean run, no edge is the other run, and
an edge of the set carries what its sender computes from the set, not what it computed in the clean run. The mask of a
set is [receiver, sender]; sets ride on the batch axis. `MaskedRuns` proves on the run at hand that the whole graph
gives the model's own logits.

Nothing is computed twice or for nobody: sets that agree on the first layers share them (`first_layers`), a node whose
inputs are all put in place writes the same in every run, and a node that no set reads is not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from nanogpt_lens.circuits.flow import Flow, Shared
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.written import written
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.nodes import stream_hook
from nanogpt_lens.interventions.receiving import normalised
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.patching.continuation import TOLERANCE, is_plain, score_scale


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

    Attributes:
        layer_passes: how many layers have been computed, of all runs together; `n_layers` of them are a forward pass.

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
        self.layer_passes = 0
        self._qkv: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept_mask, self._kept = torch.zeros_like(self.graph.all_edges), dict[int, Shared]()
        self._without: dict[str, Tensor] = {
            str(receiver): run[stream_hook(receiver, self.graph.n_layers)][:, :end]
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
        masks: Shaped[Tensor, "set receiver sender *pos"],
        *,
        embed: Float[Tensor, "example pos d_model"] | None = None,
        probes: Mapping[str, Float[Tensor, ...]] | None = None,
        shared: Shared | None = None,
    ) -> Float[Tensor, "set example read d_vocab"]:
        """The logits at the positions that are read, of one run for each set.

        Args:
            masks: for each set 1 where an edge carries what its sender computes, 0 where it does not; something
                between mixes both. With a last axis for each position by itself, up to the last that is read.
            embed: what the embedding writes; None for the clean run's.
            probes: by the name of a receiver, what is added to its input; for gradients.
            shared: the first layers, where all sets agree on them.
        """
        masks = masks.to(self.live)
        flow = Flow(masks, probes or {}, self._start(embed) if shared is None else shared)
        for layer in range(flow.shared.n_layers, self.graph.n_layers):
            self._layer(layer, flow)
        self.layer_passes += len(masks) * (self.graph.n_layers - flow.shared.n_layers)
        final = self._inputs(flow, [len(self.graph.receivers) - 1])[:, 0]
        flat = rearrange(final[:, :, self.reads], "set example read d_model -> (set example) read d_model")
        logits = self.model.unembed(self.model.ln_final(flat.contiguous()))
        return rearrange(logits, "(set example) read d_vocab -> set example read d_vocab", set=len(masks))

    def shared_by(self, masks: Bool[Tensor, "set receiver sender"]) -> Shared | None:
        """The first layers, where all sets have the same edges into them; None where they differ in the first one.

        Of one set alone, the layers that are known from before.
        """
        if len(masks) == 1:
            known = self._known(masks[0], self.graph.n_layers)
            return self._kept[max(known)] if known else None
        differ = (masks != masks[0]).any(0).any(1).nonzero()
        n_layers = self.graph.n_layers if not len(differ) else self.graph.receivers[int(differ[0])].layer
        return self.first_layers(masks[0], n_layers) if n_layers else None

    def first_layers(self, mask: Bool[Tensor, "receiver sender"], n_layers: int) -> Shared:
        """What the first layers write, for sets that have the same edges into them; of the last such call, kept."""
        known = self._known(mask, n_layers)
        start = self._kept[max(known)] if known else self._start(None)
        self._kept = {i: self._kept[i] for i in known}
        self._kept_mask = mask.clone()
        flow = Flow(mask[None].to(self.live), {}, start)
        for layer in range(start.n_layers, n_layers):
            self._layer(layer, flow, everything=True)
            self._kept[layer + 1] = replace(flow.first_set(), n_layers=layer + 1)
        self.layer_passes += n_layers - start.n_layers
        return self._kept[n_layers] if n_layers else start

    def _known(self, mask: Bool[Tensor, "receiver sender"], most: int) -> list[int]:
        """How many first layers, of at most so many, are kept from before for a set with these edges into them."""
        rows = 3 * self.graph.n_heads + 1
        same = (mask == self._kept_mask).all(1).tolist()
        return [i for i in self._kept if i <= most and all(same[: i * rows])]

    def _start(self, embed: Float[Tensor, "example pos d_model"] | None) -> Shared:
        """What is there before the first layer."""
        return Shared(0, [0], ((self.live[0] if embed is None else embed) - self.others[0])[None])

    @cached_property
    def _silent(self) -> Float[Tensor, "sender example pos d_model"]:
        """The differences that senders make whose inputs are all put in place."""
        return self.first_layers(torch.zeros_like(self.graph.all_edges), self.graph.n_layers).differences

    def _layer(self, layer: int, flow: Flow, *, everything: bool = False) -> None:
        """Add what a layer's heads and MLP write to the flow; everything, or what is read and not silent."""
        n_heads = self.graph.n_heads
        sender, row = 1 + layer * (n_heads + 1), layer * (3 * n_heads + 1)
        rows_of = [[row + part * n_heads + head for part in range(3)] for head in range(n_heads)]
        heads = [head for head in range(n_heads) if everything or flow.needs(sender + head, rows_of[head])]
        if heads:
            inputs = self._inputs(flow, [rows_of[head][part] for part in range(3) for head in heads])
            flow.add([sender + h for h in heads], self._heads(layer, heads, inputs) - self._other(sender, heads))
        self._add_silent(flow, [sender + head for head in range(n_heads) if head not in heads])
        sender, row = sender + n_heads, row + 3 * n_heads
        if everything or flow.needs(sender, [row]):
            written_now = self._mlp(layer, self._inputs(flow, [row]))
            flow.add([sender], written_now - self._other(sender, [0]))
        else:
            self._add_silent(flow, [sender])

    def _add_silent(self, flow: Flow, senders: list[int]) -> None:
        """Add the differences of senders that are read but read nothing."""
        read = [sender for sender in senders if flow.is_read[sender]]
        if read:
            flow.add_shared(read, self._silent[read])

    def _other(self, first: int, offsets: list[int]) -> Float[Tensor, "sender example pos d_model"]:
        """What is put in the place of what some senders write."""
        return self.others[[first + offset for offset in offsets]]

    def _inputs(self, flow: Flow, rows: list[int]) -> Float[Tensor, "set receiver example pos d_model"]:
        """What enters some receivers, which read the same senders."""
        names = [str(self.graph.receivers[row]) for row in rows]
        masks = flow.masks[:, rows]
        carried = _carried(masks[:, :, flow.shared.senders], flow.shared.differences[None])
        if flow.senders:
            carried = carried + _carried(masks[:, :, flow.senders], flow.differences())
        inputs = self._without[names[0]] + carried
        if any(name in flow.probes for name in names):
            inputs = inputs + torch.stack([flow.probes[name] for name in names])
        return inputs

    def _weights(
        self, layer: int
    ) -> tuple[Float[Tensor, "part_head d_model d_head"], Float[Tensor, "part_head d_head"]]:
        """The weights and biases of a layer's queries, keys and values."""
        if layer not in self._qkv:
            attn = self.model.blocks[layer].attn
            self._qkv[layer] = (torch.cat([attn.W_Q, attn.W_K, attn.W_V]), torch.cat([attn.b_Q, attn.b_K, attn.b_V]))
        return self._qkv[layer]

    def _heads(
        self, layer: int, heads: list[int], inputs: Float[Tensor, "set part_head example pos d_model"]
    ) -> Float[Tensor, "set head example pos d_model"]:
        """What some of a layer's heads write, from what enters their queries, keys and values."""
        block = self.model.blocks[layer]
        n_sets, _, n_examples, n_pos, _ = inputs.shape
        normal = normalised(self.model, block.ln1, inputs).flatten(2, 3)
        weight, bias = self._weights(layer)
        if len(heads) < self.graph.n_heads:
            rows = [part * self.graph.n_heads + head for part in range(3) for head in heads]
            weight, bias = weight[rows], bias[rows]
        q, k, v = rearrange(
            normal @ weight + bias[:, None],
            "set (part head) (example pos) d_head -> part (set head) example pos d_head",
            part=3,
            pos=n_pos,
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / score_scale(self.model, layer))
        flat = rearrange(z, "(set head) example pos d_head -> set head (example pos) d_head", set=n_sets)
        return (flat @ block.attn.W_O[heads]).unflatten(2, (n_examples, n_pos))

    def _mlp(
        self, layer: int, inputs: Float[Tensor, "set 1 example pos d_model"]
    ) -> Float[Tensor, "set 1 example pos d_model"]:
        """What a layer's MLP writes, from what enters it, without its bias."""
        block = self.model.blocks[layer]
        normal = normalised(self.model, block.ln2, inputs)
        out = block.mlp(rearrange(normal, "set one example pos d -> (set one example) pos d")).view_as(inputs)
        return out - block.mlp.b_out


def _carried(
    masks: Float[Tensor, "set receiver sender *pos"],
    differences: Float[Tensor, "one_or_set sender example pos d_model"],
) -> Float[Tensor, "set receiver example pos d_model"]:
    """What the edges of some receivers carry, all senders together."""
    if masks.dim() == 4:
        differences = differences.expand(len(masks), *differences.shape[1:])
        pattern = "set receiver sender pos, set sender example pos d_model -> set receiver example pos d_model"
        return einsum(masks, differences, pattern)
    return (masks @ differences.flatten(2)).unflatten(2, differences.shape[2:])
