"""What each head does, and how much it matters."""

from __future__ import annotations

from typing import Any

from nanogpt_lens.heads.taxonomy import head_taxonomy
from nanogpt_lens.patching.importance import head_importance
from nanogpt_lens.reporting.blocks import Block, Paragraph, Table, picture_of
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.subject import OTHER_SIZES, Subject
from nanogpt_lens.reporting.words import NEGLIGIBLE, at, interval, list_of, number, plural
from nanogpt_lens.results import HeadTaxonomy, Scores

_N, _IMPORTANCE_N = 64, 32
_LONGEST = 128  # tokens of a sequence where the command chooses
_SHORTEST = 4  # two copies of two tokens
_WORK = 1e12  # weights times heads times tokens
_FEWEST, _BRIEFEST = 8, 32  # sequences, and tokens of one, that the loss without each head is measured on at least


def _make(subject: Subject) -> Content:
    model = subject.model
    if model.cfg.n_ctx < _SHORTEST:
        raise DoesNotApply(
            f"Heads are scored on repeated sequences, which need a context of {_SHORTEST} tokens; this model has "
            f"{model.cfg.n_ctx}."
        )
    options: dict[str, Any] = {"seq_len": subject.seq_len, "seed": subject.seed}
    taxonomy = head_taxonomy(model, subject.corpus, n=subject.sequences(_N), **options)
    options |= _importance_sample(subject)
    importance = head_importance(model, subject.corpus, progress=False, **options)
    body: list[Block] = [
        Paragraph(text=_in_words(taxonomy)),
        picture_of(taxonomy, "heat maps of every head's scores", title="Scores of every head"),
        _table(taxonomy, importance),
        picture_of(importance, "how much the loss rises without each head", title="Rise of the loss without each head"),
    ]
    return Content(
        body=tuple(body),
        commands=_commands(subject),
        findings=(f"{_in_words(taxonomy)} {_most_important(importance)}",),
    )


def _importance_sample(subject: Subject) -> dict[str, int]:
    """The sequences on which every head is ablated, and their tokens: less of a model with many or large heads."""
    cfg, length = subject.model.cfg, subject.seq_len
    tokens = int(_WORK / (max(1, subject.n_params) * cfg.n_layers * cfg.n_heads))
    n = min(_IMPORTANCE_N, max(_FEWEST, tokens // length))
    return {"n": n, "seq_len": min(length, max(_BRIEFEST, tokens // n))}


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
    sample = _importance_sample(subject)
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
        if heads:
            named = [f"{layer}.{head}" for layer, head in heads[:3]]
            named += [f"{len(heads) - 3} more"] if len(heads) > 3 else []
            parts.append(f"{label.replace('_', ' ')} ({list_of(named)})")
    total = taxonomy.shape["layer"] * taxonomy.shape["head"]
    carrying = int(taxonomy.carries.any(0).sum())
    if not parts:
        return f"None of {plural(total, 'head')} passes the threshold of any label."
    return f"{carrying} of {plural(total, 'head')} {'carries' if carrying == 1 else 'carry'} a label: {list_of(parts)}."


def _most_important(importance: Scores) -> str:
    row = importance.top(1, order="high").to_dict("records")[0]
    low = at(importance.low, int(row["layer"]), int(row["head"]))
    if row["value"] < NEGLIGIBLE or (low is not None and low <= 0):
        return "Without any one head, the loss does not rise by a difference that can be measured."
    return f"The loss rises most without head {row['layer']}.{row['head']}, by {number(row['value'])} nats per token."


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
        folded=f"All scores of {plural(len(rows) - 1, 'head')}",
    )


RECIPE = Recipe(
    key="heads",
    title="What the heads do",
    reading="A head is written layer.head and may carry several labels, or none; most say where it looks (scores from "
    "0 to 1, beside what uniform attention would give), copying and anti-copying what it writes (from −1 to 1), and "
    "none says why. The loss rise says how much worse the model "
    "predicts when the head's output is replaced by its mean: a head with a clear label may still matter little.",
    make=_make,
)
