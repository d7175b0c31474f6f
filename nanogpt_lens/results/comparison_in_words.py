"""What a comparison of two models found, in sentences with their names: what differs, where it sits, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanogpt_lens.results.heads import HeadMatches
from nanogpt_lens.results.output_difference import OutputDifference
from nanogpt_lens.results.scores import Scores
from nanogpt_lens.results.transplants import Transplants
from nanogpt_lens.results.weight_difference import WeightDifference, component_of

_MOST = 6
_ROUNDING = 1e-7
"""Below this KL divergence, in nats, two models predict the same but for rounding."""

_LEVEL, _NEAR = 0.05, 0.1
"""A change is called spread where p is above the one, and random sets carry as much as the set, less the other."""


def sentences_of(
    parts: Mapping[str, Any], left_out: Mapping[str, str], names: tuple[str, str], *, own_text: bool = False
) -> tuple[str, ...]:
    """At most a sentence for each part, the most telling first; of text that the two wrote, none predicts it better."""
    weights, carried = parts.get("weights"), left_out.get("transplants", "")
    if isinstance(weights, WeightDifference) and weights.origin == "separate starts":
        parts = {name: part for name, part in parts.items() if name != "weights"}
        carried = (
            f"the weights show no common start (mean cosine {weights.origin_cosine:.2f}, p = {weights.origin_p:.2g}), "
            "so that in these coordinates no part of the one corresponds to one of the other"
        )
    if isinstance(weights, WeightDifference) and weights.origin in ("identical", "shared start"):
        parts = {name: part for name, part in parts.items() if name != "heads"}  # a head is where it was
    said = [
        _outputs(parts.get("outputs"), names, own_text),
        _carried(parts.get("transplants"), carried, names),
        _weights(parts.get("weights"), names),
        _own(parts.get("representations")),
        _heads(parts.get("heads"), names),
        _own(parts.get("difference_lens")),
        _own(parts.get("edges"), f"Along edges (a is {names[0]}, b {names[1]}), "),
        "" if own_text else _alike(parts.get("outputs"), names),
        _about_the_set(parts.get("transplants"), names),
    ]
    return tuple(sentence for sentence in said if sentence)


def _outputs(result: Any, names: tuple[str, str], own_text: bool) -> str:
    """What comes out: losses, agreement, and where they differ most."""
    a, b = names
    if isinstance(result, Scores):
        ends = [float("nan") if end is None else float(end[2]) for end in (result.low, result.high)]
        return f"{_better(names, float(result.values[2]), *ends, unit='character')}; their tokens differ."
    if not isinstance(result, OutputDifference):
        return ""
    if result.same:
        return f"{a} and {b} predict exactly the same at all {result.n_places:,} places."
    kl, agreement = result.measure("kl_ab")[0], result.measure("agreement")[0]
    if kl < _ROUNDING and agreement > 1 - _ROUNDING:
        return f"{a} and {b} predict the same at all {result.n_places:,} places but for rounding ({kl:.0e} nats of KL)."
    if own_text:
        return f"On text that they write themselves, half each, the two name {_same(result, names)}."
    return f"{_better(names, *result.measure('loss_difference'), unit='token')}."


def _alike(result: Any, names: tuple[str, str]) -> str:
    """How often the two name the same token, and how far apart they are; "" where that is said already."""
    if not isinstance(result, OutputDifference) or result.same:
        return ""
    kl, agreement = result.measure("kl_ab")[0], result.measure("agreement")[0]
    if kl < _ROUNDING and agreement > 1 - _ROUNDING:
        return ""
    return f"The two name {_same(result, names)}."


def _same(result: OutputDifference, names: tuple[str, str]) -> str:
    """The same likeliest token how often, the divergence, and before which token it is clearest."""
    kl, agreement = result.measure("kl_ab")[0], result.measure("agreement")[0]
    ranked = result.where(k=None).sort_values("low_all", ascending=False, kind="stable")
    where = ""
    if len(ranked):
        first = ranked.iloc[0]
        where = f", most clearly before {_shown(first['token'])} (n = {first['count']:,})"
    a, b = names
    return (
        f"the same likeliest token at {agreement:.0%} of the places; KL({a} || {b}) is {kl:.3g} nats per token{where}"
    )


def _better(names: tuple[str, str], loss: float, low: float, high: float, *, unit: str) -> str:
    """Which of the two predicts a text better, by how much, or that this could not be measured."""
    a, b = names
    ends = f", {low:+.3f} to {high:+.3f}" if low == low else ""
    number = f"({loss:+.3f} nats per {unit}{ends})"
    if low != low or low <= 0 <= high:
        return f"{b} predicts this text no better and no worse than {a} that could be measured {number}"
    return f"{b} predicts this text {'worse' if loss > 0 else 'better'} than {a} {number}"


def _carried(result: Any, why: str, names: tuple[str, str]) -> str:
    """Which components carry the difference, or why that cannot be asked."""
    a, b = names
    if not isinstance(result, Transplants):
        return f"Transplants cannot say which parts carry the difference: {why}." if why else ""
    i, by = result.labels["direction"].index("b into a"), result.measures.index(result.by)
    if result.chosen is None or result.set_share is None or result.set_low is None or result.set_high is None:
        table = result.table("b into a")
        if not len(table) or not bool(result.values[i, by].isfinite().any()):
            return f"Transplants find no difference: {a} and {b} do not surely differ in {_called(result, by)}."
        first = table.iloc[0]
        return (
            f"{_begun(called(first['component']))} alone, moved from {b} into {a}, carries {first['share']:.0%} of the "
            f"difference in {_called(result, by)}."
        )
    chosen = _chosen(result)
    ends = f"{float(result.set_low[i, by]):.0%} to {float(result.set_high[i, by]):.0%}"
    whole = "100% to 100%" in ends
    share = f"{float(result.set_share[i, by]):.0%}{'' if whole else f' ({ends})'} of the difference in "
    share += _called(result, by)
    verb = "carries" if len(chosen) == 1 else "carry"
    return f"{_begun(listed(map(called, chosen)))}, moved from {b} into {a}, {verb} {share}."


def _chosen(result: Transplants) -> list[str]:
    """The components of the smallest set from b into a, those that carry most alone first."""
    alone = result.table("b into a")
    return alone.loc[alone["in_set"], "component"].tolist()


def _about_the_set(result: Any, names: tuple[str, str]) -> str:
    """How large the set is, what it carries of the other measure, and what random sets do; "" where there is none."""
    a, b = names
    if not isinstance(result, Transplants) or result.chosen is None:
        return ""
    i, by = result.labels["direction"].index("b into a"), result.measures.index(result.by)
    sizes, differing, n = result.n_parameters, int(result.changed.sum()), len(_chosen(result))
    weights = float(sizes[result.chosen[i]].sum()) / max(1.0, float(sizes[result.changed].sum()))
    said = [f"What carries the difference is {n} of the {differing} parts that differ, with {weights:.0%} of their"]
    said[0] += " parameters"
    said += [words for words in (_besides(result, i, by), _random(result, i, by)) if words]
    back = len(result.smallest_set("a into b"))
    said += [f"from {a} into {b} it takes {back}"] if back != n else []
    return f"{'; '.join(said)}."


_PARTS = {
    "embed": "the embedding",
    "unembed": "the unembedding",
    "pos_embed": "the position embedding",
    "ln_final": "the final LayerNorm",
}


def called(component: str) -> str:
    """A component in a sentence, where 0.3 would be a number: head 0.3, MLP 2, the embedding."""
    layer, _, part = component.partition(".")
    if part.isdecimal():
        return f"head {component}"
    if component.startswith("mlp") and component[3:].isdecimal():
        return f"MLP {component[3:]}"
    return f"{part} of layer {layer}" if part and layer.isdecimal() else _PARTS.get(component, component)


def _begun(words: str) -> str:
    """Words at the beginning of a sentence."""
    return f"{words[:1].upper()}{words[1:]}"


def _called(result: Transplants, measure: int) -> str:
    """What a measure of transplants is of."""
    return "output (KL)" if result.measures[measure] == "kl" else result.measured


def _besides(result: Transplants, direction: int, by: int) -> str:
    """What the set carries of the other measure, which need not be the same; "" where that has no gap."""
    if result.set_share is None or result.set_low is None or result.set_high is None:
        return ""
    share, low, high = (float(part[direction, 1 - by]) for part in (result.set_share, result.set_low, result.set_high))
    other = _called(result, 1 - by)
    return "" if share != share else f"of the difference in {other} it carries {share:.0%} ({low:.0%} to {high:.0%})"


def _random(result: Transplants, direction: int, by: int) -> str:
    """What random sets carry, and whether the change is spread over the model; "" where there is none."""
    if result.random_share is None or result.set_p is None or result.set_low is None:
        return ""
    share, p = result.random_share[direction].nanmean(-1).tolist(), result.set_p[direction].tolist()
    said = [
        f"{share[i]:.0%} with as many {what} (p = {p[i]:.2g})"
        for i, what in enumerate(("parts", "parameters"))
        if p[i] == p[i]
    ]
    if not said:
        return ""
    spread = p[1] > _LEVEL and share[1] >= float(result.set_low[direction, by]) - _NEAR
    return f"random sets carry {' and '.join(said)}{': the change is spread over the model' if spread else ''}"


def _weights(result: Any, names: tuple[str, str]) -> str:
    """What has changed in the weights: all of it where it is little, else how much."""
    if not isinstance(result, WeightDifference):
        return ""
    if not result.changed and not result.rewritten:
        return f"{names[0]} and {names[1]} are identical, parameter by parameter."
    if result.rewritten or not result.changed:
        return f"In the weights (a is {names[0]}, b {names[1]}): {result.sentence()}."
    far: dict[str, float] = {}
    for matrix, value in zip(result.matrices, result.values.tolist(), strict=True):
        far[component_of(matrix)] = max(far.get(component_of(matrix), 0.0), value)
    if len(result.changed) <= _MOST:
        each = [f"{called(name)} by {far[name]:.0%} of its norm" for name in result.changed]
        verb = "has" if len(each) == 1 else "have"
        start = f" The two come from one start (mean cosine {result.origin_cosine:.2f})."
        return f"Of the weights, {len(each)} of {len(result.components)} parts {verb} changed: {listed(each)}." + (
            start if result.origin == "shared start" else ""
        )
    first = sorted(result.changed, key=lambda name: -far[name])[:3]
    said = (
        f"The two come from one start (mean cosine of their weights {result.origin_cosine:.2f}); "
        if result.origin == "shared start"
        else ""
    )
    moved = f"{len(result.changed)} of {len(result.components)} parts have changed"
    most = f"most {listed(map(called, first))}, by {far[first[-1]]:.0%} to {far[first[0]]:.0%} of their norm"
    return f"{said}{moved}, {most}."


def _own(result: Any, before: str = "") -> str:
    """A result's own sentence, as one."""
    if result is None:
        return ""
    said = f"{before}{result.sentence()}"
    return f"{said[0].upper()}{said[1:]}."


def _heads(result: Any, names: tuple[str, str]) -> str:
    """How many heads have a partner."""
    if not isinstance(result, HeadMatches) or result.matched is None:
        return ""
    n, matched = result.matched[1].numel(), result.matched[1].bool()
    pairs = [
        f"{layer}.{head} is {int(result.partner_layer[1, layer, head])}.{int(result.partner_head[1, layer, head])}"
        for layer, head in matched.nonzero().tolist()
        if int(result.partner_head[1, layer, head]) != head
    ]
    said = f"By what they do, {int(matched.sum())} of {n} heads of {names[0]} have a partner in {names[1]}"
    if not pairs:
        return f"{said}{', each of the same number' if int(matched.sum()) else ''}."
    return f"{said}: {listed(pairs)}; the others have their own number."


def listed(names: Any, most: int = _MOST) -> str:
    """Some names as a list, and how many more there are."""
    every = [*names]
    shown, more = every[:most], max(0, len(every) - most)
    if more:
        return f"{', '.join(shown)} and {more} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nothing"


def _shown(token: Any) -> str:
    """A token between quotes, line breaks visible."""
    return "\u201c" + str(token).replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u00b7") + "\u201d"
