"""Predictions of a task's sequences without some heads, many sets of heads at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from nanogpt_lens.core.choices import Ablation
from nanogpt_lens.heads.ablation import Head, Z, heads_replaced
from nanogpt_lens.heads.on_tasks import task_sequences
from nanogpt_lens.interventions.applying import edits_of
from nanogpt_lens.interventions.sources import mean_activations
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.model.access import Hooked, can_start, device_of, evaluating, next_token_loss, record, run
from nanogpt_lens.text.tasks import Task
from scripts.replication.measured import where

Heads: TypeAlias = tuple[Head, ...]

MODES: tuple[Ablation, ...] = ("mean", "resample", "zero")
"""What takes the place of a head's output: its mean over all positions of all sequences, its output at the
same position of another sequence, or nothing."""

_ROWS = 32  # sequences at a time: what a run needs stays in the cache


def without(
    model: Hooked, task: Task, sets: Sequence[Heads], modes: Sequence[Ablation], n: int, seed: int
) -> dict[str, Tensor]:
    """What a model predicts of a task's sequences without some heads, whose output z is replaced at all positions.

    Args:
        model, task, n, seed: as for `task_sequences`; at least 2 sequences for "resample".
        sets: of heads, each taken out together.
        modes: some of `MODES`.

    Returns:
        by mode, values [set, score, example] of three scores: accuracy and loss in nats where induction is required,
        and loss where nothing requires it and the place is not a trigger's first either; each sequence's values
        are linearised, see `ratio_per_example`.
    """
    drawn = task_sequences(model, task, n=n, seed=seed)
    tokens = torch.from_numpy(drawn.tokens).to(device_of(model))
    required = torch.from_numpy(drawn.required)[:, :-1]
    elsewhere = ~(required | torch.from_numpy(drawn.unseen)[:, :-1])
    rows = [slice(start, start + _ROWS) for start in range(0, n, _ROWS)]
    others = tokens.roll(n // 2, dims=0)
    names = {Z.hook_name(layer): Z for layer in range(model.cfg.n_layers)}
    found: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    with evaluating(model):
        means = mean_activations(model, [tokens[part] for part in rows], names) if "mean" in modes else {}
        for part in rows:
            kept = record(
                model, tokens[part], [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
            )
            other = record(model, others[part], names) if "resample" in modes else {}
            values = SourceValues(mean=means, other=other)
            for mode in modes:
                pieces = [_scored(_run(model, tokens[part], kept, heads, mode, values), tokens[part]) for heads in sets]
                found[mode].append(torch.stack(pieces).cpu())
    result = {}
    for mode, pieces in found.items():
        right, loss = torch.cat(pieces, 2).unbind(1)  # [set, example, pos]
        result[mode] = torch.stack([where(right, required), where(loss, required), where(loss, elsewhere)], 1)
    return result


def _run(
    model: Hooked,
    tokens: Tensor,
    kept: dict[str, Tensor],
    heads: Heads,
    mode: Ablation,
    values: SourceValues,
) -> Tensor:
    """Logits with the output of some heads replaced; layers before them are not run again."""
    replaced = heads_replaced(heads, "other" if mode == "resample" else mode)
    edits = edits_of(model, replaced, values)
    start = min((layer for layer, _ in heads), default=0)
    if start and can_start(model):
        return run(model, kept[f"blocks.{start}.hook_resid_pre"], edits, start=start)
    return run(model, tokens, edits)


def _scored(logits: Tensor, tokens: Tensor) -> Tensor:
    """Whether the likeliest next token is right, and the loss in nats [2, example, pos - 1]."""
    right = logits[:, :-1].argmax(-1) == tokens[:, 1:]
    return torch.stack([right.double(), next_token_loss(logits, tokens).double()])
