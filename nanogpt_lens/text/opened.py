"""An opened corpus: its ids, its names, and what is drawn from it; `open_corpus` makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.text.from_model import OWN_TEXT, own_text
from nanogpt_lens.text.ids import TokenIds, check_ids
from nanogpt_lens.text.seen import Decode, share_seen, trace_of
from nanogpt_lens.text.sequences import Sequences

_BATCH_TOKENS = 4096
_PIECE = 2**22


class Opened(ABC):
    """Text that sequences can be drawn from: a corpus, or what the model writes itself.

    Attributes:
        name: what definitions call it: a file's or data set's name, "the given corpus", or what the model's text is.
    """

    name: str

    @abstractmethod
    def windows(self, *, seq_len: int, n: int, seed: int = 0) -> Int[Tensor, "example pos"]:
        """At most `n` sequences drawn at random, as ids on the model's device.

        Raises:
            AnalysisError: the sequences are longer than the context or the text, `n` is below 1, or an id is outside
                the vocabulary.
        """

    @abstractmethod
    def room(self, n: int = 1) -> int:
        """The length of the longest sequences of which there are `n`, at most the context: what defaults stay below."""

    @property
    @abstractmethod
    def windows_name(self) -> str:
        """What the windows are, in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelText(Opened):
    """What the model writes itself."""

    model: Hooked
    name: str = "the model's own text"

    def windows(self, *, seq_len: int, n: int, seed: int = 0) -> Int[Tensor, "example pos"]:
        """Texts drawn from the model, see `own_text`."""
        return own_text(self.model, seq_len=seq_len, n=n, seed=seed)

    def room(self, n: int = 1) -> int:
        """The context."""
        return int(self.model.cfg.n_ctx)

    @property
    def windows_name(self) -> str:
        """What the texts are, in words."""
        return OWN_TEXT

    def __getattr__(self, name: str) -> NoReturn:
        """Raise AnalysisError where the ids of a text are asked for: here every text is drawn anew."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise AnalysisError(
            "there is no text, and this cannot be measured on what the model writes itself; give a text, the path of a "
            "text file or data folder, or ids"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedCorpus(Opened):
    """A corpus as the ids of one model.

    Attributes:
        ids: all of them, one text after the other.
        name: what definitions call it: a file's or data set's name, or "the given corpus".
        origin: what provenance calls it: the path, or the kind and the number of tokens.
        title: what messages call it: the path, or "the corpus".
        d_vocab, n_ctx, device: those of the model.
        row_length: the number of tokens of each text, where the corpus is ids [example, pos]; None for one text.
        decode: what the ids stand for; None for a model without a vocabulary.
    """

    ids: TokenIds
    name: str
    origin: str
    title: str
    d_vocab: int
    n_ctx: int
    device: torch.device
    row_length: int | None = None
    decode: Decode | None = None

    @property
    def n_tokens(self) -> int:
        """The number of tokens of all texts."""
        return self.ids.n

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the ids: [tokens], or [example, pos]."""
        return (self.n_tokens,) if self.row_length is None else (self.n_rows, self.row_length)

    @property
    def n_rows(self) -> int:
        """The number of texts."""
        return 1 if self.row_length is None else self.n_tokens // max(1, self.row_length)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the ids: equal for the same text, whatever it was read from."""
        return self.ids.fingerprint

    def room(self, n: int = 1) -> int:
        """Of rows, their length; else the n-th part of the text, two tokens at least; at most the context."""
        return min(self.n_ctx, self.row_length or max(2, self.n_tokens // n))

    def share_held_out(self, seq_len: int) -> float:
        """The share that each of two held-out parts gets if nothing is said: a tenth, or one sequence where it fits."""
        n, least = (self.n_rows, 1) if self.row_length is not None else (self.n_tokens, seq_len)
        return (least + 0.5) / n if int(n * 0.1) < least <= n // 3 else 0.1

    def trace(self) -> Int[Tensor, " hash"]:
        """What something that has read this corpus keeps of it, see `nanogpt_lens.text.seen`."""
        return trace_of(self.ids, self.decode, self.row_length)

    def share_seen(self, trace: Int[Tensor, " hash"] | None) -> float | None:
        """The share of this corpus, from 0 to 1, that what has this trace has read; None where that is unknown."""
        return None if trace is None else share_seen(self.ids, trace, self.decode, self.row_length)

    @property
    def windows_name(self) -> str:
        """What the windows are, in words."""
        return f"windows of {self.name}"

    def tokens(self, start: int, stop: int) -> Int[Tensor, " token"]:
        """The ids from index `start` to `stop`, on the CPU.

        Raises:
            AnalysisError: an id is outside the model's vocabulary.
        """
        ids = self.ids.tokens(start, stop)
        check_ids(self.d_vocab, ids, self.title)
        return ids

    def check_all(self) -> None:
        """Raise AnalysisError where any id is outside the model's vocabulary; they are read in pieces."""
        for start in range(0, self.n_tokens, _PIECE):
            self.tokens(start, start + _PIECE)

    def at(self, starts: list[int], seq_len: int) -> Int[Tensor, "example pos"]:
        """As many ids as `seq_len` says from each index on, on the model's device."""
        rows = [self.tokens(start, start + seq_len) for start in starts]
        return torch.stack(rows).to(self.device)

    def between(self, start: int, stop: int) -> OpenedCorpus:
        """A consecutive part: tokens `start` to `stop` of one text, or so many of the rows."""
        step = self.row_length or 1
        return replace(self, ids=self.ids.between(start * step, stop * step))

    def windows(self, *, seq_len: int, n: int, seed: int = 0) -> Int[Tensor, "example pos"]:
        """At most `n` windows that do not overlap, drawn at random; of rows, their beginnings."""
        if not isinstance(seq_len, int) or not 1 <= seq_len <= self.n_ctx:
            raise AnalysisError(
                f"windows of {seq_len} tokens were asked for; expected 1 to {self.n_ctx}, the model's context"
            )
        check_whole(1, n=n)
        step, count = seq_len, self.n_tokens // seq_len
        if self.row_length is not None:
            step, count = self.row_length, self.n_rows
            if step < seq_len:
                raise AnalysisError(
                    f"{self.title} has sequences of {step} tokens; expected at least {seq_len}: give a smaller seq_len"
                )
        if count < 1:
            raise AnalysisError(
                f"{self.title} has {self.n_tokens} tokens; expected at least one window of {seq_len}: give a longer "
                "text, or a smaller seq_len"
            )
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n].sort().values
        return self.at([i * step for i in chosen.tolist()], seq_len)

    def sequences(self, *, seq_len: int | None = None, batch_size: int | None = None, least: int = 1) -> Sequences:
        """All of the corpus, cut into sequences that are read one batch after the other.

        Args:
            seq_len: the tokens of a sequence; None for the context, or the length of the rows.
            batch_size: the sequences of a batch; None for some 4,096 tokens.
            least: the smallest number of tokens that the corpus may have.

        Raises:
            AnalysisError: a sequence is longer than the context, or has another length than the rows; the corpus is
                too short.
        """
        for option, value in (("seq_len", seq_len), ("batch_size", batch_size)):
            if value is not None:
                check_whole(1, **{option: value})
        row = self.row_length
        length = int(seq_len or min(row or self.n_ctx, self.n_ctx))
        if length > self.n_ctx or (row is not None and row != length):
            asked = f"rows of {row} tokens" if row is not None else f"seq_len={seq_len}"
            raise AnalysisError(
                f"the corpus was given with {asked}; expected at most {self.n_ctx}, the model's context"
                + ("" if row is None else ", and no other seq_len")
            )
        if self.n_tokens < least:
            raise AnalysisError(
                f"{self.title} has {self.n_tokens} tokens; expected at least {least}"
                + (", one window" if least > 1 else "")
                + ": give a longer text"
            )
        return Sequences(
            ids=self.ids,
            seq_len=length,
            batch_size=int(batch_size or max(1, _BATCH_TOKENS // length)),
            name=self.origin,
            d_vocab=self.d_vocab,
            device=self.device,
            text_length=row or self.n_tokens,
            decode=self.decode,
        )
