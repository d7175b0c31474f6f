"""Which circuit does it: few edges between heads and MLPs that do what all do, on the prompts of other sections."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.circuits.discovery import find_circuit
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import few_examples, t_interval
from nanogpt_lens.model.access import Hooked, device_of, n_tokens
from nanogpt_lens.reporting.blocks import Block, Folded, Heading, Paragraph, Table, picture_of
from nanogpt_lens.reporting.doubts import doubt, doubts
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import count, interval, number, percent, share
from nanogpt_lens.results import Circuit
from nanogpt_lens.running.metrics import Metric, logit_diff
from nanogpt_lens.text.pairs import NoPairFoundError
from nanogpt_lens.text.prompts import LEAST_VOCABULARY, induction_pairs

MOST_EDGES = 700
"""A model with more is skipped: its circuit takes too long for a report."""

BOTH = 250
"""A model with more edges is asked on one kind of prompts alone."""

_PROMPTS = 8
_LONGEST = 32
_MANY = 64  # prompts by which the model has to do induction at all


@dataclass(frozen=True, kw_only=True, eq=False)
class _Question:
    """Prompts that a circuit is found on, and others that it is run on.

    Attributes:
        title: of its part of the section.
        clean, corrupted, metric: as for `find_circuit`.
        others: what it is run on besides; None where there are none.
        others_are: which these are, in words.
        command: the line that makes it again.
    """

    title: str
    clean: Int[Tensor, "example pos"]
    corrupted: Int[Tensor, "example pos"]
    metric: Metric
    others: tuple[Int[Tensor, "other pos"], Int[Tensor, "other pos"], Metric] | None
    others_are: str
    command: str


def _make(subject: Subject) -> Content:
    n_edges = len(CircuitGraph(subject.model).edges)
    if n_edges > MOST_EDGES:
        raise DoesNotApply(
            f"This model has {count(n_edges)} edges, and a report looks for circuits among at most {MOST_EDGES}: see "
            f"nanogpt-lens circuit find {subject.name}."
        )
    body: list[Block] = []
    commands: list[str] = []
    findings: list[str] = []
    skipped: list[str] = []
    for ask in (_in_text, _induction):
        if findings and n_edges > BOTH:
            skipped.append(f"Other prompts are left out, because the model has more than {BOTH} edges")
            break
        try:
            question = ask(subject)
            blocks, finding = _answered(subject, question)
        except AnalysisError as reason:
            why = reason.reason if isinstance(reason, NoPairFoundError) else reason
            skipped.append(f"{'Pairs of the text' if ask is _in_text else 'Induction'}: {why}")
            continue
        body += blocks
        commands.append(question.command)
        findings.append(finding)
    if not findings:
        raise DoesNotApply(f"There is nothing to find a circuit for. {'. '.join(skipped)}.")
    budget = (
        f"Made to be cheap: edges by their exact effects on at most {_PROMPTS} prompts of at most {_LONGEST} tokens, "
        f"without exchanges, for models of at most {MOST_EDGES} edges; nanogpt-lens circuit find searches longer"
    )
    note = Paragraph(text=". ".join([budget, *skipped]) + ".", tone="note")
    body.append(Folded(summary="How thorough this search is", body=(note,)))
    return Content(body=tuple(body), commands=tuple(commands), findings=tuple(findings[:1]))


def _in_text(subject: Subject) -> _Question:
    """The pairs of the section on patching, and as many others.

    Raises:
        AnalysisError: none was found.
    """
    model, length = subject.model, subject.prompt_length
    pairs = subject.prompt_pairs(2 * _PROMPTS)

    def stacked(some: int, stop: int) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"], Metric]:
        chosen = pairs[some:stop]
        clean, corrupted = (torch.stack([getattr(p, n) for p in chosen]) for n in ("clean", "corrupted"))
        metric = logit_diff([p.answer for p in chosen], [p.wrong for p in chosen])
        return clean.to(device_of(model)), corrupted.to(device_of(model)), metric

    clean, corrupted, metric = stacked(0, _PROMPTS)
    options = ["--n", str(_PROMPTS), *([] if length is None else ["--seq-len", str(length)])]
    again = subject.command(
        "circuit find", *options, "--method", "exact", "--orders", "0", *subject.seed_option(), text=True
    )
    return _Question(
        title="Pairs found in the text" if subject.text is not None else "Pairs found in the model's own text",
        clean=clean,
        corrupted=corrupted,
        metric=metric,
        others=stacked(_PROMPTS, 2 * _PROMPTS) if len(pairs) > _PROMPTS else None,
        others_are="other pairs of the text",
        command=again if subject.text is not None else subject.report_command("circuits"),
    )


def _induction(subject: Subject) -> _Question:
    """Prompts [A][B]...[A], and others of another seed.

    Raises:
        AnalysisError: they do not fit the model, or it does not answer them.
    """
    model = subject.model
    if model.cfg.n_ctx < 4 or n_tokens(model) < LEAST_VOCABULARY:
        raise AnalysisError("[A][B]...[A] prompts do not fit this model")
    asked, others, many = (
        induction_pairs(model, n=n, seed=subject.seed + i) for i, n in enumerate((_PROMPTS, _PROMPTS, _MANY))
    )
    _check_gap(model, (many.clean, many.corrupted, logit_diff(many.answer, many.wrong)))
    return _Question(
        title="Induction: [A][B] ... [A]",
        clean=asked.clean,
        corrupted=asked.corrupted,
        metric=logit_diff(asked.answer, asked.wrong),
        others=(others.clean, others.corrupted, logit_diff(others.answer, others.wrong)),
        others_are=f"prompts of another seed, {subject.seed + 1}",
        command=subject.command(
            "circuit find",
            *("--task", "induction", "--n", str(_PROMPTS), "--method", "exact", "--orders", "0"),
            *subject.seed_option(),
        ),
    )


def _answered(subject: Subject, question: _Question) -> tuple[list[Block], str]:
    """What a question's circuit is, as blocks, and the finding.

    Raises:
        AnalysisError: the model does not tell the prompts apart.
    """
    model, seed = subject.model, subject.seed
    prompts = (question.clean, question.corrupted, question.metric)
    circuit = find_circuit(
        model, *prompts, method="exact", orders=0, exchanges=0, source="other", seed=seed, progress=False
    )
    elsewhere, there = _elsewhere(subject, question, circuit)
    drawn = picture_of(circuit, f"the circuit: {circuit.n_edges} of {len(circuit.kept)} edges", says=_says(circuit))
    blocks: list[Block] = [
        Heading(text=question.title),
        replace(drawn, caption=_LISTS.sub(_LISTED, drawn.caption), instead=_NARROW),
        Paragraph(text=elsewhere, tone="note"),
        _edges(circuit),
    ]
    held = "" if there is None else f", and {share(there)} on prompts that had no part in finding them"
    few = f"{circuit.n_edges} of its {len(circuit.kept)} edges"
    return blocks, f"{few} do {share(circuit.faithfulness)} of the work on these prompts{held}."


def _says(circuit: Circuit) -> str:
    """Whether the circuit can do without one of its edges."""
    few, share_of = f"These {circuit.n_edges} edges", share(circuit.faithfulness)
    if not circuit.holds:
        return (
            f"{few} do {share_of} of what all {len(circuit.kept)} do, which is not near enough to call them a circuit."
        )
    if circuit.is_minimal:
        return f"{few} do what all {len(circuit.kept)} do ({share_of}), and none of them can go."
    some = f"{len(circuit.removable)} of them could go, one at a time"
    return f"{few} do what all {len(circuit.kept)} do ({share_of}); {some}."


_LISTED = "the logit of each answer minus that of its wrong one"
_NARROW = "The drawing needs a wider screen; the list of edges below has what it shows."
_LISTS = re.compile(r"[Ll]ogit\(\[.*?\]\) - logit\(\[.*?\]\)")
"""How a metric of several prompts names its tokens."""


def _check_gap(model: Hooked, prompts: tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"], Metric]) -> None:
    """Raise AnalysisError unless the answer is surely preferred after clean prompts more than after corrupted ones."""
    runs = run_circuit(model, [[]], *prompts, progress=False)
    gap = (runs.full - runs.empty).double()
    ends = t_interval(gap)
    if ends is None or not float(ends[0]) > 0:
        few = "".join(f"; {words}" for words in [few_examples(len(gap), "t")] if words)
        raise AnalysisError(
            f"on {len(gap)} prompts the answer is not surely preferred after the clean ones more than after the "
            f"corrupted ones (by {interval(gap.mean(), *(ends or (None, None)), 2)} logits{few}), so that there is no "
            "gap for a circuit to close"
        )


def _elsewhere(subject: Subject, question: _Question, circuit: Circuit) -> tuple[str, float | None]:
    """How faithful the circuit is on other prompts, beside those that it was found on; and that number."""
    own = interval(circuit.faithfulness, *(circuit.faithfulness_interval or (None, None)), 2)
    if question.others is None:
        said = f"Faithfulness is {own} on these prompts; there are no others to run it on.{doubts(circuit)}"
        return said, None
    clean, corrupted, metric = question.others
    runs = run_circuit(subject.model, [[*circuit.edges]], clean, corrupted, metric, seed=subject.seed, progress=False)
    ends = runs.faithfulness_interval
    there = interval(runs.faithfulness[0], *((None, None) if ends is None else (ends[0][0], ends[1][0])), 2)
    n, m = len(question.clean), len(clean)
    said = (
        f"Faithfulness is {own} on the {n} prompts that chose the edges, and {there} on {m} that did not, "
        f"{question.others_are}; 1 is the whole model, 0 none of it.{doubt(few_examples(min(n, m), 't'))}"
    )
    return said, float(runs.faithfulness[0])


def _edges(circuit: Circuit) -> Table:
    """The circuit's edges by rank."""
    rows = [
        (str(int(row["rank"]) + 1), str(row["edge_label"]), number(row["value"]), percent(row["without"]))
        for row in circuit.to_dataframe().head(circuit.n_edges).to_dict("records")
    ]
    return Table(
        header=("rank", "edge", "exact effect", "faithfulness without it"),
        rows=tuple(rows),
        caption="The circuit's edges by rank: the change of the logit difference when that edge alone carries what "
        f"the corrupted prompt makes of it, and what is left of the circuit without it.{doubts(faithfulness=circuit)}",
        left=(1,),
        folded=f"The {len(rows)} edges of the circuit",
    )


RECIPE = Recipe(
    key="circuits",
    title="Which circuit does it",
    reading="An edge is what a head or MLP reads from an earlier one; a circuit is a few of them that do what all do, "
    "while every other edge carries what the corrupted prompt makes of it. Believe it as far as it holds on prompts "
    "that it was not found on.",
    make=_make,
)
