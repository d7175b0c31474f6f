"""What each part of a model is worth: the rise of the loss without it, and the grid that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanogpt_lens.model.access import evaluating, loss_per_token, n_tokens
from nanogpt_lens.patching.importance import head_importance, mlp_importance
from nanogpt_lens.reporting.face import GridRow, PartCell, PartGrid
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import at, interval, list_of, number, plural
from nanogpt_lens.results import HeadTaxonomy, Scores
from nanogpt_lens.text.corpus import open_corpus

FULL = 0.5
"""Nats: the darkest colour. It is the same on every page, so that two pages can be compared."""

BADGES = {
    "induction": "induction",
    "previous_token": "previous token",
    "duplicate_token": "same token",
    "copying": "copies",
}
"""The labels that stand in the grid, in plain words; the others say less of what a head is for."""

OTHER_LABELS = {
    "sink": "rests on the first token",
    "positional": "goes by position",
    "broad": "looks everywhere",
    "anti_copying": "lowers what it looks at",
}
"""The others, which stand in the line about a head."""

_EXACT_WORK = 3e11  # weights times heads times tokens that are ablated exactly
_MLP_WORK = 8e11  # weights times layers times tokens: seconds on a CPU
_N, _LEAST = 32, 4  # sequences


@dataclass(frozen=True, kw_only=True, eq=False)
class Worth:
    """The rises of the loss.

    Attributes:
        heads: without each head [layer, head], in nats per token.
        mlps: without each MLP [layer]; None where there is none.
        loss: of the intact model on the sequences of the MLPs.
        uniform: the loss of a uniform guess.
    """

    heads: Scores
    mlps: Scores | None
    loss: float
    uniform: float

    def ranked(self) -> list[PartRise]:
        """Every part, the largest rise first."""
        return sorted(self._parts(), key=lambda part: -part.value)

    def _parts(self) -> Iterator[PartRise]:
        for layer in range(self.heads.shape["layer"]):
            for head in range(self.heads.shape["head"]):
                yield _part(f"head {layer}.{head}", self.heads, (layer, head))
            if self.mlps is not None:
                yield _part(f"MLP {layer}", self.mlps, (layer,))


@dataclass(frozen=True, kw_only=True)
class PartRise:
    """A head or MLP, and the rise of the loss without it, with its interval."""

    name: str
    value: float
    low: float
    high: float


def _part(name: str, rises: Scores, place: tuple[int, ...]) -> PartRise:
    value = float(rises.values[place])
    low, high = at(rises.low, *place), at(rises.high, *place)
    return PartRise(name=name, value=value, low=value if low is None else low, high=value if high is None else high)


def worth_of(subject: Subject, heads: Scores | None = None) -> Worth:
    """The rises without each head and each MLP; of a large model on fewer sequences, which the grid says.

    Args:
        subject: whose model and text.
        heads: the rises without each head, where a section has measured them already.

    Raises:
        AnalysisError: the text is too short.
    """
    model = subject.model
    options: dict[str, Any] = {"seq_len": subject.seq_len, "seed": subject.seed, "progress": False}
    weights = sum(p.numel() for p in model.parameters())
    if heads is None:
        exact = weights * model.cfg.n_layers * model.cfg.n_heads * _N * subject.seq_len < _EXACT_WORK
        heads = head_importance(model, subject.corpus, n=_N, method="exact" if exact else "attribution", **options)
    n = max(_LEAST, min(_N, int(_MLP_WORK / (weights * model.cfg.n_layers * subject.seq_len))))
    mlps = None if model.cfg.attn_only else mlp_importance(model, subject.corpus, n=n, **options)
    tokens = open_corpus(model, subject.corpus).windows(seq_len=subject.seq_len, n=n, seed=subject.seed)
    with evaluating(model):
        loss = float(loss_per_token(model, tokens.to(next(model.parameters()).device)).double().mean())
    return Worth(heads=heads, mlps=mlps, loss=loss, uniform=math.log(n_tokens(model)))


def grid_of(worth: Worth, taxonomy: HeadTaxonomy | None, source: str) -> PartGrid:
    """The grid.

    Args:
        worth: the rises.
        taxonomy: what the heads do, for their badges.
        source: the text, in words.
    """
    rows = []
    for layer in reversed(range(worth.heads.shape["layer"])):
        heads = []
        for head in range(worth.heads.shape["head"]):
            labels = () if taxonomy is None else taxonomy.of(layer, head)
            heads.append(_cell(f"{layer}.{head}", f"Head {layer}.{head}", worth.heads, (layer, head), labels))
        name = f"MLP {layer}"
        mlp = None if worth.mlps is None else _cell(name, name, worth.mlps, (layer,), ())
        rows.append(GridRow(layer=layer, heads=tuple(heads), mlp=mlp))
    return PartGrid(
        title="What each part is worth: rise of the loss without it, in nats",
        rows=tuple(rows),
        high=f"{FULL:g} and more",
        how=_how(worth, source),
    )


def _cell(short: str, name: str, rises: Scores, place: tuple[int, ...], labels: tuple[str, ...]) -> PartCell:
    part = _part(name, rises, place)
    words = {**BADGES, **OTHER_LABELS}
    does = list_of([words.get(label, label.replace("_", " ")) for label in labels])
    size = interval(part.value, part.low, part.high)
    said = f"{name}: the loss rises by {size} nats without it"
    return PartCell(
        name=short,
        value=number(part.value, 2),
        share=round(max(0.0, min(1.0, part.value / FULL)), 3),
        words=f"{said}{'; ' + does if does else ''}.",
        badges=tuple(words for label, words in BADGES.items() if label in labels),
        sure=part.low > 0 or part.high < 0,
    )


def _how(worth: Worth, source: str) -> str:
    """What was done, on what, and what was estimated."""
    heads, mlps = worth.heads.sample, None if worth.mlps is None else worth.mlps.sample
    said = [
        "Each part's output is replaced by its mean over sequences and positions; the number is how much the loss "
        "rises, in nats per token."
    ]
    if heads is not None:
        estimated = worth.heads.provenance.get("method") == "attribution"
        why = ", estimated by gradients, because there are many" if estimated else ""
        sequences = plural(heads.n or 0, "sequence")
        said.append(f"Heads: {sequences} of {heads.seq_len} tokens of {source}, seed {heads.seed}{why}.")
        if mlps is not None:
            fewer = mlps.n != heads.n
            several = f"{plural(mlps.n or 0, 'sequence')}, fewer, because the model is large" if fewer else "the same"
            said.append(f"MLPs: {several}.")
    return " ".join(
        [
            *said,
            f"The intact model's loss there is {number(worth.loss)}. Pale with a grey number: the 95% interval holds "
            "zero. Two parts together need not cost the sum.",
        ]
    )
