"""Scrubbed runs: what comes of a hypothesis when every activation is computed from stand-ins.

A claim's activation is computed for a stand-in, a place at which its feature has the same value. What it is said to
read comes from stand-ins of the stand-in, each drawn on its own; everything else that it reads comes from one further
place, drawn freely. So the model is unrolled into a tree: a node that two others read is computed twice, with draws of
its own each time. Claims that say nothing of what they read are looked up in plain runs of the prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.circuits.places import Agreement, Agreements, Places, Uniforms
from nanogpt_lens.circuits.tree import Branch, Stream, stream_of
from nanogpt_lens.interventions.nodes import Node, entry_hook, exit_hook
from nanogpt_lens.interventions.receiving import normalised, received, written_by
from nanogpt_lens.model.access import Hooked, record
from nanogpt_lens.patching.continuation import score_scale

Change: TypeAlias = Literal["kept", "freed", "rest kept", "permuted"]
"""A hypothesis that says less of a claim: its feature is everything; nothing; what it does not name matters after all.
Or all features permuted."""

_BATCH = 256  # prompts that are run at once
_NUMBERS = 2**24  # numbers that a chunk may have in its largest tensor


@dataclass(frozen=True)
class Variant:
    """A changed hypothesis.

    Attributes:
        change: what is changed.
        path: of which claim; "" for all.
    """

    change: Change
    path: str = ""

    def concerns(self, path: str) -> bool:
        """Whether the value of a claim may be another one than in the hypothesis itself."""
        if self.change == "permuted" or self.path == path or self.path.startswith(f"{path}/"):
            return True
        return self.change != "rest kept" and path.startswith(f"{self.path}/")


class Scrubbed:
    """The scrubbed runs of one hypothesis.

    Args:
        model: a plain nanoGPT model.
        tree: the hypothesis on it.
        tokens: the prompts.
        agreements: the stand-ins by feature.
    """

    def __init__(self, model: Hooked, tree: Branch, tokens: Int[Tensor, "example pos"], agreements: Agreements) -> None:
        self.model, self.tree, self.agreements = model, tree, agreements
        self.n_pos = tokens.shape[1]
        self._activations = self._recorded(tokens)
        self._values: dict[str, Float[Tensor, "item pos width"]] = {}
        self._variant: Variant | None = None
        self._uniforms = Uniforms(0, 0)

    @property
    def chunk(self) -> int:
        """How many prompts are scrubbed at once."""
        most = 1
        for branch in self.tree.walk():
            items = self.n_pos ** (branch.axes + branch.whole)
            opened = branch.reads is not None
            wide = opened and isinstance(branch.node, Node) and branch.node.kind == "mlp"
            most = max(most, items * (self.model.cfg.d_mlp if wide else self.model.cfg.d_model))
        return max(1, _NUMBERS // most)

    def logits(
        self, rows: Int[Tensor, " item"], uniforms: Uniforms, variants: Iterable[Variant | None]
    ) -> list[Float[Tensor, "item d_vocab"]]:
        """The logits at the end of some prompts under each of several hypotheses; None, which is first, is the one.

        All of them draw with the same numbers, and what a variant does not concern is computed once.
        """
        self._uniforms, self._values = uniforms, {}
        places = Places(rows, torch.full_like(rows, self.n_pos - 1))
        every = []
        for variant in variants:
            self._variant = variant
            final = self._claimed(self.tree, places)
            every.append(self.model.unembed(self.model.ln_final(final))[:, 0])
        return every

    def plain_logits(self, rows: Int[Tensor, " item"]) -> Float[Tensor, "item d_vocab"]:
        """The model's own logits at the end of some prompts."""
        final = self._plain(self.tree.node, Places(rows, torch.full_like(rows, self.n_pos - 1)))
        return self.model.unembed(self.model.ln_final(final))[:, 0]

    def _claimed(self, branch: Branch, places: Places) -> Float[Tensor, "item pos width"]:
        """The activation of a claim, for stand-ins of the places at which it is read."""
        if self._variant is not None and not self._variant.concerns(branch.path):
            return self._values[branch.path]
        items = len(places.row)
        if branch.at == "each":
            places = places.at_each(self.n_pos)
        elif branch.at not in ("", "all", "here"):
            places = Places(places.row, torch.full_like(places.here, int(branch.at)))
        value = self._value(branch, self._stand_ins(branch, Places(places.row, places.here, branch.whole)))
        if branch.at == "each":
            value = rearrange(value, "(item pos) 1 width -> item pos width", item=items)
        if self._variant is None:
            self._values[branch.path] = value
        return value

    def _stand_ins(self, branch: Branch, places: Places) -> Places:
        """Places at which the feature of a claim has the same value."""
        variant, feature, permuted = self._variant, branch.claim.depends_on, ""
        if variant is not None and variant.path in ("", branch.path):
            if variant.change == "kept":
                return places
            feature = "nothing" if variant.change == "freed" else feature
            permuted = branch.path if variant.change == "permuted" else ""
        agreement = self.agreements.agreement(feature, branch.pool, permuted)
        return self._drawn(places, agreement, branch.path)

    def _rest(self, branch: Branch, places: Places) -> Places:
        """The place from which a node's other inputs come, those that the hypothesis does not name."""
        variant = self._variant
        if variant is not None and variant.change == "rest kept" and variant.path == branch.path:
            return places
        return self._drawn(places, self.agreements.agreement("nothing", branch.pool), f"{branch.path}/rest")

    def _drawn(self, places: Places, agreement: Agreement, path: str) -> Places:
        uniform = self._uniforms.numbers(path, len(places.row))
        place = agreement.drawn((places.row * self.n_pos + places.here).cpu(), uniform).to(places.row.device)
        return Places(place // self.n_pos, place % self.n_pos, places.whole)

    def _value(self, branch: Branch, places: Places) -> Float[Tensor, "item pos width"]:
        """The activation of a node at some places, computed from what it is said to read."""
        node = branch.node
        if branch.reads is None:
            return self._plain(node, places)
        if isinstance(node, Node) and node.kind == "head" and not node.part:
            return self._head(branch, node, places)
        stream = self._stream(branch, places)
        if isinstance(node, Stream) or node.kind == "logits":
            return stream
        if node.kind == "mlp":
            block = self.model.blocks[node.layer]
            return block.mlp(normalised(self.model, block.ln2, stream)) - block.mlp.b_out
        return received(self.model, node, stream)

    def _stream(self, branch: Branch, places: Places) -> Float[Tensor, "item pos d_model"]:
        """The stream that a node reads: that of the rest, with what the hypothesis names in the place of its own."""
        rest = self._rest(branch, places)
        total = self._at(stream_of(branch.node, self.model.cfg.n_layers), rest)
        for child in branch.reads or ():
            total = total + self._claimed(child, places) - self._plain(child.node, rest)
        return total

    def _head(self, branch: Branch, node: Node, places: Places) -> Float[Tensor, "item pos d_model"]:
        """What a head writes, from the queries, keys and values that the hypothesis names and those of the rest.

        A query of the rest is the one at its place; its keys and values are those of its prompt that this head can see.
        """
        rest = self._rest(branch, places)
        if not branch.reads:
            return self._plain(node, rest)
        parts: dict[str, Float[Tensor, "item pos d_head"]] = {}
        for part in "qkv":
            receiver = Node("head", node.layer, node.head, part)
            claims = [child for child in branch.reads if child.node == receiver]
            everywhere = Places(rest.row, rest.here, part != "q" or places.whole)
            if claims and claims[0].at in ("", "each", "all"):
                parts[part] = self._claimed(claims[0], places)
                continue
            parts[part] = self._plain(receiver, everywhere)
            for claim in claims:
                at = places.here if claim.at == "here" else torch.full_like(places.here, int(claim.at))
                parts[part][torch.arange(len(at)), at] = self._claimed(claim, places)[:, 0]
        scores = einsum(parts["q"], parts["k"], "item query d_head, item key d_head -> item query key")
        later = torch.arange(self.n_pos, device=scores.device) > places.positions(self.n_pos)[:, :, None]
        pattern = (scores / score_scale(self.model, node.layer)).masked_fill(later, -torch.inf).softmax(-1)
        return pattern @ parts["v"] @ self.model.blocks[node.layer].attn.W_O[node.head]

    def _plain(self, node: Node | Stream, places: Places) -> Float[Tensor, "item pos width"]:
        """A node's activation in the plain runs of the prompts."""
        if isinstance(node, Node) and node.kind == "logits":
            return self._at(stream_of(node, self.model.cfg.n_layers), places)
        return self._at(str(node), places)

    def _at(self, name: str, places: Places) -> Float[Tensor, "item pos width"]:
        values = self._activations[name]
        return values[places.row] if places.whole else values[places.row, places.here][:, None]

    def _recorded(self, tokens: Int[Tensor, "example pos"]) -> dict[str, Float[Tensor, "example pos width"]]:
        """What the tree looks up of plain runs, by the name of a node, or of a stream's hook point."""
        n_layers = self.model.cfg.n_layers
        nodes, streams = _looked_up(self.tree, n_layers)
        hooks = {*streams, *(_hook_of(node, n_layers) for node in nodes.values())}
        parts: dict[str, list[Tensor]] = {}
        for some in tokens.split(_BATCH):
            run = record(self.model, some, hooks)
            for name, node in nodes.items():
                parts.setdefault(name, []).append(_activation(self.model, node, run[_hook_of(node, n_layers)]))
            for hook in streams:
                parts.setdefault(hook, []).append(run[hook])
        return {name: torch.cat(some) for name, some in parts.items()}


def _looked_up(tree: Branch, n_layers: int) -> tuple[dict[str, Node | Stream], set[str]]:
    """The nodes by name, and the streams by hook point, that a tree looks up."""
    nodes: dict[str, Node | Stream] = {}
    streams: set[str] = set()
    for branch in tree.walk():
        node = branch.node
        if not (isinstance(node, Node) and node.kind == "logits"):
            nodes[str(node)] = node
        if isinstance(node, Node) and node.kind == "head" and not node.part and branch.reads is not None:
            nodes |= {f"{node}.{part}": Node("head", node.layer, node.head, part) for part in "qkv"}
        elif branch.reads is not None or (isinstance(node, Node) and node.kind == "logits"):
            streams.add(stream_of(node, n_layers))
    return nodes, streams


def _hook_of(node: Node | Stream, n_layers: int) -> str:
    if isinstance(node, Stream):
        return node.hook
    return entry_hook(node, n_layers) if node.part else exit_hook(node)[0]


def _activation(
    model: Hooked, node: Node | Stream, run: Float[Tensor, "example pos ..."]
) -> Float[Tensor, "example pos width"]:
    """A node's activation: a stream, a head's query, key or value, or what a sender writes."""
    if isinstance(node, Stream):
        return run
    return run[:, :, node.head] if node.part else written_by(model, node, run)
