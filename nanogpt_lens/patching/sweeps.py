"""Activation patching: what one activation of one run does in another (Meng et al. 2022; Heimersheim & Nanda 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from nanogpt_lens.core.choices import Activation, Direction, Source
from nanogpt_lens.interventions.sites import all_sites
from nanogpt_lens.model.access import Hooked, Text, evaluating
from nanogpt_lens.patching.runner import MEMORY, Engine, PatchRunner
from nanogpt_lens.patching.runs import fields_of_examples, set_up
from nanogpt_lens.results import PatchingResult, Sample
from nanogpt_lens.running.metrics import Metric


def activation_patching(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    activation: Activation,
    axes: Sequence[str],
    direction: Direction = "denoise",
    source: Source = "other",
    reference: Text | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    memory: int = MEMORY,
    progress: bool = True,
) -> PatchingResult:
    """Patch an activation at every site of a sweep, and measure what comes out.

    Exactly one run per site, as `transformer_lens.patching` makes it, but many at a time and without
    the work that all of them share.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        clean, corrupted: one text, several of one length, or ids [example, pos]; the same shape.
            `corrupted` may be None for ablations of the clean run.
        metric: such as `ngl.metrics.logit_diff(" Mary", " John")`, or any function from logits
            [example, pos, d_vocab] to one number.
        activation: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v (pos, head), pattern
            (head, dest_pos, src_pos), mlp_post or mlp_pre (pos, neuron).
        axes: which of "layer" and the activation's axes are swept, in the order of the result; along the
            others the activation is patched whole, without "layer" in all layers at once.
        direction: "denoise" patches the clean run's activation into the corrupted run, "noise" the
            corrupted run's into the clean one.
        source: what is patched in: "other", the activation of the other run; or an ablation: "zero",
            "mean" (over the reference's examples and positions; of a pattern over examples alone), or
            "resample" (another reference example's activation, drawn once for each example).
        reference: texts of the same length, for "mean" and "resample"; None for the patched run's own.
        seed: the seed of "resample", and of the flips that `p` is made of.
        engine: "auto" takes shortcuts where a check on the base run proves them exact; "hooks" makes
            every run through hook points. The values are the same but for rounding.
        memory: the bytes for the patched runs of a chunk, beside the activations of the two plain runs
            and a copy of the attention weights.
        progress: show a bar.

    Returns:
        `values` with the axes asked for, beside `recovery`, `effect`, `per_example`
        (None for a bare callable) and intervals.

    Raises:
        AnalysisError: texts of different shapes or longer than the context, an unknown activation,
            axis, direction or source, a metric that does not fit or returns no single number.
    """
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
        )
        runner = PatchRunner(model, setup, engine=engine, memory=memory)
        sites, shape = all_sites(model, setup.kind, setup.axes, setup.runs.tokens.shape[1])
        per_example = runner.values(sites, progress=progress).unflatten(0, shape)
    runs = setup.runs
    clean_value, corrupted_value = runs.values()
    return PatchingResult(
        **fields_of_examples(runs.metric, runs.base["logits"], per_example),
        axes=setup.axes,
        labels=setup.labels(model),
        quantity=f"{runs.metric.definition} after patching {setup.kind.name}",
        definition=setup.describe(),
        patched=setup.kind.name,
        sample=Sample(seed=setup.seed),
        provenance=setup.provenance(model, engine=runner.engine),
        clean=clean_value,
        corrupted=corrupted_value,
        direction=runs.direction,
    )
