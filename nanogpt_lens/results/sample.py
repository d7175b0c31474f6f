"""What a result was measured on."""

from __future__ import annotations

from dataclasses import dataclass

NAMED = 0.05
"""A smaller share of a text is what it has in common with others by chance."""


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
        seen_share: the share of the text, from 0 to 1, that what is measured was fitted or chosen on; None where that
            is not known, or where nothing was fitted.
        seen_by: what was fitted or chosen, such as "the lens"; "" where nothing was. Where this stands without a share,
            it is not known whether it has seen the text, and results say so.
    """

    corpus: str | None = None
    own_text: bool = False
    n: int | None = None
    seq_len: int | None = None
    n_tokens: int | None = None
    seed: int | None = None
    seen_share: float | None = None
    seen_by: str = ""

    @property
    def in_sample(self) -> bool | None:
        """Whether what is measured has been fitted or chosen on more of this text than texts have in common by chance.

        None where that is not known.
        """
        return None if self.seen_share is None else self.seen_share >= NAMED

    @property
    def in_sample_words(self) -> str:
        """The warning of that, which prints, pictures and the report show; "" where there is nothing to warn of."""
        if self.seen_share is None and self.seen_by:
            return f"unknown whether in sample; {self.seen_by} may have seen the same before"
        if self.seen_share is None or not self.in_sample:
            return ""
        return f"in sample: {self.seen_by or 'what is measured'} has seen {self.seen_share:.0%} of this text before"

    @property
    def in_sample_column(self) -> dict[str, bool | str]:
        """The same as a column of tables, `in_sample`: True, or "unknown"; empty where there is nothing to warn of."""
        return {"in_sample": self.in_sample or "unknown"} if self.in_sample_words else {}
