"""What some neurons are for: where they fire in the text, how often, and what they write."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.neurons.find import find_neurons_of_each
from nanogpt_lens.neurons.promoted import with_promoted
from nanogpt_lens.neurons.search import search_neurons
from nanogpt_lens.reporting.blocks import (
    Block,
    ExcerptLine,
    Folded,
    NeuronCard,
    NeuronCards,
    NeuronTable,
    Paragraph,
    Span,
    Table,
    spans_of,
)
from nanogpt_lens.reporting.class_neurons import FEATURED, first_class_neuron
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.neuron_table import deviations, kept_first, packed_neurons
from nanogpt_lens.reporting.section import Content, Recipe
from nanogpt_lens.reporting.subject import Subject, source_of
from nanogpt_lens.reporting.words import count, interval, list_of, number, percent, plural, quoted, share
from nanogpt_lens.results import Excerpt, NeuronSearch, SeparatingNeurons
from nanogpt_lens.text.corpus import Corpus
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.from_model import own_text
from nanogpt_lens.text.predicates import USUAL

SAMPLE = 2**16
"""Tokens of the text that are searched, from its beginning; fewer of a large model, and the section says how many."""

_LEAST, _LEAST_OF_LARGE = 2**13, 2**12
_MOST_OF_LARGE = 4096  # neurons of a large model that are shown

_OWN = 64  # sequences of the model's own text
_EXCERPTS, _LOWEST, _WINDOW = 6, 2, 32
_OF_CLASS, _SPARSE = 2, 12
_BEFORE, _AFTER = 14, 6  # tokens of a glimpse around the peak
_RARE = 0.9  # a sparse neuron is not above zero on so many tokens
_CLEAR, _CONSTANT = 0.005, 1e-12  # an activation that is written as 0.01; a variance
_GELU = "A GELU is never below −0.17: the lowest excerpts of most neurons are near that value and say little."
_DRAWN, _DRAWN_OF_LARGE = 2**13, 3584  # tokens that the classes are measured on; a large model reads so many at once
_SHIFTS = 50  # for chance


@dataclass(frozen=True, kw_only=True)
class _Listed:
    layer: int
    neuron: int
    why: str


def _make(subject: Subject) -> Content:
    model = subject.model
    corpus, size, words = _sample(subject)
    length, most = _reading(subject)
    window = min(_WINDOW, length, size)
    room = size // length * (length // window)
    k = max(1, min(_EXCERPTS, room))
    reads = {} if most is None else {"seq_len": length}
    options: dict[str, Any] = {**reads, "seed": subject.seed, "progress": False}
    search = search_neurons(model, corpus, k=k, window=window, promoted=most is None, **options)
    again = subject.report_command("neurons")
    if not _active(search).any():
        highest = number(float(search.values.max()))
        text = (
            f"No neuron is ever clearly active: the highest activation of any is {highest}, or it never changes. None "
            "is listed."
        )
        return Content(body=(Paragraph(text=text), _searched(search, words)), commands=(again,))
    separating = _separating(subject, corpus, options)
    chosen = list(_neurons_to_list(search, separating))
    body: list[Block] = []
    if chosen:
        listed = [(one.layer, one.neuron, one.why) for one in chosen]
        kept = kept_first(search, listed)[:most]
        if most is not None:
            search = with_promoted(model, search, kept)
        classes = {USUAL[name]: result for name, result in separating.items()}
        table = packed_neurons(search, classes, listed, kept=kept)
        body += [_how_to_use(table, search), table, NeuronCards(cards=tuple(_card(search, one) for one in chosen))]
    else:
        body.append(Paragraph(text="No neuron stands out, and none is listed.", tone="note"))
    if separating:
        body.append(_classes_table(separating))
    body.append(_searched(search, words, gelu=_is_gelu(subject)))
    more = _page_command(subject, chosen[0], k, window, size) if chosen else []
    found = {"search_neurons": search, "find_neurons": separating}
    return Content(body=tuple(body), commands=(again, *more), findings=_findings(separating), results=found)


def _reading(subject: Subject) -> tuple[int, int | None]:
    """The tokens of a sequence that is read, and how many neurons are shown at most: None for as many as fit."""
    return (subject.seq_len, _MOST_OF_LARGE) if subject.is_large else (int(subject.model.cfg.n_ctx), None)


def _how_to_use(table: NeuronTable, search: NeuronSearch) -> Paragraph:
    """What is in the table, and what it has left out."""
    kinds = f"{search.unit_kind}s"
    left_out = "" if table.n == table.total else (
        f" These are the {count(table.n)} of {count(table.total)} whose peaks stand out most; more would be too much "
        "for a page."
    )  # fmt: skip
    return Paragraph(
        text=f"Each row is one of the model's {kinds}. Click a row for its excerpts, a heading to sort. The first "
        f"{kinds} tell a class of characters apart best, or are mostly silent and then very active.{left_out}",
        tone="note",
    )


def _searched(search: NeuronSearch, words: str, *, gelu: bool = False) -> Folded:
    """What was read, and which neurons stand first."""
    neurons, layers = plural(search.values.numel(), "neuron"), plural(search.shape["layer"], "layer")
    length = int(search.provenance["arguments"]["seq_len"])
    text = (
        f"Searched: all {neurons} of {layers} on {words}, read in sequences of {count(length)}. "
        "Peak, sd: how many standard deviations the highest "
        "activation is above the mean. Tells apart: the class that the neuron separates best beside that class's "
        "chance, and its AUROC on text that had no part in the choice; a dash where that is not above what 95 of 100 "
        "shifts of the class reach. Raises: the tokens whose logits its output "
        f"raises most. First stand, of each class, the {_OF_CLASS} neurons that separate it best, and of each layer "
        "those whose peak is most standard deviations above their mean among neurons silent on at least "
        f"{percent(_RARE)} of the tokens; neurons that are never clearly above zero are not among them."
    )
    note = [Paragraph(text=_GELU, tone="note")] if gelu else []
    return Folded(summary="How this was measured", body=(Paragraph(text=text, tone="note"), *note))


def _is_gelu(subject: Subject) -> bool:
    return subject.checkpoint is not None and subject.checkpoint.config.act_fn in ("gelu", "gelu_new")


def _active(search: NeuronSearch) -> Bool[Tensor, "layer neuron"]:
    """Which neurons are ever clearly above zero, and not constant."""
    return (search.values >= _CLEAR) & (search.variance > _CONSTANT)


def _page_command(subject: Subject, first: _Listed, k: int, window: int, size: int) -> list[str]:
    """The line that shows the first neuron alone; it searches the whole text."""
    if source_of(subject.raw_text) is None or subject.text is None:
        return []
    options = ["--k", str(k)]
    options += [] if window == min(_WINDOW, int(subject.model.cfg.n_ctx)) else ["--window", str(window)]
    differs = [] if size == len(subject.text.ids) else ["searches the whole text"]
    differs += [] if _reading(subject)[0] == int(subject.model.cfg.n_ctx) else ["reads whole contexts"]
    remark = f"{' and '.join(differs)}: numbers differ a little" if differs else ""
    name = f"{first.layer}.{first.neuron}"
    return [subject.command("neurons page", name, *options, *subject.seed_option(), text=True, remark=remark)]


def _sample(subject: Subject) -> tuple[Corpus, int, str]:
    """What is searched, its tokens, and what it is in words."""
    if subject.text is None:
        rows = own_text(subject.model, seq_len=subject.seq_len, n=_OWN, seed=subject.seed).cpu()
        return rows, rows.numel(), f"{count(rows.numel())} tokens of {subject.text_name}"
    ids = subject.text.ids[: subject.affordable(SAMPLE, _LEAST_OF_LARGE if subject.is_large else _LEAST)]
    name = subject.text.data.name
    whole = len(ids) == len(subject.text.ids)
    data = TextData(train=ids[:0], val=ids, vocabulary=None, name=name)
    return data, len(ids), f"{'all' if whole else 'the first'} {count(len(ids))} tokens of {name}"


def _separating(subject: Subject, corpus: Corpus, options: dict[str, Any]) -> dict[str, SeparatingNeurons]:
    """The classes that the sample holds enough of, and how well neurons separate them."""
    names = list(USUAL) if subject.has_vocabulary else []
    sample = _DRAWN_OF_LARGE if subject.is_large else _DRAWN
    size: dict[str, Any] = {"k": _OF_CLASS, "sample": sample, "permutations": _SHIFTS}
    try:
        each = find_neurons_of_each(subject.model, corpus, names, **size, **options)
    except AnalysisError:  # a text that is too short, or activations that are not finite
        return {}
    return {name: one for name, one in zip(names, each, strict=True) if isinstance(one, SeparatingNeurons)}


def _neurons_to_list(search: NeuronSearch, separating: dict[str, SeparatingNeurons]) -> Iterator[_Listed]:
    """The neurons that are listed, each once, and why."""
    active = _active(search)
    seen: set[tuple[int, int]] = set()
    for name, result in separating.items():
        for layer, neuron in result.best(_OF_CLASS):
            if (layer, neuron) not in seen and active[layer, neuron]:
                seen.add((layer, neuron))
                side = "high" if result.sign[layer, neuron] > 0 else "low"
                yield _Listed(layer=layer, neuron=neuron, why=f"{side} on {USUAL[name]}")
    above = deviations(search).masked_fill((search.sparsity < _RARE) | ~active, -torch.inf)
    layers = above.shape[0]
    each = max(1, _SPARSE // layers)
    for layer in range(0, layers, max(1, math.ceil(layers / _SPARSE))):
        best = [i for i in above[layer].argsort(descending=True, stable=True).tolist() if (layer, i) not in seen]
        for neuron in best[:each]:
            if above[layer, neuron].isfinite():
                yield _Listed(layer=layer, neuron=neuron, why=f"{number(above[layer, neuron], 0)} sd above its mean")


def _classes_table(separating: dict[str, SeparatingNeurons]) -> Table:
    rows = []
    for name, result in separating.items():
        for row in result.top(_OF_CLASS).to_dict("records"):
            rows.append(
                (
                    USUAL[name],
                    f"{row['layer_label']}.{row['neuron']}",
                    "higher" if row["sign"] > 0 else "lower",
                    number(row["separation"]),
                    interval(row["held_out"], row["low"], row["high"]),
                    number(result.chance),
                )
            )
    return Table(
        header=("class", "neuron", "on the class", "AUROC", "AUROC, held out", "chance"),
        rows=tuple(rows),
        caption="AUROC is the probability that the neuron is higher (where the row says lower: lower) on a token of "
        "the class than on another: 0.5 says nothing, 1 is perfect. Held out: on text that had no part in the choice. "
        "Chance: in 95 of 100 shifts of the class along the text the best of all neurons stays at or below it."
        + doubts(**{USUAL[name]: result for name, result in separating.items()}),
        folded=f"The neurons that tell {list_of([USUAL[name] for name in separating], last='or')} apart best",
        left=(0, 1, 2),
    )


def _findings(separating: dict[str, SeparatingNeurons]) -> tuple[str, ...]:
    """The neuron that the first screen tells, or that none is sure; and what chance reaches."""
    found = first_class_neuron(separating)
    if found is not None:
        chance = (
            f"Chance stays at or below {share(found.chance)} in 95 of 100 shifts of the class, and 50% says nothing."
        )
        return found.sentence, chance
    looked_for = [USUAL[name] for name in FEATURED if name in separating]
    return (f"No neuron surely tells {list_of(looked_for, last='or')} apart.",) if looked_for else ()


def _card(search: NeuronSearch, chosen: _Listed) -> NeuronCard:
    page = search.page(chosen.layer, chosen.neuron)
    least, most = search.bounds[chosen.layer, chosen.neuron].tolist()
    counts = search.histogram[chosen.layer, chosen.neuron].double().log1p()
    largest = max([abs(e.value) for e in (*page.highest[:1], *page.lowest[:1])], default=1.0)
    median = page.quantiles.get(0.5, math.nan)
    facts = (
        ("mean", number(page.mean)),
        ("standard deviation", number(math.sqrt(max(page.variance, 0.0)))),
        ("median", number(median)),
        ("99th percentile", number(page.quantiles.get(0.99, math.nan))),
        ("not above 0", percent(page.sparsity, 1)),
    )
    return NeuronCard(
        name=f"{page.layer}.{page.neuron}",
        why=chosen.why,
        peak=number(page.highest[0].value if page.highest else math.nan, 2),
        glimpse=_glimpse(page.highest[0]) if page.highest else (),
        facts=facts,
        bars=tuple(round(float(c / counts.max().clamp_min(1e-12)), 3) for c in counts),
        ends=(number(least, 2), number(most, 2)),
        zero=round(-least / (most - least), 3) if least < 0 < most else None,
        promoted=tuple((quoted(token), number(value, 2)) for token, value in page.promoted),
        suppressed=tuple((quoted(token), number(value, 2)) for token, value in page.suppressed),
        highest=tuple(_line(e, largest) for e in page.highest),
        lowest=tuple(_line(e, largest) for e in page.lowest[:_LOWEST]),
    )


def _glimpse(excerpt: Excerpt) -> tuple[Span, ...]:
    """A few tokens around the peak."""
    place = excerpt.position - excerpt.start
    first, last = max(0, place - _BEFORE), place + _AFTER + 1
    tokens = excerpt.tokens[first:last]
    return spans_of(
        tokens, [0.0] * len(tokens), largest=1.0, peak=place - first, separator=excerpt.separator, breaks=False
    )


def _line(excerpt: Excerpt, largest: float) -> ExcerptLine:
    return ExcerptLine(
        value=number(excerpt.value, 2),
        spans=spans_of(
            excerpt.tokens,
            excerpt.activations,
            largest=largest,
            peak=excerpt.position - excerpt.start,
            separator=excerpt.separator,
            breaks=False,
        ),
    )


RECIPE = Recipe(
    key="neurons",
    title="Neurons",
    reading="Open a neuron to see the excerpts on which it is highest and lowest: tokens that activate it are shaded "
    "one way, tokens that push it below zero the other, and the underlined token is the extreme. Excerpts show the tip "
    "of what a neuron does, so compare them with its histogram before giving it a name.",
    make=_make,
)
