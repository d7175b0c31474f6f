"""What each head does: eight scores, and the names that a head earns by them.

Each score is measured where it means something: what a head does with repetition on random repeated
tokens, where nothing else can explain it; where it looks, on text. A head is called `positional` or
`broad` only for what it does on text and on random tokens alike, because both say that content
makes no difference, and text may be too uniform to show one. A head may earn several names, or none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import bootstrap
from nanogpt_lens.heads.attention import attention_patterns, pattern_hook, statistics_of
from nanogpt_lens.heads.copying import copying_score
from nanogpt_lens.heads.induction import prefix_matching, repeated_and_unrepeated
from nanogpt_lens.model.access import Edit, Hooked, evaluating, provenance, run
from nanogpt_lens.model.weights import embedding, head_weights, unembedding
from nanogpt_lens.results import HeadTaxonomy, Sample, Scores
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, name_of, text_sample
from nanogpt_lens.text.prompts import random_tokens, repeated_tokens

SCORES: dict[str, str] = {
    "previous_token": "attention to the position before, on text",
    "duplicate_token": "attention to earlier occurrences of the query's token, on random repeated tokens",
    "induction": "prefix matching, stripe convention, on random repeated tokens",
    "positional": "share of the squared deviation from uniform attention that all sequences have in common, "
    "on text or on random tokens, whichever is lower",
    "sink": "attention to position 0, on text",
    "copying": "sum(Re λ) / sum(|λ|) of the full OV circuit, 0 for heads that write next to nothing",
    "anti_copying": "minus copying",
    "broad": "entropy divided by that of uniform attention, on text or on random tokens, whichever is lower",
}
"""The name and definition of every score."""

THRESHOLDS: dict[str, float] = {
    "previous_token": 0.4,
    "duplicate_token": 0.4,
    "induction": 0.4,
    "positional": 0.5,
    "sink": 0.4,
    "copying": 0.5,
    "anti_copying": 0.5,
    "broad": 0.85,
}
"""The value that a score has to exceed, see `head_taxonomy`."""

_MARGIN = 0.1  # how far attention must be above what needs no explanation
_WRITES = 0.01  # a head whose W_V W_O has less than this share of the largest norm writes next to nothing
_ALIGNED = 0.99  # the quantile of the copying scores of randomly rotated heads
_ROTATED = 1000  # the number of randomly rotated heads, about


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
        seed: the seed of all sequences and of the bootstrap.

    Returns:
        Scores [score, layer, head], with `chance` under uniform causal attention on the same
        tokens, and 95% bootstrap intervals over the sequences.

    Raises:
        AnalysisError: the context has fewer than 4 tokens; or see `attention_statistics`.

    Sources: Olsson et al. 2022, "In-context Learning and Induction Heads" (previous token, induction);
    Wang et al. 2022, "Interpretability in the Wild" (duplicate token); Elhage et al. 2021, "A
    Mathematical Framework for Transformer Circuits" (copying); Xiao et al. 2023, "Efficient Streaming
    Language Models with Attention Sinks" (sink).
    """
    return _scores(model, _data(model, corpus, seq_len, n, seed))


def head_taxonomy(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    thresholds: Mapping[str, float] | None = None,
    seq_len: int | None = None,
    n: int = 64,
    seed: int = 0,
) -> HeadTaxonomy:
    """The names of every head: those whose score, and the whole interval of it, exceed a threshold.

    The thresholds, and their sources:

    - previous_token, sink, induction: 0.4, as ARENA's head detectors have it; duplicate_token alike.
    - positional: 0.5. Most of what the head does other than attend uniformly ignores content.
    - copying, anti_copying: 0.5, three quarters of the eigenvalues' weight on one side, if they are real.
    - broad: 0.85, from glassbox' "uniform"; of 64 keys, the entropy of attending to 34.

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
        The scores of `score_heads`, with `threshold` and `carries`; ask `.of(layer, head)` or
        `.heads("induction")`.

    Raises:
        AnalysisError: a threshold has an unknown name, or is not a number; see `score_heads`.
    """
    chosen = _thresholds(thresholds)
    data = _data(model, corpus, seq_len, n, seed)
    scores = _scores(model, data)
    defaults = torch.tensor([THRESHOLDS[name] for name in SCORES], dtype=torch.float64)[:, None, None]
    threshold = torch.maximum(defaults, _floors(model, scores, data))
    for name, number in chosen.items():
        threshold[list(SCORES).index(name)] = number
    low = _double(scores.low)
    return HeadTaxonomy(
        values=scores.values,
        axes=scores.axes,
        labels=scores.labels,
        quantity="head scores and names",
        scores=scores.scores,
        sample=scores.sample,
        definition=f"{scores.definition}; a head has a name if the score's 95% interval is above the threshold",
        provenance=provenance(model, **{**scores.provenance["arguments"], "thresholds": chosen}),
        chance=scores.chance,
        low=scores.low,
        high=scores.high,
        per_example=scores.per_example,
        threshold=threshold,
        carries=(scores.values > threshold) & (low > threshold),
    )


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
    text, origin = text_sample(model, corpus, seq_len=seq_len, n=n, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    noise = random_tokens(model, n, text.shape[1], repeats="allow", generator=generator)
    return _Data(
        text=text,
        noise=noise,
        origin=origin,
        corpus=None if corpus is None else name_of(corpus, model),
        induction=prefix_matching(model, n=n, convention="stripe", seed=seed),
        n=n,
        seed=seed,
    )


def _scores(model: Hooked, data: _Data) -> Scores:
    """The result of `score_heads`."""
    n, seed = data.n, data.seed
    seq_len = data.induction.seq_len
    repeated = repeated_tokens(model, seq_len=seq_len, n=n, seed=seed)
    on_text = statistics_of(model, data.text, origin=data.origin, seed=seed)
    on_noise = statistics_of(model, data.noise, origin="random tokens", seed=seed)
    on_repeated = statistics_of(model, repeated, origin="random repeated tokens", seed=seed)
    copying = _copying_scores(model)
    none = torch.zeros_like(copying)
    weights = torch.stack([copying, none, copying, copying, *copying.expand(n, *copying.shape)])
    columns = {
        "previous_token": _column(on_text, "previous_token"),
        "duplicate_token": _column(on_repeated, "duplicate_token"),
        "induction": _column(data.induction),
        "positional": _lower(_column(on_text, "positional"), _column(on_noise, "positional")),
        "sink": _column(on_text, "sink"),
        "copying": weights,
        "anti_copying": none - weights,
        "broad": _lower(_column(on_text, "normalized_entropy"), _column(on_noise, "normalized_entropy")),
    }
    kept = len({len(column) for column in columns.values()}) == 1  # as many sequences of text as of random tokens
    values, chance, low, high, *each = torch.stack([columns[name][: None if kept else 4] for name in SCORES], dim=1)
    return Scores(
        values=values,
        axes=("score", "layer", "head"),
        labels={"score": tuple(SCORES)},
        quantity="head scores",
        definition=f"text: {data.origin}",
        scores=SCORES,
        sample=Sample(corpus=data.corpus, own_text=data.corpus is None, n=n, seq_len=data.text.shape[1], seed=seed),
        provenance=provenance(
            model, text=data.origin, seq_len=data.text.shape[1], random_seq_len=seq_len, n=n, seed=seed
        ),
        chance=chance,
        low=low,
        high=high,
        per_example=torch.stack(each, dim=-1) if kept else None,
    )


def _column(scores: Scores, name: str | None = None) -> Float[Tensor, "row layer head"]:
    """The rows of one score: its value, chance, low and high, then the value of each sequence."""
    four = [_double(t)[..., None] for t in (scores.values, scores.chance, scores.low, scores.high)]
    tensors = torch.cat([*four, _double(scores.per_example)], dim=-1)
    return (tensors if name is None else tensors[scores.labels["score"].index(name)]).movedim(-1, 0)


def _double(tensor: Float[Tensor, "*axes"] | None) -> Float[Tensor, "*axes"]:
    """A column that the result must have, in float64."""
    assert tensor is not None  # two and more sequences have an interval
    return tensor.double()


def _lower(
    one: Float[Tensor, "row layer head"], other: Float[Tensor, "other_row layer head"]
) -> Float[Tensor, "lower_row layer head"]:
    """Head by head the column with the lower value; without the sequences' rows if their numbers differ."""
    if len(one) != len(other):
        one, other = one[:4], other[:4]
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


def _floors(model: Hooked, scores: Scores, data: _Data) -> Float[Tensor, "score layer head"]:
    """The values that the scores could have without the reason that their name gives."""
    floors = dict(zip(SCORES, _double(scores.chance) + _MARGIN, strict=True))
    floors["broad"] = torch.zeros_like(floors["broad"])  # here chance is what the name says
    seq_len = data.induction.seq_len
    _, unrepeated = repeated_and_unrepeated(model, seq_len=seq_len, n=min(data.n, 16), seed=data.seed)
    patterns = attention_patterns(model, unrepeated).values  # [example, layer, head, dest_pos, src_pos]
    for name, back in (("induction", seq_len - 1), ("duplicate_token", seq_len)):
        stripe = patterns.diagonal(offset=-back, dim1=-2, dim2=-1)[..., seq_len - back :]  # second-half queries
        floors[name] = torch.maximum(floors[name], stripe.double().mean(dim=(0, -1)) + _MARGIN)
    by_chance = _rotated_copying(model, scores.score("copying"), data.seed)
    with evaluating(model):
        raise_of_logits = torch.cat([_raise_of_logits(model, data.text), _raise_of_logits(model, data.noise)], -1)
    low, high = _interval(raise_of_logits, data.seed)
    floors["copying"] = torch.where(low > 0, by_chance, math.inf)
    floors["anti_copying"] = torch.where(high < 0, by_chance, math.inf)
    return torch.stack([floors[name] for name in SCORES])


def _interval(
    per_example: Float[Tensor, "layer head example"], seed: int
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Both ends of the 95% bootstrap interval of the mean, in float64."""
    ends = bootstrap(per_example, seed=seed)
    return _double(ends[0] if ends else None), _double(ends[1] if ends else None)


def _raise_of_logits(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "layer head example"]:
    """How much each head raises the logits of the tokens that it attends to, by the direct path.

    What the head writes from key j is mapped to logits. The raise is the logit of j's token minus the mean
    logit of the other tokens that the head attends to; it counts as much as the attention that j gets. It is
    measured before the final LayerNorm's scale, and 0 where a sequence is one token over and over.
    """
    weights, unembed = head_weights(model), unembedding(model)
    pieces: list[Tensor] = []
    for rows in batches(model, tokens):
        ids = tokens[rows]
        kept: dict[str, Tensor] = {}

        def keep(name: str, kept: dict[str, Tensor] = kept) -> Edit:
            def edit(value: Tensor) -> None:  # of a pattern the mean over queries, [example, head, key]
                kept[name] = value.double().mean(2) if name.endswith("pattern") else value.double()

            return edit

        names = [(f"blocks.{layer}.ln1.hook_normalized", pattern_hook(layer)) for layer in range(model.cfg.n_layers)]
        run(model, ids, {name: keep(name) for pair in names for name in pair})
        other = ids[:, :, None] != ids[:, None, :]  # [example, key, token of the sequence]
        layers = []
        for layer, (stream, pattern) in enumerate(names):
            written = torch.einsum("bjm,hmd,hdn->hbjn", kept[stream], weights.v[layer], weights.o[layer])
            logits = torch.einsum("hbjn,nbk->hbjk", written, unembed[:, ids])
            attention = kept[pattern].transpose(0, 1)  # [head, example, key]
            among = attention[:, :, None, :] * other
            usual = (logits * among).sum(-1) / among.sum(-1)
            gain = (logits.diagonal(dim1=-2, dim2=-1) - usual) * attention
            layers.append(gain.where(among.sum(-1) > 0, 0.0).sum(-1))
        pieces.append(torch.stack(layers))
    return torch.cat(pieces, -1)


def _rotated_copying(model: Hooked, copying: Float[Tensor, "layer head"], seed: int) -> float:
    """A high quantile of the copying scores of the heads with W_V R W_O, R a random rotation.

    R and -R give opposite scores, so that the same quantile is one of anti-copying.
    """
    weights = head_weights(model)
    some = copying.to(weights.o.device) != 0
    if not some.any():
        return 0.0
    read = (unembedding(model) @ embedding(model)) @ weights.v[some]
    write = weights.o[some]  # [head, d_head, d_model]
    generator = torch.Generator().manual_seed(seed)
    scores_of_rotations = []
    for _ in range(math.ceil(_ROTATED / len(write))):
        noise = torch.randn(write.shape[0], write.shape[1], write.shape[1], dtype=torch.float64, generator=generator)
        rotation = torch.linalg.qr(noise)[0].to(write.device)
        eigenvalues = torch.linalg.eigvals(rotation @ write @ read)
        scores_of_rotations.append(eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1))
    scores = torch.cat(scores_of_rotations)
    return float(torch.cat([scores, -scores]).quantile(_ALIGNED))


def _thresholds(thresholds: Any) -> dict[str, float]:
    """The thresholds that the user gives, as numbers; AnalysisError unless each is one, and of a known score."""
    if thresholds is None:
        return {}
    if not isinstance(thresholds, Mapping):
        raise AnalysisError(f"thresholds is {thresholds!r}; expected a mapping such as {{'induction': 0.3}}")
    for name, number in thresholds.items():
        if name not in SCORES:
            raise AnalysisError(f"there is no score {name!r} to have a threshold; expected {', '.join(SCORES)}")
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise AnalysisError(f"the threshold of {name} is {number!r}; expected a number such as {THRESHOLDS[name]}")
    return {name: float(number) for name, number in thresholds.items()}
