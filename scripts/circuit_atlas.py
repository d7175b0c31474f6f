"""What every edge does over training, and when each appears, of three seeds: `python -m scripts.circuit_atlas`.

For each seed and kind of prompts the exact effect of every edge of the shipped `induction` model, stage by stage. The
first seed's stages are shipped; those of the others are trained anew up to iteration 2,000 (about fifteen minutes each
on one core) and compared with the shipped log by their losses; the last stage is the shipped one. A killed call goes
on where it was. What comes out is `docs/data/circuit_atlas.json`, and the tables of `docs/CIRCUITS.md` that say atlas.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations, product
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch
from scipy.stats import kendalltau
from torch import Tensor

import nanogpt_lens as ngl
from conversion.atomic import write_text
from nanogpt_lens import TrainConfig, train
from nanogpt_lens.core.intervals import mean_fields
from nanogpt_lens.results import CircuitAtlas, HeadMatches, Trajectory, load_result
from nanogpt_lens.runs.atlas import circuit_atlas
from nanogpt_lens.text.tasks import read_task
from scripts.replication.cells import markdown
from scripts.results import DATA, ROOT, SEEDS, place
from scripts.ship_induction import SHIPPED, settings

OUT = DATA / "circuit_atlas.json"
DOCUMENT = ROOT / "docs" / "CIRCUITS.md"
PROMPTS = 32
HALVINGS = 10
LAST_TRAINED, LAST = 2000, 6000
TRAINED = tuple(step for step in SHIPPED if step <= LAST_TRAINED)
KINDS = {
    "own task": "prompts of the model's own task",
    "solved": "random tokens [A][B] ... [A] that the model at the end answers",
}
"""The kinds of prompts; at the end means the last stage, so that these are chosen by what comes out."""

Halves: TypeAlias = Mapping[str, float]
"""The half-way point of each edge that has changed."""

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
    rows = (
        table[table["changed"]].drop(columns=["changed", "shrunk"]).to_json(None, orient="records", double_precision=4)
        or "[]"
    )
    return {
        "steps": atlas.steps,
        "n_curves": atlas.n_curves,
        "groups": atlas.groups,
        "spans": atlas.spans.tolist(),
        "togetherness": atlas.togetherness(),
        "faded": atlas.faded,
        "shrunk": atlas.diminished,
        "changed": json.loads(rows),
    }


def renamed(edge: str, heads: Sequence[Sequence[int]]) -> str:
    """An edge of one model with the names that another's heads have: `heads[layer][head]`."""

    def other(name: str) -> str:
        layer, *part = name.split(".")
        if not layer.isdigit():
            return name
        return ".".join([layer, str(heads[int(layer)][int(part[0])]), *part[1:]])

    return "->".join(map(other, edge.split("->")))


def halves_of(atlas: CircuitAtlas) -> dict[str, float]:
    """The half-way point of each edge that has changed."""
    return {edge: atlas.half_of(edge)[0] for edge in atlas.order_of_changes}


def rank_correlation(one: Halves, other: Halves, names: Callable[[str], str] = str) -> float:
    """Kendall's tau of the half-way points of edges that both have, by the names of the second; nan for one or none."""
    pairs = [(half, other[names(edge)]) for edge, half in one.items() if names(edge) in other]
    found: Any = kendalltau(*zip(*pairs, strict=True)) if len(pairs) > 1 else None
    return math.nan if found is None else float(found.statistic)


def chance(one: Halves, other: Halves, tau: float, heads: Sequence[int]) -> tuple[float, float]:
    """The mean tau over all numberings of the second model's heads within layers, and the share at least as large.

    Args:
        one, other: the half-way points, each by its model's own names.
        tau: with the heads paired as they are, which is one of these numberings.
        heads: how many there are in each layer.
    """
    numberings = product(*(permutations(range(n)) for n in heads))
    taus = [rank_correlation(one, other, partial(renamed, heads=numbering)) for numbering in numberings]
    return fmean(t for t in taus if not math.isnan(t)), fmean(t >= tau - 1e-9 for t in taus)


def between_halves(effects: Trajectory) -> dict[str, Any]:
    """How far the order is the same in two halves of the prompts of one seed, in random halvings: a ceiling."""
    assert effects.per_example is not None
    n = effects.per_example.shape[-1]
    generator, taus = torch.Generator().manual_seed(0), list[float]()
    for _ in range(HALVINGS):
        order = torch.randperm(n, generator=generator)
        # what has changed, and when, does not depend on the tests
        one, other = (
            circuit_atlas(of_prompts(effects, half), level=0.5, permutations=200)
            for half in (order[: n // 2], order[n // 2 :])
        )
        taus.append(rank_correlation(halves_of(one), halves_of(other)))
    return {"mean": fmean(taus), "low": min(taus), "high": max(taus)}


def of_prompts(effects: Trajectory, places: Tensor) -> Trajectory:
    """The same over some of the prompts."""
    assert effects.per_example is not None
    return replace(effects, **mean_fields(effects.per_example[..., places]))


def agreement(one: CircuitAtlas, other: CircuitAtlas, matches: HeadMatches) -> dict[str, Any]:
    """How far the order of what changes is the same in another seed, after matching heads, and after any numbering."""
    heads = matches.partner_head[1].long().tolist()
    names = {edge: renamed(edge, heads) for edge in one.edges}
    shared = [edge for edge in one.order_of_changes if names[edge] in other.order_of_changes]
    points = halves_of(one), halves_of(other)
    tau = rank_correlation(*points, names.__getitem__)
    mean, p = chance(*points, tau, [len(row) for row in heads])
    sure = [(a, b) for a, b in permutations(shared, 2) if one.surely_before(a, b)]
    there = [(other.surely_before(names[a], names[b]), other.surely_before(names[b], names[a])) for a, b in sure]
    return {
        "changed": [len(one.order_of_changes), len(other.order_of_changes)],
        "shared": len(shared),
        "tau": tau,
        "tau_renumbered": mean,
        "p_renumbered": p,
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
        "halves": {
            kind: {s: between_halves(at_steps(e, common)) for s, e in of.items()} for kind, of in effects.items()
        },
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
            taus = [f"{found[name]:.2f}" for name in ("tau", "tau_renumbered", "p_renumbered")]
            counts = [found[name] for name in ("shared", "sure_pairs", "same", "reversed")]
            agree.append([kind, pair.replace(" ", " and "), *taus, *map(str, counts)])
    head = ["prompts", "edge", "effect at the end", "a tenth of the way", "half-way", "p of a transition", "appears"]
    other = ["prompts", "seeds", "rank correlation of half-way points", "mean of all numberings", "p"]
    other += ["edges that change in both", "pairs surely in order in the first", "surely the same in the second"]
    other += ["surely reversed"]
    return {"order": markdown(head, order), "verdicts": _verdicts(data), "agreement": markdown(other, agree)}


def _verdicts(data: dict[str, Any]) -> str:
    """What each atlas says of its edges, one row each."""
    rows = []
    for kind in KINDS:
        atlases = {SEEDS[0]: data["all_stages"][kind]}, data["common"][kind]
        for seed, found in ((seed, found) for of in atlases for seed, found in of.items()):
            common = found["steps"] == data["common_steps"]
            halves = data["halves"][kind][seed] if common else None
            appears = ", ".join(f"`{row['edge']}`" for row in found["changed"] if row["formed"])
            counts = [len(found[name]) for name in ("changed", "shrunk", "faded")]
            tau = f"{halves['mean']:.2f} ({halves['low']:.2f} to {halves['high']:.2f})" if halves else "-"
            rows.append([kind, seed, str(len(found["steps"])), appears or "none", *map(str, counts), tau])
    head = ["prompts", "seed", "stages", "appear", "change for good", "shrink for good", "come and go"]
    return markdown([*head, "rank correlation of half-way points, two halves of the prompts"], rows)


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
