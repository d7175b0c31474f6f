"""What a result was measured on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The sequences that a result was measured on; None for what does not apply or is not known.

    Attributes:
        corpus: the name of the text, or its path; None for random tokens and for the model's own text.
        own_text: whether the sequences were drawn from the model itself.
        n: how many sequences, or prompts.
        seq_len: tokens of each.
        n_tokens: how many tokens were read, where a whole corpus was.
        seed: of what was drawn at random.
    """

    corpus: str | None = None
    own_text: bool = False
    n: int | None = None
    seq_len: int | None = None
    n_tokens: int | None = None
    seed: int | None = None
