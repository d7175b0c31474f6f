"""`nanogpt-lens compare`: two models side by side, as sentences, as JSON, and as one offline page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.completing import PARTS, checkpoints, some_of, texts
from nanogpt_lens.cli.options import JsonOption, SeedOption, TokenDtypeOption, check_text, tokens_of, with_reading
from nanogpt_lens.cli.output import PlotOption, check_picture, draw, reading_file, shows_bar
from nanogpt_lens.cli.tables import finding, note, print_table, say
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from nanogpt_lens.results import ModelComparison

_Checkpoint = typer.Argument(
    help="nanoGPT's out_dir, a ckpt.pt, or the name of a shipped checkpoint", autocompletion=checkpoints
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_reading(compare))


def compare(
    before: Annotated[str, _Checkpoint],
    after: Annotated[str, _Checkpoint],
    text: Annotated[
        Path | None,
        typer.Option(
            help="a text file, data folder or shakespeare_char; without it, text that the two write",
            autocompletion=texts,
        ),
    ] = None,
    token_dtype: TokenDtypeOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write one offline page: compare.html")] = None,
    save: Annotated[Path | None, typer.Option(help="save all results in this folder")] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            help="only these, with commas: outputs, weights, representations, ...", autocompletion=some_of(PARTS)
        ),
    ] = None,
    search: Annotated[
        bool, typer.Option(help="look for the fewest parts that carry nine tenths (most of the time)")
    ] = True,
    reference: Annotated[
        str | None, typer.Option(help="a third checkpoint, such as another seed, to measure similarity by")
    ] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="what each is called; give it twice")] = None,
    seq_len: Annotated[int | None, typer.Option(min=2, help="tokens of a sequence", show_default="context")] = None,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Put two models side by side: what differs, where it sits, and which parts of the model carry it."""
    check_text(text)
    for path in (before, after, *([] if reference is None else [reference])):
        reading_file(path, for_programs=as_json)
    from nanogpt_lens.core.output import check_output
    from nanogpt_lens.reporting.comparison import compared

    check_picture(plot)
    if output is not None and output.suffix not in (".html", ".htm"):
        raise AnalysisError(f"{output} is no page; expected a name such as compare.html (--save FOLDER saves results)")
    if output is not None:
        check_output(output, example="compare.html")
    chosen: Any = None if parts is None else [part.strip() for part in parts.split(",") if part.strip()]
    comparison, report = compared(
        before,
        after,
        corpus=tokens_of(text, token_dtype, "--text"),
        page=output is not None,
        parts=chosen,
        search=search,
        reference=reference,
        names=name,
        seq_len=seq_len,
        seed=seed,
        progress=shows_bar(as_json, False),
        heard=None if as_json else _say_part,
        reading=reading,
    )
    WAITING.done()
    if save is not None:
        comparison.save(save)
        typer.echo(f"results saved in {save}", err=True)
    draw(comparison, plot)
    if report is not None and output is not None:
        report.save(output)
    if as_json:
        typer.echo(json.dumps(comparison.to_json(), ensure_ascii=False))
    else:
        _print(comparison)
        if output is not None and report is not None:
            say(f"{output}: {len(report.html.encode()) / 1e6:.2f} MB; it opens offline")
    raise typer.Exit(1 if report is not None and report.passed is False else 0)


def _say_part(part: str, seconds: float, why: str) -> None:
    """Say on standard error that a part is there, or why it is not, as soon as it is so."""
    from tqdm.auto import tqdm

    if WAITING.speaks:
        WAITING.done()
        tqdm.write(f"{part.replace('_', ' ')}: {why or f'done in {seconds:.1f} s'}", file=sys.stderr)


def _print(comparison: ModelComparison) -> None:
    """The sentences, what was left out and why, and a table of what carries the difference."""
    for sentence in comparison.sentences():
        finding(sentence)
    transplants = comparison.parts.get("transplants")
    if transplants is not None:
        header, rows = _carriers(transplants, comparison.names)
        print_table(header, rows, wrap=header[:1])
    for why, parts in comparison.reasons().items():
        say(f"without {', '.join(part.replace('_', ' ') for part in parts)}: {why}", indent=2)
    note(f"before: {comparison.names[0]}; after: {comparison.names[1]}; measured on {comparison.text}")


def _carriers(result: Any, names: tuple[str, str]) -> tuple[list[str], list[list[str]]]:
    """The parts that carry most of the difference, as a table."""
    rows = [
        [str(row["component"]), *(f"{row[c]:.0%}" for c in ("share", "low", "high")), f"{row['moved']:.0%}"]
        for row in result.table("b into a").head(10).to_dict("records")
    ]
    return [f"{names[1]} into {names[0]}", "share", "low", "high", "moved"], rows
