"""What may be transplanted: parts of models that share a start and differ."""

from __future__ import annotations

import torch

from nanogpt_lens.compare.origin import shared_start
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked


class NoDifferenceError(AnalysisError):
    """Two models do the same on a text, so that there is nothing whose place could be found."""


def relative_rounding(model: Hooked) -> float:
    """The share of a number's size up to which a difference between two runs may be rounding."""
    return 64 * torch.finfo(model.cfg.dtype).eps


def kl_rounding(model: Hooked) -> float:
    """The KL divergence, in nats, up to which two runs may be the same but for rounding; of logits up to about 20."""
    return max((20 * relative_rounding(model)) ** 2, 1e-15)


def check_difference(model: Hooked, divergence: float) -> None:
    """Raise AnalysisError where the output of two models differs by rounding alone.

    Args:
        model: one of them.
        divergence: the largest KL divergence of any sequence, in nats.
    """
    if not divergence > kl_rounding(model):
        raise NoDifferenceError(
            f"a and b do the same on this text (the KL divergence is {divergence:.1e} nats, which is rounding): there "
            "is no difference to transplant; give text on which they differ, or compare their weights"
        )


def check_start(a: Hooked, b: Hooked, seed: int) -> float:
    """The mean cosine of the two models' matrices.

    Raises:
        AnalysisError: they show no common start, or are equal.
    """
    origin = shared_start(a, b, seed=seed)
    if origin.verdict == "identical":
        raise AnalysisError("a and b are identical, parameter by parameter: there is no difference to transplant")
    if not origin.is_shared:
        raise AnalysisError(
            f"a and b show no common start (the mean cosine of their matrices is {origin.cosine:.3f}, by chance "
            f"{origin.chance_mean:.3f} with a deviation of {origin.chance_deviation:.3f}), so that their components do "
            "not correspond: compare their circuits with compare_circuits, or match their heads with match_heads"
        )
    return origin.cosine
