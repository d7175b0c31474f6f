"""p of every place of a result, made of its examples when it is asked for, and corrected for the number of places."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.permutation import max_statistic_p, p_in_words
from nanogpt_lens.results.sample import Sample

_ROUNDING = 8
"""The multiple of the machine's epsilon, and of the largest value that was subtracted, that a difference needs."""


class Tested:
    """What a result with a p adds to `Result`.

    A p is the column "p_corrected" of `to_dataframe`, `top` and `to_json`, and is kept by `save`.
    """

    sample: Sample | None

    def differences(self) -> tuple[Float[Tensor, "*axes example"], float] | None:
        """What is 0 but for chance in each example where there is no effect, and up to which magnitude it is rounding.

        None where there is nothing to test, or where the examples were not kept.
        """
        return None

    @cached_property
    def p(self) -> Float[Tensor, "*axes"] | None:
        """P of each place, against no effect or the chance level; two-sided, corrected for the number of places.

        See `nanogpt_lens.core.permutation.max_statistic_p`: the largest statistic of any place, with the signs of
        the examples flipped, by the sample's seed. None where there is nothing to test, where the examples were not
        kept, and for one example.
        """
        tested = self.differences()
        if tested is None or tested[0].shape[-1] < 2:
            return None
        seed = None if self.sample is None else self.sample.seed
        return max_statistic_p(tested[0], rounding=tested[1], seed=seed or 0)

    @property
    def p_definition(self) -> str:
        """How `p` is corrected, in words; "" where there is none."""
        tested = None if self.p is None else self.differences()
        if tested is None or self.p is None:
            return ""
        return p_in_words(places=int((~self.p.isnan()).sum()), n=tested[0].shape[-1])

    def derived(self) -> dict[str, Float[Tensor, "*axes"]]:
        """`p`, by its name in tables; nothing where there is none."""
        return {} if self.p is None else {"p_corrected": self.p}


def rounding_of(*subtracted: Float[Tensor, " ..."] | None, exact: bool) -> float:
    """The magnitude up to which differences of these values are rounding; as in float32 unless they are `exact`."""
    largest = [
        float(t.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()) for t in subtracted if t is not None and t.numel()
    ]
    return _ROUNDING * torch.finfo(torch.float64 if exact else torch.float32).eps * max(largest, default=0.0)
