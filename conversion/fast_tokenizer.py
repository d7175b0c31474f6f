"""The Hugging Face fast tokenizer that is attached to a model.

TransformerLens gives every tokenizer a padding, an end and a beginning token. nanoGPT
models have none of them, so the token we name for it has an id beyond the embedding:
padding never reaches a trained row, and `prepend_bos=True` is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from conversion.errors import ConversionError, VocabularyError
from conversion.vocabulary import CharVocabulary, TokenizerVocabulary, Vocabulary

ENDOFTEXT = "<|endoftext|>"


class CheckpointTokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer that raises an error in cases that other tokenizers get silently wrong."""

    characters: CharVocabulary | None = None
    """The character vocabulary of the tokenizer, if it has one."""
    encoder: CharVocabulary | TokenizerVocabulary | None = None
    """The vocabulary that encodes a corpus quickly."""
    foreign_special: str | None = None
    """The padding token, if it is not in the model's own vocabulary."""
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

    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
        if self.quiet:
            return super()._encode_plus("", *args, **kwargs)
        texts = [text] if isinstance(text, str) else text
        if not kwargs.get("is_split_into_words") and all(isinstance(t, str) for t in texts):
            for t in texts:
                self._check_text(t)
        encoded = super()._encode_plus(text, *args, **{**kwargs, **_UNTRUNCATED} if _truncates(kwargs) else kwargs)
        if _truncates(kwargs):
            self._check_length(encoded, kwargs["max_length"])
        if self.characters is not None and len({len(t) for t in texts}) > 1 and _pads(kwargs):
            raise ConversionError(
                f"the texts have {' and '.join(str(n) for n in sorted({len(t) for t in texts}))} characters; nanoGPT "
                "has no padding token: give texts of one length, or one at a time"
            )
        return encoded

    def _decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> str:
        if self.missing:
            raise VocabularyError(self.missing)
        return super()._decode(token_ids, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as a plain fast tokenizer, which `AutoTokenizer` loads without this package."""
        if self.missing:
            raise VocabularyError(self.missing)
        plain = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(self.backend_tokenizer.to_str()),
            clean_up_tokenization_spaces=False,
            model_max_length=self.model_max_length,
            eos_token=self.eos_token,
            pad_token=self.pad_token,
            padding_side="right",
        )
        return plain.save_pretrained(str(Path(save_directory)), *args, **kwargs)

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
        return _character_tokenizer(vocabulary, n_ctx=n_ctx, d_vocab=d_vocab)
    return _subword_tokenizer(vocabulary, n_ctx=n_ctx, d_vocab=d_vocab)


def _character_tokenizer(vocabulary: CharVocabulary, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """One token per character; its special token has the id `d_vocab`, beyond the embedding."""
    special = ENDOFTEXT
    while vocabulary.charset.issuperset(special):  # keep the text itself free of special tokens
        special = f"\ue000{special}\ue000" if "\ue000" not in vocabulary.charset else special + chr(0x10FFFD)
    stoi = {char: i for i, char in enumerate(vocabulary.chars)}
    core = Tokenizer(models.WordLevel(vocab={**stoi, special: d_vocab}, unk_token="\0unk"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = _wrapped(core, special, n_ctx)
    tokenizer.characters = tokenizer.encoder = vocabulary
    tokenizer.foreign_special = special
    return tokenizer


def _subword_tokenizer(vocabulary: TokenizerVocabulary, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """The tokenizer of a `tokenizer.json` or of GPT-2's BPE; `<|endoftext|>` is the model's own token if it has one."""
    core = Tokenizer.from_str(vocabulary.serialized)
    core.no_truncation()
    core.no_padding()
    endoftext = core.token_to_id(ENDOFTEXT)
    tokenizer = _wrapped(core, ENDOFTEXT, n_ctx)
    tokenizer.encoder = vocabulary
    tokenizer.foreign_special = ENDOFTEXT if endoftext is None or endoftext >= d_vocab else None
    return tokenizer


def missing_tokenizer(reason: str, *, n_ctx: int, d_vocab: int) -> CheckpointTokenizer:
    """A tokenizer for a model without a vocabulary: ids work, and the first use of text raises `reason`."""
    core = Tokenizer(models.WordLevel(vocab={ENDOFTEXT: d_vocab}, unk_token="\0unk"))
    tokenizer = _wrapped(core, ENDOFTEXT, n_ctx)
    tokenizer.missing = reason
    return tokenizer


def _wrapped(core: Tokenizer, special: str, n_ctx: int) -> CheckpointTokenizer:
    """The tokenizer around its Rust core, with a special token for padding and the end of a text."""
    core.add_special_tokens([AddedToken(special, special=True, normalized=False)])
    # bos_token stays unset: with one, both TransformerLens lines try to load a tokenizer by name
    return CheckpointTokenizer(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        padding_side="right",
        model_max_length=n_ctx,
        eos_token=special,
        pad_token=special,
    )
