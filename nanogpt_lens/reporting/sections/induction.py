"""Whether the model continues what it has seen before: heads, losses, answers, and a verdict in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nanogpt_lens.core.intervals import mean_fields, t_interval
from nanogpt_lens.heads.ablation import ablate_induction_heads
from nanogpt_lens.heads.induction import induction_accuracy, prefix_matching, repeated_sequence_loss
from nanogpt_lens.heads.induction_rule import MARGIN, THRESHOLD, find_induction_heads
from nanogpt_lens.losses.on_text import in_context_learning_score
from nanogpt_lens.model.access import n_tokens
from nanogpt_lens.reporting.blocks import Block, Folded, Paragraph, Table, picture_of
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.induction_verdict import gain_of_order, induction_says, second_half, shown_head
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.subject import OTHER_SIZES, Subject
from nanogpt_lens.reporting.words import at, heads_named, interval, list_of, measured, number, share
from nanogpt_lens.results import InductionHeads, Scores

_N, _PROMPTS = 32, 128  # as of `nanogpt-lens induction`
_LONGEST = 128
_CONTEXTS, _FEWEST = 128, 8  # windows as long as the context


@dataclass(frozen=True, kw_only=True)
class InductionMeasures:
    """What induction was measured by.

    Attributes:
        matching: prefix matching on random tokens, and the induction heads by it.
        text_matching: prefix matching on text.
        repeated, text_repeated: losses on repeated sequences of both kinds.
        accuracy: on [A][B]...[A] prompts.
        learning: late minus early loss.
        ablation: on other sequences than those by which the heads were found; None where there is no induction head.
    """

    matching: InductionHeads
    repeated: Scores
    accuracy: Scores
    learning: Scores
    text_matching: Scores | None = None
    text_repeated: Scores | None = None
    ablation: Scores | None = None


def _make(subject: Subject) -> Content:
    model = subject.model
    if model.cfg.n_ctx < 8 or n_tokens(model) < 5:
        raise DoesNotApply(
            f"Sequences cannot be repeated in a context of {model.cfg.n_ctx} tokens with a vocabulary of "
            f"{n_tokens(model)}: at least 8 and 5 are needed."
        )
    measures = _measures(subject)
    verdict, has = induction_says(measures.matching, accuracy=measures.accuracy, repeated=measures.repeated)
    layer, head = shown_head(measures.matching) or (0, 0)
    body: list[Block] = [_evidence(measures)]
    if model.cfg.n_layers == 1:
        text = (
            "A model of one layer cannot compose a previous-token head with an induction head, so that attention alone "
            "can at most copy by position."
        )
        body.append(Paragraph(text=text, tone="note"))
    matching = picture_of(
        measures.matching,
        "prefix matching of every head",
        says=f"Head {layer}.{head} looks most at the token after the earlier occurrence: "
        f"{share(measures.matching.values[layer, head])} of its attention.",
    )
    gain = picture_of(
        _gain_by_position(measures.repeated), "what the order is worth", says=_order_says(measures.repeated)
    )
    losses = picture_of(measures.repeated, "loss per token of repeated random sequences")
    numbers = (_heads_table(measures), _answers(measures.accuracy), losses, _loss_table(measures))
    learning = Paragraph(text=_learning(measures.learning), tone="note")
    if has or measures.matching.heads():
        body += [matching, gain]
        body += _ablated(measures)
        body.append(Folded(summary="All measurements", body=(*numbers, learning)))
    else:
        body += [gain, Folded(summary="All measurements", body=(matching, *numbers, learning))]
    found = {
        "find_induction_heads": measures.matching,
        "induction_accuracy": measures.accuracy,
        "repeated_sequence_loss": measures.repeated,
    }
    return Content(body=tuple(body), commands=(_command(subject),), findings=(verdict,), results=found)


def _ablated(measures: InductionMeasures) -> list[Block]:
    """What is lost without the induction heads."""
    if measures.ablation is None:
        return []
    says = f"Without {heads_named(measures.matching.heads())} the gain by repetition falls."
    return [
        picture_of(
            measures.ablation, "loss without the induction heads", says=says if _loses(measures.ablation) else ""
        ),
        Paragraph(text=_without(measures.ablation), tone="note"),
    ]


def _loses(ablation: Scores) -> bool:
    """Whether surely some of the gain is lost."""
    low = at(ablation.low, 1, ablation.labels["score"].index("gain_lost"))
    return low is not None and low > 0


def _command(subject: Subject) -> str:
    short = subject.text is not None and len(subject.text.ids) < 4 * min(int(subject.model.cfg.n_ctx), _LONGEST)
    return subject.again(
        "prefix_matching",
        "--n",
        str(subject.sequences(_N)),
        *subject.seed_option(),
        text=True,
        remark=OTHER_SIZES if short else "",
    )


def _measures(subject: Subject) -> InductionMeasures:
    """All that the section needs; on text only where there is enough of it."""
    model = subject.model
    options: dict[str, Any] = {"n": subject.sequences(_N), "seed": subject.seed}
    on_text: dict[str, Any] = {}
    matching = find_induction_heads(model, **options)
    if subject.text is not None:
        seq_len = min(matching.seq_len, subject.seq_len)
        if seq_len >= 2:
            on_text = {
                "text_matching": prefix_matching(model, subject.corpus, seq_len=seq_len, **options),
                "text_repeated": repeated_sequence_loss(model, subject.corpus, seq_len=seq_len, **options),
            }
    heads = sorted(matching.heads())
    new: dict[str, Any] = {**options, "seed": subject.seed + 1}  # other sequences than those they were found on
    enough = subject.text is None or len(subject.text.ids) >= 2 * model.cfg.n_ctx
    return InductionMeasures(
        matching=matching,
        repeated=repeated_sequence_loss(model, **options),
        accuracy=induction_accuracy(model, n=subject.sequences(_PROMPTS, least=32), seed=subject.seed),
        learning=in_context_learning_score(
            model, subject.corpus if enough else None, n=_contexts(subject), seed=subject.seed
        ),
        ablation=ablate_induction_heads(model, heads, chosen_by=matching, progress=False, **new) if heads else None,
        **on_text,
    )


def _contexts(subject: Subject) -> int:
    """How many whole contexts are read: 128, fewer of a large model."""
    n_ctx = int(subject.model.cfg.n_ctx)
    return max(_FEWEST, subject.affordable(_CONTEXTS * n_ctx, least=0) // n_ctx) if subject.is_large else _CONTEXTS


def _evidence(measures: InductionMeasures) -> Table:
    """The three numbers, each beside its control and what induction would give."""
    layer, head = shown_head(measures.matching) or (0, 0)
    clean, control = (float(measures.accuracy.at(score="accuracy", prompt=p)) for p in ("clean", "corrupted"))
    chance = at(measures.matching.chance, 0, 0)
    looked = share(measures.matching.values[layer, head])
    rows = [
        (
            f"the best head ({layer}.{head}) gives its attention to the token after the earlier one",
            looked,
            share(chance),
            "near 100%",
        ),
        ("[B] comes out on top after [A][B] … [A]", share(clean), share(control), "near 100%"),
        (
            "order makes the repeat cheaper, nats per token",
            number(gain_of_order(measures.repeated), 2),
            "0",
            "well above 0",
        ),
    ]
    return Table(
        header=("does it continue what it has seen?", "here", "without induction", "with it"),
        rows=tuple(rows),
        caption="On random tokens, which no text can explain; the controls are uniform attention, prompts whose first "
        "[A] is replaced, and repeats in another order.",
    )


def _gain_by_position(losses: Scores) -> Scores:
    """How much cheaper each token of the second half is in the old order than after a shuffled first half."""
    assert losses.per_example is not None, "losses of sequences"
    half = losses.shape["pos"] // 2 + 1
    names = losses.labels["condition"]
    one, other = (losses.per_example[names.index(name), half:] for name in ("shuffled", "repeated"))
    columns = mean_fields((one - other)[None])
    assert losses.chance is not None, "a uniform guess"
    return Scores(
        **columns,
        chance=torch.full_like(columns["values"], float(losses.chance.max())),
        axes=("gain", "pos"),
        labels={"gain": ("gain of order",), "pos": losses.labels["pos"][half:]},
        quantity="gain of order, nats per token",
        definition="the loss after the same tokens in random order, less that after them in the same order",
        unit="nats per token",
        signed=True,
        sample=losses.sample,
        provenance=losses.provenance,
    )


def _order_says(losses: Scores) -> str:
    """Whether the old order is surely worth something, in a sentence."""
    assert losses.per_example is not None, "losses of sequences"
    half, names = losses.shape["pos"] // 2 + 1, losses.labels["condition"]
    one, other = (losses.per_example[names.index(name), half:].mean(0) for name in ("shuffled", "repeated"))
    ends = t_interval(one - other)
    gain = float((one - other).mean())
    if ends is None or float(ends[0]) <= 0 <= float(ends[1]):
        return "Order gains nothing: repeated tokens cost as much in the old order as in a random one."
    if gain < 0:
        return f"Order misleads: the repeat costs {measured(-gain, *ends)} nats more per token in the old order."
    return f"Order helps: the repeat costs {measured(gain, *ends)} nats less per token in the old order than shuffled."


def _heads_table(measures: InductionMeasures) -> Table:
    rows = []
    for row in measures.matching.top(5, order="high").to_dict("records"):
        layer, head = int(row["layer"]), int(row["head"])
        text = measures.text_matching
        on_text = (
            []
            if text is None
            else [interval(text.values[layer, head], at(text.low, layer, head), at(text.high, layer, head))]
        )
        ends = at(measures.matching.low, layer, head), at(measures.matching.high, layer, head)
        rows.append((f"{layer}.{head}", interval(row["value"], *ends), *on_text))
    chances = [number(at(s.chance, 0, 0)) for s in (measures.matching, measures.text_matching) if s is not None]
    rows.append(("chance", *chances))
    return Table(
        header=("head", "random tokens", *(["text"] if measures.text_matching is not None else [])),
        rows=tuple(rows),
        caption="Prefix matching of the five highest heads, with 95% intervals over the sequences: attention from a "
        "repeated token to the token after its first occurrence. A head is an induction head where that is surely, "
        f"for all heads together, above {THRESHOLD}, and {MARGIN} above chance and above the same places without "
        f"repetition: {measures.matching.verdict}."
        + doubts(random_tokens=measures.matching, text=measures.text_matching),
    )


def _answers(accuracy: Scores) -> Table:
    rows = []
    for prompt, name in (("clean", "[A][B] ... [A]"), ("corrupted", "control: the first [A] replaced")):
        j = accuracy.labels["prompt"].index(prompt)
        cells = [
            interval(accuracy.values[i, j], at(accuracy.low, i, j), at(accuracy.high, i, j))
            for i in range(accuracy.shape["score"])
        ]
        rows.append((name, *cells, number(at(accuracy.chance, 0, j))))
    return Table(
        header=("prompts", "how often [B] is on top", "probability of [B]", "chance"),
        rows=tuple(rows),
        caption=f"{accuracy.definition}.{doubts(accuracy)}",
    )


def _loss_table(measures: InductionMeasures) -> Table:
    rows = []
    for losses, name in ((measures.repeated, "random tokens"), (measures.text_repeated, "text")):
        if losses is not None:
            cells = (number(second_half(losses, c)) for c in ("repeated", "shuffled", "unrepeated"))
            rows.append((name, *cells, number(gain_of_order(losses))))
    return Table(
        header=("sequences of", "after themselves", "after themselves, shuffled", "after others", "gain of order"),
        rows=tuple(rows),
        caption="Loss on the second half, nats per token, without its first token. The gain of order, shuffled minus "
        "repeated, is what only something like induction can win; it is below zero where repetition misleads.",
    )


def _without(ablation: Scores) -> str:
    """What is lost without the induction heads, beside as many others, in a sentence."""
    place = (1, ablation.labels["score"].index("gain_lost"))
    lost = interval(ablation.values[place], at(ablation.low, *place), at(ablation.high, *place))
    said = f"Without {ablation.labels['ablated'][1]}, on other sequences than those they were found on, {lost} nats "
    said += "per token of the gain by repetition are lost"
    controls = [label.removeprefix("control ") for label in ablation.labels["ablated"][2:]]
    if not controls:
        return f"{said}.{doubts(ablation)}"
    place = (1, ablation.labels["score"].index("beyond_controls"))
    more = interval(ablation.values[place], at(ablation.low, *place), at(ablation.high, *place))
    where = "the same layers" if ablation.provenance["arguments"]["same_layers"] else "any layers"
    strong = number(ablation.at(ablated=1, score="controls_as_strong"), 2)
    shown = list_of(controls if len(controls) <= 6 else [*controls[:5], f"{len(controls) - 5} more"])
    return (
        f"{said}: {more} more than without as many others of {where}, the control sets {shown}; the share of sets that "
        f"lose as much, counted with the heads themselves, is {strong}.{doubts(ablation)}"
    )


def _learning(learning: Scores) -> str:
    value = interval(learning.values[0], at(learning.low, 0), at(learning.high, 0))
    return (
        f"In-context learning: {value} nats, the loss late in the context minus that early in it; below zero, the "
        f"model makes use of its context ({learning.definition}).{doubts(learning)}"
    )


RECIPE = Recipe(
    key="induction",
    title="Induction",
    reading="A model that does induction has seen [A][B] and, at the next [A], predicts [B]: some head looks at the "
    "token after the earlier occurrence, and the second copy of a random sequence becomes cheap. All three numbers "
    "must stand above their controls; one alone can have other reasons.",
    make=_make,
)
