"""What to look at first: three sentences, chosen by a rule from the fields of results, never from prose.

The rule. That equality is not proven stands before everything. Then, in this order, each where it was measured, the
first three:
1. the part without which the loss rises most, or that there is none;
2. whether there is an induction head, and how far the best head is from one;
3. the neuron that best tells a class of characters apart, where it surely does on text that did not choose it: first
   speakers' names, then upper-case letters, then line breaks;
4. a head that surely carries one of the labels of `worth.BADGES` other than induction, the highest score first.
What is missing of three is filled with the first findings of the other sections, in the order of the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanogpt_lens.heads.induction_rule import THRESHOLD
from nanogpt_lens.neurons.predicates import USUAL
from nanogpt_lens.reporting.blocks import Span, spans_of
from nanogpt_lens.reporting.face import Bar, Bars, ChanceLine, ExcerptPair, Look
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.words import NEGLIGIBLE, at, list_of, number, percent
from nanogpt_lens.reporting.worth import PartRise, Worth
from nanogpt_lens.results import Excerpt, HeadTaxonomy, InductionHeads, NeuronSearch, SeparatingNeurons

MOST = 3
"""Sentences of the first screen."""

FEATURED = ("speaker_name", "upper_case", "newline")
"""Classes of characters, the most telling first."""

_TOLD = ("certificate", "lab")  # the line on top and the button say these
_FAR = 2.0  # times the next part's upper end: a part that stands out
_BEFORE, _AFTER = 22, 10  # tokens of an excerpt around its peak
_NONE = "It has no induction head: the best one, head"
_RIGHT = "what followed the same token before"
_DOES = {
    "previous_token": "looks at the token before: {share} of its attention goes there",
    "duplicate_token": "looks for the same token further up: {share} of its attention goes there",
    "copying": "copies: it raises the chance of the tokens that it looks at",
}


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
        yield induction(matching)
    neuron = _neuron(results)
    if neuron is not None:
        yield neuron
    taxonomy = results.get("head_taxonomy")
    label = labelled_head(taxonomy) if isinstance(taxonomy, HeadTaxonomy) else None
    if label is not None:
        yield label


def largest_part(worth: Worth) -> Look:
    """The part without which the loss rises most, as a sentence and two bars."""
    first, *others = worth.ranked()
    past = worth.loss + first.low > worth.uniform
    rise = f"the loss rises by {nats(first.value)} nats{', past that of a uniform guess' if past else ''}"
    name = first.name[0].upper() + first.name[1:]
    shown = (first,)
    if first.low <= 0 or first.value < NEGLIGIBLE:
        said = "It needs no single part: without any one of them the loss rises by nothing that can be measured"
    elif not others or first.low > _FAR * max(0.0, others[0].high):
        stands = "Nearly all of it stands on" if past else "It needs"
        rather = "" if past or not others else " more than any other part"
        said = f"{stands} {first.name}{rather}: without it {rise}"
    else:
        second = others[0]
        shown = (first, second)
        if first.low > second.high:
            said = f"{name} matters most: without it {rise}, without {second.name}, the next, by {nats(second.value)}"
        else:
            said = f"{name} and {second.name} matter most: without the one {rise}, without the other by "
            said += nats(second.value)
    return Look(sentence=f"{said}.", section="summary", sketch=_bars(worth, *shown))


def _bars(worth: Worth, *parts: PartRise) -> Bars:
    """The loss as trained and without each part, with a line at a uniform guess where it is on the scale."""
    without = [(f"without {part.name}", worth.loss + part.value) for part in parts]
    longest = max(worth.loss, *(value for _, value in without))
    whole = max(longest, worth.uniform) if worth.uniform <= 3 * longest else longest
    bars = [Bar(label="as trained", value=number(worth.loss, 2), share=worth.loss / whole)]
    bars += [Bar(label=label, value=number(value, 2), share=value / whole, new=True) for label, value in without]
    line = worth.uniform / whole if worth.uniform <= whole else None
    return Bars(
        bars=tuple(bars),
        line=line,
        line_words="loss in nats per token"
        + ("" if line is None else f"; the line: a uniform guess, {number(worth.uniform, 2)}"),
    )


def induction(matching: InductionHeads) -> Look:
    """Whether there is an induction head, as a sentence and a dot beside chance."""
    heads = matching.heads()
    layer, head = heads[0] if heads else divmod(int(matching.values.argmax()), matching.shape["head"])
    value = float(matching.values[layer, head])
    ends = at(matching.low, layer, head), at(matching.high, layer, head)
    chance = at(matching.chance, layer, head) or 0.0
    name = f"{layer}.{head}"
    if len(heads) == 1:
        said = f"Head {name} is an induction head: {share(value)} of its attention goes to {_RIGHT}."
    elif heads:
        named = list_of([f"{a}.{b}" for a, b in heads[:3]] + ([f"{len(heads) - 3} more"] if len(heads) > 3 else []))
        said = (
            f"Heads {named} are induction heads: {name}, the best, gives {share(value)} of its attention to {_RIGHT}."
        )
    elif ends[0] is not None and ends[0] <= chance:
        said = f"{_NONE} {name}, looks at the right place no more than chance does."
    else:
        said = f"{_NONE} {name}, gives {share(value)} of its attention to the right place."
    sketch = ChanceLine(
        value=_clipped(value),
        low=_clipped(value if ends[0] is None else ends[0]),
        high=_clipped(value if ends[1] is None else ends[1]),
        chance=_clipped(chance),
        threshold=THRESHOLD,
        words=f"head {name}: {number(value, 2)}; chance {number(chance, 2)}; an induction head: {THRESHOLD:g} to 1",
    )
    return Look(sentence=said, section="induction", sketch=sketch)


def _neuron(results: Mapping[str, Any]) -> Look | None:
    """The first class that a neuron surely tells apart; None where none does, or none was looked for."""
    separating, search = results.get("find_neurons"), results.get("search_neurons")
    if not isinstance(separating, Mapping):
        return None
    for name in FEATURED:
        found = separating.get(name)
        if isinstance(found, SeparatingNeurons):
            look = best_neuron(found, USUAL[name], search if isinstance(search, NeuronSearch) else None)
            if look is not None:
                return look
    return None


def best_neuron(found: SeparatingNeurons, what: str, search: NeuronSearch | None) -> Look | None:
    """The neuron that tells a class apart best, with two excerpts; None where chance could do as much.

    Args:
        found: how well neurons do.
        what: the class in words.
        search: has the excerpts on which the neuron is highest, or lowest where it is low on the class.
    """
    layer, neuron = found.best(1)[0]
    place = [int(label) for label in found.labels["layer"]].index(layer), neuron
    right, low, sign = (float(tensor[place]) for tensor in (found.held_out, found.low, found.sign))
    if not low > found.chance or math.isnan(right):
        return None
    side = "higher" if sign > 0 else "lower"
    said = (
        f"One neuron, {layer}.{neuron}, tells {what} apart: it is {side} on them in {percent(right)} of pairs, on text "
        "that did not choose it."
    )
    pair = None if search is None else _excerpts(search, layer, neuron, sign > 0)
    return Look(sentence=said, section="neurons", sketch=pair)


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
    """The head with the highest score among those that surely have a telling label; None where there is none."""
    best: tuple[float, str, int, int] | None = None
    for label in (name for name in _DOES if name in taxonomy.labels["score"]):
        for layer, head in taxonomy.heads(label)[:1]:
            value = float(taxonomy.at(score=label, layer=layer, head=head))
            if best is None or value > best[0]:
                best = value, label, layer, head
    if best is None:
        return None
    value, label, layer, head = best
    said = f"Head {layer}.{head} {_DOES[label].format(share=share(value))}."
    if label == "copying":
        return Look(sentence=said, section="heads")
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


def nats(value: float) -> str:
    """A rise of the loss with two digits that count: 2.7, 0.39, 0.012."""
    size = abs(value)
    return number(value, 1 if size >= 1 else 2 if size >= 0.1 else 3)


def share(value: float) -> str:
    """A share in percent: whole above 10, else with one digit."""
    return percent(value, 0 if value >= 0.0995 else 1)
