"""What a corpus is: whether something is a text, a path, a `.bin`, a folder, ids or rows is decided here alone.

`open_corpus` takes what a user gives and returns an `OpenedCorpus`, which has the ids, a name for definitions and
provenance, a fingerprint, windows drawn at random, and sequences to read from end to end. Files are read piece by
piece: a `.bin` as it is, a text by way of a temporary file of ids that is deleted when it is no longer needed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from jaxtyping import Int, Integer
from torch import Tensor

from conversion.token_files import TokenFile, TokenStorage
from conversion.vocabulary import META_NAME, TOKENIZER_NAME, CharVocabulary, TokenizerVocabulary, find_vocabulary
from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError, DataError
from nanogpt_lens.model.access import Hooked, check_model, device_of
from nanogpt_lens.model.encoding import encode_text
from nanogpt_lens.model.places import shipped_text
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.files import (
    BIN_ID,
    EXPECTED,
    TOKEN_SUFFIXES,
    find_tokens,
    has_tokens,
    is_no_path,
    read_text,
    text_pieces,
)
from nanogpt_lens.text.ids import TokenIds, ids_in_file, ids_in_memory, ids_of_file
from nanogpt_lens.text.opened import ModelText, Opened, OpenedCorpus
from nanogpt_lens.text.seen import Decode

Corpus: TypeAlias = str | Path | TokenFile | TextData | Tensor | np.ndarray
"""What can be opened: a text, the path of a text file, of a `.bin` or of a nanoGPT data folder, or token ids [tokens].

A string that names an existing file or folder is a path. The name of a shipped checkpoint that has text beside it, such
as "shakespeare_char", is that folder. A folder or `TextData` stands for its validation part. Ids
[example, pos] are texts of their own. Tokens that are no uint16 are found out, see `conversion.token_files`;
`TokenFile(path, token_dtype="uint32")` insists.
"""

Part: TypeAlias = Literal["train", "val"]
"""Which part of a data folder or of `TextData`; a text, a file and ids have no parts."""

_UNNAMED = "the given corpus"
_IN_MEMORY = 2**24  # bytes of an encoded text that are not written to a file


@overload
def open_corpus(model: Hooked, corpus: Corpus | OpenedCorpus, *, part: Part = "val") -> OpenedCorpus: ...


@overload
def open_corpus(model: Hooked, corpus: Corpus | Opened | None, *, part: Part = "val") -> Opened: ...


def open_corpus(model: Hooked, corpus: Corpus | Opened | None, *, part: Part = "val") -> Opened:
    """What a user gives as a corpus, as ids of the model.

    Args:
        model: the model, for its vocabulary, context and device.
        corpus: see `Corpus`; None for text that the model writes itself. What is open comes back as it is.
        part: the part of a data folder or `TextData` that is taken.

    Raises:
        AnalysisError: the corpus is something else, or was prepared with another vocabulary.
        DataError, VocabularyError: a file that cannot be read, a text that cannot be encoded.
    """
    check_model(model)
    if isinstance(corpus, Opened):
        return corpus
    if corpus is None:
        return ModelText(model=model)
    source, words = _path_or_text(corpus), ""
    if isinstance(source, Path) and source == shipped_text(source.name):
        part = "val"  # the only part that is shipped
    path = _file_of(source, part) if isinstance(source, Path) else None
    row_length = None
    if path is not None and (storage := _storage(model, corpus, path)) is not None:
        ids, words = ids_of_file(storage), f" ({storage.words})" if storage.words else ""
    elif path is not None:
        ids = _ids_of_text(model, path)
    elif isinstance(source, str):
        ids = ids_in_memory(encode_text(model, source))
    elif isinstance(source, TextData):
        ids = ids_in_memory(_ids_of_data(model, source, part))
    else:
        array = _integers(source)
        row_length = int(array.shape[1]) if array.ndim == 2 else None
        ids = ids_in_memory(array.reshape(-1))
    kind = "text" if isinstance(source, str) else "ids"
    return OpenedCorpus(
        ids=ids,
        name=name_of(source) + words,
        origin=f"{path}{words}" if path is not None else f"the corpus ({kind}, {ids.n} tokens)",
        title=f"{path}{words}" if path is not None else "the corpus",
        d_vocab=int(model.cfg.d_vocab),
        n_ctx=int(model.cfg.n_ctx),
        device=device_of(model),
        row_length=row_length,
        decode=_decode(model),
    )


def windows(
    model: Hooked, corpus: Corpus | Opened | None, *, seq_len: int, n: int, seed: int = 0
) -> Int[Tensor, "example pos"]:
    """At most `n` windows of a corpus, or texts that the model writes, see `Opened.windows`."""
    return open_corpus(model, corpus).windows(seq_len=seq_len, n=n, seed=seed)


def text_sample(
    model: Hooked, corpus: Corpus | Opened | None, *, seq_len: int | None, n: int, seed: int
) -> tuple[Int[Tensor, "example pos"], str]:
    """At least two windows of at least two tokens, and in words what they are.

    Without a `seq_len` they have that of the context, at most 128 tokens, and of a short text half of it.

    Raises:
        AnalysisError: there are fewer than two sequences or two tokens, or the corpus does not fit the model.
    """
    opened = open_corpus(model, corpus)
    length = default_of(seq_len, 128, opened.room(2))
    check_whole(n=n, seq_len=length, seed=seed)
    if n < 2 or length < 2:
        raise AnalysisError(f"{n} sequences of {length} tokens were asked for; expected at least 2 of 2")
    return opened.windows(seq_len=length, n=n, seed=seed), opened.windows_name


def name_of(corpus: Corpus) -> str:
    """The name of a corpus' file, folder or data set, or "the given corpus"; an opened one has a fuller `name`."""
    source = _path_or_text(corpus)
    return source.name or str(source) if isinstance(source, Path | TextData) else _UNNAMED


def path_of(corpus: Corpus | None) -> Path | None:
    """The path of a corpus that is a file or a folder; None for another corpus."""
    corpus = None if corpus is None else _path_or_text(corpus)
    return corpus if isinstance(corpus, Path) else None


def is_path(text: str) -> bool:
    """Whether a string names a file that is there, or is written like one."""
    if is_no_path(text) or not text.strip():
        return False
    return os.path.exists(os.path.expanduser(text)) or text.endswith((".txt", *TOKEN_SUFFIXES))


def _path_or_text(corpus: Corpus) -> Corpus:
    """The corpus, as a path where it is one."""
    if isinstance(corpus, TokenFile):
        return Path(corpus.path).expanduser()
    if isinstance(corpus, str) and not is_path(corpus):
        return shipped_text(corpus) or corpus
    if isinstance(corpus, str | Path):
        path = Path(corpus).expanduser()
        return path if path.exists() else shipped_text(str(corpus)) or path
    return corpus


def _file_of(path: Path, part: Part) -> Path:
    """The file that a path leads to; in a data folder the file of the part.

    Raises:
        DataError: there is no file.
    """
    if path.is_dir():
        missing = [f"{name}.bin" for name in ("train", "val") if not (path / f"{name}.bin").is_file()]
        if f"{part}.bin" in missing:
            raise DataError(
                f"{path} has no {' and no '.join(missing)}; expected {EXPECTED}: run nanoGPT's prepare.py for this "
                "data set, or give the text file itself"
            )
        return path / f"{part}.bin"
    if not path.exists():
        raise DataError(f"{path} does not exist; expected {EXPECTED}")
    return path


def _storage(model: Hooked, corpus: Corpus, path: Path) -> TokenStorage | None:
    """How a file keeps its tokens; None for a text.

    Raises:
        AnalysisError: its folder has another vocabulary than the model, or a width is said of a text.
        DataError: see `find_tokens`.
    """
    token_dtype = corpus.token_dtype if isinstance(corpus, TokenFile) else None
    if not has_tokens(path):
        if token_dtype is not None:
            raise AnalysisError(
                f"{path} is taken for a text; token_dtype={token_dtype!r} is for files of tokens "
                f"({', '.join(TOKEN_SUFFIXES)}): leave it out"
            )
        return None
    _check_vocabulary(_encoder(model), path)
    return find_tokens(path, int(model.cfg.d_vocab), token_dtype)


def _encoder(model: Hooked) -> Any:
    """What encodes text for a model; None where nothing does."""
    return getattr(getattr(model, "tokenizer", None), "encoder", None)


def _ids_of_text(model: Hooked, path: Path) -> TokenIds:
    """A text file as ids, by way of a temporary file without a name, so that any size fits."""
    encoder = _encoder(model)
    if not isinstance(encoder, CharVocabulary):  # what a token is may depend on all of the text
        return ids_in_memory(encode_text(model, read_text(path)[0]))
    dtype = BIN_ID if encoder.size <= 2**16 else np.dtype("<u4")
    out = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - it lives as long as the ids
    n = 0
    for piece in text_pieces(path):
        ids = encode_text(encoder, piece).numpy().astype(dtype)
        out.write(ids.tobytes())
        n += len(ids)
    return ids_in_file(out, n, dtype)


def _check_vocabulary(encoder: Any, path: Path) -> None:
    """Raise AnalysisError where the folder of a `.bin` has other characters than the model."""
    named = [path.parent / name for name in (META_NAME, TOKENIZER_NAME) if (path.parent / name).is_file()]
    if not named or not isinstance(encoder, CharVocabulary):
        return
    vocabulary, _ = find_vocabulary([path.parent], 2**31)
    if vocabulary is None:  # the file does not say what its ids stand for
        return
    if not isinstance(vocabulary, CharVocabulary) or tuple(vocabulary.chars) != tuple(encoder.chars):
        raise AnalysisError(
            f"{path} was prepared with another vocabulary ({named[0]}) than the model's; expected the same: give the "
            "text itself, or the model's own data"
        )


def _ids_of_data(model: Hooked, data: TextData, part: Part) -> Int[Tensor, " token"] | Integer[np.ndarray, " token"]:
    """One part of some data; encoded anew where the data have another vocabulary, whose ids mean other characters.

    Raises:
        VocabularyError: a character that the model's vocabulary does not have.
    """
    ids = data.train if part == "train" else data.val
    vocabulary, encoder = data.vocabulary, getattr(getattr(model, "tokenizer", None), "encoder", None)
    if not isinstance(vocabulary, CharVocabulary) or not isinstance(encoder, CharVocabulary):
        return ids
    return ids if tuple(vocabulary.chars) == tuple(encoder.chars) else encode_text(model, vocabulary.decode(ids))


def _decode(model: Hooked) -> Decode | None:
    """What turns the model's ids into text; None without a vocabulary."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None):
        return None
    encoder = getattr(tokenizer, "encoder", None)
    if isinstance(encoder, CharVocabulary | TokenizerVocabulary):
        return encoder.decode
    return lambda ids: str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))


def _integers(ids: Any) -> Integer[Tensor, " ..."] | Integer[np.ndarray, " ..."]:
    """Ids [tokens] or [example, pos], unchanged.

    Raises:
        AnalysisError: the ids are something else.
    """
    kind = str(ids.dtype).removeprefix("torch.") if isinstance(ids, Tensor | np.ndarray) else ""
    if not kind.startswith(("int", "uint")) or ids.ndim not in (1, 2):
        raise AnalysisError(
            f"the corpus is a {type(ids).__name__}; expected text, a path, or integer ids [tokens] or [example, pos]"
        )
    return ids
