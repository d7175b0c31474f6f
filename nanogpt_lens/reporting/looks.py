"""What to look at first: three sentences, chosen by a rule from the fields of results, never from prose.

The rule. That equality is not proven stands before everything. Then, in this order, each where it was measured, the
first three:
1. the part without which the loss rises most, or that there is none;
2. whether there is induction, as its section says it, and how far the best head is from an induction head;
3. the neuron that best tells a class of characters apart, where it surely does on text that did not choose it: first
   speakers' names, then upper-case letters, then line breaks;
4. a head that surely looks at the token before or at the same token further up, the largest share of attention first;
   else one that surely copies.
What is missing of three is filled with the first findings of the other sections, in the order of the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanogpt_lens.core.head_jobs import job_of
from nanogpt_lens.reporting.blocks import Span, spans_of
from nanogpt_lens.reporting.class_neurons import ClassNeuron, first_class_neuron
from nanogpt_lens.reporting.face import Bar, Bars, ChanceLine, ExcerptPair, Look
from nanogpt_lens.reporting.induction_verdict import induction_says, shown_head, sure_interval
from nanogpt_lens.reporting.part_rises import PartRise, largest_rise
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.words import at, number, plural, share
from nanogpt_lens.reporting.worth import Worth
from nanogpt_lens.results import Excerpt, HeadTaxonomy, InductionHeads, NeuronSearch, Scores

MOST = 3
"""Sentences of the first screen."""

_TOLD = ("certificate", "lab")  # the line on top and the button say these
_BEFORE, _AFTER = 22, 10  # tokens of an excerpt around its peak
_LOOKS = ("previous_token", "duplicate_token")  # labels that say where a head looks


def looks_of(worth: Worth | None, sections: Sequence[Section]) -> tuple[Look, ...]:
    """The sentences, at most three, each with its picture; none where the sections found nothing.

    Args:
        worth: what each part is worth; None where it was not measured.
        sections: in their order.
    """
    results: dict[str, Any] = {}
    for section in sections:
        results |= section.results
    unproven = [s for s in sections if s.proven is False and s.findings]
    found = [Look(sentence=s.findings[0], section=s.key) for s in unproven]
    found += list(_measured(worth, results))[:MOST]
    used = {look.section for look in found}
    rest = [s for s in sections if s.findings and s.key not in used and s.key not in _TOLD]
    found += [Look(sentence=s.findings[0], section=s.key) for s in rest]
    return tuple(found[:MOST])


def _measured(worth: Worth | None, results: Mapping[str, Any]) -> Iterator[Look]:
    """Everything that there is to say, the most important first."""
    if worth is not None:
        yield largest_part(worth)
    matching = results.get("find_induction_heads")
    if isinstance(matching, InductionHeads):
        yield induction(
            matching, accuracy=results.get("induction_accuracy"), repeated=results.get("repeated_sequence_loss")
        )
    neuron = first_class_neuron(results.get("find_neurons") or {})
    if neuron is not None:
        yield neuron_look(neuron, results.get("search_neurons"))
    taxonomy = results.get("head_taxonomy")
    label = labelled_head(taxonomy) if isinstance(taxonomy, HeadTaxonomy) else None
    if label is not None:
        yield label


def largest_part(worth: Worth) -> Look:
    """The part without which the loss rises most, as a sentence and bars."""
    sentence, shown = largest_rise(list(worth.parts()), room=worth.uniform - worth.loss)
    drawn = bool(shown) and math.isfinite(worth.loss)
    return Look(sentence=sentence, section="summary", sketch=_bars(worth, *shown) if drawn else None)


def _bars(worth: Worth, *parts: PartRise) -> Bars:
    """The loss as trained and without each part, with a line at a uniform guess where it is on the scale."""
    without = [(f"without {part.name}", worth.loss + part.value) for part in parts]
    longest = max(worth.loss, *(value for _, value in without))
    whole = max(longest, worth.uniform) if worth.uniform <= 3 * longest else longest
    bars = [Bar(label="as trained", value=number(worth.loss, 2), share=worth.loss / whole)]
    bars += [Bar(label=label, value=number(value, 2), share=value / whole, new=True) for label, value in without]
    line = worth.uniform / whole if worth.uniform <= whole else None
    sample = worth.heads.sample
    few = "" if sample is None or not sample.n else f" of the {plural(sample.n, 'sequence')} that parts are measured on"
    return Bars(
        bars=tuple(bars),
        line=line,
        line_words=f"loss in nats per token{few}"
        + ("" if line is None else f"; the line: a uniform guess, {number(worth.uniform, 2)}"),
    )


def induction(matching: InductionHeads, *, accuracy: Scores | None = None, repeated: Scores | None = None) -> Look:
    """Whether there is induction, as the section says it, and a dot beside chance.

    Args:
        matching: which heads are induction heads.
        accuracy, repeated: what else the verdict is made of, see `induction_says`.
    """
    sentence, _ = induction_says(matching, accuracy=accuracy, repeated=repeated)
    best = shown_head(matching)
    if best is None:
        return Look(sentence=sentence, section="induction")
    value, threshold = float(matching.values[best]), float(matching.threshold[best])
    low, high = sure_interval(matching, *best)
    chance = at(matching.chance, *best)
    beside = "" if chance is None else f"; chance {number(chance, 2)}"
    sketch = ChanceLine(
        value=_clipped(value),
        low=_clipped(low),
        high=_clipped(high),
        chance=_clipped(chance),
        threshold=_clipped(threshold),
        words=f"head {best[0]}.{best[1]}: {number(value, 2)}, {number(low, 2)} to {number(high, 2)} for all heads "
        f"together{beside}; an induction head: surely above {number(threshold, 2)}",
    )
    return Look(sentence=sentence, section="induction", sketch=sketch)


def neuron_look(found: ClassNeuron, search: NeuronSearch | None) -> Look:
    """The neuron that tells a class apart best, with two excerpts.

    Args:
        found: the neuron.
        search: has the excerpts on which the neuron is highest, or lowest where it is low on the class.
    """
    pair = None if search is None else _excerpts(search, found.layer, found.neuron, found.higher)
    return Look(sentence=found.sentence, section="neurons", sketch=pair)


def _excerpts(search: NeuronSearch, layer: int, neuron: int, high: bool) -> ExcerptPair:
    """Where the neuron is highest, or lowest; two lines."""
    page = search.page(layer, neuron)
    chosen = (page.highest if high else page.lowest)[:2]
    largest = max([abs(excerpt.value) for excerpt in chosen], default=1.0)
    end = "highest" if high else "lowest"
    return ExcerptPair(
        lines=tuple(_line(excerpt, largest) for excerpt in chosen),
        words=f"where it is {end}; the colour is its activation",
    )


def _line(excerpt: Excerpt, largest: float) -> tuple[Span, ...]:
    """Some tokens around the peak, on one line."""
    peak = excerpt.position - excerpt.start
    first, last = max(0, peak - _BEFORE), peak + _AFTER + 1
    return spans_of(
        excerpt.tokens[first:last],
        excerpt.activations[first:last],
        largest=largest,
        peak=peak - first,
        separator=excerpt.separator,
        breaks=False,
    )


def labelled_head(taxonomy: HeadTaxonomy) -> Look | None:
    """A head that surely has a telling label; None where there is none.

    Labels that say where a head looks are compared with each other by the share of its attention; copying, which is
    measured on another scale, is told where no head has one of those.
    """
    best: tuple[float, str, int, int] | None = None
    for label in (name for name in _LOOKS if name in taxonomy.labels["score"]):
        for layer, head in taxonomy.heads(label)[:1]:
            value = float(taxonomy.at(score=label, layer=layer, head=head))
            if best is None or value > best[0]:
                best = value, label, layer, head
    if best is None:
        copying = taxonomy.heads("copying") if "copying" in taxonomy.labels["score"] else []
        if not copying:
            return None
        layer, head = copying[0]
        said = f"Head {layer}.{head} {job_of('copying').one}: its weights raise that token's logit."
        return Look(sentence=said, section="heads")
    value, label, layer, head = best
    said = f"Head {layer}.{head} {job_of(label).one}: {share(value)} of its attention goes there."
    i = taxonomy.labels["score"].index(label)
    place = i, layer, head
    chance = at(taxonomy.chance, *place) or 0.0
    sketch = ChanceLine(
        value=_clipped(value),
        low=_clipped(at(taxonomy.low, *place) if taxonomy.low is not None else value),
        high=_clipped(at(taxonomy.high, *place) if taxonomy.high is not None else value),
        chance=_clipped(chance),
        threshold=None,
        words=f"head {layer}.{head}: {number(value, 2)}; uniform attention {number(chance, 2)}",
    )
    return Look(sentence=said, section="heads", sketch=sketch)


def _clipped(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else max(0.0, min(1.0, value))
