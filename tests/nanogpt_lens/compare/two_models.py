"""Small random models to compare: of one vocabulary and different shapes, with padding, with other tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer

from nanogpt_lens.model.loading import load
from tests.making import CHARS, content, write, write_meta


def characters_model(folder: Path, *, chars: str = CHARS, dtype: torch.dtype = torch.float64, **sizes: Any) -> Any:
    """A random model of characters, by default two layers, width 16, context 12."""
    write(folder, content(**{"vocab_size": len(chars), "dtype": dtype, **sizes}))
    write_meta(folder, chars)
    return load(folder, dtype=dtype)


def subwords_model(folder: Path) -> Any:
    """A random model with a tiny byte-level BPE."""
    folder.mkdir(parents=True)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["the Cat sat on the Mat\nThe Cat"] * 20, vocab_size=280, min_frequency=2)
    trained.save(str(folder / "tokenizer.json"))
    write(folder, content(n_layer=1, n_head=2, n_embd=16, block_size=12, vocab_size=300))
    return load(folder)
