"""`nanogpt-lens report`: one offline page about a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanogpt_lens.cli.completing import SECTIONS, some_of, texts
from nanogpt_lens.cli.options import (
    JsonOption,
    NoValBinOption,
    PathArgument,
    SeedOption,
    TokenDtypeOption,
    ValBinOption,
    check_text,
    tokens_of,
    val_bin_of,
    with_reading,
)
from nanogpt_lens.cli.output import reading_file, shows_bar
from nanogpt_lens.cli.tables import finding, note, say
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.cli.wording import in_options
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from nanogpt_lens.reporting.making import Report


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_reading(report))


def _list_sections(asked: bool) -> None:
    if asked:
        from nanogpt_lens.reporting.making import section_titles

        for key, title in section_titles().items():
            typer.echo(f"{key:<13} {title}")
        raise typer.Exit


def report(
    path: PathArgument,
    text: Annotated[
        Path | None,
        typer.Option(
            help="a text file, data folder or shakespeare_char; without it, the model's own text", autocompletion=texts
        ),
    ] = None,
    token_dtype: TokenDtypeOption = None,
    val_bin: ValBinOption = None,
    no_val_bin: NoValBinOption = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page that is written")] = Path("report.html"),
    sections: Annotated[
        str | None,
        typer.Option(help="only these, with commas; --list-sections names them", autocompletion=some_of(SECTIONS)),
    ] = None,
    list_sections: Annotated[
        bool, typer.Option("--list-sections", callback=_list_sections, is_eager=True, help="name all sections")
    ] = False,
    clean: Annotated[str | None, typer.Option(help="a prompt of your own ($'a\\nb' in bash for a line break)")] = None,
    corrupted: Annotated[str | None, typer.Option(help="one of the same length with another answer")] = None,
    answer: Annotated[str | None, typer.Option(help="one token; else the model's own after the clean prompt")] = None,
    wrong: Annotated[str | None, typer.Option(help="one token; else the model's own after the corrupted one")] = None,
    hypothesis: Annotated[
        Path | None, typer.Option(help="a file that says what the model does, as for scrub: is the explanation true?")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Write one offline page: the proof that the conversion is equal, and what is inside the model.

    Exit code 0: written, also where a section failed (it says so in its place, and on standard error); 1: written,
    but equality is not proven; 2: bad input, nothing is written, or all chosen sections failed.
    """
    check_text(text)
    chosen = None if sections is None else [name.strip() for name in sections.split(",") if name.strip()]
    _check_sections(chosen or [])
    reading_file(path, for_programs=as_json)
    from nanogpt_lens.core.errors import AnalysisError
    from nanogpt_lens.reporting.making import report as make

    if token_dtype is not None and text is None and val_bin is None:
        raise AnalysisError("--token-dtype was given without --text or --val-bin; give one of them too")
    if not as_json:
        WAITING.follow("nanogpt_lens.reporting.making")
    result = make(
        path,
        corpus=tokens_of(text, None if text is None else token_dtype, "--text"),
        val_bin=val_bin_of(val_bin, no_val_bin, None if val_bin is None else token_dtype),
        output=output,
        sections=chosen,
        clean=clean,
        corrupted=corrupted,
        answer=answer,
        wrong=wrong,
        hypothesis=hypothesis,
        seed=seed,
        progress=shows_bar(as_json, False),
        **reading.options(),
    )
    WAITING.done()
    for section in result.failed:
        typer.echo(f"warning: the section {section.key} failed: {in_options(section.error, report)}", err=True)
    for warning in (sentence for section in result.sections for sentence in section.warnings):
        typer.echo(f"warning: {warning}", err=True)
    _say(result, output, as_json)
    if result.all_failed:
        typer.echo(f"error: all chosen sections failed; {output} says why", err=True)
        raise typer.Exit(2)
    raise typer.Exit(1 if result.passed is False else 0)


def _check_sections(names: list[str]) -> None:
    """Raise AnalysisError for a section that does not exist, before anything that takes time is imported."""
    from nanogpt_lens.catalogue import ANALYSES
    from nanogpt_lens.core.choices import did_you_mean
    from nanogpt_lens.core.errors import AnalysisError

    for name in names:
        if name not in SECTIONS and name not in ANALYSES:
            near = did_you_mean(name, SECTIONS) or f"; expected some of {', '.join(SECTIONS)}"
            raise AnalysisError(f"there is no section {name!r}{near}")


_TOLD = ("loss", "heads", "induction")
"""Sections whose first finding is printed."""


def _say(result: Report, output: Path, as_json: bool) -> None:
    size = len(result.html.encode())
    if as_json:
        content = {
            "path": result.path,
            "output": str(output),
            "bytes": size,
            "passed": result.passed,
            "sections": [
                {"key": s.key, "title": s.title, "status": s.status, "error": s.error, "findings": list(s.findings)}
                for s in result.sections
            ],
        }
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    verdicts = [section.verdict for section in result.sections if section.verdict]
    for verdict in verdicts:
        finding(verdict)
    for section in result.sections:
        if section.findings and section.key in _TOLD:
            say(section.findings[0], indent=2)
    made = sum(section.status == "done" for section in result.sections)
    note(f"{output}: {made} of {len(result.sections)} sections, {size / 1e6:.2f} MB; it opens offline")
