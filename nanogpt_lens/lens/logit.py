"""The logit lens: what the model would predict if it stopped at a point.

Every point of the residual stream goes through the model's own final norm and unembedding; with a
tuned lens it is first translated. The last point is the model's own output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lens.points import LensPoints, Point, grid, refuse_lens
from nanogpt_lens.lens.reading import LensReading, characters, read, strings
from nanogpt_lens.model.access import Hooked, Text, as_tokens, provenance, token_labels
from nanogpt_lens.results.lens import POINTS, LensResult, TunedLens


def logit_lens(
    model: Hooked,
    text: Text,
    *,
    points: Sequence[Point] = POINTS,
    layers: Sequence[int] | int | None = None,
    k: int = 5,
    lens: TunedLens | None = None,
) -> LensResult:
    """What each point of the residual stream predicts.

    Args:
        model: a HookedTransformer or a TransformerBridge, with weights processed or not.
        text: a text, several of one length, or token ids [pos] or [example, pos].
        points: some of "resid_pre", "resid_mid", "resid_post"; given in the order of the computation.
        layers: some layers; None for all.
        k: how many of the most likely tokens are kept.
        lens: a tuned lens of this model; None for the logit lens.

    Returns:
        the log-probability of the token that follows, in nats, [layer, point, pos] (of several texts
        [layer, point, example, pos]), with its rank, the entropy, KL(final || lens), the top tokens, bits per
        character, and the depth at which the final top token settles; see `LensResult`. The softmax is the
        model's own: nanoGPT's padding of the vocabulary, where there is some, takes part.

    Raises:
        AnalysisError: no such point or layer, k not from 1 to the vocabulary, a lens of another model or
            without these points, a text that is empty or longer than the context.
        VocabularyError: a text that the model's tokenizer cannot encode.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; KL and tuned lens: Belrose et al. 2023,
    "Eliciting Latent Predictions from Transformers with the Tuned Lens".
    """
    tokens = as_tokens(model, text)
    where = grid(model, points, layers)
    check_whole(1, k=k)
    if k > model.cfg.d_vocab:
        raise AnalysisError(f"k is {k}; expected at most {model.cfg.d_vocab}, the model's vocabulary")
    refuse_lens(model, lens, where.depths)
    found = read(model, tokens, where.depths, lens=lens, k=k)
    single = len(tokens) == 1
    return LensResult(
        axes=("layer", "point", "pos") if single else ("layer", "point", "example", "pos"),
        labels={**where.labels, **({"pos": token_labels(model, tokens[0])} if single else {})},
        quantity="log-probability of the next token, in nats",
        definition=(
            f"{'tuned lens' if lens else 'logit lens'}: the residual stream at a point"
            f"{', translated,' if lens else ''} through the model's own final norm and unembedding; KL(final || lens)"
        ),
        title="log-probability of the next token",
        method="tuned" if lens else "logit",
        provenance=provenance(model, points=where.points, layers=where.layers, k=k, lens=lens.home if lens else None),
        **_placed(found, where, single),
        tokens=tokens[0] if single else tokens,
        bits_per_char=_bits_per_char(found, where, characters(model, tokens)),
        strings=strings(
            model, torch.cat([found.top_tokens.flatten(), tokens.cpu().flatten(), found.final_tokens.flatten()])
        ),
    )


def _placed(found: LensReading, where: LensPoints, single: bool) -> dict[str, Any]:
    """The readings on the grid; without the axis "example" for a single text."""
    names = {"values": "log_prob"} | {n: n for n in ("rank", "entropy", "kl", "top_tokens", "top_logprobs")}
    placed = {name: where.placed(getattr(found, own)) for name, own in names.items()}
    per_text = {"final_tokens": found.final_tokens, "depth": found.settled(where.depths, where.n_layers)}
    if single:
        placed = {name: value[:, :, 0] for name, value in placed.items()}
        per_text = {name: value[0] for name, value in per_text.items()}
    return placed | per_text


def _bits_per_char(found: LensReading, where: LensPoints, chars: Tensor | None) -> Tensor | None:
    """[layer, point]."""
    if chars is None:
        return None
    bits = -found.log_prob[:, :, :-1].double().sum((1, 2)) / math.log(2)
    return where.placed(bits / chars.sum())
