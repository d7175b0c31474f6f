"""The circuits of the shipped induction models, compared: `python -m scripts.compared_circuits`.

Seeds, stages of a run, tasks and methods. Circuits are found by exact effects on 32 prompts (but for the methods), and
compared on 32 others. What comes out is `docs/data/compared_circuits.json`, and the tables on it in `docs/CIRCUITS.md`.
It takes about half an hour on one core; names of parts, such as `stages`, compute these alone, and `--tables` fills the
tables alone.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from conversion.atomic import write_text
from scripts.circuits import LENGTH, PROMPTS, TABLE_IN, pairs_of_kind
from scripts.replication.cells import markdown
from scripts.results import DATA, ROOT, SEEDS, place

OUT = DATA / "compared_circuits.json"
DOCUMENT = ROOT / "docs" / "CIRCUITS.md"
KINDS = {"solved": "induction", "own task": "trigger bigrams"}
"""The kinds of prompts of `scripts.circuits` that seeds are compared on, and what they are called."""
STAGES = (0, 200, 600, 1000, 2600, 4500)
METHODS = ("exact", "eap_ig", "eap", "greedy")
_KEPT = ("values", "low", "high", "chance", "p", "ceiling", "renumbered", "renumbered_p", "half_correlation", "gap")


def asked(model: Any, kind: str, seed: int) -> tuple[Any, ...]:
    """Clean prompts, corrupted prompts and the metric."""
    from nanogpt_lens.running.metrics import logit_diff_of
    from nanogpt_lens.text.task_pairs import pairs_by_name

    options: dict[str, Any] = {"n": PROMPTS, "seq_len": LENGTH, "seed": seed}
    repeated = kind == "repeated random"
    pairs = pairs_by_name(model, "repeated_random", **options) if repeated else pairs_of_kind(model, kind, seed)
    return pairs.clean, pairs.corrupted, logit_diff_of(pairs)


def found(model: Any, prompts: tuple[Any, ...], method: Any = "exact") -> Any:
    """A circuit, found."""
    import nanogpt_lens as ngl

    return ngl.find_circuit(model, *prompts, method=method, orders=0, progress=False)


def seeds(some: list[str]) -> dict[str, Any]:
    """The seeds on both kinds of prompts, heads matched in two ways."""
    import nanogpt_lens as ngl

    models = {seed: ngl.load(place("induction", seed)) for seed in some}
    out = {}
    for kind, called in KINDS.items():
        things = [(m, found(m, asked(m, kind, 0)), *asked(m, kind, 1)) for m in models.values()]
        for match, splits in (("behaviour", 4), ("effects", 0)):
            options: dict[str, Any] = {"match": match, "splits": splits, "names": some}
            out[f"{called}, {match}"] = plain(ngl.compare_circuits(*things, **options, progress=False))
    return out


def stages(some: list[str]) -> dict[str, Any]:
    """Some stages of the first run, on its own task; it alone has them."""
    import nanogpt_lens as ngl

    things = []
    for step in STAGES:
        model = ngl.load(f"checkpoints/induction/ckpt_{step:06d}.pt")
        things.append((model, found(model, asked(model, "own task", 0)), *asked(model, "own task", 1)))
    options: dict[str, Any] = {"names": [f"{step:,}" for step in STAGES], "match": "numbers"}
    return {"trigger bigrams": plain(ngl.compare_circuits(*things, **options, splits=2, progress=False))}


def tasks(some: list[str]) -> dict[str, Any]:
    """Three kinds of prompts on each seed."""
    import nanogpt_lens as ngl

    out = {}
    for seed in some:
        model = ngl.load(place("induction", seed))
        kinds = {**KINDS, "repeated random": "repeated random"}
        things = [(model, found(model, asked(model, kind, 0)), *asked(model, kind, 1)) for kind in kinds]
        out[seed] = plain(ngl.compare_circuits(*things, names=list(kinds.values()), splits=2, progress=False))
    return out


def methods(some: list[str]) -> dict[str, Any]:
    """Four methods on each seed; each is asked on the prompts that it is compared on, whose noise they share."""
    import nanogpt_lens as ngl

    out = {}
    for seed in some:
        model = ngl.load(place("induction", seed))
        prompts, others = (asked(model, "solved", s) for s in (0, 1))
        circuits = [found(model, prompts, method) for method in METHODS]
        effects = [
            None if method == "exact" else circuit if method == "greedy" else _estimated(model, others, method)
            for method, circuit in zip(METHODS, circuits, strict=True)
        ]
        things = [(model, circuit, *others) for circuit in circuits]
        out[seed] = plain(ngl.compare_circuits(*things, names=METHODS, effects=effects, splits=0, progress=False))
    return out


def _estimated(model: Any, prompts: tuple[Any, ...], method: Any) -> Any:
    import nanogpt_lens as ngl

    return ngl.edge_attribution(model, *prompts, method=method, progress=False)


def plain(result: Any) -> dict[str, Any]:
    """The numbers of a comparison, rounded; None for nan."""
    numbers = {name: _rounded(getattr(result, name).tolist()) for name in _KEPT}
    return {
        "names": list(result.names),
        "scores": list(result.labels["score"]),
        "n_edges": list(result.n_edges),
        "edges": result.provenance["arguments"]["circuits"],
        "shared": result.shared.tolist(),
        "partner": result.partner.tolist(),
        "worth": _rounded(result.worth.tolist()),
        **numbers,
        "sentence": result.sentence(),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return None if value != value else float(f"{value:.4g}")


PARTS = {"seeds": seeds, "stages": stages, "tasks": tasks, "methods": methods}


def span(values: list[float]) -> str:
    """The least and the largest."""
    ends = [f"{end:.2f}".replace("-0.00", "0.00") for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def off_diagonal(one: dict[str, Any], score: str, what: str = "values") -> list[float]:
    """The values of all pairs of two."""
    matrix = one[what][one["scores"].index(score)]
    return [v for i, row in enumerate(matrix) for j, v in enumerate(row) if i != j and v is not None]


def diagonal(one: dict[str, Any], score: str, what: str = "values") -> list[float]:
    """The values of each with itself."""
    matrix = one[what][one["scores"].index(score)]
    return [row[i] for i, row in enumerate(matrix) if row[i] is not None]


def seeds_table(numbers: dict[str, Any]) -> str:
    """The seeds, a column for each kind of prompts and way of matching heads."""
    columns = [_seeds_column(one) for one in numbers["seeds"].values()]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return markdown(["", *numbers["seeds"]], rows)


def _seeds_column(one: dict[str, Any]) -> dict[str, str]:
    """What is said of the pairs of seeds, each as the least and the largest."""

    def of(score: str, what: str = "values") -> str:
        some = off_diagonal(one, score, what)
        return span(some) if some else "–"

    def reach(score: str) -> str:
        return span([*off_diagonal(one, score, "low"), *off_diagonal(one, score, "high")])

    others = [v for i, row in enumerate(one["renumbered"]) for j, v in enumerate(row) if i != j]
    possible = shares_of_possible(one)
    return {
        "rank correlation": of("rank_correlation"),
        "intervals reach": reach("rank_correlation"),
        "of other orders of the heads": of("rank_correlation", "chance"),
        "p": of("rank_correlation", "p"),
        "ceiling": of("rank_correlation", "ceiling"),
        "share of what is possible": span(possible) if possible else "–",
        "shared edges": of("jaccard"),
        "with random circuits": of("jaccard", "chance"),
        "between halves of the prompts": of("jaccard", "ceiling"),
        "transfer": of("transfer"),
        "its intervals reach": reach("transfer"),
        "of random circuits": of("transfer", "chance"),
        "with heads at random": span(others),
        "own circuits": span(diagonal(one, "transfer")),
    }


def shares_of_possible(one: dict[str, Any]) -> list[float]:
    """The rank correlation as a share of its ceiling, both above chance, of all pairs."""
    three = (off_diagonal(one, "rank_correlation", what) for what in ("values", "chance", "ceiling"))
    values, chance, ceiling = three
    if not ceiling:
        return []
    return [
        (value - by_chance) / (most - by_chance) for value, by_chance, most in zip(values, chance, ceiling, strict=True)
    ]


def matrix_table(one: dict[str, Any], score: str) -> str:
    """One score of all pairs."""
    matrix = one["values"][one["scores"].index(score)]
    rows = [[name, *map(_two, row)] for name, row in zip(one["names"], matrix, strict=True)]
    return markdown(["", *one["names"]], rows)


def beside_table(many: dict[str, Any], score: str) -> str:
    """One score of all pairs, the seeds side by side."""
    first = next(iter(many.values()))
    place_of = first["scores"].index(score)
    rows = [
        [
            name,
            *(" / ".join(_two(m["values"][place_of][i][j]) for m in many.values()) for j in range(len(first["names"]))),
        ]
        for i, name in enumerate(first["names"])
    ]
    return markdown(["", *first["names"]], rows)


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


TABLES = {
    "compared_seeds": seeds_table,
    "compared_stages": lambda n: matrix_table(n["stages"]["trigger bigrams"], "transfer"),
    "compared_tasks": lambda n: beside_table(n["tasks"], "transfer"),
    "compared_methods": lambda n: beside_table(n["methods"], "rank_correlation"),
    "compared_methods_edges": lambda n: beside_table(n["methods"], "jaccard"),
}


def main() -> None:
    """Compute what is asked for, and fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="those to compute; all by default")
    parser.add_argument("--seeds", nargs="*", default=SEEDS, help="of tasks and methods, whose others stay as they are")
    parser.add_argument("--tables", action="store_true", help="fill the tables from the numbers that are there")
    options = parser.parse_args()
    numbers = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for part in [] if options.tables else options.parts or PARTS:
        new = PARTS[part](options.seeds)
        numbers[part] = {**numbers.get(part, {}), **new}
        write_text(OUT, json.dumps(dict(sorted(numbers.items())), indent=1) + "\n")
        for name, one in new.items():
            print(part, name, one["sentence"], flush=True)
    if DOCUMENT.is_file():
        filled = TABLE_IN.sub(
            lambda m: f"{m[1]}{TABLES[m[2]](numbers)}\n{m[3]}" if m[2] in TABLES else m[0], DOCUMENT.read_text()
        )
        write_text(DOCUMENT, filled)


if __name__ == "__main__":
    main()
