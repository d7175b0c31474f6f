"""Means and covariances of units, within a layer and between layers, in one pass over a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.running.streaming import Keeper, State
from nanogpt_lens.text.sequences import Batch


class Comoments(Keeper):
    """Sums of products of the units of pairs of hook points, about a mean, over all tokens.

    Activations are taken about the first batch's mean, multiplied in their own precision (float32 or better)
    and added in float64; parts of a corpus are put together as by Chan et al. 1979.

    With `control`, products are also taken of each token with another one of the same batch, a seeded random
    distance away: what remains of a correlation when the two units no longer see the same text.

    Args:
        pairs: (i, j) numbers of hook points, i <= j, each with itself among them.
        control: whether to take these products, too.
        seed: the seed of the distances.
        units: the indices of the units of each activation; None for all.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[tuple[int, int]],
        control: bool = False,
        seed: int = 0,
        units: Sequence[int] | None = None,
    ) -> None:
        self.pairs, self.control, self.seed = tuple(pairs), control, seed
        self._units = None if units is None else list(units)
        self._n: dict[int, float] = {}
        self._shift: dict[int, Float[Tensor, " unit"]] = {}
        self._sum: dict[int, Float[Tensor, " unit"]] = {}
        self._products: dict[tuple[int, int], Float[Tensor, "unit other_unit"]] = {}
        self._shifted: dict[tuple[int, int], Float[Tensor, "unit other_unit"]] = {}
        self._batch: dict[int, Float[Tensor, "token unit"]] = {}  # what later hook points of the same batch need

    def add(self, i: int, values: Float[Tensor, "example pos unit"], batch: Batch) -> None:
        """Take in the activation of the i-th hook point."""
        flat = values.flatten(0, 1)
        flat = flat if self._units is None else flat[:, self._units]
        flat = flat if flat.dtype == torch.float64 else flat.float()
        if i not in self._shift:  # a unit that never changes must have a variance of exactly zero
            still = (flat == flat[0]).all(0)
            self._shift[i] = torch.where(still, flat[0], flat.mean(0)).double()
            self._n[i], self._sum[i] = 0.0, torch.zeros_like(self._shift[i])
        centred = flat - self._shift[i].to(flat.dtype)
        self._n[i] += len(centred)
        self._sum[i] += centred.sum(0, dtype=torch.float64)
        self._batch = {j: kept for j, kept in self._batch.items() if j < i}
        self._batch[i] = centred
        distance = self._distance(batch)
        for a, b in self.pairs:
            if b == i:
                earlier = self._batch[a]
                _accumulate(self._products, (a, b), earlier.T @ centred)
                if self.control and distance:
                    _accumulate(self._shifted, (a, b), earlier.roll(distance, 0).T @ centred)
        last = max(b for _, b in self.pairs)
        self._batch = {} if i == last else {j: c for j, c in self._batch.items() if any(a == j for a, _ in self.pairs)}

    def _distance(self, batch: Batch) -> int:
        """The number of tokens between the control's two: at least a sequence where the batch has room."""
        n, length = batch.tokens.numel(), batch.tokens.shape[1]
        least = length if n >= 2 * length + 1 else 1
        if n < 2:
            return 0
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + batch.first) % 2**63)
        return int(torch.randint(least, n - least + 1, (), generator=generator))

    def state(self) -> State:
        """The sums that are held now, by name."""
        sites = sorted(self._shift)
        held = {f"shift{i}": self._shift[i] for i in sites} | {f"sum{i}": self._sum[i] for i in sites}
        held |= {f"products{a},{b}": t for (a, b), t in self._products.items()}
        held |= {f"shifted{a},{b}": t for (a, b), t in self._shifted.items()}
        return {**held, "n": torch.tensor([self._n[i] for i in sites], dtype=torch.float64)}

    def hold(self, states: Sequence[State]) -> None:
        """Put several parts together."""
        first, *others = states
        self._take(first)
        for other in others:
            part = Comoments(pairs=self.pairs, control=self.control)
            part._take(other)
            self._join(part)

    def _take(self, state: State) -> None:
        sites = range(len(state["n"]))
        self._n = {i: float(state["n"][i]) for i in sites}
        self._shift, self._sum = ({i: state[f"{name}{i}"].clone() for i in sites} for name in ("shift", "sum"))
        for name, held in (("products", self._products), ("shifted", self._shifted)):
            held.clear()
            held.update({(a, b): t for a, b in self.pairs if (t := state.get(f"{name}{a},{b}")) is not None})

    def _join(self, other: Comoments) -> None:
        delta = {i: other.mean(i) - self.mean(i) for i in self._shift}
        mean = {i: self.mean(i) + delta[i] * (other._n[i] / (self._n[i] + other._n[i])) for i in delta}
        for a, b in self.pairs:
            weight = self._n[a] * other._n[a] / (self._n[a] + other._n[a])
            between = weight * torch.outer(delta[a], delta[b])
            joined = self._about_mean((a, b)) + other._about_mean((a, b)) + between
            if self.control:
                self._shifted[a, b] = (
                    self._about_mean((a, b), control=True) + other._about_mean((a, b), control=True) + between
                )
            self._products[a, b] = joined
        for i in mean:
            self._n[i] += other._n[i]
            self._shift[i], self._sum[i] = mean[i], torch.zeros_like(mean[i])

    def _about_mean(self, pair: tuple[int, int], *, control: bool = False) -> Float[Tensor, "unit other_unit"]:
        """The sums of products of a pair of hook points about the two means."""
        a, b = pair
        of_means = torch.outer(self._sum[a], self._sum[b]) / self._n[a]
        held = self._shifted if control else self._products
        return held.get(pair, torch.zeros_like(of_means)) - of_means

    @property
    def n(self) -> int:
        """The number of tokens seen."""
        return int(self._n[0])

    def mean(self, i: int) -> Float[Tensor, " unit"]:
        """The means of the units of the i-th hook point."""
        return self._shift[i] + self._sum[i] / self._n[i]

    def covariance(self, pair: tuple[int, int], *, control: bool = False) -> Float[Tensor, "unit other_unit"]:
        """The covariances of a pair of hook points, over all tokens (divided by n)."""
        return self._about_mean(pair, control=control) / self._n[pair[0]]

    def variance(self, i: int) -> Float[Tensor, " unit"]:
        """The variances of the units of the i-th hook point, over all tokens (divided by n)."""
        return self.covariance((i, i)).diagonal().clamp_min(0)

    def correlation(self, pair: tuple[int, int], *, control: bool = False) -> Float[Tensor, "unit other_unit"]:
        """Pearson's correlations of a pair of hook points; nan where a unit never changes."""
        a, b = (self.variance(i).sqrt() for i in pair)
        scale = torch.outer(a, b)
        return torch.where(scale > 0, (self.covariance(pair, control=control) / scale).clamp(-1, 1), torch.nan)


def _accumulate(
    held: dict[tuple[int, int], Float[Tensor, "_ _"]], pair: tuple[int, int], products: Float[Tensor, "unit other_unit"]
) -> None:
    """Add products to those held of a pair, in float64."""
    if pair in held:
        held[pair] += products.double()
    else:
        held[pair] = products.double()
