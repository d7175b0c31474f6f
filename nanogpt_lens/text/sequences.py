"""A corpus of any size as the sequences that a model reads: every token once, never all in memory.

A corpus of n tokens is cut into sequences of `seq_len` tokens, the model's context unless told
otherwise; what is left at the end is a shorter one. Files are read piece by piece: nanoGPT's `.bin`
as it is, text by way of a temporary file of ids that is deleted when it is no longer needed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, device_of
from nanogpt_lens.model.encoding import encode_corpus
from nanogpt_lens.model.fingerprints import ids_hash
from nanogpt_lens.text.datasets import read_bin, read_data
from nanogpt_lens.text.prompts import Corpus, check_ids, check_vocabulary, corpus_tokens, is_path

_BIN = np.dtype("<u2")
_CHARACTERS = 2**22
_BATCH_TOKENS = 4096
_PIECE = 2**18


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Sequences of one length, one after the other in the corpus.

    Attributes:
        tokens: ids [example, pos] on the model's device.
        first: the corpus index of the first token; the others follow without a gap.
    """

    tokens: Tensor
    first: int


class Sequences:
    """A corpus, cut for a model.

    Attributes:
        n_tokens: of the whole corpus.
        seq_len: tokens of a sequence; the last may be shorter.
        batch_size: sequences of a batch.
        name: what the corpus is called in provenance.
    """

    def __init__(
        self,
        model: Hooked,
        corpus: Corpus,
        *,
        seq_len: int | None = None,
        batch_size: int | None = None,
        least: int = 1,
    ) -> None:
        check_model(model)
        for name, value in (("seq_len", seq_len), ("batch_size", batch_size)):
            if value is not None:
                check_whole(1, **{name: value})
        self._device, self._d_vocab = device_of(model), int(model.cfg.d_vocab)
        rows = corpus.shape[1] if isinstance(corpus, Tensor | np.ndarray) and corpus.ndim == 2 else None
        self.seq_len = int(seq_len or min(rows or model.cfg.n_ctx, model.cfg.n_ctx))
        if self.seq_len > model.cfg.n_ctx or (rows is not None and rows != self.seq_len):
            asked = f"rows of {rows} tokens" if rows is not None else f"seq_len={seq_len}"
            raise AnalysisError(
                f"the corpus was given with {asked}; expected at most {model.cfg.n_ctx}, the model's context"
                + ("" if rows is None else ", and no other seq_len")
            )
        self.batch_size = int(batch_size or max(1, _BATCH_TOKENS // self.seq_len))
        self._ids: Any = None
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self.name = self._open(model, corpus)
        if self.n_tokens < least:
            raise AnalysisError(
                f"{self.name} has {self.n_tokens} tokens; expected at least {least}"
                + (", one window" if least > 1 else "")
                + ": give a longer text"
            )

    @property
    def n(self) -> int:
        """How many sequences there are, a shorter last one included."""
        return -(-self.n_tokens // self.seq_len)

    @property
    def n_batches(self) -> int:
        """How many batches there are; a shorter last sequence is one of its own."""
        full = self.n_tokens // self.seq_len
        return -(-full // self.batch_size) + (self.n > full)

    def batch(self, i: int) -> Batch:
        """The i-th batch.

        Raises:
            AnalysisError: ids outside the model's vocabulary.
        """
        full = self.n_tokens // self.seq_len
        step = self.batch_size * self.seq_len
        start, stop = i * step, min((i + 1) * step, full * self.seq_len)
        if start >= stop:  # the shorter last sequence
            start, stop = full * self.seq_len, self.n_tokens
        ids = self.tokens(start, stop)
        return Batch(tokens=ids.view(-1, min(self.seq_len, stop - start)).to(self._device), first=start)

    def tokens(self, start: int, stop: int) -> Tensor:
        """Ids [tokens] from corpus index `start` to `stop`, on the CPU."""
        if self._file is not None:
            self._file.seek(start * self._dtype.itemsize)
            found = np.fromfile(self._file, dtype=self._dtype, count=stop - start)
        else:
            found = np.asarray(self._ids[start:stop])
        ids = torch.from_numpy(found.astype(np.int64))
        check_ids(self._d_vocab, ids, self.name)
        return ids

    def excerpts(self, starts: Tensor, width: int) -> Tensor:
        """The tokens [..., width] from each corpus index of `starts` on, int32.

        -1 behind the end of the start's sequence, and everywhere for a negative start.
        """
        flat = starts.flatten().cpu()
        found = torch.full((len(flat), width), -1, dtype=torch.int32)
        end = (flat // self.seq_len * self.seq_len + self.seq_len).clamp_max(self.n_tokens)
        for low in range(0, self.n_tokens, _PIECE):
            here = ((flat >= low) & (flat < low + _PIECE)).nonzero()[:, 0]
            if len(here):
                ids = self.tokens(low, min(low + _PIECE + width, self.n_tokens)).int()
                at = flat[here, None] + torch.arange(width)
                found[here] = torch.where(at < end[here, None], ids[(at - low).clamp_max(len(ids) - 1)], -1)
        return found.view(*starts.shape, width)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal corpora: a hash of ids in memory; path, size, time and ends of a file."""
        if self._path is not None:
            return _file_fingerprint(self._path)
        return ids_hash(self._ids)

    def _open(self, model: Hooked, corpus: Corpus) -> str:
        """Set where the ids are; return the corpus' name."""
        if isinstance(corpus, str) and is_path(corpus):
            corpus = Path(corpus)
        if isinstance(corpus, Path):
            return self._open_path(model, corpus.expanduser())
        if isinstance(corpus, Tensor | np.ndarray) and corpus.ndim == 2:
            corpus = corpus.flatten()
        ids = corpus_tokens(model, corpus)
        self._ids, self.n_tokens = ids, len(ids)
        kind = "text" if isinstance(corpus, str) else "ids"
        return f"the corpus ({kind}, {self.n_tokens} tokens)"

    def _open_path(self, model: Hooked, path: Path) -> str:
        place = path / "val.bin" if path.is_dir() else path
        if not place.is_file() or not place.stat().st_size:
            (read_bin if path.suffix == ".bin" else read_data)(path)  # its sentence says what is wrong
            raise AnalysisError(f"{place} is no file, or empty; expected a text file or nanoGPT's .bin")
        path, encoder = place, getattr(getattr(model, "tokenizer", None), "encoder", None)
        if path.suffix == ".bin":
            check_vocabulary(model, path)
            self.n_tokens = len(read_bin(path))  # refuses what is none; a map of the whole file would fill memory
            self._dtype, self._file = _BIN, path.open("rb")
        elif isinstance(encoder, CharVocabulary):
            self._dtype = _BIN if encoder.size <= 2**16 else np.dtype("<u4")
            self._file, self.n_tokens = _encoded_file(model, path, self._dtype)
        else:
            self._ids = corpus_tokens(model, path)
            self.n_tokens = len(self._ids)
        self._path = path
        return str(path)


def _encoded_file(model: Hooked, path: Path, dtype: np.dtype[Any]) -> tuple[IO[bytes], int]:
    """A text as ids in a temporary file without a name, and their number; in pieces, so that any size fits."""
    out = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the sequences
    count = 0
    try:
        with path.open(encoding="utf-8") as text:  # newlines as Python reads them
            while piece := text.read(_CHARACTERS):
                ids = encode_corpus(model, piece).numpy().astype(dtype)
                out.write(ids.tobytes())
                count += len(ids)
    except UnicodeDecodeError:
        raise AnalysisError(f"{path} is not UTF-8 text; expected a text file or nanoGPT's .bin") from None
    return out, count


def _file_fingerprint(path: Path) -> str:
    status = path.stat()
    with path.open("rb") as file:
        ends = hashlib.sha256(file.read(2**20))
        file.seek(max(0, status.st_size - 2**20))
        ends.update(file.read())
    return json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, ends.hexdigest()])
