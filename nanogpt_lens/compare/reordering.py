"""Which head or neuron of one layer stands where in another, by their weights."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nanogpt_lens.compare.written_forms import LayerForms, cosines

ALIKE = 0.9
"""The mean cosine from which on things that have other places are taken for the same."""

_BETTER = 0.01


def heads_of_b(a: LayerForms, b: LayerForms) -> Int[Tensor, " head"]:
    """The head of b that each head of a is.

    Those that are no more alike in another order, or not much alike in any, are taken to be where they were.
    """
    return _moved_only((cosines(a.qk, b.qk) + cosines(a.ov, b.ov)) / 2)


def neurons_of_b(a: LayerForms, b: LayerForms) -> Int[Tensor, " neuron"]:
    """The neuron of b that each neuron of a is, in the same way.

    The assignment is the Hungarian method's where the nearest of each neuron is not another's nearest as well.
    """
    one, two = (_directions(layer) for layer in (a, b))
    if float((one * two).sum(1).min()) >= ALIKE:
        return torch.arange(len(one), device=one.device)
    return _moved_only(one.float() @ two.float().mT)


def _directions(layer: LayerForms) -> Float[Tensor, "neuron input"]:
    """What each neuron reads and writes, both of length 1, so that the product of two is twice their cosine's mean."""
    parts = [layer.neurons_in, layer.neurons_out]
    scaled = [part / part.norm(dim=1, keepdim=True).clamp_min(1e-300) for part in parts]
    return torch.cat(scaled, 1) / 2**0.5


def _moved_only(alike: Float[Tensor, "one other"]) -> Int[Tensor, " one"]:
    """The best assignment, but for cycles of it in which things are not alike, or no more than where they were."""
    best = alike.argmax(1)
    if len(best.unique()) < len(best):
        best = torch.from_numpy(linear_sum_assignment(alike.double().cpu().numpy(), maximize=True)[1]).to(alike.device)
    order = torch.arange(len(best), device=alike.device)
    left = set((best != order).nonzero()[:, 0].tolist())
    while left:
        cycle, i = list[int](), next(iter(left))
        while i in left:
            left.remove(i)
            cycle.append(i)
            i = int(best[i])
        places = torch.tensor(cycle, device=alike.device)
        there, here = float(alike[places, best[places]].mean()), float(alike[places, places].mean())
        if there >= ALIKE and there > here + _BETTER:
            order[places] = best[places]
    return order
