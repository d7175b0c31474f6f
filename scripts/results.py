"""Every number of `docs/RESULTS.md`, computed anew: `make results`.

Weights are those of `checkpoints/`. What needs stages that are not shipped (all but some of one seed) is computed
from what was measured when they were trained, `docs/data/`, with each sequence's own value: verdicts and intervals
are made anew from it. `python -m scripts.results --tables` fills the tables of the documents alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conversion.atomic import write_text
from scripts.replication.tables import fill

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "results.json"
DATA = ROOT / "docs" / "data"
DOCUMENTS = ("RESULTS.md", "METHODOLOGY.md")
SEEDS = ("1337", "1338", "1339")


def of_run(name: str, seed: str) -> dict[str, Any]:
    """Claims 1 to 3 of a run, from its trajectories."""
    from nanogpt_lens.results import Trajectory
    from scripts.replication.formation import formation, learning, order

    folder = DATA / "trajectories" / f"{name}_{seed}"
    kinds = ("random_heads", "task_heads", "task_accuracy")
    random, own, accuracy = (Trajectory.load(folder / kind) for kind in kinds)
    shuffled = json.loads((folder / "shuffled.json").read_text())
    found = {"formation": formation(random, own, accuracy), "shuffled": shuffled[max(shuffled, key=int)]}
    found["whose_outputs"] = json.loads((folder / "whose_outputs.json").read_text())
    found["learning"] = learning(random, own, accuracy, shuffled)
    if name == "induction":
        found["order"] = order(random, own)
    return found


def place(name: str, seed: str) -> Path:
    """Where the last checkpoint of a seed is."""
    folder = ROOT / "checkpoints" / name
    return folder if seed == SEEDS[0] else folder / f"seed_{seed}"


def causes(seed: str) -> dict[str, Any]:
    """Claims 4 to 6 of a seed, from its weights."""
    from nanogpt_lens import load
    from nanogpt_lens.text.tasks import read_task
    from scripts.mechanisms import shuffled_context
    from scripts.replication.answers import carry_over, prompts
    from scripts.replication.causes import ablation, heads_of, induction_gain, k_composition, path_patching

    model, task = load(place("induction", seed)), read_task(place("induction", seed))
    heads = heads_of(model, task)
    return {
        "heads": heads,
        "ablation": ablation(model, task, heads=heads),
        "gain": induction_gain(model, task, heads=heads),
        "paths": path_patching(model, task, heads=heads),
        "composition": k_composition(model, task, heads=heads),
        "prompts": prompts(model, task),
        "carry_over": carry_over(model, task, heads=heads),
        "shuffled": shuffled_context(model, task),
    }


def shipped_stages() -> dict[str, Any]:
    """The same verdicts from the sixteen stages that are shipped, which are stored in 16 bits."""
    from nanogpt_lens import trajectory
    from scripts.replication.formation import followed, random_heads

    found = trajectory(ROOT / "checkpoints" / "induction", random_heads, progress=False)
    return {"steps": list(found.steps), **{score: followed(found, score) for score in found.labels["score"]}}


def matched() -> dict[str, Any]:
    """The heads of seeds 1338 and 1339 that are like those of 1337, by `task_heads` over training."""
    from nanogpt_lens import match_heads
    from nanogpt_lens.results import Trajectory

    every = [Trajectory.load(DATA / "trajectories" / f"induction_{seed}" / "task_heads") for seed in SEEDS]
    found = match_heads(*every)
    return {
        f"{i}.{j}": {
            "partners": ["none" if place is None else f"{place[0]}.{place[1]}" for place in found.of(i, j)],
            "distance": [round(float(v), 2) for v in found.values[:, i, j]],
            "nearest_other": [round(float(v), 2) for v in found.nearest_other[:, i, j]],
        }
        for i in range(found.shape["layer"])
        for j in range(found.shape["head"])
    }


def shakespeare() -> dict[str, Any]:
    """Claim 7, on plays that are not in the training text."""
    from nanogpt_lens import load
    from scripts.replication.shakespeare import final, forecast, over_training
    from scripts.ship_shakespeare_char import plays_text

    models = {seed: load(place("shakespeare_char", seed)) for seed in SEEDS}
    text = plays_text(models[SEEDS[0]].tokenizer.encoder)
    return {
        "seeds": {seed: final(model, text) for seed, model in models.items()},
        "over_training": over_training(ROOT / "checkpoints" / "shakespeare_char", text),
        "forecast": forecast(12, 64, 2000),
    }


def _of_data(name: str, summary: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """What follows from the data of a name; nothing where they are not there."""
    file = DATA / f"{name}.json"
    return summary(json.loads(file.read_text())) if file.is_file() else {}


def smallest() -> dict[str, Any]:
    """Finding (a), from the runs that are kept as data."""
    from scripts.replication.smallest import summary

    return _of_data("smallest_model", summary)


def agreement() -> dict[str, Any]:
    """Finding (b), heads, as it was measured first: on 64 prompts."""
    from scripts.replication.agreement import summary

    return _of_data("agreement", summary)


def head_agreement() -> dict[str, Any]:
    """Finding (b), heads, on four sets of 512 prompts."""
    from scripts.replication.head_agreement import summary

    return _of_data("head_agreement", summary)


def edge_agreement() -> dict[str, Any]:
    """Finding (b), edges: the grades of all methods, and the rule that says when a list of edges is safe."""
    from scripts.replication.rule import summary

    return _of_data("edge_agreement", summary)


def backdoor() -> dict[str, Any]:
    """Finding (c), from the runs that are kept as data."""
    from scripts.backdoor.summary import summary

    return _of_data("backdoor", summary)


def arrival() -> dict[str, Any]:
    """Finding (e), from the edges that were measured at each stage, and the stories that were scrubbed."""
    from scripts.replication.arrival import summary

    return _of_data("order", lambda data: _of_data("order_scrubbed", lambda scrubbed: summary(data, scrubbed)))


def syntax() -> dict[str, Any]:
    """Finding (d), from the weights of three seeds and the stages of one; other stages from the data that are kept."""
    from scripts.replication.syntax import summary

    places = {seed: place("shakespeare_char", seed) for seed in SEEDS}
    return summary(places, _of_data("syntax", dict), place("induction", SEEDS[0]))


PARTS: dict[str, Callable[[], Any]] = {
    "induction": lambda: {seed: of_run("induction", seed) for seed in SEEDS},
    "induction_control": lambda: {seed: of_run("induction_control", seed) for seed in SEEDS},
    "causes": lambda: {seed: causes(seed) for seed in SEEDS},
    "shipped_stages": shipped_stages,
    "matching": matched,
    "shakespeare": shakespeare,
    "smallest_model": smallest,
    "agreement": agreement,
    "head_agreement": head_agreement,
    "edge_agreement": edge_agreement,
    "backdoor": backdoor,
    "arrival": arrival,
    "syntax": syntax,
}
"""Of `results.json`."""


def main() -> None:
    """Compute, write, and fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="fill the tables from results.json as it is")
    parser.add_argument("--only", choices=PARTS, help="compute one part anew")
    args = parser.parse_args()
    found = json.loads(OUT.read_text()) if args.tables or args.only else {}
    chosen = [args.only] if args.only else [] if args.tables else list(PARTS)
    found |= {name: PARTS[name]() for name in chosen}
    write_text(OUT, json.dumps(found, indent=1) + "\n")
    for name in DOCUMENTS:
        file = ROOT / "docs" / name
        write_text(file, fill(file.read_text(encoding="utf-8"), found))


if __name__ == "__main__":
    main()
