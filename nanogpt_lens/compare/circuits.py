"""Circuits compared: do two models, seeds, stages, tasks or methods do the same in the same way?

Three questions, which have different answers. Do the effects of all edges rank alike? Do the circuits have the same
edges? And does the one's circuit do the other's work? Circuits with different edges may do the same work, since edges
back each other up, so that the last question is what counts ("functional" transfer).

Heads of independent seeds mean nothing by number, and are matched within each layer first: by what they do on texts
(`match_heads` on `score_heads`), which looks at no effect, so that any agreement of effects is found, not made; or by
the effects themselves, which agree best of all possible orders, so that only an agreement above that of unrelated heads
counts (see `renumbering`). Every number has a chance level beside it, and a ceiling: what the prompts' noise allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.circuits.hypotheses import share_at_least
from nanogpt_lens.circuits.random_circuits import random_circuits
from nanogpt_lens.compare.agreement import Correlations
from nanogpt_lens.compare.halves import Halves, halves_of, spearman_brown
from nanogpt_lens.compare.heads import match_heads
from nanogpt_lens.compare.overlap import connected_chance, overlap_of
from nanogpt_lens.compare.renumbering import Renumbering, inverse, then
from nanogpt_lens.compare.sides import Compared, Effects, Side, models_of, read_sides
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import Source, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.heads.taxonomy import score_heads
from nanogpt_lens.model.access import evaluating, provenance
from nanogpt_lens.patching.runner import MEMORY
from nanogpt_lens.results import CircuitComparison, HeadMatches, Sample

Match: TypeAlias = Literal["numbers", "behaviour", "effects"]
"""How the heads of two models correspond: as they are numbered, by what they do on texts, or by their effects."""

SCORES = {
    "rank_correlation": "Spearman's correlation of what every edge does",
    "jaccard": "the edges that both circuits have, of those that either has; chance: random circuits of their sizes",
    "above_chance": "(shared - expected) / (most possible - expected), where edges are drawn alike; p: hypergeometric",
    "transfer": "the faithfulness of the one's circuit in the other model, on its prompts; chance: random circuits",
}
"""What each score is."""

_NAN = float("nan")


def compare_circuits(
    *circuits: Compared,
    names: Sequence[str] | None = None,
    match: Match | HeadMatches | None = None,
    effects: Sequence[Effects | None] | None = None,
    splits: int = 4,
    n_random: int = 100,
    draws: int = 199,
    source: Source = "other",
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> CircuitComparison:
    """Compare circuits of models of one shape: their effects, their edges, and what each does in the other's place.

    Args:
        circuits: two or more, each as (model, circuit, clean, corrupted, metric): what `run_circuit` takes, the circuit
            as `find_circuit` gives it or as names of edges. Models may be one or several; of several stages of a run
            each is a model of its own.
        names: what they are called.
        match: "numbers", heads are what they are called, as in stages of one run; "behaviour", by `match_heads` on
            `score_heads`; "effects", by the order in which effects agree best; or `match_heads(...)` of your own scores
            of these models, in this order. None for "numbers" where there is one model alone, else "behaviour". Two
            circuits of the same model keep their numbers in any case.
        effects: for each what says of every edge what it does: `edge_attribution`, or a `Circuit` whose method scored
            it, to compare methods; None for exact effects, measured here (noise).
        splits: into how many random halves the prompts are split, for the ceiling; 0 for no ceiling. On each half a
            circuit is found by the method of the circuit, which takes as long as it takes.
        n_random: how many random circuits are run in each circuit's place, and how many renumbered ones.
        draws: how many random orders of heads the chance of a correlation is made of.
        source: what the edges outside of a circuit carry.
        seed: of all that is drawn.
        memory: the bytes for the runs of a chunk.
        progress: show bars.

    Returns:
        the scores [score, one, other] with chance, p, ceiling and intervals, and a `sentence`.

    Raises:
        AnalysisError: fewer than two, something else than five things, models of different shapes, a circuit or effects
            of another graph, prompts without a gap, an option that cannot be.

    Sources: Meloux et al. 2025 and others on circuits that are not unique; Spearman 1904, 1910, Brown 1910 (ceiling).
    """
    _check(match, splits=splits, n_random=n_random, draws=draws, source=source, seed=seed)
    models = models_of(circuits, names)
    usual: Match = "numbers" if all(model is models[0] for model in models) else "behaviour"
    asked = _Asked(splits=splits, n_random=n_random, draws=draws, seed=seed, memory=memory)
    with ExitStack() as every:
        for model in models:
            every.enter_context(evaluating(model))
        sides = read_sides(circuits, names, effects, source=source, seed=seed, memory=memory, progress=progress)
        return _Comparison(sides, usual if match is None else match, asked).result(source, progress=progress)


def _check(match: object, *, splits: int, n_random: int, draws: int, source: Source, seed: int) -> None:
    """Raise AnalysisError for an option that cannot be."""
    check_whole(splits=splits, seed=seed)
    check_whole(1, n_random=n_random, draws=draws)
    check_choice(Source, source=source)
    if match is not None and not isinstance(match, HeadMatches):
        check_choice(Match, match=match)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options that all parts share."""

    splits: int
    n_random: int
    draws: int
    seed: int
    memory: int


class _Comparison:
    """All pairs of some circuits."""

    def __init__(self, sides: Sequence[Side], match: Match | HeadMatches, asked: _Asked) -> None:
        self.sides, self.asked = sides, asked
        self.match: Match | HeadMatches = match
        self.renumbering = Renumbering(sides[0].graph)
        self.correlations = Correlations(sides=sides, renumbering=self.renumbering, draws=asked.draws, seed=asked.seed)
        self.generator = torch.Generator().manual_seed(asked.seed)
        n = len(sides)
        self.fields = {
            name: torch.full((len(SCORES), n, n), torch.nan, dtype=torch.float64)
            for name in ("values", "low", "high", "chance", "p", "ceiling")
        }
        self.renumbered = torch.full((2, n, n), torch.nan, dtype=torch.float64)
        self.shared, self.expected = torch.zeros(n, n, dtype=torch.long), torch.zeros(n, n, dtype=torch.float64)
        self._random: dict[tuple[int, int], Float[Tensor, " circuit"]] = {}

    def result(self, source: Source, *, progress: bool) -> CircuitComparison:
        """All scores of all pairs, as a result."""
        sides, n = self.sides, len(self.sides)
        partner, halves = self._partners(), list[Halves]()
        with tqdm(total=n * n + n, desc="circuits", delay=1, disable=not progress) as bar:
            for i, side in enumerate(sides):
                halves.append(self._halves(side))
                bar.update()
                for j in range(n):
                    if j >= i:
                        self._agree(i, j, partner[i, j])
                    self._transfer(i, j, partner[i, j])
                    bar.update()
        self._ceilings(halves)
        first = sides[0].search.ready
        return CircuitComparison(
            **self._measured(halves, partner),
            axes=("score", "one", "other"),
            labels={"score": tuple(SCORES), **dict.fromkeys(("one", "other"), tuple(side.name for side in sides))},
            quantity="agreement of circuits",
            definition=_definition(self.match, source, [side.search.ready.metric.definition for side in sides]),
            title="circuits, compared",
            scores=SCORES,
            sample=_sample(sides, self.asked.seed),
            interval="bootstrap" if bool((~self.fields["low"][0].isnan()).any()) else "",
            provenance=provenance(
                first.runs.model,
                names=[side.name for side in sides],
                models=[provenance(side.model, **side.search.ready.arguments) for side in sides],
                circuits=[_edges(side) for side in sides],
                found_by=[dict(side.finding) for side in sides],
                **vars(self.asked),
            ),
        )

    def _measured(self, halves: Sequence[Halves], partner: Int[Tensor, "one other layer head"]) -> dict[str, Any]:
        """All that was measured, as fields of the result."""
        measured = [side.search for side in self.sides]
        return {
            **self.fields,
            "match": "matches" if isinstance(self.match, HeadMatches) else self.match,
            "partner": partner,
            "n_edges": tuple(int(side.circuit.sum()) for side in self.sides),
            "n_prompts": tuple(len(search.ready.clean) for search in measured),
            "gap": torch.tensor([search.gap for search in measured], dtype=torch.float64),
            "shared": self.shared,
            "expected": self.expected,
            "renumbered": self.renumbered[0],
            "renumbered_p": self.renumbered[1],
            **{
                f"half_{name}": torch.stack([getattr(half, name) for half in halves])
                for name in ("correlation", "jaccard", "above_chance", "transfer")
            },
        }

    def _partners(self) -> Int[Tensor, "one other layer head"]:
        """Which head of the other stands for each of the one, for all pairs."""
        n = len(self.sides)
        partner = self.renumbering.plain.repeat(n, n, 1, 1)
        orders = None if self.match in ("numbers", "effects") else self._from_first()
        for i in range(n):
            for j in range(i + 1, n):
                if self.match == "numbers" or self.sides[i].model is self.sides[j].model:
                    continue
                if orders is None:
                    partner[i, j] = self.correlations.best(i, j, self.generator)
                else:
                    partner[i, j] = then(inverse(orders[i]), orders[j])
                partner[j, i] = inverse(partner[i, j])
        return partner

    def _from_first(self) -> Int[Tensor, "thing layer head"]:
        """Which head of each stands for each of the first's, by behaviour or as was said.

        Raises:
            AnalysisError: the matches are not of these models.
        """
        shape = (len(self.sides), self.renumbering.n_layers, self.renumbering.n_heads)
        if isinstance(self.match, HeadMatches):
            if tuple(self.match.partner_head.shape) != shape:
                raise AnalysisError(
                    f"the matches are of {list(self.match.partner_head.shape)} [model, layer, head]; expected "
                    f"{list(shape)}: match_heads of the scores of these models, one for each circuit, in this order"
                )
            return self.match.partner_head.long()
        of_model = {id(side.model): side.model for side in self.sides}
        scores = {key: score_heads(model, seed=self.asked.seed) for key, model in of_model.items()}
        matches = match_heads(*(scores[id(side.model)] for side in self.sides), seed=self.asked.seed)
        return matches.partner_head.long()

    def _agree(self, i: int, j: int, order: Int[Tensor, "layer head"]) -> None:
        """The scores that are the same both ways."""
        one, other = self.sides[i], self.sides[j]
        chosen = self.match == "effects" and one.model is not other.model
        there = other.circuit[self.renumbering.moved(order[None])[0]]
        overlap = overlap_of(one.circuit, there)
        found = {"values": (1.0, overlap.jaccard, overlap.above_chance)}
        if i != j:
            r = self.correlations.of(i, j, order, self.generator, chosen=chosen)
            chance, p = connected_chance(
                one.circuit,
                there,
                self.renumbering,
                n=self.asked.n_random,
                best_of_all=chosen,
                generator=self.generator,
            )
            found["values"] = (r.value, overlap.jaccard, overlap.above_chance)
            found["chance"] = (r.chance, chance, 0.0)
            found["p"] = (r.p, p, _NAN if chosen else overlap.hypergeometric_p)
            found["low"], found["high"] = (r.low, _NAN, _NAN), (r.high, _NAN, _NAN)
        for name, three in found.items():
            self.fields[name][:3, i, j] = self.fields[name][:3, j, i] = torch.tensor(three, dtype=torch.float64)
        self.shared[i, j] = self.shared[j, i] = overlap.shared
        self.expected[i, j] = self.expected[j, i] = overlap.expected

    def _transfer(self, i: int, j: int, order: Int[Tensor, "layer head"]) -> None:
        """What the circuit of one does in the other model."""
        one, other = self.sides[i], self.sides[j]
        moved = self._moved(one, order[None])
        each = other.search.parts(other.search.values(moved)[0])
        value = each.mean()
        random = self._random_there(j, int(one.circuit.sum()))
        off = -float((value - 1).abs())
        self._put("values", i, j, value)
        self._put("chance", i, j, random.mean())
        self._put("p", i, j, share_at_least(-(random - 1).abs(), off - 1e-12))
        ends = t_interval(each)
        if ends is not None:
            self._put("low", i, j, ends[0])
            self._put("high", i, j, ends[1])
        if one.model is not other.model:
            orders = self.renumbering.random(self.asked.n_random, self.generator)
            sets, which = self._moved(one, orders).unique(dim=0, return_inverse=True)
            renumbered = other.search.faithfulness(sets)[which]
            self.renumbered[0, i, j] = renumbered.mean()
            if self.match != "effects":
                self.renumbered[1, i, j] = share_at_least(-(renumbered - 1).abs(), off - 1e-12)

    def _moved(self, one: Side, orders: Int[Tensor, "order layer head"]) -> Tensor:
        """A circuit's flags in another model, for each order of the heads."""
        places = self.renumbering.moved(orders)
        return torch.zeros(places.shape, dtype=torch.bool).scatter_(1, places, one.circuit.expand(places.shape))

    def _random_there(self, j: int, n_edges: int) -> Float[Tensor, " circuit"]:
        """The faithfulness of random circuits of a size in a model on its prompts."""
        there = self.sides[j]
        first = next(i for i, side in enumerate(self.sides) if side.asks_what(there))
        if (first, n_edges) not in self._random:
            drawn = random_circuits(there.graph, self.asked.n_random, n_edges=n_edges, generator=self.generator)
            self._random[first, n_edges] = there.search.faithfulness(drawn)
        return self._random[first, n_edges]

    def _put(self, name: str, i: int, j: int, value: Any) -> None:
        """Put a value of the transfer into its place."""
        self.fields[name][3, i, j] = float(value)

    def _halves(self, side: Side) -> Halves:
        return halves_of(side, splits=self.asked.splits, seed=self.asked.seed, memory=self.asked.memory)

    def _ceilings(self, halves: Sequence[Halves]) -> None:
        """What the noise of the prompts allows, of all pairs."""
        own = torch.stack(
            [
                torch.stack([spearman_brown(half.correlation.nanmean()) for half in halves]),
                torch.stack([half.jaccard.nanmean() for half in halves]),
                torch.stack([half.above_chance.nanmean() for half in halves]),
            ]
        ).clamp_min(0)
        ceiling = self.fields["ceiling"]
        ceiling[:3] = (own[:, :, None] * own[:, None]).sqrt()
        ceiling[3] = torch.stack([half.transfer.nanmean() for half in halves])
        for i, one in enumerate(self.sides):
            for j, other in enumerate(self.sides):
                if i != j and one.model is other.model and one.has_prompts_of(other):
                    ceiling[:3, i, j] = torch.nan  # both see the same noise


def _edges(side: Side) -> list[str]:
    """The names of a circuit's edges."""
    return [str(edge) for edge, kept in zip(side.graph.edges, side.circuit.tolist(), strict=True) if kept]


def _sample(sides: Sequence[Side], seed: int) -> Sample:
    """The prompts: as many as the side with the fewest has, and how many of them chose the circuits."""
    seen = [side.seen_share for side in sides]
    known = [share for share in seen if share is not None]
    share = max(known) if len(known) == len(seen) else None
    lengths = {side.search.ready.clean.shape[1] for side in sides}
    return Sample(
        n=min(len(side.search.ready.clean) for side in sides),
        seq_len=lengths.pop() if len(lengths) == 1 else None,
        seed=seed,
        seen_share=share,
        seen_by="the search of one of the circuits",
    )


_MATCHED = {
    "numbers": "heads are what they are called",
    "behaviour": "heads are matched within their layer by what they do on texts, without a look at effects; chance are "
    "random orders of the heads",
    "effects": "heads are matched within their layer so that effects agree best; chance are unrelated heads, which are "
    "renumbered for each kind of edge on its own and matched in the same way; busy and idle heads are above it as well",
    "matches": "heads are matched as was given; chance are random orders of the heads",
}


def _definition(match: Match | HeadMatches, source: Source, metrics: Sequence[str]) -> str:
    how = _MATCHED["matches" if isinstance(match, HeadMatches) else match]
    different = list(dict.fromkeys(metrics))
    return (
        f"{how}; the circuit's edges carry what their senders compute, all others "
        f"{'the corrupted run' if source == 'other' else source}, on {different[0]}"
        f"{f' and {len(different) - 1} others' if len(different) > 1 else ''}; intervals over prompts: of correlations "
        "the basic bootstrap, the match held, of transfer Student's t; ceiling: one model on halves of its prompts, "
        "correlations by Spearman-Brown, for transfer the circuit of one half on the other; of two models the root of "
        "the product"
    )
