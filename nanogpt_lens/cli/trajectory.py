"""The command `trajectory`: one measure over the checkpoints of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.catalogue import find
from nanogpt_lens.cli.completing import TASKS, checkpoints, measures, one_of
from nanogpt_lens.cli.options import (
    CsvOption,
    JsonOption,
    OutputOption,
    SeedOption,
    TokenDtypeOption,
    check_text,
    tokens_of,
    with_reading,
)
from nanogpt_lens.cli.output import (
    PlotOption,
    check_picture,
    draw,
    one_format,
    only_first,
    print_few_examples,
    print_for_programs,
    print_warning,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.tables import finding, fixed, note, print_table
from nanogpt_lens.cli.waiting import WAITING, short
from nanogpt_lens.model.places import find_folder
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from nanogpt_lens.results import ChangePoint, Trajectory

_COLUMNS = 8


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_reading(trajectory))


def trajectory(
    path: Annotated[
        str,
        typer.Argument(
            help="a folder with ckpt*.pt of one run, or a shipped checkpoint with stages", autocompletion=checkpoints
        ),
    ],
    measure: Annotated[
        str,
        typer.Option(help="what is measured at every checkpoint, see `nanogpt-lens analyses`", autocompletion=measures),
    ] = "score_heads",
    text: Annotated[
        Path | None,
        typer.Option(
            help="a text file, data folder or shakespeare_char; without it, the run's task or the model's text"
        ),
    ] = None,
    token_dtype: TokenDtypeOption = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            "--task",
            "--pairs",
            help="of edge_effects: the prompts, induction, a task or a run's folder; else the run's own task",
            autocompletion=one_of(TASKS),
        ),
    ] = None,
    pattern: Annotated[str, typer.Option(help="which files are the checkpoints")] = "ckpt*.pt",
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="a place on an axis, such as score=induction or layer=1; repeatable"),
    ] = None,
    n: Annotated[int | None, typer.Option(min=2, help="sequences; the measure's own number without it")] = None,
    seed: SeedOption = 0,
    least: Annotated[float, typer.Option(min=0, help="the smallest change that counts, for the verdict")] = 0.1,
    rows: Annotated[int, typer.Option(min=1, help="how many rows are printed, those that change most")] = 8,
    resume: Annotated[Path | None, typer.Option(help="keep what is measured here, to go on after a kill")] = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
    *,
    reading: Reading,
) -> None:
    """Measure every checkpoint of a training run, and say where each score changes."""
    one_format(as_json, as_csv)
    check_picture(plot)
    check_text(text)
    WAITING.doing(f"reading the checkpoints of {short(find_folder(path))}", for_programs=as_json or as_csv)
    with only_first():
        from nanogpt_lens.core.distributed import is_first
        from nanogpt_lens.results.files import check_target
        from nanogpt_lens.runs.on_pairs import takes_pairs
        from nanogpt_lens.runs.trajectory import trajectory as measured

        if output is not None:
            check_target(output)
        analysis = find(measure)
        known = {*analysis.options(), *(("n",) if takes_pairs(analysis) else ())}
        options: dict[str, Any] = {k: v for k, v in (("n", n), ("seed", seed)) if v is not None and k in known}
        result = measured(
            path,
            measure,
            corpus=tokens_of(text, token_dtype, "--text"),
            pairs=pairs,
            pattern=pattern,
            resume=resume,
            **reading.options(),
            progress=shows_bar(as_json, as_csv),
            **options,
        )
        save_result(result, output)
        places = _places(result, at or [])
        if plot is not None and is_first():
            _draw(result, plot, places, least)
        if not print_for_programs({measure: result}, as_json, as_csv):
            _print(result, places, rows, least)


def _places(result: Trajectory, words: list[str]) -> dict[str, Any]:
    """What `--at` says, by axis.

    Raises:
        ResultError: not of the form axis=place, or no such place.
    """
    from nanogpt_lens.core.choices import did_you_mean
    from nanogpt_lens.core.errors import ResultError

    places: dict[str, Any] = {}
    for item in words:
        axis, equals, place = item.partition("=")
        if not equals or axis not in result.axes[1:]:
            raise ResultError(
                f"--at {item!r} is no place on {', '.join(result.axes[1:]) or 'any axis, because there is none'}; "
                f"expected one such as layer=1{did_you_mean(axis, result.axes[1:])}"
            )
        places[axis] = int(place) if place.lstrip("-").isdecimal() else place
        result.at(**{axis: places[axis]})
    return places


def _rows(result: Trajectory, places: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The places [axis -> index] with the largest changes, among those asked for."""
    from itertools import product

    axes = result.axes[1:]
    every = [dict(zip(axes, index, strict=True)) for index in product(*(range(result.shape[a]) for a in axes))]
    for axis, place in places.items():
        index = result._index(axis, place) % result.shape[axis]
        every = [row for row in every if row[axis] == index]
    curves = [result.values[(slice(None), *row.values())] for row in every]
    spread = [float(c.max() - c.min()) if bool(c.isfinite().all()) else -1.0 for c in curves]
    order = sorted(range(len(every)), key=lambda i: -spread[i])
    twice = [] if "score" in places else _said_twice(result)
    return [every[i] for i in order if spread[i] >= 0 and every[i].get("score") not in twice][:count]


def _said_twice(result: Trajectory) -> list[int]:
    """Scores that are minus another one."""
    names = list(result.labels.get("score", ()))
    return [names.index("anti_copying")] if {"copying", "anti_copying"} <= set(names) else []


def _change(result: Trajectory, row: dict[str, int], places: dict[str, Any], least: float) -> ChangePoint | None:
    """The change point of the curve of a place; None where there are too few steps to tell.

    It is corrected for all curves that were looked at, those of the axes without a place of the user's; and its
    direction is chosen after looking, which takes half of the level.
    """
    from nanogpt_lens.runs.change_points import LEAST_STEPS, find_change_point

    if len(result.steps) < LEAST_STEPS:
        return None
    curve = result.values[(slice(None), *row.values())]
    place: dict[str, Any] = {axis: result.labels[axis][i] if axis in result.labels else i for axis, i in row.items()}
    return find_change_point(
        result,
        least=least,
        direction="fall" if bool(curve[-1] < curve[0]) else "rise",
        level=0.025,
        looked_at=[axis for axis in row if axis not in places],
        **place,
    )


def _verdict(result: Trajectory, row: dict[str, int], places: dict[str, Any], least: float) -> str:
    from nanogpt_lens.runs.change_points import TELLING_STEPS

    change, n = _change(result, row, places, least), len(result.steps)
    if change is None or n < TELLING_STEPS:
        return f"too few stages to tell ({n}; needs {TELLING_STEPS})"
    return change.verdict.replace("formed", "half-way down") if change.final < change.baseline else change.verdict


def _print(result: Trajectory, places: dict[str, Any], count: int, least: float) -> None:
    steps, rows = result.steps, _rows(result, places, count)
    columns = sorted({round(i * (len(steps) - 1) / (_COLUMNS - 1)) for i in range(_COLUMNS)})
    table = []
    size = max((float(result.values[(slice(None), *row.values())].abs().max()) for row in rows), default=0.0)
    digits = 1 if size >= 100 else 2 if size >= 10 else 3
    for row in rows:
        curve = result.values[(slice(None), *row.values())]
        labels = {a: str(result.labels[a][i] if a in result.labels else i) for a, i in row.items()}
        names = [label.replace("_", " ") if a == "score" else label for a, label in labels.items()]
        table.append([*names, *(fixed(curve[i], digits) for i in columns), _verdict(result, row, places, least)])
    verdict = f"change of at least {least:g}"
    finding(_sentence(result, table))
    shown = [f"{steps[i]:,}" for i in columns]
    inner = [name for k, name in enumerate(shown) if 0 < k < len(shown) - 1]
    drop = [*inner[::2], *inner[1::2]]
    header = [*result.axes[1:], *shown, verdict]
    print_table(header, table, drop=drop, wrap=[verdict, *result.axes[1:]], more="--csv has all steps")
    rest = result.values[0].numel() - len(rows)
    more = f"; {rest} other places change less or were not asked for: --rows, --at, --csv" if rest else ""
    looked_at = math.prod(result.shape[axis] for axis in result.axes[1:] if axis not in places)
    corrected = f"; p of a change at most 0.05, corrected for {looked_at} curves" if looked_at > 1 else ""
    print_warning(result)
    print_few_examples(result)
    about = result.explanation() if "score" not in result.axes else result.definition
    for name in dict.fromkeys(result.labels["score"][row["score"]] for row in rows if "score" in row):
        if name in result.scores:
            note(f"{name.replace('_', ' ')}: {result.scores[name]}")
    note(f"{result.quantity}: {about}")
    note(f"{len(steps)} checkpoints; columns are iterations{corrected}{more}")


def _sentence(result: Trajectory, table: list[list[str]]) -> str:
    """What changes most, and when."""
    if not table:
        return "Nothing here can be followed: a value is missing at some checkpoint."
    if len(result.steps) == 1:
        return (
            f"There is one checkpoint here, of iteration {result.steps[0]:,}, so nothing can change. nanoGPT keeps the "
            "newest one alone; `nanogpt-lens train` keeps stages."
        )
    axes = result.axes[1:]
    names = table[0][: len(axes)]
    place = ", ".join(f"{axis} {name}" for axis, name in zip(axes, names, strict=True))
    first, last = table[0][len(axes)], table[0][-2]
    when = "but not surely" if table[0][-1] == "not reached" else table[0][-1]
    return f"{place or result.quantity} changes most, from {first} to {last}: {when}."


def _draw(result: Trajectory, plot: Path, places: dict[str, Any], least: float) -> None:
    rows = _rows(result, places, 1)
    change = _change(result, rows[0], places, least) if rows else None
    draw(result.plot(mark=change.mark if change is not None else None, **places), plot)
