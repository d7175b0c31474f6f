"""Whether the user's explanation is true: causal scrubbing of a hypothesis, beside its controls."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from nanogpt_lens.circuits.claims import Hypothesis, feature_words
from nanogpt_lens.circuits.features import DEFINITIONS, Features
from nanogpt_lens.circuits.scrubbing import scrub
from nanogpt_lens.circuits.tree import tree_of
from nanogpt_lens.model.access import Hooked, n_tokens, token_labels
from nanogpt_lens.reporting.blocks import Block, Facts, Folded, Paragraph, Table, picture_of
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import count, interval, line_of, list_of, number, percent, plural, share, short_path
from nanogpt_lens.results import Scrubbing
from nanogpt_lens.results.claims_in_words import features_in_words, node_in_words, verb
from nanogpt_lens.results.scrubbing import FEW_AGREE, PERMUTED, UNIFORM
from nanogpt_lens.text.prompts import LONGEST
from nanogpt_lens.text.task_pairs import own_task, pairs_by_name

_PROMPTS, _DRAWS = 128, 2
_MOST = 60  # claims of which each is weakened
_WELL = 0.9  # of what the model does, which an explanation recovers surely
_SURE, _LEAST = 0.05, 0.005  # p, and the least cost that is told
_TOLD = 3  # costs that the finding names


def check_hypothesis(model: Hooked, hypothesis: Hypothesis) -> None:
    """Raise AnalysisError where a hypothesis cannot be said of this model, or has an unknown feature."""
    n_pos = min(LONGEST, int(model.cfg.n_ctx))
    tokens = torch.zeros((2, n_pos), dtype=torch.long)
    named = getattr(model, "tokenizer", None) is not None
    labels = token_labels(model, torch.arange(n_tokens(model))) if named else None
    features = Features(tokens, tokens[:, 0], labels, hypothesis.classes)
    for branch in tree_of(model, hypothesis, n_pos).walk():
        if not callable(branch.claim.depends_on):
            features.values(branch.claim.depends_on)


def _make(subject: Subject) -> Content:
    hypothesis = subject.hypothesis
    if hypothesis is None:
        raise DoesNotApply("No hypothesis was given: --hypothesis FILE names one.")
    model, task = subject.model, own_task(subject.model)
    n_claims = sum(1 for _ in hypothesis.walk())
    pairs = pairs_by_name(model, task, n=_PROMPTS, seed=subject.seed)
    weaken = n_claims <= _MOST
    result = scrub(model, hypothesis, pairs, n_draws=_DRAWS, weaken=weaken, seed=subject.seed, progress=False)
    finding = _finding(result)
    body: list[Block] = [
        Paragraph(text=f"{finding}{doubts(result)}", tone="good" if _holds(result) else "plain"),
        *(Paragraph(text=text, tone="note") for text in _reservations(result)),
        picture_of(result, f"the hypothesis as a tree of {plural(n_claims, 'claim')} with what each costs"),
        Folded(
            summary="Prompt by prompt, and every claim with what it costs",
            body=(
                picture_of(result, "how much each prompt changes", kind="prompts", before=_CANCEL),
                _table(result),
            ),
        ),
        Folded(
            summary="How this was measured",
            body=(Paragraph(text=_measured(result, task), tone="note"), Facts(pairs=_features(hypothesis))),
        ),
    ]
    if not weaken:
        note = f"Each claim is weakened for at most {_MOST} claims in a report; this hypothesis has {count(n_claims)}."
        body.append(Paragraph(text=note, tone="note"))
    options = ["--n", str(_PROMPTS), "--n-draws", str(_DRAWS), *([] if weaken else ["--no-weaken"])]
    again = subject.command(
        "scrub",
        short_path(subject.hypothesis_file or "hypothesis.yaml"),
        *options,
        *subject.seed_option(),
        remark="" if subject.hypothesis_file else "the hypothesis was given in Python: put it into this file",
    )
    return Content(body=tuple(body), commands=(again,), findings=(_opening(result), finding))


_CANCEL = "Changes that cancel in the mean are seen here."


def _holds(result: Scrubbing) -> bool:
    """Whether surely nearly all is recovered, and surely more than with permuted features."""
    low = result.interval_of_recovered[0]
    return low >= _WELL and low > float(result.high[result.labels["condition"].index(PERMUTED)])


def _finding(result: Scrubbing) -> str:
    """What is recovered, beside the control, and what costs most."""
    name = "The hypothesis" if result.name == "the hypothesis" else f"“{line_of(result.name, longest=120)}”"
    low, high = result.interval_of_recovered
    said = (
        f"{name} recovers {share(result.recovered)} ({share(low)} to {share(high)}) of what the model does; with the "
        f"values of its features shuffled, {share(result.of(PERMUTED))}."
    )
    costs = _costs(result)
    if not costs:
        return said if result.cost is None else f"{said} No claim surely costs anything."
    return f"{said} What costs most: {list_of(costs)}."


def _opening(result: Scrubbing) -> str:
    """What is recovered, beside the control, in a short sentence."""
    verdict = "The explanation holds" if _holds(result) else "The explanation does not hold as it stands"
    return (
        f"{verdict}: it recovers {share(result.recovered)} of what the model does, and "
        f"{share(result.of(PERMUTED))} with its features shuffled."
    )


def _costs(result: Scrubbing) -> list[str]:
    """The claims that surely cost something, the dearest first, in words."""
    found: list[tuple[float, str]] = []
    for row in result.claims_table().to_dict("records"):
        where, feature = _node(str(row["claim"])), features_in_words(str(row["depends_on"]))
        name = node_in_words(str(row["claim"]).rpartition("/")[2])
        said = {
            "cost": f"that {where} {verb(name, 'depends')} on {feature} alone",
            "rest": f"that {where} {verb(name, 'reads')} nothing else",
        }
        for what, words in said.items():
            value, p = row.get(what, math.nan), row.get(f"{what}_p", math.nan)
            if p <= _SURE and value >= _LEAST:
                found.append((value, f"{words} ({percent(value)})"))
    return [words for _, words in sorted(found, key=lambda pair: -pair[0])[:_TOLD]]


def _node(path: str) -> str:
    """A claim's node in a sentence: "the key of head 1.0"."""
    *above, node = path.split("/")
    name = line_of(node_in_words(node), longest=60)
    if above and above[-1][:1].isdigit():
        return f"the {name} of {line_of(node_in_words(above[-1]), longest=60)}"
    return name if name[:1].isupper() or name.startswith("head") else f"the {name}"


def _reservations(result: Scrubbing) -> list[str]:
    """What the number does not say."""
    said = []
    if result.above_permuted[1] <= 0:
        said.append("With permuted features about as much is recovered: what the claims depend on hardly matters here.")
    if result.recovered <= result.of(UNIFORM):
        said.append(
            f"A uniform guess, which knows nothing, recovers {percent(result.of(UNIFORM))}: the logits of a random "
            "prompt are surely wrong, so that a share is no fraction of an explanation."
        )
    alone = [
        (lonely, path)
        for lonely, path, feature in zip(result.alone.tolist(), result.claims, result.features, strict=True)
        if lonely > FEW_AGREE and feature != "everything"
    ]
    if alone:
        lonely, path = max(alone)
        many = f"{len(alone)} claims, most of all of" if len(alone) > 1 else "one claim, about"
        said.append(
            f"The places of {many} {_node(path)}, often agree with no other place ({percent(lonely)} of them) and "
            "stand in for themselves, which tests nothing."
        )
    return said


def _table(result: Scrubbing) -> Table:
    """Every claim with its feature and its costs."""
    frame = result.claims_table()
    costs = [what for what in ("cost", "rest", "need") if what in frame]
    rows = []
    for row in frame.to_dict("records"):
        measured = (interval(*(row[f"{what}{end}"] for end in ("", "_low", "_high"))) for what in costs)
        feature = line_of(features_in_words(str(row["depends_on"])), longest=120)
        claim = line_of(str(row["claim"]), longest=120)
        rows.append((claim, feature, count(int(row["n_values"])), percent(row["alone"]), *measured))
    caption = (
        "Shares of what the model does, with 95% intervals. Cost: what is recovered in addition if the part may depend "
        "on all that it reads; rest: if it may read everything; need: what is lost without the claim. Alone: places "
        "that agree with no other in the feature."
    )
    return Table(
        header=("claim", "depends on", "values", "alone", *costs),
        rows=tuple(rows),
        caption=f"{caption if costs else 'The claims.'}{doubts(result)}",
        left=(0, 1),
    )


def _measured(result: Scrubbing, task: str) -> str:
    """The prompts, the draws and the definition."""
    sample, own = result.sample, result.metric.double().mean(-1).tolist()
    names = dict(zip(result.labels["condition"], own, strict=True))
    n, length = (0, 0) if sample is None else (sample.n or 0, sample.seq_len or 0)
    means = list_of([f"{name} {number(value)}" for name, value in names.items()])
    definition, times = line_of(result.definition), _times(result.over_draws.shape[-1])
    return (
        f"{definition[:1].upper()}{definition[1:]}. On {count(n)} prompts of {length} tokens of the task "
        f"{line_of(task)}, each scrubbed {times}. A draw takes, for every activation that a claim is about, a random "
        "prompt and place at which its feature has the same value, and for all that is not named any prompt at all. "
        f"Means of the metric: {means}. What is recovered is no proof: changes that cancel, and claims that say more "
        "than they need to, are not found."
    )


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def _features(hypothesis: Hypothesis) -> tuple[tuple[str, str], ...]:
    """The definition of every feature that the hypothesis names."""
    every: dict[str, str] = {}
    for _, claim in hypothesis.walk():
        words = feature_words(claim.depends_on)
        for word in [words] if isinstance(words, str) else words:
            base = word.partition("-")[0].partition("@")[0]
            every[line_of(word, longest=60)] = (
                DEFINITIONS.get(word) or DEFINITIONS.get(base) or "a function of the user's"
            )
    return tuple(every.items())


def file_of(hypothesis: object) -> str | None:
    """The file that a hypothesis was given as; None for one that is none."""
    return str(hypothesis) if isinstance(hypothesis, str | Path) else None


RECIPE = Recipe(
    key="scrubbing",
    title="Is the explanation true",
    reading="Every part that the explanation names is computed from other prompts that agree in what it is said to "
    "depend on, and all that it does not name from any prompt. If the explanation is true, the model does the same; "
    "what is lost is what it leaves out.",
    make=_make,
)
