"""What has been read of a text, kept so briefly that a lens, an autoencoder or a ranking can carry it along.

A trace is a sample of the text's stretches of 16 characters: of the hashes of all stretches, the smallest ones (a
"bottom-k sketch"). Which stretches these are depends on their characters alone. So another text can be asked which of
its own stretches would be in the sample, and how many of these are: that is the share of it which has been read,
whether the text is given again whole, in part, in another order, as another kind of file, or in the ids of another
vocabulary. Of a model without a vocabulary the ids themselves are compared.

One trace serves all: `Sample.seen_share` and `Sample.seen_by` are where a result says what came out.

Source: Broder 1997, "On the resemblance and containment of documents".
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from conversion.errors import VocabularyError
from nanogpt_lens.text.ids import TokenIds

Decode: TypeAlias = Callable[[Integer[np.ndarray, " token"]], str]
"""From ids to the text that they stand for."""

WIDTH = 16
"""Characters of a stretch: so many that chance rarely repeats them, in text of one author too."""

_SIZE = 2**14  # hashes of a trace
_PIECE = 2**20
_STRETCHES = 64  # pieces of a large text that are compared with a trace
_CHANCE = 2  # so many stretches that two texts have in common, and no more than a quarter, are chance
_BETWEEN = 2**32 - 1  # no character, and no id


def trace_of(ids: TokenIds, decode: Decode | None = None, row: int | None = None) -> Int[Tensor, " hash"]:
    """The trace of a text, ascending; without any hash where the text is shorter than a stretch.

    Args:
        ids: the text.
        decode: what the ids stand for; None for a model without a vocabulary.
        row: the number of ids after which another text begins. Texts shorter than a stretch are read as if they
            followed each other.
    """
    row = None if row is not None and row < WIDTH else row
    kept = np.empty(0, np.int64)
    for start in range(0, ids.n, _PIECE):
        hashes = _hashes(ids, start, start + _PIECE + WIDTH - 1, decode, row)
        if len(kept) == _SIZE:
            hashes = hashes[hashes < kept[-1]]
        kept = np.unique(np.concatenate([kept, hashes]))[:_SIZE]
    return torch.from_numpy(kept)


def joined_traces(traces: Iterable[Int[Tensor, " _"]]) -> Int[Tensor, " joined"]:
    """The trace of several texts together."""
    return torch.cat(list(traces)).unique()[:_SIZE]


def share_seen(
    ids: TokenIds, trace: Int[Tensor, " hash"], decode: Decode | None = None, row: int | None = None
) -> float | None:
    """The share, from 0 to 1, of a text's stretches that the text of a trace has too.

    Of more than about a million tokens, stretches evenly spaced are compared.

    Returns:
        The share, 0 for one or two stretches of many, which is chance; None where nothing can be said: one of the texts
        is too short to have a stretch in the sample, or is short rows that do not follow each other in the other; or
        the trace is of characters and these ids have none, or an earlier version made it.
    """
    short, row = row is not None and row < WIDTH, None if row is not None and row < WIDTH else row
    known = trace.cpu().numpy()
    kinds = set((known & 1).tolist())  # of ids, of characters
    if len(kinds) != 1 or (kinds == {1} and decode is None):
        return None
    decode = decode if kinds == {1} else None
    limit = known[-1] if len(known) == _SIZE else np.iinfo(np.int64).max
    length = _PIECE // _STRETCHES
    starts = [0] if ids.n <= _PIECE else np.linspace(0, ids.n - length, _STRETCHES).astype(int).tolist()
    length = ids.n if ids.n <= _PIECE else length
    hashes = np.concatenate([_hashes(ids, start, start + length, decode, row) for start in starts])
    sampled = hashes[hashes <= limit]
    if not len(sampled):
        return None
    hits = int(np.isin(sampled, known).sum())
    if short and not hits:
        return None
    return 0.0 if hits <= _CHANCE and 4 * hits < len(sampled) else hits / len(sampled)


def trace_to_text(trace: Int[Tensor, " hash"]) -> str:
    """A trace as characters, for JSON."""
    return base64.b64encode(trace.cpu().numpy().astype("<i8").tobytes()).decode()


def text_to_trace(text: str) -> Int[Tensor, " hash"]:
    """The trace that `trace_to_text` wrote."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<i8").astype(np.int64))


def _hashes(
    ids: TokenIds, start: int, stop: int, decode: Decode | None, row: int | None
) -> Int[np.ndarray, " stretch"]:
    """A hash from 0 to 2**63 - 1 of each stretch of the tokens `start` to `stop`; odd for characters, even for ids."""
    tokens = ids.tokens(start, stop).numpy()
    texts = [tokens] if row is None else np.split(tokens, range(row - start % row, len(tokens), row))
    if decode is not None:
        try:
            texts = [np.frombuffer(decode(part).encode("utf-32-le", "surrogatepass"), dtype="<u4") for part in texts]
        except VocabularyError:  # ids that stand for nothing, as in a padded vocabulary
            decode = None
    between = [np.array([_BETWEEN])] * len(texts)
    symbols = np.concatenate([part.astype(np.int64) for pair in zip(texts, between, strict=True) for part in pair][:-1])
    hashes = _hashes_of(symbols)
    gaps = np.concatenate([[0], np.cumsum(symbols == _BETWEEN)])
    whole = gaps[WIDTH:] == gaps[:-WIDTH] if len(hashes) else np.empty(0, bool)
    return hashes[whole] & ~1 | (decode is not None)


def _hashes_of(symbols: Integer[np.ndarray, " symbol"]) -> Int[np.ndarray, " start"]:
    """A hash from 0 to 2**63 - 1 of each stretch of `WIDTH` numbers."""
    if len(symbols) < WIDTH:
        return np.empty(0, np.int64)
    value, factor, width = symbols.astype(np.uint64) + np.uint64(1), 0x9E3779B97F4A7C15, 1
    whole, done = np.zeros(len(symbols), np.uint64), 0  # of the first `done` numbers of each stretch
    while done < WIDTH:
        if WIDTH & width:
            whole = whole[: len(value) - done] * np.uint64(factor) + value[done:] if done else value
            done += width
        value = value[:-width] * np.uint64(factor) + value[width:]  # of twice as many
        factor, width = factor * factor % 2**64, 2 * width
    value = whole
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 spreads them evenly
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(multiplier)
    return ((value ^ (value >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def share_of_rows(rows: Int[Tensor, "example pos"], seen: Iterable[Iterable[int]]) -> float:
    """The share of some rows of ids which are among those that have been seen, each as a whole."""
    known = set(map(tuple, seen))
    return sum(tuple(row) in known for row in rows.tolist()) / len(rows)
