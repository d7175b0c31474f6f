"""The certificate: whether the converted model computes what the checkpoint computes."""

from __future__ import annotations

import math

from conversion.report import Comparison, EquivalenceReport, cell_text
from nanogpt_lens.model.loading import check
from nanogpt_lens.reporting.blocks import Block, Listing, Paragraph, Table
from nanogpt_lens.reporting.section import Made, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import count, shown, without_folders

_KINDS = {
    "weight": "weights and configuration",
    "output": "outputs: logits, loss, log-probabilities",
    "activation": "activations, at every hook",
    "gradient": "gradient of the loss, every weight",
    "edit": "logits under an edit, at every hook",
    "greedy": "greedy text past the context",
    "val_loss": "loss on the run's own validation data",
}

_JUDGED = (
    "Each cell is the comparison that is nearest to its limit: its relative error (the largest difference of any "
    "element, divided by the largest value, of gradients by that of any weight's, or by 0.001 where that is larger) "
    "and what is allowed. In float64 1e-9 is allowed, and the absolute error must be within it too (times the largest "
    "value where that is above 1). In float32 it is 2e-5, or, where that is more, 16 times what rounding to float32 "
    "does to nanoGPT's own numbers. Where 0 is allowed not one bit may differ."
)


def _make(subject: Subject) -> Made:
    found = check(subject.path, **subject.reading.options(), seed=subject.seed)
    verdict = shown(without_folders(found.verdict(), subject.folders))
    notes = [shown(without_folders(note, subject.folders)) for note in found.notes]
    body: list[Block] = [
        Paragraph(text=verdict, tone="good" if found.passed else "bad"),
        Paragraph(
            text=f"{found.backend} against {found.reference}, on random tokens (seed {found.seed}). Rounding alone "
            "leaves about 1e-15 in float64, where a real difference could not hide."
            + (" The error that the verdict names is absolute; those below are relative." if found.passed else "")
        ),
        _by_kind(found),
        _all_rows(found),
    ]
    if notes:
        body += [Paragraph(text="Notes of the certificate:", tone="note"), Listing(items=tuple(notes))]
    return Made(
        body=tuple(body),
        commands=(subject.command("check", *(["--seed", str(subject.seed)] if subject.seed else [])),),
        findings=() if found.passed else (f"The conversion is not proven: {verdict}.",),
        proven=found.passed,
        verdict=verdict,
    )


def _by_kind(found: EquivalenceReport) -> Table:
    kinds = [kind for kind in _KINDS if any(c.kind == kind for c in found.comparisons)]
    precisions = found.precisions()
    rows, marked = [], set()
    for i, kind in enumerate(kinds):
        own = [c for c in found.comparisons if c.kind == kind]
        cells = [_worst([c for c in own if c.precision == precision]) for precision in precisions]
        failed = sum(not c.passed for c in own)
        marked |= {i} if failed else set()
        rows.append((_KINDS[kind], count(len(own)), *cells, f"{failed} fail" if failed else "all equal"))
    return Table(
        header=("what is compared", "comparisons", *(f"error / allowed, {p}" for p in precisions), "verdict"),
        rows=tuple(rows),
        caption=_JUDGED,
        left=(0, len(precisions) + 2),
        marked=frozenset(marked),
    )


def _worst(comparisons: list[Comparison]) -> str:
    if not comparisons:
        return "–"
    worst = max(comparisons, key=_nearness)
    if worst.kind in ("greedy", "val_loss"):
        return cell_text(worst).removesuffix(" FAIL")
    return (
        f"{f'{worst.max_rel:.1e}' if worst.max_rel else '0'} / {f'{worst.tolerance:.1e}' if worst.tolerance else '0'}"
    )


def _nearness(comparison: Comparison) -> tuple[bool, float]:
    """How near a comparison is to failing; those of which not one bit may differ are near only where they fail."""
    share = comparison.max_rel / comparison.tolerance if comparison.tolerance else comparison.max_rel
    return not comparison.passed, math.inf if math.isnan(share) else share


def _all_rows(found: EquivalenceReport) -> Table:
    table, marked = [], set()
    for i, (quantity, mode, cells) in enumerate(found.rows()):
        marked |= {i} if any(not c.passed for c in cells.values()) else set()
        table.append((shown(quantity), mode, *(cell_text(cells.get(p)) for p in found.precisions())))
    return Table(
        header=("quantity", "weights", *(f"{p} abs / rel" for p in found.precisions())),
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
    "can show was compared. Everything below this section is about the checkpoint only if the verdict is PROVEN EQUAL.",
    make=_make,
)
