"""What differs inside of two models on average, and which tokens that difference speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
"""The label of the mean over all positions."""

READERS = ("a", "b")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MeanDifference(Result):
    """The mean over texts of b's residual stream less a's, [point, position], as a share of how large a's is.

    `values` is the norm of that mean over the mean norm of a's stream there; the positions are the first ones, and all.

    Attributes:
        control: the same of the means of a on two random halves of the texts: 95 of 100 splits are below. Noise of
            `values` is at most about as large, for they are paired.
        control_logit: what the largest logit of these stays below, [reader, point, position].
        promoted, suppressed: the tokens that the difference speaks for and against most, [reader, point, position, k].
        promoted_logits, suppressed_logits: by how much, through that model's final norm at its mean scale there and its
            unembedding; mean-free over the vocabulary.
        names: what a and b are called; they are the readers as well.
        n_texts: how many.
        vocabulary: the text of every id.
    """

    control: Float[Tensor, "point position"]
    control_logit: Float[Tensor, "reader point position"]
    promoted: Int[Tensor, "reader point position k"]
    promoted_logits: Float[Tensor, "reader point position k"]
    suppressed: Int[Tensor, "reader point position k"]
    suppressed_logits: Float[Tensor, "reader point position k"]
    names: tuple[str, str]
    n_texts: int
    vocabulary: tuple[str, ...]

    _long: ClassVar[tuple[str, ...]] = ("vocabulary",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("names", "vocabulary"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, in a file

    def reader_index(self, reader: Literal["a", "b"]) -> int:
        """The index of a reader.

        Raises:
            ResultError: there is no such reader.
        """
        if reader not in READERS:
            raise ResultError(f"reader is {reader!r}; expected a or b")
        return READERS.index(reader)

    def tokens(self, point: str, position: str | int = ALL, *, reader: Literal["a", "b"] = "b") -> pd.DataFrame:
        """The tokens that the difference promotes, and then those that it suppresses.

        Args:
            point: such as "1.resid_post".
            position: "all", or one of the first.
            reader: whose final norm and unembedding read it.

        Returns:
            "token", "logit", and "beyond_control": whether the logit is larger than that of two halves of the texts.

        Raises:
            ResultError: there is no such point, position or reader.
        """
        import pandas as pd

        i, j = self._index("point", point), self._index("position", str(position))
        place = (self.reader_index(reader), i, j)
        rows = [
            {"token": self.vocabulary[token], "logit": logit, "beyond_control": abs(logit) > self.control_logit[place]}
            for ids, logits in (
                (self.promoted[place], self.promoted_logits[place]),
                (self.suppressed[place], self.suppressed_logits[place]),
            )
            for token, logit in zip(ids.tolist(), logits.tolist(), strict=True)
        ]
        return pd.DataFrame(rows).astype({"beyond_control": bool})

    @property
    def beyond_control(self) -> Bool[Tensor, "point position"]:
        """Whether the difference is larger than that of two halves of the texts in one model, [point, position]."""
        return self.values > self.control

    def sentence(self) -> str:
        """Where the difference is largest, and what it promotes, in one sentence."""
        a, b = self.names
        if not bool(self.beyond_control.any()):
            return (
                f"the means of {a} and {b} differ nowhere by more than those of {a} on two halves of the texts "
                f"({float(self.values.max()):.2g} of the norm at most)"
            )
        shown = self.values.masked_fill(~self.beyond_control, -torch.inf)
        i, j = divmod(int(shown.argmax()), shown.shape[1])
        point, position = self.labels["point"][i], self.labels["position"][j]
        where = "over all positions" if position == ALL else f"at position {position}"
        best = self.tokens(point, position)
        tokens = [repr(t) for t in best.loc[(best["logit"] > 0) & best["beyond_control"], "token"].tolist()][:3]
        return (
            f"the mean of {b} less that of {a} is largest {where} at {point}: {float(self.values[i, j]):.2g} of the "
            f"norm there (two halves of the texts: {float(self.control[i, j]):.2g}); read by {b} it promotes "
            f"{', '.join(tokens) if tokens else 'no token by more than these halves do'}"
        )

    def _summary(self) -> list[str]:
        import pandas as pd

        table = pd.DataFrame(self.values.numpy(), index=self.labels["point"], columns=self.labels["position"])
        return [self.sentence(), *table.round(3).to_string().splitlines()]
