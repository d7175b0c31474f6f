"""How good a sparse autoencoder is: how sparse, how faithful, and what the model loses by it.

Three questions, on text that it was not trained on: how much of the activation's variance it
explains with how many features, how much of the model's loss is recovered when its reconstruction
takes the activation's place, and how many features never fire. Each number stands beside that of a
control: random directions in place of the learned ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.interventions.applying import edits_of
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.interventions.sites import kind_of
from nanogpt_lens.interventions.sources import RunningMean
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.model.access import (
    Hooked,
    device_of,
    evaluating,
    loss_per_token,
    next_token_loss,
    provenance,
    record,
)
from nanogpt_lens.results.sae import SAEEvaluation
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.reading import Reader
from nanogpt_lens.sae.training import autoencoder_units, features_and_reconstruction, sae_lens, seeded
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.seen import text_to_trace
from nanogpt_lens.text.sequences import Sequences

SCORES = (
    "l0",
    "explained_variance",
    "cosine",
    "loss_clean",
    "loss_sae",
    "loss_zero",
    "loss_mean",
    "recovered_zero",
    "recovered_mean",
    "dead",
)

_DEFINITION = (
    "l0: active features per token; explained_variance: 1 - sum |x - r|^2 / sum |x - mean x|^2 over all tokens (also "
    "SAELens' explained_variance); cosine: of x and reconstruction r, mean over tokens; losses: nats per token with x "
    "as it is, r, 0, or the mean x of these tokens in its place; recovered_zero, recovered_mean: (ablated - sae) / "
    "(ablated - clean); dead: share of features that are active on none of these tokens. chance: {d_sae} random "
    "directions, the {k} with the largest projection of x - mean x, one common factor fitted by least squares"
)


def evaluate_sae(
    model: Hooked,
    corpus: Corpus,
    sae: Any,
    *,
    n: int = 256,
    seq_len: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SAEEvaluation:
    """The quality of an autoencoder on windows of a text.

    Args:
        model: the model (TransformerLens 3).
        corpus: text that it was not trained on; of a `TextData` or a data folder the validation part. The
            result says (`in_sample`, `seen_share`) where it has been trained on it, whole or in part.
        sae: any autoencoder of SAELens that reads one activation of the model.
        n: the largest number of windows, one drawn from each of equal stretches of the corpus.
        seq_len: the tokens of a window; None for the model's context.
        seed: the seed of the draw and the control.
        progress: show a bar.

    Returns:
        Values [score], named by `SCORES`: `result.score("explained_variance")`. `low` and `high` are 95%
        intervals over the windows (of ratios, by their linearisation; nan for `dead`), given this model and
        autoencoder. `chance` is the control: as many random directions, as many of them active, about the same
        mean, and one factor for all activations fitted on the first windows. `frequency` is how often each feature
        is active.

    Raises:
        AnalysisError: SAELens is missing or does not fit, an autoencoder that does not fit the model, a corpus
            that is shorter than two windows, activations that are not finite.

    Source: Gao et al. 2024 (TopK, loss recovered); Bricken et al. 2023 (density of features); Karvonen et al. 2025,
        "SAEBench" (against which ablation the loss is recovered matters).
    """
    sae_lens()
    units = autoencoder_units(model, sae)
    name = units.names[0]
    check_whole(2, n=n)
    check_whole(seed=seed)
    text = open_corpus(model, corpus)
    sequences = text.sequences(seq_len=max(2, text.room(2)) if seq_len is None else seq_len)
    tokens = _windows(sequences, n, seed).to(device_of(model))
    chunks = tokens.split(sequences.batch_size)
    with evaluating(model):
        mean, l0 = _first_pass(model, name, sae, chunks)
        if not bool(mean.isfinite().all()):
            raise AnalysisError(f"some activations at {name} are not finite; the model overflows on this text")
        k = min(max(1, round(l0)), units.n_units)
        first = record(model, chunks[0], units.names)[name]
        control = _control(sae, first, mean, k=k, seed=seed)
        bar = tqdm(chunks, desc="autoencoder", delay=1, disable=not progress, unit="batch")
        parts = [_sums(model, units, {"sae": sae, "control": control}, mean, chunk) for chunk in bar]
    sums = {key: torch.cat([part[key] for part in parts], -1) for key in parts[0]}
    over_parts = "(part feature) -> part feature"
    fired = {who: rearrange(sums.pop(f"{who}/fired"), over_parts, part=len(parts)).sum(0) for who in ("sae", "control")}
    values, low, high = _scores(sums, "sae", fired["sae"])
    chance, _, _ = _scores(sums, "control", fired["control"])
    seen_share = text.share_seen(_trace(sae))
    drawn: dict[str, Any] = {"n": len(tokens), "seq_len": tokens.shape[1], "seed": seed}
    return SAEEvaluation(
        values=values,
        low=low,
        high=high,
        interval="t",
        chance=chance,
        frequency=fired["sae"] / tokens.numel(),
        n_tokens=tokens.numel(),
        axes=("score",),
        labels={"score": SCORES},
        quantity=f"quality of {units.n_units} features at {name}",
        definition=f"{len(tokens)} windows of {tokens.shape[1]} tokens of {sequences.name}; "
        + _DEFINITION.format(d_sae=units.n_units, k=k),
        sample=Sample(
            corpus=sequences.name, n_tokens=tokens.numel(), seen_share=seen_share, seen_by="the autoencoder", **drawn
        ),
        provenance=provenance(
            model,
            corpus=sequences.name,
            **drawn,
            sae=units.autoencoder,
            hook_name=name,
            trained_on={key: sae.cfg.metadata[key] for key in ("checkpoint_sha256", "corpus", "training_tokens")},
        ),
    )


def _trace(sae: Any) -> Int[Tensor, " hash"] | None:
    """The trace of the text that an autoencoder was trained on; None where it does not say."""
    kept = sae.cfg.metadata.corpus_trace
    return None if kept is None else text_to_trace(kept)


def _windows(sequences: Sequences, n: int, seed: int) -> Int[Tensor, "example pos"]:
    """At most `n` sequences of a corpus, drawn at random.

    Raises:
        AnalysisError: there are not two sequences, or they have one token.
    """
    if sequences.n_tokens < 2 * sequences.seq_len or sequences.seq_len < 2:
        raise AnalysisError(
            f"{sequences.name} has {sequences.n_tokens} tokens; expected at least two windows of {sequences.seq_len} "
            "tokens, and windows of at least 2: give a longer text, or another seq_len"
        )
    tokens, _ = sequences.drawn(n, seed=seed)
    return tokens


def _first_pass(
    model: Hooked, name: str, sae: Any, chunks: Sequence[Int[Tensor, "_ pos"]]
) -> tuple[Float[Tensor, " d_in"], float]:
    """The mean activation in float64, and the active features per token."""
    reader = Reader(model, [name])
    mean = RunningMean()
    active: list[float] = []

    def see(_: int, activation: Float[Tensor, "example pos ..."]) -> None:
        mean.add(activation.flatten(2))
        active.append(float((features_and_reconstruction(sae, activation)[0] != 0).sum()))

    for chunk in chunks:
        reader(chunk, see)
    count = sum(chunk.numel() for chunk in chunks)
    return mean.mean, sum(active) / count


def _control(
    sae: Any, activation: Float[Tensor, "example pos ..."], mean: Float[Tensor, " d_in"], *, k: int, seed: int
) -> Any:
    """A TopK autoencoder of random unit directions, scaled so that it fits the activation best."""
    library = sae_lens()
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(sae.W_dec.shape, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=-1, keepdim=True)
    config = library.TopKSAEConfig(
        d_in=directions.shape[1], d_sae=len(directions), k=k, dtype=sae.cfg.dtype, device=str(sae.device)
    )
    with seeded(seed, sae.device):
        control = library.TopKSAE(config)
    control.W_enc.data.copy_(directions.T)
    control.W_dec.data.copy_(directions)
    control.b_dec.data.copy_(mean)
    centred = activation.flatten(2).double() - mean
    rebuilt = features_and_reconstruction(control, activation.flatten(2))[1].double() - mean
    control.W_dec.data *= float((centred * rebuilt).sum() / rebuilt.square().sum().clamp_min(1e-30))
    return control


def _sums(
    model: Hooked,
    units: Units,
    autoencoders: Mapping[str, Any],
    mean: Float[Tensor, " d_in"],
    tokens: Int[Tensor, "example pos"],
) -> dict[str, Float[Tensor, " example"] | Float[Tensor, " feature"]]:
    """By name each example's sum or mean of each quantity, and how often each feature is active; in float64."""
    name = units.names[0]
    run = record(model, tokens, [name])
    activation = run[name]
    x = activation.flatten(2).double()

    def loss(source: Source, values: SourceValues) -> Float[Tensor, " example"]:
        one = Intervention(kind_of(units.activation).name, layer=units.layers[0], source=source)
        return loss_per_token(model, tokens, edits_of(model, [one], values)).double().mean(1)

    sums = {
        "variance": (x - mean).square().sum((1, 2)),
        "loss_clean": next_token_loss(run["logits"], tokens).double().mean(1),
        "loss_zero": loss("zero", SourceValues()),
        "loss_mean": loss("mean", SourceValues(mean={name: mean.view(activation.shape[2:])})),
    }
    for who, sae in autoencoders.items():
        features, rebuilt = features_and_reconstruction(sae, activation.flatten(2) if who == "control" else activation)
        active = features != 0
        r = rebuilt.flatten(2).double()
        sums |= {
            f"{who}/l0": active.sum(-1).double().mean(1),
            f"{who}/error": (x - r).square().sum((1, 2)),
            f"{who}/cosine": torch.cosine_similarity(x, r, dim=-1).mean(1),
            f"{who}/loss": loss("other", SourceValues(other={name: rebuilt.view_as(activation)})),
            f"{who}/fired": active.sum((0, 1)).double(),
        }
    return {key: value.cpu() for key, value in sums.items()}


def _scores(
    sums: Mapping[str, Float[Tensor, " example"]], who: str, fired: Float[Tensor, " feature"]
) -> tuple[Float[Tensor, " score"], Float[Tensor, " score"], Float[Tensor, " score"]]:
    """The scores and both ends of their intervals, from the sums of each window."""
    loss = sums[f"{who}/loss"]
    per_window = [
        sums[f"{who}/l0"],
        1 - ratio_per_example(sums[f"{who}/error"], sums["variance"]),
        sums[f"{who}/cosine"],
        sums["loss_clean"],
        loss,
        sums["loss_zero"],
        sums["loss_mean"],
        *(
            ratio_per_example(ablated - loss, ablated - sums["loss_clean"])
            for ablated in (sums["loss_zero"], sums["loss_mean"])
        ),
    ]
    rows = torch.stack(per_window)
    interval = t_interval(rows)
    assert interval is not None  # there are at least two windows
    none = torch.full((1,), torch.nan, dtype=rows.dtype)
    dead = (fired == 0).double().mean()[None]
    low, high = (torch.cat([end, none]) for end in interval)
    return torch.cat([rows.mean(-1), dead]), low, high
