"""A circuit as a hypothesis: what its edges bring matters, and nothing else does.

The circuit's graph becomes a tree: a node that two others read is in it twice. Without features the hypothesis says
only that the other edges do not matter, so that scrubbing it is a strict form of running the circuit with resampled
activations: the other edges of every node bring another prompt's, drawn anew for every node, and not one for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from nanogpt_lens.circuits.claims import Claim, Feature, Hypothesis
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.grammar import ARROW
from nanogpt_lens.results import Circuit

_MOST, _DEEPEST = 2000, 300


def hypothesis_of(
    circuit: Circuit | Sequence[str],
    *,
    depends_on: Mapping[str, Feature] | None = None,
    at: Literal["all", "each"] | None = None,
    name: str = "",
) -> Hypothesis:
    """The hypothesis that a circuit is all that matters.

    Args:
        circuit: what `find_circuit` returns, or the names of edges such as "0.1->1.0.k".
        depends_on: by node or receiver, such as {"1.0.k": "previous_token", "embed": "token"}, the features of the
            claims about it; "everything" for the others.
        at: whether keys and values are one activation of all positions, whose feature is read where the head writes, or
            one claim for each; None for "each" where features are given, else "all". Stand-ins keep their position, as
            in a circuit that is run on prompts.
        name: the hypothesis' name.

    Raises:
        AnalysisError: an edge is not written as a sender and one receiver, a feature is given for a node that the
            circuit does not have, or the tree has more than 2,000 claims.
    """
    at = at or ("each" if depends_on else "all")
    check_choice(Literal["all", "each"], at=at)
    tree = _Tree(circuit.edges if isinstance(circuit, Circuit) else circuit, depends_on or {}, at)
    logits = tree.claim("logits", "logits", depth=0)
    unknown = sorted(set(tree.depends_on) - tree.nodes)
    if unknown:
        known = ", ".join(sorted(tree.nodes))
        raise AnalysisError(f"depends_on has {', '.join(map(repr, unknown))}; expected nodes of the circuit: {known}")
    return Hypothesis(
        logits=logits, positions="same", name=name or f"a circuit of {sum(map(len, tree.senders.values()))} edges"
    )


class _Tree:
    """Makes claims of edges.

    Args:
        edges: the names of the edges.
        depends_on: the features of nodes.
        at: which positions keys and values are about.
    """

    def __init__(self, edges: Sequence[str], depends_on: Mapping[str, Feature], at: str) -> None:
        self.depends_on, self.at = depends_on, at
        self.senders: dict[str, list[str]] = {}  # by receiver
        self.nodes = {"logits"}
        self._n_claims = 0
        for edge in edges:
            sender, arrow, receiver = (word.strip() for word in str(edge).partition(ARROW))
            if not arrow or not (receiver == "logits" or receiver.startswith("mlp") or receiver.count(".") == 2):
                raise AnalysisError(f"{edge!r} is no edge of a circuit; expected such as '0.1->1.0.k' or 'embed->mlp0'")
            self.senders.setdefault(receiver, []).append(sender)

    def claim(self, node: str, name: str, *, depth: int, at: str = "") -> Claim:
        """The claim about a node, under the name that its reader has for it, and all that it reads."""
        self._n_claims += 1
        if depth > _DEEPEST:
            raise AnalysisError(f"the edges go round in a circle through {node!r}; expected those of a circuit")
        if self._n_claims > _MOST:
            raise AnalysisError(
                f"the circuit's graph unrolls to more than {_MOST:,} claims, since a node is there once for every "
                "way to the logits; expected fewer edges"
            )
        self.nodes.add(node)
        return Claim(
            node=name, depends_on=self.depends_on.get(node, "everything"), at=at, reads=self._reads(node, depth + 1)
        )

    def _reads(self, node: str, depth: int) -> tuple[Claim, ...] | None:
        if node == "embed":
            return None
        if node.count(".") != 1:  # an MLP, the logits, or a head's query, key or value
            return tuple(self.claim(sender, sender, depth=depth) for sender in self.senders.get(node, []))
        parts = [part for part in "qkv" if f"{node}.{part}" in self.senders]
        return tuple(
            self.claim(f"{node}.{part}", part, at="" if part == "q" else self.at, depth=depth) for part in parts
        )
