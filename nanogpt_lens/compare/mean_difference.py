"""The mean difference of activations through the lens: which tokens it speaks for.

Of two models with one start, such as a model and itself trained further, the residual streams have a basis in common,
and b's less a's is a direction. Its mean over ordinary texts, at the first positions above all, has been found to tell
what a model was trained on further. Where two models do not share a start, a difference of their activations means
nothing: who calls this has to know that they do.

Source: Minder et al. 2025, "Narrow Finetuning Leaves Clearly Readable Traces in Activation Differences" (the
Activation Difference Lens), arXiv 2510.13900.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.compare.sampled import called, depth_labels, text_of_both
from nanogpt_lens.compare.vocabularies import shared_vocabulary
from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import LEVEL
from nanogpt_lens.lens.points import Point, grid, hook_of
from nanogpt_lens.model.access import Hooked, device_of, evaluating, provenance, record
from nanogpt_lens.model.weights import unembedding
from nanogpt_lens.results.lens import POINTS
from nanogpt_lens.results.mean_difference import ALL, MeanDifference
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus

FIRST = 5
"""How many first positions are looked at, each by itself."""

SPLITS = 40
_LEAST = 4


def mean_difference_lens(
    a: Hooked,
    b: Hooked,
    corpus: Corpus,
    *,
    points: Sequence[Point] = POINTS,
    k: int = 10,
    n: int = 256,
    seq_len: int | None = None,
    names: tuple[str, str] = ("a", "b"),
    seed: int = 0,
    progress: bool = True,
) -> MeanDifference:
    """The mean of b's residual stream less a's at each point, and the tokens that it promotes and suppresses.

    The difference is read as the lens reads a small change of the stream: centred, divided by the mean scale of the
    reader's final norm on the stream at this point, times its weight, through its unembedding.

    Args:
        a, b: two models of one width and depth that share a start, with the same tokens.
        corpus: see `Corpus`; texts that have nothing to do with what b was trained on say most.
        points: some of "resid_pre", "resid_mid", "resid_post", of every layer; equal ones are taken once.
        k: how many tokens are kept, each way.
        n: the largest number of texts, windows of the corpus.
        seq_len: the tokens of each; None for the smaller context, or as many as leave enough windows.
        names: what the two are called.
        seed: of the windows, and of the halves of the control.
        progress: show a bar.

    Returns:
        The norm of the mean difference over the mean norm of a's stream [point, position], beside what two halves of
        the texts give in a, and tokens; see `MeanDifference`.

    Raises:
        AnalysisError: the models differ in width, depth or vocabulary, the text is too short, an option cannot be.
    """
    check_whole(1, k=k)
    check_whole(_LEAST, n=n)
    check_whole(seed=seed)
    two = called(names)
    vocabulary = shared_vocabulary(a, b)
    _check_shapes(a, b)
    if k > vocabulary.size:
        raise AnalysisError(f"k is {k}; expected at most {vocabulary.size}, the tokens of the vocabulary")
    depths = grid(a, points, None).depths
    text = text_of_both((a, b), corpus)
    length = default_of(seq_len, max(min(16, text.n_ctx), text.room(n)), text.n_ctx)
    length = text.room() if text.row_length is not None and seq_len is None else length
    text.check_all()
    tokens = text.windows(seq_len=length, n=n, seed=seed)
    if len(tokens) < _LEAST:
        raise AnalysisError(
            f"{text.title} has {len(tokens)} windows of {length} tokens; expected at least {_LEAST}, two in each half: "
            "give a longer text, or a smaller seq_len"
        )
    every = tqdm((a, b), desc="mean difference", delay=1, disable=not progress)
    streams = [_of_texts(model, tokens, depths) for model in every]
    return MeanDifference(
        **_fields(a, b, streams[0], streams[1], k, vocabulary.size, seed),
        axes=("point", "position"),
        labels={"point": depth_labels(depths), "position": (*map(str, range(min(FIRST, length))), ALL)},
        quantity="norm of the mean difference of residual streams, as a share of the norm of a's",
        definition=f"mean of b less a over {len(tokens)} texts of {length} tokens of {text.name}, at the first "
        f"positions and over all (Minder et al. 2025); control: the means of a on two halves of the texts, "
        f"{round(100 * LEVEL)}% of {SPLITS} random splits are below",
        title="mean difference",
        names=two,
        n_texts=len(tokens),
        vocabulary=vocabulary.tokens,
        sample=Sample(corpus=text.name, n=len(tokens), seq_len=length, seed=seed),
        provenance=provenance(
            b,
            corpus=text.name,
            points=tuple(points),
            k=k,
            n=len(tokens),
            seq_len=length,
            seed=seed,
            names=two,
            models=[provenance(a), provenance(b)],
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Streams:
    """A model's residual stream on texts, in float64.

    Attributes:
        mean: of each text: at its first positions, and over all.
        norm: the mean over texts of its norm.
        scale: the mean of what a final norm would divide it by.
    """

    mean: Float[Tensor, "example point position d_model"]
    norm: Float[Tensor, "point position"]
    scale: Float[Tensor, "point position"]


def _of_texts(model: Hooked, tokens: Int[Tensor, "example pos"], depths: Sequence[int]) -> _Streams:
    """The stream of a model on texts, batch by batch."""
    names = [hook_of(depth, int(model.cfg.n_layers)) for depth in depths]
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(model):
        for rows in batches(model, tokens):
            kept = record(model, tokens[rows].to(device_of(model)), names)
            each = [_summaries(kept[name].double().cpu(), float(model.cfg.eps)) for name in names]
            parts.append(tuple(torch.stack(of, 1) for of in zip(*each, strict=True)))  # type: ignore[arg-type]
    mean, norm, scale = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return _Streams(mean=mean, norm=norm.mean(0), scale=scale.mean(0))


def _summaries(
    stream: Float[Tensor, "example pos d_model"], eps: float
) -> tuple[
    Float[Tensor, "example position d_model"], Float[Tensor, "example position"], Float[Tensor, "example position"]
]:
    """The stream, its norm and its scale, each at the first positions and as the mean over all."""
    norm = stream.norm(dim=-1)
    scale = (stream.var(-1, correction=0) + eps).sqrt()
    return tuple(torch.cat([t[:, :FIRST], t.mean(1, keepdim=True)], 1) for t in (stream, norm, scale))  # type: ignore[return-value]


def _fields(a: Hooked, b: Hooked, one: _Streams, other: _Streams, k: int, n_vocab: int, seed: int) -> dict[str, Any]:
    """The fields of the result that are measured."""
    difference = (other.mean - one.mean).mean(0)
    halves = _halves(one.mean, seed)
    logits, controls = [], []
    for model, streams in ((a, one), (b, other)):
        readout = unembedding(model)[:, :n_vocab].cpu()
        logits.append(difference @ readout / streams.scale[..., None])
        largest = torch.stack([(half @ readout).abs().amax(-1) / streams.scale for half in halves])
        controls.append(_upper(largest))
    read = torch.stack(logits)
    high, low = read.topk(k, dim=-1), read.topk(k, dim=-1, largest=False)
    return {
        "values": difference.norm(dim=-1) / one.norm,
        "control": _upper(halves.norm(dim=-1)) / one.norm,
        "control_logit": torch.stack(controls),
        "promoted": high.indices,
        "promoted_logits": high.values,
        "suppressed": low.indices,
        "suppressed_logits": low.values,
    }


def _halves(
    texts: Float[Tensor, "example point position d_model"], seed: int
) -> Float[Tensor, "split point position d_model"]:
    """The mean over one half of the texts less that over the other, for random halves."""
    generator = torch.Generator().manual_seed(seed + 1)
    n = len(texts)
    signs = torch.zeros(SPLITS, n, dtype=torch.float64)
    for i in range(SPLITS):
        order = torch.randperm(n, generator=generator)
        signs[i, order[: n // 2]], signs[i, order[n // 2 :]] = 1 / (n // 2), -1 / (n - n // 2)
    return torch.einsum("se,epqd->spqd", signs, texts)


def _upper(values: Float[Tensor, "split point position"]) -> Float[Tensor, "point position"]:
    """What 95 of 100 are below."""
    return values.quantile(LEVEL, 0, interpolation="higher")


def _check_shapes(a: Hooked, b: Hooked) -> None:
    """Raise AnalysisError unless both models have one width and as many layers."""
    for what, name in (("d_model", "width"), ("n_layers", "number of layers")):
        one, other = (int(getattr(model.cfg, what)) for model in (a, b))
        if one != other:
            raise AnalysisError(
                f"the {name} is {one} in a and {other} in b; expected the same: a difference of activations needs a "
                "basis in common, which only models with one start have"
            )
