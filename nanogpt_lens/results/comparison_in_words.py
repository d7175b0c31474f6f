"""What a comparison of two models found, in sentences with their names: what differs, where it sits, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanogpt_lens.results.heads import HeadMatches
from nanogpt_lens.results.output_difference import OutputDifference
from nanogpt_lens.results.representations import RepresentationSimilarity
from nanogpt_lens.results.scores import Scores
from nanogpt_lens.results.transplants import Transplants
from nanogpt_lens.results.weight_difference import WeightDifference, component_of

_MOST = 6
_LEVEL = 0.05
"""A set is said to carry more than random ones below this p."""


def sentences_of(parts: Mapping[str, Any], left_out: Mapping[str, str], names: tuple[str, str]) -> tuple[str, ...]:
    """At most a sentence for each part, the most telling first."""
    weights = parts.get("weights")
    if isinstance(weights, WeightDifference) and weights.origin == "separate starts":
        parts = {name: part for name, part in parts.items() if name != "weights"}
        apart = (
            f"the weights show no common start (mean cosine {weights.origin_cosine:.2f}, p = {weights.origin_p:.2g}), "
            "so that a part of the one has no counterpart in the other"
        )
        left_out = {**left_out, "transplants": apart}
    if isinstance(weights, WeightDifference) and weights.origin in ("identical", "shared start"):
        parts = {name: part for name, part in parts.items() if name != "heads"}  # a head is where it was
    said = [
        _outputs(parts.get("outputs"), names),
        _carried(parts.get("transplants"), left_out.get("transplants", ""), names),
        _weights(parts.get("weights"), names),
        _inside(parts.get("representations"), names),
        _heads(parts.get("heads"), names),
    ]
    return tuple(sentence for sentence in said if sentence)


def _outputs(result: Any, names: tuple[str, str]) -> str:
    """What comes out: losses, agreement, and where they differ most."""
    a, b = names
    if isinstance(result, Scores):
        low, high = ("" if end is None else f"{float(end[2]):+.3f}" for end in (result.low, result.high))
        ends = f" ({low} to {high})" if low else ""
        return (
            f"{b}'s loss is {float(result.values[2]):+.3f}{ends} nats per character beside {a}'s; their tokens differ."
        )
    if not isinstance(result, OutputDifference):
        return ""
    if result.same:
        return f"{a} and {b} predict exactly the same at all {result.n_places:,} places."
    loss, low, high = result.measure("loss_difference")
    kl, agreement = result.measure("kl_ab")[0], result.measure("agreement")[0]
    if low != low or low <= 0 <= high:
        first = (
            f"{b} predicts this text no better and no worse than {a} that could be measured ({loss:+.3f} nats per token"
        )
    else:
        first = f"{b} predicts this text {'worse' if loss > 0 else 'better'} than {a} ({loss:+.3f} nats per token"
    first += f", {low:+.3f} to {high:+.3f})" if low == low else ")"
    top = result.where(k=1)
    where = f", most before {_shown(top.iloc[0]['token'])}" if len(top) else ""
    return (
        f"{first}; the two name the same likeliest token at {agreement:.0%} of the places, and are {kl:.3g} nats of KL "
        f"apart{where}."
    )


def _carried(result: Any, why: str, names: tuple[str, str]) -> str:
    """Which components carry the difference, or why that cannot be asked."""
    a, b = names
    if not isinstance(result, Transplants):
        return f"Transplants cannot say which parts carry the difference: {why}." if why else ""
    i = result.labels["direction"].index("b into a")
    by = result.measures.index(result.by)
    n = int(result.changed.sum())
    if result.chosen is None or result.set_share is None or result.set_low is None or result.set_high is None:
        table = result.table("b into a")
        if not len(table) or not bool(result.values[i, by].isfinite().any()):
            return (
                f"No transplant says where the difference sits: {a} and {b} do not surely differ in what is measured."
            )
        first = table.iloc[0]
        return f"{first['component']} alone, moved from {b} into {a}, moves {first['share']:.0%} of the difference."
    chosen = result.smallest_set("b into a")
    ends = f"{float(result.set_low[i, by]):.0%} to {float(result.set_high[i, by]):.0%}"
    weights = float(result.n_parameters[result.chosen[i]].sum()) / max(
        1.0, float(result.n_parameters[result.changed].sum())
    )
    said = (
        f"{listed(chosen)} ({len(chosen)} of the {n} parts that differ, {weights:.0%} of their parameters), moved from "
        f"{b} into {a}, carry {float(result.set_share[i, by]):.0%} ({ends}) of the difference"
    )
    return f"{said}{_random(result, i)}."


def _random(result: Transplants, direction: int) -> str:
    """What random sets carry, and whether the set that was found carries more; "" where there is none."""
    if result.random_share is None or result.set_p is None:
        return ""
    share, p = result.random_share[direction].mean(-1).tolist(), result.set_p[direction].tolist()
    if all(value != value for value in p):
        return ""
    parts = f"random sets of as many parts {share[0]:.0%} (p = {p[0]:.2g})" if p[0] == p[0] else ""
    if p[1] != p[1]:
        return f"; {parts}" if parts else ""
    alike = f"{share[1]:.0%}, p = {p[1]:.2g}"
    if p[1] > _LEVEL:
        spread = f"no more than random sets with as many parameters ({alike}): the change is spread over the model"
        return f"; {parts}, and that is {spread}" if parts else f"; that is {spread}"
    more = f"random sets with as many parameters {alike.replace(', ', ' (')})"
    return f"; {parts}, {more}" if parts else f"; {more}"


def _weights(result: Any, names: tuple[str, str]) -> str:
    """What has changed in the weights: all of it where it is little, else how much."""
    if not isinstance(result, WeightDifference):
        return ""
    if len(result.changed) <= _MOST:
        return f"In the weights (a is {names[0]}, b {names[1]}): {result.sentence()}."
    far: dict[str, float] = {}
    for matrix, value in zip(result.matrices, result.values.tolist(), strict=True):
        far[component_of(matrix)] = max(far.get(component_of(matrix), 0.0), value)
    first = sorted(result.changed, key=lambda name: -far[name])[:3]
    start = {"shared start": "come from one start", "separate starts": "show no common start"}.get(str(result.origin))
    said = f"The two {start} (mean cosine of their weights {result.origin_cosine:.2f}); " if start else ""
    moved = f"{len(result.changed)} of {len(result.components)} parts have changed"
    said += f"{moved}, most {listed(first)}, by {far[first[-1]]:.0%} to {far[first[0]]:.0%} of their norm"
    return f"{said[0].upper()}{said[1:]}."


def _inside(result: Any, names: tuple[str, str]) -> str:
    """How similar the representations are."""
    if not isinstance(result, RepresentationSimilarity):
        return ""
    said = result.sentence()
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
    shown = [*names][:most]
    more = len([*names]) - len(shown)
    if more:
        return f"{', '.join(shown)} and {more} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nothing"


def _shown(token: Any) -> str:
    """A token between quotes, line breaks visible."""
    return "\u201c" + str(token).replace("\n", "\u21b5").replace("\t", "\u21e5") + "\u201d"
