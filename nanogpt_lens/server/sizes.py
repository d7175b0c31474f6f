"""How many numbers a run will hold, from shapes, before it is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, device_of, evaluating, record


def widest(model: Hooked, n_pos: int) -> int:
    """The numbers of one token in the largest thing that every forward pass makes: logits, a pattern, an MLP's neurons.

    Args:
        model: the model.
        n_pos: the tokens of a sequence.
    """
    cfg = model.cfg
    return max(int(cfg.d_vocab), int(cfg.n_heads) * n_pos, int(cfg.d_mlp or 0))


def numbers_of(model: Hooked, names: Sequence[str], *, n_examples: int, n_pos: int) -> int:
    """The numbers of activations, from runs of one token and of two: they grow with the length, or with its square.

    Args:
        model: the model.
        names: hook points that it has.
        n_examples, n_pos: the shape of the run that is meant.

    Raises:
        AnalysisError: a hook point that no run comes to, or that is switched off.
    """
    if not names:
        return 0
    with evaluating(model):
        one, two = (_measured(model, names, n) for n in (1, min(2, int(model.cfg.n_ctx))))
    for name in names:
        if name not in one:
            raise AnalysisError(f"no run of this model comes to the hook point {name!r}; ask for another activation")
    total = 0
    for name in names:
        power = {4: 2, 2: 1}.get(two[name] // max(one[name], 1), 0)
        total += one[name] * n_pos**power
    return total * n_examples


def _measured(model: Hooked, names: Sequence[str], n: int) -> dict[str, int]:
    tokens = torch.zeros((1, n), dtype=torch.long, device=device_of(model))
    try:
        return {name: value.numel() for name, value in record(model, tokens, names).items()}
    except ValueError as error:  # TransformerLens 4, of a hook point that is switched off
        raise AnalysisError(f"an activation cannot be had: {' '.join(str(error).split())}") from None
