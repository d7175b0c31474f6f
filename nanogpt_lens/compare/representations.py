"""What is inside of two models on the same text: linear CKA of every point of the residual stream with every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.compare.cka import LEAST, Gram, cka, gram, in_random_order
from nanogpt_lens.compare.sampled import called, depth_labels, text_of_both
from nanogpt_lens.compare.vocabularies import shared_vocabulary
from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import LEVEL
from nanogpt_lens.lens.points import Point, grid, hook_of
from nanogpt_lens.model.access import Hooked, device_of, evaluating, provenance, record
from nanogpt_lens.results.lens import POINTS
from nanogpt_lens.results.representations import RepresentationSimilarity
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus
from nanogpt_lens.text.opened import OpenedCorpus


def compare_representations(
    a: Hooked,
    b: Hooked,
    corpus: Corpus,
    *,
    points: Sequence[Point] = POINTS,
    n: int = 1024,
    seq_len: int | None = None,
    reference: Hooked | None = None,
    permutations: int = 50,
    names: tuple[str, str] = ("a", "b"),
    reference_name: str = "reference",
    seed: int = 0,
    progress: bool = True,
) -> RepresentationSimilarity:
    """How similar the representations of two models are, point by point, on the same tokens.

    The rows are tokens at random positions, one of each of `n` windows that do not overlap, so that they are as
    independent as the text allows. See `nanogpt_lens.compare.cka` for the estimator. CKA does not change under
    rotation, shift and scale of all features, but hangs on the few directions along which they vary most, and on
    outliers; that two models agree in it does not say that they compute the same.

    Args:
        a, b: two models with the same tokens under the same ids, of any shapes.
        corpus: see `Corpus`.
        points: some of "resid_pre", "resid_mid", "resid_post", of every layer; equal ones are taken once.
        n: the largest number of rows; memory grows with its square, time too.
        seq_len: the tokens of a window; None for the smallest context, or as many as leave enough windows.
        reference: a third model, such as another seed, with which a is compared in the same way.
        permutations: how many random orders of rows say what chance gives.
        names: what the two are called.
        reference_name: what the third is called.
        seed: of the windows, positions and orders.
        progress: show a bar.

    Returns:
        CKA [point_a, point_b] with intervals, chance, p, and the reference; see `RepresentationSimilarity`.

    Raises:
        AnalysisError: vocabularies differ, the text has too few windows, or an option cannot be.
    """
    check_whole(LEAST, n=n)
    check_whole(1, permutations=permutations)
    check_whole(seed=seed)
    two = called(names)
    models = [a, b] if reference is None else [a, b, reference]
    for other in models[1:]:
        shared_vocabulary(a, other)
    asked = [_points(model, points) for model in models]
    drawn = _drawn(text_of_both(models, corpus), n, seq_len, seed)
    every = tqdm(list(zip(models, asked, strict=True)), desc="representations", delay=1, disable=not progress)
    grams = [[gram(rows) for rows in _rows(model, drawn, depths)] for model, depths in every]
    measured = cka(grams[0], grams[1])
    chance, largest, p = _chance(grams[0], grams[1], measured.values, permutations, seed)
    return RepresentationSimilarity(
        values=measured.values,
        low=measured.low,
        high=measured.high,
        chance=chance,
        chance_of_all=largest,
        p=p,
        interval="t",
        axes=("point_a", "point_b"),
        labels={f"point_{which}": depth_labels(depths) for which, depths in zip("ab", asked[:2], strict=True)},
        quantity="linear CKA of residual streams",
        definition=f"unbiased HSIC (Song et al. 2012) over {len(drawn.tokens)} tokens of {drawn.name}, one at a random "
        f"position of each window of {drawn.tokens.shape[1]}; intervals by the jackknife over these tokens; chance: "
        f"95% of {permutations} random orders of rows are below",
        title="CKA",
        names=two,
        n_rows=len(drawn.tokens),
        n_permutations=permutations,
        **({} if reference is None else _reference(grams[0], grams[2], asked[2], reference_name)),
        sample=Sample(corpus=drawn.name, n=len(drawn.tokens), seq_len=int(drawn.tokens.shape[1]), seed=seed),
        provenance=provenance(
            b,
            corpus=drawn.name,
            points=tuple(points),
            n=len(drawn.tokens),
            seq_len=int(drawn.tokens.shape[1]),
            permutations=permutations,
            seed=seed,
            names=two,
            models=[provenance(model) for model in models],
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """Windows of a text, and a position in each."""

    tokens: Int[Tensor, "example pos"]
    position: Int[Tensor, " example"]
    name: str


def _drawn(text: OpenedCorpus, n: int, seq_len: int | None, seed: int) -> _Drawn:
    """At most `n` windows; where nothing is said they are so short that there are `n`, but not below 16 tokens.

    Raises:
        AnalysisError: there are too few.
    """
    usual = max(min(16, text.n_ctx), text.room(n))
    length = text.room(1) if text.row_length is not None and seq_len is None else default_of(seq_len, usual, usual)
    check_whole(1, seq_len=length)
    text.check_all()
    tokens = text.windows(seq_len=length, n=n, seed=seed)
    if len(tokens) < LEAST:
        raise AnalysisError(
            f"{text.title} has {len(tokens)} windows of {length} tokens; expected at least {LEAST}, each of which "
            "gives one row: give a longer text, or a smaller seq_len"
        )
    generator = torch.Generator().manual_seed(seed + 1)
    position = torch.randint(length, (len(tokens),), generator=generator)
    return _Drawn(tokens=tokens, position=position, name=text.name)


def _rows(model: Hooked, drawn: _Drawn, depths: Sequence[int]) -> list[Float[Tensor, "row d_model"]]:
    """The residual stream at each depth, at the position drawn of each window."""
    names = [hook_of(depth, int(model.cfg.n_layers)) for depth in depths]
    parts: list[list[Float[Tensor, "row d_model"]]] = []
    with evaluating(model):
        for rows in batches(model, drawn.tokens):
            kept = record(model, drawn.tokens[rows].to(device_of(model)), names)
            places = drawn.position[rows]
            parts.append([kept[name].cpu()[torch.arange(len(places)), places] for name in names])
    return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def _points(model: Hooked, points: Sequence[Point]) -> tuple[int, ...]:
    """The depths of the points of every layer."""
    return grid(model, points, None).depths


def _chance(
    one: Sequence[Gram],
    other: Sequence[Gram],
    values: Float[Tensor, "one other"],
    n: int,
    seed: int,
) -> tuple[Float[Tensor, "one other"], float, Float[Tensor, "one other"]]:
    """What random orders stay below, cell by cell and in all cells, and p, corrected for all cells."""
    generator = torch.Generator().manual_seed(seed + 2)
    orders = torch.stack([torch.randperm(len(one[0].sums), generator=generator) for _ in range(n)])
    drawn = in_random_order(one, other, orders)
    largest = drawn.nan_to_num(-torch.inf).flatten(1).amax(1)
    p = (1 + (largest[:, None, None] >= values).sum(0)).double() / (n + 1)
    of_all = float(largest.quantile(LEVEL, interpolation="higher"))
    return drawn.quantile(LEVEL, 0, interpolation="higher"), of_all, p.masked_fill(values.isnan(), torch.nan)


def _reference(one: Sequence[Gram], third: Sequence[Gram], depths: Sequence[int], name: str) -> dict[str, Any]:
    """The fields of the comparison with a third model."""
    found = cka(one, third)
    return {
        "reference": found.values,
        "reference_low": found.low,
        "reference_high": found.high,
        "reference_points": depth_labels(depths),
        "reference_name": name,
    }
