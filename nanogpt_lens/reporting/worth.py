"""What each part of a model is worth: the rise of the loss without it, and the grid that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nanogpt_lens.core.head_jobs import job_of
from nanogpt_lens.model.access import evaluating, loss_per_token, n_tokens
from nanogpt_lens.patching.importance import head_importance, mlp_importance
from nanogpt_lens.reporting.face import GridRow, PartCell, PartGrid
from nanogpt_lens.reporting.part_rises import PartRise, parts_of
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import NEGLIGIBLE, interval, list_of, number, plural
from nanogpt_lens.results import HeadTaxonomy, Scores
from nanogpt_lens.text.corpus import open_corpus

LINEAR, FULL = 0.05, 5.0
"""Nats: up to about where the colour goes by the rise itself, and its end. Between them it goes by the logarithm, which
tells 4 nats and 0.4 apart as well as 0.4 and 0.04. Both are the same on every page: two pages can be compared."""

_TICKS = (0.0, 0.1, 0.5, 1.0, 2.0, FULL)

_SHOWN = ("induction", "previous_token", "duplicate_token", "copying")
"""The labels that stand in the grid; the others say less of what a head is for, and stand in the line about it."""

_N = 32  # sequences
_WORK = 1e12  # weights times heads times tokens
_FEWEST, _BRIEFEST = 8, 32  # sequences, and tokens of one, that the loss without each part is measured on at least
_BRIEFEST_OF_LARGE = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Worth:
    """The rises of the loss.

    Attributes:
        heads: without each head [layer, head], in nats per token.
        mlps: without each MLP [layer]; None where there is none.
        loss: of the intact model on the same sequences.
        uniform: the loss of a uniform guess.
    """

    heads: Scores
    mlps: Scores | None
    loss: float
    uniform: float

    def parts(self) -> Iterator[PartRise]:
        """Every part, by layer."""
        return parts_of(self.heads, self.mlps)


def importance_sample(subject: Subject) -> dict[str, int]:
    """The sequences on which every part is ablated, and their tokens: less of a model with many or large heads."""
    cfg, length = subject.model.cfg, subject.seq_len
    tokens = int(_WORK / (max(1, subject.n_params) * cfg.n_layers * cfg.n_heads))
    n, least = min(_N, max(_FEWEST, tokens // length)), _BRIEFEST_OF_LARGE if subject.is_large else _BRIEFEST
    return {"n": n, "seq_len": min(length, max(least, tokens // n))}


def worth_of(subject: Subject, heads: Scores | None = None) -> Worth:
    """The rises without each head and each MLP, on the same sequences.

    Args:
        subject: whose model and text.
        heads: the rises without each head, where a section has measured them already.

    Raises:
        AnalysisError: the text is too short.
    """
    model, seed = subject.model, subject.seed
    sample: dict[str, Any] = importance_sample(subject)
    if heads is None:
        heads = head_importance(model, subject.corpus, seed=seed, progress=False, **sample)
    if heads.sample is not None and heads.sample.n and heads.sample.seq_len:
        sample = {"n": heads.sample.n, "seq_len": heads.sample.seq_len}
    mlps = None
    if not model.cfg.attn_only:
        mlps = mlp_importance(model, subject.corpus, seed=seed, progress=False, **sample)
    tokens = open_corpus(model, subject.corpus).windows(seed=seed, **sample)
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
    parts, rows = {part.name: part for part in worth.parts()}, []
    for layer in reversed(range(worth.heads.shape["layer"])):
        heads = []
        for head in range(worth.heads.shape["head"]):
            labels = () if taxonomy is None else taxonomy.of(layer, head)
            heads.append(_cell(f"{layer}.{head}", parts[f"head {layer}.{head}"], labels))
        mlp = parts.get(f"MLP {layer}")
        rows.append(
            GridRow(layer=layer, heads=tuple(heads), mlp=None if mlp is None else _cell(f"MLP {layer}", mlp, ()))
        )
    return PartGrid(
        title="What each part is worth: rise of the loss, in nats, when its mean takes its place",
        rows=tuple(rows),
        ticks=tuple((_share(tick), f"{tick:g}{' and more' if tick == FULL else ''}") for tick in _TICKS),
        how=_how(worth, source, [cell for row in rows for cell in (*row.heads, *([row.mlp] if row.mlp else []))]),
    )


def _cell(short: str, part: PartRise, labels: tuple[str, ...]) -> PartCell:
    does = list_of([job_of(label).one for label in labels])
    name = part.name[0].upper() + part.name[1:]
    known = not math.isnan(part.value)
    falls = known and part.value <= -NEGLIGIBLE
    size = interval(-part.value, -part.high, -part.low) if falls else interval(part.value, part.low, part.high)
    said = (
        f"{name}: the loss {'falls' if falls else 'rises'} by {size} nats without it"
        if known
        else f"{name}: not measured"
    )
    sure = part.low > 0 or part.high < 0
    return PartCell(
        name=short,
        value=number(part.value, 2),
        share=_share(part.value) if known else 0.0,
        words=f"{said}{'; it ' + does if does else ''}.",
        badges=tuple(job_of(label).badge for label in _SHOWN if label in labels),
        sure=sure,
        falls=falls and sure,
        known=known,
    )


def _share(rise: float) -> float:
    """How much of the amber a rise has, from 0 to 1."""
    return round(min(1.0, math.log1p(max(0.0, rise) / LINEAR) / math.log1p(FULL / LINEAR)), 3)


def _how(worth: Worth, source: str, cells: Sequence[PartCell]) -> str:
    """What was done, and on what."""
    said = [
        "Each part's output is replaced by its mean over sequences and positions; the number is how much the loss "
        "rises, in nats per token."
    ]
    sample, where = worth.heads.sample, ""
    if sample is not None:
        where = f" on {plural(sample.n or 0, 'sequence')} of {sample.seq_len} tokens of {source}, seed {sample.seed}"
        said.append(f"Heads{' and MLPs' if worth.mlps is not None else ''} are measured{where}.")
    said.append(f"The intact model's loss there is {number(worth.loss)}.")
    said.append(f"The colour goes by the logarithm of {LINEAR:g} nats and the rise, from 0 to {FULL:g} nats.")
    said.append("Pale with a grey number: the part's own 95% interval holds zero.")
    said += (
        ["Rust edge: the loss surely falls without it, so that it works against the model."]
        if any(cell.falls for cell in cells)
        else []
    )
    said += ["Hatched: not measured."] if not all(cell.known for cell in cells) else []
    return " ".join([*said, "Two parts together need not cost the sum."])
