"""What each head does, and how much it matters."""

from __future__ import annotations

from typing import Any

import torch

from nanogpt_lens.core.head_jobs import job_of
from nanogpt_lens.heads.taxonomy import head_taxonomy
from nanogpt_lens.patching.importance import head_importance
from nanogpt_lens.reporting.blocks import Block, Folded, Table, picture_of
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.part_rises import largest_rise, parts_of
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.subject import OTHER_SIZES, Subject
from nanogpt_lens.reporting.words import at, heads_named, interval, list_of, number, plural
from nanogpt_lens.reporting.worth import importance_sample
from nanogpt_lens.results import HeadTaxonomy, Scores

_N = 64
_LONGEST = 128  # tokens of a sequence where the command chooses
_SHORTEST = 4  # two copies of two tokens


def _make(subject: Subject) -> Content:
    model = subject.model
    if model.cfg.n_ctx < _SHORTEST:
        raise DoesNotApply(
            f"Heads are scored on repeated sequences, which need a context of {_SHORTEST} tokens; this model has "
            f"{model.cfg.n_ctx}."
        )
    options: dict[str, Any] = {"seq_len": subject.seq_len, "seed": subject.seed}
    taxonomy = head_taxonomy(model, subject.corpus, n=subject.sequences(_N), **options)
    options |= importance_sample(subject)
    importance = head_importance(model, subject.corpus, progress=False, **options)
    found, worth = _in_words(taxonomy), largest_rise(list(parts_of(importance)), kind="head")[0]
    body: list[Block] = [
        _labels_table(taxonomy),
        *_carried(taxonomy),
        picture_of(
            importance,
            "how much the loss rises without each head",
            says=worth,
            title="Rise of the loss without each head",
        ),
        Folded(
            summary="Every score of every head",
            body=(
                picture_of(taxonomy, "heat maps of every head's scores", title="Scores of every head"),
                _table(taxonomy, importance),
            ),
        ),
    ]
    return Content(
        body=tuple(body),
        commands=_commands(subject),
        findings=(found, worth),
        results={"head_taxonomy": taxonomy, "head_importance": importance},
    )


def _commands(subject: Subject) -> tuple[str, ...]:
    """The scores and the importance, each with the sample of this section."""
    other = subject.length_remark(_LONGEST)
    scores = subject.again(
        "head_taxonomy",
        "--n",
        str(subject.sequences(_N)),
        *subject.seed_option(),
        text=True,
        remark=f"the scores{other and '; ' + other}",
    )
    sample = importance_sample(subject)
    other = OTHER_SIZES if sample["seq_len"] < subject.seq_len else other
    rise = subject.again(
        "head_importance",
        "--importance",
        "--n",
        str(sample["n"]),
        *subject.seed_option(),
        text=True,
        remark=f"the loss rise{other and '; ' + other}",
    )
    return scores, rise


def _in_words(taxonomy: HeadTaxonomy) -> str:
    """Which labels are carried by which heads."""
    parts = []
    for label in taxonomy.labels["score"]:
        heads = taxonomy.heads(label)
        if len(heads) == 1:
            parts.append(f"{heads_named(heads)} {job_of(label).one}")
        elif heads:
            parts.append(f"{len(heads)} {job_of(label).several}")
    total = taxonomy.shape["layer"] * taxonomy.shape["head"]
    carrying = int(taxonomy.carries.any(0).sum())
    if not parts:
        return f"No head of {total} surely does any of the things that heads are known for."
    return f"{carrying} of {plural(total, 'head')} {'has' if carrying == 1 else 'have'} a known job: {list_of(parts)}."


def _labels_table(taxonomy: HeadTaxonomy) -> Table:
    """Each label with the heads that carry it, or how near the best head comes."""
    rows, marked = [], set()
    for i, label in enumerate(taxonomy.labels["score"]):
        heads, values = taxonomy.heads(label), taxonomy.values[i]
        best = divmod(int(values.nan_to_num(-torch.inf).argmax()), values.shape[1])
        named = list_of([f"{layer}.{head}" for layer, head in heads]) or "none"
        marked |= {(len(rows), 1)} if heads else set()
        near = f"{number(values[best], 2)} ({best[0]}.{best[1]})"
        rows.append((job_of(label).one, named, near, _needed(taxonomy, i)))
    order = sorted(range(len(rows)), key=lambda row: rows[row][1] == "none")  # what heads do, then what none does
    marked = {(order.index(row), column) for row, column in marked}
    rows = [rows[row] for row in order]
    return Table(
        header=("a head that …", "heads", "best score", "needed"),
        rows=tuple(rows),
        caption="A head has a job if its score, less what chance may have added, is above what that job needs. The "
        "folded table of all scores says for each head what it needs and why.",
        left=(0, 1),
        strong=frozenset(marked),
    )


def _needed(taxonomy: HeadTaxonomy, score: int) -> str:
    """The least and the largest threshold of the heads; of a score that would name no head, the usual one."""
    limits = taxonomy.threshold[score]
    finite = limits[limits.isfinite()]
    if not len(finite):
        return f"{number(taxonomy.least[taxonomy.labels['score'][score]], 2)}; says nothing here"
    low, high = number(finite.min(), 2), number(finite.max(), 2)
    return low if low == high else f"{low} to {high}"


def _carried(taxonomy: HeadTaxonomy) -> list[Block]:
    """The map of the label that most says what a head is for, where a head carries one."""
    carried = [label for label in _TELLING if label in taxonomy.labels["score"] and taxonomy.heads(label)]
    if not carried:
        return []
    label = carried[0]
    heads = taxonomy.heads(label)
    does = job_of(label).one if len(heads) == 1 else job_of(label).several
    says = f"{heads_named(heads).capitalize()} {does}{'; no other head does' if len(heads) == 1 else ''}."
    return [picture_of(taxonomy, f"a heat map of every head's score: {label}", says=says, score=label)]


_TELLING = (
    "induction", "previous_token", "duplicate_token", "copying", "line_break", "positional", "sink",
    "broad", "anti_copying",
)  # fmt: skip
"""Labels, the most telling first."""


def _why(taxonomy: HeadTaxonomy, layer: int, head: int) -> str:
    """The thresholds of a head's labels, and why a high score earned none."""
    reasons = taxonomy.reasons(layer, head)
    return "; ".join(f"{name.replace('_', ' ')} {words}" for name, words in reasons.items())


def _table(taxonomy: HeadTaxonomy, importance: Scores) -> Table:
    names = taxonomy.labels["score"]
    rows, strong = [], set()
    for layer in range(taxonomy.shape["layer"]):
        for head in range(taxonomy.shape["head"]):
            labels = taxonomy.of(layer, head)
            strong |= {(len(rows), 1 + i) for i, name in enumerate(names) if name in labels}
            scores = [number(taxonomy.at(score=name, layer=layer, head=head), 2) for name in names]
            ends = at(importance.low, layer, head), at(importance.high, layer, head)
            rise = interval(importance.values[layer, head], *ends, digits=4)
            named = list_of([n.replace("_", " ") for n in labels]) or "none"
            rows.append((f"{layer}.{head}", *scores, rise, named, _why(taxonomy, layer, head)))
    if taxonomy.chance is not None:
        rows.append(("chance", *(number(c, 2) for c in taxonomy.chance.mean((1, 2))), "", "", ""))
    return Table(
        header=("head", *(name.replace("_", " ") for name in names), "loss rise without it", "labels", "thresholds"),
        rows=tuple(rows),
        caption="Every score of every head; bold where it is surely, for all heads together, above the label's "
        f"threshold. Thresholds: of the labels, and of high scores that earned none. Loss rise: {importance.quantity}."
        + doubts(loss_rise=importance),
        left=(0, len(names) + 2, len(names) + 3),
        strong=frozenset(strong),
    )


RECIPE = Recipe(
    key="heads",
    title="What the heads do",
    reading="A head is written layer.head and may have several jobs, or none; most say where it looks (scores from "
    "0 to 1, beside what uniform attention would give), copying what it writes (from −1 to 1; below 0 it lowers what "
    "it looks at), and none says why. The loss rise says how much worse the model predicts when the head's output is "
    "replaced by its mean: a head with a clear job may still matter little.",
    make=_make,
)
