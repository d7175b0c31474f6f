"""Claim 7: ordinary character-level Shakespeare, its heads over training, and whether induction forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanogpt_lens.heads.induction import prefix_matching, repeated_sequence_loss
from nanogpt_lens.heads.taxonomy import head_taxonomy
from nanogpt_lens.losses.on_text import in_context_learning_score
from nanogpt_lens.results import HeadTaxonomy, Scores, Trajectory
from nanogpt_lens.runs.change_points import find_change_point
from nanogpt_lens.runs.trajectory import trajectory
from scripts.replication.formation import change

N = 32


def final(model: Any, text: Any) -> dict[str, Any]:
    """Claim 7 for the last checkpoint of a seed."""
    matching = prefix_matching(model, n=N)
    layer, head = divmod(int(matching.values.argmax()), matching.shape["head"])
    taxonomy = head_taxonomy(model, text, n=N)
    context = in_context_learning_score(model, text)
    repeated = repeated_sequence_loss(model, n=64)
    return {
        "prefix_matching": {"head": f"{layer}.{head}", **_numbers(matching, (layer, head))},
        "names_by_layer": by_layer(taxonomy),
        "names": {f"{i}.{j}": list(taxonomy.of(i, j)) for i, j in _heads(taxonomy)},
        "in_context_learning": _numbers(context, (0,)),
        "gain_on_repeated_random_tokens": _gain(repeated),
    }


def over_training(path: Any, text: Any) -> dict[str, Any]:
    """Claim 7 for the seed with stages: the highest of each score, the names, and the verdict."""
    matching = trajectory(path, "prefix_matching", n=N, progress=False)
    taxonomies: dict[int, HeadTaxonomy] = {}

    def scores(model: Any) -> Scores:
        found = head_taxonomy(model, text, n=N)
        taxonomies[model.nanogpt_origin.iter_num] = found
        return found

    heads = trajectory(path, scores, progress=False)
    layer, head = divmod(int(matching.values[-1].argmax()), matching.shape["head"])
    verdict = find_change_point(matching, layer=layer, head=head)
    return {
        "steps": list(heads.steps),
        "highest_prefix_matching": [round(float(v.max()), 4) for v in matching.values],
        "chance": round(float(matching.chance.flatten()[0]), 4) if matching.chance is not None else None,
        "highest": {name: [round(float(v.max()), 3) for v in heads.at(score=name)] for name in heads.labels["score"]},
        "formed_scores": _formed(heads),
        "names_by_layer": {str(step): by_layer(taxonomies[step]) for step in heads.steps},
        "induction": {"head": f"{layer}.{head}", "reason": verdict.reason, **change(verdict)},
    }


def forecast(batch_size: int, block_size: int, iterations: int) -> dict[str, float]:
    """What the emergence law says: tokens until induction heads form, beside the tokens of the run.

    Source: arXiv 2511.16893, N = 10**5.7 sqrt(batch size * context) tokens.
    """
    per_iteration = batch_size * block_size
    tokens = 10**5.7 * math.sqrt(per_iteration)
    return {
        "tokens": round(tokens),
        "iterations": round(tokens / per_iteration),
        "trained_tokens": iterations * per_iteration,
        "trained_share": round(iterations * per_iteration / tokens, 4),
    }


def by_layer(taxonomy: HeadTaxonomy) -> list[dict[str, int]]:
    """How many heads of each layer carry each name."""
    names = taxonomy.labels["score"]
    counts = taxonomy.carries.sum(-1)  # [score, layer]
    return [
        {name: int(counts[i, layer]) for i, name in enumerate(names) if int(counts[i, layer])}
        for layer in range(taxonomy.shape["layer"])
    ]


def _formed(heads: Trajectory) -> dict[str, list[str]]:
    """Of each score the heads whose curve has formed, with the verdict."""
    found: dict[str, list[str]] = {}
    for score in heads.labels["score"]:
        for layer, head in _heads(heads):
            verdict = find_change_point(heads, score=score, layer=layer, head=head)
            if verdict.formed:
                found.setdefault(score, []).append(f"{layer}.{head}: {verdict.verdict}")
    return found


def _heads(scores: Scores) -> Sequence[tuple[int, int]]:
    return [(i, j) for i in range(scores.shape["layer"]) for j in range(scores.shape["head"])]


def _numbers(scores: Scores, place: tuple[int, ...]) -> dict[str, float]:
    found = {c: getattr(scores, c) for c in ("values", "low", "high", "chance")}
    return {c: round(float(t[place]), 4) for c, t in found.items() if t is not None}


def _gain(repeated: Scores) -> dict[str, float]:
    """Loss of the second half after other tokens minus after themselves, in nats, with its interval."""
    from nanogpt_lens.core.intervals import t_interval

    assert repeated.per_example is not None
    half = repeated.shape["pos"] // 2 + 1
    i, j = (repeated.labels["condition"].index(name) for name in ("unrepeated", "repeated"))
    each = (repeated.per_example[i, half:] - repeated.per_example[j, half:]).mean(0)
    ends = t_interval(each)
    assert ends is not None
    return {name: round(float(v), 4) for name, v in zip(("values", "low", "high"), (each.mean(), *ends), strict=True)}
