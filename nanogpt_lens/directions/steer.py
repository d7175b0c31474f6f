"""Steering: add a direction to the residual stream while the model runs, and measure what that does.

A direction that steers should do more than a random one of the same length, which is the control.

Source: Turner et al. 2023, "Activation Addition: Steering Language Models Without Optimization".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import interval_fields
from nanogpt_lens.directions.find import as_direction
from nanogpt_lens.interventions.applying import apply, edits_of
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.interventions.units import checked_layers
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.model.access import (
    Hooked,
    check_model,
    evaluating,
    kl,
    log_probs,
    n_tokens,
    next_token_loss,
    provenance,
    run,
    single_token,
    token_labels,
)
from nanogpt_lens.model.weights import centred
from nanogpt_lens.results.effects import SteeringEffect
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, open_corpus

Stream: TypeAlias = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
"""The activation that the direction is added to."""


@contextmanager
def steer(
    model: Hooked,
    direction: Tensor | Sequence[float],
    *,
    layer: int,
    activation: Stream = "resid_post",
    scale: float = 1.0,
    positions: Sequence[int] | int | None = None,
) -> Iterator[Hooked]:
    """Add `scale * direction` to the residual stream of every run while the context is open.

        with ngl.steer(model, direction, layer=1, scale=4.0):
            print(ngl.generate(model, "ROMEO:"))

    Everything that runs the model's hook points is steered: calling it, `run_with_cache`, `ngl.generate`. The hook
    is gone afterwards, also after an exception. (Tools that read a corpus with `engine="auto"` see it, too.)

    Args:
        model: the model.
        direction: the direction [d_model], which is not normalised.
        layer: the layer.
        activation: the activation of the layer that the direction is added to.
        scale: the number that multiplies the direction; negative to steer away from it.
        positions: the positions in the tokens of each run, negative ones from the end; None for all. While
            generating past the context, the oldest tokens are dropped and positions count from the oldest left.

    Yields:
        the model.

    Raises:
        AnalysisError: `direction` is no direction of the model, there is no such layer or activation, or the scale
            is not finite; while the model runs: the text has no such position.
    """
    vector = _vector(model, direction, scale)
    _hook_name(model, layer, activation)  # raises AnalysisError unless it is one of the streams
    with apply(model, _addition(activation, layer, vector, scale, positions)):
        yield model


def steering_effect(
    model: Hooked,
    corpus: Corpus | None,
    direction: Tensor | Sequence[float],
    *,
    layer: int,
    activation: Stream = "resid_post",
    scales: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    tokens: Sequence[str | int] = (),
    controls: int = 10,
    seq_len: int | None = None,
    n: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> SteeringEffect:
    """What adding a direction at all positions changes, by scale, beside random directions of the same length.

    Args:
        model: the model.
        corpus: the text whose windows are drawn, see `nanogpt_lens.text.corpus.Corpus`; None for text drawn from
            the model itself.
        direction: the direction [d_model], which is not normalised.
        layer, activation: the layer, and the activation in it that the direction is added to.
        scales: the numbers that multiply the direction.
        tokens: the tokens whose probability is followed: ids, or strings of one token.
        controls: the number of random directions, centred over d_model, as long as the direction is when centred;
            0 for none.
        seq_len: the tokens of a sequence; None for the model's context.
        n: the largest number of sequences.
        seed: the seed of the sequences and of the random directions.
        progress: show a bar.

    Returns:
        Values [scale, score]. `score` is "loss" (nats per token), "loss rise", "kl" (KL(unsteered || steered) in nats)
        and for each of `tokens` "p(...)", its mean probability, and "p(...) change"; means over all positions
        (losses: all that have a next token). Intervals are over the sequences; `chance` is the mean
        over the random directions, see `SteeringEffect` for all of them.

    Raises:
        AnalysisError: as for `steer`; or there are no scales, or no such token.
    """
    check_whole(seed=seed, controls=controls)
    vector = _vector(model, direction, 1.0)
    name = _hook_name(model, layer, activation)
    factors = tuple(scales) if isinstance(scales, Sequence) else ()
    if not factors or not all(_is_number(scale) for scale in factors):
        raise AnalysisError(f"scales is {scales!r}; expected finite numbers, at least one")
    ids = [_token(model, token) for token in tokens]
    opened = open_corpus(model, corpus)
    seq_len = opened.room() if seq_len is None else seq_len
    check_whole(2, seq_len=seq_len)
    text = opened.windows(seq_len=seq_len, n=n, seed=seed)
    directions = [vector, *_random_directions(vector, controls, seed)]
    grid = [[_addition(activation, layer, one, scale) for scale in factors] for one in directions]
    per_sequence = _scores_under(model, text, grid, ids, progress)
    means = per_sequence.mean(-1)
    texts = [repr(label) for label in token_labels(model, torch.tensor(ids, dtype=torch.long))]
    scores = ["loss", "loss rise", "kl", *(s for t in texts for s in (f"p({t})", f"p({t}) change"))]
    others = means[1:]
    return SteeringEffect(
        values=means[0],
        **interval_fields(per_sequence[0]),
        chance=others.mean(0) if controls else None,
        chance_low=others.amin(0) if controls else None,
        chance_high=others.amax(0) if controls else None,
        controls=others if controls else None,
        scales=tuple(float(scale) for scale in factors),
        axes=("scale", "score"),
        labels={"scale": tuple(f"{scale:g}" for scale in factors), "score": tuple(scores)},
        quantity="nats per token; p: probabilities",
        definition=f"scale * direction (length {float(vector.norm()):.4g}) added everywhere at {name}; chance: mean "
        f"over {controls} random directions of the same length",
        units={name: "probability" for name in scores if name.startswith("p(")},
        sample=Sample(own_text=corpus is None, n=len(text), seq_len=seq_len, seed=seed),
        provenance=provenance(
            model,
            corpus="own text" if corpus is None else type(corpus).__name__,
            layer=layer,
            activation=activation,
            scales=list(factors),
            tokens=ids,
            controls=controls,
            seq_len=seq_len,
            n=len(text),
            seed=seed,
        ),
    )


def _addition(
    activation: Stream, layer: int, direction: Float[Tensor, " d_model"], scale: float, pos: Any = None
) -> Intervention:
    """The intervention that adds a direction."""
    return Intervention(activation, layer=layer, pos=pos, source={"add": direction, "scale": scale})


def _scores_under(
    model: Hooked,
    text: Int[Tensor, "example pos"],
    grid: Sequence[Sequence[Intervention]],
    ids: Sequence[int],
    progress: bool,
) -> Float[Tensor, "direction scale score example"]:
    """Each sequence's scores under each intervention of the grid of directions and scales."""
    edits = [edits_of(model, [one], SourceValues()) for row in grid for one in row]
    parts = []
    total = len(text) * (1 + len(edits))
    with evaluating(model), tqdm(total=total, unit="sequence", desc="steering", delay=1, disable=not progress) as bar:
        for rows in batches(model, text):
            tokens = text[rows]
            plain = run(model, tokens)
            loss = next_token_loss(plain, tokens).mean(-1)
            before = log_probs(plain)
            scores = []
            for edit in edits:
                logits = run(model, tokens, edit)
                after = log_probs(logits)
                steered_loss = next_token_loss(logits, tokens).mean(-1)
                columns = [steered_loss, steered_loss - loss, kl(before, after).mean(-1)]
                for i in ids:
                    p = after[..., i].exp().mean(-1)
                    columns += [p, p - before[..., i].exp().mean(-1)]
                scores.append(torch.stack(columns))
                bar.update(len(tokens))
            bar.update(len(tokens))
            parts.append(torch.stack(scores).double().cpu())
    scores_of_all = "(direction scale) score example -> direction scale score example"
    return rearrange(torch.cat(parts, -1), scores_of_all, direction=len(grid))


def _random_directions(vector: Float[Tensor, " d_model"], n: int, seed: int) -> list[Float[Tensor, " d_model"]]:
    """Random directions, centred, as long as the direction is when centred."""
    noise = torch.randn(n, len(vector), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    noise = centred(noise, 1).to(vector.device)
    return list(noise / noise.norm(dim=1, keepdim=True) * centred(vector, 0).norm())


def _vector(model: Hooked, direction: Tensor | Sequence[float], scale: float) -> Float[Tensor, " d_model"]:
    """The direction in float64; AnalysisError unless model, direction and scale are what `steer` expects."""
    check_model(model)
    if not _is_number(scale):
        raise AnalysisError(f"scale is {scale!r}; expected a finite number")
    return as_direction(model, direction)


def _hook_name(model: Hooked, layer: int, activation: str) -> str:
    """The name of the hook point; AnalysisError unless the layer is one, and the activation one of `Stream`."""
    check_choice(Stream, activation=activation)
    return f"blocks.{checked_layers(model, [layer])[0]}.hook_{activation}"


def _is_number(value: Any) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _token(model: Hooked, token: str | int) -> int:
    """The id of a token; AnalysisError unless the model has it."""
    if isinstance(token, str):
        return single_token(model, token, "the token")
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < n_tokens(model):
        raise AnalysisError(
            f"there is no token {token!r}; expected 0 to {n_tokens(model) - 1}, or a string of one token"
        )
    return token
