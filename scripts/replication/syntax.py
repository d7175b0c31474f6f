"""Finding (d): which heads of a character model attend to what syntax sets apart, and what else could explain it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens import load
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.heads.alignment import Classes
from nanogpt_lens.heads.attention import pattern_hook
from nanogpt_lens.heads.odds import Contrasts
from nanogpt_lens.heads.on_tasks import task_sequences
from nanogpt_lens.heads.syntax import attention_to_classes
from nanogpt_lens.model.access import Edit, evaluating, loss_per_token
from nanogpt_lens.runs.stages import list_stages
from nanogpt_lens.text.corpus import open_corpus
from nanogpt_lens.text.opened import OpenedCorpus
from nanogpt_lens.text.syntax import places_of_classes
from nanogpt_lens.text.tasks import read_task
from scripts.ship_shakespeare_char import STAGES

TEXT, N, KNOCKED, SHIFTS = "shakespeare_char", 256, 128, 4
THRESHOLD, ALPHA = 0.1, 0.05
NUMBERS = ("values", "chance", "p_shifted", "sure_above", "beyond", "beyond_sure", "preference")
_DIGITS = {"p_shifted": 6}


@dataclass(frozen=True)
class Read:
    """Sequences of a text, with its classes: the same for every model."""

    names: tuple[str, ...]
    tokens: Int[Tensor, "example pos"]
    classes: Classes
    contrasts: Contrasts

    @classmethod
    def of(cls, model: Any, corpus: Any = TEXT, *, n: int = N) -> Read:
        """Of a corpus, with the vocabulary of a model."""
        opened = open_corpus(model, corpus)
        assert isinstance(opened, OpenedCorpus)
        sequences = opened.sequences(seq_len=min(64, opened.row_length or 64))
        tokens, at = sequences.drawn(n, seed=0)
        places = places_of_classes(model, sequences, at)
        classes = Classes.of(tokens, places.to)
        return cls(places.names, tokens, classes, Contrasts.of(tokens, classes))


def measured(model: Any, read: Read) -> dict[str, Any]:
    """By class and number, the heads layer by layer."""
    fields = attention_to_classes(model, read.tokens, read.classes, read.contrasts)
    return {
        name: {key: [[round(float(v), _DIGITS.get(key, 4)) for v in row] for row in fields[key][i]] for key in NUMBERS}
        for i, name in enumerate(read.names)
    }


def told(read: Read) -> dict[str, dict[str, float]]:
    """Of each class, how many queries see a place, how many such places each, and the share that can be told apart."""
    queries, members = read.classes.queries.sum(1), read.classes.n_members
    shares = read.classes.tellable.sum(1) / members
    return {
        name: {
            "queries": int(queries[i]),
            "places": round(float(members[i] / queries[i]), 2),
            "told_apart": round(float(shares[i]), 3),
        }
        for i, name in enumerate(read.names)
    }


def heads_that_attend(numbers: Mapping[str, Any]) -> list[str]:
    """The heads that attend to a class by the rule of the predictions."""
    return [
        f"{i}.{j}"
        for i, row in enumerate(numbers["p_shifted"])
        for j, p in enumerate(row)
        if p < ALPHA and numbers["sure_above"][i][j] > THRESHOLD and numbers["beyond_sure"][i][j] > THRESHOLD
    ]


def best(numbers: Mapping[str, Any], by: str = "beyond") -> dict[str, Any]:
    """The head with the highest of a number."""
    rows = numbers[by]
    i, j = max(((i, j) for i in range(len(rows)) for j in range(len(rows[0]))), key=lambda at: rows[at[0]][at[1]])
    return {"head": f"{i}.{j}", **{key: numbers[key][i][j] for key in NUMBERS}}


def knocked_out(model: Any, read: Read, name: str, heads: list[str]) -> dict[str, Any]:
    """What it costs to take away what some heads give to the places of a class, and to as many others.

    The others are the class shifted along the sequences: as many places at the same distances. The rest of a query's
    attention is scaled up. Losses are those of the queries concerned; "per_attention" is the rise divided by the
    attention that was taken away.
    """
    c = read.names.index(name)
    n, n_pos = KNOCKED, read.tokens.shape[1]
    tokens, flat = read.tokens[:n], read.classes.to[c].flatten(0, 1)
    generator = torch.Generator().manual_seed(0)
    moved = torch.randint(n_pos, len(flat) - n_pos, (SHIFTS,), generator=generator).tolist()
    before = loss_per_token(model, tokens).double()
    found = []
    for shift in (0, *moved):
        to = flat.roll(-shift, 0)[: n * n_pos].view(n, n_pos, -1) & read.classes.seen
        taken, edits = _without(to, heads)
        with evaluating(model):
            rise = loss_per_token(model, tokens, edits).double() - before
        concerned = to.any(-1)[:, :-1]
        found.append((rise * concerned, concerned, sum(t[:, :-1] * concerned for t in taken.values())))
    return {"heads": "+".join(heads), "class": _cost(found[:1]), "shifted": _cost(found[1:])}


def _without(to: Bool[Tensor, "example pos back"], heads: list[str]) -> tuple[dict[str, Tensor], dict[str, Edit]]:
    """Edits that take away what heads give to some places, and by head what was taken, once they have run."""
    taken: dict[str, Tensor] = {}
    n_pos = to.shape[1]
    at = (torch.arange(n_pos)[:, None] - torch.arange(n_pos) - 1).clamp(min=0)
    mask = to.gather(2, at.clamp(max=n_pos - 2).expand(len(to), -1, -1)) & torch.ones(n_pos, n_pos).tril(-1).bool()

    def edit_of(layer: int) -> Edit:
        def edit(pattern: Float[Tensor, "example head query key"]) -> Tensor:
            pattern = pattern.clone()
            for head in (int(h.split(".")[1]) for h in heads if int(h.split(".")[0]) == layer):
                rest = pattern[:, head].masked_fill(mask, 0.0)
                taken[f"{layer}.{head}"] = (pattern[:, head] - rest).sum(-1).double()
                pattern[:, head] = rest / rest.sum(-1, keepdim=True).clamp(min=1e-6)
            return pattern

        return edit

    return taken, {pattern_hook(layer): edit_of(layer) for layer in sorted({int(h.split(".")[0]) for h in heads})}


def _cost(runs: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Any]:
    """The mean rise at the queries concerned, what was taken from them, and the rise for each unit of attention."""
    rise, concerned, taken = (torch.stack([run[i].double().sum(1) for run in runs]).sum(0) for i in range(3))
    found: dict[str, Any] = {"attention": round(float(taken.sum() / concerned.sum()), 4)}
    for key, over in (("rise", concerned), ("per_attention", taken)):
        each = ratio_per_example(rise[None], over[None])[0]
        ends = t_interval(each)
        assert ends is not None
        found[key] = [round(float(v), 5) for v in (each.mean(), *ends)]
    return found


def summary(places: Mapping[str, Path], kept: Mapping[str, Any], control: Path) -> dict[str, Any]:
    """Finding (d), from weights, and from what was measured at stages that are not shipped.

    Args:
        places: by seed, where its end is; the first has stages.
        kept: by other seeds, the numbers at their stages.
        control: the induction model.
    """
    models = {seed: load(place) for seed, place in places.items()}
    first = next(iter(models))
    read = Read.of(models[first])
    ends = {seed: measured(model, read) for seed, model in models.items()}
    attending = {
        name: {seed: heads_that_attend(numbers[name]) for seed, numbers in ends.items()} for name in read.names
    }
    training = {first: at_stages(places[first], read), **kept}
    for seed, steps in training.items():
        steps["2000"] = ends[seed]
    model = load(control)
    sequences = torch.from_numpy(task_sequences(model, read_task(control), n=N, seed=0).tokens)
    apart = measured(model, Read.of(model, sequences[:, :64].long()))
    return {
        "classes": told(read),
        "ends": ends,
        "attending": attending,
        "holds": [name for name, by_seed in attending.items() if all(by_seed.values())],
        "best": {seed: {name: best(of) for name, of in numbers.items()} for seed, numbers in ends.items()},
        "prefers": {
            seed: {name: best(of, "preference") for name, of in numbers.items()} for seed, numbers in ends.items()
        },
        "layer_0": {seed: _of_layer_0(numbers) for seed, numbers in ends.items()},
        "training": {seed: over_training(steps) for seed, steps in training.items()},
        "knocked_out": {
            seed: {
                name: knocked_out(models[seed], read, name, by_seed[seed])
                for name, by_seed in attending.items()
                if by_seed[seed]
            }
            for seed in models
        },
        "control": {
            "attending": {name: heads_that_attend(of) for name, of in apart.items()},
            "best": {name: best(of) for name, of in apart.items()},
        },
    }


def at_stages(folder: Path, read: Read) -> dict[str, Any]:
    """What is measured at the stages of a run, but for its end."""
    steps = set(STAGES[:-1])
    return {str(stage.step): measured(load(stage.path), read) for stage in list_stages(folder) if stage.step in steps}


def _of_layer_0(numbers: Mapping[str, Any]) -> dict[str, float]:
    """How far layer 0, which knows no more than characters and places, goes in any class."""
    return {
        "beyond": max(abs(v) for of in numbers.values() for v in of["beyond"][0]),
        "preference": max(abs(v) for of in numbers.values() for v in of["preference"][0]),
        "word_start": max(abs(v) for v in numbers["word_start"]["preference"][0]),
    }


def over_training(steps: Mapping[str, Any]) -> dict[str, Any]:
    """By class and stage the heads that attend, and by layer the highest of each number."""
    order = sorted(steps, key=int)
    return {
        name: {
            "steps": [int(step) for step in order],
            "attending": [heads_that_attend(steps[step][name]) for step in order],
            "lowest_p": [min(min(row) for row in steps[step][name]["p_shifted"]) for step in order],
            **{
                key: [[max(row) for row in steps[step][name][key]] for step in order]
                for key in ("beyond", "preference")
            },
        }
        for name in steps[order[0]]
    }


def main() -> None:
    """Measure the stages of seeds whose runs are in a folder: `python -m scripts.replication.syntax RUNS`."""
    import sys

    from conversion.atomic import write_text
    from scripts.results import DATA, SEEDS, place

    torch.set_num_threads(1)
    read = Read.of(load(place(TEXT, SEEDS[0])))
    found = {seed: at_stages(Path(sys.argv[1]) / seed, read) for seed in SEEDS[1:]}
    write_text(DATA / "syntax.json", json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
