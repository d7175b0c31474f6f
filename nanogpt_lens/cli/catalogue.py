"""`nanogpt-lens analyses` and `nanogpt-lens measure`: every analysis of the catalogue, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nanogpt_lens.catalogue import ANALYSES, Analysis, find, options_from_words
from nanogpt_lens.cli import completing
from nanogpt_lens.cli.options import CsvOption, JsonOption, OutputOption, RowsOption, TextOption
from nanogpt_lens.cli.output import (
    on_model,
    print_few_examples,
    print_for_programs,
    print_warning,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.tables import alike, finding, interval, note, p_value, print_table, say
from nanogpt_lens.core.errors import AnalysisError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(analyses)
    app.command()(on_model(measure, check=lambda options: find(options["name"])))


def analyses(as_json: JsonOption = False) -> None:
    """List all analyses: what each looks at, what it says, and the command that prints it."""
    if as_json:
        import json

        plain = [{"name": a.name, "looks_at": a.looks_at, "about": a.about, "command": _command(a)} for a in _all()]
        typer.echo(json.dumps(plain))
        return
    say(f"{len(ANALYSES)} analyses of a model:", style="bold")
    print_table(
        ["analysis", "looks at", "says", "command"],
        [[a.name, a.looks_at, a.about, _command(a)] for a in _all()],
        drop=["looks at", "command"],
        wrap=["says", "command", "looks at"],
        more="--json has them",
    )
    note("`nanogpt-lens measure PATH NAME` makes one; in Python each is a function: ngl.catalogue.find(NAME)")


def _all() -> list[Analysis]:
    return list(ANALYSES.values())


def _command(analysis: Analysis) -> str:
    if analysis.command or analysis.alone or analysis.looks_at == "text":
        before, behind = analysis.command_words()
        return " ".join([*before, "PATH", *behind])
    return "(in Python)"


def measure(
    model: Any,
    name: Annotated[
        str, typer.Argument(help="an analysis, see `nanogpt-lens analyses`", autocompletion=completing.analyses)
    ],
    text: TextOption = None,
    prompt: Annotated[str | None, typer.Option(help="for analyses that look at one text")] = None,
    task: Annotated[Path | None, typer.Option(help="the task.json of a run, or its folder")] = None,
    option: Annotated[list[str] | None, typer.Option(help="an option of its function: n=16; repeatable")] = None,
    rows: RowsOption = 10,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Make any analysis of the catalogue by its name."""
    from nanogpt_lens.results import Result

    analysis = find(name)
    source = _source(analysis, text, prompt, task)
    result = analysis.call(
        model, *source, **{"progress": shows_bar(as_json, as_csv), **options_from_words(option or [])}
    )
    if not isinstance(result, Result):
        raise AnalysisError(f"{name} returns a {type(result).__name__}, which cannot be printed; call it in Python")
    save_result(result, output)
    if not print_for_programs({name: result}, as_json, as_csv):
        _print(result, rows)


def _source(analysis: Analysis, text: Path | None, prompt: str | None, task: Path | None) -> tuple[Any, ...]:
    """What the analysis looks at beside the model, from the options."""
    sources = {"corpus": text, "text": prompt, "task": task}
    options = {"corpus": "--text", "text": "--prompt", "task": "--task"}
    kind = next((kind for kind in sources if analysis.takes(kind)), "")
    for other, value in sources.items():
        if value is not None and other != kind:
            raise AnalysisError(f"{options[other]} was given, but {analysis.name} looks at {analysis.looks_at}")
    needed = set(analysis.needs())
    if needed - {kind}:
        elsewhere = f"use `nanogpt-lens {analysis.command}`" if analysis.command else "call it in Python"
        raise AnalysisError(f"{analysis.name} needs {', '.join(analysis.needs())}; {elsewhere}")
    if kind in needed and sources[kind] is None:
        raise AnalysisError(f"{analysis.name} looks at a {kind}; give {options[kind]}")
    if kind == "task" and task is not None:
        from nanogpt_lens.text.tasks import read_task

        return (read_task(task),)
    return () if not kind or sources[kind] is None else (sources[kind],)


def _print(result: Any, count: int) -> None:
    frame = result.top(count)
    columns = result.place_columns(frame)
    extra = [name for name in ("low", "high", "chance", "p_corrected") if name in frame]
    records = frame.to_dict("records")
    if extra[:2] == ["low", "high"]:
        extra = extra[2:]
        values = [_value(row) for row in records]
    else:
        values = alike(row["value"] for row in records)
    others = [[p_value(r[c]) for r in records] if c == "p_corrected" else alike(r[c] for r in records) for c in extra]
    rows = [
        [*(str(row[c]).replace("_", " ") if c.startswith("score") else str(row[c]) for c in columns), *cells]
        for row, *cells in zip(records, values, *others, strict=True)
    ]
    if rows:
        place = zip(result.axes, rows[0][: len(result.axes)], strict=True)
        where = ", ".join(f"{axis.replace('_', ' ')} {cell}" for axis, cell in place)
        finding(
            f"The {'largest ' if result.axes else ''}{result.quantity}: {rows[0][len(result.axes)]}"
            + (f", at {where}." if where else ".")
        )
    print_warning(result)
    print_table(
        [*(axis.replace("_", " ") for axis in result.axes), "value", *(name.replace("_", " ") for name in extra)],
        rows,
        drop=[name.replace("_", " ") for name in extra],
        wrap=[axis.replace("_", " ") for axis in result.axes],
    )
    print_few_examples(result)
    rest = result.values.numel() - len(rows)
    more = f"; {rest} more are smaller in magnitude, --rows prints more, --csv all" if rest > 0 else ""
    note(f"{result.quantity}: {result.explanation()}{more}")
    if result.p_definition:
        note(result.p_definition)


def _value(row: dict[str, Any]) -> str:
    return interval(row["value"], row["low"], row["high"])
