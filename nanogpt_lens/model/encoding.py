"""Any text as token ids, with the vocabulary of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.errors import VocabularyError
from conversion.vocabulary import Vocabulary

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def encode_text(source: Any, text: str) -> Int[Tensor, " token"]:
    """The ids of a text of any length, without special tokens; int64, on the CPU.

    The model's own `to_tokens` takes no more than its context and walks through the general
    tokenizer; this takes some milliseconds for a megabyte of characters.

    Args:
        source: a TransformerLens model, a Hugging Face fast tokenizer, or a vocabulary.
        text: what to encode.

    Raises:
        VocabularyError: the model has no vocabulary, or a character is not in it.
    """
    import torch

    vocabulary = source
    if not isinstance(source, Vocabulary):
        tokenizer = source if hasattr(source, "convert_tokens_to_ids") else getattr(source, "tokenizer", None)
        if tokenizer is None:
            raise VocabularyError(
                f"this {type(source).__name__} has no tokenizer, so text cannot become tokens; "
                "expected a model with a tokenizer, a tokenizer, or a vocabulary"
            )
        if getattr(tokenizer, "missing", None):
            raise VocabularyError(tokenizer.missing)
        vocabulary = getattr(tokenizer, "encoder", None)
        if not isinstance(vocabulary, Vocabulary):  # a slow tokenizer's encoder is a dict
            ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            return torch.tensor(ids, dtype=torch.int64)
    return torch.from_numpy(vocabulary.encode(text))
