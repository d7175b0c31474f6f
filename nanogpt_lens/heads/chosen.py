"""The choice of the heads that are ablated: which, and on how much of what they are then measured on."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.induction import repeated_and_unrepeated
from nanogpt_lens.heads.induction_rule import find_induction_heads
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.results import InductionHeads
from nanogpt_lens.text.opened import OpenedCorpus
from nanogpt_lens.text.prompts import repeated_tokens
from nanogpt_lens.text.seen import share_of_rows

_OTHER_SEED = 2**31
"""What is added to the seed of the random tokens on which heads are chosen; of a seed 32 bits count."""


def chosen_on_others(
    model: Hooked, text: OpenedCorpus | None, *, seq_len: int | None, n: int, seed: int
) -> tuple[InductionHeads, Int[Tensor, "example pos"] | None, Int[Tensor, "_ pos"] | None]:
    """The induction heads by other sequences than those that are measured.

    Returns:
        The heads; of a text the windows to measure on, and those of the choice, None of random tokens.

    Raises:
        AnalysisError: there is no induction head, or there are fewer than four windows.
    """
    measured = chosen_on = None
    if text is None:
        found = find_induction_heads(model, seq_len=seq_len, n=n, seed=(seed + _OTHER_SEED) % 2**63)
    else:
        length = repeated_and_unrepeated(model, seq_len=seq_len, n=2, seed=seed)[0].shape[1] // 2
        both = text.windows(seq_len=length, n=2 * n, seed=seed)
        if len(both) < 4:
            raise AnalysisError(
                f"there are {len(both)} windows of {length} tokens; expected at least 4, two to choose heads on and "
                "two to measure on: give a longer corpus, a smaller seq_len, or the heads"
            )
        chosen_on, measured = both[::2], both[1::2]
        found = find_induction_heads(model, chosen_on, seq_len=length, n=n, seed=seed)
    if not found.heads():
        best = divmod(int(found.values.argmax()), found.shape["head"])
        raise AnalysisError(f"{found.verdict}: there is nothing to ablate, or name some with heads=[{best}]")
    return found, measured, chosen_on


def share_chosen_on(
    model: Hooked,
    measured: Int[Tensor, "example pos"],
    chosen_by: InductionHeads | None,
    *,
    random: bool,
    chosen_on: Int[Tensor, "_ pos"] | None = None,
) -> float | None:
    """The share of the sequences that are measured which the heads were chosen on too; None where that is unknown.

    Random sequences are drawn again, with the seed of the choice. What windows of a text were is not kept.

    Args:
        model: the model.
        measured: the sequences, once each.
        chosen_by: the result that the heads were chosen from; None if nobody says.
        random: whether they are random tokens.
        chosen_on: the windows of the choice, where they are at hand.

    Raises:
        AnalysisError: `chosen_by` is another kind of result.
    """
    if chosen_by is None:
        return None
    sample: Any = getattr(chosen_by, "sample", None)
    if not isinstance(chosen_by, InductionHeads) or sample is None:
        raise AnalysisError(
            f"chosen_by is a {type(chosen_by).__name__}; expected the result of find_induction_heads that the heads "
            "were taken from: leave it out if they have another origin"
        )
    by_random = sample.corpus is None
    if by_random != random:
        return 0.0
    if chosen_on is None and not random:
        return None
    if chosen_on is None:
        chosen_on = repeated_tokens(model, seq_len=sample.seq_len, n=sample.n, seed=sample.seed)[:, : sample.seq_len]
    return share_of_rows(measured, chosen_on.tolist())
