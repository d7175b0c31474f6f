"""The tokenizer that is saved beside a model, for programs that do not have this package.

Hugging Face reads the row of the embedding also where it masks, so that the id of padding has to be inside the
vocabulary. It is the vocabulary's own `<PAD>`, or a row that nanoGPT added to round the vocabulary up. Where every id
is a token of text, it has to be one of them. Hugging Face takes it for special, and `decode(skip_special_tokens=True)`
drops it: so it is the token that the model writes least. (A `response_template` keeps the text-generation pipeline
from dropping it; nothing else reads that.) nanoGPT has no beginning and no end of a text, and none is named unless it
is GPT-2's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conversion.errors import VocabularyError
from conversion.rust_tokenizers import PADDING_NAMES, core_of, ids_of, padding_of, unspoken
from conversion.string_vocabulary import StringVocabulary
from conversion.vocabulary import CharVocabulary, Vocabulary


def plain_tokenizer(
    tokenizer: Any, *, beyond: bool = False, rarest: Callable[[], list[int]] | None = None
) -> PreTrainedTokenizerFast:
    """The same tokenizer as a plain fast one.

    Args:
        tokenizer: a checkpoint's tokenizer, a `CheckpointTokenizer`.
        beyond: for TransformerLens, which takes the id of padding for padding wherever it stands: end and padding
            are one token with an id beyond the embedding.
        rarest: gives all ids, first those that the model writes least, by default the last; it is asked only where
            an ordinary token has to be the padding.

    Raises:
        VocabularyError: the checkpoint has no vocabulary.
    """
    vocabulary = tokenizer.encoder
    if tokenizer.missing or vocabulary is None:
        raise VocabularyError(tokenizer.missing or "the tokenizer has no vocabulary; load the model with meta=")
    if tokenizer.foreign_special is None or beyond:
        core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        special: dict[str, Any] = {"eos_token": str(tokenizer.eos_token), "pad_token": str(tokenizer.eos_token)}
    else:
        core = core_of(vocabulary)
        special = _padding(core, vocabulary, tokenizer.d_vocab, rarest)
    if isinstance(vocabulary, StringVocabulary) and vocabulary.one_way:
        longest_first = sorted(vocabulary.ids, key=len, reverse=True)
        core.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), behavior="isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        padding_side="right",
        **special,
    )


def _padding(
    core: Tokenizer, vocabulary: Vocabulary, d_vocab: int, rarest: Callable[[], list[int]] | None
) -> dict[str, Any]:
    """The settings of the token that pads, which the core has afterwards, with an id inside the vocabulary."""
    known = ids_of(vocabulary)
    own = padding_of(known, d_vocab)
    if own is not None and (not isinstance(vocabulary, StringVocabulary) or _stands_alone(own, vocabulary)):
        return {"pad_token": own}
    if max(known.values()) + 1 < d_vocab:
        token = unspoken(PADDING_NAMES[-1], frozenset().union(*known))
        core.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        return {"pad_token": token}
    texts = {i: token for token, i in known.items() if i < d_vocab}
    ranking = sorted(texts, reverse=True) if rarest is None else rarest()
    token = next((texts[i] for i in ranking if i in texts and _stands_alone(texts[i], vocabulary)), None)
    if token is None:
        return {}
    core.add_tokens([AddedToken(token, special=False, normalized=False)])
    return {"pad_token": token, "response_template": {"note": "keeps pipelines from dropping the token that pads"}}


def _stands_alone(token: str, vocabulary: Vocabulary) -> bool:
    """Whether texts are cut as before when Hugging Face looks for this token first, as it does for special ones."""
    if isinstance(vocabulary, CharVocabulary):
        return True
    if isinstance(vocabulary, StringVocabulary):
        return bool(token) and sum(bool(set(token) & set(other)) for other in vocabulary.strings) == 1
    return token.startswith("\u0120")  # a blank in byte-level BPE, which no text holds in this form
