"""Circuits of several models, tasks, stages or methods, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitComparison(Result):
    """How far circuits agree, two at a time, with the axes score, one and other; `scores` says what each is.

    All scores but "transfer" are the same both ways. On the diagonal a circuit is compared with itself: "transfer" is
    what it does in its own model.

    Attributes:
        values: the scores.
        low, high: 95% intervals over the prompts; nan where there is none. Circuits are given, so that what they share
            has none: how much it hangs on the prompts is in `half_jaccard`.
        chance: what chance gives; nan on the diagonal of all but "transfer".
        p: of a score being that of chance; nan where that cannot be said.
        ceiling: what the noise of the prompts allows at most, or about; nan where it was not measured.
        match: how heads were matched: "numbers", "behaviour", "effects" or "matches".
        partner: for each head of the one, the head of the same layer that stands for it in the other.
        n_edges: the edges of each circuit.
        gap: the metric with all edges less that with none, of each.
        shared, expected: how many edges two circuits share, and how many sets of random edges would.
        renumbered: the transfer of a circuit whose heads are given other numbers at random, the mean; nan for two
            circuits of one model.
        renumbered_p: of the matched heads doing no better than these; nan where they were matched by their effects.
        half_correlation, half_jaccard, half_above_chance, half_transfer: for each split of the prompts in two halves,
            what both halves of one model agree on.
        n_prompts: how many prompts each was run on.
    """

    low: Float[Tensor, "score one other"]
    high: Float[Tensor, "score one other"]
    chance: Float[Tensor, "score one other"]
    p: Float[Tensor, "score one other"]
    ceiling: Float[Tensor, "score one other"]
    match: str
    partner: Int[Tensor, "one other layer head"]
    n_edges: tuple[int, ...]
    gap: Float[Tensor, " one"]
    shared: Int[Tensor, "one other"]
    expected: Float[Tensor, "one other"]
    renumbered: Float[Tensor, "one other"]
    renumbered_p: Float[Tensor, "one other"]
    half_correlation: Float[Tensor, "one split"]
    half_jaccard: Float[Tensor, "one split"]
    half_above_chance: Float[Tensor, "one split"]
    half_transfer: Float[Tensor, "one split"]
    n_prompts: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "n_edges", tuple(self.n_edges))  # lists, in a file
        object.__setattr__(self, "n_prompts", tuple(self.n_prompts))

    @property
    def names(self) -> tuple[str, ...]:
        """What the compared things are called."""
        return self.labels["one"]

    def score(self, name: str, what: str = "values") -> Float[Tensor, "one other"]:
        """One score of all pairs, or its "low", "high", "chance", "p" or "ceiling".

        Raises:
            ResultError: there is no such score, or nothing else of it.
        """
        if what not in ("values", "low", "high", "chance", "p", "ceiling"):
            raise ResultError(f"{what!r} is nothing of a score; expected values, low, high, chance, p or ceiling")
        return getattr(self, what)[self._index("score", name)]

    @property
    def worth(self) -> Float[Tensor, "one other"]:
        """What a circuit does in the other model as a share of what the other's own does, both above random circuits.

        1: as good as the other's own; 0: no better than a random circuit of its size. nan where the other's own is not
        0.1 above random circuits, so that there is nothing to have a share of.
        """
        transfer, chance = self.score("transfer"), self.score("transfer", "chance")
        own = transfer.diagonal() - chance
        return torch.where(own >= 0.1, (transfer - chance) / own, torch.nan)

    @property
    def share_of_possible(self) -> Float[Tensor, "one other"]:
        """The rank correlation as a share of what the noise of the prompts allows, both above chance."""
        chance = self.score("rank_correlation", "chance")
        return (self.score("rank_correlation") - chance) / (self.score("rank_correlation", "ceiling") - chance)

    @property
    def weak(self) -> tuple[str, ...]:
        """The things whose gap is less than a tenth of the largest, so that faithfulness there says little."""
        least = 0.1 * float(self.gap.abs().max())
        return tuple(name for name, gap in zip(self.names, self.gap.tolist(), strict=True) if abs(gap) < least)

    def head_in(self, one: str | int, other: str | int, layer: int, head: int) -> int:
        """The number of the head of `other` that stands for a head of `one`.

        Raises:
            ResultError: there is no such thing, layer or head.
        """
        row, column = self._index("one", one), self._index("other", other)
        n_layers, n_heads = self.partner.shape[2:]
        if not 0 <= layer < n_layers or not 0 <= head < n_heads:
            raise ResultError(f"there is no head {layer}.{head}; expected {n_layers} layers with {n_heads} heads each")
        return int(self.partner[row, column, layer, head])

    def sentence(self) -> str:
        """What agrees and what does not, in a few sentences."""
        off = ~torch.eye(len(self.names), dtype=torch.bool)
        of = {name: self.score(name)[off] for name in self.labels["score"]}
        correlation = self._with("rank_correlation", off)
        said = [
            f"after matching heads by {_MATCH.get(self.match, self.match)}, edge effects correlate "
            f"{_span(of['rank_correlation'])} in ranks{correlation}"
            if self.match != "numbers"
            else f"edge effects correlate {_span(of['rank_correlation'])} in ranks{correlation}",
            f"circuits share {_span(of['jaccard'])} of the edges in either{self._with('jaccard', off)}",
            f"a circuit has a faithfulness of {_span(of['transfer'])} in the other's place, where the other's own has "
            f"{_span(self.score('transfer').diagonal())} and random circuits have "
            f"{_span(self.score('transfer', 'chance')[off])}",
        ]
        if self.weak:
            said.append(f"hardly any gap in {', '.join(self.weak)}: faithfulness there says little")
        return "; ".join(said)

    def _with(self, score: str, off: Bool[Tensor, "one other"]) -> str:
        """Chance and ceiling of a score in brackets."""
        said = [f"{_span(self.score(score, 'chance')[off])} by chance"]
        ceiling = self.score(score, "ceiling")[off]
        if not bool(ceiling.isnan().all()):
            said.append(f"{_span(ceiling)} between halves of the prompts")
        return f" ({', '.join(said)})"

    def table(self, score: str) -> pd.DataFrame:
        """One score of all pairs, a row for each `one`.

        Raises:
            ResultError: there is no such score.
        """
        import pandas as pd

        return pd.DataFrame(self.score(score).double().numpy(), index=list(self.names), columns=list(self.names))

    def _summary(self) -> list[str]:
        tables = [[score, *self.table(score).round(2).to_string().splitlines()] for score in self.labels["score"]]
        return [self.sentence(), *(line for table in tables for line in table)]


_MATCH = {"behaviour": "what they do", "effects": "their effects", "matches": "the matches given"}


def _span(values: Float[Tensor, " *axes"]) -> str:
    """The least and the largest of some values, as one number where they are the same in two digits."""
    some = values[~values.isnan()]
    if not len(some):
        return "–"
    ends = [f"{float(end):.2f}".replace("-0.00", "0.00") for end in (some.min(), some.max())]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
