"""The nodes of a model's graph and the edges between them, written as `grammar` says.

Senders are what writes into the residual stream: "embed", heads ("0.1" is head 1 of layer 0, also
"L0H1"), MLPs ("mlp0"). Receivers are what reads it: a head's "1.0.q", "1.0.k", "1.0.v" ("1.0" is
all three), an MLP, and "logits". An edge is what one reads of what another wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.grammar import ARROW, read_place
from nanogpt_lens.interventions.sites import KINDS, Kind
from nanogpt_lens.model.access import Hooked

Nodes: TypeAlias = str | tuple[int, int] | Sequence[str | tuple[int, int]]
"""One node, or several that are patched together; a pair is the head (layer, head)."""

_SENDERS = "'embed', heads such as '0.1', MLPs such as 'mlp0'"
_RECEIVERS = "heads such as '1.0.k' or '1.0', MLPs such as 'mlp1', 'logits'"


@dataclass(frozen=True)
class Node:
    """A place where something is written into the residual stream, or read from it.

    Attributes:
        kind: "embed", "head", "mlp" or "logits".
        layer: -1 for the embedding, the number of layers for the logits.
        head: -1 where it is no head.
        part: "q", "k" or "v" of a receiving head.
    """

    kind: str
    layer: int
    head: int = -1
    part: str = ""

    def __str__(self) -> str:
        if self.kind == "head":
            return f"{self.layer}.{self.head}" + (f".{self.part}" if self.part else "")
        return f"mlp{self.layer}" if self.kind == "mlp" else self.kind


@dataclass(frozen=True)
class Edge:
    """What one node reads of what another wrote; its name is such as "0.1->1.0.k" or "embed->mlp0"."""

    sender: Node
    receiver: Node

    def __str__(self) -> str:
        return f"{self.sender}{ARROW}{self.receiver}"


def edges_named(model: Hooked, name: str) -> list[Edge]:
    """The edge of that name, or three where it names a head as a whole: those into its q, k and v.

    Raises:
        AnalysisError: it is no name of an edge, or one of its ends is not in this model.
    """
    sender, arrow, receiver = str(name).partition(ARROW)
    if not arrow:
        raise AnalysisError(f"{name!r} is no edge; expected sender->receiver, such as '0.1->1.0.k' or 'embed->mlp0'")
    ((start,),) = senders_of(model, [sender.strip()])
    (ends,) = receivers_of(model, [receiver.strip()])
    return [Edge(start, end) for end in ends]


def is_before(sender: Node, receiver: Node) -> bool:
    """Whether what the sender writes is there when the receiver reads; an MLP reads its layer's heads."""
    return (sender.layer, sender.kind == "mlp") < (receiver.layer, receiver.kind == "mlp")


def stream_hook(receiver: Node, n_layers: int) -> str:
    """The hook point of the residual stream that a receiver reads."""
    if receiver.kind == "logits":
        return f"blocks.{n_layers - 1}.hook_resid_post"
    return f"blocks.{receiver.layer}." + ("hook_resid_mid" if receiver.kind == "mlp" else "hook_resid_pre")


def entry_kind(receiver: Node) -> Kind:
    """The first activation that a receiver has for itself: a head's q, k or v, an MLP's input, the final stream."""
    return KINDS[receiver.part or {"mlp": "mlp_pre", "logits": "resid_post"}[receiver.kind]]


def entry_hook(receiver: Node, n_layers: int) -> str:
    """The hook point of that activation; it is linear in what the receiver reads, and read by nothing else."""
    return entry_kind(receiver).hook_name(min(receiver.layer, n_layers - 1))


def exit_hook(sender: Node) -> tuple[str, Kind]:
    """The hook point from which one knows what a sender writes, and the activation there."""
    kind = KINDS[{"embed": "resid_pre", "head": "z", "mlp": "mlp_out"}[sender.kind]]
    return kind.hook_name(max(sender.layer, 0)), kind


def senders_of(model: Hooked, nodes: str | Sequence[Nodes]) -> list[tuple[Node, ...]]:
    """The groups of senders; "heads" and "mlps" are all of them, each alone.

    Raises:
        AnalysisError: there is no node, or a word that is no sender.
    """
    cfg = model.cfg
    if nodes == "heads":
        return [(Node("head", layer, head),) for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
    if nodes == "mlps":
        return [(Node("mlp", layer),) for layer in range(cfg.n_layers)]
    return [tuple(_sender(model, word) for word in group) for group in _groups(nodes, "senders", _SENDERS)]


def receivers_of(model: Hooked, nodes: str | Sequence[Nodes]) -> list[tuple[Node, ...]]:
    """The groups of receivers; "heads" and "mlps" are all of them, each alone.

    Raises:
        AnalysisError: there is no node, or a word that is no receiver.
    """
    cfg = model.cfg
    if nodes == "heads":
        nodes = [f"{layer}.{head}" for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
    elif nodes == "mlps":
        nodes = [f"mlp{layer}" for layer in range(cfg.n_layers)]
    groups = _groups(nodes, "receivers", _RECEIVERS)
    return [tuple(node for word in group for node in _receivers(model, word)) for group in groups]


def label(group: Sequence[Node]) -> str:
    """A group in words, a head's q, k and v as one."""
    words = [str(node) for node in group]
    for node in group:
        parts = [f"{node.layer}.{node.head}.{part}" for part in "qkv"]
        if node.part and all(part in words for part in parts):
            at = words.index(parts[0])
            words = [word for word in words if word not in parts]
            words.insert(min(at, len(words)), f"{node.layer}.{node.head}")
    return "+".join(words)


def _groups(nodes: str | Sequence[Nodes], role: str, expected: str) -> list[list[str]]:
    """The words of each group of nodes; AnalysisError where there is none, or an empty one."""
    items = [nodes] if isinstance(nodes, str) or _is_pair(nodes) else _as_list(nodes)
    groups = [[_word(i)] if isinstance(i, str) or _is_pair(i) else [_word(w) for w in _as_list(i)] for i in items]
    if not groups or not all(groups):
        raise AnalysisError(f"{role}={nodes!r} names no node; expected {expected}")
    return groups


def _as_list(items: object) -> list[object]:
    return list(items) if isinstance(items, Sequence | set | frozenset) else []


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(i, int) for i in item)


def _word(item: object) -> str:
    return f"{item[0]}.{item[1]}" if isinstance(item, tuple) and _is_pair(item) else str(item)


def _sender(model: Hooked, word: str) -> Node:
    if word == "embed":
        return Node("embed", -1)
    node = _head_or_mlp(model, word)
    if node is None or node.part:
        raise AnalysisError(f"{word!r} is no sender; expected {_SENDERS}")
    return node


def _receivers(model: Hooked, word: str) -> list[Node]:
    if word == "logits":
        return [Node("logits", model.cfg.n_layers)]
    node = _head_or_mlp(model, word)
    if node is None:
        raise AnalysisError(f"{word!r} is no receiver; expected {_RECEIVERS}")
    if node.kind == "head" and not node.part:
        return [Node("head", node.layer, node.head, part) for part in "qkv"]
    return [node]


def _head_or_mlp(model: Hooked, word: str) -> Node | None:
    """The head or MLP of this model that a word names; None where it names something else."""
    cfg = model.cfg
    place = read_place(word)
    if place is None or place.kind in ("neuron", "embed", "logits") or place.part == "z":
        return None
    node = Node("mlp", place.layer) if place.kind == "mlp" else Node("head", place.layer, place.index, place.part)
    if node.layer >= cfg.n_layers or node.head >= cfg.n_heads:
        raise AnalysisError(f"{word!r} is not in this model of {cfg.n_layers} layers with {cfg.n_heads} heads each")
    return node
