"""What heads attend to: the attention patterns of a text, and statistics of them over many sequences.

Each statistic is a mean over the queries from the second position on (the first has one key and
no choice), and is compared with what uniform causal attention gives on the very same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import interval_fields, pseudo_values, ratio_per_example
from nanogpt_lens.model.access import (
    Edit,
    Hooked,
    Text,
    as_tokens,
    evaluating,
    look,
    provenance,
    record,
    token_labels,
)
from nanogpt_lens.results import AttentionPatterns, Sample, Scores
from nanogpt_lens.text.corpus import Corpus, open_corpus, text_sample

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
_KEPT = 2**26  # the numbers that the deviations held in memory at once may have
_TOLERANCE = 1e-2  # rows of attention sum to 1 within this, also in bfloat16


def attention_patterns(model: Hooked, text: Text, *, layers: Sequence[int] | None = None) -> AttentionPatterns:
    """Who attends to whom, after the softmax.

    Args:
        model: the model.
        text: one text or several of one length, or token ids [pos] or [example, pos].
        layers: the layers, from 0; None for all.

    Returns:
        Probabilities [layer, head, dest_pos, src_pos] for one text, with `example` in front for several;
        each row sums to 1. Positions of one text are labelled with its tokens, and
        chosen layers with their numbers.

    Raises:
        AnalysisError: there is no such layer, the tokens do not fit the model, or the attention does not sum to 1.
    """
    tokens = as_tokens(model, text)
    chosen = _layers(model, layers)
    with evaluating(model):
        patterns = record(model, tokens, map(pattern_hook, chosen))
    for layer in chosen:
        _check_softmax(patterns[pattern_hook(layer)], layer)
    values = torch.stack([patterns[pattern_hook(layer)] for layer in chosen], dim=1)
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
    1 for a head that never looks at content, 0 on average for one whose sequences share nothing (so that
    estimates may be below 0), and 0 for exactly uniform attention. Where all sequences are alike, as in
    text drawn from a model that repeats itself, `positional` is too high: give a corpus.

    Args:
        model: the model.
        corpus: a text, a path or token ids; None for text drawn from the model itself at temperature 1.
        seq_len: the tokens of a sequence; None for the context, at most 128.
        n: the largest number of sequences.
        batch_size: the sequences in one run of the model.
        seed: the seed of the choice of sequences, and of the flips that `p` is made of.

    Returns:
        Values [score, layer, head], with `chance` under uniform causal attention on the same
        tokens, and 95% intervals over the sequences (of `positional` and `duplicate_token`, by pseudo-values).

    Raises:
        AnalysisError: there are fewer than two sequences or two tokens, or the corpus does not fit the model.

    Sources: Hoyer 2004, "Non-negative matrix factorization with sparseness constraints"; Olsson et al.
    2022, "In-context Learning and Induction Heads" (previous token); Wang et al. 2022,
    "Interpretability in the Wild" (duplicate token).
    """
    text = open_corpus(model, corpus)
    tokens, origin = text_sample(model, text, seq_len=seq_len, n=n, seed=seed)
    name = None if corpus is None else text.name
    return statistics_of(model, tokens, origin=origin, corpus=name, batch_size=batch_size, seed=seed)


def statistics_of(
    model: Hooked,
    tokens: Int[Tensor, "example pos"],
    *,
    origin: str,
    corpus: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> Scores:
    """The `attention_statistics` of these sequences, with values [score, layer, head].

    Args:
        model: the model.
        tokens: ids of two and more sequences of two and more tokens.
        origin: where the tokens come from, in words.
        corpus: the name of the text that the tokens are from; None if they are from no text.
        batch_size: the sequences in one run of the model.
        seed: the seed of the flips that `p` is made of.

    Raises:
        AnalysisError: there are fewer than two sequences or two tokens, or `batch_size` is below 1.
    """
    tokens = as_tokens(model, tokens)
    if min(tokens.shape) < 2:
        raise AnalysisError(
            f"there are {tokens.shape[0]} sequences of {tokens.shape[1]} tokens; expected at least 2 of 2, "
            "because statistics compare sequences: give more text, or a smaller seq_len"
        )
    check_whole(1, batch_size=batch_size)
    check_whole(seed=seed)
    attention = _attention_sums(model, tokens, batch_size)
    n = len(tokens)
    values, per_example = attention.statistics()
    chance = attention.chance_per_example()
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
        provenance=provenance(model, text=origin, n=n, seq_len=tokens.shape[1], batch_size=batch_size, seed=seed),
        chance=chance.mean(-1)[..., None, None].expand(values.shape).clone(),
        chance_per_example=chance[:, None, None],
        **interval_fields(per_example),
        per_example=per_example,
        tested="chance",
    )


def pattern_hook(layer: int) -> str:
    """The name of the hook point of a layer's attention after the softmax [example, head, dest_pos, src_pos]."""
    return f"blocks.{layer}.attn.hook_pattern"


def uniform_attention(
    n_pos: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Float[Tensor, "dest_pos src_pos"]:
    """Uniform causal attention: 1/(i + 1) to each of the i + 1 keys of query i."""
    ones = torch.ones(n_pos, n_pos, dtype=dtype, device=device).tril()
    return ones / ones.sum(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class _AttentionSums:
    """Sums of each sequence, from which the sequences are scored.

    Attributes:
        sums: each statistic but the last, summed over the queries.
        uniform: the same sums for uniform attention.
        counts: the number of queries that a sum is over.
        grams: the inner products of the sequences' deviations from uniform attention.
        floor: the squared deviation up to which a deviation is rounding.
    """

    sums: Float[Tensor, "sum layer head example"]
    uniform: Float[Tensor, "sum example"]
    counts: Float[Tensor, "sum example"]
    grams: Float[Tensor, "layer head example example"]
    floor: float

    def statistics(self) -> tuple[Float[Tensor, "score layer head"], Float[Tensor, "score layer head example"]]:
        """All statistics, and what each sequence adds to them, which of two sequences is not known of the last."""
        means = ratio_per_example(self.sums, self.counts[:, None, None])
        n = self.counts.shape[-1]
        everything, one = torch.ones(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
        shared = torch.stack([self._shared(gram, everything)[..., 0] for gram in self.grams])
        without = torch.stack([self._shared(gram, everything - one) for gram in self.grams])
        values = torch.cat([means.mean(-1), shared[None]])
        return values, torch.cat([means, pseudo_values(without, shared)[None]])

    def _shared(
        self, gram: Float[Tensor, "head example example"], chosen: Float[Tensor, "choice example"]
    ) -> Float[Tensor, "head choice"]:
        """The statistic `positional` of some of the sequences; `chosen` is 1 for these and 0 for the others."""
        n, squares = chosen.sum(-1), gram.diagonal(dim1=-2, dim2=-1)
        between = ((chosen @ gram) * chosen).sum(-1) - squares @ chosen.T
        between = between / (n**2 - n)
        energy = squares @ chosen.T / n
        return torch.where(energy > self.floor, between / energy, 0.0)

    def chance_per_example(self) -> Float[Tensor, "score example"]:
        """What each sequence adds to the statistics of uniform attention, whose deviation from itself is 0."""
        each = ratio_per_example(self.uniform, self.counts)
        return torch.cat([each, torch.zeros_like(each[:1])])


def _attention_sums(model: Hooked, tokens: Int[Tensor, "example pos"], batch_size: int) -> _AttentionSums:
    """The sums of each sequence, of a model that runs over the tokens as often as keeps memory bounded."""
    n_pos, n_layers = tokens.shape[1], model.cfg.n_layers
    at_once = max(1, _KEPT // (len(tokens) * model.cfg.n_heads * n_pos * (n_pos + 1) // 2))
    with evaluating(model):
        parts = [
            _sums_and_grams(model, tokens, range(first, min(first + at_once, n_layers)), batch_size)
            for first in range(0, n_layers, at_once)
        ]
    sums, grams = (torch.cat([part[i] for part in parts], dim=1 - i) for i in range(2))
    uniform, counts = [], []
    for batch in tokens.split(batch_size):
        flat = uniform_attention(n_pos, device=tokens.device).expand(len(batch), 1, -1, -1)
        total, count = _sums_over_queries(flat, batch)
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


def _sums_and_grams(
    model: Hooked, tokens: Int[Tensor, "example pos"], layers: range, batch_size: int
) -> tuple[Float[Tensor, "sum layer head example"], Float[Tensor, "layer head example example"]]:
    """The fields `sums` and `grams` of `_AttentionSums` for some layers."""
    n, n_pos = tokens.shape
    sums: dict[int, list[Float[Tensor, "sum example head"]]] = {layer: [] for layer in layers}
    kept: dict[int, Float[Tensor, "example head place"]] = {}
    rows, columns = torch.tril_indices(n_pos, n_pos, device=tokens.device)

    def adding(layer: int, first: int, batch: Int[Tensor, "example pos"]) -> Edit:
        def edit(pattern: Float[Tensor, "example head pos pos"]) -> None:
            _check_softmax(pattern, layer)
            pattern = _wide(pattern)
            sums[layer].append(_sums_over_queries(pattern, batch)[0].cpu())
            deviation = pattern - uniform_attention(n_pos, dtype=pattern.dtype, device=pattern.device)
            if layer not in kept:
                kept[layer] = deviation.new_empty(n, deviation.shape[1], len(rows))
            kept[layer][first : first + len(batch)] = deviation[:, :, rows, columns]

        return edit

    for first in range(0, n, batch_size):
        batch = tokens[first : first + batch_size]
        look(model, batch, {pattern_hook(layer): adding(layer, first, batch) for layer in layers})
    all_sums = torch.stack([torch.cat(sums[layer], dim=1) for layer in layers], dim=1)
    pairs = "example head place, other head place -> head example other"
    grams = [einsum(kept[layer], kept[layer], pairs).double().cpu() for layer in layers]
    return rearrange(all_sums, "sum layer example head -> sum layer head example"), torch.stack(grams)


def _sums_over_queries(
    pattern: Float[Tensor, "example head pos pos"], tokens: Int[Tensor, "example pos"]
) -> tuple[Float[Tensor, "sum example head"], Float[Tensor, "sum example"]]:
    """Every statistic but `positional`, summed over the queries from 1 on, and the number of queries; float64."""
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


def _wide(pattern: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The pattern in float64 if it is in float64, otherwise in float32."""
    return pattern if pattern.dtype == torch.float64 else pattern.float()


def _check_softmax(pattern: Float[Tensor, "example head dest_pos src_pos"], layer: int) -> None:
    """Raise AnalysisError unless the rows of a layer's pattern sum to 1."""
    off = (_wide(pattern).sum(-1) - 1).abs().max()
    if not off < _TOLERANCE:
        raise AnalysisError(
            f"the attention of layer {layer} is off by {float(off):.2g} from a sum of 1 over the keys; expected "
            "a softmax: take away hooks that edit it, or check the weights for nan"
        )


def _layers(model: Hooked, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers that the user names, None for all; AnalysisError unless the model has each, and each stands once."""
    known = range(model.cfg.n_layers)
    chosen = tuple(known) if layers is None else tuple(layers) if isinstance(layers, Iterable) else ()
    whole = bool(chosen) and all(type(layer) is int and layer in known for layer in chosen)
    if not whole or len(set(chosen)) < len(chosen):
        raise AnalysisError(f"layers is {layers!r}; expected different numbers from 0 to {len(known) - 1}, such as [0]")
    return chosen
