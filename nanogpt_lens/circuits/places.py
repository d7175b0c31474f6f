"""Stand-ins: places at which a feature has the same value, drawn uniformly and with replacement.

A place is a prompt and a position in it. The numbers that decide on a draw depend on the seed, the draw, and the path
of the claim alone, so that hypotheses that share a claim share its numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.circuits.claims import Feature
from nanogpt_lens.circuits.features import Features
from nanogpt_lens.circuits.tree import Pool


@dataclass(frozen=True, eq=False)
class Places:
    """Where some activations are computed.

    Attributes:
        row: the prompt of each item.
        here: the position in it.
        whole: whether all positions are computed, and not `here` alone.
    """

    row: Int[Tensor, " item"]
    here: Int[Tensor, " item"]
    whole: bool = False

    def positions(self, n_pos: int) -> Int[Tensor, "item pos"]:
        """The positions that are computed."""
        if not self.whole:
            return self.here[:, None]
        return torch.arange(n_pos, device=self.row.device).expand(len(self.row), n_pos)

    def at_each(self, n_pos: int) -> Places:
        """Every position of each item as an item of its own."""
        row = self.row.repeat_interleave(n_pos)
        return Places(row, torch.arange(n_pos, device=row.device).repeat(len(self.row)))


@dataclass(frozen=True, eq=False)
class Agreement:
    """The places of a pool, by the value that a feature has there.

    Attributes:
        value_of: for each place of the data, the number of its value; -1 outside the pool.
        members: the places of the pool, value by value.
        first: for each value, where its places begin among `members`.
        size: for each value, how many there are.
        n_values: how many values the feature has there; fewer than `size` has where positions are kept.
    """

    value_of: Int[Tensor, " place"]
    members: Int[Tensor, " member"]
    first: Int[Tensor, " value"]
    size: Int[Tensor, " value"]
    n_values: int

    def drawn(self, place: Int[Tensor, " item"], uniform: Float[Tensor, " item"]) -> Int[Tensor, " item"]:
        """For each place one with the same value, chosen by a number between 0 and 1."""
        value = self.value_of[place]
        size = self.size[value]
        chosen = (uniform * size).long().clamp(max=size - 1)
        return self.members[self.first[value] + chosen]

    @property
    def alone(self) -> float:
        """The share of the pool's places that no other place agrees with, so that they stand in for themselves."""
        return float((self.size == 1).sum()) / max(1, len(self.members))


class Agreements:
    """The agreements of all features on some prompts, made when they are asked for.

    Args:
        features: the features.
        seed: the seed of the permutations.
    """

    def __init__(self, features: Features, seed: int) -> None:
        self.features, self.seed = features, seed
        self._kept: dict[tuple[Feature, Pool, str], Agreement] = {}

    def agreement(self, feature: Feature, pool: Pool, permuted: str = "") -> Agreement:
        """The places of a pool by a feature's value; `permuted` is a word for a permutation of the values."""
        key = (feature, pool, permuted)
        if key not in self._kept:
            self._kept[key] = self._made(feature, pool, permuted)
        return self._kept[key]

    def _made(self, feature: Feature, pool: Pool, permuted: str) -> Agreement:
        n, n_pos = self.features.tokens.shape
        position = np.broadcast_to(np.arange(n_pos), (n, n_pos)).ravel()
        within = np.flatnonzero(position == pool.position) if pool.position is not None else np.arange(n * n_pos)
        values = self.features.values(feature).ravel()[within]
        if permuted:
            values = _permuted(values, position[within] if pool.same else None, generator(self.seed, permuted))
        n_values = len(np.unique(values))
        if pool.same:
            values = np.unique(values, return_inverse=True)[1] * n_pos + position[within]
        numbers, size = np.unique(values, return_inverse=True, return_counts=True)[1:]
        value_of = np.full(n * n_pos, -1)
        value_of[within] = numbers
        members = within[np.argsort(numbers, kind="stable")]
        first = np.concatenate([[0], np.cumsum(size)[:-1]])
        arrays = (torch.from_numpy(np.ascontiguousarray(a)) for a in (value_of, members, first, size))
        return Agreement(*arrays, n_values=n_values)


class Uniforms:
    """Numbers between 0 and 1 that decide on draws, for one draw of the whole tree.

    The prompts are taken in order, some at a time; the numbers do not depend on how many.

    Args:
        seed: the seed.
        draw: the number of the draw.
    """

    def __init__(self, seed: int, draw: int) -> None:
        self.seed, self.draw = seed, draw
        self._generators: dict[str, np.random.Generator] = {}
        self._now: dict[str, Float[Tensor, " item"]] = {}

    def begin(self) -> None:
        """Go on to the next prompts."""
        self._now = {}

    def numbers(self, path: str, n: int) -> Float[Tensor, " item"]:
        """The numbers of a claim for the prompts at hand; the same each time until `begin`."""
        if path not in self._now:
            self._now[path] = self.fresh(path, n)
        return self._now[path]

    def fresh(self, path: str, n: int) -> Float[Tensor, " item"]:
        """The next numbers for a word."""
        if path not in self._generators:
            self._generators[path] = generator(self.seed, f"{self.draw} {path}")
        return torch.from_numpy(self._generators[path].random(n))


def generator(seed: int, word: str) -> np.random.Generator:
    """A generator for a seed and a word."""
    digest = hashlib.sha256(f"{seed} {word}".encode()).digest()
    return np.random.default_rng(list(np.frombuffer(digest, dtype=np.uint32)))


def _permuted(
    values: Int[np.ndarray, " place"], position: Int[np.ndarray, " place"] | None, rng: np.random.Generator
) -> Int[np.ndarray, " place"]:
    """The values in random order, so that each is as frequent as before; within each position where they are kept."""
    if position is None:
        return rng.permutation(values)
    permuted = values.copy()
    for pos in np.unique(position):
        permuted[position == pos] = rng.permutation(values[position == pos])
    return permuted
