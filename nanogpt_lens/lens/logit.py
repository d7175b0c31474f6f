"""The logit lens: what the model would predict if it stopped at a point.

Every point of the residual stream goes through the model's own final norm and unembedding; with a
tuned lens it is first translated. The last point is the model's own output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lens.points import LensPoints, Point, check_lens, grid
from nanogpt_lens.lens.reading import LensReading, characters, read, seen_fields, strings
from nanogpt_lens.model.access import Hooked, Text, as_tokens, provenance, token_labels
from nanogpt_lens.results.lens import POINTS, LensResult, TunedLens
from nanogpt_lens.results.sample import Sample


def logit_lens(
    model: Hooked,
    text: Text,
    *,
    points: Sequence[Point] = POINTS,
    layers: Sequence[int] | int | None = None,
    k: int | None = None,
    lens: TunedLens | None = None,
) -> LensResult:
    """What each point of the residual stream predicts.

    Args:
        model: a HookedTransformer or a TransformerBridge, with weights processed or not.
        text: a text, several of one length, or token ids [pos] or [example, pos].
        points: some of "resid_pre", "resid_mid", "resid_post", in any order; the result has the computation's.
        layers: some layers; None for all.
        k: the number of the most likely tokens that are kept; None for 5, or all of a smaller vocabulary.
        lens: a tuned lens of this model; None for the logit lens. Where it was trained on this text, the result warns
            (`in_sample`).

    Returns:
        The log-probability of the token that follows, in nats, [layer, point, pos] (of several texts
        [layer, point, example, pos]), with its rank, the entropy, KL(final || lens), the top tokens, bits per
        character, and the depth at which the final top token settles; see `LensResult`. The softmax is the
        model's own and includes nanoGPT's padding of the vocabulary, if there is any.

    Raises:
        AnalysisError: there is no such point or layer, k is not from 1 to the vocabulary, the lens is another
            model's or lacks these points, or the text is empty or longer than the context.
        VocabularyError: the model's tokenizer cannot encode the text.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; KL and tuned lens: Belrose et al. 2023,
    "Eliciting Latent Predictions from Transformers with the Tuned Lens".
    """
    tokens = as_tokens(model, text)
    places = grid(model, points, layers)
    k = default_of(k, 5, int(model.cfg.d_vocab))
    check_whole(1, k=k)
    if k > model.cfg.d_vocab:
        raise AnalysisError(f"k is {k}; expected at most {model.cfg.d_vocab}, the model's vocabulary")
    check_lens(model, lens, places.depths)
    reading = read(model, tokens, places.depths, lens=lens, k=k)
    single = len(tokens) == 1
    return LensResult(
        axes=("layer", "point", "pos") if single else ("layer", "point", "example", "pos"),
        labels={**places.labels, **({"pos": token_labels(model, tokens[0])} if single else {})},
        quantity="log-probability of the next token, in nats",
        definition=(
            f"{'tuned lens' if lens else 'logit lens'}: the residual stream at a point"
            f"{', translated,' if lens else ''} through the model's own final norm and unembedding; KL(final || lens)"
        ),
        title="log-probability of the next token",
        method="tuned" if lens else "logit",
        sample=Sample(**seen_fields(model, tokens, lens)) if lens else None,
        provenance=provenance(model, points=places.points, layers=places.layers, k=k, lens=lens.home if lens else None),
        **_fields(reading, places, single),
        tokens=tokens[0] if single else tokens,
        bits_per_char=_bits_per_char(reading, places, characters(model, tokens)),
        strings=strings(
            model, torch.cat([reading.top_tokens.flatten(), tokens.cpu().flatten(), reading.final_tokens.flatten()])
        ),
    )


def _fields(reading: LensReading, places: LensPoints, single: bool) -> dict[str, Any]:
    """The result's fields with an axis "pos", on the grid; without the axis "example" for a single text."""
    columns = {"values": "log_prob"} | {n: n for n in ("rank", "entropy", "kl", "top_tokens", "top_logprobs")}
    on_grid = {name: places.on_grid(getattr(reading, column)) for name, column in columns.items()}
    depth = reading.settling_depth(places.depths, places.n_layers)
    per_text = {"final_tokens": reading.final_tokens, "depth": depth}
    if single:
        on_grid = {name: value[:, :, 0] for name, value in on_grid.items()}
        per_text = {name: value[0] for name, value in per_text.items()}
    return on_grid | per_text


def _bits_per_char(
    reading: LensReading, places: LensPoints, chars: Float[Tensor, " example"] | None
) -> Float[Tensor, "layer point"] | None:
    """The loss in bits per character of all texts together; None if `chars` is None."""
    if chars is None:
        return None
    bits = -reading.log_prob[:, :, :-1].double().sum((1, 2)) / math.log(2)
    return places.on_grid(bits / chars.sum())
