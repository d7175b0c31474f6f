"""A hypothesis on a model: every claim with its node, and with the places that may stand in for one another there.

What cannot be said of this model is refused here, before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanogpt_lens.circuits.claims import At, Claim, Hypothesis
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.nodes import Node, receivers_of, senders_of, stream_hook
from nanogpt_lens.model.access import Hooked

_STREAM = re.compile(r"resid_(pre|mid|post)(\d{1,4})")


@dataclass(frozen=True)
class Stream:
    """The residual stream at one of its places: the sum of what its first senders wrote, with all biases.

    Attributes:
        hook: its hook point.
        n_senders: how many senders had written by then.
        name: such as "resid_pre1".
    """

    hook: str
    n_senders: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Pool:
    """The places from which a claim's stand-ins are drawn: those at which the hypothesis has such a node.

    Attributes:
        position: the one position of all of them; None for every position.
        same: whether a stand-in has the position of what it stands in for.
    """

    position: int | None
    same: bool = False


@dataclass(frozen=True)
class Branch:
    """A claim on a model.

    Attributes:
        path: such as "logits/1.0/k".
        claim: the claim.
        node: what it is about.
        pool: where its stand-ins come from.
        whole: whether it is about all positions at once.
        axes: how many times a position was split off on the way here: each multiplies the stand-ins by the positions.
        reads: the claims about what it reads; None where it says nothing of that.
    """

    path: str
    claim: Claim
    node: Node | Stream
    pool: Pool
    whole: bool
    axes: int
    reads: tuple[Branch, ...] | None

    @property
    def at(self) -> At:
        """Which positions a claim about keys or values is about; "" for other nodes."""
        is_key_or_value = isinstance(self.node, Node) and self.node.part in ("k", "v")
        if not is_key_or_value:
            return ""
        return "each" if self.claim.at == "" else self.claim.at

    def walk(self) -> Iterator[Branch]:
        """This branch and all below it."""
        yield self
        for child in self.reads or ():
            yield from child.walk()


def tree_of(model: Hooked, hypothesis: Hypothesis, n_pos: int) -> Branch:
    """The claims of a hypothesis on a model, for prompts of so many tokens.

    Raises:
        AnalysisError: a node is not in the model or is not read by the node above it, is named twice, or is said to be
            at a position that it does not have.
    """
    root = hypothesis.logits
    node = Node("logits", model.cfg.n_layers)
    if root.at != "":
        raise AnalysisError(f"the claim about logits is at {root.at!r}; leave it out, they are read where prompts end")
    planter = _Planter(model, n_pos, same=hypothesis.positions == "same")
    return planter.branch("logits", root, node, Pool(n_pos - 1), whole=False, axes=0)


class _Planter:
    """Makes branches of claims.

    Args:
        model: the model.
        n_pos: the tokens of a prompt.
        same: whether what stands in for one of many positions keeps it.
    """

    def __init__(self, model: Hooked, n_pos: int, *, same: bool) -> None:
        self.model, self.n_pos, self.same = model, n_pos, same
        self.graph = CircuitGraph(model)

    def branch(self, path: str, claim: Claim, node: Node | Stream, pool: Pool, *, whole: bool, axes: int) -> Branch:
        """A claim about a node, and all that it reads."""
        reads = None if claim.reads is None else self._reads(path, claim.reads, node, pool, whole=whole, axes=axes)
        return Branch(path, claim, node, pool, whole, axes, reads)

    def _reads(
        self, path: str, claims: Sequence[Claim], node: Node | Stream, pool: Pool, *, whole: bool, axes: int
    ) -> tuple[Branch, ...]:
        if isinstance(node, Node) and node.kind == "embed":
            raise AnalysisError(
                f"{path} reads {claims[0].node if claims else 'nothing'!r}, but the embedding reads nothing"
            )
        is_head = isinstance(node, Node) and node.kind == "head" and not node.part
        branches = []
        for claim in claims:
            child_path = f"{path}/{claim.name}"
            child = self._part(child_path, claim, node) if is_head else self._sender(child_path, claim, node)
            child_pool, child_whole, child_axes = self._place(child_path, claim, child, pool, whole, axes)
            branches.append(self.branch(child_path, claim, child, child_pool, whole=child_whole, axes=child_axes))
        _check_once(path, branches, self.graph)
        return tuple(branches)

    def _part(self, path: str, claim: Claim, head: Node | Stream) -> Node:
        """The query, key or value of a head."""
        word = claim.node if "." in claim.node else f"{head}.{claim.node}"
        part = word.rpartition(".")[2]
        if word != f"{head}.{part}" or part not in ("q", "k", "v"):
            raise AnalysisError(f"{path}: {claim.node!r} is nothing that head {head} reads; expected q, k or v")
        return receivers_of(self.model, [word])[0][0]

    def _sender(self, path: str, claim: Claim, reader: Node | Stream) -> Node | Stream:
        """What a reader of the stream reads: a sender or a stream that is there before it."""
        before = self._n_before(reader)
        node = self._stream(path, claim) if _STREAM.fullmatch(claim.node) else self._written(path, claim)
        there = node.n_senders if isinstance(node, Stream) else self.graph.senders.index(node) + 1
        if there > before:
            raise AnalysisError(f"{path}: {reader} cannot read {claim.node!r}, which is written after it reads")
        return node

    def _n_before(self, reader: Node | Stream) -> int:
        """How many senders had written when a reader reads."""
        return reader.n_senders if isinstance(reader, Stream) else self.graph.n_before(reader)

    def _written(self, path: str, claim: Claim) -> Node:
        try:
            return senders_of(self.model, [claim.node])[0][0]
        except AnalysisError as error:
            raise AnalysisError(f"{path}: {error}; or a stream such as 'resid_pre1'") from None

    def _stream(self, path: str, claim: Claim) -> Stream:
        point, layer = _STREAM.fullmatch(claim.node).groups()  # type: ignore[union-attr]
        n_layers, at = self.graph.n_layers, int(layer)
        if at >= n_layers:
            raise AnalysisError(f"{path}: {claim.node!r} is not in this model of {n_layers} layers")
        n_senders = {"pre": 1, "mid": 1 + self.graph.n_heads, "post": 2 + self.graph.n_heads}[point]
        return Stream(f"blocks.{at}.hook_resid_{point}", n_senders + at * (self.graph.n_heads + 1), claim.node)

    def _place(
        self, path: str, claim: Claim, node: Node | Stream, pool: Pool, whole: bool, axes: int
    ) -> tuple[Pool, bool, int]:
        """The pool of a claim, whether it is about all positions at once, and how often positions were split off."""
        at = claim.at
        if not (isinstance(node, Node) and node.part in ("k", "v")):
            if at != "":
                raise AnalysisError(f"{path} is at {at!r}; only a head's keys and values are at several positions")
            return pool, whole, axes
        if at in ("", "each"):
            return Pool(None, same=self.same), False, axes + 1
        if at == "all":
            return Pool(pool.position, same=True), True, axes
        if whole:
            raise AnalysisError(f"{path} is at {at!r} of a node of all positions; expected 'each' or 'all'")
        if at == "here":
            return pool, False, axes
        if int(at) >= self.n_pos:
            raise AnalysisError(f"{path} is at position {at} of prompts of {self.n_pos} tokens")
        return Pool(int(at)), False, axes


def _check_once(path: str, branches: Sequence[Branch], graph: CircuitGraph) -> None:
    """Raise AnalysisError where two claims of one node are about the same thing."""
    seen: dict[tuple[str, object], str] = {}
    for branch in branches:
        for thing in _things(branch, graph):
            if thing in seen:
                raise AnalysisError(
                    f"{path} reads {branch.claim.name!r} and {seen[thing]!r}, which overlap; expected each in one claim"
                )
            seen[thing] = branch.claim.name
    for branch in branches:
        every = [other for other in branches if other.node == branch.node]
        if len(every) > 1 and any(other.at in ("each", "all", "here") for other in every):
            raise AnalysisError(
                f"{path} reads {branch.claim.node!r} in {len(every)} claims that overlap; expected one, or several at "
                "positions of their own"
            )


def _things(branch: Branch, graph: CircuitGraph) -> list[tuple[str, object]]:
    """What a claim is about: senders, or a head's part at a position."""
    if isinstance(branch.node, Stream):
        return [(str(sender), "") for sender in graph.senders[: branch.node.n_senders]]
    return [(str(branch.node), branch.at)]


def stream_of(node: Node | Stream, n_layers: int) -> str:
    """The hook point of the stream that a node reads; a stream's own."""
    return node.hook if isinstance(node, Stream) else stream_hook(node, n_layers)
