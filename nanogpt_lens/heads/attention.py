"""What heads attend to: the patterns of a text, and statistics of them over many sequences.

Each statistic is a mean over the queries from the second position on (the first has one key and
no choice), and stands beside what uniform causal attention gives on the very same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import ENDS, RESAMPLES, pseudo_values, times_drawn
from nanogpt_lens.model.access import (
    Edit,
    Hooked,
    Text,
    as_tokens,
    evaluating,
    provenance,
    record,
    run,
    token_labels,
)
from nanogpt_lens.results import AttentionPatterns, Sample, Scores
from nanogpt_lens.text.corpus import Corpus, name_of, text_sample

STATISTICS: dict[str, str] = {
    "entropy": "nats of each query's attention",
    "normalized_entropy": "the same divided by ln(number of keys): 1 is uniform",
    "sparsity": "Hoyer's (sqrt(n) - 1/|A|_2) / (sqrt(n) - 1) for n keys: 0 is uniform, 1 is one key",
    "distance": "tokens from the query back to its keys, weighted by attention",
    "sink": "attention to position 0",
    "self": "attention to the query's own position",
    "previous_token": "attention to the position before (Olsson et al. 2022)",
    "duplicate_token": "attention to earlier occurrences of the query's token, over the queries that have one",
    "positional": "share of the squared deviation from uniform attention that all sequences have in common",
}
"""The name and definition of every statistic."""

_UNITS = {"entropy": "nats", "distance": "tokens"}
_KEPT = 2**26  # numbers: deviations of so many patterns are in memory at once
_SURE = 1e-2  # rows of attention sum to 1 as closely, also in bfloat16


def attention_patterns(model: Hooked, text: Text, *, layers: Sequence[int] | None = None) -> AttentionPatterns:
    """Who attends to whom, after the softmax.

    Args:
        model: the model.
        text: one text or several of one length, or token ids [pos] or [example, pos].
        layers: which ones, from 0; None for all.

    Returns:
        probabilities of shape [layer, head, dest_pos, src_pos] for one text, with `example` in front
        for several; each row sums to 1. Positions of one text are labelled with its tokens, and
        chosen layers with their numbers.

    Raises:
        AnalysisError: no such layer, tokens that do not fit the model, or attention that does not sum to 1.
    """
    tokens = as_tokens(model, text)
    chosen = _layers(model, layers)
    with evaluating(model):
        found = record(model, tokens, map(pattern_hook, chosen))
    values = torch.stack([_checked(found[pattern_hook(layer)], layer) for layer in chosen], dim=1)
    labels = {} if layers is None else {"layer": tuple(map(str, chosen))}
    axes = ("example", "layer", "head", "dest_pos", "src_pos")
    if len(tokens) == 1:
        values, tokens, axes = values[0], tokens[0], axes[1:]
        labels |= dict.fromkeys(("dest_pos", "src_pos"), token_labels(model, tokens))
    return AttentionPatterns(
        values=values,
        axes=axes,
        labels=labels,
        quantity="attention probability",
        definition="softmax of the causal scores, each dest_pos sums to 1 over src_pos",
        unit="attention",
        provenance=provenance(model, layers=list(chosen)),
        tokens=tokens,
        layers=chosen,
    )


def attention_statistics(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    seq_len: int | None = None,
    n: int = 64,
    batch_size: int = 8,
    seed: int = 0,
) -> Scores:
    """What each head does on text, by the measures of `STATISTICS`.

    All are means over sequences and queries from position 1 on. `duplicate_token` is nan where no
    token occurs twice. `positional` compares different sequences: with D the attention minus uniform
    attention, it is the mean of <D_i, D_j> over pairs i != j divided by the mean of <D_i, D_i>. It is
    1 for a head that never looks at content, 0 expected for one whose sequences share nothing (so
    estimates may be below 0), and 0 for exactly uniform attention. Where all sequences are alike, as the own
    text of a model that repeats itself is, `positional` is too high: give a corpus.

    Args:
        model: the model.
        corpus: a text, a path or token ids; None for text drawn from the model itself at temperature 1.
        seq_len: tokens per sequence; None for the context, at most 128.
        n: how many sequences, at most.
        batch_size: sequences per run of the model.
        seed: of the choice of sequences and of the bootstrap.

    Returns:
        scores of shape [score, layer, head], with `chance` under uniform causal attention on the same
        tokens, and 95% bootstrap intervals over the sequences.

    Raises:
        AnalysisError: fewer than two sequences or two tokens, or a corpus that does not fit the model.

    Sources: Hoyer 2004, "Non-negative matrix factorization with sparseness constraints"; Olsson et al.
    2022, "In-context Learning and Induction Heads" (previous token); Wang et al. 2022,
    "Interpretability in the Wild" (duplicate token).
    """
    tokens, origin = text_sample(model, corpus, seq_len=seq_len, n=n, seed=seed)
    name = None if corpus is None else name_of(corpus)
    return statistics_of(model, tokens, origin=origin, corpus=name, batch_size=batch_size, seed=seed)


def statistics_of(
    model: Hooked, tokens: Tensor, *, origin: str, corpus: str | None = None, batch_size: int = 8, seed: int = 0
) -> Scores:
    """`attention_statistics` of given sequences.

    Args:
        model: the model.
        tokens: ids of shape [example, pos], at least two of each.
        origin: where they come from, in words.
        corpus: the name of the text, where they are of one.
        batch_size: sequences per run of the model.
        seed: of the bootstrap.

    Returns:
        scores of shape [score, layer, head].

    Raises:
        AnalysisError: fewer than two sequences, two tokens, or one sequence per run.
    """
    tokens = as_tokens(model, tokens)
    if min(tokens.shape) < 2:
        raise AnalysisError(
            f"there are {tokens.shape[0]} sequences of {tokens.shape[1]} tokens; expected at least 2 of 2, "
            "because statistics compare sequences: give more text, or a smaller seq_len"
        )
    check_whole(1, batch_size=batch_size)
    check_whole(seed=seed)
    measured = _measure(model, tokens, batch_size)
    n = len(tokens)
    everything = torch.ones(1, n, dtype=torch.float64)
    low, high = torch.nanquantile(measured.estimates(times_drawn(n, seed=seed)), ENDS, dim=-1)
    values = measured.estimates(everything)[..., 0]
    without = measured.estimates(torch.ones(n, n, dtype=torch.float64) - torch.eye(n, dtype=torch.float64))
    return Scores(
        values=values,
        axes=("score", "layer", "head"),
        labels={"score": tuple(STATISTICS)},
        quantity="attention statistics",
        definition=f"means over queries 1 to {tokens.shape[1] - 1} of {n} sequences: {origin}",
        unit="attention",
        units=_UNITS,
        scores=STATISTICS,
        sample=Sample(corpus=corpus, n=n, seq_len=tokens.shape[1], seed=seed),
        provenance=provenance(
            model, text=origin, n=n, seq_len=tokens.shape[1], batch_size=batch_size, seed=seed, resamples=RESAMPLES
        ),
        chance=measured.chance()[..., None, None].expand(values.shape).clone(),
        low=low,
        high=high,
        per_example=pseudo_values(without, values),
    )


def pattern_hook(layer: int) -> str:
    """The hook point of a layer's attention after the softmax [example, head, dest_pos, src_pos]."""
    return f"blocks.{layer}.attn.hook_pattern"


def uniform_attention(n_pos: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """Uniform causal attention [dest_pos, src_pos]: 1/(i + 1) to each of the i + 1 keys of query i."""
    ones = torch.ones(n_pos, n_pos, dtype=dtype, device=device).tril()
    return ones / ones.sum(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class _AttentionSums:
    """Sums of each sequence, from which any resample of the sequences can be scored.

    Attributes:
        sums: of each statistic but the last over the queries [score, layer, head, example].
        uniform: the same of uniform attention [score, example].
        counts: how many queries a sum is over [score, example].
        grams: products of the sequences' deviations from uniform [layer, head, example, example].
        floor: squared deviations up to this are rounding.
    """

    sums: Tensor
    uniform: Tensor
    counts: Tensor
    grams: Tensor
    floor: float

    def estimates(self, weights: Tensor) -> Tensor:
        """[score, layer, head, resample], from how often each sequence is in a resample [resample, example]."""
        means = self.sums @ weights.T / (self.counts @ weights.T)[:, None, None]
        shared = torch.stack([self._shared(gram, weights) for gram in self.grams])
        return torch.cat([means, shared[None]])

    def _shared(self, gram: Tensor, weights: Tensor) -> Tensor:
        """`positional` [head, resample]; a sequence drawn twice makes no pair with itself."""
        n, own = weights.sum(-1), gram.diagonal(dim1=-2, dim2=-1)
        between = ((weights @ gram) * weights).sum(-1) - own @ weights.square().T
        between = between / (n**2 - weights.square().sum(-1))
        energy = own @ weights.T / n
        return torch.where(energy > self.floor, between / energy, 0.0)

    def chance(self) -> Tensor:
        """Of uniform attention [score]."""
        means = self.uniform.sum(-1) / self.counts.sum(-1)
        return torch.cat([means, means.new_zeros(1)])  # no deviation from uniform at all


def _measure(model: Hooked, tokens: Tensor, batch_size: int) -> _AttentionSums:
    """Runs the model over the tokens [example, pos], as often as it takes to keep memory bounded."""
    n_pos, n_layers = tokens.shape[1], model.cfg.n_layers
    at_once = max(1, _KEPT // (len(tokens) * model.cfg.n_heads * n_pos * (n_pos + 1) // 2))
    with evaluating(model):
        parts = [
            _measure_layers(model, tokens, range(first, min(first + at_once, n_layers)), batch_size)
            for first in range(0, n_layers, at_once)
        ]
    sums, grams = (torch.cat([part[i] for part in parts], dim=1 - i) for i in range(2))
    uniform, counts = [], []
    for batch in tokens.split(batch_size):
        flat = uniform_attention(n_pos, device=tokens.device).expand(len(batch), 1, -1, -1)
        total, count = _sums(flat, batch)
        uniform.append(total[..., 0].cpu())
        counts.append(count.cpu())
    rounding = 8 * torch.finfo(model.cfg.dtype).eps
    return _AttentionSums(
        sums=sums,
        uniform=torch.cat(uniform, dim=1),
        counts=torch.cat(counts, dim=1),
        grams=grams,
        floor=rounding**2 * float((1 / torch.arange(1.0, n_pos + 1)).sum()),  # a uniform row has square 1/keys
    )


def _measure_layers(model: Hooked, tokens: Tensor, layers: range, batch_size: int) -> tuple[Tensor, Tensor]:
    """`sums` and `grams` of `_AttentionSums` for some layers."""
    n, n_pos = tokens.shape
    sums: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    kept: dict[int, Tensor] = {}
    rows, columns = torch.tril_indices(n_pos, n_pos, device=tokens.device)

    def reduce(layer: int, first: int, batch: Tensor) -> Edit:
        def edit(pattern: Tensor) -> None:
            pattern = _wide(_checked(pattern, layer))
            sums[layer].append(_sums(pattern, batch)[0].cpu())
            deviation = pattern - uniform_attention(n_pos, dtype=pattern.dtype, device=pattern.device)
            if layer not in kept:
                kept[layer] = deviation.new_empty(n, deviation.shape[1], len(rows))
            kept[layer][first : first + len(batch)] = deviation[:, :, rows, columns]

        return edit

    for first in range(0, n, batch_size):
        batch = tokens[first : first + batch_size]
        run(model, batch, {pattern_hook(layer): reduce(layer, first, batch) for layer in layers})
    all_sums = torch.stack([torch.cat(sums[layer], dim=1).transpose(1, 2) for layer in layers], dim=1)
    grams = [torch.einsum("ihp,jhp->hij", kept[layer], kept[layer]).double().cpu() for layer in layers]
    return all_sums, torch.stack(grams)


def _sums(pattern: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Every statistic but `positional`, summed over the queries from 1 on.

    Args:
        pattern: attention [example, head, dest_pos, src_pos].
        tokens: ids of shape [example, pos].

    Returns:
        the sums [score, example, head], and over how many queries they are [score, example]; float64.
    """
    n_pos = tokens.shape[1]
    rows = pattern[:, :, 1:]  # [example, head, query, key]
    place = torch.arange(n_pos, device=pattern.device, dtype=pattern.dtype)
    keys = place[1:] + 1
    entropy = torch.special.entr(rows).sum(-1)
    root = keys.sqrt()
    same = (tokens[:, :, None] == tokens[:, None, :]).tril(-1)[:, 1:]
    per_query = [
        entropy,
        entropy / keys.log(),
        (root - rows.sum(-1) / rows.norm(dim=-1)) / (root - 1),
        (rows * (place[1:, None] - place)).sum(-1),
        rows[..., 0],
        pattern.diagonal(dim1=-2, dim2=-1)[..., 1:],
        pattern.diagonal(offset=-1, dim1=-2, dim2=-1),
        (rows * same[:, None]).sum(-1),
    ]
    counts = torch.full((len(per_query), len(tokens)), float(n_pos - 1), dtype=torch.float64, device=tokens.device)
    counts[list(STATISTICS).index("duplicate_token")] = same.any(-1).sum(-1).double()
    return torch.stack([value.double().sum(-1) for value in per_query]), counts


def _wide(pattern: Tensor) -> Tensor:
    return pattern if pattern.dtype == torch.float64 else pattern.float()


def _checked(pattern: Tensor, layer: int) -> Tensor:
    """The pattern, whose rows sum to 1.

    Raises:
        AnalysisError: they do not.
    """
    off = (_wide(pattern).sum(-1) - 1).abs().max()
    if not off < _SURE:
        raise AnalysisError(
            f"the attention of layer {layer} is off by {float(off):.2g} from a sum of 1 over the keys; expected "
            "a softmax: take away hooks that edit it, or check the weights for nan"
        )
    return pattern


def _layers(model: Hooked, layers: Sequence[int] | None) -> tuple[int, ...]:
    known = range(model.cfg.n_layers)
    chosen = tuple(known) if layers is None else tuple(layers) if isinstance(layers, Iterable) else ()
    whole = bool(chosen) and all(type(layer) is int and layer in known for layer in chosen)
    if not whole or len(set(chosen)) < len(chosen):
        raise AnalysisError(f"layers is {layers!r}; expected different numbers from 0 to {len(known) - 1}, such as [0]")
    return chosen
