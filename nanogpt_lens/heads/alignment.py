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

from typing import Any, NamedTuple

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
        density: how often the place so many tokens back is of the class, over all queries.
        kind: of each pair of places that sees one the other, which pairs have the same characters and distance; -1
            of others.
        sizes: how many pairs have each kind.
        shares: of each kind the share that is of the class.
        shifted_queries: how many queries see a place of the class, for every shift of the classes.
    """

    to: Bool[Tensor, "score example pos back"]
    seen: Bool[Tensor, "pos back"]
    queries: Float[Tensor, "score example"]
    expected_queries: Float[Tensor, " score"]
    density: Float[Tensor, "score back"]
    kind: Int[Tensor, "example pos back"]
    sizes: Float[Tensor, " kind"]
    shares: Float[Tensor, "score kind"]
    shifted_queries: Float[Tensor, "score shift"]

    @classmethod
    def of(cls, tokens: Int[Tensor, "example pos"], to: Bool[Tensor, "score example pos back"]) -> Classes:
        """What is known of these classes on these tokens."""
        n_pos = tokens.shape[1]
        place, back = torch.arange(n_pos)[:, None], torch.arange(1, n_pos)
        seen = back <= place
        key = (place - back).clamp(min=0)
        pairs = (tokens[:, :, None] * (int(tokens.max()) + 1) + tokens[:, key]) * n_pos + back
        kind = torch.full_like(pairs, -1)
        _, kind[:, seen] = torch.unique(pairs[:, seen], return_inverse=True)
        within = kind[:, seen].flatten()
        sizes = within.bincount().double()
        members = torch.stack([within.bincount(weights=some[:, seen].flatten().double()) for some in to])
        nearest = torch.where(to, back, n_pos).amin(-1)  # [score, example, pos]
        each = torch.stack([(nearest.flatten(1) <= i).double().mean(1) for i in range(n_pos)], 1)
        return cls(
            to=to,
            seen=seen,
            queries=(nearest <= place[:, 0]).sum(-1).double(),
            expected_queries=each.sum(1),
            density=to.double().mean((1, 2)),
            kind=kind,
            sizes=sizes,
            shares=members / sizes,
            shifted_queries=torch.stack([_shifted_queries(some, seen) for some in nearest]),
        )

    @property
    def keys_of_a_query(self) -> Float[Tensor, " score"]:
        """How many places of the class a query sees that sees any."""
        return (self.to & self.seen).sum((1, 2, 3)) / self.queries.sum(1)

    def tellable(self) -> Float[Tensor, "score example"]:
        """How many places of the class of each sequence can be told from others: each counts as the share of others."""
        rest = 1 - self.shares[:, self.kind.clamp(min=0)]
        return (rest * (self.to & self.seen)).sum((2, 3))


def _shifted_queries(nearest: Int[Tensor, "example pos"], seen: Bool[Tensor, "pos back"]) -> Float[Tensor, " shift"]:
    """How many queries see a place of a class whose nearest place is so many tokens back, for every shift of it."""
    is_nearest = nearest.flatten()[None, :, None] == torch.arange(1, len(seen))
    return shifted_sums(seen.repeat(len(nearest), 1)[None], is_nearest)[0, 0].round().clamp(min=1)


class Aligned(NamedTuple):
    """How the attention of a layer's heads goes with some classes; a value for each example has the mean as its mean.

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
    to, seen = classes.to & classes.seen, classes.seen
    attention = attention.double()
    base = torch.einsum("hepb,sb->she", attention, classes.density)
    expected = classes.expected_queries[:, None, None].expand(-1, 1, base.shape[2])
    rest = attention - mean_of_kind(attention, classes)
    places = rearrange(to, "score example pos back -> score example (pos back)").double()
    sums, beyond = (
        torch.einsum("heq,seq->she", rearrange(part, "head example pos back -> head example (pos back)"), places)
        for part in (attention, rest * seen)
    )
    whole = rearrange(attention, "head example pos back -> head (example pos) back")
    moved = rearrange(classes.to, "score example pos back -> score (example pos) back")
    return Aligned(
        attention=ratio_per_example(sums, classes.queries[:, None]),
        by_distance=ratio_per_example(base, expected),
        beyond=ratio_per_example(beyond, classes.tellable()[:, None]) * classes.keys_of_a_query[:, None, None],
        shifted=shifted_sums(whole, moved) / classes.shifted_queries[:, None],
    )


def mean_of_kind(
    attention: Float[Tensor, "head example pos back"], classes: Classes
) -> Float[Tensor, "head example pos back"]:
    """What each head pays, on average, to the same character from the same one at the same distance; 0 if unseen."""
    within = classes.kind[:, classes.seen]
    expected = torch.zeros_like(attention)
    for head, values in enumerate(attention):
        sums = within.flatten().bincount(weights=values[:, classes.seen].flatten())
        expected[head][:, classes.seen] = (sums / classes.sizes)[within]
    return expected


def stacked(layers: list[Aligned]) -> dict[str, Any]:
    """The fields of all layers, with the axis of the layers behind the first."""
    return {name: torch.stack([getattr(layer, name) for layer in layers], 1) for name in Aligned._fields}
