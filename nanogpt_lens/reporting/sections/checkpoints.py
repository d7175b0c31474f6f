"""Several checkpoints side by side: their losses, their certificates, their most telling heads."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from conversion.checkpoint import CHECKPOINT_NAME
from conversion.errors import NanoGPTLensError
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.losses.on_text import text_loss
from nanogpt_lens.model.access import n_tokens
from nanogpt_lens.model.loading import check, convert
from nanogpt_lens.reporting.best_heads import HeadSummary, best_heads_table, heads_of
from nanogpt_lens.reporting.blocks import Block, Paragraph, Table, picture_of
from nanogpt_lens.reporting.doubts import doubt
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe, in_a_sentence
from nanogpt_lens.reporting.sections.last_change import last_change
from nanogpt_lens.reporting.subject import Subject, text_of
from nanogpt_lens.reporting.words import NEGLIGIBLE, count, interval, line_of, measured, number, plural
from nanogpt_lens.results import Scores
from nanogpt_lens.text.from_model import own_text

_MOST = 40
_UNEVEN = 4  # times the smallest gap between iterations: they are spaced as logarithms
_DRAWN = 64  # sequences of a model's own text
_LENGTH, _WINDOWS = 128, 256


def checkpoints_of(path: str | Path) -> tuple[Path, ...]:
    """The checkpoints of a folder: its own `ckpt*.pt`, and those of the folders in it; none for a file."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return ()
    return tuple(sorted({*place.glob("ckpt*.pt"), *place.glob("*/ckpt*.pt")}))


def has_own(path: str | Path) -> bool:
    """Whether a folder has a `ckpt.pt`, which a report can look into."""
    return (Path(path).expanduser() / CHECKPOINT_NAME).is_file()


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """What is known of one checkpoint; `shape` is its architecture, `same_as` an earlier one of the same weights."""

    name: str
    iteration: int | None = None
    parameters: int = 0
    stated: float | None = None
    loss: float = math.nan
    low: float | None = None
    high: float | None = None
    few: str = ""
    proven: bool | None = None
    heads: HeadSummary | None = None
    error: str = ""
    shape: Any = None
    digest: str = ""
    same_as: str = ""

    @property
    def readable(self) -> bool:
        """Whether it could be read and converted."""
        return self.proven is not None

    @property
    def distinct(self) -> bool:
        """Whether it was measured and its weights are not those of another one before it."""
        return not self.error and not self.same_as


def _make(subject: Subject) -> Content:
    files = _in_order(subject)
    if len(files) < 2:
        raise DoesNotApply("There is only one checkpoint here, and nothing to compare it with.")
    chosen = files if len(files) <= _MOST else [files[round(i * (len(files) - 1) / (_MOST - 1))] for i in range(_MOST)]
    drawn_text = _own_text(subject, chosen) if subject.raw_text is None else None
    summaries = _with_doubles([_summary_of(subject, file, drawn_text) for file in chosen])
    body: list[Block] = [_table(subject, summaries, drawn_text is not None)]
    if len(chosen) < len(files):
        body.append(Paragraph(text=f"{len(chosen)} of {len(files)} checkpoints, evenly spaced.", tone="note"))
    if _one_run(summaries):
        body += _figures(summaries)
    scored = [(m.name, m.heads) for m in summaries if m.heads is not None and m.distinct]
    if scored:
        body.append(best_heads_table(scored))
    stages = [(m.name, file) for m, file in zip(summaries, chosen, strict=True) if m.distinct]
    body += last_change(subject, stages, drawn_text)
    return Content(
        body=tuple(body),
        commands=(subject.report_command("checkpoints"),),
        findings=_findings(summaries),
        proven=all(m.proven for m in summaries),
        verdict=_verdict(summaries, len(files)),
        warnings=tuple(
            f"{m.name} cannot be read: {m.error.removeprefix(f'{Path(m.name).name}: ')}"
            for m in summaries
            if not m.readable
        ),
    )


def _verdict(summaries: list[_Summary], n_files: int) -> str:
    """How many of those that were looked at are proven equal, and which are not."""
    proven = sum(m.proven is True for m in summaries)
    if proven == len(summaries):
        looked_at = "" if proven == n_files else f" that were looked at, of {n_files}"
        return f"PROVEN EQUAL: all {proven} checkpoints{looked_at}"
    parts = [f"{proven} of {len(summaries)} checkpoints proven"]
    unread, unequal = [m.name for m in summaries if not m.readable], [m.name for m in summaries if m.proven is False]
    for names, what in ((unequal, "not equal"), (unread, "cannot be read")):
        if names:
            named = ", ".join(map(line_of, names[:3])) + (", ..." if len(names) > 3 else "")
            parts.append(f"{len(names)} {what} ({named})")
    return f"NOT PROVEN: {', '.join(parts)}"


def _with_doubles(summaries: list[_Summary]) -> list[_Summary]:
    """The summaries, with a mark on those whose weights an earlier one has."""
    first: dict[str, str] = {}
    return [
        replace(m, same_as=earlier) if m.digest and (earlier := first.setdefault(m.digest, m.name)) != m.name else m
        for m in summaries
    ]


def _one_run(summaries: list[_Summary]) -> bool:
    """Whether they can be stages of one run: one architecture, and an iteration of its own each."""
    usable = [m for m in summaries if m.distinct]
    steps = [m.iteration for m in usable]
    return (
        len(usable) > 1
        and None not in steps
        and len(set(steps)) == len(usable)
        and all(m.shape == usable[0].shape for m in usable)
    )


def _in_order(subject: Subject) -> list[Path]:
    """The checkpoints by iteration; those that cannot be read come last."""

    def key(file: Path) -> tuple[float, str]:
        try:
            iteration = subject.reading.checkpoint(file).iter_num
        except NanoGPTLensError:
            iteration = None
        return math.inf if iteration is None else iteration, str(file)

    return sorted(subject.stages, key=key)


def _own_text(subject: Subject, files: list[Path]) -> Int[Tensor, "example pos"] | None:
    """Text of the last checkpoint that can be read, which all are measured on."""
    for file in reversed(files):
        try:
            model = convert(subject.reading.checkpoint(file), backend=subject.reading.backend, consume=True)
        except NanoGPTLensError:
            continue
        return own_text(model, seq_len=min(int(model.cfg.n_ctx), _LENGTH), n=_DRAWN, seed=subject.seed)
    return None


def _summary_of(subject: Subject, file: Path, drawn_text: Int[Tensor, "example pos"] | None) -> _Summary:
    """The numbers of one checkpoint, of which nothing else stays in memory."""
    name = str(file.relative_to(Path(subject.path).expanduser()))
    try:
        checkpoint = subject.reading.checkpoint(file)
        about: dict[str, Any] = {
            "iteration": checkpoint.iter_num,
            "parameters": checkpoint.n_params,
            "stated": checkpoint.best_val_loss,
            "shape": checkpoint.config,
        }
        certificate = check(
            checkpoint, backend=subject.reading.backend, val_bin=subject.val_bin, edits=False, seed=subject.seed
        )
        model = convert(checkpoint, backend=subject.reading.backend, consume=True)
        about["digest"] = _digest(model)
    except NanoGPTLensError as error:
        return _Summary(name=name, error=in_a_sentence(error, subject.folders))
    try:
        on_text = _on_text(subject, model, drawn_text)
    except NanoGPTLensError as error:
        return _Summary(name=name, proven=certificate.passed, error=in_a_sentence(error, subject.folders), **about)
    return _Summary(name=name, proven=certificate.passed, **about, **on_text)


def _digest(model: torch.nn.Module) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _on_text(subject: Subject, model: Any, drawn_text: Int[Tensor, "example pos"] | None) -> dict[str, Any]:
    """The loss and the scores of the heads on the text."""
    text = text_of(model, subject.raw_text)
    length = min(int(model.cfg.n_ctx), _LENGTH)
    if text is not None:
        corpus, length = text.data, max(2, min(length, len(text.ids) // 4))
    else:
        assert drawn_text is not None, "some checkpoint can be read, this one"
        if int(drawn_text.max()) >= n_tokens(model):
            raise AnalysisError("it has another vocabulary than the checkpoint whose text all are measured on")
        corpus, length = drawn_text.cpu(), min(length, drawn_text.shape[1])
    loss = text_loss(model, corpus, seq_len=length, n=_WINDOWS, seed=subject.seed)
    heads = None
    if model.cfg.n_ctx >= 4:
        heads = heads_of(model, corpus, seq_len=length, seed=subject.seed)
    return {
        "loss": float(loss.values),
        "low": None if loss.low is None else float(loss.low),
        "high": None if loss.high is None else float(loss.high),
        "few": loss.few_examples,
        "heads": heads,
    }


def _table(subject: Subject, summaries: list[_Summary], drawn: bool) -> Table:
    rows = []
    for m in summaries:
        stated = m.stated if m.stated is not None and m.stated < 1e8 else math.nan
        unread = f"cannot be read: {line_of(m.error)}"
        verdict = "proven" if m.proven else "NOT PROVEN" if m.readable else unread
        loss = line_of(m.error) if m.error and m.readable else interval(m.loss, m.low, m.high)
        rows.append(
            (
                line_of(m.name) + (f" (the same weights as {line_of(m.same_as)})" if m.same_as else ""),
                "–" if m.iteration is None else count(m.iteration),
                count(m.parameters) if m.parameters else "–",
                number(stated),
                loss,
                verdict,
            )
        )
    words = (
        "text drawn from the last of them, so that it says how near the others are to that one"
        if drawn
        else f"the same windows of {subject.text_name}"
    )
    return Table(
        header=("file", "iteration", "parameters", "stored loss", "loss measured here", "equality"),
        rows=tuple(rows),
        caption=f"{_order(summaries)} Losses in nats per token: best_val_loss as it is stored, and what is measured on "
        f"{words}, with 95% intervals: at most {_WINDOWS if not drawn else _DRAWN} sequences of each, fewer than the "
        "section on the loss reads of one checkpoint, so that its loss there differs a little. Equality: the "
        "certificate without the edits at every hook." + "".join(map(doubt, dict.fromkeys(m.few for m in summaries))),
        left=(0, 5),
        marked=frozenset(i for i, m in enumerate(summaries) if not m.proven),
    )


def _order(summaries: list[_Summary]) -> str:
    """A sentence on the order of the rows."""
    if _one_run(summaries):
        return "In the order of training."
    usable = [m for m in summaries if m.distinct]
    if len(usable) < 2:
        return "In the order of their iterations."
    apart = any(m.shape != usable[0].shape for m in usable)
    why = "differ in architecture" if apart else "do not each have an iteration of their own"
    return f"In the order of their iterations; they {why}, so that they are not taken for stages of one training run."


def _figures(summaries: list[_Summary]) -> Iterator[Block]:
    """The loss and the best scores over iterations, of several that are `_one_run`, in its order."""
    kept = [m for m in summaries if m.distinct]
    steps = [m.iteration for m in kept if m.iteration is not None]
    labels = tuple(map(str, steps))
    rows = [[float("nan") if v is None else v for v in (m.loss, m.low, m.high)] for m in kept]
    values, low, high = (t[None] for t in torch.tensor(rows, dtype=torch.float64).T)
    loss = Scores(
        values=values,
        axes=("score", "step"),
        labels={"score": ("loss",), "step": labels},
        quantity="loss, nats per token",
        title="loss",
        unit="nats per token",
        definition="mean cross-entropy of the next token on the same text",
        low=low,
        high=high,
    )
    scale = "log" if _log_spaced(steps) else "linear"
    yield picture_of(loss, "the loss over training", x=scale)
    heads = [m.heads for m in kept if m.heads is not None]
    if len(heads) == len(kept):
        names = heads[0].names
        best = torch.tensor([[each.best(name)[0] for each in heads] for name in names], dtype=torch.float64)
        scores = Scores(
            values=best,
            axes=("score", "step"),
            labels={"score": names, "step": labels},
            quantity="highest score of any head",
            definition="the best head's score of each kind, see the taxonomy",
        )
        yield picture_of(scores, "the highest head scores over training", title="Best scores over training", x=scale)


def _log_spaced(steps: list[int]) -> bool:
    """Whether the iterations lie much closer to each other at the beginning."""
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    return len(gaps) >= 3 and max(gaps) > _UNEVEN * min(gaps) and gaps.index(max(gaps)) > len(gaps) // 2


def _findings(summaries: list[_Summary]) -> tuple[str, ...]:
    kept = [m for m in summaries if m.distinct and not math.isnan(m.loss)]
    if len(kept) < 2:
        return ()
    first, last, how_many = kept[0], kept[-1], _how_many(kept, summaries)
    best = min(kept, key=lambda m: m.loss)
    rivals = [m for m in kept if m is not best]
    lowest = f"{line_of(best.name)} has the lowest loss, {measured(best.loss, best.low, best.high)} nats per token"
    if all(_overlap(best, m) for m in rivals):
        return (f"The losses of {how_many} cannot be told apart; the least is {number(best.loss)} nats per token.",)
    if not _one_run(summaries):
        return (f"Of {how_many}, which are no stages of one run, {lowest}.",)
    falls = "falls" if last.loss < first.loss else "goes"
    ends = " to ".join(measured(m.loss, m.low, m.high) for m in (first, last))
    return (f"Over {how_many} the loss {falls} from {ends} nats per token; {line_of(best.name)} has the lowest.",)


def _how_many(kept: list[_Summary], summaries: list[_Summary]) -> str:
    """The number of checkpoints that are compared, and why it is not that of all."""
    if len(kept) == len(summaries):
        return plural(len(kept), "checkpoint")
    doubles = sum(bool(m.same_as) for m in summaries)
    others = len(summaries) - len(kept) - doubles
    reasons = [f"{doubles} with the same weights as another"] if doubles else []
    reasons += [f"{others} without a loss"] if others else []
    return f"{len(kept)} of {len(summaries)} checkpoints ({', '.join(reasons)})"


def _overlap(a: _Summary, b: _Summary) -> bool:
    """Whether two losses cannot be told apart."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return abs(a.loss - b.loss) < NEGLIGIBLE
    return (a.low <= b.high and b.low <= a.high) or abs(a.loss - b.loss) < NEGLIGIBLE


RECIPE = Recipe(
    key="checkpoints",
    title="Checkpoints side by side",
    reading="Each row is one checkpoint of the folder, measured on the same text with the same seed. Read down a "
    "column to see how they differ, and trust a difference only where the intervals do not overlap.",
    make=_make,
)
