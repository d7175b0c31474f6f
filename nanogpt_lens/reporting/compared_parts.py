"""What the page of two models shows of each part of their comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from nanogpt_lens.reporting.blocks import Block, Paragraph, Picture, Table, picture_of
from nanogpt_lens.reporting.words import count, interval, line_of, number, percent, plural, quoted, share
from nanogpt_lens.results import HeadMatches, ModelComparison, OutputDifference, Result, Transplants, WeightDifference
from nanogpt_lens.results.comparison_in_words import called

TITLES: Mapping[str, str] = {
    "transplants": "Where the difference sits",
    "edges": "Along which edges it travels",
    "outputs": "What comes out",
    "weights": "What changed in the weights",
    "representations": "How alike the two are inside",
    "difference_lens": "What the difference says",
    "heads": "Which head is which",
}
"""The heading of each part, in the order of the page."""

_READING = {
    "transplants": "A part of one model is put into the other, weights and all, and the text is run anew: how much of "
    "the difference in what comes out moves along. 100% is the other model, 0% nothing. Parts work together, so that "
    "the shares of single ones need not add up.",
    "edges": "Along one edge, one part of a model reads what its sender wrote in the other model, on the same tokens; "
    "all that follows is computed anew.",
    "outputs": "Both models read the same text. Kullback-Leibler divergence (KL) says how far apart two predictions "
    "are, in nats; the loss says which is better.",
    "weights": "How far each part has moved, in a form that does not hang on how it is written down: the numbering of "
    "heads, the basis inside a head and the order of neurons change nothing here.",
    "representations": "CKA is 1 where two representations are the same up to rotation and scale, and 0 where they "
    "have nothing to do with each other. The control is the same with tokens in random order.",
    "difference_lens": "The mean difference of the residual streams, read through the unembedding: what it makes more "
    "likely.",
    "heads": "Heads are matched by their scores. A partner stands out more than the clearest of unrelated heads does; "
    "where none does, there is none.",
}
_ROWS = 15


_TELLING = ("transplants", "representations", "weights")
"""The parts whose picture stands first on the page, the most telling first."""

_SMALL = (".b_O", ".ln1", ".ln2")
_NOTHING = 0.005  # a share that is written as 0%


def blocks_of(part: str, comparison: ModelComparison) -> tuple[str, tuple[Block, ...]]:
    """How to read a part, and its blocks."""
    make: Callable[[Any, ModelComparison], list[Block]] = _MAKERS.get(part, _plain)
    return _READING[part], tuple(make(comparison[part], comparison))


def first_picture(comparison: ModelComparison) -> Picture | None:
    """The picture of the first screen, which the section of its part does not repeat; None where there is no part."""
    part = next((name for name in (*_TELLING, *comparison.parts) if name in comparison.parts), None)
    if part is None:
        return None
    shown, title = comparison[part], TITLES[part]
    if isinstance(shown, Transplants):
        return picture_of(without_small(shown), title, says=title, names=comparison.names)
    return picture_of(shown, title, says=title)


def _is_first(part: str, comparison: ModelComparison) -> bool:
    """Whether the picture of a part stands on the first screen."""
    return part == next((name for name in (*_TELLING, *comparison.parts) if name in comparison.parts), None)


def _plain(result: Result, comparison: ModelComparison) -> list[Block]:
    said = getattr(result, "sentence", None)
    words = line_of(str(said())) if callable(said) else ""
    a, b = (line_of(name) for name in comparison.names)
    words = words.replace("a into b", f"{a} into {b}").replace("b into a", f"{b} into {a}")
    first, _, rest = f"{words[:1].upper()}{words[1:]}".partition("; ")
    says = f"{first}." if words else ""
    finding: list[Block] = [Paragraph(text=f"{rest[:1].upper()}{rest[1:]}.", tone="note")] if rest else []
    if "direction" in result.labels:
        return [picture_of(result, "what the finding says", says=says, names=comparison.names), *finding]
    if any(comparison.parts.get(name) is result and _is_first(name, comparison) for name in comparison.parts):
        said = [Paragraph(text=says)] if says else []
        return [*said, *finding, Paragraph(text=_ABOVE, tone="note")]
    return [picture_of(result, "what the finding says", says=says), *finding]


_ABOVE = "Its picture is the first of this page."


def without_small(result: Transplants) -> Transplants:
    """The same without the small parts that move nothing."""
    kept = torch.tensor([i for i, name in enumerate(result.components) if not _moves_nothing(result, i, name)])
    parts = {"values", "low", "high", "n_parameters", "changed", "moved", "chosen"}
    tensors = {name: getattr(result, name)[..., kept] for name in parts if getattr(result, name) is not None}
    labels = {**result.labels, "component": tuple(result.components[i] for i in kept.tolist())}
    return replace(result, labels=labels, **tensors)


def _moves_nothing(result: Transplants, i: int, name: str) -> bool:
    """Whether a bias or a LayerNorm moves no share that could be seen, in either direction, and is in no set."""
    shares = result.values[..., i].nan_to_num(0)
    in_set = result.chosen is not None and bool(result.chosen[:, i].any())
    return name.endswith(_SMALL) and not in_set and bool((shares.abs() < _NOTHING).all())


def _transplants(result: Transplants, comparison: ModelComparison) -> list[Block]:
    """The curve of sets and a table; the grid in both directions where the first screen does not have it."""
    blocks: list[Block] = []
    if not _is_first("transplants", comparison):
        says = "the share of the difference that moves with each part"
        blocks.append(picture_of(without_small(result), says, names=comparison.names))
    if result.chosen is not None:
        says = _few_parts(result, comparison.names)
        label = "the share that moves with sets of parts"
        blocks.append(picture_of(result, label, says=says, kind="set", names=comparison.names))
    else:
        blocks.append(Paragraph(text=_ABOVE, tone="note"))
    blocks.append(_transplant_table(result, comparison.names))
    return blocks


def _few_parts(result: Transplants, names: tuple[str, str]) -> str:
    """How many parts it takes, in a sentence."""
    if result.chosen is None or result.set_share is None:
        return ""
    i, at = result.labels["direction"].index("b into a"), result.measures.index(result.by)
    n, share_ = int(result.chosen[i].sum()), float(result.set_share[i, at])
    if share_ != share_:
        return ""
    one, other = (line_of(name) for name in names)
    verb = "carries" if n == 1 else "carry"
    return f"{plural(n, 'part')} of {int(result.changed.sum())} {verb} {share(share_)} from {other} into {one}."


def _transplant_table(result: Transplants, names: tuple[str, str]) -> Table:
    ways = ((names[1], names[0]), names)
    frames = {way: result.table(way).set_index("component") for way in ("b into a", "a into b")}  # type: ignore[arg-type]
    rows = []
    for name in map(str, frames["b into a"].index):
        row, other = (frames[way].loc[name].to_dict() for way in ("b into a", "a into b"))
        rows.append(
            (
                called(name),
                _share(row),
                _share(other),
                percent(row["moved"]),
                count(int(row["n_parameters"])),
                "yes" if bool(row.get("in_set", False)) else "",
            )
        )
    return Table(
        header=("part", *(f"{one} into {other}" for one, other in ways), "moved", "parameters", "in the set"),
        rows=tuple(rows),
        caption="Share of the difference that moves with each part alone, with 95% intervals over the sequences; "
        "moved: the norm of the change as a share of the weights' own; in the set: among the fewest found that carry "
        f"{percent(result.enough)} from {line_of(names[1])} into {line_of(names[0])}.",
        left=(0, 5),
        folded=f"All {len(rows)} parts that differ",
    )


def _share(row: Any) -> str:
    ends = "" if row["low"] != row["low"] else f" ({percent(row['low'])} to {percent(row['high'])})"
    return "–" if row["share"] != row["share"] else f"{percent(row['share'])}{ends}"


def _outputs(result: Any, comparison: ModelComparison) -> list[Block]:
    """Where they differ, what gains, and excerpts; by character where their tokens differ."""
    if not isinstance(result, OutputDifference):
        return [picture_of(result, "loss per character")]
    rows = []
    for name in result.labels["measure"]:
        value, low, high = result.measure(name)
        rows.append(
            (line_of(_MEASURES[name].format(a=comparison.names[0], b=comparison.names[1])), interval(value, low, high))
        )
    blocks: list[Block] = [
        picture_of(result, "where the two differ"),
        Table(
            header=("measure", "mean over the text"),
            rows=tuple(rows),
            caption=f"Means over {count(result.n_places)} next tokens in nats, agreement as a share, with 95% "
            "intervals over the sequences.",
        ),
    ]
    if not result.same:
        blocks += [
            picture_of(result, "what gains and what loses probability", kind="gains"),
            picture_of(result, "excerpts where the two differ most", kind="excerpts", k=5),
            _ranked(result),
        ]
    return blocks


_MEASURES = {
    "kl_ab": "KL({a} || {b})",
    "kl_ba": "KL({b} || {a})",
    "js": "Jensen-Shannon divergence",
    "loss_a": "loss of {a}",
    "loss_b": "loss of {b}",
    "loss_difference": "loss of {b} less that of {a}",
    "agreement": "the same likeliest token",
}


def _ranked(result: OutputDifference) -> Table:
    frame = result.where(k=_ROWS)
    rows = [
        (
            quoted(str(row["token"])),
            count(int(row["count"])),
            number(row["mean"]),
            f"{number(row['low_all'])} to {number(row['high_all'])}",
            percent(row["share"], 1),
        )
        for row in frame.to_dict("records")
    ]
    return Table(
        header=("the token that follows", "times", "KL", "interval of all", "share of all KL"),
        rows=tuple(rows),
        caption="The tokens before which the two differ most; intervals hold for all ranked tokens together.",
        folded=f"The {len(rows)} tokens where they differ most",
    )


def _weights(result: WeightDifference, comparison: ModelComparison) -> list[Block]:
    """The sentence, the picture, and the tokens that moved most."""
    said = f"{result.sentence()[:1].upper()}{result.sentence()[1:]}"
    for letter, name in (("a", comparison.names[0]), ("b", comparison.names[1])):
        said = re.sub(rf"(?<![\w.]){letter}'s(?!\w)", f"{name}'s", said)
    blocks: list[Block] = [Paragraph(text=f"{line_of(said)}.")]
    if not result.changed and not result.rewritten:
        return blocks
    if not _is_first("weights", comparison):
        moved_parts = int((result.values.nan_to_num(0) > _ROUNDED).sum())
        drawn = picture_of(result, "how far each matrix has moved", k=max(1, min(20, moved_parts)), says=_moved(result))
        figure: Any = drawn.picture
        figure.update_xaxes(title_text=f"norm of the difference, as a share of {comparison.names[0]}'s")
        blocks.append(drawn)
    moved = result.tokens_table(_ROWS)
    if bool(result.token_differs.any()):
        columns = [name for name in moved.columns if name != "token"]
        rows = [(quoted(str(row["token"])), *(number(row[c]) for c in columns)) for row in moved.to_dict("records")]
        blocks.append(
            Table(
                header=("token", *columns),
                rows=tuple(rows),
                caption="How far the rows of tokens have moved, as a share of the root mean square of all rows.",
                folded=f"The {len(rows)} tokens whose embeddings moved most",
            )
        )
    return blocks


_ROUNDED = 1e-6


def _moved(result: WeightDifference) -> str:
    """How many parts have changed, in a sentence."""
    n, verb = len(result.changed), "has" if len(result.changed) == 1 else "have"
    return f"{n} of {plural(len(result.components), 'part')} {verb} changed."


def _heads(result: HeadMatches, comparison: ModelComparison) -> list[Block]:
    """Each head's partner, with how surely it is one."""
    weights = comparison.parts.get("weights")
    related = isinstance(weights, WeightDifference) and weights.origin in ("identical", "shared start")
    said = (
        "The two come from one start, so that a head is where it was, whatever its behaviour is like now; what is "
        "matched here is behaviour alone."
    )
    note: list[Block] = [Paragraph(text=said, tone="note")] if related else []
    rows = []
    for layer in range(result.shape["layer"]):
        for head in range(result.shape["head"]):
            matched = result.matched is None or bool(result.matched[1, layer, head])
            partner = f"{int(result.partner_layer[1, layer, head])}.{int(result.partner_head[1, layer, head])}"
            p = None if result.p is None else float(result.p[1, layer, head])
            rows.append(
                (
                    f"{layer}.{head}",
                    partner if matched else "no partner",
                    partner,
                    number(result.values[1, layer, head], 2),
                    number(result.nearest_other[1, layer, head], 2),
                    number(p, 3),
                )
            )
    return [
        *note,
        Table(
            header=(comparison.names[0], f"in {comparison.names[1]}", "candidate", "distance", "nearest other", "p"),
            rows=tuple(rows),
            caption="Distances of the heads' scores, in standard deviations. Candidates are chosen so that their sum "
            "is least, each head once, so that another may be nearer; p: how often unrelated heads have one that "
            "stands out as much, corrected for all heads.",
            left=(0, 1),
        ),
    ]


_MAKERS: Mapping[str, Callable[[Any, ModelComparison], list[Block]]] = {
    "transplants": _transplants,
    "outputs": _outputs,
    "weights": _weights,
    "heads": _heads,
}
