"""What each head does: eight scores and one of lines, and the names that a head earns by them.

Each score is measured where it means something: what a head does with repetition on random repeated
tokens, where nothing else can explain it; where it looks, on text. A head is called `positional` or
`broad` only for what it does on text and on random tokens alike, because both say that content
makes no difference, and text may be too uniform to show one. A head may earn several names, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.simultaneous import sure_low
from nanogpt_lens.heads.attention import statistics_of
from nanogpt_lens.heads.copying import copying_score
from nanogpt_lens.heads.induction import prefix_matching
from nanogpt_lens.heads.line_breaks import LineBreaks, line_breaks
from nanogpt_lens.heads.naming import REASONS, THRESHOLDS, asked_thresholds, thresholds_of
from nanogpt_lens.model.access import Hooked, provenance
from nanogpt_lens.model.weights import head_weights
from nanogpt_lens.results import HeadTaxonomy, Sample, Scores
from nanogpt_lens.text.corpus import Corpus, open_corpus, text_sample
from nanogpt_lens.text.prompts import random_tokens, repeated_tokens

SCORES: dict[str, str] = {
    "previous_token": "attention to the position before, on text",
    "duplicate_token": "attention to earlier occurrences of the query's token, on random repeated tokens",
    "induction": "prefix matching, stripe convention, on random repeated tokens",
    "positional": "share of the squared deviation from uniform attention that all sequences have in common, "
    "on text or on random tokens, whichever is lower",
    "sink": "attention to position 0, on text",
    "copying": "sum(Re λ) / sum(|λ|) of the full OV circuit, W_U centred over the vocabulary, 0 for heads that write "
    "next to nothing",
    "anti_copying": "minus copying",
    "broad": "entropy divided by that of uniform attention, on text or on random tokens, whichever is lower",
}
"""The name and definition of every score."""

_LINE_BREAK = "attention, from the characters of a line, to the newline before it, on text; chance: by distance alone"
_OF_LINE_BREAKS = ("chance", "low", "high", "sure_low", "threshold", "reason")

_WRITES = 0.01  # a head whose W_V W_O has less than this share of the largest norm writes next to nothing


def score_heads(
    model: Hooked, corpus: Corpus | None = None, *, seq_len: int | None = None, n: int = 64, seed: int = 0
) -> Scores:
    """The scores of `SCORES` for every head.

    Scores of attention are means over queries and sequences, see `attention_statistics` and
    `prefix_matching`. Copying is read from the weights alone, see `copying_score`; its chance is 0,
    its interval is the score itself. A head whose W_V W_O has less than 1% of the largest norm among
    the model's heads has a copying score of 0, because the ratio of eigenvalues does not see size.

    Args:
        model: the model.
        corpus: a text, a path or token ids; None for text drawn from the model itself. The text of a model
            that repeats itself says little: give a corpus.
        seq_len: the tokens of a sequence of text; None for the context, at most 128.
        n: the largest number of sequences of each kind.
        seed: the seed of all sequences, and of the flips that `p` is made of.

    Returns:
        Scores [score, layer, head], with `chance` under uniform causal attention on the same
        tokens, and 95% intervals over the sequences.

    Raises:
        AnalysisError: the context has fewer than 4 tokens; or see `attention_statistics`.

    Sources: Olsson et al. 2022, "In-context Learning and Induction Heads" (previous token, induction);
    Wang et al. 2022, "Interpretability in the Wild" (duplicate token); Elhage et al. 2021, "A
    Mathematical Framework for Transformer Circuits" (copying); Xiao et al. 2023, "Efficient Streaming
    Language Models with Attention Sinks" (sink).
    """
    data = _data(model, corpus, seq_len, n, seed)
    return _scores(model, data, _columns(model, data))


def head_taxonomy(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    thresholds: Mapping[str, float] | None = None,
    seq_len: int | None = None,
    n: int = 64,
    seed: int = 0,
) -> HeadTaxonomy:
    """The names of every head: those whose score surely exceeds a threshold.

    "Surely": the lower end of the score's interval over the sequences is above it, an end that holds for all heads of
    the model together (`sure_low`), because a head with a name is the best of all that were looked at. For `induction`
    that is the one rule of `find_induction_heads`.

    The thresholds, and their sources:

    - previous_token, sink, induction: 0.4, as ARENA's head detectors have it; duplicate_token alike.
    - positional: 0.5. Most of what the head does other than attend uniformly ignores content.
    - copying, anti_copying: 0.5, three quarters of the eigenvalues' weight on one side, if they are real.
    - line_break: 0.2, and 0.1 above what the head's attention by distance gives; infinite for a head that does not
      surely give 0.1 more to the last line break than to an earlier one at the same distance. It is left out, and
      `definition` says why, where a model has no vocabulary or a text no lines.
    - broad: 0.85, from glassbox' "uniform"; of 64 keys, the entropy of attending to 34. Where more than half of the
      heads attend so, uniform attention is the default, as in a model that has hardly been trained: then the
      threshold is infinite, and a head that does nothing else has no name.

    A default is raised for the heads or models for which it would not mean anything: attention must
    exceed uniform attention by 0.1 (in short contexts, position 0 gets much by chance), `induction` and
    `duplicate_token` also what the head pays to the same places, by 0.1, when nothing is repeated (or a
    head that looks back by a fixed number of tokens would pass). Copying must exceed 99% of the scores
    of the same heads with a random rotation between W_V and W_O: in small heads 0.5 is common. And the
    head must do what its weights say to token embeddings: on text and random tokens together, it must
    raise (or for anti-copying lower) the logits of the tokens that it attends to, against those of the
    others that it attends to, with the whole interval; the threshold is infinite for a head that does
    not. In later layers the stream is no longer the embedding, and the two do come apart.

    Args:
        model: the model.
        thresholds: other thresholds by name, such as {"induction": 0.3}; they are not raised.
        corpus, seq_len, n, seed: as for `score_heads`.

    Returns:
        The scores of `score_heads` and `line_break`, with `threshold` and `carries`; ask `.of(layer, head)`,
        `.heads("induction")`, or `.reasons(layer, head)` for the thresholds of its names, and why a high score earned
        none.

    Raises:
        AnalysisError: a threshold has an unknown name, or is not a number; see `score_heads`.
    """
    chosen = asked_thresholds(thresholds)
    opened = open_corpus(model, corpus)
    data = _data(model, corpus, seq_len, n, seed)
    columns = _columns(model, data)
    scores, low = _scores(model, data, columns), torch.stack([columns[name][4] for name in SCORES])
    levels, reason = thresholds_of(
        model,
        scores,
        low,
        matching=data.induction,
        tokens=(data.text, data.noise),
        n=data.n,
        seed=seed,
        asked=chosen,
    )
    length, asked = data.text.shape[1], chosen.get("line_break")
    lines = data.text if data.corpus is None else opened  # what the model has written is not written again
    breaks = line_breaks(model, lines, seq_len=length, n=n, seed=seed, asked=asked)
    said = f"; line_break is not measured: {breaks}" if isinstance(breaks, str) else ""
    fields = scores.as_fields() | {
        "quantity": "head scores and names",
        "definition": f"{scores.definition}; a head has a name if the score is surely, for all heads together, above "
        f"the threshold{said}",
        "provenance": provenance(model, **{**scores.provenance["arguments"], "thresholds": chosen}),
        "threshold": levels,
        "sure_low": low,
        "reason": reason,
    }
    if isinstance(breaks, LineBreaks):
        fields |= _with_line_breaks(fields, breaks)
    return HeadTaxonomy(
        **fields,
        carries=fields["sure_low"] > fields["threshold"],
        reason_words=REASONS,
        least=THRESHOLDS,
    )


def _with_line_breaks(fields: Mapping[str, Any], breaks: LineBreaks) -> dict[str, Any]:
    """The fields with one score more; it has no p, so that those of the others stay what they are."""
    of_heads = {"values": breaks.value, **{name: getattr(breaks, name) for name in _OF_LINE_BREAKS}}
    longer: dict[str, Any] = {name: torch.cat([fields[name], more[None]]) for name, more in of_heads.items()}
    if (each := fields["per_example"]) is not None:
        same = breaks.per_example.shape == each.shape[1:]
        more = breaks.per_example if same else torch.full_like(each[0], torch.nan)
        longer["per_example"] = torch.cat([each, more[None]])
    return longer | {
        "labels": {"score": (*SCORES, "line_break")},
        "scores": {**SCORES, "line_break": _LINE_BREAK},
        "untested": (*fields["untested"], "line_break"),
    }


class _Data(NamedTuple):
    """The sequences that heads are scored on.

    Attributes:
        text, noise: sequences of text and of random tokens.
        origin: where the text comes from, in words.
        corpus: the name of the text; None for text drawn from the model itself.
        induction: prefix matching on repeated random tokens.
        n: the number of sequences that was asked for.
        seed: the seed of all of them.
    """

    text: Int[Tensor, "text_example pos"]
    noise: Int[Tensor, "example pos"]
    origin: str
    corpus: str | None
    induction: Scores
    n: int
    seed: int


def _data(model: Hooked, corpus: Corpus | None, seq_len: int | None, n: int, seed: int) -> _Data:
    """The sequences that heads are scored on; the arguments are those of `score_heads`."""
    opened = open_corpus(model, corpus)
    text, origin = text_sample(model, opened, seq_len=seq_len, n=n, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    noise = random_tokens(model, n, text.shape[1], repeats="allow", generator=generator)
    return _Data(
        text=text,
        noise=noise,
        origin=origin,
        corpus=None if corpus is None else opened.name,
        induction=prefix_matching(model, n=n, convention="stripe", seed=seed),
        n=n,
        seed=seed,
    )


def _columns(model: Hooked, data: _Data) -> dict[str, Float[Tensor, "_ layer head"]]:
    """The rows of every score, see `_column`."""
    n, seed = data.n, data.seed
    repeated = repeated_tokens(model, seq_len=data.induction.seq_len, n=n, seed=seed)
    on_text = statistics_of(model, data.text, origin=data.origin, seed=seed)
    on_noise = statistics_of(model, data.noise, origin="random tokens", seed=seed)
    on_repeated = statistics_of(model, repeated, origin="random repeated tokens", seed=seed)
    copying = _copying_scores(model)
    none = torch.zeros_like(copying)
    weights = torch.stack([copying, none, copying, copying, copying, *copying.expand(n, *copying.shape)])
    return {
        "previous_token": _column(on_text, "previous_token"),
        "duplicate_token": _column(on_repeated, "duplicate_token"),
        "induction": _column(data.induction),
        "positional": _lower(_column(on_text, "positional"), _column(on_noise, "positional")),
        "sink": _column(on_text, "sink"),
        "copying": weights,
        "anti_copying": none - weights,
        "broad": _lower(_column(on_text, "normalized_entropy"), _column(on_noise, "normalized_entropy")),
    }


def _scores(model: Hooked, data: _Data, columns: Mapping[str, Float[Tensor, "_ layer head"]]) -> Scores:
    """The result of `score_heads`."""
    n, seed = data.n, data.seed
    own, shown = data.corpus is None, min(n, len(data.text))  # a short text has fewer sequences
    kept = len({len(column) for column in columns.values()}) == 1  # as many sequences of text as of random tokens
    rows = torch.stack([columns[name][: None if kept else 5] for name in SCORES], dim=1)
    values, chance, low, high, _, *each = rows
    return Scores(
        values=values,
        axes=("score", "layer", "head"),
        labels={"score": tuple(SCORES)},
        quantity="head scores",
        definition=f"text: {data.origin}",
        scores=SCORES,
        sample=Sample(corpus=data.corpus, own_text=own, n=shown, seq_len=data.text.shape[1], seed=seed),
        provenance=provenance(
            model, text=data.origin, seq_len=data.text.shape[1], random_seq_len=data.induction.seq_len, n=n, seed=seed
        ),
        chance=chance,
        low=low,
        high=high,
        interval="t",
        tested="chance",
        untested=("copying", "anti_copying"),
        per_example=torch.stack(each, dim=-1) if kept else None,
    )


def _column(scores: Scores, name: str | None = None) -> Float[Tensor, "row layer head"]:
    """The rows of one score: its value, chance, low, high and `sure_low`, then the value of each sequence."""
    each = _double(scores.per_example)
    low = sure_low(each, looked_at=each.shape[-3] * each.shape[-2])
    five = [_double(t)[..., None] for t in (scores.values, scores.chance, scores.low, scores.high, low)]
    tensors = torch.cat([*five, each], dim=-1)
    column = tensors if name is None else tensors[scores.labels["score"].index(name)]
    return rearrange(column, "layer head row -> row layer head")


def _double(tensor: Float[Tensor, "*axes"] | None) -> Float[Tensor, "*axes"]:
    """A column that the result must have, in float64."""
    assert tensor is not None  # two and more sequences have an interval
    return tensor.double()


def _lower(
    one: Float[Tensor, "row layer head"], other: Float[Tensor, "other_row layer head"]
) -> Float[Tensor, "lower_row layer head"]:
    """Head by head the column with the lower value; without the sequences' rows if their numbers differ."""
    if len(one) != len(other):
        one, other = one[:5], other[:5]
    return torch.where(one[:1] <= other[:1], one, other)


def _writes(model: Hooked) -> Bool[Tensor, "layer head"]:
    """Whether each head writes more than next to nothing."""
    weights = head_weights(model)
    norm = (weights.v @ weights.o).norm(dim=(-2, -1))
    return norm > _WRITES * norm.max()


def _copying_scores(model: Hooked) -> Float[Tensor, "layer head"]:
    """The copying scores, on the CPU; 0 for heads that write next to nothing."""
    values = copying_score(model, method="eigenvalues").values.double()
    return values.where(_writes(model).cpu(), 0.0)
