"""Means of values by group over a text of any length, with standard errors over its sequences, in constant memory.

The mean of a group is a ratio: the sum of its values over how many there are. Sequences are what is independent, and
each has its own sum s and count c in a group; the ratio R = sum(s) / sum(c) has to first order the variance
n / (n - 1) sum((s - R c)^2) / sum(c)^2 over the n sequences in which the group occurs. For that the sums of s^2, s c
and c^2 are enough.

Source: Cochran 1977, "Sampling Techniques", 6.3 (the ratio estimate's variance).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class GroupedMeans:
    """Sums of some measures in some groups, from which means and their standard errors come; on the CPU, in float64.

    Args:
        groups: how many there are.
        measures: how many values each place has.

    Attributes:
        count: how many places each group has.
        sequences: in how many sequences it occurs.
    """

    def __init__(self, groups: int, measures: int) -> None:
        self.groups = groups
        self.count = torch.zeros(groups, dtype=torch.long)
        self.sequences = torch.zeros(groups, dtype=torch.long)
        self._sum, self._squares, self._products = (torch.zeros(groups, measures, dtype=torch.float64) for _ in "123")
        self._counts = torch.zeros(groups, dtype=torch.float64)

    def add(self, group: Int[Tensor, "example pos"], values: Float[Tensor, "example pos measure"]) -> None:
        """Take in the values of some whole sequences, each place with its group."""
        example = torch.arange(len(group), device=group.device)[:, None]
        keys, place = (example * self.groups + group).flatten().unique(return_inverse=True)
        sums = values.new_zeros(len(keys), values.shape[-1]).index_add_(0, place, values.flatten(0, 1))
        self.add_sums(keys % self.groups, sums, torch.bincount(place, minlength=len(keys)))

    def add_sums(
        self, group: Int[Tensor, " part"], sums: Float[Tensor, "part measure"], count: Int[Tensor, " part"]
    ) -> None:
        """Take in sums over parts of sequences: all places of one group in one sequence are one part."""
        group, sums, count = group.cpu(), sums.double().cpu(), count.cpu()
        n = count.double()
        self.count.index_add_(0, group, count)
        self.sequences.index_add_(0, group, torch.ones_like(count))
        self._sum.index_add_(0, group, sums)
        self._squares.index_add_(0, group, sums.square())
        self._products.index_add_(0, group, sums * n[:, None])
        self._counts.index_add_(0, group, n.square())

    @property
    def mean(self) -> Float[Tensor, "group measure"]:
        """The mean of each measure in each group; nan for a group that does not occur."""
        return self._sum / self.count[:, None]

    @property
    def error(self) -> Float[Tensor, "group measure"]:
        """The standard error of that mean over the sequences; nan for a group of fewer than two."""
        mean, n = self.mean, self.sequences.double()[:, None]
        squares = self._squares - 2 * mean * self._products + mean.square() * self._counts[:, None]
        error = (squares.clamp_min(0) * n / (n - 1)).sqrt() / self.count[:, None]
        return error.masked_fill(n < 2, torch.nan)
