"""Which components of two models that share a start cause the difference between them: their weights, exchanged.

A hybrid is one model with some components of the other. Nothing is estimated: the parameters are really exchanged, in
a copy, and the text is run anew. "a into b" puts components of a into b, and asks how much of the way from b to a the
hybrid goes; "b into a" the reverse. What a set moves in one direction and the rest in the other are one hybrid, so
that by a number such as the loss the shares of the two sum to 1.

Models of separate starts have no components that correspond, whatever they have learnt alike, so that these are
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.circuits.hypotheses import share_at_least
from nanogpt_lens.compare.components import check_one_shape, differing, named_components, weights_of
from nanogpt_lens.compare.hybrids import Hybrid, HybridRuns
from nanogpt_lens.compare.kinship import check_difference, check_start, relative_rounding
from nanogpt_lens.compare.smallest import first_of, random_sets, sizes_up_to, smallest_set
from nanogpt_lens.compare.transplant_text import TransplantText, transplant_text
from nanogpt_lens.core.checks import check_share, check_whole
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.model.access import Hooked, Text, evaluating, provenance
from nanogpt_lens.results.transplants import Transplants
from nanogpt_lens.running.metrics import Metric
from nanogpt_lens.text.corpus import Corpus
from nanogpt_lens.text.opened import Opened

Measure: TypeAlias = Literal["kl", "loss", "metric"]
"""How like the donor a hybrid is: by its output, its loss on the text, or the metric that was given."""

DIRECTIONS = ("a into b", "b into a")
_ORDERS = 10
"""The random orders of the curve."""


def transplant(
    a: Hooked,
    b: Hooked,
    corpus: Corpus | Opened | Text,
    *,
    metric: Metric | None = None,
    seq_len: int | None = None,
    n: int = 64,
    components: Sequence[str] | None = None,
    search: bool = True,
    by: Measure | None = None,
    enough: float = 0.9,
    n_random: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> Transplants:
    """Measure how much of the difference between two models moves with each component's weights, exactly.

    Args:
        a, b: two models that share a start, such as a stage of training and a later one. They are only read; the
            memory for a third is needed.
        corpus: text to run both on, see `Corpus`, of which windows are taken; with a `metric`, its prompts.
        metric: what to measure on prompts, one of `ngl.metrics`; None for the loss on the text.
        seq_len: the tokens of a window; None for the context, at most 128.
        n: how many windows, of which half is for the search.
        components: those to try, such as ["embed", "0.1", "mlp0"]; None for all. See `compare.components` for names.
        search: look for a small set that moves `enough` of the difference: greedily, on half of the sequences, and
            measured on the others, beside random sets.
        by: the measure to search by; None for "metric" where one is given, else "kl".
        enough: the share that the set is to move.
        n_random: how many random sets of each kind.
        seed: of the windows, the halves, and the random sets.
        progress: show a bar.

    Returns:
        the shares with intervals over the sequences, the smallest set of each direction, and what random sets do.

    Raises:
        AnalysisError: the models have other shapes or show no common start; they do the same; a metric that does not
            keep examples apart, an unknown component, fewer than four sequences to search on.
    """
    check_whole(seed=seed)
    check_whole(1, n_random=n_random)
    check_share(enough=enough)
    check_one_shape(a, b)
    measure, measures = measure_of(metric, by), measures_of(metric)
    text = transplant_text(a, b, corpus, metric, seq_len=seq_len, n=n, seed=seed)
    cosine = check_start(a, b, seed)
    with evaluating(b):
        hybrid = Hybrid(a, b)
        runs = HybridRuns(hybrid, text.tokens, text.metric)
        tried = range(len(hybrid.components))
        candidates = torch.tensor(tried if components is None else named_components(hybrid.components, components))
        study = _Study(runs, differing(a, b), candidates, measures, measure, progress)
        fields = study.singles()
        if search:
            fields |= study.searched(enough, n_random, seed)
    return _result(a, b, text, study, fields, cosine, enough=enough, n_random=n_random, seed=seed, search=search)


def measure_of(metric: Metric | None, by: Measure | None) -> Measure:
    """The measure that was asked for; "metric" where a metric was given and nothing was asked, else "kl".

    Raises:
        AnalysisError: there is no such measure, or not without a metric, or not beside one.
    """
    if by is None:
        return "kl" if metric is None else "metric"
    check_choice(Measure, by=by)
    known = measures_of(metric)
    if by not in known:
        given = "no metric was given" if metric is None else "a metric was given"
        raise AnalysisError(f"by is {by!r}; expected one of {', '.join(known)}, for {given}")
    return by


def measures_of(metric: Metric | None) -> tuple[Measure, Measure]:
    """The two measures: of the output, and of what the loss or the metric is."""
    return ("kl", "loss" if metric is None else "metric")


class _Study:
    """The transplants of one pair of models.

    Args:
        runs: the hybrids.
        changed: which components differ.
        tried: those that are tried, by place.
        measures: "kl", and the name of the number.
        by: the measure to search by.
        progress: show a bar.

    Raises:
        AnalysisError: the models do the same.
    """

    def __init__(
        self,
        runs: HybridRuns,
        changed: Bool[Tensor, " component"],
        tried: Int[Tensor, " tried"],
        measures: tuple[Measure, Measure],
        by: Measure,
        progress: bool,
    ) -> None:
        self.runs, self.changed, self.tried, self.progress = runs, changed, tried, progress
        self.measures, self.by = measures, measures.index(by)
        self.candidates: Int[Tensor, " candidate"] = tried[changed[tried]]
        n = len(runs.components)
        self.ends = runs.measure(torch.stack([torch.ones(n).bool(), torch.zeros(n).bool()]))
        self.gaps = torch.stack([self._gap(direction) for direction in range(2)])
        check_difference(runs.hybrid.model, float(self.ends[:2].amax((1, 2)).max()))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the components that are tried."""
        return tuple(self.runs.components[i].name for i in self.tried.tolist())

    def singles(self) -> dict[str, Any]:
        """What moves with each component alone, as fields of the result."""
        n = len(self.runs.components)
        each = torch.zeros(2, 2, len(self.tried), self.gaps.shape[-1], dtype=torch.float64)
        sets = torch.arange(n)[None] == self.candidates[:, None]
        rows = self.changed[self.tried]
        for direction in range(2):
            each[direction][:, rows] = self._each(direction, sets, None, "components")
        each[~self._surely()] = torch.nan
        low, high = t_interval(each) or (torch.full_like(each[..., 0], torch.nan),) * 2
        gap_low, gap_high = t_interval(self.gaps) or (torch.full_like(self.gaps[..., 0], torch.nan),) * 2
        gap = self.gaps.mean(-1)
        return {"values": each.mean(-1), "low": low, "high": high, "gap": gap} | {
            "gap_low": gap_low,
            "gap_high": gap_high,
        }

    def searched(self, enough: float, n_random: int, seed: int) -> dict[str, Any]:
        """The smallest sets, random sets, and the curves, as fields of the result; none where there is no gap."""
        if not bool(self._surely()[:, self.by].all()):
            return {}
        n_examples = self.gaps.shape[-1]
        if n_examples < 4:
            raise AnalysisError(
                f"there are {n_examples} sequences; expected at least 4, half of them to search on: give more, or "
                "search=False"
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(n_examples, generator=generator)
        halves = order[: n_examples // 2].sort().values, order[n_examples // 2 :].sort().values
        sizes = sizes_up_to(len(self.candidates))
        found = [self._search(direction, halves, enough, n_random, sizes, generator) for direction in range(2)]
        stacked = {name: torch.stack([one[name] for one in found]) for name in found[0]}
        counts = {"n_search": len(halves[0]), "n_held_out": len(halves[1]), "sizes": torch.tensor(sizes)}
        return stacked | counts

    def _search(
        self,
        direction: int,
        halves: tuple[Int[Tensor, " search"], Int[Tensor, " held_out"]],
        enough: float,
        n_random: int,
        sizes: list[int],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """One direction's set, and what it is held against."""
        n = len(self.runs.components)
        first, second = halves
        said = DIRECTIONS[direction]

        def on(examples: Tensor, label: str) -> Callable[[Bool[Tensor, "set component"]], Float[Tensor, " set"]]:
            return lambda sets: self._each(direction, sets, examples, f"{said}, {label}")[self.by].mean(-1)

        chosen, order, share = smallest_set(on(first, "search"), self.candidates, n, enough=enough)
        parameters = torch.tensor(self.n_parameters())
        drawn = random_sets(chosen, self.candidates, parameters, n=n_random, generator=generator)
        random = on(second, "random sets")(drawn.flatten(0, 1)).unflatten(0, (2, n_random))
        own = self._each(direction, chosen[None], second, said)[:, 0]
        curve = self._each(direction, first_of(order, sizes, n), second, f"{said}, curve")[self.by]
        orders = [order[torch.randperm(len(order), generator=generator)] for _ in range(_ORDERS)]
        others = torch.cat([first_of(other, sizes, n) for other in orders])
        random[(drawn & chosen).sum(-1) == chosen.sum()] = torch.nan  # with the set in it, it is no control
        found = float(own[self.by].mean())
        p = [share_at_least(some, found) if len(some := row[~row.isnan()]) else torch.nan for row in random]
        ends = (t_interval(each) or (each.mean(-1),) * 2 for each in (own, curve))
        (set_low, set_high), (curve_low, curve_high) = ends
        return {
            "chosen": chosen[self.tried],
            "order": (self.tried[None] == order[:, None]).long().argmax(1),
            "search_share": torch.tensor(share, dtype=torch.float64),
            "set_share": own.mean(-1).where(self._surely()[direction], torch.nan),
            "set_low": set_low.where(self._surely()[direction], torch.nan),
            "set_high": set_high.where(self._surely()[direction], torch.nan),
            "random_share": random,
            "set_p": torch.tensor(p, dtype=torch.float64),
            "curve": curve.mean(-1),
            "curve_low": curve_low,
            "curve_high": curve_high,
            "random_curve": on(second, "random orders")(others).unflatten(0, (_ORDERS, len(sizes))),
        }

    def n_parameters(self) -> list[int]:
        """How many parameters each component of the models has."""
        weights = weights_of(self.runs.hybrid.model)
        return [sum(part.numel() for part in component.of(weights)) for component in self.runs.components]

    def _gap(self, direction: int) -> Float[Tensor, "measure example"]:
        """What there is to move in a direction, for each example."""
        donor, receiver = (0, 1) if direction == 0 else (1, 0)
        return torch.stack([self.ends[direction, receiver], self.ends[2, donor] - self.ends[2, receiver]])

    def _surely(self) -> Bool[Tensor, "direction measure"]:
        """Where the models surely differ: a divergence does wherever it is more than rounding."""
        sure = torch.ones(2, 2, dtype=torch.bool)
        ends = t_interval(self.gaps[:, 1])
        sure[:, 1] = False if ends is None else (ends[0] > 0) | (ends[1] < 0)
        size = self.ends[2].abs().max() * relative_rounding(self.runs.hybrid.model)
        sure[:, 1] &= self.gaps[:, 1].abs().mean(-1) > size
        return sure

    def _each(
        self,
        direction: int,
        sets: Bool[Tensor, "set component"],
        examples: Int[Tensor, " example"] | None,
        label: str,
    ) -> Float[Tensor, "measure set example"]:
        """Each example's part of the share that moves with each set, whose mean it is."""
        flags = sets if direction == 0 else ~sets
        measured = self.runs.measure(flags, examples, label=label, progress=self.progress)
        gap = self.gaps[direction] if examples is None else self.gaps[direction][:, examples]
        receiver = self.ends[2, 1 - direction]
        receiver = receiver if examples is None else receiver[examples]
        closer = torch.stack([gap[0] - measured[direction], measured[2] - receiver])
        return ratio_per_example(closer, gap[:, None])


def _result(
    a: Hooked,
    b: Hooked,
    text: TransplantText,
    study: _Study,
    fields: dict[str, Any],
    cosine: float,
    **options: Any,
) -> Transplants:
    """The result, with what it was made of."""
    counts = torch.tensor(study.n_parameters())[study.tried]
    return Transplants(
        **fields,
        axes=("direction", "measure", "component"),
        labels={"direction": DIRECTIONS, "measure": study.measures, "component": study.names},
        quantity="share of the difference between a and b that moves with a component's weights",
        definition="weights exchanged in a copy, one component at a time, and the text run anew; kl: 1 - KL(donor, "
        f"hybrid) / KL(donor, receiver); {study.measures[1]}: (hybrid - receiver) / (donor - receiver) of "
        f"{text.metric.definition}; ratios of means over {len(text.tokens)} sequences of {text.name}",
        title="transplants",
        signed=True,
        measured="loss" if study.measures[1] == "loss" else text.metric.definition,
        n_parameters=counts,
        changed=study.changed[study.tried],
        moved=_moved(a, b, study)[study.tried],
        cosine=cosine,
        by=study.measures[study.by],
        enough=options["enough"],
        interval="t" if len(text.tokens) > 1 else "",
        sample=text.sample(options["seed"]),
        provenance=provenance(
            b, a=provenance(a), corpus=text.name, metric=text.metric.definition, components=study.names, **options
        ),
    )


def _moved(a: Hooked, b: Hooked, study: _Study) -> Float[Tensor, " component"]:
    """The norm of the difference of each component's parameters, as a share of the norm of a's."""
    one, two = weights_of(a), weights_of(b)
    shares = []
    for component in study.runs.components:
        pairs = [
            (x.double().cpu(), y.double().cpu()) for x, y in zip(component.of(one), component.of(two), strict=True)
        ]
        norm = sum(float(x.square().sum()) for x, _ in pairs) ** 0.5
        away = sum(float((y - x).square().sum()) for x, y in pairs) ** 0.5
        shares.append(away / norm if norm else (0.0 if away == 0 else float("inf")))
    return torch.tensor(shares, dtype=torch.float64)
