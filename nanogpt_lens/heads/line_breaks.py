"""Which heads look at the last line break: the class of `syntax_attention` that holds in all seeds, for the taxonomy.

Such a head gives to the newline before its own line more than its attention by distance would, and more than to an
earlier newline at the same distance. That says where it looks. It does not say that it knows lines: one that looks at
newlines, the nearest first, does the same (`nanogpt_lens.heads.odds` tells the two apart).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.simultaneous import sure_low
from nanogpt_lens.heads.naming import ABOVE_DISTANCE, AS_ASKED, NOT_BEYOND, THRESHOLDS
from nanogpt_lens.heads.syntax import syntax_attention
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.results.heads import ALPHA


class LineBreaks(NamedTuple):
    """The score of every head, and its threshold.

    Attributes:
        value: attention, from the characters of a line to the newline before it.
        chance: what the head's attention by distance alone would give.
        low, high: its 95% interval.
        sure_low: the lower end of an interval that holds for all heads together.
        per_example: the value of each sequence.
        threshold: above which `sure_low` has to be; infinite where the head does no more for the last newline than for
            an earlier one.
        reason: why, as an index into `naming.REASONS`; 0 for the default.
    """

    value: Float[Tensor, "layer head"]
    chance: Float[Tensor, "layer head"]
    low: Float[Tensor, "layer head"]
    high: Float[Tensor, "layer head"]
    sure_low: Float[Tensor, "layer head"]
    per_example: Float[Tensor, "layer head example"]
    threshold: Float[Tensor, "layer head"]
    reason: Int[Tensor, "layer head"]


def line_breaks(
    model: Hooked, corpus: Any, *, seq_len: int, n: int, seed: int, asked: float | None = None
) -> LineBreaks | str:
    """The attention of every head to the last line break; or in words why it is not known.

    Args:
        model: the model.
        corpus: an open corpus, or rows of ids.
        seq_len, n, seed: of the sequences.
        asked: a threshold that is taken as it is; None for the rule.
    """
    try:
        found = syntax_attention(model, corpus, classes=["own_line_break"], seq_len=seq_len, n=n, seed=seed)
    except AnalysisError as error:  # no vocabulary, no line break in the text, too short a text
        return str(error).partition(";")[0]
    each, chance, low, high = (_first(t) for t in (found.per_example, found.chance, found.low, found.high))
    floor, least = chance + found.margin, THRESHOLDS["line_break"]
    beyond = (found.p_shifted[0] < ALPHA) & (found.beyond_sure[0] > found.margin)
    threshold = torch.where(beyond, floor.clamp(min=least), torch.inf)
    reason = torch.where(beyond, torch.where(floor > least, ABOVE_DISTANCE, 0), NOT_BEYOND)
    if asked is not None:
        threshold, reason = torch.full_like(threshold, asked), torch.full_like(reason, AS_ASKED)
    sure = sure_low(each, looked_at=chance.numel())
    return LineBreaks(found.values[0].double(), chance, low, high, sure, each, threshold, reason)


def _first(tensor: Float[Tensor, "one layer head *example"] | None) -> Float[Tensor, "layer head *example"]:
    """What is known of the only class, in float64."""
    assert tensor is not None  # two and more sequences have an interval
    return tensor[0].double()
