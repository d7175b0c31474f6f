"""Next-token distributions of two models on the same tokens, and how far they are apart, place by place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, device_of, run
from nanogpt_lens.results.output_difference import MEASURES

_NUMBERS = 2**21
"""Log-probabilities that are held at once, of each model, in float64."""

_LARGEST = 700.0
"""A logarithm of a ratio of probabilities at which the smaller one is 0 in float64; its exponential is finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Apart:
    """How far two models' predictions are apart on some sequences; places are those that have a next token.

    Attributes:
        measures: what `MEASURES` names, in nats, of each place.
        probability: the sum over the places of the probability of each token in a, and of that in b less that in a.
    """

    measures: Float[Tensor, "example place measure"]
    probability: Float[Tensor, "example which token"]


def apart(a: Hooked, b: Hooked, tokens: Int[Tensor, "example pos"], n_vocab: int) -> Apart:
    """Run both models on the same tokens and compare their predictions of each next token.

    Both distributions are over the first `n_vocab` tokens: what nanoGPT's padding of the vocabulary gets is left out.

    Raises:
        AnalysisError: a model's logits are not finite.
    """
    logits = [run(model, tokens.to(device_of(model)))[:, :-1, :n_vocab].detach().to(tokens.device) for model in (a, b)]
    for name, values in zip("ab", logits, strict=True):
        if not bool(values.isfinite().all()):
            raise AnalysisError(f"some logits of {name} are not finite; the model overflows on this text")
    answers = tokens[:, 1:]
    measures = torch.empty(*answers.shape, len(MEASURES), dtype=torch.float64, device=tokens.device)
    probability = measures.new_zeros(len(tokens), 2, n_vocab)
    for rows, places in _chunks(len(answers), answers.shape[1], n_vocab):
        here = [values[rows, places].double().log_softmax(-1) for values in logits]
        measures[rows, places] = measures_of(here[0], here[1], answers[rows, places])
        in_a = here[0].exp()
        probability[rows, 0] += in_a.sum(1)
        probability[rows, 1] += (here[1].exp() - in_a).sum(1)
    return Apart(measures=measures, probability=probability)


def measures_of(
    a: Float[Tensor, "*axes token"], b: Float[Tensor, "*axes token"], answer: Int[Tensor, "*axes"]
) -> Float[Tensor, "*axes measure"]:
    """What `MEASURES` names, from log-probabilities; divergences cannot leave their range by rounding."""
    p_a, p_b, ratio = a.exp(), b.exp(), (b - a).clamp(-_LARGEST, _LARGEST)
    # log(p_a / m) with m = (p_a + p_b) / 2 is -log(1 + (p_b / p_a - 1) / 2), which is 0 where both are the same
    to_middle = -(p_a * (ratio.expm1() / 2).log1p() + p_b * ((-ratio).expm1() / 2).log1p())
    divergences = [
        (p_a * (a - b)).sum(-1).clamp_min(0),
        (p_b * (b - a)).sum(-1).clamp_min(0),
        (to_middle.sum(-1) / 2).clamp(0, math.log(2)),
    ]
    loss_a, loss_b = (-values.gather(-1, answer[..., None])[..., 0] for values in (a, b))
    same = (a.argmax(-1) == b.argmax(-1)).to(a)
    return torch.stack([*divergences, loss_a, loss_b, loss_b - loss_a, same], -1)


def _chunks(n_examples: int, n_places: int, n_vocab: int) -> Iterator[tuple[slice, slice]]:
    """Slices of examples and of places that have a bounded number of log-probabilities."""
    places = max(1, min(n_places, _NUMBERS // n_vocab))
    examples = max(1, _NUMBERS // (n_vocab * places))
    for i in range(0, n_examples, examples):
        for j in range(0, n_places, places):
            yield slice(i, i + examples), slice(j, j + places)
