"""How well a model agrees with itself: its prompts in two halves, so that agreement with others can be read.

Effects are measured on both halves, and circuits found on each. What two halves do not agree on, two models cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.circuits.discovery import find_circuit
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.search import Search
from nanogpt_lens.compare.overlap import overlap_of
from nanogpt_lens.compare.renumbering import ranks
from nanogpt_lens.compare.sides import Side
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.running.metrics import Metric

LEAST = 4
"""With fewer prompts there are no halves."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """What both halves of the prompts agree on, for each random split; nan where there is nothing to say.

    Attributes:
        correlation: the rank correlation of the effects on both halves.
        jaccard: the edges shared by the circuits found on both, of those in either.
        above_chance: the same above chance, see `Overlap`.
        transfer: the faithfulness of each half's circuit on the other half, the mean of both.
    """

    correlation: Float[Tensor, " split"]
    jaccard: Float[Tensor, " split"]
    above_chance: Float[Tensor, " split"]
    transfer: Float[Tensor, " split"]


def halves_of(side: Side, *, splits: int, seed: int, memory: int) -> Halves:
    """The agreement of one model's halves of the prompts."""
    rows = torch.full((4, splits), torch.nan, dtype=torch.float64)
    n = len(side.search.ready.clean)
    if n < LEAST:
        return Halves(correlation=rows[0], jaccard=rows[1], above_chance=rows[2], transfer=rows[3])
    generator = torch.Generator().manual_seed(seed)
    for i in range(splits):
        order = torch.randperm(n, generator=generator)
        halves = order[: n // 2].sort().values, order[n // 2 :].sort().values
        if side.per_example is not None:
            one, two = (ranks(side.per_example[:, half].mean(1)) for half in halves)
            rows[0, i] = one @ two
        if isinstance(side.search.ready.metric.function, Metric):
            rows[1:, i] = _found_on_both(side, halves, memory)
    return Halves(correlation=rows[0], jaccard=rows[1], above_chance=rows[2], transfer=rows[3])


def _found_on_both(side: Side, halves: tuple[Tensor, Tensor], memory: int) -> Float[Tensor, " score"]:
    """Of circuits found on both halves what they share, twice, and what each does on the other half."""
    arguments = [side.on(half) for half in halves]
    try:
        found = [find_circuit(**one, **side.finding, orders=0, memory=memory, progress=False).kept for one in arguments]
    except AnalysisError:  # a half without a gap, of which nothing can be said
        return torch.full((3,), torch.nan, dtype=torch.float64)
    runs = [Search(prepare(**one, reference=None), memory=memory) for one in arguments]
    shared = overlap_of(*found)
    done = [float(run.faithfulness(kept[None])[0]) for run, kept in zip(runs, reversed(found), strict=True)]
    return torch.tensor([shared.jaccard, shared.above_chance, sum(done) / 2], dtype=torch.float64)


def spearman_brown(correlation: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The correlation that two measurements on all prompts would have, of that of two on half of them.

    2 r / (1 + r), and 0 where r is negative (Spearman 1910, Brown 1910). Exact for Pearson's correlation of means over
    prompts; for ranks it is the usual approximation.
    """
    r = correlation.clamp_min(0)
    return 2 * r / (1 + r)
