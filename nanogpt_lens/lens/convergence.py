"""How a lens' predictions approach the output: KL, entropy and loss along the depth, on many sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.intervals import interval_fields, t_interval
from nanogpt_lens.lens.points import LensPoints, Point, check_lens, grid
from nanogpt_lens.lens.reading import LensReading, characters, read, seen_fields, sequences
from nanogpt_lens.model.access import Hooked, provenance
from nanogpt_lens.results.lens import POINTS, ConvergenceResult, TunedLens
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.text.corpus import Corpus

UNITS = {
    "kl": "nats",
    "entropy": "nats",
    "loss": "nats per token",
    "bits_per_char": "bits per character",
    "agreement": "share of positions",
    "converged": "share of positions",
}
SCORES = tuple(UNITS)


def measure_convergence(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    points: Sequence[Point] = POINTS,
    layers: Sequence[int] | int | None = None,
    n: int = 64,
    seq_len: int | None = None,
    seed: int = 0,
    lens: TunedLens | None = None,
    progress: bool = True,
) -> ConvergenceResult:
    """How far each point is from the output, and the depth from which on the final top token stays on top.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        corpus: a text, a file, or token ids; None for text drawn from the model itself.
        points, layers: as in `logit_lens`.
        n: the largest number of sequences.
        seq_len: the tokens of a sequence, at least 2; None for the context.
        seed: the seed of the choice of sequences.
        lens: a tuned lens of this model; None for the logit lens. Where it was trained on this text, the result warns
            (`in_sample`).
        progress: show a bar.

    Returns:
        Scores [score, layer, point]: "kl", KL(final || lens) in nats; "entropy" in nats; "loss" of the next
        token in nats; "bits_per_char" (nan without a vocabulary); "agreement", the share of positions whose
        top token is the final one; "converged", the share of positions for which that holds here and at all later
        points asked for; with 95% intervals over the sequences. `chance` is the constant prediction:
        the model's own distribution, averaged over all these positions. `depth` [example, pos] is the depth, in
        layers, at which the final top token settles.

    Raises:
        AnalysisError: as for `logit_lens`; the corpus is shorter than one sequence; or `n`, `seq_len` or `seed` is
            no whole number.

    Source: Belrose et al. 2023 (KL, entropy); Schuster et al. 2022, "Confident Adaptive Language
    Modeling" and Din et al. 2023, "Jump to Conclusions" (the depth at which the top token settles).
    """
    places = grid(model, points, layers)
    check_whole(0, seed=seed)
    check_lens(model, lens, places.depths)
    tokens = sequences(model, corpus, n=n, seq_len=seq_len, seed=seed)
    reading = read(model, tokens, places.depths, lens=lens, progress=progress)
    drawn: dict[str, Any] = {"own_text": corpus is None, "n": len(tokens), "seq_len": tokens.shape[1], "seed": seed}
    chars = characters(model, tokens)
    per_sequence = _per_sequence(reading, places, chars)
    depth = reading.settling_depth(places.depths, places.n_layers)
    settled = t_interval(depth.double().mean(1))
    return ConvergenceResult(
        values=per_sequence.mean(-1),
        axes=("score", "layer", "point"),
        labels={"score": SCORES, **places.labels},
        quantity="KL, entropy and loss in nats; bits per character; shares of positions",
        definition=(
            f"{'tuned' if lens else 'logit'} lens against the model's own output, means over {len(tokens)} sequences "
            f"of {tokens.shape[1]} tokens {'drawn from the model' if corpus is None else 'of the corpus'} and their "
            "positions; chance: the model's mean distribution, whatever the text"
        ),
        title="convergence",
        method="tuned" if lens else "logit",
        units=UNITS,
        sample=Sample(**drawn, **seen_fields(model, tokens if corpus is None else corpus, lens)),
        provenance=provenance(
            model, points=places.points, layers=places.layers, lens=lens.home if lens else None, **drawn
        ),
        chance=repeat(
            _scores_of_constant(reading, tokens, chars),
            "score -> score layer point",
            layer=per_sequence.shape[1],
            point=per_sequence.shape[2],
        ).clone(),
        **interval_fields(per_sequence),
        depth=depth,
        tokens=tokens,
        n_layers=places.n_layers,
        depth_low=float(settled[0]) if settled else None,
        depth_high=float(settled[1]) if settled else None,
    )


def _per_sequence(
    reading: LensReading, places: LensPoints, chars: Float[Tensor, " example"] | None
) -> Float[Tensor, "score layer point example"]:
    """Every score of every sequence."""
    loss = -reading.log_prob[:, :, :-1].double()
    bits = torch.full(loss.shape[:2], torch.nan, dtype=torch.float64)
    if chars is not None:  # divided by the mean length, so that each sequence counts by its characters
        bits = loss.sum(-1) / math.log(2) / chars.double().mean()
    depths = torch.tensor(places.depths)[:, None, None] / 2
    settled = reading.settling_depth(places.depths, places.n_layers)
    scores = [
        reading.kl.double().mean(-1),
        reading.entropy.double().mean(-1),
        loss.mean(-1),
        bits,
        (reading.top_tokens[..., 0] == reading.final_tokens).double().mean(-1),
        (settled <= depths).double().mean(-1),
    ]
    return torch.stack([places.on_grid(score) for score in scores])


def _scores_of_constant(
    reading: LensReading, tokens: Int[Tensor, "example pos"], chars: Float[Tensor, " example"] | None
) -> Float[Tensor, " score"]:
    """The scores of the constant prediction `final_mean`."""
    logp = reading.final_mean.clamp(min=torch.finfo(torch.float64).tiny).log()
    entropy = -(reading.final_mean * logp).sum()
    nats = -logp[tokens[:, 1:].cpu()]
    bits = nats.sum() / math.log(2) / chars.double().sum() if chars is not None else torch.tensor(math.nan)
    hits = (reading.final_tokens == logp.argmax()).double().mean()
    return torch.stack([entropy - reading.final_entropy.double().mean(), entropy, nats.mean(), bits, hits, hits])
