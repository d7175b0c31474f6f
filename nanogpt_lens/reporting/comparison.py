"""Two models side by side on one offline page: first where the difference sits, then every part of the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conversion.errors import NanoGPTLensError
from nanogpt_lens.compare.comparing import compare
from nanogpt_lens.core.output import check_output
from nanogpt_lens.model.loading import check
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.reporting.blocks import Block, Facts, Folded, Heading, Listing, Paragraph
from nanogpt_lens.reporting.compared_parts import TITLES, blocks_of, first_picture
from nanogpt_lens.reporting.face import Face, Look
from nanogpt_lens.reporting.page import page
from nanogpt_lens.reporting.report import SUMMARY, Report
from nanogpt_lens.reporting.section import Section, in_a_sentence
from nanogpt_lens.reporting.subject import source_of
from nanogpt_lens.reporting.words import command, line_of, list_of, short_path
from nanogpt_lens.results import ModelComparison
from nanogpt_lens.text.corpus import Corpus

_FIRST = "What differs, and where it sits: three sentences, and one picture of the whole model."
_SENTENCES = 3


def compared(
    a: str,
    b: str,
    *,
    corpus: Corpus | None,
    page: bool,
    reading: Reading,
    **options: Any,
) -> tuple[ModelComparison, Report | None]:
    """A comparison of two checkpoints, and its page where one is asked for; options are those of `compare`."""
    made = compare(a, b, text=corpus, **options, **reading.options())
    if not page:
        return made, None
    return made, comparison_report(made, a, b, corpus=corpus, reading=reading, options=options)


def report_of_two(
    a: str, b: str, *, corpus: Corpus | None, output: str | Path | None, reading: Reading, **options: Any
) -> Report:
    """The page of two checkpoints, written to `output` where one is named; options are those of `compare`."""
    file = None if output is None else check_output(output, example="compare.html")
    _, report = compared(a, b, corpus=corpus, page=True, reading=reading, **options)
    assert report is not None, "a page was asked for"
    if file is not None:
        report.save(file)
    return report


def comparison_report(
    comparison: ModelComparison,
    a: str,
    b: str,
    *,
    corpus: Corpus | None = None,
    reading: Reading | None = None,
    options: Mapping[str, Any] | None = None,
) -> Report:
    """The page of a comparison, with the certificates of both checkpoints.

    Args:
        comparison: what `ngl.compare` made of the two.
        a, b: the checkpoints before and after, as they were given.
        corpus: the text, for the line that makes the page again.
        reading: how the two are read.
        options: of `compare`, likewise.
    """
    reading = reading or Reading()
    again = _again(a, b, corpus, reading, options or {})
    status, passed = _certified(comparison.names, (a, b), reading)
    sections = (_summary(comparison, again), *_parts(comparison))
    name = f"{comparison.names[0]} and {comparison.names[1]}"
    html = page(
        name=line_of(name, longest=120),
        title=f"{name}: what differs",
        status=status,
        tone="plain" if passed else "bad",
        sections=sections,
    )
    return Report(html=html, path=name, sections=sections, passed=passed)


def _again(a: str, b: str, corpus: Corpus | None, reading: Reading, options: Mapping[str, Any]) -> str:
    """The line for bash that makes the page again."""
    source = source_of(corpus)
    words = ["--text", source] if source else []
    words += ["--parts", ",".join(options["parts"])] if options.get("parts") else []
    words += [word for name in options.get("names") or () for word in ("--name", str(name))]
    reference = options.get("reference")
    words += ["--reference", short_path(reference)] if isinstance(reference, str | Path) else []
    words += ["--seq-len", str(options["seq_len"])] if options.get("seq_len") else []
    words += ["--seed", str(options["seed"])] if options.get("seed") else []
    words += [] if options.get("search", True) else ["--no-search"]
    words += ["-o", "compare.html", *reading.command_line(shorten=short_path)]
    line = command("nanogpt-lens", "compare", short_path(a), short_path(b), *words)
    return line if source or corpus is None else f"{line}  # and --text with a file of the text that was given"


def _certified(names: tuple[str, str], paths: tuple[str, str], reading: Reading) -> tuple[str, bool]:
    """Whether the conversions of both are proven equal, in a line and as a truth value; without the edits at hooks."""
    options = reading.options()
    reports = []
    for path in paths:
        try:
            reports.append(check(path, edits=False, **options))
        except NanoGPTLensError as error:
            return f"NOT PROVEN: {in_a_sentence(error, [Path(path).expanduser().parent])}", False
    if all(report.passed for report in reports):
        return "Both checkpoints are converted exactly, and the conversions proven equal, without edits at hooks", True
    failed = [name for name, report in zip(names, reports, strict=True) if not report.passed]
    return f"NOT PROVEN: the conversion of {' and '.join(map(line_of, failed))} differs from the file", False


def _summary(comparison: ModelComparison, again: str) -> Section:
    """The first screen: one picture of the whole model and three sentences; what else is to say stands below."""
    said = comparison.sentences()
    looks = tuple(Look(sentence=sentence, section="") for sentence in said[:_SENTENCES])
    face = Face(picture=first_picture(comparison), looks=looks, title="What differs, and where it sits")
    body: list[Block] = [face]
    if said[_SENTENCES:]:
        body.append(Folded(summary="What else differs", body=(Listing(items=said[_SENTENCES:]),)))
    if comparison.left_out:
        missing = [
            f"{list_of([f'“{TITLES[part]}”' for part in parts])}: {why}" for why, parts in comparison.reasons().items()
        ]
        body.append(Paragraph(text=f"What this page does not have. {'. '.join(missing)}.", tone="note"))
    return Section(
        key=SUMMARY,
        title="What differs",
        reading=_FIRST,
        status="done",
        commands=(again,),
        body=tuple(body),
        findings=said[:_SENTENCES],
        again=(Heading(text="What was read"), Facts(pairs=_facts(comparison))),
    )


def _facts(comparison: ModelComparison) -> tuple[tuple[str, str], ...]:
    """Both models' facts, once where they agree."""
    pairs = [("before", line_of(comparison.names[0])), ("after", line_of(comparison.names[1]))]
    pairs += [(name, one if one == two else f"{one}; {two}") for name, (one, two) in comparison.facts.items()]
    return (*pairs, ("text", line_of(comparison.text)))


def _parts(comparison: ModelComparison) -> list[Section]:
    """A section for each part that was made."""
    order: Mapping[str, str] = TITLES
    return [
        Section(
            key=part.replace("_", "-"),
            title=title,
            reading=reading,
            status="done",
            commands=(),
            body=blocks,
        )
        for part, title in order.items()
        if part in comparison.parts
        for reading, blocks in [blocks_of(part, comparison)]
    ]
