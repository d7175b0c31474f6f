"""Is there an induction head? The one rule, for the taxonomy, the ablation, the report and trajectories.

A head is an induction head if its prefix matching (stripe) is surely above its threshold. The threshold is the largest
of 0.4; what uniform attention would give, and 0.1; and what the head pays to the same places when nothing is repeated,
and 0.1, or a head that looks back by a fixed number of tokens would pass. "Surely": the lower end of the interval over
the sequences is above it, an end that holds for all heads of the model together, because an induction head that was
found is the best of all that were looked at.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.simultaneous import sure_low
from nanogpt_lens.heads.attention import attention_patterns
from nanogpt_lens.heads.induction import prefix_matching, repeated_and_unrepeated
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.results import InductionHeads, Scores
from nanogpt_lens.text.corpus import Corpus

THRESHOLD = 0.4
"""The prefix matching that an induction head exceeds at least, as in ARENA's exercises."""

MARGIN = 0.1
"""How far attention must be above what needs no explanation."""

_SEQUENCES = 16  # whose patterns are looked at without repetition


def find_induction_heads(
    model: Hooked, corpus: Corpus | None = None, *, seq_len: int | None = None, n: int = 32, seed: int = 0
) -> InductionHeads:
    """The induction heads of a model, by the one rule that the taxonomy, ablation, report and trajectories have too.

    Args:
        model: the model.
        corpus, seq_len, n, seed: as for `prefix_matching`, stripe convention; at least two sequences.

    Returns:
        The scores of `prefix_matching`, with each head's `threshold`, the lower end `sure_low` that is compared with
        it, and `carries`; ask `.heads()`.

    Raises:
        AnalysisError: there are fewer than two sequences; see `prefix_matching`.
    """
    matching = prefix_matching(model, corpus, seq_len=seq_len, n=n, seed=seed)
    without, _ = attention_without_repetition(model, corpus, seq_len=matching.seq_len, n=n, seed=seed)
    threshold = induction_threshold(matching, without)
    assert matching.per_example is not None  # prefix matching keeps them
    low = sure_low(matching.per_example, looked_at=matching.values.numel())
    scores = matching.as_fields()
    scores["definition"] += (
        f"; an induction head's is surely, for all heads together, above {THRESHOLD}, and {MARGIN} above chance and "
        "above the same places without repetition"
    )
    return InductionHeads(**scores, threshold=threshold, sure_low=low, carries=low > threshold)


def induction_threshold(matching: Scores, without: Float[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
    """What a head's prefix matching has to exceed.

    Args:
        matching: the result of `prefix_matching`.
        without: the first of `attention_without_repetition`.
    """
    assert matching.chance is not None  # of prefix matching it is known
    return torch.maximum(matching.chance.double(), without).add(MARGIN).clamp(min=THRESHOLD)


def attention_without_repetition(
    model: Hooked, corpus: Corpus | None = None, *, seq_len: int, n: int, seed: int
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """The attention to where induction, and where a duplicate token, would be, in sequences that repeat nothing."""
    _, unrepeated = repeated_and_unrepeated(model, corpus, seq_len=seq_len, n=max(2, min(n, _SEQUENCES)), seed=seed)
    patterns = attention_patterns(model, unrepeated).values  # [example, layer, head, dest_pos, src_pos]

    def stripe(back: int) -> Float[Tensor, "layer head"]:
        """The mean attention of the second half's queries to the position so many tokens back."""
        diagonal = patterns.diagonal(offset=-back, dim1=-2, dim2=-1)[..., seq_len - back :]
        return diagonal.double().mean(dim=(0, -1))

    return stripe(seq_len - 1), stripe(seq_len)
