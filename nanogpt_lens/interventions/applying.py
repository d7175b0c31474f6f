"""Interventions at work: closures on hook points, there while a context is open and gone afterwards.

with apply(model, [Intervention("z", layer=1, head=0), Intervention.at("mlp0", "mean")]):
    logits, cache = model.run_with_cache(tokens)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.edges import edge_edits
from nanogpt_lens.interventions.fitting import check_fits, hook_points, place_index, source_points
from nanogpt_lens.interventions.intervention import Intervention, Interventions, as_interventions
from nanogpt_lens.interventions.sites import KINDS, Kind
from nanogpt_lens.interventions.sources import check_mean, mean_activations
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.model.access import Edit, Hooked, Text, as_tokens, check_model, editing, evaluating, record


@contextmanager
def apply(
    model: Hooked,
    interventions: Interventions,
    *,
    other: Text | None = None,
    reference: Text | None = None,
    seed: int = 0,
) -> Iterator[Hooked]:
    """Make interventions in every run of the model while the context is open.

    Everything that runs the model's hook points sees them: calling it, `run_with_cache`, `ngl.generate`. Several at
    one hook point are made in their order, after what an edge changes there. The hooks are gone afterwards, also after
    an exception.

    Args:
        model: the model.
        interventions: one, several, or their JSON.
        other: the text whose run "other" takes activations from, of the runs' own length; run once, here.
        reference: the texts that "mean" averages and "resample" draws from, run once, here; None for the examples of
            each run itself, as they arrive at the hook point, after the interventions before it. The mean pattern of
            sequences that are longer than the run's is cut to its length, which is exact because attention is causal.
        seed: the seed of "resample".

    Yields:
        the model.

    Raises:
        AnalysisError: an intervention that does not fit the model, or has no run to take its source from; while
            running: a position that the text does not have, another run of another shape.
    """
    some = as_interventions(interventions)
    check_whole(seed=seed)
    check_model(model)
    for one in some:
        check_fits(model, one)
    texts = [
        None if t is None else as_tokens(model, t, name=n) for t, n in ((other, "other"), (reference, "reference"))
    ]
    with evaluating(model):
        values = source_values(model, some, other=texts[0], reference=texts[1], seed=seed)
    with editing(model, edits_of(model, some, values)):
        yield model


def source_values(
    model: Hooked,
    interventions: Sequence[Intervention],
    *,
    other: Int[Tensor, "other_example other_pos"] | None,
    reference: Int[Tensor, "example pos"] | None,
    same_run: bool = False,
    seed: int = 0,
) -> SourceValues:
    """What the sources put in place, from a run of `other` and of `reference` in the model as it is.

    Raises:
        AnalysisError: an intervention takes another run's activations, and there is none.
    """
    names: dict[str, dict[str, Kind]] = {"other": {}, "mean": {}, "resample": {}}
    for one in interventions:
        if isinstance(one.source, str) and one.source in names:
            names[one.source] |= source_points(model, one)
    if names["other"] and other is None:
        raise AnalysisError("the source is 'other' and there is no other run; give other=, a text")
    if same_run and reference is not None:
        for kind in names["mean"].values():
            check_mean(kind, len(reference), same_run=True)
    taken = record(model, other, names["other"]) if other is not None and names["other"] else {}
    means = mean_activations(model, [reference], names["mean"]) if reference is not None and names["mean"] else {}
    rows = record(model, reference, names["resample"]) if reference is not None and names["resample"] else {}
    return SourceValues(other=taken, mean=means, reference=rows, same_run=same_run, seed=seed)


def edits_of(model: Hooked, interventions: Sequence[Intervention], values: SourceValues) -> dict[str, Edit]:
    """By hook point what makes the interventions there, in their order; they are known to fit the model.

    What a receiver makes of changed edges comes before all else at its hook point; the logits read the last stream
    after all else there; what is recorded for edges comes last.
    """
    entering, recording = edge_edits(model, [one for one in interventions if one.edge], values)
    last = KINDS["resid_post"].hook_name(model.cfg.n_layers - 1)
    logits = entering.pop(last, None)
    edits: dict[str, list[Edit]] = {name: [edit] for name, edit in entering.items()}
    for one in interventions:
        for name, kind in ({} if one.edge else hook_points(model, one)).items():
            edits.setdefault(name, []).append(_edit(one, kind, name, values))
    if logits is not None:
        edits.setdefault(last, []).append(logits)
    for name, edit in recording.items():
        edits.setdefault(name, []).append(edit)
    return {name: _in_order(several) for name, several in edits.items()}


def _in_order(edits: Sequence[Edit]) -> Edit:
    """One edit that makes several, in their order."""
    if len(edits) == 1:
        return edits[0]

    def edit(value: Float[Tensor, "example ..."]) -> Float[Tensor, "example ..."]:
        for one in edits:
            new = one(value)
            value = value if new is None else new
        return value

    return edit


def _edit(one: Intervention, kind: Kind, name: str, values: SourceValues) -> Edit:
    """The edit of a hook point that makes one intervention there."""

    def edit(value: Float[Tensor, "example ..."]) -> Float[Tensor, "example ..."]:
        index = place_index(one, kind, value.shape)
        changed = value.clone()
        if one.source == "zero":
            changed[index] = 0.0
        elif isinstance(one.source, str):
            new = values.put(one.source, kind, name, value).to(value).expand_as(value)
            changed[index] = new[index]
        elif direction is None:
            changed[index] *= scale
        else:
            changed[index] += direction.to(value)
        return changed

    plain: Mapping[str, Any] = {} if isinstance(one.source, str) else one.source
    scale = plain.get("scale", 1.0)
    direction = scale * torch.tensor(plain["add"], dtype=torch.float64) if "add" in plain else None
    return edit
