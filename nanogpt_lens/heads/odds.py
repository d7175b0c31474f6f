"""Whether a head prefers places of a class to others of the same character, with competition between keys left out.

A head that looks at newlines, the nearer the better, gives more to the newline before one's own line than to an earlier
one at the same distance, without knowing lines: before the earlier one there is a nearer one, which takes attention
away. So the logarithm of attention is compared among the keys of one query that are the same character, where what the
others take, and how much the query looks for that character, cancel:

    ln attention[query, key] = what the query has for this character
                               + what this pair of characters has at this distance
                               + preference * (the key is a place of the class)

The preference, in nats, is the solution of least squares; exp of it says how many times as much a place of the class
gets. Scores of the first layer are functions of the two characters and positions, so that its preferences are 0, but
for what positions do beyond distance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.intervals import ratio_per_example
from nanogpt_lens.heads.alignment import Classes

_PASSES = 40
_CLOSE = 1e-3
_LEAST = 1e-30  # attention that is taken for this much at least, so that it has a logarithm


class Contrasts(NamedTuple):
    """The classes without what queries and kinds of pairs explain of them.

    Attributes:
        rest: what is left of each class, at each pair of places that see one the other.
        same: which pairs have the same query, and the same character as their key.
        kind: which pairs have the same two characters and distance.
        weight: the sum of squares of what is left, of each sequence.
    """

    rest: Float[Tensor, "score pair"]
    same: Int[Tensor, " pair"]
    kind: Int[Tensor, " pair"]
    weight: Float[Tensor, "score example"]

    @classmethod
    def of(cls, tokens: Int[Tensor, "example pos"], classes: Classes) -> Contrasts:
        """Those of some classes on these tokens."""
        n, n_pos = tokens.shape
        place, back = torch.tril_indices(n_pos, n_pos - 1, -1)
        query = torch.arange(n)[:, None] * n_pos + place
        numbered = query * (int(tokens.max()) + 1) + tokens[:, place - back - 1]
        same = torch.unique(numbered, return_inverse=True)[1].flatten()
        rests = []
        for places in classes.members:
            rest = torch.zeros(len(same), dtype=torch.float64)
            rest[places] = 1.0
            rests.append(without_means(rest, same, classes.kind, passes=_PASSES))
        rest = torch.stack(rests)
        return cls(rest, same, classes.kind, rest.square().view(len(rest), n, -1).sum(-1))

    def preference(self, pairs: Float[Tensor, "head pair"]) -> Float[Tensor, "score head example"]:
        """The preference of each head for each class, from its attention, with a value for each sequence.

        Their mean is the preference. It is nan for a class that is nowhere beside another place of its character.
        """
        n = self.weight.shape[1]
        sums = []
        for attention in pairs:
            logs = attention.double().clamp(min=_LEAST).log()
            logs = without_means(logs, self.same, self.kind, passes=2)  # changes no sum, and makes them vary less
            sums.append((self.rest * logs).view(len(self.rest), n, -1).sum(-1))
        known = self.weight.sum(1, keepdim=True) > _CLOSE
        weight = torch.where(known, self.weight, torch.nan)
        return ratio_per_example(torch.stack(sums, 1), weight[:, None])


def without_means(
    values: Float[Tensor, " pair"], same: Int[Tensor, " pair"], kind: Int[Tensor, " pair"], *, passes: int
) -> Float[Tensor, " pair"]:
    """The values without what they have in common by kind and by query and character: both means are (almost) 0.

    They are taken away in turns, kinds first, until no mean of a kind is above 0.001, or so many times.
    """
    of_kind, of_same = kind.bincount().double(), same.bincount().double()
    for _ in range(passes):
        means = kind.bincount(weights=values) / of_kind
        values = values - means[kind]
        values = values - (same.bincount(weights=values) / of_same)[same]
        if float(means.abs().max()) < _CLOSE:
            break
    return values
