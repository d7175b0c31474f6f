"""What every edge does over training, and when each appears, of three seeds: `python -m scripts.circuit_atlas`.

For each seed and kind of prompts the exact effect of every edge of the shipped `induction` model, stage by stage. The
first seed's stages are shipped; those of the others are trained anew up to iteration 2,000 (about fifteen minutes each
on one core) and compared with the shipped log by their losses; the last stage is the shipped one. A killed call goes
on where it was. What comes out is `docs/data/circuit_atlas.json`, and the tables of `docs/CIRCUITS.md` that say atlas.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

import nanogpt_lens as ngl
from conversion.atomic import write_text
from nanogpt_lens import TrainConfig, train
from nanogpt_lens.results import CircuitAtlas, HeadMatches, Trajectory, load_result
from nanogpt_lens.runs.atlas import circuit_atlas
from nanogpt_lens.text.tasks import read_task
from scripts.replication.tables import markdown
from scripts.results import DATA, ROOT, SEEDS, place
from scripts.ship_induction import SHIPPED, settings

OUT = DATA / "circuit_atlas.json"
DOCUMENT = ROOT / "docs" / "CIRCUITS.md"
PROMPTS = 32
LAST_TRAINED, LAST = 2000, 6000
TRAINED = tuple(step for step in SHIPPED if step <= LAST_TRAINED)
KINDS = {
    "own task": "prompts of the model's own task",
    "solved": "random tokens [A][B] ... [A] that the model at the end answers",
}
"""The kinds of prompts; at the end means the last stage, so that these are chosen by what comes out."""

_TABLE = re.compile(r"(<!-- atlas: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def stages_of(seed: str, runs: Path) -> Path:
    """A folder with the stages of a seed: the shipped one, or one that is trained here."""
    shipped = place("induction", seed)
    if seed == SEEDS[0]:
        return shipped
    run, folder = runs / seed, runs / f"{seed}_stages"
    files = [run / f"ckpt_{step:06d}.pt" for step in TRAINED]
    if not all(file.is_file() for file in files):
        # the learning rate is constant after the warm-up, so that these are the first iterations of the shipped run
        config: TrainConfig = replace(settings(2, int(seed)), max_iters=LAST_TRAINED, eval_interval=200, eval_iters=1)
        train(read_task(shipped), run, config, stages=TRAINED, sample=False)
    check_run(run, shipped)
    folder.mkdir(exist_ok=True)
    for file in (*files, *(shipped / name for name in ("ckpt.pt", "meta.pkl", "task.json"))):
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    return folder


def check_run(run: Path, shipped: Path) -> None:
    """Raise ValueError unless the losses of batches are those of the shipped log, which other threads change little."""
    ours, theirs = (dict(batch_losses(folder / "metrics.jsonl")) for folder in (run, shipped))
    shared = sorted(ours.keys() & theirs.keys())
    far = [step for step in shared if abs(ours[step] - theirs[step]) > 0.02]
    if far or len(shared) < 3:
        raise ValueError(f"{run} is not the shipped run again: its losses differ at {far or 'no shared iteration'}")
    equal = sum(ours[step] == theirs[step] for step in shared)
    print(f"{run}: of {len(shared)} losses of batches in the shipped log {equal} are the same to the last digit")


def batch_losses(log: Path) -> Iterator[tuple[int, float]]:
    """The iteration and the loss of each batch in a log."""
    for line in log.read_text().splitlines():
        record = json.loads(line)
        if "batch_loss" in record:
            yield record["iter"], record["batch_loss"]


def effects_of(seed: str, kind: str, runs: Path) -> Trajectory:
    """The effects of every edge at every stage; kept in the folder of runs."""
    kept = runs / f"{seed}_effects_{kind.replace(' ', '_')}"
    if not kept.is_dir():
        model = ngl.load(place("induction", seed))
        pairs = None if kind == "own task" else ngl.induction_pairs(model, n=PROMPTS, solved_by=model)
        count: dict[str, Any] = {"n": PROMPTS} if pairs is None else {}
        made = ngl.trajectory(
            stages_of(seed, runs),
            "edge_effects",
            pairs=pairs,
            resume=runs / f"{seed}_{kind.replace(' ', '_')}_unfinished",
            **count,
        )
        made.save(kept)
    found = load_result(kept)
    assert isinstance(found, Trajectory)
    return found


def at_steps(effects: Trajectory, steps: tuple[int, ...]) -> Trajectory:
    """The same at some of the steps."""
    rows = torch.tensor([effects.steps.index(step) for step in steps])
    tensors = {name: tensor[rows] for name, tensor in effects.tensors().items()}
    labels = {**effects.labels, "step": tuple(map(str, steps))}
    return replace(effects, **tensors, labels=labels, files=tuple(effects.files[i] for i in rows.tolist()))


def summary(atlas: CircuitAtlas) -> dict[str, Any]:
    """What an atlas says, in plain numbers."""
    table = atlas.table()
    rows = table[table["changed"]].drop(columns="changed").to_json(None, orient="records", double_precision=4) or "[]"
    return {
        "steps": atlas.steps,
        "n_curves": atlas.n_curves,
        "groups": atlas.groups,
        "spans": atlas.spans.tolist(),
        "togetherness": atlas.togetherness(),
        "faded": atlas.faded,
        "changed": json.loads(rows),
    }


def renamed(matches: HeadMatches, edges: tuple[str, ...]) -> tuple[str, ...]:
    """The edges of the first model with the names that the second model's heads have."""

    def other(name: str) -> str:
        head, dot, part = name.partition(".")[0], ".", name.split(".", 2)[1:]
        if not head.isdigit():
            return name
        layer, place = int(head), (1, int(head), int(part[0]))
        return dot.join([str(layer), str(int(matches.partner_head[place])), *part[1:]])

    return tuple("->".join(map(other, edge.split("->"))) for edge in edges)


def agreement(one: CircuitAtlas, other: CircuitAtlas, matches: HeadMatches) -> dict[str, Any]:
    """How far the order of what changes is the same in another seed, after matching heads."""
    names = dict(zip(one.edges, renamed(matches, one.edges), strict=True))
    shared = [edge for edge in one.order_of_changes if names[edge] in other.order_of_changes]
    halves = [(one.half_of(edge)[0], other.half_of(names[edge])[0]) for edge in shared]
    found: Any = kendalltau(*zip(*halves, strict=True)) if len(shared) > 2 else None
    sure = [(a, b) for a, b in permutations(shared, 2) if one.surely_before(a, b)]
    there = [(other.surely_before(names[a], names[b]), other.surely_before(names[b], names[a])) for a, b in sure]
    return {
        "changed": [len(one.order_of_changes), len(other.order_of_changes)],
        "shared": len(shared),
        "tau": None if found is None else float(found.statistic),
        "p": None if found is None else float(found.pvalue),
        "sure_pairs": len(sure),
        "same": sum(same for same, _ in there),
        "reversed": sum(back for _, back in there),
    }


def measured(runs: Path) -> dict[str, Any]:
    """Everything that is in the file."""
    effects = {kind: {seed: effects_of(seed, kind, runs) for seed in SEEDS} for kind in KINDS}
    common = (*TRAINED, LAST)
    atlases = {k: {s: circuit_atlas(at_steps(e, common)) for s, e in of.items()} for k, of in effects.items()}
    models = {seed: ngl.load(place("induction", seed)) for seed in SEEDS}
    heads = {s: ngl.task_heads(m, read_task(place("induction", s)), n=PROMPTS) for s, m in models.items()}
    return {
        "prompts": PROMPTS,
        "kinds": KINDS,
        "common_steps": common,
        "edges": effects["own task"][SEEDS[0]].labels["edge"],
        "effects": {
            kind: {
                seed: {"steps": e.steps, "values": [[round(v, 4) for v in row] for row in e.values.tolist()]}
                for seed, e in of.items()
            }
            for kind, of in effects.items()
        },
        "all_stages": {kind: summary(circuit_atlas(effects[kind][SEEDS[0]])) for kind in KINDS},
        "common": {kind: {seed: summary(atlas) for seed, atlas in of.items()} for kind, of in atlases.items()},
        "agreement": {
            kind: {
                f"{a} {b}": agreement(of[a], of[b], ngl.match_heads(heads[a], heads[b]))
                for a, b in permutations(SEEDS, 2)
            }
            for kind, of in atlases.items()
        },
    }


def tables(data: dict[str, Any]) -> dict[str, str]:
    """The tables of the document."""
    order, agree = [], []
    for kind in KINDS:
        for row in data["all_stages"][kind]["changed"]:
            order.append(
                [
                    kind,
                    f"`{row['edge']}`",
                    f"{row['final']:.2f}",
                    _with(row, "onset"),
                    _with(row, "half"),
                    f"{row['p_value']:.2g}",
                    "yes" if row["formed"] else "no",
                ]
            )
        for pair, found in data["agreement"][kind].items():
            tau = "-" if found["tau"] is None else f"{found['tau']:.2f} (p = {found['p']:.2g})"
            counts = [found[name] for name in ("shared", "sure_pairs", "same", "reversed")]
            agree.append([kind, pair.replace(" ", " and "), tau, *map(str, counts)])
    head = ["prompts", "edge", "effect at the end", "a tenth of the way", "half-way", "p of a transition", "appears"]
    other = ["prompts", "seeds", "rank correlation of half-way points", "edges that change in both"]
    other += ["pairs surely in order in the first", "surely the same in the second", "surely reversed"]
    return {"order": markdown(head, order), "agreement": markdown(other, agree)}


def _with(row: dict[str, Any], point: str) -> str:
    return f"{row[point]:,.0f} ({row[f'{point}_low']:,.0f} to {row[f'{point}_high']:,.0f})"


def main() -> None:
    """Train what is not there, measure, write the file, and fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("out-atlas"), help="where runs and effects are kept")
    parser.add_argument("--tables", action="store_true", help="fill the tables alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.tables:
        args.runs.mkdir(exist_ok=True)
        write_text(OUT, json.dumps(measured(args.runs)) + "\n")
    made = tables(json.loads(OUT.read_text()))
    text = DOCUMENT.read_text()
    write_text(DOCUMENT, _TABLE.sub(lambda match: match[1] + made[match[2]] + "\n" + match[3], text))


if __name__ == "__main__":
    main()
