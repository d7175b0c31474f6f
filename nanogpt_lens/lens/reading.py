"""What a lens reads at some points of some texts, chunk by chunk, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.lens.points import readout, residuals
from nanogpt_lens.model.access import Hooked, evaluating, kl, log_probs, n_tokens, token_labels
from nanogpt_lens.results.lens import TunedLens
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, windows

_NUMBERS = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class LensReading:
    """What a lens reads; [...] is [depth, example, pos]. On the CPU.

    Attributes:
        log_prob: of the token that follows, in nats; nan at the last position.
        rank: how many tokens have a larger logit than that one; -1 at the last position.
        entropy, kl: in nats; KL(final || lens).
        top_tokens, top_logprobs: [..., k].
        final_tokens: the model's own most likely token [example, pos].
        final_entropy: of the model's own distribution, in nats [example, pos].
        final_mean: the model's own distribution, averaged over all examples and positions [d_vocab].
    """

    log_prob: Tensor
    rank: Tensor
    entropy: Tensor
    kl: Tensor
    top_tokens: Tensor
    top_logprobs: Tensor
    final_tokens: Tensor
    final_entropy: Tensor
    final_mean: Tensor

    def settled(self, depths: Sequence[int], n_layers: int) -> Tensor:
        """In layers [example, pos]: the first of these depths from which on the final top token is on top."""
        found = torch.full(self.final_tokens.shape, float(n_layers), dtype=torch.float64)
        staying = torch.ones_like(self.final_tokens, dtype=torch.bool)
        for i in reversed(range(len(depths))):
            if depths[i] < 2 * n_layers:
                staying = staying & (self.top_tokens[i, ..., 0] == self.final_tokens)
                found[staying] = depths[i] / 2
        return found


def read(
    model: Hooked,
    tokens: Tensor,
    depths: Sequence[int],
    *,
    lens: TunedLens | None = None,
    k: int = 1,
    progress: bool = False,
) -> LensReading:
    """Read ids [example, pos] at the depths; `k` tokens are kept of each reading.

    No more than one batch of residual streams and one chunk of logits is held besides what is returned.
    """
    parts: list[dict[str, Tensor]] = []
    mean = torch.zeros(int(model.cfg.d_vocab), dtype=torch.float64)
    with evaluating(model):
        for rows in tqdm(list(batches(model, tokens)), desc="lens", delay=1, disable=not progress, unit="batch"):
            streams, logits = residuals(model, tokens[rows], depths)
            chunks = [
                _chunk(model, streams, logits.flatten(0, 1), following, chunk, lens, k, mean)
                for following in [_following(tokens[rows])]
                for chunk in _row_chunks(model, len(following))
            ]
            joined = {name: torch.cat([c[name] for c in chunks], _rows(name)) for name in chunks[0]}
            parts.append({name: value.unflatten(_rows(name), logits.shape[:2]) for name, value in joined.items()})
    whole = {name: torch.cat([p[name] for p in parts], _rows(name)) for name in parts[0]}
    return LensReading(**whole, final_mean=mean / tokens.numel())


def _rows(name: str) -> int:
    """Where the examples are: after the depths, if there are depths."""
    return 0 if name.startswith("final") else 1


def _following(tokens: Tensor) -> Tensor:
    """The token after each [example * pos]; -1 where there is none."""
    return torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], -1)], 1).flatten()


def _chunk(
    model: Hooked,
    streams: Mapping[int, Tensor],
    logits: Tensor,
    following: Tensor,
    chunk: slice,
    lens: TunedLens | None,
    k: int,
    mean: Tensor,
) -> dict[str, Tensor]:
    """The statistics [depth, row, ...] of some rows, and the model's own [row]; its distribution is added to `mean`."""
    final = log_probs(logits[chunk])
    mean += final.exp().double().sum(0).cpu()
    stats = []
    for depth, stream in streams.items():
        resid = stream.flatten(0, 1)[None, chunk]
        seen = readout(model, resid if lens is None else lens.at_depth(depth, resid))[0]
        stats.append(_statistics(seen, final, following[chunk], k))
    found = {name: torch.stack([s[name] for s in stats]) for name in stats[0]}
    found["final_tokens"] = logits[chunk].topk(1).indices[:, 0]
    found["final_entropy"] = -(final.exp() * final).sum(-1)
    return {name: value.cpu() for name, value in found.items()}


def _statistics(logits: Tensor, final: Tensor, following: Tensor, k: int) -> dict[str, Tensor]:
    """Of logits [row, d_vocab]; `following` [row] is -1 where nothing follows."""
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


def characters(model: Hooked, tokens: Tensor) -> Tensor | None:
    """The characters of the predicted part of each text [example]; None without a vocabulary, or without that part."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None) or tokens.shape[1] < 2:
        return None
    rows = tokens[:, 1:].tolist()
    return torch.tensor([float(len(tokenizer.decode(row, clean_up_tokenization_spaces=False))) for row in rows])


def strings(model: Hooked, ids: Tensor) -> dict[str, str]:
    """The text of each id that occurs in `ids`, by the id as a string."""
    distinct = ids.unique().cpu()
    known = distinct[distinct < n_tokens(model)]
    texts = dict(zip(map(str, known.tolist()), token_labels(model, known), strict=True))
    return texts | {str(i): f"[{i}]" for i in distinct.tolist() if i >= n_tokens(model)}  # padding of the vocabulary


def sequences(model: Hooked, corpus: Corpus | None, *, n: int, seq_len: int | None, seed: int) -> Tensor:
    """Sequences [up to n, seq_len] of at least 2 tokens.

    Raises:
        AnalysisError: shorter than 2 tokens, longer than the context or the corpus.
    """
    size = int(model.cfg.n_ctx) if seq_len is None else seq_len
    check_whole(2, seq_len=size)
    check_whole(1, n=n)
    return windows(model, corpus, seq_len=size, n=n, seed=seed)


def _row_chunks(model: Hooked, rows: int) -> Iterator[slice]:
    """Slices of so many rows that their logits are about 2**22 numbers."""
    step = max(1, _NUMBERS // int(model.cfg.d_vocab))
    return (slice(start, start + step) for start in range(0, rows, step))
