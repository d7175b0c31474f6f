"""The certificate: whether the converted model computes what the checkpoint computes."""

from __future__ import annotations

from conversion.report import EquivalenceReport, cell_text, limit_text
from nanogpt_lens.model.loading import check
from nanogpt_lens.reporting.blocks import Block, Folded, Listing, Paragraph, Table
from nanogpt_lens.reporting.section import Content, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import count, line_of, plural, without_folders

_EQUAL = {"val_loss": "within ±, see the notes"}  # two means of samples are never equal

_JUDGED = (
    "Each cell of the first table is the comparison that is nearest to its limit: its relative error (the largest "
    "difference of any element, divided by the largest value, of gradients by that of any weight's, or by 0.001 where "
    "that is larger) and what is allowed. In float64 1e-9 is allowed, and the absolute error must be within it too "
    "(times the largest value where that is above 1). In float32 it is 2e-5, or, where that is more, 16 times what "
    "rounding to float32 does to nanoGPT's own numbers. Where 0 is allowed not one bit may differ."
)


def _make(subject: Subject) -> Content:
    report = check(subject.path, **subject.reading.options(), val_bin=subject.val_bin, seed=subject.seed)
    verdict = line_of(without_folders(report.verdict(), subject.folders))
    notes = [line_of(without_folders(note, subject.folders)) for note in report.notes]
    body: list[Block] = [Paragraph(text=verdict, tone="good" if report.passed else "bad"), by_kind(report)]
    if notes:
        body += [Folded(summary=plural(len(notes), "note"), body=(Listing(items=tuple(notes)),))]
    body += [_all_rows(report), Folded(summary="How this was measured", body=(_how(report),))]
    return Content(
        body=tuple(body),
        commands=(subject.command("check", *subject.val_bin_option(), *subject.seed_option()),),
        findings=(_finding(report, verdict),),
        proven=report.passed,
        verdict=verdict,
        glance="every comparison" if report.passed else "not proven",
        results={"check": report},
    )


def in_a_line(report: EquivalenceReport) -> str:
    """The verdict of a certificate that passed, in the page's first line."""
    return f"proven equal to nanoGPT: {count(len(report.comparisons))} comparisons{_largest(report)}"


def _largest(report: EquivalenceReport) -> str:
    exact = [c.max_abs for c in report.comparisons if c.precision == "float64" and c.kind != "val_loss"]
    return f", largest error {max(exact):.0e}" if exact else ""


def _finding(report: EquivalenceReport, verdict: str) -> str:
    if not report.passed:
        return f"The conversion is not proven: {verdict}."
    return (
        f"The converted model computes what nanoGPT computes: {count(len(report.comparisons))} comparisons agree"
        f"{_largest(report)}."
    )


def _how(report: EquivalenceReport) -> Paragraph:
    said = (
        f"{report.backend} against {report.reference}, on random tokens (seed {report.seed}). Rounding alone leaves "
        "about 1e-15 in float64, where a real difference could not hide."
    )
    said += " The error that the verdict names is absolute; those of the table are relative." if report.passed else ""
    return Paragraph(text=f"{said} {_JUDGED}", tone="note")


def by_kind(report: EquivalenceReport) -> Table:
    """A row for each kind of comparison, with the one that is nearest to its limit."""
    precisions = report.precisions()
    rows, marked = [], set()
    for i, (words, of_kind, near) in enumerate(report.by_kind()):
        failed = sum(not c.passed for c in of_kind)
        marked |= {i} if failed else set()
        verdict = f"{failed} fail" if failed else _EQUAL.get(of_kind[0].kind, "all equal")
        cells = (limit_text(near.get(p)).removesuffix(" FAIL") for p in precisions)
        rows.append((words, count(len(of_kind)), *cells, verdict))
    return Table(
        header=("what is compared", "comparisons", *(f"error / allowed, {p}" for p in precisions), "verdict"),
        rows=tuple(rows),
        caption="Each cell: the largest error and what is allowed.",
        left=(0, len(precisions) + 2),
        marked=frozenset(marked),
    )


def _all_rows(report: EquivalenceReport) -> Table:
    table, marked = [], set()
    for i, (quantity, mode, cells) in enumerate(report.rows()):
        marked |= {i} if any(not c.passed for c in cells.values()) else set()
        table.append((line_of(quantity), mode, *(cell_text(cells.get(p)) for p in report.precisions())))
    return Table(
        header=("quantity", "weights", *(f"{p} abs / rel" for p in report.precisions())),
        rows=tuple(table),
        caption="Raw weights are the checkpoint's own; processed ones have LayerNorm folded and are centred. Each cell "
        "is the worst of all layers: absolute error / relative error.",
        left=(0, 1),
        marked=frozenset(marked),
        folded=f"All {len(table)} rows of the certificate",
    )


RECIPE = Recipe(
    key="certificate",
    title="Certificate of equality",
    reading="nanoGPT's own computation and the converted model were given the same tokens, and every number that both "
    "can show was compared. The other sections are about the checkpoint only if the verdict is PROVEN EQUAL.",
    make=_make,
)
