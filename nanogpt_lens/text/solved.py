"""Of many prompt pairs, those in which a model does the task: a choice, which the pairs say of themselves.

Where a model fails on most prompts, a few of them have nearly all of the gap between clean and corrupted texts, and a
circuit, its faithfulness and the interval of that are about these few. Pairs in which the model does the task have gaps
of one size. What is found on them is true of such prompts alone, and not of all that could be drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, evaluating, n_tokens, run
from nanogpt_lens.text.pair import Pair

MOST = 64
"""The candidates that are drawn at most, for each prompt that is asked for."""

_EACH = 8  # candidates for each prompt that is asked for, in one drawing
_RUN = 4096  # tokens of a run, about


def solved_pairs(model: Hooked, draw: Callable[[int], Pair], *, n: int) -> Pair:
    """The first `n` of many pairs in which a model does the task.

    It does if its top token is the answer after the clean prompt, and is not after the corrupted one.

    Args:
        model: that is asked.
        draw: draws so many pairs, others each time.
        n: the number of pairs.

    Returns:
        The pairs; `chosen` says of how many.

    Raises:
        AnalysisError: of `MOST` candidates for each, too few are such.
    """
    kept, n_kept, n_drawn = list[Pair](), 0, 0
    while n_kept < n and n_drawn < MOST * n:
        candidates = draw(_EACH * n)
        places = is_solved(model, candidates).nonzero()[:, 0]
        taken = places[: n - n_kept]
        n_drawn += _EACH * n if len(places) < n - n_kept else int(taken[-1]) + 1  # the last that had to be looked at
        n_kept += len(taken)
        kept.append(candidates.at(taken))
    if n_kept < n:
        raise AnalysisError(
            f"this model does the task in {n_kept} of {n_drawn:,} prompt pairs, and {n} were asked for: give a smaller "
            "n, or take pairs as they are drawn, without solved_by"
        )
    return Pair.together(kept, chosen=f"chosen of {n_drawn:,} drawn pairs, as those that the model answers")


def is_solved(model: Hooked, pairs: Pair) -> Bool[Tensor, " example"]:
    """Whether the model's top token is the answer after each clean prompt, and is not after the corrupted one."""
    both = rearrange([pairs.clean, pairs.corrupted], "run example pos -> (run example) pos")
    step = max(1, _RUN // both.shape[1])
    with evaluating(model):
        top = torch.cat([run(model, rows)[:, -1, : n_tokens(model)].argmax(-1) for rows in both.split(step)])
    clean, corrupted = rearrange(top, "(run example) -> run example", run=2)
    return (clean == pairs.answer) & (corrupted != pairs.answer)
