"""What each layer believes, how fast beliefs settle, and what one prediction is made of."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.lens.attribution import direct_logit_attribution
from nanogpt_lens.lens.convergence import measure_convergence
from nanogpt_lens.lens.logit import logit_lens
from nanogpt_lens.model.access import n_tokens
from nanogpt_lens.reporting.blocks import Block, Heading, Paragraph, Table, picture_of, picture_of_widget
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.section import Content, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import NEGLIGIBLE, at, interval, number, percent, quoted
from nanogpt_lens.results import LensResult
from nanogpt_lens.results.attribution import LogitAttribution
from nanogpt_lens.results.lens import ConvergenceResult
from nanogpt_lens.viz.tokens import visible

_SHORT, _LONG, _N = 14, 64, 64
_DEFAULT = 1_000_000  # tokens at most of a sequence of `nanogpt-lens lens`: the context
_PARTS = 8  # rows of the table of contributions
_EARLIEST = 4  # tokens before the prediction that is taken apart


def _make(subject: Subject) -> Content:
    model = subject.model
    tokens = subject.passage(_SHORT, number=2)
    lens = logit_lens(model, tokens, k=min(5, model.cfg.d_vocab))
    last = model.cfg.n_layers - 1
    longer = logit_lens(model, subject.passage(_LONG, number=2), points=("resid_post",), layers=[last], k=1)
    convergence = measure_convergence(
        model, subject.corpus, n=subject.sequences(_N), seq_len=subject.seq_len, seed=subject.seed, progress=False
    )
    prompt, answer, wrong = _prediction(model, tokens, lens)
    attribution = direct_logit_attribution(model, prompt, answer, wrong)
    body: list[Block] = [
        picture_of(lens, "the most likely next token at every point of the model", title="Most likely next token"),
        _lens_table(subject, lens),
        *_note_if_tied(subject),
        Heading(text="On average"),
        picture_of(convergence, "how beliefs approach the output", title="Approach to the output"),
        _convergence_table(convergence),
        Heading(text="What one prediction is made of"),
        Paragraph(text=_question(subject, prompt, answer, wrong, lens)),
        picture_of(
            attribution, "what each component adds to the logit difference", title="Parts of the logit difference"
        ),
        _attribution_table(attribution),
        Heading(text="Token by token"),
        Paragraph(text="Here dark is likely; under “Where it is surprised” dark is a high loss.", tone="note"),
        picture_of_widget(longer.widget(kind="token_log_probs"), "a text coloured by the probability of each token"),
    ]
    return Content(
        body=tuple(body), commands=_commands(subject, prompt, answer, wrong), findings=(_finding(convergence),)
    )


def _note_if_tied(subject: Subject) -> list[Block]:
    if subject.checkpoint is None or not subject.checkpoint.config.tied:
        return []
    return [
        Paragraph(
            text="The head is tied to the embedding, so that the first points mostly name the present token.",
            tone="note",
        )
    ]


def _finding(convergence: ConvergenceResult) -> str:
    depth = interval(convergence.mean_depth, convergence.depth_low, convergence.depth_high, 2)
    return (
        f"The token that the model ends on is on top of the logit lens from a mean depth of "
        f"{depth} of {convergence.n_layers} layers on."
    )


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
        f"{percent(probability, 1)}. The bars say what each component adds to the logit of {quoted(names[0])} minus "
        f"that of {quoted(names[1])}; together they are the whole difference."
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
        folded="The most likely tokens as a table",
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
        + doubts(convergence),
        folded="These curves as numbers",
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
    )


def _commands(subject: Subject, prompt: Int[Tensor, " pos"], answer: int, wrong: int) -> tuple[str, ...]:
    again = subject.report_command("lens")
    if not subject.has_vocabulary:
        return (again,)
    names = subject.strings(torch.tensor([answer, wrong]))
    text = "".join(subject.strings(prompt))
    options = ("--prompt", text, "--answer", names[0], "--wrong", names[1], *subject.seed_option())
    return (subject.again("logit_lens", *options, text=True, remark=subject.length_remark(_DEFAULT)), again)


RECIPE = Recipe(
    key="lens",
    title="What each layer believes",
    reading="The logit lens reads the model before it is finished, as if each point were the last: a cell is the token "
    "that it would predict there, from the embedding to the output. Look for the depth at which the final answer "
    "appears and stays.",
    make=_make,
)
