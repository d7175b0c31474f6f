"""What a lens reads at some points of some texts, chunk by chunk, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.lens.points import readout, residuals
from nanogpt_lens.model.access import Hooked, evaluating, kl, log_probs, n_tokens, token_labels
from nanogpt_lens.results.lens import TunedLens
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, open_corpus

_NUMBERS, _ROWS = 2**22, 512
"""About how many logits a chunk has; and its rows at least, where the vocabulary is large."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LensReading:
    """What a lens reads, on the CPU.

    Attributes:
        log_prob: the log-probability of the token that follows, in nats; nan at the last position.
        rank: the number of tokens with a larger logit than that one; -1 at the last position.
        entropy: the entropy of the lens' distribution, in nats.
        kl: KL(final || lens), in nats.
        top_tokens, top_logprobs: the most likely tokens and their log-probabilities.
        final_tokens: the model's own most likely token.
        final_entropy: the entropy of the model's own distribution, in nats.
        final_mean: the model's own distribution, averaged over all examples and positions.
    """

    log_prob: Float[Tensor, "depth example pos"]
    rank: Int[Tensor, "depth example pos"]
    entropy: Float[Tensor, "depth example pos"]
    kl: Float[Tensor, "depth example pos"]
    top_tokens: Int[Tensor, "depth example pos k"]
    top_logprobs: Float[Tensor, "depth example pos k"]
    final_tokens: Int[Tensor, "example pos"]
    final_entropy: Float[Tensor, "example pos"]
    final_mean: Float[Tensor, " d_vocab"]

    def settling_depth(self, depths: Sequence[int], n_layers: int) -> Float[Tensor, "example pos"]:
        """The first of these depths from which on the final top token is on top, in layers."""
        settled = torch.full(self.final_tokens.shape, float(n_layers), dtype=torch.float64)
        staying = torch.ones_like(self.final_tokens, dtype=torch.bool)
        for i in reversed(range(len(depths))):
            if depths[i] < 2 * n_layers:
                staying = staying & (self.top_tokens[i, ..., 0] == self.final_tokens)
                settled[staying] = depths[i] / 2
        return settled


def read(
    model: Hooked,
    tokens: Int[Tensor, "example pos"],
    depths: Sequence[int],
    *,
    lens: TunedLens | None = None,
    k: int = 1,
    progress: bool = False,
) -> LensReading:
    """What a lens reads at the depths; the `k` most likely tokens are kept of each reading.

    No more than one batch of residual streams and one chunk of logits is held besides what is returned.
    """
    parts: list[dict[str, Shaped[Tensor, " ..."]]] = []
    mean = torch.zeros(int(model.cfg.d_vocab), dtype=torch.float64)
    with evaluating(model):
        for rows in tqdm(list(batches(model, tokens)), desc="lens", delay=1, disable=not progress, unit="batch"):
            streams, logits = residuals(model, tokens[rows], depths)
            chunks = [
                _chunk(model, streams, logits.flatten(0, 1), following, chunk, lens, k, mean)
                for following in [_following(tokens[rows])]
                for chunk in _row_chunks(model, len(following))
            ]
            batch = {name: torch.cat([c[name] for c in chunks], _example_dim(name)) for name in chunks[0]}
            parts.append({name: value.unflatten(_example_dim(name), logits.shape[:2]) for name, value in batch.items()})
    whole = {name: torch.cat([p[name] for p in parts], _example_dim(name)) for name in parts[0]}
    return LensReading(**whole, final_mean=mean / tokens.numel())


def _example_dim(name: str) -> int:
    """The dimension of the examples: after the depths, if there are depths."""
    return 0 if name.startswith("final") else 1


def _following(tokens: Int[Tensor, "example pos"]) -> Int[Tensor, " row"]:
    """The token after each token, as one row of all examples; -1 where there is none."""
    return torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], -1)], 1).flatten()


def _chunk(
    model: Hooked,
    streams: Mapping[int, Float[Tensor, "example pos d_model"]],
    logits: Float[Tensor, "row d_vocab"],
    following: Int[Tensor, " row"],
    chunk: slice,
    lens: TunedLens | None,
    k: int,
    mean: Float[Tensor, " d_vocab"],
) -> dict[str, Shaped[Tensor, " ..."]]:
    """The statistics [depth, row, ...] of some rows, and the model's own [row]; its distribution is added to `mean`."""
    final = log_probs(logits[chunk])
    mean += final.exp().double().sum(0).cpu()
    stats = []
    for depth, stream in streams.items():
        resid = stream.flatten(0, 1)[None, chunk]
        lens_logits = readout(model, resid if lens is None else lens.at_depth(depth, resid))[0]
        stats.append(_statistics(lens_logits, final, following[chunk], k))
    columns = {name: torch.stack([s[name] for s in stats]) for name in stats[0]}
    columns["final_tokens"] = logits[chunk].topk(1).indices[:, 0]
    columns["final_entropy"] = -(final.exp() * final).sum(-1)
    return {name: value.cpu() for name, value in columns.items()}


def _statistics(
    logits: Float[Tensor, "row d_vocab"],
    final: Float[Tensor, "row d_vocab"],
    following: Int[Tensor, " row"],
    k: int,
) -> dict[str, Shaped[Tensor, "row ..."]]:
    """The statistics of a lens' logits; `final` are the model's own log-probabilities.

    The fields are those of `LensReading`; `following` is -1 where nothing follows.
    """
    logp, last = log_probs(logits), following < 0
    target = following.clamp(min=0)[:, None]
    top_tokens = logits.topk(k, dim=-1).indices
    return {
        "log_prob": logp.gather(-1, target)[:, 0].masked_fill(last, torch.nan),
        "rank": (logits > logits.gather(-1, target)).sum(-1).masked_fill(last, -1),
        "entropy": -(logp.exp() * logp).sum(-1),
        "kl": kl(final, logp),
        "top_tokens": top_tokens,
        "top_logprobs": logp.gather(-1, top_tokens),
    }


def characters(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, " example"] | None:
    """The number of characters of each text's predicted part; None without a vocabulary, or without that part."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None) or tokens.shape[1] < 2:
        return None
    rows = tokens[:, 1:].tolist()
    return torch.tensor([float(len(tokenizer.decode(row, clean_up_tokenization_spaces=False))) for row in rows])


def strings(model: Hooked, ids: Int[Tensor, " token"]) -> dict[str, str]:
    """The text of each id that occurs in `ids`, by the id as a string."""
    distinct = ids.unique().cpu()
    known = distinct[distinct < n_tokens(model)]
    texts = dict(zip(map(str, known.tolist()), token_labels(model, known), strict=True))
    return texts | {str(i): f"[{i}]" for i in distinct.tolist() if i >= n_tokens(model)}  # padding of the vocabulary


def sequences(
    model: Hooked, corpus: Corpus | None, *, n: int, seq_len: int | None, seed: int
) -> Int[Tensor, "example pos"]:
    """At most `n` sequences of a corpus.

    Raises:
        AnalysisError: `seq_len` is less than 2, or more than the context or the corpus has.
    """
    text = open_corpus(model, corpus)
    size = text.room() if seq_len is None else seq_len
    check_whole(2, seq_len=size)
    check_whole(1, n=n)
    return text.windows(seq_len=size, n=n, seed=seed)


def seen_fields(model: Hooked, corpus: Corpus, lens: TunedLens | None) -> dict[str, Any]:
    """The fields of `Sample` that say how much of a text a tuned lens was trained on; none for the logit lens."""
    if lens is None:
        return {}
    return {"seen_share": open_corpus(model, corpus).share_seen(lens.trace), "seen_by": "the lens"}


def _row_chunks(model: Hooked, rows: int) -> Iterator[slice]:
    """Slices of so many rows that their logits are about 2**22 numbers, or of 512 rows."""
    step = max(_ROWS, _NUMBERS // int(model.cfg.d_vocab))
    return (slice(start, start + step) for start in range(0, rows, step))
