"""How far attention goes to places of a class, beyond distance alone, and beyond distance and characters.

A class says for every query which earlier places belong to it. Two things make attention go there without knowing the
class. Distance: a head that looks one token back looks at the first letter of a word from every second letter. So the
base rate is the head's own attention at every distance, times how often the class is at that distance: what is left if
the classes are shifted along the text. And characters: a head that looks at capitals looks at starts of lines. So the
second base rate is what the head pays to the same character, from the same character, at the same distance, where it is
not of the class.

A head of the first layer knows the two characters, their places and the competition of other keys, and nothing else:
how far it gets beyond the second base rate is what that measure cannot take away.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.intervals import ratio_per_example
from nanogpt_lens.core.shifts import shifted_sums


def by_distance(pattern: Float[Tensor, "example head pos pos"]) -> Float[Tensor, "head example pos back"]:
    """Attention to the place 1, 2, ... tokens back; 0 where the sequence has no such place."""
    n_pos = pattern.shape[-1]
    key = torch.arange(n_pos, device=pattern.device)[:, None] - torch.arange(1, n_pos, device=pattern.device)
    at = key.clamp(min=0).expand(*pattern.shape[:2], -1, -1)
    return rearrange(pattern.gather(-1, at) * (key >= 0), "example head pos back -> head example pos back")


class Classes(NamedTuple):
    """What is known of the classes before any head is looked at.

    Attributes:
        to: whether the place so many tokens back is of the class, be it in the sequence or before it.
        seen: whether there is such a place in the sequence.
        queries: how many queries of each sequence see a place of the class.
        expected_queries: the same under a random shift.
        shifted_queries: how many queries see a place of the class, for every shift of the classes.
        density: how often the place so many tokens back is of the class, over all queries.
        members: by class, which of the pairs of places that see one the other are of it.
        kind: of each such pair, which pairs have the same characters and distance.
        sizes: how many pairs have each kind.
        tellable: how many places of the class of each sequence can be told from others: each counts as the share of
            the others among the pairs of its kind.
    """

    to: Bool[Tensor, "score example pos back"]
    seen: Bool[Tensor, "pos back"]
    queries: Float[Tensor, "score example"]
    expected_queries: Float[Tensor, " score"]
    shifted_queries: Float[Tensor, "score shift"]
    density: Float[Tensor, "score back"]
    members: tuple[Int[Tensor, " _"], ...]
    kind: Int[Tensor, " pair"]
    sizes: Float[Tensor, " _"]
    tellable: Float[Tensor, "score example"]

    @classmethod
    def of(cls, tokens: Int[Tensor, "example pos"], to: Bool[Tensor, "score example pos back"]) -> Classes:
        """What is known of these classes on these tokens."""
        n, n_pos = tokens.shape
        place, back = torch.arange(n_pos)[:, None], torch.arange(1, n_pos)
        seen = back <= place
        nearest = torch.where(to, back, n_pos).amin(-1)  # [score, example, pos]
        each = torch.stack([(nearest.flatten(1) <= i).double().mean(1) for i in range(n_pos)], 1)
        members = tuple(some[:, seen].flatten().nonzero()[:, 0] for some in to)
        kind = _kinds(tokens)
        sizes = kind.bincount().double()
        tellable = []
        for places in members:
            shares = kind[places].bincount(minlength=len(sizes)) / sizes
            others = 1 - shares[kind[places]]
            tellable.append((places // (len(kind) // n)).bincount(weights=others, minlength=n))
        return cls(
            to=to,
            seen=seen,
            queries=(nearest <= place[:, 0]).sum(-1).double(),
            expected_queries=each.sum(1),
            shifted_queries=torch.stack([_shifted_queries(some, seen) for some in nearest]),
            density=to.double().mean((1, 2)),
            members=members,
            kind=kind,
            sizes=sizes,
            tellable=torch.stack(tellable),
        )

    @property
    def n_members(self) -> Float[Tensor, " score"]:
        """How many pairs of places are of the class."""
        return torch.tensor([len(places) for places in self.members]).double()


def _kinds(tokens: Int[Tensor, "example pos"]) -> Int[Tensor, " pair"]:
    """Of each pair of places that see one the other, which pairs have the same two characters and distance."""
    n_pos = tokens.shape[1]
    place, back = torch.tril_indices(n_pos, n_pos - 1, -1)
    back = back + 1  # the pairs of a query, by distance
    pairs = (tokens[:, place] * (int(tokens.max()) + 1) + tokens[:, place - back]) * n_pos + back
    return torch.unique(pairs, return_inverse=True)[1].flatten()


def _shifted_queries(nearest: Int[Tensor, "example pos"], seen: Bool[Tensor, "pos back"]) -> Float[Tensor, " shift"]:
    """How many queries see a place of a class whose nearest place is so many tokens back, for every shift of it."""
    is_nearest = nearest.flatten()[None, :, None] == torch.arange(1, len(seen))
    sums = shifted_sums(seen.repeat(len(nearest), 1)[None].float(), is_nearest.float())
    return sums[0, 0].double().round().clamp(min=1)


class Aligned(NamedTuple):
    """How the attention of some heads goes with some classes; a value for each example has the mean as its mean.

    Attributes:
        attention: to places of the class, of the queries that see one.
        by_distance: what the head's attention by distance alone would give.
        beyond: by how much a place of the class has more than other places with the same characters at the same
            distance, times the number of such places that a query sees.
        shifted: the attention to the class under every shift; the first is none.
    """

    attention: Float[Tensor, "score head example"]
    by_distance: Float[Tensor, "score head example"]
    beyond: Float[Tensor, "score head example"]
    shifted: Float[Tensor, "score head shift"]


def aligned(attention: Float[Tensor, "head example pos back"], classes: Classes) -> Aligned:
    """How the attention of some heads goes with some classes."""
    n = attention.shape[1]
    base = torch.einsum("heb,sb->she", attention.sum(2, dtype=torch.float64), classes.density)
    expected = classes.expected_queries[:, None, None].expand(-1, 1, n)
    pairs = attention[:, :, classes.seen].flatten(1)  # [head, pair]
    rest = pairs - _mean_of_kind(pairs, classes)
    sums, beyond = (_sums_over(part, classes, n) for part in (pairs, rest))
    keys_of_a_query = classes.n_members / classes.queries.sum(1)
    whole = rearrange(attention, "head example pos back -> head (example pos) back")
    moved = rearrange(classes.to, "score example pos back -> score (example pos) back")
    shifted = shifted_sums(whole, moved.to(whole.dtype)).double()
    return Aligned(
        attention=ratio_per_example(sums, classes.queries[:, None]),
        by_distance=ratio_per_example(base, expected),
        beyond=ratio_per_example(beyond, classes.tellable[:, None]) * keys_of_a_query[:, None, None],
        shifted=shifted / classes.shifted_queries[:, None],
    )


def _mean_of_kind(pairs: Float[Tensor, "head pair"], classes: Classes) -> Float[Tensor, "head pair"]:
    """What each head pays, on average, to the same character from the same one at the same distance."""
    sums = torch.stack([classes.kind.bincount(weights=values.double()) for values in pairs])
    return (sums / classes.sizes)[:, classes.kind]


def _sums_over(pairs: Float[Tensor, "head pair"], classes: Classes, n: int) -> Float[Tensor, "score head example"]:
    """The sums over the pairs of each class and sequence, in float64."""
    found = []
    for places in classes.members:
        example = places // (len(classes.kind) // n)
        mine = pairs[:, places].double()
        found.append(torch.zeros(len(pairs), n, dtype=torch.float64).index_add_(1, example, mine))
    return torch.stack(found)
