"""What has been read of a text, kept so briefly that a lens, an autoencoder or a ranking can carry it along.

A trace is a sample of the text's stretches of 16 tokens: of the hashes of all stretches, the smallest ones (a "bottom-k
sketch"). Which stretches these are depends on their tokens alone. So another text can be asked which of its own
stretches would be in the sample, and how many of these are: that is the share of it which has been read, whether the
text is given again whole, in part, in another order or as another kind of file.

Source: Broder 1997, "On the resemblance and containment of documents".
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.text.ids import TokenIds

WIDTH = 16
"""Tokens of a stretch: so many that chance rarely repeats them, in text of one author too."""

_SIZE = 2048  # hashes of a trace
_PIECE = 2**20
_STRETCHES = 64  # pieces of a large text that are compared with a trace
_NAMED = 0.05  # a smaller share is what texts have in common by chance


def trace_of(ids: TokenIds) -> Int[Tensor, " hash"]:
    """The trace of a text, ascending; without any hash where the text is shorter than a stretch."""
    kept = np.empty(0, np.int64)
    for start in range(0, ids.n, _PIECE):
        hashes = _hashes(ids.tokens(start, start + _PIECE + WIDTH - 1).numpy())
        if len(kept) == _SIZE:
            hashes = hashes[hashes < kept[-1]]
        kept = np.unique(np.concatenate([kept, hashes]))[:_SIZE]
    return torch.from_numpy(kept)


def joined_traces(traces: Iterable[Int[Tensor, " _"]]) -> Int[Tensor, " joined"]:
    """The trace of several texts together."""
    return torch.cat(list(traces)).unique()[:_SIZE]


def share_seen(ids: TokenIds, trace: Int[Tensor, " hash"]) -> float | None:
    """The share, from 0 to 1, of a text's stretches that the text of a trace has too.

    Of more than about a million tokens, stretches evenly spaced are compared.

    Returns:
        The share; None where nothing can be said: one of the texts is too short to have a stretch in the sample.
    """
    known = trace.cpu().numpy()
    if not len(known):
        return None
    limit = known[-1] if len(known) == _SIZE else np.iinfo(np.int64).max
    length = _PIECE // _STRETCHES
    starts = [0] if ids.n <= _PIECE else np.linspace(0, ids.n - length, _STRETCHES).astype(int).tolist()
    length = ids.n if ids.n <= _PIECE else length
    hashes = np.concatenate([_hashes(ids.tokens(start, start + length).numpy()) for start in starts])
    sampled = hashes[hashes <= limit]
    return float(np.isin(sampled, known).mean()) if len(sampled) else None


def seen_words(share: float | None, by: str) -> str:
    """The end of a definition that says that `by` has read this text before; nothing where it has not."""
    return "" if share is None or share < _NAMED else f"; {share:.0%} of this text {by} has seen before"


def trace_to_text(trace: Int[Tensor, " hash"]) -> str:
    """A trace as characters, for JSON."""
    return base64.b64encode(trace.cpu().numpy().astype("<i8").tobytes()).decode()


def text_to_trace(text: str) -> Int[Tensor, " hash"]:
    """The trace that `trace_to_text` wrote."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<i8").astype(np.int64))


def _hashes(ids: Int[np.ndarray, " token"]) -> Int[np.ndarray, " start"]:
    """A hash from 0 to 2**63 - 1 of each stretch of `WIDTH` ids."""
    if len(ids) < WIDTH:
        return np.empty(0, np.int64)
    value, factor, width = ids.astype(np.uint64) + np.uint64(1), 0x9E3779B97F4A7C15, 1
    while width < WIDTH:  # of twice as many ids, from those of the first half and the second
        value = value[:-width] * np.uint64(factor) + value[width:]
        factor, width = factor * factor % 2**64, 2 * width
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 spreads them evenly
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(multiplier)
    return ((value ^ (value >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
