"""What each layer believes, how fast beliefs settle, and what one prediction is made of."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.lens.attribution import direct_logit_attribution
from nanogpt_lens.lens.convergence import measure_convergence
from nanogpt_lens.lens.logit import logit_lens
from nanogpt_lens.model.access import n_tokens
from nanogpt_lens.reporting.blocks import Block, Folded, Heading, Paragraph, Picture, Table, picture_of
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.section import Content, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import NEGLIGIBLE, at, interval, number, quoted, share
from nanogpt_lens.results import LensResult
from nanogpt_lens.results.attribution import LogitAttribution
from nanogpt_lens.results.lens import ConvergenceResult
from nanogpt_lens.viz.tokens import visible

_SHORT, _N = 14, 64
_LONGEST_OF_LARGE = 64  # tokens of a sequence: each is read at every point, by a large vocabulary
_DEFAULT = 1_000_000  # tokens at most of a sequence of `nanogpt-lens lens`: the context
_WHOLE = "reads whole contexts, inside layers too: numbers differ a little"
_PARTS = 8  # rows of the table of contributions
_EARLIEST = 4  # tokens before the prediction that is taken apart


def _make(subject: Subject) -> Content:
    model = subject.model
    tokens = subject.passage(_SHORT, number=2)
    lens = logit_lens(model, tokens, k=min(5, model.cfg.d_vocab))
    options: dict[str, Any] = {"n": subject.sequences(_N), "seed": subject.seed, **_read_at(subject)}
    convergence = measure_convergence(model, subject.corpus, **options, progress=False)
    prompt, answer, wrong = _prediction(model, tokens, lens)
    attribution = direct_logit_attribution(model, prompt, answer, wrong)
    body: list[Block] = [
        picture_of(
            lens,
            "the most likely next token at every point of the model",
            says=_lens_says(lens),
            title="Most likely next token",
        ),
        *_note_if_tied(subject),
        Folded(summary="The most likely tokens as a table", body=(_lens_table(subject, lens),)),
        picture_of(convergence, "how often the final guess leads", says=_leads(convergence), score="agreement"),
        Folded(
            summary="Other measures of the approach to the output",
            body=(
                picture_of(convergence, "how beliefs approach the output", title="Approach to the output"),
                _convergence_table(convergence),
            ),
        ),
        Heading(text="What one prediction is made of"),
        Paragraph(text=_question(subject, prompt, answer, wrong, lens)),
        _contributions(subject, attribution, answer, wrong),
        _attribution_table(attribution),
    ]
    return Content(
        body=tuple(body), commands=_commands(subject, prompt, answer, wrong), findings=(_finding(convergence),)
    )


def _read_at(subject: Subject) -> dict[str, Any]:
    """The length of a sequence, and the points at which a large model is read: between layers alone."""
    if not subject.is_large:
        return {"seq_len": subject.seq_len}
    return {"seq_len": min(subject.seq_len, _LONGEST_OF_LARGE), "points": ("resid_pre", "resid_post")}


def _lens_says(lens: LensResult) -> str:
    """How many of the passage's tokens are right at the output, and how many were already at the beginning."""
    ranks = lens.rank[..., :-1]
    first, right, n = int((ranks[0, 0] == 0).sum()), int((ranks[-1, -1] == 0).sum()), ranks.shape[-1]
    return f"On this passage {right} of {n} guesses are right at the output (top row), {first} before the first layer."


def _leads(convergence: ConvergenceResult) -> str:
    """How often the final guess leads where the last layer begins."""
    shares, depths = convergence.score("agreement"), convergence.depths()
    begins = [(i, j) for i, j, _ in convergence.in_depth_order() if depths[i][j] == 2 * (convergence.n_layers - 1)]
    if not begins:
        return "How often the final guess leads, by depth."
    return f"Before the last layer the final guess leads at {share(shares[begins[0]])} of all places."


def _contributions(subject: Subject, attribution: LogitAttribution, answer: int, wrong: int) -> Picture:
    """The bars of what each component adds."""
    best = attribution.top(1).to_dict("records")[0]
    names = subject.strings(torch.tensor([answer, wrong]))
    total, most = float(attribution.total.flatten()[-1]), float(best["value"])
    part, answer_name = _part(str(best["component_label"])), quoted(names[0])
    if total > 0 and most > 0:
        says = f"{part} adds most: {number(most, 1)} of the {number(total, 1)} logits by which {answer_name} leads."
    elif total > 0:
        says = f"{answer_name} leads by {number(total, 1)} logits; {part} alone works against it by {number(-most, 1)}."
    else:
        says = f"{answer_name} trails by {number(-total, 1)} logits; {part} weighs most: {number(most, 1)}."
    drawn = picture_of(attribution, "what each component adds to the logit difference", says=says)
    caption = drawn.caption
    for token, name in zip((answer, wrong), names, strict=True):
        caption = caption.replace(f"{quoted(name, longest=14)} (token id {token})", quoted(name))
        caption = caption.replace(f"token id {token}", quoted(name))
    return replace(drawn, caption=caption)


def _part(label: str) -> str:
    """A component at the beginning of a sentence: MLP 0, Head 1.3, The embedding."""
    if label.startswith("mlp"):
        return f"MLP {label[3:]}"
    return f"Head {label}" if label[:1].isdigit() else f"“{label}”"


def _note_if_tied(subject: Subject) -> list[Block]:
    if subject.checkpoint is None or not subject.checkpoint.config.tied:
        return []
    return [
        Paragraph(
            text="The first rows mostly name the present token: the unembedding is the embedding, turned around.",
            tone="note",
        )
    ]


def _finding(convergence: ConvergenceResult) -> str:
    depth = number(convergence.mean_depth, 1)
    if convergence.n_layers == 1:
        return "It has one layer, in which its guess is made."
    return f"On average its final guess leads from layer {depth} of {convergence.n_layers} on."


def _prediction(
    model: object, tokens: Int[Tensor, " pos"], lens: LensResult
) -> tuple[Int[Tensor, " prompt_pos"], int, int]:
    """The surest right prediction of a passage behind its first tokens: the prompt, the answer, the runner-up."""
    final = lens.values[-1, -1, :-1].double()  # log-probability of the true next token, at the output
    right = lens.rank[-1, -1, :-1] == 0
    places = torch.arange(len(final))
    usable = right & (places >= min(_EARLIEST, len(final) - 1))
    score = torch.where(usable, final, final - 1e6 * (places < min(_EARLIEST, len(final) - 1)) - 1e3)
    place = int(score.argmax())
    answer = int(tokens[place + 1])
    size = n_tokens(model)
    top = [int(t) for t in lens.top_tokens[-1, -1, place].tolist() if int(t) != answer and int(t) < size]
    return tokens[: place + 1], answer, top[0] if top else (answer + 1) % size


def _question(subject: Subject, prompt: Int[Tensor, " pos"], answer: int, wrong: int, lens: LensResult) -> str:
    place = len(prompt) - 1
    probability = math.exp(float(lens.values[-1, -1, place]))
    text = quoted_text(subject, prompt)
    names = subject.strings(torch.tensor([answer, wrong]))
    return (
        f"After {text} the model gives {quoted(names[0])}, which really follows, a probability of "
        f"{share(probability)}. Each bar is what one part adds to the lead of {quoted(names[0])} over "
        f"{quoted(names[1])}; together they are the whole lead."
    )


def quoted_text(subject: Subject, tokens: Int[Tensor, " pos"]) -> str:
    """Several tokens between quotes, every character visible."""
    return quoted(subject.separator.join(subject.strings(tokens)), longest=400)


def _lens_table(subject: Subject, lens: LensResult) -> Table:
    """The most likely tokens, the last point first, as in the figure."""
    tokens = subject.strings(lens.tokens)
    rows = [
        (name, *(visible(lens.string(token)) for token in lens.top_tokens[i, j, :, 0].tolist()))
        for i, j, name in reversed(lens.in_depth_order())
    ]
    return Table(
        header=("point", *(f"{i} {visible(token)}" for i, token in enumerate(tokens))),
        rows=tuple(rows),
        caption="The most likely next token at each point (rows, the output on top) after each position (columns).",
        left=tuple(range(len(tokens) + 1)),
    )


def _convergence_table(convergence: ConvergenceResult) -> Table:
    names = [n for n in convergence.labels["score"] if not bool(convergence.score(n).isnan().all())]
    rows = []
    for i, j, point in convergence.in_depth_order():
        cells = []
        for name in names:
            k = convergence.labels["score"].index(name)
            cells.append(
                interval(convergence.values[k, i, j], at(convergence.low, k, i, j), at(convergence.high, k, i, j), 2)
            )
        rows.append((point, *cells))
    if convergence.chance is not None:
        chances = (number(convergence.chance[convergence.labels["score"].index(n), 0, 0], 2) for n in names)
        rows.append(("constant prediction", *chances))
    return Table(
        header=("point", *(name.replace("_", " ") for name in names)),
        rows=tuple(rows),
        caption="KL(final ‖ lens), entropy and loss in nats; agreement and converged are shares of positions; 95% "
        "intervals over the sequences. The constant prediction is the model's mean distribution, whatever the text."
        + ("" if "resid_mid" in convergence.labels["point"] else " Read between layers alone.")
        + doubts(convergence),
    )


def _attribution_table(attribution: LogitAttribution) -> Table:
    size = int(attribution.values.numel())
    records = attribution.top(size).to_dict("records")
    large = [row for row in records if abs(float(row["value"])) >= NEGLIGIBLE]
    kept = large[:_PARTS]
    rows = [(str(row["component_label"]), number(row["value"])) for row in kept]
    rows.append(("all components together", number(attribution.total.flatten()[-1])))
    small = len(records) - len(large)
    left = [f"{len(large) - len(kept)} smaller ones" if len(large) > len(kept) else ""]
    left += [f"{small} below {NEGLIGIBLE} logits" if small else ""]
    out = " and ".join(words for words in left if words)
    return Table(
        header=("component", "logits"),
        rows=tuple(rows),
        caption="The largest contributions"
        + (f"; left out are {out}" if out else "")
        + ". Heads are layer.head; embed is the token's own embedding.",
        folded="The largest parts as numbers",
    )


def _commands(subject: Subject, prompt: Int[Tensor, " pos"], answer: int, wrong: int) -> tuple[str, ...]:
    again = subject.report_command("lens")
    if not subject.has_vocabulary:
        return (again,)
    names = subject.strings(torch.tensor([answer, wrong]))
    text = "".join(subject.strings(prompt))
    options = ("--prompt", text, "--answer", names[0], "--wrong", names[1], *subject.seed_option())
    remark = _WHOLE if subject.is_large else subject.length_remark(_DEFAULT)
    return (subject.again("logit_lens", *options, text=True, remark=remark), again)


RECIPE = Recipe(
    key="lens",
    title="What each layer believes",
    reading="The logit lens reads the model before it is finished, as if each point were the last: a cell is the token "
    "that it would predict there, from the embedding to the output. Look for the depth at which the final answer "
    "appears and stays.",
    make=_make,
)
