"""How well a number tells poisoned models from clean twins, with an interval that a handful of models deserves.

The area under the ROC curve is the share of pairs (poisoned, clean) in which the poisoned model has the higher number,
a tie counting half. Pairs that share a model are not independent, and the usual standard errors are zero where all
pairs agree. Among them there are as many independent pairs as there are models in the smaller group, so the interval is
that of Clopper and Pearson for so many trials, with the area as the share of successes: wide, but it covers.

Source: Hanley and McNeil 1982 (the area); Clopper and Pearson 1934; Holm 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from scipy.special import betaincinv
from scipy.stats import rankdata

LEVEL = 0.95


def area(poisoned: Sequence[float], clean: Sequence[float]) -> float:
    """The share of pairs in which the poisoned model has the higher number."""
    won = sum((p > c) + 0.5 * (p == c) for p in poisoned for c in clean)
    return won / (len(poisoned) * len(clean))


def proportion_interval(successes: float, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95% interval; the number of successes need not be whole."""
    tail = (1 - LEVEL) / 2
    low = 0.0 if successes <= 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes >= n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def rank_p(poisoned: Sequence[float], clean: Sequence[float]) -> float:
    """The exact one-sided p of the rank sum: the share of ways to call models poisoned that are as far apart."""
    ranks = rankdata([*poisoned, *clean]).tolist()  # a tie is the mean of its ranks
    seen = sum(ranks[: len(poisoned)]) - 1e-9
    sums = [sum(chosen) for chosen in combinations(ranks, len(poisoned))]
    return sum(one >= seen for one in sums) / len(sums)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Each p, corrected for all of them."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}


def told_apart(poisoned: Sequence[float], clean: Sequence[float]) -> dict[str, Any]:
    """The area, its interval, and the p of the rank sum."""
    found = area(poisoned, clean)
    n = min(len(poisoned), len(clean))
    low, high = proportion_interval(found * n, n)
    return {"area": found, "low": low, "high": high, "p": rank_p(poisoned, clean), "n": [len(poisoned), len(clean)]}
