"""What heads are and where they look, as results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.scores import Scores

if TYPE_CHECKING:
    import pandas as pd


ALPHA = 0.05
"""What `p` has to be below."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadTaxonomy(Scores):
    """What each head is: scores [score, layer, head], each with the threshold above which it names the head.

    Attributes:
        threshold: the value above which the score names a head; infinite where no score would.
        sure_low: the lower end of the score's interval that holds for all heads together.
        carries: whether `sure_low` is above the threshold.
        reason: why the threshold is what it is, as an index into `reason_words`.
        reason_words: the reasons, in words.
        least: by score, the threshold that is raised where it would mean nothing.
    """

    threshold: Float[Tensor, "*axes"]
    sure_low: Float[Tensor, "*axes"]
    carries: Bool[Tensor, "*axes"]
    reason: Int[Tensor, "*axes"]
    reason_words: tuple[str, ...]
    least: Mapping[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reason_words", tuple(self.reason_words))

    def of(self, layer: int, head: int) -> tuple[str, ...]:
        """The labels of one head; none, one, or several."""
        place = self._index("layer", layer), self._index("head", head)
        return tuple(name for i, name in enumerate(self.labels["score"]) if self.carries[(i, *place)])

    def reasons(self, layer: int, head: int) -> dict[str, str]:
        """Of one head, by score, why it has the name, or why a score above the usual threshold earned none."""
        found: dict[str, str] = {}
        for i, name in enumerate(self.labels["score"]):
            place = (i, self._index("layer", layer), self._index("head", head))
            value, low, threshold = (float(t[place]) for t in (self.values, self.sure_low, self.threshold))
            why = self.reason_words[int(self.reason[place])]
            limit = f"{threshold:.2f} ({why})" if threshold < float("inf") else f"none: {why}"
            if bool(self.carries[place]):
                found[name] = f"{value:.2f}, surely {low:.2f}, threshold {limit}"
            elif value > self.least[name]:
                unsure = f", {_surely_above(low, name)}" if threshold < value else ""
                found[name] = f"{value:.2f} is not enough{unsure}; threshold {limit}"
        return found

    def unnamed(self) -> list[tuple[str, int, int, str]]:
        """Scores above the usual threshold that earned no name: (score, layer, head, reason)."""
        return [
            (name, layer, head, words)
            for layer in range(self.shape["layer"])
            for head in range(self.shape["head"])
            for name, words in self.reasons(layer, head).items()
            if name not in self.of(layer, head)
        ]

    def table(self) -> pd.DataFrame:
        """One row per head: its scores, the labels that it carries or "none", and the thresholds with their reasons."""
        import pandas as pd

        rows = []
        for layer in range(self.shape["layer"]):
            for head in range(self.shape["head"]):
                scores = dict(zip(self.labels["score"], self.values[:, layer, head].tolist(), strict=True))
                why = "; ".join(f"{name} {words}" for name, words in self.reasons(layer, head).items())
                labels = ", ".join(self.of(layer, head)) or "none"
                rows.append({"head": f"{layer}.{head}", **scores, "labels": labels, "why": why})
        return pd.DataFrame(rows)

    def _summary(self) -> list[str]:
        table = self.table()
        lines = table.drop(columns="why").round(2).to_string(index=False).splitlines()
        return [*lines, *(f"{head}: {why}" for head, why in zip(table["head"], table["why"], strict=True) if why)]

    def heads(self, label: str) -> list[tuple[int, int]]:
        """The (layer, head) pairs that carry a label, highest score first."""
        i = self._index("score", label)
        pairs = [tuple(pair) for pair in self.carries[i].nonzero().tolist()]
        return sorted(pairs, key=lambda pair: -float(self.values[(i, *pair)]))


def _surely_above(low: float, score: str) -> str:
    """What is sure of a score whose interval, for all heads together, begins at `low`: within the score's bounds."""
    least = -1.0 if score in ("copying", "anti_copying") else 0.0
    return f"surely above {low:.2f} only" if low > least else "which these sequences leave open"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InductionHeads(Scores):
    """Prefix matching [layer, head], and which heads are induction heads by it, from `find_induction_heads`.

    Attributes:
        threshold: what an induction head's `sure_low` exceeds.
        sure_low: the lower end of the interval that holds for all heads together.
        carries: whether it does.
    """

    threshold: Float[Tensor, "*axes"]
    sure_low: Float[Tensor, "*axes"]
    carries: Bool[Tensor, "*axes"]

    def heads(self) -> list[tuple[int, int]]:
        """The (layer, head) pairs of the induction heads, highest score first; empty where there is none."""
        pairs = [(int(layer), int(head)) for layer, head in self.carries.nonzero().tolist()]
        return sorted(pairs, key=lambda pair: -float(self.values[pair]))

    @property
    def verdict(self) -> str:
        """Such as "induction heads: 1.0, 1.2", or "no induction head: ..." with the best and its threshold."""
        if pairs := self.heads():
            named = ", ".join(f"{layer}.{head}" for layer, head in pairs)
            return f"induction head{'s' if len(pairs) > 1 else ''}: {named}"
        layer, head = divmod(int(self.values.argmax()), self.shape["head"])
        low, threshold = max(0.0, float(self.sure_low[layer, head])), float(self.threshold[layer, head])
        return (
            f"no induction head: the highest prefix matching is {self.values[layer, head]:.3f}, of head "
            f"{layer}.{head}, surely {low:.3f}; threshold {threshold:.2f}"
        )

    def _summary(self) -> list[str]:
        return [self.verdict, *super()._summary()]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClassAttention(Scores):
    """Attention to places of a class [score, layer, head], a class being a score, from `syntax_attention`.

    Attributes:
        chance: what the head's attention by distance alone would give.
        p_shifted: how often the largest of all classes and heads, with the classes shifted along the text, is as far
            above its mean as this one.
        sure_above: the lower end of an interval of the attention above `chance`, one that holds for all classes and
            heads together.
        beyond: by how much a place of the class gets more than other places with the same characters at the same
            distance, times the number of such places that a query sees.
        beyond_low, beyond_high: its 95% interval, of this class and head alone.
        beyond_sure: the lower end of an interval that holds for all classes and heads together.
        preference: the logarithm, in nats, of how many times as much a place of the class gets as another place of
            the same character that the same query sees, distance taken away; nan where there is no such pair.
        preference_low, preference_high: its 95% interval, of this class and head alone.
        told_apart: by class [score], the share of its places for which there are others with the same characters at
            the same distance, so that the two can be told apart.
        queries: by class [score], how many queries see a place of it.
        margin: what `sure_above` and `beyond_sure` have to exceed.
        absent: the classes that the text does not have.
    """

    p_shifted: Float[Tensor, "*axes"]
    sure_above: Float[Tensor, "*axes"]
    beyond: Float[Tensor, "*axes"]
    beyond_low: Float[Tensor, "*axes"]
    beyond_high: Float[Tensor, "*axes"]
    beyond_sure: Float[Tensor, "*axes"]
    preference: Float[Tensor, "*axes"]
    preference_low: Float[Tensor, "*axes"]
    preference_high: Float[Tensor, "*axes"]
    told_apart: Float[Tensor, " score"]
    queries: Float[Tensor, " score"]
    margin: float
    absent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "absent", tuple(self.absent))

    @cached_property
    def p(self) -> Float[Tensor, "*axes"]:
        """`p_shifted`: corrected for the number of classes and heads."""
        return self.p_shifted.clone()

    @property
    def p_definition(self) -> str:
        """How `p` is corrected, in words."""
        return "p_corrected: the share of shifts of the classes along the text whose largest score is as far above it"

    @property
    def carries(self) -> Bool[Tensor, "*axes"]:
        """Whether a head attends to a class, surely, beyond distance and beyond characters, by `margin`."""
        return (self.p_shifted < ALPHA) & (self.sure_above > self.margin) & (self.beyond_sure > self.margin)

    def heads(self, name: str) -> list[tuple[int, int]]:
        """The (layer, head) pairs that attend to a class, the one that goes most beyond characters first."""
        i = self._index("score", name)
        pairs = [(int(layer), int(head)) for layer, head in self.carries[i].nonzero().tolist()]
        return sorted(pairs, key=lambda pair: -float(self.beyond[(i, *pair)]))


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
        partner_layer, partner_head: the candidate for each head of the first model: its partner, if `matched`.
        nearest_other: the distance to the nearest head of that layer that is not the
            candidate. nan where there is no other.
        matched: whether the candidate is nearer than unrelated heads are, so that it is a partner; None if an earlier
            version made the result, which took every candidate for one.
        chance: the distance below which that is so; nan where there is nothing to choose from.
        p: how often unrelated heads have one that is as near, corrected for the number of heads.
    """

    partner_layer: Int[Tensor, "*axes"]
    partner_head: Int[Tensor, "*axes"]
    nearest_other: Float[Tensor, "*axes"]
    matched: Bool[Tensor, "*axes"] | None = None
    chance: Float[Tensor, "*axes"] | None = None
    p: Float[Tensor, "*axes"] | None = None

    def of(self, layer: int, head: int) -> tuple[tuple[int, int] | None, ...]:
        """The head of each model, the first one among them, that is like this head of the first.

        (layer, head), or None where the model has no partner of this head.
        """
        place = self._index("layer", layer), self._index("head", head)
        return tuple(
            (int(self.partner_layer[(model, *place)]), int(self.partner_head[(model, *place)]))
            if self.matched is None or bool(self.matched[(model, *place)])
            else None
            for model in range(self.shape["model"])
        )

    def _summary(self) -> list[str]:
        if self.matched is None:
            return super()._summary()
        others = self.matched[1:]
        counted = f"{int(others.sum())} of {others.numel()} heads have a partner; the others have none as clear as that"
        return [counted, *super()._summary()]
