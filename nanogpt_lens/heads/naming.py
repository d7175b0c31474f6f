"""From which score on a head earns a name, and why: the thresholds of `head_taxonomy`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.heads.attention import pattern_hook
from nanogpt_lens.heads.induction_rule import MARGIN, THRESHOLD, attention_without_repetition
from nanogpt_lens.model.access import Edit, Hooked, evaluating, look
from nanogpt_lens.model.weights import HeadWeights, embedding, head_weights, unembedding
from nanogpt_lens.results import Scores
from nanogpt_lens.running.batches import batches

_OF_SCORES: dict[str, float] = {
    "previous_token": 0.4,
    "duplicate_token": 0.4,
    "induction": THRESHOLD,
    "positional": 0.5,
    "sink": 0.4,
    "copying": 0.5,
    "anti_copying": 0.5,
    "broad": 0.85,
}

THRESHOLDS: dict[str, float] = {**_OF_SCORES, "line_break": 0.2}
"""The value that a score has to exceed, see `head_taxonomy`."""

REASONS = (
    "the default",
    f"{MARGIN} above uniform attention",
    f"{MARGIN} above what the head pays to the same places when nothing is repeated",
    "99% of the same heads with a random rotation between W_V and W_O stay below",
    "on text and random tokens, the head does not raise the logits of the tokens that it attends to",
    "on text and random tokens, the head does not lower the logits of the tokens that it attends to",
    "uniform attention is the default in this model: more than half of its heads attend that evenly",
    "as asked for",
    f"{MARGIN} above what the head gives to the same distances",
    f"not surely {MARGIN} more than to an earlier line break at the same distance, or not beyond chance",
)
"""Why a threshold is what it is; 0 for the default, `AS_ASKED`, and the last two of `line_break`."""

AS_ASKED, ABOVE_DISTANCE, NOT_BEYOND = 7, 8, 9

_ALIGNED = 0.99  # the quantile of the copying scores of randomly rotated heads
_ROTATED = 1000  # the number of randomly rotated heads, about


class Thresholds(NamedTuple):
    """Thresholds of every score of every head.

    Attributes:
        values: above which the score has to be; infinite where no score would do.
        reason: why, as an index into `REASONS`.
    """

    values: Float[Tensor, "score layer head"]
    reason: Int[Tensor, "score layer head"]


def thresholds_of(
    model: Hooked,
    scores: Scores,
    low: Float[Tensor, "score layer head"],
    *,
    matching: Scores,
    tokens: tuple[Int[Tensor, "text_example pos"], Int[Tensor, "example pos"]],
    n: int,
    seed: int,
    asked: Mapping[str, float],
) -> Thresholds:
    """The thresholds of the scores of `score_heads`, with their reasons.

    Args:
        model: the model.
        scores: the result of `score_heads`.
        low: the lower ends that hold for all heads together.
        matching: prefix matching on random tokens.
        tokens: sequences of text, and of random tokens.
        n, seed: the number of sequences, and the seed.
        asked: thresholds by name, which are taken as they are.
    """
    names = list(_OF_SCORES)
    assert scores.chance is not None  # of these scores it is known
    chance = dict(zip(names, scores.chance.double(), strict=True))
    induction, duplicate = attention_without_repetition(model, seq_len=matching.seq_len, n=n, seed=seed)
    rotated = _rotated_copying(model, scores.score("copying"), seed)
    raises, lowers = _raises_and_lowers(model, *tokens)
    floors: dict[str, list[tuple[int, Tensor]]] = {name: [(1, chance[name] + MARGIN)] for name in names}
    floors["induction"].append((2, induction + MARGIN))
    floors["duplicate_token"].append((2, duplicate + MARGIN))
    for name, does, reason in (("copying", raises, 4), ("anti_copying", lowers, 5)):
        floors[name] = [(3, torch.full_like(chance[name], rotated)), (reason, _infinite_unless(does))]
    even = low[names.index("broad")] > THRESHOLDS["broad"]
    most = 2 * int(even.sum()) > even.numel()
    floors["broad"] = [(6, _infinite_unless(torch.full_like(even, not most)))]
    values, reasons = [], []
    for name in names:
        kinds = [0, *(kind for kind, _ in floors[name])]
        levels = torch.stack([torch.full_like(chance[name], THRESHOLDS[name]), *(level for _, level in floors[name])])
        if name in asked:
            kinds, levels = [AS_ASKED], torch.full_like(levels[:1], asked[name])
        largest = levels.max(0)
        values.append(largest.values)
        reasons.append(torch.tensor(kinds)[largest.indices])
    return Thresholds(torch.stack(values), torch.stack(reasons))


def _infinite_unless(where: Bool[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
    """A threshold that nothing exceeds, and none where it is true."""
    return torch.where(where, -math.inf, math.inf).double()


def _raises_and_lowers(
    model: Hooked, text: Int[Tensor, "text_example pos"], noise: Int[Tensor, "example pos"]
) -> tuple[Bool[Tensor, "layer head"], Bool[Tensor, "layer head"]]:
    """Whether each head raises the logits of what it attends to, and whether it lowers them; by the interval."""
    weights, unembed = head_weights(model), unembedding(model)
    with evaluating(model):
        each = torch.cat([_raise_of_logits(model, tokens, weights, unembed) for tokens in (text, noise)], -1)
    ends = t_interval(each)
    assert ends is not None  # there are two sequences and more
    return ends[0].double() > 0, ends[1].double() < 0


def _raise_of_logits(
    model: Hooked,
    tokens: Int[Tensor, "example pos"],
    weights: HeadWeights,
    unembed: Float[Tensor, "d_model d_vocab"],
) -> Float[Tensor, "layer head example"]:
    """How much each head raises the logits of the tokens that it attends to, by the direct path.

    What the head writes from key j is mapped to logits. The raise is the logit of j's token minus the mean
    logit of the other tokens that the head attends to; it counts as much as the attention that j gets. It is
    measured before the final LayerNorm's scale, and 0 where a sequence is one token over and over.
    """
    pieces: list[Tensor] = []
    for rows in batches(model, tokens):
        ids = tokens[rows]
        kept: dict[str, Tensor] = {}

        def keep(name: str, kept: dict[str, Tensor] = kept) -> Edit:
            def edit(value: Tensor) -> None:  # of a pattern the mean over queries, [example, head, key]
                kept[name] = value.double().mean(2) if name.endswith("pattern") else value.double()

            return edit

        names = [(f"blocks.{layer}.ln1.hook_normalized", pattern_hook(layer)) for layer in range(model.cfg.n_layers)]
        look(model, ids, {name: keep(name) for pair in names for name in pair})
        other = ids[:, :, None] != ids[:, None, :]  # [example, key, token of the sequence]
        layers = []
        through_head = "example key d_read, head d_read d_head, head d_head d_model -> head example key d_model"
        onto_tokens = "head example key d_model, d_model example token -> head example key token"
        for layer, (stream, pattern) in enumerate(names):
            written = einsum(kept[stream], weights.v[layer], weights.o[layer], through_head)
            logits = einsum(written, unembed[:, ids], onto_tokens)
            attention = rearrange(kept[pattern], "example head key -> head example key")
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


def asked_thresholds(thresholds: Any) -> dict[str, float]:
    """The thresholds that the user gives, as numbers; AnalysisError unless each is one, and of a known score."""
    if thresholds is None:
        return {}
    if not isinstance(thresholds, Mapping):
        raise AnalysisError(f"thresholds is {thresholds!r}; expected a mapping such as {{'induction': 0.3}}")
    for name, number in thresholds.items():
        if name not in THRESHOLDS:
            raise AnalysisError(f"there is no score {name!r} to have a threshold; expected {', '.join(THRESHOLDS)}")
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise AnalysisError(f"the threshold of {name} is {number!r}; expected a number such as {THRESHOLDS[name]}")
    return {name: float(number) for name, number in thresholds.items()}
