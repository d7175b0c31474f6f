"""What patching found, in sentences: from where the information travels whither, and which head carries it."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.core.simultaneous import sure_low
from nanogpt_lens.reporting.words import heads_named, list_of, share
from nanogpt_lens.results import PatchingResult

_SOME = 0.005  # of recovery: what is written as 0%
_MOST, _ALL = 0.5, 0.995  # of recovery: the information has arrived; all of it


def finding(
    clean: Int[Tensor, " pos"], corrupted: Int[Tensor, " pos"], stream: PatchingResult, whole: PatchingResult
) -> str:
    """Where the difference between the prompts is carried, and by which head."""
    best = whole.top(1, by="recovery", order="high").to_dict("records")[0]
    first, least = _arrives(clean, corrupted, stream)
    head = f"head {best['layer']}.{best['head']} alone carries {share(best['recovery'])} of it"
    if not best["recovery"] >= _SOME:
        head = "no head alone carries a share of it that can be measured"
    if first is None:
        return f"Of the decision between the two prompts of this pair, {head}."
    much = "all of the decision" if least >= _ALL else f"{share(least)} of the decision or more"
    return f"On this pair, from layer {first} on the last token carries {much}; {head}."


def _arrives(
    clean: Int[Tensor, " pos"], corrupted: Int[Tensor, " pos"], stream: PatchingResult
) -> tuple[int | None, float]:
    """From which layer on the last token carries most of the difference, and how much at least.

    None where the prompts differ at the last token themselves, or it never does.
    """
    last = stream.recovery[:, -1] if stream.recovery is not None else torch.zeros(0)
    below = (last < _MOST).nonzero().flatten().tolist()
    first = below[-1] + 1 if below else 0  # from here on it stays at or above
    edits = (clean != corrupted).nonzero().flatten().tolist()
    moved = bool(edits) and edits[-1] < len(clean) - 1
    return (first, float(last[first:].min())) if moved and first < len(last) else (None, 0.0)


def stream_says(clean: Int[Tensor, " pos"], corrupted: Int[Tensor, " pos"], stream: PatchingResult) -> str:
    """Where the information is, in a sentence."""
    first, _ = _arrives(clean, corrupted, stream)
    edits = (clean != corrupted).nonzero().flatten().tolist()
    if first is None:
        return "Dark cells carry the difference between the prompts: put back, they restore the clean answer."
    place = list_of([str(i) for i in edits[:3]]) + (" …" if len(edits) > 3 else "")
    return f"The prompts differ at position {place}; from layer {first} on the last token carries the difference."


def head_says(whole: PatchingResult) -> str:
    """The head that carries most alone."""
    best = whole.top(1, by="recovery", order="high").to_dict("records")[0]
    if not best["recovery"] >= _SOME:
        return "On this pair no head alone restores a share of the clean answer that can be measured."
    restores = f"restores {share(best['recovery'])} of the clean answer"
    return f"On this pair head {best['layer']}.{best['head']} alone {restores}."


def over_pairs(by_head: PatchingResult, n: int) -> str:
    """The heads that surely carry something over all pairs, for all heads together, those that carry most first."""
    differences = by_head.differences()
    if differences is None or by_head.corrupted is None:
        return ""
    effects = differences[0].double() * (1 if by_head.clean > by_head.corrupted else -1)
    surely = sure_low(effects, looked_at=by_head.values.numel()) > 0
    sure = [(int(i), int(j)) for i, j in surely.nonzero().tolist()]
    sure.sort(key=lambda place: -abs(float(by_head.effect[place])))
    if not sure:
        return f"Over {n} pairs no head surely restores anything; what one pair shows may hang on its prompt."
    return f"Over {n} pairs {heads_named(sure)} surely {'restores' if len(sure) == 1 else 'restore'} something."
