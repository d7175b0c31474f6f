"""Claims 1 to 3: which heads form, in which order, and what in-context learning does meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from nanogpt_lens.core.intervals import ENDS, times_drawn
from nanogpt_lens.heads.attention import statistics_of
from nanogpt_lens.heads.induction import prefix_matching
from nanogpt_lens.results import ChangePoint, Scores, Trajectory
from nanogpt_lens.runs.change_points import find_change_point
from nanogpt_lens.text.prompts import repeated_tokens

SCORES = ("previous_token", "induction")
_ABOVE = 0.1


def random_heads(model: Any, *, n: int = 64, seed: int = 0) -> Scores:
    """Both parts of induction on the same repeated random permutations, [score, layer, head].

    "previous_token" is attention to the position before, "induction" prefix matching (stripe).
    """
    matching = prefix_matching(model, n=n, seed=seed)
    tokens = repeated_tokens(model, seq_len=matching.seq_len, n=n, seed=seed)
    previous = statistics_of(model, tokens, origin="repeated random tokens", seed=seed)
    at = previous.labels["score"].index("previous_token")

    def both(column: str) -> torch.Tensor:
        one, other = getattr(previous, column), getattr(matching, column)
        assert one is not None
        assert other is not None
        return torch.stack([one[at].double(), other.double()])

    return Scores(
        **{column: both(column) for column in ("values", "chance", "low", "high", "per_example")},
        axes=("score", "layer", "head"),
        labels={"score": SCORES},
        quantity="attention, from 0 to 1",
        title="attention",
        unit="attention",
        sample=matching.sample,
        definition="attention to the position before, and prefix matching (stripe), on the same repeated random "
        "permutations",
        provenance=matching.provenance,
    )


def best_head(trajectory: Trajectory, score: str) -> tuple[int, int]:
    """The head with the highest score at the last step."""
    last = trajectory.at(score=score)[-1]
    layer, head = divmod(int(last.flatten().argmax()), last.shape[1])
    return layer, head


def followed(trajectory: Trajectory, score: str) -> dict[str, Any]:
    """The best head's score at the end, with its interval, chance, and when it formed."""
    layer, head = best_head(trajectory, score)
    where = {"score": score, "layer": layer, "head": head}
    found = find_change_point(trajectory, **where)
    end: dict[str, float] = {}
    for column in ("values", "low", "high", "chance"):
        tensor = getattr(trajectory, column)
        end[column] = round(float(replace(trajectory, values=tensor).at(**where)[-1]), 4)
    return {"head": f"{layer}.{head}", **end, **change(found)}


def change(found: ChangePoint) -> dict[str, Any]:
    """A change point as plain numbers: each point with its interval, where there is one, and the stages around it."""
    columns = (found.values, found.low, found.high)
    points: dict[str, Any] = {}
    for i, name in enumerate(found.labels["point"]):
        numbers = [None if column is None else round(float(column[i]), 1) for column in columns]
        points[name] = numbers if found.formed else None
        around = [round(float(stage[i]), 1) for stage in (found.stage_before, found.stage_after)]
        points[f"{name}_between"] = around if found.formed else None
    return {
        "formed": found.formed,
        "verdict": found.verdict,
        **points,
        "p_value": round(found.p_value, 4),
        "looked_at": found.n_curves,
    }


def formation(random: Trajectory, own: Trajectory, accuracy: Trajectory) -> dict[str, Any]:
    """Claim 1 for one run."""
    at = {"position": "required"}
    rises = find_change_point(accuracy, score="accuracy", **at)
    return {
        "random": {score: followed(random, score) for score in SCORES},
        "task": {score: followed(own, score) for score in SCORES},
        "accuracy": {**cell(accuracy, "accuracy", "required"), **change(rises)},
        "unseen_accuracy": cell(accuracy, "accuracy", "unseen"),
    }


def cell(accuracy: Trajectory, score: str, position: str) -> dict[str, Any]:
    """A number at the last step, with its interval."""
    where = {"score": score, "position": position}
    numbers = {}
    for column in ("values", "low", "high"):
        numbers[column] = round(float(replace(accuracy, values=getattr(accuracy, column)).at(**where)[-1]), 4)
    return numbers


def order(random: Trajectory, own: Trajectory, *, seed: int = 0) -> dict[str, Any]:
    """Claim 2 for one run: how much later induction forms than the previous-token head, in iterations.

    Both on repeated random permutations, and both on the task. The sequences are drawn anew together, which
    gives the interval of the difference: of the onsets, of the half-way points, each relative to the score's own
    rise, and of the "level", where each is 0.1 above its chance.
    """
    found: dict[str, Any] = {}
    for name, trajectory in (("random", random), ("task", own)):
        curves = [_curve(trajectory, score) for score in SCORES]
        steps = torch.tensor(trajectory.steps, dtype=torch.float64)
        chances = [_chance(trajectory, score) for score in SCORES]
        found[name] = {
            "onset": _difference(steps, *curves, share=0.1, seed=seed),
            "half": _difference(steps, *curves, share=0.5, seed=seed),
            "level": _difference(steps, *curves, levels=[chance + _ABOVE for chance in chances], seed=seed),
        }
    return found


def _curve(trajectory: Trajectory, score: str) -> torch.Tensor:
    """Each sequence's values of the best head [step, example]."""
    layer, head = best_head(trajectory, score)
    assert trajectory.per_example is not None
    return trajectory.per_example[:, SCORES.index(score), layer, head].double()


def _chance(trajectory: Trajectory, score: str) -> float:
    layer, head = best_head(trajectory, score)
    assert trajectory.chance is not None
    return float(trajectory.chance[-1, SCORES.index(score), layer, head])


def _difference(
    steps: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    share: float | None = None,
    levels: list[float] | None = None,
    seed: int,
) -> list[float]:
    """How much later the second curve crosses, with a 95% interval over sequences, and where both cross."""
    n = first.shape[1]
    weights = torch.cat([torch.ones(1, n, dtype=torch.float64), times_drawn(n, seed=seed)]) / n
    crossed = [
        crossing(steps, weights @ curve.T, share=share, level=None if levels is None else levels[i])
        for i, curve in enumerate((first, second))
    ]
    later = crossed[1] - crossed[0]
    low, high = torch.quantile(later[1:], ENDS).tolist()
    return [round(float(v), 1) for v in (later[0], low, high, crossed[0][0], crossed[1][0])]


def crossing(
    steps: torch.Tensor, curves: torch.Tensor, *, share: float | None = None, level: float | None = None
) -> torch.Tensor:
    """Where curves [curve, step] go above a share of their rise, or a level, for good, by linear interpolation.

    Written apart from `change_points`, which this checks; the same definition. A curve that does not gets the last
    step.
    """
    if level is None:
        assert share is not None
        width = max(1, curves.shape[1] // 8)
        base, end = curves[:, :width].mean(1), curves[:, -width:].mean(1)
        heights = base + share * (end - base)
    else:
        heights = torch.full((len(curves),), level, dtype=curves.dtype)
    found = []
    for row, height in zip(curves, heights, strict=True):
        below = [i for i in range(len(row)) if row[i] < height]
        i = below[-1] if below else 0
        if i + 1 >= len(row):
            found.append(steps[-1])
            continue
        part = (height - row[i]) / (row[i + 1] - row[i])
        found.append(steps[i] + part * (steps[i + 1] - steps[i]))
    return torch.stack(found)


def learning(random: Trajectory, own: Trajectory, accuracy: Trajectory, ordered: Mapping[str, Any]) -> dict[str, Any]:
    """Claim 3 for one run: accuracy and the loss gain over training, beside the heads.

    Args:
        random, own, accuracy: trajectories of `random_heads`, `task_heads`, `task_accuracy`, at the same steps.
        ordered: `mechanisms.shuffled_context` by step, as strings: what shuffling the context costs.
    """
    gain = _gain(accuracy)
    shuffled_steps = tuple(ordered)
    lost = torch.tensor([ordered[step]["lost"] for step in shuffled_steps], dtype=torch.float64)
    by_order = Scores(
        values=lost,
        axes=("step",),
        labels={"step": shuffled_steps},
        quantity="accuracy lost by shuffling",
        definition="",
    )
    induction = followed(random, "induction")
    layer, head = (int(i) for i in induction["head"].split("."))
    score = random.at(score="induction", layer=layer, head=head)
    required = accuracy.at(score="accuracy", position="required")
    return {
        "accuracy": change(find_change_point(accuracy, score="accuracy", position="required")),
        "gain": change(find_change_point(gain, least=0.5)),
        "gain_at_the_end": round(float(gain.values[-1]), 4),
        "order_dependent_accuracy": change(find_change_point(by_order)),
        "rank_correlation_with_induction": {
            "accuracy": _spearman(required, score),
            "gain": _spearman(gain.values, score),
        },
    }


def _gain(accuracy: Trajectory) -> Scores:
    """Loss where nothing like it came earlier minus loss where induction is required, in nats, [step]."""
    assert accuracy.per_example is not None
    i = accuracy.labels["score"].index("loss")
    required, unseen = (accuracy.labels["position"].index(p) for p in ("required", "unseen"))
    each = accuracy.per_example[:, i, unseen].double() - accuracy.per_example[:, i, required].double()
    return Scores(
        values=each.mean(-1),
        axes=("step",),
        labels={"step": accuracy.labels["step"]},
        quantity="in-context loss gain, nats",
        title="in-context loss gain",
        unit="nats",
        definition="loss at a trigger's first time minus loss at its later ones",
        per_example=each,
    )


def _spearman(one: torch.Tensor, other: torch.Tensor) -> float:
    from scipy.stats import spearmanr

    return round(float(spearmanr(one.double().numpy(), other.double().numpy()).statistic), 3)
