"""The two files of GPT-2's byte-level BPE, found on this machine without any download."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from conversion.errors import VocabularyError


def in_hugging_face_cache() -> tuple[Path, Path] | None:
    """The files of GPT-2's vocabulary and merges in Hugging Face's cache, if they are there."""
    from huggingface_hub import try_to_load_from_cache

    for repository in ("openai-community/gpt2", "gpt2"):
        vocab, merges = (try_to_load_from_cache(repository, name) for name in ("vocab.json", "merges.txt"))
        if isinstance(vocab, str) and isinstance(merges, str):
            return Path(vocab), Path(merges)
    return None


def in_tiktoken_cache() -> tuple[Path, Path] | None:
    """The files of GPT-2's vocabulary and merges in tiktoken's cache, if they are there."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cache = Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache"
    address = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    files = [cache / hashlib.sha1((address + name).encode()).hexdigest() for name in ("encoder.json", "vocab.bpe")]
    return (files[0], files[1]) if all(file.is_file() for file in files) else None


def byte_level_bpe(vocab: Path, merges: Path) -> str:
    """The text of the `tokenizer.json` of GPT-2's byte-level BPE, made from its two files.

    Raises:
        VocabularyError: the files are not a vocabulary and merges.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        pairs = [tuple(line.split()) for line in merges.read_text(encoding="utf-8").splitlines()]
        pairs = [pair for pair in pairs if len(pair) == 2 and pair[0] != "#version:"]
        core = Tokenizer(models.BPE(vocab=json.loads(vocab.read_text(encoding="utf-8")), merges=pairs))
    except Exception as error:  # json, or the Rust side's bare Exception
        raise VocabularyError(f"{vocab} and {merges.name} are not GPT-2's vocabulary and merges ({error})") from None
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return core.to_str()
