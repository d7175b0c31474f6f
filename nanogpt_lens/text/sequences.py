"""A corpus of any size as the sequences that a model reads: every token once, never all in memory.

A corpus of n tokens is cut into sequences of `seq_len` tokens, the model's context unless told otherwise; what is
left at the end is a shorter one. `OpenedCorpus.sequences` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.text.ids import TokenIds, check_ids
from nanogpt_lens.text.seen import Decode, trace_of

_PIECE = 2**18


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Sequences of one length, one after the other in the corpus.

    Attributes:
        tokens: the ids, on the model's device.
        first: the corpus index of the first token; the others follow without a gap.
    """

    tokens: Int[Tensor, "example pos"]
    first: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """A corpus, cut for a model.

    Attributes:
        ids: those of the whole corpus.
        seq_len: the tokens of a sequence; the last may be shorter.
        batch_size: the sequences of a batch.
        name: what the corpus is called in provenance.
        d_vocab, device: those of the model.
        text_length: the number of tokens that belong to one text: a row's where the corpus is rows of ids, else all.
        decode: what the ids stand for; None for a model without a vocabulary.
    """

    ids: TokenIds
    seq_len: int
    batch_size: int
    name: str
    d_vocab: int
    device: torch.device
    text_length: int
    decode: Decode | None = None

    @property
    def n_tokens(self) -> int:
        """The number of tokens of the whole corpus."""
        return self.ids.n

    @property
    def fingerprint(self) -> str:
        """Equal for equal corpora, see `TokenIds.fingerprint`."""
        return self.ids.fingerprint

    def trace(self) -> Int[Tensor, " hash"]:
        """What something that has read these sequences keeps of them, see `nanogpt_lens.text.seen`."""
        return trace_of(self.ids, self.decode, None if self.text_length == self.n_tokens else self.text_length)

    @property
    def n(self) -> int:
        """The number of sequences, a shorter last one included."""
        return -(-self.n_tokens // self.seq_len)

    @property
    def n_batches(self) -> int:
        """The number of batches; a shorter last sequence is a batch by itself."""
        full = self.n_tokens // self.seq_len
        return -(-full // self.batch_size) + (self.n > full)

    def batch(self, i: int) -> Batch:
        """The i-th batch.

        Raises:
            AnalysisError: an id is outside the model's vocabulary.
        """
        full = self.n_tokens // self.seq_len
        step = self.batch_size * self.seq_len
        start, stop = i * step, min((i + 1) * step, full * self.seq_len)
        if start >= stop:  # the shorter last sequence
            start, stop = full * self.seq_len, self.n_tokens
        ids = self.tokens(start, stop)
        return Batch(tokens=ids.view(-1, min(self.seq_len, stop - start)).to(self.device), first=start)

    def tokens(self, start: int, stop: int) -> Int[Tensor, " token"]:
        """The ids from corpus index `start` to `stop`, on the CPU."""
        ids = self.ids.tokens(start, stop)
        check_ids(self.d_vocab, ids, self.name)
        return ids

    def excerpts(self, starts: Int[Tensor, "*starts"], width: int) -> Int[Tensor, "*starts width"]:
        """`width` tokens from each corpus index of `starts` on, int32.

        -1 behind the end of the start's sequence, and everywhere for a negative start.
        """
        flat = starts.flatten().cpu()
        kept = torch.full((len(flat), width), -1, dtype=torch.int32)
        end = (flat // self.seq_len * self.seq_len + self.seq_len).clamp_max(self.n_tokens)
        for low in range(0, self.n_tokens, _PIECE):
            here = ((flat >= low) & (flat < low + _PIECE)).nonzero()[:, 0]
            if len(here):
                ids = self.tokens(low, min(low + _PIECE + width, self.n_tokens)).int()
                at = flat[here, None] + torch.arange(width)
                kept[here] = torch.where(at < end[here, None], ids[(at - low).clamp_max(len(ids) - 1)], -1)
        return kept.view(*starts.shape, width)

    def drawn(self, n: int | None, *, seed: int) -> tuple[Int[Tensor, "example pos"], Int[np.ndarray, "example pos"]]:
        """`n` whole sequences, one drawn from each of `n` equal stretches of the corpus; all where there are no more.

        A shorter sequence at the end is left out, unless it is the only one.

        Args:
            n: the largest number of sequences; None for all.
            seed: the seed of the draw.

        Returns:
            The ids on the CPU, in the order of the corpus, and the corpus index of each.
        """
        seq_len = min(self.seq_len, self.n_tokens)
        whole = self.n_tokens // seq_len
        n = whole if n is None else min(n, whole)
        edges = torch.linspace(0, whole, n + 1, dtype=torch.float64).round().long()
        part = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        chosen = edges[:-1] + (part * (edges[1:] - edges[:-1])).long()
        tokens = torch.stack([self.tokens(i * seq_len, (i + 1) * seq_len) for i in chosen.tolist()])
        return tokens, chosen.numpy()[:, None] * seq_len + np.arange(seq_len)
