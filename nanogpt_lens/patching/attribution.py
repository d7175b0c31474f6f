"""Attribution patching: a gradient's estimate of what patching would change, for all sites at once.

The estimate for a site is (source - base) · ∂metric/∂activation, summed over the site: source is the
activation that would be patched in, base the one that is there. The gradient is taken at the base
point, or, with `ig_steps=m`, averaged by the trapezoid rule over m + 1 points from base to source (integrated
gradients, Sundararajan et al. 2017; on activations, Marks et al. 2024), all sites of a layer moving
together; then the estimates of a layer sum to the exact effect of patching it whole, as m grows.
It has the sign of the change: values near `PatchingResult.effect`. (EAP-IG's published code takes the
opposite sign and base point.)

Source: Nanda 2023, "Attribution Patching"; Syed, Rager & Conmy 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.choices import Activation, Direction, Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Edit, Hooked, Text, check_model, evaluating, has_hooks
from nanogpt_lens.patching.first_block import FirstBlock
from nanogpt_lens.patching.runner import CHUNK_TOKENS
from nanogpt_lens.patching.runs import SweepSetup, gradient, run_copies, set_up
from nanogpt_lens.results import AttributionResult, Sample
from nanogpt_lens.running.metrics import KL, BoundMetric, Loss, Metric


def attribution_patching(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    activation: Activation,
    axes: Sequence[str],
    direction: Direction = "denoise",
    ig_steps: int | None = None,
    source: Source = "other",
    reference: Text | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AttributionResult:
    """Estimate by gradient what `activation_patching` with the same arguments would change.

    Two forward passes and one backward pass for all sites; with `ig_steps`, one pass through the
    layers behind for each step and layer, steps batched.

    Args:
        model, clean, corrupted, metric, activation, axes, direction, source, reference, seed: as for
            `activation_patching`.
            "layer" must be among the axes: in a patch of all layers at once, each overwrites what the
            earlier ones do, which no sum of gradients says.
        ig_steps: None takes the gradient at the patched run alone; m averages it over m + 1 points.
        progress: show a bar over the layers, with `ig_steps`.

    Returns:
        `values` with the axes asked for: the estimated change of the metric, averaged over examples.

    Raises:
        AnalysisError: see `activation_patching`; `ig_steps` is no positive number; a metric without
            gradient.
    """
    if ig_steps is not None and (isinstance(ig_steps, bool) or not isinstance(ig_steps, int) or ig_steps < 1):
        raise AnalysisError(f"ig_steps is {ig_steps!r}; expected None for the plain gradient, or at least 1")
    check_gradients(model, axes)
    with evaluating(model):
        setup = set_up(
            model,
            clean,
            corrupted,
            metric,
            activation,
            axes,
            direction=direction,
            source=source,
            reference=reference,
            seed=seed,
            differentiable=ig_steps is None,
        )
        per_example = estimates(model, setup, ig_steps, progress)
    runs = setup.runs
    clean_value, corrupted_value = runs.values()
    denoise = runs.direction == "denoise"
    base, target = (corrupted_value, clean_value) if denoise else (clean_value, corrupted_value)
    points = "the gradient of the patched run" if ig_steps is None else f"the mean gradient of {ig_steps + 1} points"
    return AttributionResult(
        values=over_examples(per_example, runs.metric),
        axes=setup.axes,
        labels=setup.labels(model),
        quantity=f"estimated change of {runs.metric.definition}",
        definition=f"(source - base) · {points}: {setup.describe()}",
        patched=setup.kind.name,
        signed=True,
        sample=Sample(seed=setup.seed),
        provenance=setup.provenance(model, ig_steps=ig_steps),
        base=float(base if base is not None else clean_value),
        target=target,
        direction=runs.direction,
        lower_is_better=isinstance(runs.metric.function, KL | Loss),
        per_example=per_example if runs.metric.per_example else None,
    )


def over_examples(per_example: Float[Tensor, "*sites example"], metric: BoundMetric) -> Float[Tensor, "*sites"]:
    """Estimates without the examples: their mean, or for a bare callable the sum, which is its whole change."""
    return per_example.mean(-1) if metric.per_example else per_example.sum(-1)


def check_gradients(model: Hooked, axes: Sequence[str]) -> None:
    """Raise AnalysisError unless "layer" is among the axes, and the model can be differentiated."""
    check_model(model)
    if not isinstance(axes, Sequence) or "layer" not in axes:
        raise AnalysisError(
            f"gradients were asked for over {axes!r}; expected 'layer' among the axes, because a patch of all layers "
            "at once overwrites itself, which no sum of gradients describes: use activation_patching"
        )
    if next(model.parameters()).is_inference():
        raise AnalysisError("the model was loaded under torch.inference_mode() and has no gradients; load it outside")


def estimates(
    model: Hooked, setup: SweepSetup, ig_steps: int | None, progress: bool
) -> Float[Tensor, "*sites example"]:
    """The estimated effect at each site, whose dimensions are the swept axes in their order."""
    if ig_steps is None:
        return _effects(setup, _gradients_at_base(setup))
    layers = tqdm(setup.patched_in, desc="integrated gradients", unit="layer", delay=1, disable=not progress)
    return _effects(setup, {layer: _mean_gradient(model, setup, layer, ig_steps) for layer in layers})


def two_estimates(
    model: Hooked, setup: SweepSetup, first: FirstBlock | None
) -> tuple[Float[Tensor, "*sites example"], Float[Tensor, "*sites example"]]:
    """`estimates` by the gradient at the base point, and by integrated gradients of one step.

    Args:
        model, setup: as for `estimates`.
        first: makes the runs of the second where its shortcut is exact; None makes them through hook points.
    """
    base = _gradients_at_base(setup)
    mean = {}
    for layer, source in setup.patched_in.items():
        if first is None:
            end = _gradients_at(model, setup, layer, source[None])[0]
        else:
            end = _gradient_at_source(first, layer, source, setup.runs.metric)
        mean[layer] = (base[layer] + end) / 2
    return _effects(setup, base), _effects(setup, mean)


def _gradient_at_source(
    first: FirstBlock, layer: int, source: Float[Tensor, "example ..."], metric: BoundMetric
) -> Float[Tensor, "example ..."]:
    """The gradient of each example's metric where a layer's activation is `source`."""
    with torch.enable_grad():
        point = source.detach().clone().requires_grad_()
        logits = first.patched_with({layer: point}).logits(layer, {}, 1)
        return gradient(metric(logits).sum(), [point])[0]


def _effects(setup: SweepSetup, gradients: dict[int, Float[Tensor, "example ..."]]) -> Float[Tensor, "*sites example"]:
    """(source - base) times the gradient, summed over what is not swept."""
    base, source = setup.runs.activations, setup.patched_in
    change = torch.stack([gradients[layer] * (source[layer] - base[layer]) for layer in sorted(source)])
    present, order = ("layer", "example", *setup.kind.axes), (*setup.axes, "example")
    summed = [d for d in range(change.dim()) if d >= len(present) or present[d] not in order]
    kept = [name for name in present if name in order]
    total = change.sum(summed) if summed else change
    return rearrange(total, f"{' '.join(kept)} -> {' '.join(order)}")


def _gradients_at_base(setup: SweepSetup) -> dict[int, Float[Tensor, "example ..."]]:
    """The gradient of each example's metric in every layer, from one backward pass."""
    assert setup.runs.graph is not None, "set_up was not told that gradients are wanted"
    gradients = setup.runs.graph.gradients(setup.runs.metric)
    return {layer: gradients[setup.kind.hook_name(layer)] for layer in setup.patched_in}


def _mean_gradient(model: Hooked, setup: SweepSetup, layer: int, steps: int) -> Float[Tensor, "example ..."]:
    """The mean gradient on the way from base to source in one layer, by the trapezoid rule."""
    base, source = setup.runs.activations[layer], setup.patched_in[layer]
    weights = torch.full((steps + 1,), 1 / steps, dtype=base.dtype, device=base.device)
    weights[[0, -1]] /= 2
    alphas = torch.linspace(0, 1, steps + 1, dtype=base.dtype, device=base.device)
    at_once = 1 if has_hooks(model) else max(1, CHUNK_TOKENS // setup.runs.tokens.numel())
    shape = (-1, *(1,) * base.dim())
    mean = torch.zeros_like(base)
    for alpha, weight in zip(alphas.split(at_once), weights.split(at_once), strict=True):
        gradients = _gradients_at(model, setup, layer, base + alpha.view(shape) * (source - base))
        mean += (gradients * weight.view(shape)).sum(0)
    return mean


def _gradients_at(
    model: Hooked, setup: SweepSetup, layer: int, points: Float[Tensor, "point example ..."]
) -> Float[Tensor, "point example ..."]:
    """The gradient of each example's metric where a layer's activation is each of `points`."""
    kind, runs = setup.kind, setup.runs
    with torch.enable_grad():
        points = points.detach().clone().requires_grad_()
        edits: dict[str, Edit] = {kind.hook_name(layer): lambda _: points.flatten(0, 1)}
        begin = None if has_hooks(model) else layer
        logits = run_copies(model, runs.tokens, runs.base, len(points), edits, layer=begin)
        total = runs.metric(logits[:, :, list(runs.metric.reads)]).sum()  # examples do not meet: gradients stay apart
        return gradient(total, [points])[0]
