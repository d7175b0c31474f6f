"""The Hugging Face fast tokenizer that is attached to a model.

TransformerLens gives every tokenizer a padding, an end and a beginning token. nanoGPT models have none of them, and
whatever id stands for one is used by some client as a row of the embedding, or taken for it where it occurs in text:

- The string of all three is `<|endoftext|>`, which no text may hold; so `prepend_bos=True` is refused.
- The id of end and beginning, which `tokenize_and_concatenate` and SAELens write between texts, is an ordinary token:
  a line break where there is one. (`model.generate` does not stop there, see `conversion.generating`.)
- The id of padding, which TransformerLens masks at the end of any text, must not be a token of text: it is a row that
  nanoGPT added to round the vocabulary up, or else the first id beyond the embedding.

What is saved (`save_pretrained`) is for Hugging Face, where masks are given and not guessed: it has no beginning and no
end, and the id of its padding is inside the vocabulary. See `conversion.saved_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from conversion.errors import ConversionError, VocabularyError
from conversion.rust_tokenizers import core_of, ids_of, padding_of, unspoken
from conversion.saved_tokenizer import plain_tokenizer
from conversion.string_vocabulary import StringVocabulary
from conversion.vocabulary import NO_UNKNOWN, CharVocabulary, TokenizerVocabulary, Vocabulary

ENDOFTEXT = "<|endoftext|>"


class CheckpointTokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer that raises an error in cases that other tokenizers get silently wrong."""

    characters: CharVocabulary | None = None
    """The character vocabulary of the tokenizer, if it has one."""
    encoder: Vocabulary | None = None
    """The vocabulary that encodes a corpus quickly."""
    foreign_special: str | None = None
    """The string of all special tokens, if it is not in the model's own vocabulary."""
    separator: int | None = None
    """The id that stands between texts, in the place of `foreign_special`."""
    padding: int | None = None
    """The id that pads, in the place of `foreign_special`."""
    d_vocab: int = 0
    """The number of the model's logits."""
    missing: str | None = None
    """The reason why there is no vocabulary, which the first use of text raises as an error."""

    quiet: bool = False
    """True while TransformerLens probes the tokenizer: then every text has no tokens, and none raises an error."""

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Let TransformerLens 4 encode its probe, "a", whatever the vocabulary is."""
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False

    @property
    def bos_token_id(self) -> int | None:
        """The id that clients write before a text."""
        return self._special_id("bos_token", self.separator)

    @property
    def eos_token_id(self) -> int | None:
        """The id that clients write between texts."""
        return self._special_id("eos_token", self.separator)

    @property
    def pad_token_id(self) -> int | None:
        """The id that clients pad with and mask."""
        return self._special_id("pad_token", self.padding)

    def _special_id(self, name: str, stand_in: int | None) -> int | None:
        """The id of a special token; `stand_in` for the one that the model never saw, None if it is not set."""
        token = self._special_tokens_map.get(name)
        if token is None:
            return None
        return stand_in if str(token) == self.foreign_special else self._convert_token_to_id_with_added_voc(str(token))

    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
        if self.quiet:
            return super()._encode_plus("", *args, **kwargs)
        texts = [text] if isinstance(text, str) else text
        if not kwargs.get("is_split_into_words") and all(isinstance(t, str) for t in texts):
            for t in texts:
                self._check_text(t)
            if isinstance(self.encoder, StringVocabulary):
                pieces = [self.encoder.cut(t) for t in texts]
                text, kwargs = (pieces[0] if isinstance(text, str) else pieces), {**kwargs, "is_split_into_words": True}
            if _pads(kwargs):
                self._check_lengths(texts)
        encoded = super()._encode_plus(text, *args, **{**kwargs, **_UNTRUNCATED} if _truncates(kwargs) else kwargs)
        if _truncates(kwargs):
            self._check_length(encoded, kwargs["max_length"])
        return encoded

    def _decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> str:
        if self.missing:
            raise VocabularyError(self.missing)
        return super()._decode(token_ids, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as a plain fast tokenizer for Hugging Face, which `AutoTokenizer` loads without this package."""
        return plain_tokenizer(self).save_pretrained(str(Path(save_directory)), *args, **kwargs)

    def _check_text(self, text: str) -> None:
        """Raise VocabularyError if a text cannot be encoded, or holds a token that the model never saw."""
        if self.missing and text:
            raise VocabularyError(self.missing)
        if self.foreign_special and self.foreign_special in text:
            raise VocabularyError(
                f"the text has {self.foreign_special!r}, which this model never saw: nanoGPT has no "
                "beginning-of-sequence token; call with prepend_bos=False"
            )
        if self.characters is not None and not self.characters.charset.issuperset(text):
            position = next(i for i, char in enumerate(text) if char not in self.characters.charset)
            self.characters.refuse(text, position)

    def _check_lengths(self, texts: list[str]) -> None:
        """Raise ConversionError if texts of several lengths would be padded with a token that the model never saw."""
        if self.foreign_special is None or self.encoder is None or len(texts) < 2:
            return
        lengths = sorted({len(self.encoder.encode(text)) for text in texts})
        if len(lengths) > 1:
            unit = "characters" if self.characters is not None else "tokens"
            raise ConversionError(
                f"the texts have {' and '.join(str(n) for n in lengths)} {unit}; nanoGPT "
                "has no padding token: give texts of one length, or one at a time"
            )

    def _check_length(self, encoded: BatchEncoding, n_ctx: int) -> None:
        """Raise ConversionError if a text has more tokens than the model's context."""
        ids = encoded["input_ids"]
        rows = [ids] if len(ids) and isinstance(ids[0], int) else ids
        longest = max((len(row) for row in rows), default=0)
        if longest > n_ctx:
            raise ConversionError(
                f"the text has {longest} tokens, the model's context is {n_ctx}: cut it, or tokenize it whole with "
                "to_tokens(text, truncate=False) or encode_text and take windows"
            )


_UNTRUNCATED = {"truncation_strategy": TruncationStrategy.DO_NOT_TRUNCATE, "max_length": None}


def _pads(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("padding_strategy", PaddingStrategy.DO_NOT_PAD) != PaddingStrategy.DO_NOT_PAD


def _truncates(kwargs: dict[str, Any]) -> bool:
    strategy = kwargs.get("truncation_strategy", TruncationStrategy.DO_NOT_TRUNCATE)
    return strategy != TruncationStrategy.DO_NOT_TRUNCATE and kwargs.get("max_length") is not None


def tokenizer_for(vocabulary: Vocabulary, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """A new fast tokenizer of a vocabulary, for a model of that context and that many logits."""
    if isinstance(vocabulary, CharVocabulary):
        tokenizer = _character_tokenizer(vocabulary, n_ctx=n_ctx, d_vocab=d_vocab)
    elif isinstance(vocabulary, StringVocabulary):
        tokenizer = _string_tokenizer(vocabulary, n_ctx=n_ctx, d_vocab=d_vocab)
    else:
        tokenizer = _subword_tokenizer(vocabulary, n_ctx=n_ctx, d_vocab=d_vocab)
    tokenizer.encoder = vocabulary
    tokenizer.separator = _separator(vocabulary)
    tokenizer.padding = _padding(vocabulary, d_vocab)
    tokenizer.d_vocab = d_vocab
    return tokenizer


def _character_tokenizer(vocabulary: CharVocabulary, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """One token per character."""
    special = unspoken(ENDOFTEXT, vocabulary.charset)
    tokenizer = _wrapped(core_of(vocabulary, {special: d_vocab}), special, n_ctx)
    tokenizer.characters = vocabulary
    tokenizer.foreign_special = special
    return tokenizer


def _string_tokenizer(vocabulary: StringVocabulary, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """One token per string; texts are cut by the vocabulary, before the Rust core sees them."""
    own = ENDOFTEXT in vocabulary.ids
    special = ENDOFTEXT if own else unspoken(ENDOFTEXT, vocabulary.characters)
    core = core_of(vocabulary, {} if own else {special: d_vocab})
    tokenizer = _wrapped(core, special, n_ctx)
    tokenizer.foreign_special = None if own else special
    return tokenizer


def _subword_tokenizer(vocabulary: TokenizerVocabulary, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """The tokenizer of a `tokenizer.json` or of GPT-2's BPE; `<|endoftext|>` is the model's own token if it has one."""
    core = core_of(vocabulary)
    endoftext = core.token_to_id(ENDOFTEXT)
    tokenizer = _wrapped(core, ENDOFTEXT, n_ctx)
    tokenizer.foreign_special = ENDOFTEXT if endoftext is None or endoftext >= d_vocab else None
    return tokenizer


def missing_tokenizer(reason: str, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """A tokenizer for a model without a vocabulary: ids work, and the first use of text raises `reason`."""
    core = Tokenizer(models.WordLevel(vocab={ENDOFTEXT: d_vocab}, unk_token=NO_UNKNOWN))
    tokenizer = _wrapped(core, ENDOFTEXT, n_ctx)
    tokenizer.missing = reason
    tokenizer.foreign_special = ENDOFTEXT
    tokenizer.padding = d_vocab
    return tokenizer


def _separator(vocabulary: Vocabulary) -> int:
    """The id that stands between texts: a line break or a blank, if either is one token; else the first token."""
    for text in ("\n", " "):
        try:
            ids = vocabulary.encode(text)
        except VocabularyError:
            continue
        if len(ids) == 1:
            return int(ids[0])
    return 0


def _padding(vocabulary: Vocabulary, d_vocab: int) -> int:
    """The id that pads: the vocabulary's own, else the first that is no token of text, which may be `d_vocab`."""
    known = ids_of(vocabulary)
    own = padding_of(known, d_vocab)
    return min(max(known.values(), default=-1) + 1, d_vocab) if own is None else known[own]


def _wrapped(core: Tokenizer, special: str, n_ctx: int) -> CheckpointTokenizer:
    """The tokenizer around its Rust core, with a special token for padding and the end of a text."""
    core.add_special_tokens([AddedToken(special, special=True, normalized=False)])
    # bos_token stays unset: with one, both TransformerLens lines try to load a tokenizer by name
    tokenizer = CheckpointTokenizer(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        padding_side="right",
        model_max_length=n_ctx,
        eos_token=special,
        pad_token=special,
    )
    # TransformerLens sets a bos_token all the same; this keeps `set_tokenizer` from loading by name the second time
    tokenizer.init_kwargs.update(name_or_path="nanogpt", add_bos_token=True)
    return tokenizer
