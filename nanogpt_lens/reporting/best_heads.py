"""The best heads of several checkpoints, and which heads are induction heads, by the one rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange

from nanogpt_lens.heads.induction_rule import MARGIN, THRESHOLD, find_induction_heads
from nanogpt_lens.heads.taxonomy import score_heads
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.reporting.blocks import Table
from nanogpt_lens.reporting.words import line_of, list_of, number
from nanogpt_lens.results import InductionHeads, Scores
from nanogpt_lens.text.corpus import Corpus

_N = 32  # sequences, as of `find_induction_heads`


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadSummary:
    """What the heads of one checkpoint are scored.

    Attributes:
        scores: those of the taxonomy.
        induction: which heads are induction heads.
    """

    scores: Scores
    induction: InductionHeads

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores."""
        return self.scores.labels["score"]

    def best(self, name: str) -> tuple[float, int, int]:
        """The highest score of a kind, and its layer and head."""
        values = self.scores.score(name)
        place = int(rearrange(values, "layer head -> (layer head)").nan_to_num(-math.inf).argmax())
        layer, head = divmod(place, values.shape[1])
        return float(values[layer, head]), layer, head


def heads_of(model: Hooked, corpus: Corpus | None, *, seq_len: int, seed: int) -> HeadSummary:
    """The scores of a model's heads on sequences of a text, and its induction heads, on random sequences."""
    return HeadSummary(
        scores=score_heads(model, corpus, seq_len=seq_len, n=_N, seed=seed),
        induction=find_induction_heads(model, n=_N, seed=seed),
    )


def best_heads_table(checkpoints: Sequence[tuple[str, HeadSummary]]) -> Table:
    """A row for each checkpoint, by its name: the highest score of each kind, and the induction heads.

    Args:
        checkpoints: one or more.
    """
    names = checkpoints[0][1].names
    rows = []
    for name, heads in checkpoints:
        cells = [f"{number(value, 2)} ({layer}.{head})" for value, layer, head in map(heads.best, names)]
        found = list_of([f"{layer}.{head}" for layer, head in heads.induction.heads()])
        rows.append((line_of(name), *cells, found or "none"))
    return Table(
        header=("file", *(name.replace("_", " ") for name in names), "induction heads"),
        rows=tuple(rows),
        caption="The highest score of each kind, and the head that has it. A score may be high in a model that has "
        "learned nothing: compare with the others. Induction heads are those whose prefix matching, on "
        f"{checkpoints[0][1].induction.n_examples} repeated random sequences, is surely, for all heads together, above "
        f"{THRESHOLD}, and {MARGIN} above chance and above the same places without repetition, as in all sections.",
        left=(0, len(names) + 1),
    )
