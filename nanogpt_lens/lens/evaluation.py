"""How well a tuned lens predicts the output on text that it has not seen, for its own model or for another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import interval_fields
from nanogpt_lens.lens.points import LensPoints, Point, check_lens, grid
from nanogpt_lens.lens.reading import read, sequences
from nanogpt_lens.model.access import Hooked, provenance
from nanogpt_lens.results.lens import LensScores, TunedLens
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.text.corpus import Corpus, open_corpus


def evaluate_lens(
    model: Hooked,
    corpus: Corpus,
    lens: TunedLens,
    *,
    points: Sequence[Point] | None = None,
    layers: Sequence[int] | int | None = None,
    n: int = 64,
    seq_len: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> LensScores:
    """KL(final || lens) of a tuned lens beside the logit lens; for a transferred one also its loss of fit.

    Args:
        model: the model that the lens is for, or the one that it was loaded for with `transfer=True`.
        corpus: text that the lens was not trained on: a text, a file, or token ids. The result says
            (`seen_share`) how much of it the lens has seen, and warns where it has (`in_sample`).
        lens: the tuned lens.
        points, layers: as in `logit_lens`; None for those that the lens was trained with.
        n: the largest number of sequences.
        seq_len: the tokens of a sequence; None for the context.
        seed: the seed of the choice of sequences.
        progress: show a bar.

    Returns:
        Scores [score, layer, point] in nats: "tuned", "logit", "gain" (logit minus tuned, each sequence
        against itself); for a transferred lens also "home", the KL that it had on the held-out text of its own
        model, and "loss_of_fit", tuned minus home, on different text; 95% intervals over the sequences,
        that of "loss_of_fit" by adding both squared half-widths.

    Raises:
        AnalysisError: as for `measure_convergence`.

    Source: Belrose et al. 2023; transfer across models: their section 4.
    """
    if not isinstance(lens, TunedLens):
        raise AnalysisError(f"lens is a {type(lens).__name__}; expected a TunedLens")
    lens_layers = lens.labels.get("layer")
    places = grid(
        model,
        lens.labels["point"] if points is None else points,
        [int(layer) for layer in lens_layers] if layers is None and lens_layers else layers,
    )
    check_whole(0, seed=seed)
    check_lens(model, lens, places.depths)
    tokens = sequences(model, corpus, n=n, seq_len=seq_len, seed=seed)
    seen_share = open_corpus(model, corpus).share_seen(lens.trace)
    scores = scores_beside_logit_lens(model, tokens, places, lens, progress=progress)
    if lens.transferred:
        scores = _with_home(scores, lens, places)
    return LensScores(
        **scores,
        axes=("score", "layer", "point"),
        quantity="KL(final || lens), in nats",
        definition=(
            f"the tuned lens{', trained for another model,' if lens.transferred else ''} beside the logit lens on "
            f"{len(tokens)} sequences of {tokens.shape[1]} tokens"
        ),
        title="KL(final || lens)",
        sample=Sample(n=len(tokens), seq_len=tokens.shape[1], seed=seed, seen_share=seen_share, seen_by="the lens"),
        provenance=provenance(model, n=len(tokens), seq_len=tokens.shape[1], seed=seed, lens=lens.home),
    )


def scores_beside_logit_lens(
    model: Hooked, tokens: Int[Tensor, "example pos"], places: LensPoints, lens: TunedLens, *, progress: bool
) -> dict[str, Any]:
    """Values, low, high [score, layer, point] and labels of the scores "tuned", "logit" and "gain"."""
    tuned = read(model, tokens, places.depths, lens=lens, progress=progress).kl.double().mean(-1)
    logit = read(model, tokens, places.depths, progress=progress).kl.double().mean(-1)
    per_sequence = torch.stack([places.on_grid(score) for score in (tuned, logit, logit - tuned)])
    return {
        "values": per_sequence.mean(-1),
        **interval_fields(per_sequence),
        "labels": {"score": ("tuned", "logit", "gain"), **places.labels},
    }


def _with_home(scores: dict[str, Any], lens: TunedLens, places: LensPoints) -> dict[str, Any]:
    """The scores with "home" and "loss_of_fit" of a lens that was trained for another model."""
    place_of = {depth: (i, j) for i, row in enumerate(lens.depths()) for j, depth in enumerate(row)}
    index = [[place_of[depth] for depth in row] for row in places.on_grid(torch.tensor(places.depths)).tolist()]
    rows = torch.tensor([[i for i, _ in row] for row in index])
    columns = torch.tensor([[j for _, j in row] for row in index])
    k = lens.labels["score"].index("tuned")

    def home(tensor: Float[Tensor, "score lens_layer lens_point"]) -> Float[Tensor, "layer point"]:
        return tensor[k][rows, columns].double()

    value, tuned = home(lens.values), scores["values"][0]
    extended: dict[str, Any] = {
        "values": torch.cat([scores["values"], torch.stack([value, tuned - value])]),
        "labels": {**scores["labels"], "score": (*scores["labels"]["score"], "home", "loss_of_fit")},
        "low": None,
        "high": None,
        "interval": scores["interval"],
    }
    ends = scores["low"], scores["high"], lens.low, lens.high
    if all(end is not None for end in ends):
        low, high, home_low, home_high = ends[0], ends[1], home(lens.low), home(lens.high)  # type: ignore[arg-type]
        below = ((tuned - low[0]).square() + (home_high - value).square()).sqrt()
        above = ((high[0] - tuned).square() + (value - home_low).square()).sqrt()
        extended["low"] = torch.cat([low, torch.stack([home_low, tuned - value - below])])
        extended["high"] = torch.cat([high, torch.stack([home_high, tuned - value + above])])
    return extended
