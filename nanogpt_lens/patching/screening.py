"""Screening: a gradient ranks all sites, exact patching verifies the first of them.

Gradients are cheap and often wrong; exact patching is right and costs a run per site. So all sites
are ranked by an estimate: the larger one of the gradient at the patched run and of integrated
gradients with one step, because each misses sites that the other finds. Those that rank first are
patched exactly, and so is a random sample of the others, which shows how far to trust the ranking:
it says how well estimate and effect agree, and how many large effects are likely to be left among
the sites that nobody verified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import default_of
from nanogpt_lens.core.choices import Activation, Direction, Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import all_sites
from nanogpt_lens.model.access import Hooked, Text, evaluating
from nanogpt_lens.patching.attribution import check_gradients, over_examples, two_estimates
from nanogpt_lens.patching.runner import MEMORY, Engine, PatchRunner
from nanogpt_lens.patching.runs import fields_of_examples, set_up
from nanogpt_lens.patching.trust import trust_of
from nanogpt_lens.results import Sample, ScreeningResult
from nanogpt_lens.running.metrics import Metric


def screen_and_verify(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    *,
    activation: Activation,
    axes: Sequence[str],
    k: int | None = None,
    verify: int | None = None,
    sample: int = 20,
    direction: Direction = "denoise",
    source: Source = "other",
    reference: Text | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    memory: int = MEMORY,
    progress: bool = True,
) -> ScreeningResult:
    """The sites with the largest effects, exactly, without patching all of them.

    Args:
        model, clean, corrupted, metric, activation, axes, direction, source, reference, engine, memory,
            progress: as for `activation_patching`.
        k: the number of top sites that are looked for; None for 20, or as many as there are (or are verified).
        verify: the number of first ranks that are patched exactly; None for 3 k.
        sample: the number of other sites that are patched too, drawn at random.
        seed: the seed of the sample (and of "resample").

    Returns:
        `values`, exact where `verified`; `estimate`; and `recall_low`, `recall_among_patched`, `recall_curve`,
        `missed` and `correlation`, which say how far to trust the ranking.

    Raises:
        AnalysisError: see `activation_patching`; `k`, `verify` or `sample` are out of range.
    """
    _n_first_ranks(1 if k is None else k, verify, sample)  # what was asked for, before the work
    check_gradients(model, axes)
    with evaluating(model):
        options = {"direction": direction, "source": source, "reference": reference, "seed": seed}
        setup = set_up(model, clean, corrupted, metric, activation, axes, differentiable=True, **options)
        runs = setup.runs
        runner = PatchRunner(model, setup, engine=engine, memory=memory)
        both = two_estimates(model, setup, runner.first if runner.fast else None)
        guess, mean = (over_examples(g, runs.metric).flatten().cpu() for g in both)
        size = torch.maximum(guess.abs(), mean.abs())
        sites, shape = all_sites(model, setup.kind, setup.axes, runs.tokens.shape[1])
        k = default_of(k, 20 if verify is None else min(20, verify), sites.n)
        if k > sites.n:
            raise AnalysisError(f"k is {k}, but there are {sites.n} sites; expected fewer")
        first = _n_first_ranks(k, verify, sample)
        chosen, drawn = _first_and_drawn(size, first, sample, seed)
        index = torch.cat([chosen, drawn])
        exact = runner.values(sites.take(index), progress=progress)
    clean_value, corrupted_value = runs.values()
    base = float(runner.base_value.double().mean())
    trust = trust_of(guess, index, exact.mean(-1).cpu() - base, size=size, n_first=len(chosen), k=k)
    values = (base + guess).index_put((index,), exact.mean(-1).cpu()).view(shape)
    unknown = torch.full_like(guess, torch.nan)
    fields = fields_of_examples(runs.metric, runs.base["logits"], exact)
    ends = {name: fields[name] for name in ("low", "high", "effect_low", "effect_high") if name in fields}
    return ScreeningResult(
        values=values,
        axes=setup.axes,
        labels=setup.labels(model),
        quantity=f"{runs.metric.definition} after patching {setup.kind.name}",
        definition=_definition(len(chosen), len(drawn), sites.n, setup.describe()),
        patched=setup.kind.name,
        sample=Sample(n=len(runs.tokens), seed=setup.seed),
        provenance=setup.provenance(model, k=k, verify=first, sample=sample, engine=runner.engine),
        clean=clean_value,
        corrupted=corrupted_value,
        direction=runs.direction,
        interval=fields.get("interval", ""),
        **{name: unknown.index_put((index,), end).view(shape) for name, end in ends.items()},
        estimate=guess.view(shape),
        verified=_mask(index, sites.n).view(shape),
        sampled=_mask(drawn, sites.n).view(shape),
        k=k,
        **trust,
    )


def _definition(first: int, drawn: int, sites: int, patch: str) -> str:
    """What is exact and what is estimated, in words."""
    return (
        f"exact for the first {first} of {sites} sites by gradient and for {drawn} drawn from the rest, base + "
        f"estimate elsewhere: {patch}"
    )


def _n_first_ranks(k: int, verify: int | None, sample: int) -> int:
    """The number of sites that rank highest and are patched exactly: `verify`, or three times `k`."""
    first = verify if verify is not None else 3 * k if isinstance(k, int) else 0
    if not all(isinstance(n, int) for n in (k, first, sample)) or k < 1 or first < k or sample < 0:
        raise AnalysisError(
            f"k={k}, verify={verify}, sample={sample}; expected whole numbers, 1 <= k <= verify and sample >= 0"
        )
    return first


def _first_and_drawn(
    size: Float[Tensor, " site"], verify: int, sample: int, seed: int
) -> tuple[Int[Tensor, " first"], Int[Tensor, " drawn"]]:
    """The sites that rank first, and some of the others at random."""
    order = size.argsort(descending=True, stable=True)
    rest = order[verify:]
    generator = torch.Generator().manual_seed(seed)
    return order[:verify], rest[torch.randperm(len(rest), generator=generator)[:sample]]


def _mask(index: Int[Tensor, " index"], n: int) -> Bool[Tensor, " site"]:
    """Which of `n` sites are among some."""
    return torch.zeros(n, dtype=torch.bool).index_fill(0, index, True)
