"""The rule that says when a list of edges is safe: fitted, tested, and beside its rivals.

What is asked and how it is judged was written down before: `docs/PREDICTIONS.md`. Everything here is computed from
`docs/data/edge_agreement.json`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from scripts.replication.edge_agreement import ESTIMATES, OWN_STEPS, PROMPT_SEEDS, SHAKESPEARE, SIZES, STEPS
from scripts.results import SEEDS

PRECISION, RECALL = 0.9, 0.5
"""What a rule needs: of what it calls safe, the share that is; of what is safe, the share that it calls so."""
CALIBRATION = tuple(f"random {SEEDS[0]} {step}" for step in (0, 600, 1000, 6000))
TESTS: dict[str, tuple[str, ...]] = {
    "other seeds": tuple(f"random {seed} {step}" for seed in SEEDS[1:] for step in STEPS),
    "other stages": tuple(f"random {SEEDS[0]} {step}" for step in (400, 2000)),
    "another task": tuple(f"own {seed} {step}" for seed in SEEDS for step in OWN_STEPS),
    "another model": tuple(f"shakespeare {seed} {step}" for seed, step in SHAKESPEARE),
    "handmade": ("handmade 0 0",),
}
_TENTHS = tuple(range(10, 101, 10))
GRIDS: dict[str, tuple[float, ...]] = {
    "agreement": _TENTHS,
    "halves": _TENTHS,
    "size": tuple(np.arange(1, 61) / 2),
    "completeness": tuple(np.arange(1, 61) / 20),
}
RULES: dict[str, tuple[str, ...]] = {
    "agreement and halves": ("agreement", "halves"),
    "agreement": ("agreement",),
    "halves": ("halves",),
    "size": ("size",),
    "completeness": ("completeness",),
}
"""By rule its quantities, each of which has a threshold; the first rule is the one that was written down."""
RESAMPLES = 1000

Models: TypeAlias = Mapping[str, Any]


class Samples:
    """The samples of some models, for one method.

    Args:
        models: what the file has.
        names: of the models.
        method: "eap" or "eap_ig".
    """

    def __init__(self, models: Models, names: Sequence[str], method: str) -> None:
        rows = [models[name]["samples"] for name in names]
        self.counts = [len(row["agreement"]) for row in rows]
        self.safe = np.concatenate([row[f"safe_{method}"] for row in rows]).astype(bool)
        self.quantities = {
            name: np.concatenate([row.get(name, row.get(f"{name}_{method}")) for row in rows]) for name in GRIDS
        }

    def said(self, rule: str, thresholds: Sequence[float]) -> np.ndarray:
        """Whether the rule says safe, of each sample; completeness is a distance, and has to be small."""
        each = [
            self.quantities[name] <= value if name == "completeness" else self.quantities[name] >= value
            for name, value in zip(RULES[rule], thresholds, strict=True)
        ]
        return np.logical_and.reduce(each)

    def weights(self) -> np.ndarray:
        """How often each sample is drawn in each resample, in which models are drawn, and samples in each."""
        generator = np.random.default_rng(0)
        starts = np.cumsum([0, *self.counts])
        drawn = np.zeros((RESAMPLES, starts[-1]))
        for row in drawn:
            for model in generator.integers(len(self.counts), size=len(self.counts)):
                n = self.counts[model]
                row[starts[model] : starts[model] + n] += generator.multinomial(n, np.full(n, 1 / n))
        return drawn


def rates(said: np.ndarray, safe: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The rates of a rule, one of each row of weights [resample, sample]; nan where there is nothing to divide by."""
    with np.errstate(invalid="ignore"):
        total = weights.sum(1)
        base, share = weights @ safe / total, weights @ said / total
        precision = weights @ (said & safe) / (weights @ said)
        recall = weights @ (said & safe) / (weights @ safe)
        specificity = weights @ (~said & ~safe) / (weights @ ~safe)
    return {
        "safe": base,
        "said": share,
        "precision": precision,
        "gain": precision - base,
        "recall": recall,
        "youden": recall + specificity - 1,
    }


def fit(samples: Samples, rule: str) -> tuple[float, ...]:
    """The thresholds with the highest recall of those that are precise enough, or the most precise ones."""
    best, found = (-1.0, -1.0, -1.0), tuple[float, ...]()
    once = np.ones((1, len(samples.safe)))
    for thresholds in itertools.product(*(GRIDS[name] for name in RULES[rule])):
        one = {name: float(v[0]) for name, v in rates(samples.said(rule, thresholds), samples.safe, once).items()}
        if one["precision"] != one["precision"]:
            continue
        enough = one["precision"] >= PRECISION
        key = (1.0, one["recall"], one["precision"]) if enough else (0.0, one["precision"], one["recall"])
        if key > best:
            best, found = key, thresholds
    return tuple(float(v) for v in found)


def tested(samples: Samples, rule: str, thresholds: Sequence[float]) -> dict[str, Any]:
    """The rates of a rule with their intervals, and whether it works."""
    said = samples.said(rule, thresholds)
    point = rates(said, samples.safe, np.ones((1, len(said))))
    drawn = rates(said, samples.safe, samples.weights())
    found: dict[str, Any] = {name: _three(float(point[name][0]), drawn[name]) for name in point}
    precision, gain, recall = found["precision"], found["gain"], found["recall"]
    found["works"] = None not in (precision[0], gain[1], recall[0]) and bool(
        precision[0] >= PRECISION and gain[1] > 0 and recall[0] >= RECALL
    )
    found["samples"], found["models"] = len(said), len(samples.counts)
    return found


def _three(value: float, drawn: np.ndarray) -> list[float | None]:
    """A value and its interval; None where resamples have none."""
    some = drawn[~np.isnan(drawn)]
    ends = np.quantile(some, [0.025, 0.975]).tolist() if len(some) > RESAMPLES / 2 else [None, None]
    return [None if v is None or v != v else round(float(v), 3) for v in (value, *ends)]


def better(samples: Samples, one: tuple[str, Sequence[float]], other: tuple[str, Sequence[float]]) -> list[Any]:
    """How much higher recall + specificity - 1 of one rule is than that of another."""
    saids = [samples.said(*rule) for rule in (one, other)]
    weights = samples.weights()
    drawn = [rates(said, samples.safe, weights)["youden"] for said in saids]
    once = np.ones((1, len(samples.safe)))
    point = [float(rates(said, samples.safe, once)["youden"][0]) for said in saids]
    return _three(point[0] - point[1], drawn[0] - drawn[1])


def within_models(samples: Samples, said: np.ndarray) -> dict[str, Any]:
    """Recall + specificity - 1 within models that have both kinds of samples, mean over them: what is not the model."""
    found, start = list[float](), 0
    for n in samples.counts:
        s, t = said[start : start + n], samples.safe[start : start + n]
        start += n
        if 0.1 <= t.mean() <= 0.9:
            found.append(float(s[t].mean() - s[~t].mean()))
    return {"models": len(found), "youden": round(float(np.mean(found)), 3) if found else None}


def of_method(models: Models, method: str) -> dict[str, Any]:
    """Every rule for a method: thresholds, how it does where it was fitted, and on every test."""
    calibration = Samples(models, CALIBRATION, method)
    fitted = {rule: fit(calibration, rule) for rule in RULES}
    main = next(iter(RULES))
    found: dict[str, Any] = {}
    for rule, thresholds in fitted.items():
        tests = {}
        for test, names in TESTS.items():
            samples = Samples(models, names, method)
            tests[test] = tested(samples, rule, thresholds)
            tests[test]["within_models"] = within_models(samples, samples.said(rule, thresholds))
            if rule != main:
                tests[test]["main_is_better_by"] = better(samples, (main, fitted[main]), (rule, thresholds))
        found[rule] = {
            "thresholds": dict(zip(RULES[rule], thresholds, strict=True)),
            "fitted": tested(calibration, rule, thresholds),
            "tests": tests,
        }
    return found


def at_step(models: Models, step: int) -> list[Any]:
    """What the file has of each seed that was measured at a step, on random prompts."""
    return [models[f"random {seed} {step}"] for seed in SEEDS]


def safe_by_stage(models: Models) -> dict[str, Any]:
    """The share of safe samples by way of asking, number of prompts, and iteration; one number for each seed."""
    ways = tuple(models[CALIBRATION[0]]["safe"]["32"])
    return {
        way: {
            n: {str(step): [model["safe"][n][way] for model in at_step(models, step)] for step in STEPS}
            for n in ("32", "128", "512")
        }
        for way in ways
    }


def safe_elsewhere(models: Models) -> dict[str, Any]:
    """The share of safe samples of 32 prompts, by way of asking, of every model of the other tasks."""
    return {name: model["safe"]["32"] for name, model in models.items() if not name.startswith("random ")}


def sensitivity(models: Models) -> dict[str, Any]:
    """The share of lists that capture at least so many hundredths, signs aside: by method and iteration, all seeds."""
    return {
        method: {
            str(least): {
                str(step): round(float(np.mean(_captured(models, step, method) >= least)), 3) for step in STEPS
            }
            for least in (80, 90, 95)
        }
        for method in ("exact", *ESTIMATES)
    }


def _captured(models: Models, step: int, method: str) -> np.ndarray:
    return np.concatenate([model["samples"][f"captured_{method}"] for model in at_step(models, step)])


def other_thresholds(models: Models) -> dict[str, Any]:
    """After the fact: precision and recall of `halves` at other thresholds, on all random prompts but the fitted."""
    names = [*TESTS["other seeds"], *TESTS["other stages"]]
    found: dict[str, Any] = {}
    for method in ESTIMATES:
        samples = Samples(models, names, method)
        once = np.ones((1, len(samples.safe)))
        for least in (40, 50, 60, 70, 80):
            one = rates(samples.said("halves", (least,)), samples.safe, once)
            found.setdefault(method, {})[str(least)] = {
                name: round(float(one[name][0]), 3) for name in ("said", "precision", "recall")
            }
    return found


def graded(models: Models) -> dict[str, Any]:
    """Every grade by method and iteration: each seed and prompt seed, with the interval over prompts."""
    first = models[CALIBRATION[0]]["grades"]
    return {
        method: {
            score: {
                str(step): [
                    grade[method][score]
                    for model in at_step(models, step)
                    for grade in model["grades"]
                    if method in grade
                ]
                for step in STEPS
            }
            for score in first[0][method]
        }
        for method in first[0]
    }


def smallest_size(curve: Sequence[float], sizes: Sequence[int], tolerance: float = 0.1) -> int | None:
    """The fewest edges of those that were run whose faithfulness is within the tolerance of 1."""
    return next((n for n, value in zip(sizes, curve, strict=True) if abs(value - 1) <= tolerance), None)


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the documents say of it."""
    models = data["models"]
    return {
        "seeds": list(SEEDS),
        "steps": list(STEPS),
        "prompt_seeds": list(PROMPT_SEEDS),
        "n_prompts": {str(step): [model["prompts"] for model in at_step(models, step)] for step in STEPS},
        "gaps": {str(step): [model["gap"] for model in at_step(models, step)] for step in STEPS},
        "other_prompts": {str(step): [model["other_prompts"] for model in at_step(models, step)] for step in STEPS},
        "graded": graded(models),
        "sizes": {
            method: {
                str(step): [smallest_size(model["curves"][method], SIZES) for model in at_step(models, step)]
                for step in STEPS
            }
            for method in models[CALIBRATION[0]]["curves"]
        },
        "acdc_sizes": {str(step): [model["acdc_size"] for model in at_step(models, step)] for step in STEPS},
        "safe": safe_by_stage(models),
        "all_prompts": {
            method: {str(step): [model["all_prompts"][method] for model in at_step(models, step)] for step in STEPS}
            for method in ESTIMATES
        },
        "elsewhere": safe_elsewhere(models),
        "sensitivity": sensitivity(models),
        "other_thresholds": other_thresholds(models),
        "rule": {method: of_method(models, method) for method in ESTIMATES},
    }
