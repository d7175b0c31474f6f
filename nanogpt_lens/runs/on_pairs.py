"""An analysis of prompt pairs as a function of the model alone: the pairs are made once, the same for every stage.

The metric is the logit difference of the pairs' answers. What is followed is the effect, and not the metric after a
patch: that one rises with the model, whatever the patch does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from nanogpt_lens.catalogue import Analysis
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.results import AttributionResult, PatchingResult, Sample, Scores
from nanogpt_lens.running.metrics import logit_diff_of
from nanogpt_lens.text.pair import Pair
from nanogpt_lens.text.task import TASK_NAME
from nanogpt_lens.text.task_pairs import NAMES, pairs_by_name
from nanogpt_lens.text.tasks import read_task

_MADE_BY = ("n", "seq_len", "seed")
"""The options that pairs are made by."""


def takes_pairs(analysis: Analysis) -> bool:
    """Whether prompts and a metric are all that an analysis needs, and it gives effects."""
    return analysis.needs() == ("clean", "corrupted", "metric") and analysis.result in (
        PatchingResult.__name__,
        AttributionResult.__name__,
    )


def pairs_for(model: Hooked, folder: Path, pairs: Pair | str | None, options: Mapping[str, Any]) -> Pair:
    """The pairs that all stages are measured on.

    Args:
        model: of the last stage, for its vocabulary and context.
        folder: of the run.
        pairs: pairs that were made before; what `pairs_by_name` knows by a word; None for those of the task in the
            folder's `task.json`, or of "induction" without that file and for a task that has no pairs.
        options: of the measure; n, seq_len and seed make the pairs.

    Raises:
        AnalysisError: it is none of these, or n or seq_len are given for pairs that were made before.
    """
    given = {name: options[name] for name in _MADE_BY if name in options}
    if isinstance(pairs, Pair):
        if strays := [name for name in given if name != "seed"]:
            raise AnalysisError(f"{strays[0]} was given with pairs that are made already; leave it out")
        return pairs
    if pairs is not None and not isinstance(pairs, str):
        raise AnalysisError(f"pairs is {pairs!r}; expected prompt pairs, the name of a task, or None for the run's own")
    has_pairs = (folder / TASK_NAME).is_file() and read_task(folder).kind in NAMES
    own = str(folder) if has_pairs else "induction"
    return pairs_by_name(model, own if pairs is None else pairs, **given)


def on_pairs(analysis: Analysis, pairs: Pair, options: Mapping[str, Any]) -> Callable[[Hooked], Scores]:
    """A function from a model to the effects that an analysis finds on the pairs.

    Raises:
        AnalysisError: an option that the analysis does not have.
    """
    own = {name: value for name, value in options.items() if name in analysis.options() or name not in _MADE_BY}
    analysis.check(own)
    metric = logit_diff_of(pairs)

    def measure(model: Hooked) -> Scores:
        found = analysis.call(model, pairs.clean, pairs.corrupted, metric, progress=False, **own)
        return _effects(found, pairs)

    return measure


def fingerprint_of(pairs: Pair) -> str:
    """A hash of the pairs' tokens."""
    tensors = (pairs.clean, pairs.corrupted, pairs.answer, pairs.wrong)
    content = b"".join(t.cpu().long().contiguous().numpy().tobytes() for t in tensors)
    return f"{list(pairs.clean.shape)} {sha256(content).hexdigest()}"


def _effects(found: PatchingResult | AttributionResult, pairs: Pair) -> Scores:
    """Effects with their intervals over the prompts, and those of each prompt."""
    sample = replace(found.sample or Sample(), n=len(pairs.clean), seq_len=pairs.clean.shape[1])
    meaning = found.meaning() | {
        "quantity": "effect on the logit difference",
        "unit": "logits",
        "signed": True,
        "sample": sample,
    }
    columns: dict[str, Any] = {"values": found.effect, "per_example": found.per_example}
    if isinstance(found, PatchingResult):
        changes = found.differences()
        columns |= {
            "low": found.effect_low,
            "high": found.effect_high,
            "per_example": None if changes is None else changes[0],
        }
    return Scores(**columns, axes=found.axes, labels=found.labels, **meaning, provenance=found.provenance)
