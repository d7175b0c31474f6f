"""Where a decision is made: activations of a clean run put into a corrupted one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from conversion.errors import NanoGPTLensError
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import as_tokens, device_of, evaluating, n_tokens, run, single_token, token_labels
from nanogpt_lens.patching.paths import path_patching
from nanogpt_lens.patching.sweeps import activation_patching
from nanogpt_lens.reporting.blocks import (
    Block,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Span,
    Table,
    Tokens,
    picture_of,
    spans_of,
)
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.sections.patching_in_words import finding, head_says, over_pairs, stream_says
from nanogpt_lens.reporting.subject import OwnPair, Subject
from nanogpt_lens.reporting.words import list_of, number, percent, quoted
from nanogpt_lens.results import PatchingResult
from nanogpt_lens.running.metrics import Metric, logit_diff
from nanogpt_lens.text.pairs import NoPairFoundError, PromptPair

_PAIRS = 8
_PATHS = 64  # heads and MLPs whose paths are patched
_SITES = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """Two prompts and what is asked of them."""

    clean: Int[Tensor, " pos"]
    corrupted: Int[Tensor, " pos"]
    metric: Metric
    answer: int
    wrong: int


def _make(subject: Subject) -> Content:
    body: list[Block] = []
    commands: list[str] = []
    findings: list[str] = []
    if subject.pair is not None:
        case = own_case(subject.model, subject.pair)
        sweeps, said = _sweeps(subject, case)
        body += [Heading(text="Your own pair"), *sweeps]
        commands.append(_command(subject, case))
        findings.append(said)
    try:
        pairs = subject.prompt_pairs(_PAIRS)
    except AnalysisError as reason:
        if subject.pair is None:
            if isinstance(reason, NoPairFoundError):
                raise DoesNotApply(_without_pair(subject, reason)) from None
            raise
        reason = reason.reason if isinstance(reason, NoPairFoundError) else reason
        body.append(Paragraph(text=f"No automatic pair was found: {reason}.", tone="note"))
        return Content(body=tuple(body), commands=tuple(commands), findings=tuple(findings))
    case = _case_of(subject.model, pairs[0])
    sweeps, said = _sweeps(subject, case)
    body += [
        Heading(
            text="A pair found in the text" if subject.text is not None else "A pair found in the model's own text"
        ),
        *sweeps,
        Folded(
            summary="How the pair was found",
            body=(Paragraph(text=f"It was found automatically: {pairs[0].how}.", tone="note"),),
        ),
        *_several(subject, pairs),
    ]
    return Content(
        body=tuple(body),
        commands=(*commands, _command(subject, case), subject.report_command("patching")),
        findings=(*findings, said)[:1],
    )


def _without_pair(subject: Subject, error: NoPairFoundError) -> str:
    """What was tried, and what a reader can do."""
    other_pair = (
        "a pair of your own: --clean and --corrupted"
        if subject.has_vocabulary
        else f"a pair of your own as ids: ngl.report({subject.name!r}, clean=[...], corrupted=[...])"
    )
    return f"No pair of prompts was found: {error.reason}. Give another text, or {other_pair}."


def _case_of(model: Any, pair: PromptPair) -> _Case:
    return _Case(
        clean=pair.clean,
        corrupted=pair.corrupted,
        metric=_difference(model, [pair.answer], [pair.wrong]),
        answer=pair.answer,
        wrong=pair.wrong,
    )


def _difference(model: Any, answers: Sequence[int], wrongs: Sequence[int]) -> Metric:
    """The logit difference, by the tokens' text where that says which tokens they are."""
    ids = torch.tensor([*answers, *wrongs])
    names = token_labels(model, ids)
    try:
        same = [single_token(model, name, "answer") for name in names] == ids.tolist()
    except NanoGPTLensError:  # no vocabulary, or no text of its own
        same = False
    chosen: list[Any] = list(names) if same else ids.tolist()
    left, right = chosen[: len(answers)], chosen[len(answers) :]
    return logit_diff(left[0], right[0]) if len(answers) == 1 else logit_diff(left, right)


def own_case(model: Any, pair: OwnPair) -> _Case:
    """The user's prompts; the model's own top tokens where no answers were given.

    Raises:
        AnalysisError: prompts of different lengths, answers that are no single tokens, or no two different answers.
        VocabularyError: text that the model's tokenizer cannot encode.
    """
    clean, corrupted = (
        as_tokens(model, pair.clean, name="--clean"),
        as_tokens(model, pair.corrupted, name="--corrupted"),
    )
    if clean.shape != corrupted.shape:
        raise AnalysisError(
            f"the clean text has {clean.shape[1]} tokens, the corrupted one {corrupted.shape[1]}; expected as many, so "
            "that positions correspond"
        )
    if torch.equal(clean, corrupted):
        raise AnalysisError("the clean and the corrupted text are the same; expected two that differ in some token")
    with evaluating(model):
        tops = [int(run(model, t)[0, -1, : n_tokens(model)].argmax()) for t in (clean, corrupted)]
    answer = tops[0] if pair.answer is None else _token(model, pair.answer, "--answer")
    wrong = tops[1] if pair.wrong is None else _token(model, pair.wrong, "--wrong")
    if answer == wrong:
        named = token_labels(model, torch.tensor([answer]))[0]
        raise AnalysisError(
            f"the answer and the wrong answer are both {named!r}; expected two tokens: give --answer and --wrong"
        )
    return _Case(
        clean=clean[0].cpu(),
        corrupted=corrupted[0].cpu(),
        metric=_difference(model, [answer], [wrong]),
        answer=answer,
        wrong=wrong,
    )


def _token(model: Any, answer: str | int, name: str) -> int:
    """The id of an answer."""
    if isinstance(answer, str):
        return single_token(model, answer, name)
    if not 0 <= answer < n_tokens(model):
        raise AnalysisError(f"{name} is {answer}; expected an id from 0 to {n_tokens(model) - 1}")
    return int(answer)


def _sweeps(subject: Subject, case: _Case) -> tuple[list[Block], str]:
    """All sweeps of one pair, and the finding."""
    model = subject.model
    clean, corrupted = (t.to(device_of(model)) for t in (case.clean, case.corrupted))

    def sweep(activation: Any, *axes: str) -> PatchingResult:
        return activation_patching(
            model, clean, corrupted, case.metric, activation=activation, axes=axes, seed=subject.seed, progress=False
        )

    stream, whole = sweep("resid_pre", "layer", "pos"), sweep("z", "layer", "head")
    parts = [sweep(activation, "layer", "pos") for activation in ("attn_out", "mlp_out")]
    heads = whole if subject.is_large else sweep("z", "layer", "head", "pos")  # else thousands of runs, if it is large
    gap = stream.clean - (stream.corrupted or 0.0)
    body: list[Block] = [
        *_prompts(subject, case, stream),
        _plain(
            picture_of(
                stream,
                "recovery by patching the residual stream at each layer and position",
                says=stream_says(case.clean, case.corrupted, stream),
                title="Residual stream before each layer",
            )
        ),
        _plain(
            picture_of(
                whole,
                "recovery by patching each head at all positions",
                says=head_says(whole),
                title="Each head, at all positions",
            )
        ),
        Folded(
            summary="Attention and MLP outputs, direct paths, and the strongest sites",
            body=(
                _plain(picture_of(parts[0], "recovery by patching each attention output", title="Attention outputs")),
                _plain(picture_of(parts[1], "recovery by patching each MLP output", title="MLP outputs")),
                _sites(heads, parts),
                *_paths(subject, clean, corrupted, case.metric),
            ),
        ),
    ]
    if abs(gap) < 0.1 * float(stream.effect.abs().max()):
        body.insert(
            2,
            Paragraph(
                text=f"The two runs differ by {number(gap)} logits alone, so that recovery, which "
                "divides by that, says little here.",
                tone="note",
            ),
        )
    return body, finding(case.clean, case.corrupted, stream, whole)


def _plain(picture: Picture) -> Picture:
    """The picture, with lists of tokens in its caption in words."""
    return replace(picture, caption=_LISTS.sub("The logit of each answer minus that of its wrong one", picture.caption))


_LISTS = re.compile(r"[Ll]ogit\(\[.*?\]\) - logit\(\[.*?\]\)")
"""How a metric of several prompts names its tokens."""


def _prompts(subject: Subject, case: _Case, stream: PatchingResult) -> list[Block]:
    """Both prompts, a line each, the tokens that differ shaded."""
    answer, wrong = subject.strings(torch.tensor([case.answer, case.wrong]))
    differs = [float(d) for d in (case.clean != case.corrupted).tolist()]
    spans: list[Span] = []
    for name, tokens in (("clean     ", case.clean), ("\ncorrupted ", case.corrupted)):
        titles = [f"position {i}" for i in range(len(tokens))]
        spans += [
            Span(text=name),
            *spans_of(
                subject.strings(tokens), differs, largest=2.0, titles=titles, separator=subject.separator, breaks=False
            ),
        ]
    places = [str(i) for i, d in enumerate(differs) if d]
    return [
        Tokens(
            spans=tuple(spans),
            caption=f"They differ at {len(places)} of {len(differs)} positions: {list_of(places)}. After the clean "
            f"prompt {quoted(answer)} is {number(stream.clean, 2)} logits above {quoted(wrong)}, after the corrupted "
            f"one {number(stream.corrupted, 2)}.",
        )
    ]


def _sites(heads: PatchingResult, parts: list[PatchingResult]) -> Table:
    """The strongest sites of each kind."""
    rows = []
    for result, kind in ((heads, "head"), (parts[0], "attention output"), (parts[1], "MLP output")):
        for row in result.top(_SITES).to_dict("records"):
            site = f"{row['layer']:.0f}.{row['head']:.0f}" if "head" in row else f"layer {row['layer']:.0f}"
            label = row.get("pos_label")
            at = f"{row['pos']:.0f}" + ("" if label is None else f" {quoted(str(label))}") if "pos" in row else "all"
            rows.append((kind, site, at, number(row["value"], 2), percent(row["recovery"])))
    return Table(
        header=("what", "where", "position", "logit difference", "recovery"),
        rows=tuple(rows),
        caption=f"The {_SITES} strongest sites of each kind, by the change of the logit difference; “a|b” is a "
        "position where the prompts differ.",
        left=(0, 1, 2),
        folded="The strongest sites as numbers",
    )


def _paths(subject: Subject, clean: Int[Tensor, " pos"], corrupted: Int[Tensor, " pos"], metric: Metric) -> list[Block]:
    """Direct paths from every head and MLP to the logits, where there are few."""
    cfg = subject.model.cfg
    nodes = [f"{layer}.{head}" for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
    senders = ["embed", *nodes, *(f"mlp{layer}" for layer in range(cfg.n_layers))]
    if len(senders) > _PATHS:
        return [
            Paragraph(
                text=f"Paths are not patched here, because the model has {len(senders)} senders; see "
                "ngl.path_patching.",
                tone="note",
            )
        ]
    paths = path_patching(
        subject.model,
        clean,
        corrupted,
        metric,
        senders=senders,
        receivers=["logits"],
        seed=subject.seed,
        progress=False,
    )
    drawn = picture_of(
        paths,
        "recovery along direct paths to the logits",
        kind="bars",
        k=12,
        receiver="logits",
        title="Direct paths to the logits",
    )
    return [_plain(drawn)]


def _several(subject: Subject, pairs: tuple[PromptPair, ...]) -> list[Block]:
    """Recovery by head over several pairs, with intervals."""
    if len(pairs) < 2:
        return []
    device = device_of(subject.model)
    clean, corrupted = (torch.stack([getattr(p, n) for p in pairs]).to(device) for n in ("clean", "corrupted"))
    metric = _difference(subject.model, [p.answer for p in pairs], [p.wrong for p in pairs])
    by_head = activation_patching(
        subject.model,
        clean,
        corrupted,
        metric,
        activation="z",
        axes=("layer", "head"),
        seed=subject.seed,
        progress=False,
    )
    rows = [
        (
            quoted(subject.separator.join(p.clean_strings), longest=80),
            str(p.positions[0]),
            quoted(p.corrupted_strings[p.positions[0]]),
            quoted(p.answer_string),
            quoted(p.wrong_string),
            number(p.clean_logit_diff, 2),
            number(p.corrupted_logit_diff, 2),
        )
        for p in pairs
    ]
    return [
        Heading(text="Does it hold for other prompts?"),
        _plain(
            picture_of(
                by_head,
                "recovery by head over several pairs, with intervals",
                says=over_pairs(by_head, len(pairs)),
                kind="bars",
                k=12,
                title=f"Each head, over {len(pairs)} pairs",
            )
        ),
        Table(
            header=("clean prompt", "position", "becomes", "answer", "wrong", "logits, clean", "logits, corrupted"),
            rows=tuple(rows),
            caption="The pairs, each from another window of the text; logits are those of the answer minus the wrong "
            "one.",
            left=(0, 2, 3, 4),
            folded=f"The {len(pairs)} pairs",
        ),
    ]


def _command(subject: Subject, case: _Case) -> str:
    if not subject.has_vocabulary:
        return subject.python(
            f"ngl.activation_patching(model, {case.clean.tolist()}, {case.corrupted.tolist()}, "
            f"ngl.metrics.logit_diff({case.answer}, {case.wrong}), activation='resid_pre', axes=('layer', 'pos'))"
        )
    texts = ["".join(subject.strings(tokens)) for tokens in (case.clean, case.corrupted)]
    answer, wrong = subject.strings(torch.tensor([case.answer, case.wrong]))
    return subject.again(
        "activation_patching", "--clean", texts[0], "--corrupted", texts[1], "--answer", answer, "--wrong", wrong
    )


RECIPE = Recipe(
    key="patching",
    title="Where a decision is made",
    reading="Two prompts that differ in few tokens get different answers; each cell shows how much of the clean answer "
    "comes back when that one activation of the clean run is put into the corrupted run. 1 restores it wholly, 0 not "
    "at all, and below 0 it becomes worse: dark cells are where the difference between the prompts is carried.",
    make=_make,
)
