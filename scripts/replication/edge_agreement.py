"""What every edge does by the cheap methods, and exactly: `python -m scripts.replication.edge_agreement RUNS`.

For three seeds of the shipped `induction` model and six iterations, random prompts `[A][B] ... [A]`, 512 of each
prompt seed, and four or two prompt seeds; the models' own task; `shakespeare_char` and `handmade_induction`. RUNS keeps
what is measured, every prompt's own value, and the stages of the seeds that are not shipped, as `scripts.circuit_atlas`
trains them. A killed call goes on where it was; `--only` measures some of the models, so that two calls can share the
work. What comes out is `docs/data/edge_agreement.json`, which `scripts.replication.rule` reads. About an hour on one
core. Predictions: `docs/PREDICTIONS.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import nanogpt_lens as ngl
from conversion.atomic import write_text
from nanogpt_lens.circuits.elimination import acdc
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.ranking import Ranking
from nanogpt_lens.circuits.rivals import by_attention, by_weights
from nanogpt_lens.circuits.search import Search, without
from nanogpt_lens.patching.runner import MEMORY
from nanogpt_lens.text.pair import Pair
from nanogpt_lens.text.task_pairs import pairs_by_name
from scripts.circuit_atlas import stages_of
from scripts.results import DATA, ROOT, SEEDS, place

OUT = DATA / "edge_agreement.json"
STEPS = (0, 400, 600, 1000, 2000, 6000)
OWN_STEPS = (1000, 6000)
LAST = 6000
PROMPT_SEEDS, PROMPTS, LENGTH, CHUNK = (0, 1, 2, 3), 512, 32, 128
SHAKESPEARE = (("1337", 2000), ("1338", 2000), ("1339", 2000))
REPLACED = 4
ESTIMATES = ("eap", "eap_ig")
THRESHOLD = 0.01
"""Of ACDC, as a share of the distance between the run with no edge and that with all."""
SIZES = (*range(0, 31, 2), 40, 60, 80)
"""The sizes at which the circuits of every order are run."""

Cell: TypeAlias = dict[str, Any]
"""What is measured of a model on the prompts of one seed: tensors by name."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A model and its prompts.

    Attributes:
        task: "random" prompts, the model's "own" task, "shakespeare", or "handmade".
        seed: of the training run.
        step: the iteration.
        prompt_seeds: one cell each.
    """

    task: str
    seed: str
    step: int
    prompt_seeds: tuple[int, ...] = (0,)

    @property
    def name(self) -> str:
        """The key of a model in the file."""
        return f"{self.task} {self.seed} {self.step}"

    def load(self, runs: Path) -> Any:
        """The model."""
        if self.task == "handmade":
            return ngl.load("handmade_induction")
        if self.task == "shakespeare":
            return ngl.load(place("shakespeare_char", self.seed))
        if self.step == LAST:
            return ngl.load(place("induction", self.seed))
        return ngl.load(stages_of(self.seed, runs) / f"ckpt_{self.step:06d}.pt")

    def pairs(self, model: Any, prompt_seed: int) -> Pair:
        """Its prompts."""
        if self.task == "shakespeare":
            return text_pairs(model, prompt_seed, n=256)
        if self.task == "own":
            return pairs_by_name(model, str(ROOT / "checkpoints" / "induction"), n=PROMPTS, seed=prompt_seed)
        length = 12 if self.task == "handmade" else LENGTH
        return ngl.induction_pairs(model, n=PROMPTS, seq_len=length, seed=prompt_seed)


def places() -> Iterator[Place]:
    """Every model, those first that need no training."""
    for seed in SEEDS:
        for step in STEPS:
            yield Place(task="random", seed=seed, step=step, prompt_seeds=prompt_seeds_of(seed, step))
        for step in OWN_STEPS:
            yield Place(task="own", seed=seed, step=step)
    for seed, step in SHAKESPEARE:
        yield Place(task="shakespeare", seed=seed, step=step)
    yield Place(task="handmade", seed="0", step=0)


def prompt_seeds_of(seed: str, step: int) -> tuple[int, ...]:
    """Of the random prompts of a model: all of the first seed and of the last stage, two of the others."""
    return PROMPT_SEEDS if seed == SEEDS[0] or step == LAST else PROMPT_SEEDS[:2]


def text_pairs(model: Any, seed: int, *, n: int) -> Pair:
    """Windows of the validation text, and the same with the last characters of another window; the model's top tokens.

    Windows whose top token stays the same are left out.
    """
    tokens = np.fromfile(ROOT / "checkpoints" / "shakespeare_char" / "val.bin", dtype=np.uint16).astype(np.int64)
    starts = np.random.default_rng([2**32 - 1, seed]).integers(0, len(tokens) - LENGTH, size=4 * n)
    clean = torch.from_numpy(np.stack([tokens[start : start + LENGTH] for start in starts]))
    corrupted = clean.clone()
    corrupted[:, -REPLACED:] = clean.roll(1, 0)[:, -REPLACED:]
    with torch.no_grad():
        tops = [torch.cat([model(some)[:, -1].argmax(-1) for some in ids.split(CHUNK)]) for ids in (clean, corrupted)]
    rows = (tops[0] != tops[1]).nonzero()[:n, 0]
    if len(rows) < n:
        raise ValueError(f"{len(rows)} of {4 * n} windows have another top token; expected {n}")
    return Pair(clean=clean[rows], corrupted=corrupted[rows], answer=tops[0][rows], wrong=tops[1][rows])


def some_of(pair: Pair, rows: slice) -> Pair:
    """Some of the prompts."""
    return Pair(
        clean=pair.clean[rows], corrupted=pair.corrupted[rows], answer=pair.answer[rows], wrong=pair.wrong[rows]
    )


def effects(model: Any, pair: Pair) -> Cell:
    """Of every prompt the exact effect and both estimates of every edge [edge, example], and the gap [example]."""
    found: dict[str, list[Tensor]] = {name: [] for name in ("exact", *ESTIMATES, "gap")}
    for start in range(0, len(pair.clean), CHUNK):
        some = some_of(pair, slice(start, start + CHUNK))
        given = (model, some.clean, some.corrupted, ngl.metrics.logit_diff_of(some))
        exact = ngl.edge_effects(*given, progress=False)
        assert exact.per_example is not None
        assert exact.base_per_example is not None
        found["exact"].append(exact.per_example - exact.base_per_example)
        for method in ESTIMATES:
            estimate = ngl.edge_attribution(*given, method=method, progress=False).per_example
            assert estimate is not None
            found[method].append(estimate)
        found["gap"].append(exact.base_per_example - answered(model, some.corrupted, some))
    return {name: torch.cat(parts, -1).float() for name, parts in found.items()}


def answered(model: Any, ids: Int[Tensor, "example pos"], pair: Pair) -> Float[Tensor, " example"]:
    """The logit of the answer less that of the wrong one, after the last token."""
    with torch.no_grad():
        logits = model(ids)[:, -1]
    rows = torch.arange(len(ids))
    return logits[rows, pair.answer] - logits[rows, pair.wrong]


def rivals(model: Any, pair: Pair) -> Cell:
    """What the others give every edge [edge], on the first prompts; how the first edges of every order do [size]."""
    some = some_of(pair, slice(0, CHUNK))
    search = Search(
        prepare(
            model, some.clean, some.corrupted, ngl.metrics.logit_diff_of(some), source="other", reference=None, seed=0
        ),
        memory=MEMORY,
    )
    scale = float(search.metric_distance(torch.zeros_like(search.everything)[None])[0])
    kept, missed = acdc(search, search.metric_distance, THRESHOLD * scale, progress=False)
    # those that stay come first, and within both kinds those that were missed most
    scores = {
        "acdc": missed + kept * (1 + float(missed.max())),
        "patched nodes": by_nodes(search),
        "attention": by_attention(model, pair.clean, pair.corrupted),
        "weights": by_weights(model),
    }
    return {"scores": scores, "acdc_size": int(kept.sum())}


def by_nodes(search: Search) -> Float[Tensor, " edge"]:
    """What the sender is worth times what the receiver is worth: nodes whose output is that of the corrupted run.

    The embedding and the logits are worth the gap.
    """
    graph: CircuitGraph = search.graph
    worth: dict[Any, float] = {}
    for sender in graph.senders:
        out = torch.tensor([i for i, edge in enumerate(graph.edges) if edge.sender == sender])
        gone = without(search.everything, out[None])
        worth[sender] = float((search.values(gone).mean(1) - search.full.mean())[0])
    gap = abs(search.gap)
    return torch.tensor(
        [abs(worth[edge.sender]) * abs(worth.get(graph.node_of(edge.receiver), gap)) / gap for edge in graph.edges],
        dtype=torch.float64,
    )


def curves(model: Any, pair: Pair, orders: dict[str, Int[Tensor, " edge"]]) -> dict[str, list[float]]:
    """The faithfulness of the first edges of each order, at `SIZES`, on the first prompts."""
    some = some_of(pair, slice(0, CHUNK))
    metric = ngl.metrics.logit_diff_of(some)
    search = Search(
        prepare(model, some.clean, some.corrupted, metric, source="other", reference=None, seed=0), memory=MEMORY
    )
    found = {}
    for name, order in orders.items():
        sets = torch.zeros(len(SIZES), len(order), dtype=torch.bool)
        for row, size in zip(sets, SIZES, strict=True):
            row[order[:size]] = True
        found[name] = [round(v, 3) for v in search.faithfulness(sets).tolist()]
    return found


def cell(where: Place, prompt_seed: int, runs: Path, model: Any | None = None) -> Cell:
    """What is measured of a model on the prompts of a seed; kept in the folder of runs."""
    kept = runs / "agreement" / f"{where.name.replace(' ', '_')}_{prompt_seed}.pt"
    if not kept.is_file():
        model = where.load(runs) if model is None else model
        pair = where.pairs(model, prompt_seed)
        found = {**effects(model, pair), "edges": [str(edge) for edge in CircuitGraph(model).edges]}
        if where.task == "random" and prompt_seed == 0:
            found |= rivals(model, pair)
            scores = {name: found[name].double().mean(1) for name in ("exact", *ESTIMATES)} | found["scores"]
            found["curves"] = curves(model, pair, {name: order_of(s) for name, s in scores.items()})
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
        print(kept.name, flush=True)
    return torch.load(kept)


def order_of(scores: Float[Tensor, " edge"]) -> Int[Tensor, " edge"]:
    """All edges, the largest by magnitude first."""
    return scores.abs().argsort(descending=True, stable=True)


def ranking_of(cell: Cell, method: str) -> Ranking:
    """A method as the package's grades take it; the rivals have no sign, and no prompts of their own."""
    if method in cell.get("scores", {}):
        scores = cell["scores"][method].double()
        return Ranking(scores=scores, order=order_of(scores), signed=False)
    each = cell[method].double()
    return Ranking(scores=each.mean(1), order=order_of(each.mean(1)), per_example=each)


def main() -> None:
    """Measure what is not there, and write the file when all is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="*", help="the tasks and seeds of the models to measure, such as 'random 1337'")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for where in places():
        if args.only is None or f"{where.task} {where.seed}" in args.only:
            missing = [s for s in where.prompt_seeds if not _kept(where, s, args.runs)]
            model = where.load(args.runs) if missing else None
            for prompt_seed in missing:
                cell(where, prompt_seed, args.runs, model)
    if args.only is None:
        from scripts.replication.safe import compact

        write_text(OUT, compact(args.runs))


def _kept(where: Place, prompt_seed: int, runs: Path) -> bool:
    return (runs / "agreement" / f"{where.name.replace(' ', '_')}_{prompt_seed}.pt").is_file()


if __name__ == "__main__":
    main()
