"""Seeded tokens to test a model on: repeated sequences, [A][B]...[A], pairs, windows of a text.

Everything is token ids, so that a model without a vocabulary works as well. nanoGPT has no
beginning-of-sequence token, so none is put in front.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from conversion.vocabulary import META_NAME, TOKENIZER_NAME, CharVocabulary, read_vocabulary
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, device_of, evaluating, n_tokens
from nanogpt_lens.model.encoding import encode_corpus
from nanogpt_lens.model.sampling import choose_token
from nanogpt_lens.text.datasets import TextData, read_bin, read_data

Repeats: TypeAlias = Literal["avoid", "forbid", "allow"]
"""Whether random ids of one sequence may be equal: only where the vocabulary is too small, never, or freely."""

Corpus: TypeAlias = str | Path | TextData | Tensor | np.ndarray
"""A text, the path of a text file or nanoGPT data folder (its validation part), or token ids [tokens].

A string that names an existing file or folder is a path. Ids [example, pos] are sequences of their own.
"""


_PIECE = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Clean and corrupted prompts.

    Attributes:
        clean, corrupted: ids of shape [example, pos].
        answer: what the clean prompts call for, ids of shape [example].
        wrong: another token, ids of shape [example].
    """

    clean: Tensor
    corrupted: Tensor
    answer: Tensor
    wrong: Tensor


def random_tokens(
    model: Hooked, n: int, seq_len: int, *, repeats: Repeats = "avoid", generator: torch.Generator
) -> Tensor:
    """Uniform random ids [n, seq_len], distinct within each row unless `repeats` lets them be equal.

    Raises:
        AnalysisError: not positive, or repeats are forbidden and the vocabulary is smaller than `seq_len`.
    """
    size = n_tokens(model)
    if n < 1 or seq_len < 1:
        raise AnalysisError(f"{n} sequences of {seq_len} tokens were asked for; expected at least one of each")
    if repeats not in ("avoid", "forbid", "allow"):
        raise AnalysisError(f"repeats is {repeats!r}; expected avoid, forbid or allow")
    if repeats == "forbid" and seq_len > size:
        raise AnalysisError(
            f"seq_len is {seq_len}, the vocabulary has {size} tokens; a sequence without repeats needs "
            f"seq_len <= {size}, or repeats='avoid'"
        )
    if repeats == "allow" or seq_len > size:
        return torch.randint(size, (n, seq_len), generator=generator).to(device_of(model))
    noise = torch.rand(n, size, generator=generator)
    return noise.argsort(dim=1)[:, :seq_len].to(device_of(model))


def repeated_tokens(
    model: Hooked, *, seq_len: int, n: int = 32, copies: int = 2, repeats: Repeats = "avoid", seed: int = 0
) -> Tensor:
    """Random sequences, each followed by itself: ids of shape [n, copies * seq_len].

    Raises:
        AnalysisError: longer than the model's context, or see `random_tokens`.
    """
    if copies * seq_len > model.cfg.n_ctx:
        raise AnalysisError(
            f"{copies} copies of seq_len={seq_len} are {copies * seq_len} tokens; expected at most "
            f"{model.cfg.n_ctx}, the model's context: give seq_len={model.cfg.n_ctx // copies} or less"
        )
    generator = torch.Generator().manual_seed(seed)
    return random_tokens(model, n, seq_len, repeats=repeats, generator=generator).repeat(1, copies)


def induction_pairs(model: Hooked, *, seq_len: int | None = None, n: int = 32, seed: int = 0) -> Pair:
    """Prompts `... [A][B] ... [A]`, whose answer is `[B]`, and the same with the first `[A]` replaced.

    All other tokens are random, distinct where the vocabulary allows, and neither A nor B. The
    corrupted prompts differ from the clean ones in that one token, which appears nowhere else.

    Args:
        model: for its vocabulary and context.
        seq_len: tokens of a prompt, at least 4; None for the context, the vocabulary or 32, whichever is least.
        n: how many prompts.
        seed: of the random ids.

    Returns:
        the pair; `wrong` is the last of the random tokens.

    Raises:
        AnalysisError: too short, longer than the context, or a vocabulary of fewer than 5 tokens.
    """
    seq_len = int(seq_len or min(model.cfg.n_ctx, 32, n_tokens(model)))
    if not 4 <= seq_len <= model.cfg.n_ctx:
        raise AnalysisError(f"prompts of {seq_len} tokens were asked for; expected 4 to {model.cfg.n_ctx}, the context")
    if n_tokens(model) < 5:
        raise AnalysisError(f"the vocabulary has {n_tokens(model)} tokens; [A][B]...[A] prompts need at least 5")
    generator = torch.Generator().manual_seed(seed)
    size, device = n_tokens(model), device_of(model)
    special = random_tokens(model, n, 3, generator=generator).cpu()  # A, B, and what replaces A
    fill = torch.rand(n, size, generator=generator)
    fill.scatter_(1, special, -1.0)
    distinct = fill.argsort(dim=1, descending=True)[:, : size - 3]
    middle = distinct.repeat(1, -(-seq_len // (size - 3)))[:, : seq_len - 3]
    at = torch.randint(seq_len - 3, (n, 1), generator=generator)  # of the first A; B follows; A ends the prompt
    clean = torch.empty(n, seq_len, dtype=torch.long)
    clean.scatter_(1, _others(at, seq_len), middle)
    clean.scatter_(1, torch.cat([at, at + 1, torch.full_like(at, seq_len - 1)], 1), special[:, [0, 1, 0]])
    corrupted = clean.scatter(1, at, special[:, [2]])
    return Pair(
        clean=clean.to(device),
        corrupted=corrupted.to(device),
        answer=special[:, 1].to(device),
        wrong=middle[:, -1].to(device),
    )


def _others(at: Tensor, seq_len: int) -> Tensor:
    """The places [n, seq_len - 3] that are neither `at`, `at + 1`, nor the last."""
    places = torch.arange(seq_len - 1).expand(len(at), -1)
    return places[(places != at) & (places != at + 1)].view(len(at), seq_len - 3)


def corpus_tokens(model: Hooked, corpus: Corpus) -> Tensor | np.ndarray:
    """A corpus as ids [tokens]; files of tokens stay memory-mapped.

    Raises:
        AnalysisError: not one-dimensional integers.
        DataError, VocabularyError: a file that cannot be read, a text that cannot be encoded.
    """
    if isinstance(corpus, str) and is_path(corpus):
        corpus = Path(corpus)
    if isinstance(corpus, str):
        return encode_corpus(model, corpus)
    if isinstance(corpus, Path):
        return _file_tokens(model, corpus)
    ids: Any = data_tokens(model, corpus, "val") if isinstance(corpus, TextData) else corpus
    integers = isinstance(ids, Tensor | np.ndarray) and str(ids.dtype).removeprefix("torch.").startswith(
        ("int", "uint")
    )
    if not integers or ids.ndim != 1:
        raise AnalysisError(
            f"the corpus is a {type(corpus).__name__}; expected text, a path, or integer ids [tokens] or [example, pos]"
        )
    return ids


def data_tokens(model: Hooked, data: TextData, part: Literal["train", "val"]) -> Tensor | np.ndarray:
    """One part of some data, as ids [tokens] of the model; encoded anew where the data have another vocabulary.

    Raises:
        VocabularyError: a character that the model's vocabulary does not have.
    """
    ids, theirs = getattr(data, part), data.vocabulary
    own = getattr(getattr(model, "tokenizer", None), "encoder", None)
    if not isinstance(theirs, CharVocabulary) or not isinstance(own, CharVocabulary):
        return ids
    return ids if tuple(theirs.chars) == tuple(own.chars) else encode_corpus(model, theirs.decode(ids))


def is_path(text: str) -> bool:
    """Whether a string names a file that is there, or is written like one."""
    if "\n" in text or len(text) > 1000 or not text.strip():
        return False
    return os.path.exists(os.path.expanduser(text)) or text.endswith((".txt", ".bin"))


def _file_tokens(model: Hooked, path: Path) -> Tensor | np.ndarray:
    if path.suffix == ".bin":
        check_vocabulary(model, path)
        return read_bin(path)
    if path.is_dir():
        check_vocabulary(model, path / "val.bin")
    if not path.is_file():
        return read_data(path).val
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise AnalysisError(
            f"{path} is not UTF-8 text (byte {error.start}); expected a text file or a nanoGPT data folder"
        ) from None
    return encode_corpus(model, text.replace("\r\n", "\n").replace("\r", "\n"))


def check_vocabulary(model: Hooked, path: Path) -> None:
    """Refuse a `.bin` whose folder has other characters than the model.

    Raises:
        AnalysisError: it has.
    """
    encoder = getattr(getattr(model, "tokenizer", None), "encoder", None)
    named = [path.parent / name for name in (META_NAME, TOKENIZER_NAME) if (path.parent / name).is_file()]
    if not named or not isinstance(encoder, CharVocabulary):
        return
    theirs = read_vocabulary(named[0], 2**16)
    if not isinstance(theirs, CharVocabulary) or tuple(theirs.chars) != tuple(encoder.chars):
        raise AnalysisError(
            f"{path} was prepared with another vocabulary ({named[0]}) than the model's; expected the same: give the "
            "text itself, or the model's own data"
        )


def check_ids(d_vocab: int, ids: Tensor | np.ndarray, name: str = "the corpus") -> None:
    """Refuse ids that are no tokens of a model's vocabulary; a memory-mapped file is read in pieces.

    Raises:
        AnalysisError: one is negative or beyond the vocabulary.
    """
    for start in range(0, len(ids), _PIECE):
        piece = np.asarray(ids[start : start + _PIECE])
        low, high = int(piece.min(initial=0)), int(piece.max(initial=0))
        if low < 0 or high >= d_vocab:
            raise AnalysisError(
                f"{name} has the token {low if low < 0 else high}; expected ids from 0 to {d_vocab - 1}, the "
                "model's vocabulary: it was prepared for another model"
            )


def _own_rows(corpus: Corpus, seq_len: int) -> Tensor | np.ndarray | None:
    """Ids [example, pos] as sequences of `seq_len` tokens, where the corpus is that.

    Raises:
        AnalysisError: they are shorter.
    """
    if not isinstance(corpus, Tensor | np.ndarray) or corpus.ndim != 2 or "int" not in str(corpus.dtype):
        return None
    if corpus.shape[1] < seq_len:
        raise AnalysisError(
            f"the corpus has sequences of {corpus.shape[1]} tokens; expected at least {seq_len}: give a smaller seq_len"
        )
    return corpus[:, :seq_len]


def windows(model: Hooked, corpus: Corpus, *, seq_len: int, n: int, seed: int = 0) -> Tensor:
    """Windows of a corpus that do not overlap, drawn at random: ids [up to n, seq_len].

    Raises:
        AnalysisError: the corpus is shorter than one window, or has ids outside the vocabulary.
    """
    if not isinstance(seq_len, int) or not 1 <= seq_len <= model.cfg.n_ctx:
        raise AnalysisError(f"windows of {seq_len} tokens were asked for; expected 1 to {model.cfg.n_ctx}, the context")
    check_whole(1, n=n)
    rows = _own_rows(corpus, seq_len)
    ids = rows.flatten() if rows is not None else corpus_tokens(model, corpus)
    count = len(ids) // seq_len
    if count < 1:
        raise AnalysisError(f"the corpus has {len(ids)} tokens; expected at least one window of {seq_len}")
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n].sort().values
    rows = [np.asarray(ids[i * seq_len : (i + 1) * seq_len]).astype(np.int64) for i in chosen.tolist()]
    tokens = torch.from_numpy(np.stack(rows))
    check_ids(model.cfg.d_vocab, tokens)
    return tokens.to(device_of(model))


def own_text(model: Hooked, *, seq_len: int, n: int, seed: int = 0) -> Tensor:
    """Text drawn from the model itself at temperature 1, ids [n, seq_len]: natural to it, and no corpus is needed.

    The first token is drawn uniformly; the ones of the first quarter are drawn and thrown away where the
    context has room, so that little is left of that choice.
    """
    if not 1 <= seq_len <= model.cfg.n_ctx:
        raise AnalysisError(f"texts of {seq_len} tokens were asked for; expected 1 to {model.cfg.n_ctx}, the context")
    check_whole(1, n=n)
    size, device = n_tokens(model), device_of(model)
    generator = torch.Generator(device).manual_seed(seed)
    tokens = torch.randint(size, (n, 1), generator=generator, device=device)
    extra = min(seq_len // 4, model.cfg.n_ctx - seq_len)
    with evaluating(model):
        while tokens.shape[1] < seq_len + extra:
            logits = model(tokens, return_type="logits")[:, -1, :size]
            tokens = torch.cat([tokens, choose_token(logits, 1.0, None, generator)], dim=1)
    return tokens[:, extra:]


def text_sequences(model: Hooked, corpus: Corpus | None, *, seq_len: int, n: int, seed: int = 0) -> Tensor:
    """Sequences [up to n, seq_len]: `windows` of a corpus, or the model's `own_text` where there is none."""
    if corpus is None:
        return own_text(model, seq_len=seq_len, n=n, seed=seed)
    return windows(model, corpus, seq_len=seq_len, n=n, seed=seed)


def sample_text(model: Hooked, corpus: Corpus | None, *, seq_len: int | None, n: int, seed: int) -> tuple[Tensor, str]:
    """Sequences [up to n, seq_len] of a corpus, or of the model's own text, and in words what they are.

    Raises:
        AnalysisError: fewer than two sequences or two tokens, or a corpus that does not fit the model.
    """
    check_model(model)
    n_pos = min(model.cfg.n_ctx, 128) if seq_len is None else seq_len
    check_whole(n=n, seq_len=n_pos, seed=seed)
    if n < 2 or n_pos < 2:
        raise AnalysisError(f"{n} sequences of {n_pos} tokens were asked for; expected at least 2 of 2")
    tokens = text_sequences(model, corpus, seq_len=n_pos, n=n, seed=seed)
    own = "text drawn from the model itself at temperature 1"
    return tokens, own if corpus is None else f"windows of {corpus_name(corpus)}"


def corpus_name(corpus: Corpus) -> str:
    """What definitions call a corpus."""
    return corpus.name if isinstance(corpus, TextData | Path) else "the given corpus"
