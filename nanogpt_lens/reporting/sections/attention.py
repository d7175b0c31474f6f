"""Who attends to whom, on one passage; and statistics of every head over many."""

from __future__ import annotations

from nanogpt_lens.heads.attention import STATISTICS, attention_patterns, attention_statistics
from nanogpt_lens.reporting.blocks import Folded, Table, picture_of, picture_of_widget
from nanogpt_lens.reporting.section import Content, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import heads_named, number
from nanogpt_lens.results import Scores

_TOKENS, _N = 40, 64


def _make(subject: Subject) -> Content:
    model = subject.model
    tokens = subject.passage(_TOKENS, number=1)
    patterns = attention_patterns(model, tokens)
    statistics = attention_statistics(
        model, subject.corpus, seq_len=subject.seq_len, n=subject.sequences(_N), seed=subject.seed
    )
    text = subject.separator.join(subject.strings(tokens))
    asked = repr(text) if subject.has_vocabulary else str(tokens.tolist())
    near, far = _ends(statistics, "distance")
    widget = picture_of_widget(
        patterns.widget(),
        "attention patterns of every head on a passage",
        says="Choose a head: each row is a token that looks, each column a token that is looked at.",
    )
    return Content(
        body=(
            widget,
            Folded(
                summary="What each head does over many texts: statistics",
                body=(picture_of(statistics, "heat maps of every head's attention statistics"), _table(statistics)),
            ),
        ),
        commands=(
            subject.python(f"ngl.attention_patterns(model, {asked}).widget().save('attention.html')"),
            subject.report_command("attention"),
        ),
        findings=(_finding(statistics, near, far),),
    )


def _ends(statistics: Scores, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The heads with the lowest and the highest value of a statistic."""
    values = statistics.score(name).nan_to_num(0)
    low, high = (divmod(int(place), values.shape[1]) for place in (values.argmin(), values.argmax()))
    return low, high


EVEN = 0.1
"""The share of the distance of even attention within which a head looks no nearer or farther than that."""


def _finding(statistics: Scores, near: tuple[int, int], far: tuple[int, int]) -> str:
    """How far back heads look, and whether that is more than even attention does."""
    back = statistics.score("distance")
    if statistics.chance is not None:
        even = statistics.chance[statistics.labels["score"].index("distance")]
        if bool(((back - even).abs() <= EVEN * even).all()):
            return f"All heads look about as far back as even attention would, {number(even.mean(), 1)} tokens."
    if near == far:
        return f"{heads_named([far]).capitalize()} looks {number(back[far], 1)} tokens back, on average."
    return (
        f"{heads_named([far]).capitalize()} looks farthest back, {number(back[far], 1)} tokens on average; "
        f"{heads_named([near])} looks nearest, {number(back[near], 1)}."
    )


def _table(statistics: Scores) -> Table:
    names = statistics.labels["score"]
    rows = [
        (f"{layer}.{head}", *(number(statistics.at(score=name, layer=layer, head=head), 2) for name in names))
        for layer in range(statistics.shape["layer"])
        for head in range(statistics.shape["head"])
    ]
    if statistics.chance is not None:
        rows.append(("uniform attention", *(number(c, 2) for c in statistics.chance.mean((1, 2)))))
    return Table(
        header=("head", *(name.replace("_", " ") for name in names)),
        rows=tuple(rows),
        caption="; ".join(f"{name.replace('_', ' ')}: {meaning}" for name, meaning in STATISTICS.items()) + ".",
    )


RECIPE = Recipe(
    key="attention",
    title="Attention on a passage",
    reading="Choose a head to see how much each token (a row) attends to itself and to each token before it (columns); "
    "every row sums to 1. The passage shows what one text looks like, the statistics below what the head does over "
    "many: trust a pattern only where both agree.",
    make=_make,
)
