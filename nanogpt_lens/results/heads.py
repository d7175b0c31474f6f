"""What heads are and where they look, as results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.scores import Scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadTaxonomy(Scores):
    """What each head is: scores [score, layer, head], each with the threshold above which it names the head.

    Attributes:
        threshold: the value above which the score names a head.
        carries: whether the whole interval is above the threshold.
    """

    threshold: Float[Tensor, "*axes"]
    carries: Bool[Tensor, "*axes"]

    def of(self, layer: int, head: int) -> tuple[str, ...]:
        """The labels of one head; none, one, or several."""
        place = self._index("layer", layer), self._index("head", head)
        return tuple(name for i, name in enumerate(self.labels["score"]) if self.carries[(i, *place)])

    def table(self) -> pd.DataFrame:
        """One row per head: its scores, and the labels that it carries."""
        import pandas as pd

        rows = []
        for layer in range(self.shape["layer"]):
            for head in range(self.shape["head"]):
                scores = dict(zip(self.labels["score"], self.values[:, layer, head].tolist(), strict=True))
                rows.append({"head": f"{layer}.{head}", **scores, "labels": ", ".join(self.of(layer, head))})
        return pd.DataFrame(rows)

    def _summary(self) -> list[str]:
        return self.table().round(2).to_string(index=False).splitlines()

    def heads(self, label: str) -> list[tuple[int, int]]:
        """The (layer, head) pairs that carry a label, highest score first."""
        i = self._index("score", label)
        pairs = [tuple(pair) for pair in self.carries[i].nonzero().tolist()]
        return sorted(pairs, key=lambda pair: -float(self.values[(i, *pair)]))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttentionPatterns(Result):
    """Attention probabilities [layer, head, dest_pos, src_pos] of one text, or with `example` in front.

    Attributes:
        tokens: ids of shape [pos] or [example, pos].
        layers: the layer that each index of the axis `layer` is.
    """

    tokens: Int[Tensor, "*text"]
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(self.layers) or tuple(range(self.shape["layer"])))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MixedAttention(Result):
    """How much of a position after some layers comes from each input token: [..., src_pos].

    Attributes:
        method: "rollout", the product of the layers, or "flow", the maximum flow through them.
        pos: the position that it is of, where there is no axis "dest_pos".
    """

    method: Literal["rollout", "flow"]
    pos: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InductionCircuit(Scores):
    """Scores of the likeliest previous-token head and the likeliest induction head, and of what is between them.

    Attributes:
        sender: the previous-token head, such as "0.1".
        receiver: the induction head.
    """

    sender: str
    receiver: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadMatches(Result):
    """The heads of other models that are most like those of the first: distances [model, layer, head].

    Attributes:
        values: the distance to the partner, in standard deviations of a score over all heads; 0 for the first model.
        partner_layer, partner_head: the partner of each head of the first model.
        nearest_other: the distance to the nearest head of that layer that is not the
            partner; a match is clear where it is much larger. nan where there is no other.
    """

    partner_layer: Int[Tensor, "*axes"]
    partner_head: Int[Tensor, "*axes"]
    nearest_other: Float[Tensor, "*axes"]

    def of(self, layer: int, head: int) -> tuple[tuple[int, int], ...]:
        """The head of each model, the first one among them, that is like this head of the first: (layer, head)."""
        place = self._index("layer", layer), self._index("head", head)
        return tuple(
            (int(self.partner_layer[(model, *place)]), int(self.partner_head[(model, *place)]))
            for model in range(self.shape["model"])
        )
