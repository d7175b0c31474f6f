"""Sections made from the catalogue: analyses that are registered for the report."""

from __future__ import annotations

from typing import Any

from nanogpt_lens.catalogue import ANALYSES, Analysis
from nanogpt_lens.core.errors import DataError
from nanogpt_lens.reporting.blocks import Block, Table, picture_of
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.subject import Subject, source_of
from nanogpt_lens.reporting.words import line_of, list_of, number
from nanogpt_lens.results import Result
from nanogpt_lens.text.tasks import read_task

_ROWS = 10


def further_recipes() -> dict[str, Recipe]:
    """A section for each analysis that is registered for the report."""
    return {name: _recipe(analysis) for name, analysis in ANALYSES.items() if analysis.in_report and analysis.alone}


def _recipe(analysis: Analysis) -> Recipe:
    return Recipe(
        key=analysis.name,
        title=analysis.about[:1].upper() + analysis.about[1:],
        reading=f"This is the analysis {analysis.name}, which looks at: {analysis.looks_at}. The picture shows all of "
        f"its values, the table the {_ROWS} largest.",
        make=lambda subject: _make(analysis, subject),
    )


def _make(analysis: Analysis, subject: Subject) -> Content:
    known = analysis.options()
    options = {"seed": subject.seed} if "seed" in known else {}
    if analysis.looks_at == "corpus" and "seq_len" in known:
        options["seq_len"] = subject.seq_len
    result = analysis.call(subject.model, *_source(analysis, subject), progress=False, **options)
    if not isinstance(result, Result):
        raise DoesNotApply(f"{analysis.name} returns a {type(result).__name__}, which has no picture")
    body: tuple[Block, ...] = (picture_of(result, analysis.about), _table(result))
    said = _finding(result)
    return Content(body=body, commands=(_again(analysis, subject, options),), findings=(said,) if said else ())


def _finding(result: Result) -> str:
    """The largest value and where it is, in a sentence; "" where there is none."""
    rows = result.top(1).to_dict("records")
    if not rows or float(rows[0]["value"]) != float(rows[0]["value"]):
        return ""
    row = rows[0]
    if {"layer", "head"} <= set(row):
        where = f"head {row['layer']:.0f}.{row['head']:.0f}"
    else:
        axes = [axis for axis in result.axes if axis in row]
        where = list_of(
            [f"{axis.replace('_', ' ')} {line_of(str(row.get(f'{axis}_label', row[axis])))}" for axis in axes]
        )
    value = number(float(row["value"]))
    return f"The largest value is that of {where}: {value}." if where else f"Its value is {value}."


def _source(analysis: Analysis, subject: Subject) -> tuple[Any, ...]:
    """The corpus or the task that it looks at."""
    if analysis.looks_at == "task":
        try:
            return (read_task(subject.path),)
        except DataError as error:
            raise DoesNotApply(f"{analysis.name} needs the run's task: {error}") from None
    if analysis.looks_at != "corpus":
        return ()
    if subject.corpus is None and "corpus" in analysis.needs():
        raise DoesNotApply(f"{analysis.name} needs a text; give one")
    return (subject.corpus,)


def _table(result: Result) -> Table:
    frame = result.top(_ROWS)
    columns = result.place_columns(frame)
    rows = [(*(str(row[c]) for c in columns), number(float(row["value"]))) for row in frame.to_dict("records")]
    return Table(
        header=(*(axis.replace("_", " ") for axis in result.axes), result.quantity),
        rows=tuple(rows),
        caption=f"The largest values, by magnitude: {result.definition}.{doubts(result)}",
        left=(),
        folded=f"The {len(rows)} largest values",
    )


def _again(analysis: Analysis, subject: Subject, options: dict[str, Any]) -> str:
    """The line that makes the analysis again: a command, or Python for one that the reader has to register first."""
    if analysis.custom is None:
        words = [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
        task = ["--task", subject.name] if analysis.looks_at == "task" else []
        return subject.command("measure", analysis.name, *task, *words, text=analysis.looks_at == "corpus")
    arguments, remark = ["model"], ""
    if analysis.looks_at == "task":
        arguments.append(f"read_task({subject.name!r})")
    elif analysis.looks_at == "corpus" and subject.raw_text is not None:
        source = source_of(subject.raw_text)
        arguments.append("corpus" if source is None else repr(source))
        remark = "  # corpus: the text that was given" if source is None else ""
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    first = "from nanogpt_lens.text.tasks import read_task; " if analysis.looks_at == "task" else ""
    return first + subject.python(f"ngl.catalogue.find({analysis.name!r}).call({', '.join(arguments)})") + remark
