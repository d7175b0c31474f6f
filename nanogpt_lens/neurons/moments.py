"""What can be said of every unit over a whole corpus: mean, variance, sparsity; and a sample of tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.running.streaming import Keeper, State
from nanogpt_lens.text.sequences import Batch


class Moments(Keeper):
    """Mean, variance and share of positive activations of every unit, over all tokens.

    Sums of a batch are taken about the mean so far and put together in float64 (Chan et al. 1979), so
    that nothing is lost where the mean is large beside the standard deviation.
    """

    def __init__(self, *, sites: int) -> None:
        self.sites = sites
        self._n = torch.zeros(sites, dtype=torch.float64)
        self._mean: list[Float[Tensor, " unit"]] = []
        self._m2: list[Float[Tensor, " unit"]] = []
        self._positive: list[Float[Tensor, " unit"]] = []

    def add(self, i: int, values: Float[Tensor, "example pos unit"], batch: Batch) -> None:
        """Take in the activation of the i-th hook point."""
        flat = values.flatten(0, 1)
        flat = flat if flat.dtype == torch.float64 else flat.float()
        n = len(flat)
        ones = flat.new_ones(n)
        if len(self._mean) == i:
            self._mean.append((ones @ flat / n).double())
            self._m2.append(torch.zeros_like(self._mean[0]))
            self._positive.append(torch.zeros_like(self._mean[0]))
        shift = self._mean[i].to(flat.dtype)
        centred = flat - shift
        delta = (ones @ centred).double() / n
        m2 = (ones @ centred.square_()).double() - n * delta**2
        self._positive[i] += (ones @ torch.gt(flat, 0, out=torch.empty_like(flat))).double()
        self._put(i, float(n), shift.double() + delta, m2)

    def _put(self, i: int, n: float, mean: Float[Tensor, " unit"], m2: Float[Tensor, " unit"]) -> None:
        """Put `n` more tokens of the i-th hook point together with those that are held."""
        have = float(self._n[i])  # 0 at first: then the mean is `mean`
        total = have + n
        delta = mean - self._mean[i]
        self._mean[i] = self._mean[i] + delta * (n / total)
        self._m2[i] = self._m2[i] + m2 + delta**2 * (have * n / total)
        self._n[i] = total

    def state(self) -> State:
        """What is held now, by name."""
        return {
            "n": self._n,
            "mean": torch.stack(self._mean),
            "m2": torch.stack(self._m2),
            "positive": torch.stack(self._positive),
        }

    def hold(self, states: Sequence[State]) -> None:
        """Put the moments of several parts together."""
        first, *others = states
        self._n = first["n"].clone()
        self._mean, self._m2, self._positive = (list(first[name].clone()) for name in ("mean", "m2", "positive"))
        for other in others:
            for i in range(self.sites):
                self._positive[i] += other["positive"][i]
                self._put(i, float(other["n"][i]), other["mean"][i], other["m2"][i])

    @property
    def n(self) -> int:
        """The number of tokens seen."""
        return int(self._n[0])

    @property
    def mean(self) -> Float[Tensor, "site unit"]:
        """The mean of every unit."""
        return torch.stack(self._mean)

    @property
    def variance(self) -> Float[Tensor, "site unit"]:
        """The variance of every unit, over all tokens (divided by n)."""
        return (torch.stack(self._m2) / self._n[:, None].to(self._m2[0].device)).clamp_min(0)

    @property
    def sparsity(self) -> Float[Tensor, "site unit"]:
        """The share of tokens on which the unit is not above zero."""
        return 1 - torch.stack(self._positive) / self._n[:, None].to(self._m2[0].device)


class ActivationSample(Keeper):
    """The activations of every unit on a seeded sample of tokens, the same tokens for all units.

    Args:
        sites: the number of hook points.
        n_tokens: the number of tokens of the corpus.
        size: the number of tokens of the sample; all of them where there are no more.
        seed: the seed of the draw.

    Attributes:
        indices: the corpus indices drawn, ascending.
    """

    def __init__(self, *, sites: int, n_tokens: int, size: int, seed: int) -> None:
        self.sites = sites
        drawn = range(n_tokens) if n_tokens <= size else sorted(random.Random(seed).sample(range(n_tokens), size))
        self.indices = torch.tensor(drawn)
        self._rows: list[Float[Tensor, "token unit"]] = []  # one preallocated buffer for each site
        self._filled = [0] * sites
        self._from = [0] * sites

    def add(self, i: int, values: Float[Tensor, "example pos unit"], batch: Batch) -> None:
        """Take in the activation of the i-th hook point."""
        low, high = torch.searchsorted(self.indices, torch.tensor([batch.first, batch.first + batch.tokens.numel()]))
        if len(self._rows) == i:
            self._rows.append(values.new_empty(len(self.indices), values.shape[-1]))
            self._from[i] = int(low)
        chosen = (self.indices[low:high] - batch.first).to(values.device)
        self._rows[i][low:high] = values.flatten(0, 1)[chosen]
        self._filled[i] = int(high)

    def state(self) -> State:
        """What is held now, by name."""
        held = {f"rows{i}": rows[self._from[i] : self._filled[i]] for i, rows in enumerate(self._rows)}
        return {**held, "from": torch.tensor(self._from)}

    def hold(self, states: Sequence[State]) -> None:
        """Put the samples of several parts together."""
        self._from = states[0]["from"].tolist()
        for i in range(self.sites):
            rows = torch.cat([state[f"rows{i}"] for state in states])
            whole = rows.new_empty(len(self.indices), rows.shape[-1])
            whole[self._from[i] : self._from[i] + len(rows)] = rows
            if len(self._rows) == i:
                self._rows.append(whole)
            else:
                self._rows[i] = whole
            self._filled[i] = self._from[i] + len(rows)

    def rows(self, i: int) -> Float[Tensor, "token unit"]:
        """The activations of the i-th hook point on the sample."""
        return self._rows[i]
