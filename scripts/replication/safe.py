"""When is the cheap method safe? What is kept of the measurements, and the rule, fitted and tested.

A *sample* is 32 prompts. The *truth* is the mean exact effect over all prompts of a model. A method's *list* is its
first ten edges on a sample; it is *safe* if it captures 0.9 of what the ten largest true effects have, and no edge of
it that matters has the wrong sign. All of this was written down before it was measured: `docs/PREDICTIONS.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from nanogpt_lens.circuits.grade_intervals import grade_intervals
from scripts.replication.edge_agreement import ESTIMATES, Cell, Place, cell, order_of, places, ranking_of

SAMPLE, K, CHECKED = 32, 10, 20
CAPTURED, MATTERS, RELEVANT = 0.9, 0.1, 0.01
HALVINGS = 4
SIZES = (32, 128, 512)
"""How many prompts there are in a sample; the rule is about the first."""
KEPT_ESTIMATES = ("random",)
"""Of the tasks whose mean estimates are kept beside the truth."""


def compact(runs: Path) -> str:
    """The content of the file, from what is kept in the folder of runs."""
    models = {}
    for where in places():
        cells = [cell(where, seed, runs) for seed in where.prompt_seeds]
        models[where.name] = of_model(where, cells)
    edges = {str(len(c["edges"])): c["edges"] for c in _one_of_each_task(runs)}
    return json.dumps({"edges": edges, "models": models}, separators=(",", ":")) + "\n"


def _one_of_each_task(runs: Path) -> Iterator[Cell]:
    seen = set[str]()
    for where in places():
        if where.task not in seen:
            seen.add(where.task)
            yield cell(where, where.prompt_seeds[0], runs)


def of_model(where: Place, cells: list[Cell]) -> dict[str, Any]:
    """What is kept of a model: the truth, the grades on the prompts of each seed, and what every sample says."""
    whole = {name: torch.cat([c[name] for c in cells], -1).double() for name in ("exact", *ESTIMATES, "gap")}
    truth, out = whole["exact"].mean(1), [i for i, e in enumerate(cells[0]["edges"]) if e.startswith("embed->")]
    names = ("exact", *ESTIMATES) if where.task in KEPT_ESTIMATES else ("exact",)
    return {
        "prompts": whole["exact"].shape[1],
        "gap": [round(float(whole["gap"].mean()), 5), round(t_of(whole["gap"]), 2)],
        "means": {name: [float(f"{v:.3g}") for v in whole[name].mean(1).tolist()] for name in names},
        "grades": [grades(c) for c in cells],
        "other_prompts": round(_between_cells(cells), 3) if len(cells) > 1 else None,
        "curves": cells[0].get("curves"),
        "acdc_size": cells[0].get("acdc_size"),
        "safe": {str(n): safe_shares(whole, truth, n) for n in SIZES if n <= whole["exact"].shape[1]},
        "all_prompts": {name: safe(s, truth, s) for name, s in ((e, whole[e].mean(1)) for e in ESTIMATES)},
        "samples": columns([of_sample(s, truth, out) for s in samples(whole, SAMPLE)]),
    }


def grades(one: Cell) -> dict[str, dict[str, Any]]:
    """Each method against the exact effects of the same prompts; intervals are over prompts, of means over them."""
    methods = [*ESTIMATES, *one.get("scores", {})]
    ranked = [ranking_of(one, method) for method in methods]
    exact, gap = one["exact"].double(), one["gap"].double()
    low, high = grade_intervals(exact, gap, ranked, n_scores=4, k=K, relevant=RELEVANT, seed=0)
    truth = exact.mean(1)
    relevant = truth.abs() >= RELEVANT * abs(float(gap.mean()))
    found = {}
    for i, (method, ranking) in enumerate(zip(methods, ranked, strict=True)):
        a, b = (ranking.scores, truth) if ranking.signed else (ranking.scores.abs(), truth.abs())
        right = (ranking.scores.sign() == truth.sign())[relevant].double().mean() if ranking.signed else None
        points: dict[str, float | None] = {
            "spearman": _of_ranks(spearmanr, a, b),
            "sign_agreement": None if right is None else float(right),
            "top_k_overlap": shared(ranking.order, order_of(truth)),
        }
        found[method] = {
            name: None if value is None else [_round(v) for v in (value, low[i, j], high[i, j])]
            for j, (name, value) in enumerate(points.items())
        }
        found[method]["kendall"] = round(_of_ranks(kendalltau, a, b), 3)
    return found


def _of_ranks(correlation: Any, one: Float[Tensor, " edge"], other: Float[Tensor, " edge"]) -> float:
    return float(correlation(one, other).statistic)


def _round(value: Any) -> float | None:
    return None if float(value) != float(value) else round(float(value), 3)


def shared(one: Int[Tensor, " edge"], other: Int[Tensor, " edge"]) -> float:
    """The share of the first edges of an order that are among the first of another."""
    return len({*one[:K].tolist()} & {*other[:K].tolist()}) / K


def _between_cells(cells: list[Cell]) -> float:
    """The share of the ten largest exact effects that the prompts of two seeds have in common, mean of all pairs."""
    orders = [order_of(c["exact"].double().mean(1)) for c in cells]
    pairs = [shared(a, b) for i, a in enumerate(orders) for b in orders[:i]]
    return sum(pairs) / len(pairs)


def samples(whole: Mapping[str, Tensor], n: int) -> Iterator[dict[str, Tensor]]:
    """The prompts, n after n."""
    total = whole["exact"].shape[1]
    for start in range(0, total - n + 1, n):
        yield {name: each[..., start : start + n] for name, each in whole.items()}


def captured(scores: Float[Tensor, " edge"], truth: Float[Tensor, " edge"]) -> float:
    """What the first edges have of the true effects' magnitudes, as a share of what the largest have."""
    size = truth.abs()
    return float(size[order_of(scores)[:K]].sum() / size.sort(descending=True).values[:K].sum())


def safe(scores: Float[Tensor, " edge"], truth: Float[Tensor, " edge"], signs: Float[Tensor, " edge"]) -> bool:
    """Whether a list is safe; the signs may come from elsewhere than the order."""
    listed = order_of(scores)[:K]
    matter = truth[listed].abs() >= MATTERS * truth.abs().max()
    wrong = (signs[listed].sign() != truth[listed].sign()) & matter
    return captured(scores, truth) >= CAPTURED and not bool(wrong.any())


def checked(estimate: Float[Tensor, " edge"], exact: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """The exact effects of the first edges of an estimate, none of the others."""
    first = order_of(estimate)[:CHECKED]
    return torch.zeros_like(exact).index_copy(0, first, exact[first])


def lists_of(sample: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " edge"]]:
    """What every way of asking gives the edges of a sample."""
    means = {name: sample[name].mean(1) for name in ("exact", *ESTIMATES)}
    return means | {f"{name}_checked": checked(means[name], means["exact"]) for name in ESTIMATES}


def safe_shares(whole: Mapping[str, Tensor], truth: Float[Tensor, " edge"], n: int) -> dict[str, float]:
    """The share of safe samples of n prompts, by way of asking."""
    rows = [{name: safe(s, truth, s) for name, s in lists_of(one).items()} for one in samples(whole, n)]
    return {name: round(sum(row[name] for row in rows) / len(rows), 3) for name in rows[0]}


def of_sample(sample: Mapping[str, Tensor], truth: Float[Tensor, " edge"], out: list[int]) -> dict[str, Any]:
    """What somebody with these prompts sees, and whether it is safe; shares in hundredths."""
    lists = lists_of(sample)
    row: dict[str, Any] = {f"safe_{name}": int(safe(s, truth, s)) for name, s in lists.items()}
    row |= {f"captured_{name}": round(100 * captured(lists[name], truth)) for name in ("exact", *ESTIMATES)}
    row["agreement"] = round(100 * shared(*(order_of(lists[name]) for name in ESTIMATES)))
    row["size"] = round(t_of(sample["gap"]), 1)
    for name in ESTIMATES:
        row[f"halves_{name}"] = round(100 * halves(sample[name]))
        row[f"completeness_{name}"] = round(completeness(sample, name, out), 2)
    return row


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def t_of(values: Float[Tensor, " example"]) -> float:
    """The size of a mean divided by its standard error."""
    return abs(float(values.mean() / (values.std() / len(values) ** 0.5)))


def halves(each: Float[Tensor, "edge example"]) -> float:
    """The share of the first edges that two halves of the prompts have in common, mean of some random halvings."""
    n, generator, found = each.shape[1], torch.Generator().manual_seed(0), list[float]()
    for _ in range(HALVINGS):
        places_ = torch.randperm(n, generator=generator)
        found.append(shared(*(order_of(each[:, half].mean(1)) for half in (places_[: n // 2], places_[n // 2 :]))))
    return sum(found) / HALVINGS


def completeness(sample: Mapping[str, Tensor], method: str, out: list[int]) -> float:
    """How far the sum of the embedding's edges, whose places are given, is from the gap, as a share of the gap.

    It is 0 where everything is linear.
    """
    total, gap = float(sample[method][out].sum(0).mean()), -float(sample["gap"].mean())
    return min(abs(total / gap - 1), 99.0)
