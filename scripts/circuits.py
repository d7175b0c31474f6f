"""The circuits of the shipped induction models, found, checked and graded: `python -m scripts.circuits`.

For each of three seeds 32 prompts `[A][B] ... [A]` of 32 random tokens are asked; other 32 are held out. Then a circuit
is found on each kind of prompts (`PROMPT_KINDS`), and run on 32 others of every kind. What comes out is
`docs/data/circuits.json`, and the tables of `docs/CIRCUITS.md`. A seed takes about six minutes on one core; `--prompts`
computes the kinds of prompts alone, `--tables` fills the tables alone.
"""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from conversion.atomic import write_text
from scripts.replication.cells import markdown
from scripts.results import DATA, ROOT, SEEDS, place

OUT = DATA / "circuits.json"
DOCUMENT = ROOT / "docs" / "CIRCUITS.md"
PROMPTS, LENGTH, ORDERS = 32, 32, 8
TABLE_IN = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def of_seed(seed: str) -> dict[str, Any]:
    """What is found, checked and graded of one model."""
    import nanogpt_lens as ngl

    model = ngl.load(place("induction", seed))
    asked, held_out = (ngl.induction_pairs(model, n=PROMPTS, seq_len=LENGTH, seed=s) for s in (0, 1))
    prompts, others = (
        (pairs.clean, pairs.corrupted, ngl.metrics.logit_diff(pairs.answer, pairs.wrong)) for pairs in (asked, held_out)
    )
    circuit = ngl.find_circuit(model, *prompts, orders=ORDERS)
    validation = ngl.validate_circuit(model, circuit, *prompts, held_out=others)
    grades = ngl.grade_circuit_methods(model, *prompts)
    rows = validation.to_dataframe().set_index("check_label")[["value", "low", "high", "p"]]
    return {
        "edges": list(circuit.edges),
        "of": len(circuit.kept),
        "faithfulness": circuit.faithfulness,
        "interval": circuit.faithfulness_interval,
        "minimal": circuit.is_minimal,
        "other_circuits": len(circuit.different),
        "other_sizes": sorted(map(len, circuit.different)),
        "overlap": circuit.overlap,
        "core": list(circuit.core),
        "replaced": _off_diagonal(circuit.replaced),
        "checks": json.loads(rows.to_json(None, orient="index", double_precision=6) or "{}"),
        "edges_above_random": int((validation.edge_p <= 0.05).sum()),
        "robustness": json.loads(validation.robustness_table().to_json(None, orient="records") or "[]"),
        "grades": json.loads(grades.table().drop(columns="seconds").to_json(None, orient="index") or "{}"),
        "verdict": grades.verdict(),
    }


PROMPT_KINDS = {
    "as drawn": "random tokens [A][B] ... [A], as they are drawn",
    "solved": "the same, those that the model answers",
    "own task": "prompts of the model's own task, as they are drawn",
}
"""The kinds of prompts that circuits are found on; each is a column of the table of prompts."""


def pairs_of_kind(model: Any, kind: str, seed: int) -> Any:
    """Prompt pairs of a kind; what is held out is of another seed."""
    import nanogpt_lens as ngl
    from nanogpt_lens.text.task_pairs import pairs_by_name

    options: dict[str, Any] = {"n": PROMPTS, "seq_len": LENGTH, "seed": seed}
    if kind == "own task":
        return pairs_by_name(model, "trigger_bigrams", **options)
    return ngl.induction_pairs(model, **options, solved_by=model if kind == "solved" else None)


def by_prompts(seed: str) -> dict[str, Any]:
    """For each kind of prompts how even their gap is, the circuit found on them, and what it does on others."""
    import nanogpt_lens as ngl
    from nanogpt_lens.running.metrics import logit_diff_of

    model = ngl.load(place("induction", seed))
    asked, held_out = (
        {
            kind: (pairs.clean, pairs.corrupted, logit_diff_of(pairs))
            for kind in PROMPT_KINDS
            for pairs in [pairs_of_kind(model, kind, s)]
        }
        for s in (0, 1)
    )
    found = {}
    for kind, prompts in asked.items():
        circuit = ngl.find_circuit(model, *prompts, orders=0)
        gap = (circuit.full - circuit.empty).double()
        elsewhere = {}
        for other, held in held_out.items():
            runs = ngl.run_circuit(model, [[*circuit.edges]], *held, progress=False)
            low, high = runs.faithfulness_interval or ([None], [None])
            elsewhere[other] = [round(float(end), 6) for end in (runs.faithfulness[0], low[0], high[0])]
        found[kind] = {
            "chosen": prompts[2].on,
            "gap": float(gap.mean()),
            "below_a_tenth": int((gap.abs() < 0.1 * gap.mean()).sum()),
            "share_of_eight": float(gap.topk(8).values.sum() / gap.sum()),
            "edges": list(circuit.edges),
            "faithfulness": circuit.faithfulness,
            "interval": circuit.faithfulness_interval,
            "minimal": circuit.is_minimal,
            "held_out": elsewhere,
        }
    return found


def _off_diagonal(matrix: Any) -> list[float]:
    """The least, the mean and the largest of a matrix without its diagonal."""
    values = [float(v) for i, row in enumerate(matrix) for j, v in enumerate(row) if i != j]
    return [min(values), sum(values) / len(values), max(values)]


def found_table(seeds: dict[str, Any]) -> str:
    """How small the circuits are, and what they do."""
    rows = []
    for seed, one in seeds.items():
        low, high = one["interval"]
        held = one["checks"]["held_out"]
        rows.append(
            [
                seed,
                f"{len(one['edges'])} of {one['of']}",
                f"{one['faithfulness']:.2f} ({low:.2f} to {high:.2f})",
                f"{held['value']:.2f} ({held['low']:.2f} to {held['high']:.2f})",
                f"{one['other_circuits']} of {min(one['other_sizes'])} to {max(one['other_sizes'])}",
                f"{one['overlap']:.2f}",
                f"{len(one['core'])}",
            ]
        )
    header = [
        "seed",
        "edges",
        "faithfulness",
        "on held-out prompts",
        "other minimal circuits",
        "overlap",
        "in all of them",
    ]
    return markdown(header, rows)


def checked_table(seeds: dict[str, Any]) -> str:
    """What the checks say, a column for each seed."""
    names = list(next(iter(seeds.values()))["checks"])
    rows = [[name.replace("_", " "), *(_check(one["checks"][name]) for one in seeds.values())] for name in names]
    rows.append(
        [
            "edges surely above a random one",
            *(f"{s['edges_above_random']} of {len(s['edges'])}" for s in seeds.values()),
        ]
    )
    return markdown(["check", *seeds], rows)


def _check(row: dict[str, Any]) -> str:
    said = f"{row['value']:.2f}"
    said += "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return said + ("" if row["p"] is None else f", p = {row['p']:.3f}")


def graded_table(seeds: dict[str, Any]) -> str:
    """The grades of every method, the three seeds side by side."""
    scores = {"spearman": 2, "top_k_overlap": 1, "sign_agreement": 2, "mean_regret": 2, "worst_regret": 2, "n_edges": 0}
    methods = list(next(iter(seeds.values()))["grades"])
    rows = []
    for method in methods:
        graded = [one["grades"][method] for one in seeds.values()]
        cells = [" / ".join("–" if g[s] is None else f"{g[s]:.{n}f}" for g in graded) for s, n in scores.items()]
        rows.append([method, *cells, f"{graded[0]['n_runs']:,.0f}"])
    return markdown(["method", *(name.replace("_", " ") for name in scores), "passes"], rows)


def ways_table(seeds: dict[str, Any]) -> str:
    """The circuit under each of the six choices."""
    first = next(iter(seeds.values()))["robustness"]
    rows = []
    for i, row in enumerate(first):
        said = [row[name] for name in ("granularity", "components", "ablation", "positions", "direction", "part")]
        rows.append([", ".join(said), *(f"{one['robustness'][i]['faithfulness']:.2f}" for one in seeds.values())])
    return markdown(["how it is run", *seeds], rows)


def prompts_table(seeds: dict[str, Any]) -> str:
    """The kinds of prompts, the three seeds side by side: how even the gap is, and what a circuit of each does."""
    rows = []
    for kind in PROMPT_KINDS:
        ones = [one["prompts"][kind] for one in seeds.values()]
        cells = [
            " / ".join(str(one["below_a_tenth"]) for one in ones),
            " / ".join(f"{one['share_of_eight']:.0%}" for one in ones),
            " / ".join(str(len(one["edges"])) for one in ones),
            " / ".join(f"{one['faithfulness']:.2f}" for one in ones),
        ]
        cells += [" / ".join(f"{one['held_out'][other][0]:.2f}" for one in ones) for other in PROMPT_KINDS]
        rows.append([kind, *cells])
    header = ["prompts", "gap below a tenth", "gap of the first eight", "edges", "faithfulness"]
    return markdown([*header, *(f"on others {kind}" for kind in PROMPT_KINDS)], rows)


TABLES = {
    "found": found_table,
    "prompts": prompts_table,
    "checked": checked_table,
    "graded": graded_table,
    "ways": ways_table,
}


def main() -> None:
    """Compute what is missing, and fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true", help="fill the tables from the numbers that are there")
    parser.add_argument("--prompts", action="store_true", help="compute the kinds of prompts alone")
    parser.add_argument("--seeds", nargs="*", default=SEEDS)
    options = parser.parse_args()
    seeds = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for seed in [] if options.tables else options.seeds:
        before = seeds[seed] if options.prompts else of_seed(seed)
        seeds[seed] = before | {"prompts": by_prompts(seed)}
        write_text(OUT, json.dumps(dict(sorted(seeds.items())), indent=1) + "\n")
        print(seed, seeds[seed]["verdict"])
    if DOCUMENT.is_file():
        text = DOCUMENT.read_text()
        filled = TABLE_IN.sub(lambda m: f"{m[1]}{TABLES[m[2]](seeds)}\n{m[3]}" if m[2] in TABLES else m[0], text)
        write_text(DOCUMENT, filled)


if __name__ == "__main__":
    main()
