"""What the commands that look into a model share: the model's options, and how results are printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.options import (
    PathArgument,
    TokenDtypeOption,
    as_command,
    check_saved,
    check_text,
    tokens_of,
    with_reading,
)
from nanogpt_lens.cli.prompts import check_task
from nanogpt_lens.cli.tables import note, say
from nanogpt_lens.cli.waiting import WAITING, short
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from conversion.token_dtype import TokenDtype
    from nanogpt_lens.results import Result

PlotOption = Annotated[Path | None, typer.Option(help="draw it into this file: .html, .png or .svg")]

_PICTURES = (".html", ".png", ".svg")


def on_model(
    command: Callable[..., None],
    *,
    parts: Sequence[str] = (".",),
    check: Callable[[dict[str, Any]], object] | None = None,
) -> Callable[..., None]:
    """A command whose first argument is a model, given a path and the options that say how it is read.

    Two formats at once are refused, and folders that a result is to be saved in are looked at, before the work. Of
    several processes (torchrun) the first alone prints and saves.

    Args:
        command: what to run; its first parameter is the model.
        parts: the folders below `--output` that it saves results in.
        check: what refuses the options before a model is loaded.
    """
    first = next(iter(signature(command).parameters))

    def run(path: str, reading: Reading, token_dtype: TokenDtype | None = None, **arguments: Any) -> None:
        for_programs = bool(arguments.get("as_json")), bool(arguments.get("as_csv"))
        one_format(*for_programs)
        if isinstance(arguments.get("text"), Path):
            check_text(arguments["text"])
        check_saved(arguments)
        if isinstance(arguments.get("task"), str):
            check_task(arguments["task"])
        if check is not None:
            check(arguments)
        reading_file(path, for_programs=any(for_programs))
        with only_first():
            from nanogpt_lens.results.files import check_target

            if arguments.get("output") is not None:
                for part in parts:
                    check_target(arguments["output"] / part)
            if "text" in arguments:
                arguments["text"] = tokens_of(arguments["text"], token_dtype, "--text")
            try:
                model = load(path, reading, for_programs=any(for_programs))
                what = arguments["name"] if command.__name__ == "measure" else command.__name__
                WAITING.doing(f"measuring {what.replace('_', ' ')}", for_programs=any(for_programs))
                command(model, **arguments)
            except KeyboardInterrupt:
                if arguments.get("resume") is not None and arguments["resume"].exists():
                    typer.echo(
                        f"the state is kept in {arguments['resume']}; run the same command again to go on", err=True
                    )
                raise

    options: dict[str, tuple[Any, Any]] = {"path": (PathArgument, ...), "reading": (Reading, ...)}
    if "text" in signature(command).parameters:
        options["token_dtype"] = (TokenDtypeOption, None)
    return with_reading(as_command(run, command, replace={first: options}))


def reading_file(path: str, *, for_programs: bool = False) -> None:
    """Say that a checkpoint is being read, before anything that takes time is imported.

    Raises:
        CheckpointError: there is no such path and no such shipped checkpoint.
    """
    from nanogpt_lens.model.places import find_checkpoint

    place = Path(path).expanduser()
    what = place if place.is_dir() else find_checkpoint(path)
    WAITING.doing(f"reading {short(what)}", for_programs=for_programs)


def load(path: str, reading: Reading, *, for_programs: bool = False) -> Any:
    """The model of a checkpoint, as `ngl.load` gives it; the line on standard error says what takes the time.

    A file that cannot be read is refused before TransformerLens is imported, which takes seconds.
    """
    from conversion.backends import resolve_backend
    from nanogpt_lens.model.loading import convert

    resolve_backend(reading.backend)
    checkpoint = reading.checkpoint(path)
    if checkpoint.vocabulary_doubt:
        WAITING.done()
        typer.echo(f"note: {checkpoint.vocabulary_doubt}", err=True)
    if "transformer_lens" not in sys.modules:
        WAITING.doing("importing TransformerLens, which takes some seconds", for_programs=for_programs)
    return convert(checkpoint, backend=reading.backend, consume=True)


@contextmanager
def only_first() -> Iterator[None]:
    """A context in which all processes but the first print nothing."""
    from nanogpt_lens.core.distributed import is_first

    if is_first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def one_format(as_json: bool, as_csv: bool) -> None:
    """Raise AnalysisError for two formats at once."""
    if as_json and as_csv:
        from nanogpt_lens.core.errors import AnalysisError

        raise AnalysisError("--json and --csv were both given; expected one of them")


def shows_bar(as_json: bool, as_csv: bool) -> bool:
    """Whether a progress bar would be seen by a person."""
    shows = not as_json and not as_csv and sys.stderr.isatty()
    if shows:
        WAITING.done()  # the bar takes its place
    return shows


def save_result(result: Result, folder: Path | None) -> None:
    """Save a result, where that was asked for, and say so; the first of several processes does."""
    from nanogpt_lens.core.distributed import is_first

    if folder is not None and is_first():
        result.save(folder)
        WAITING.done()
        typer.echo(f"result saved in {folder}", err=True)


def check_picture(plot: Path | None) -> None:
    """Raise ResultError unless the file is a kind of picture, or there is none."""
    if plot is not None and plot.suffix not in _PICTURES:
        from nanogpt_lens.core.errors import ResultError

        raise ResultError(f"{plot} ends in {plot.suffix!r}; expected a picture: {', '.join(_PICTURES)}")


def draw(picture: Any, plot: Path | None) -> None:
    """Draw a result or a figure into a file, where that was asked for, and say so; the first of several processes does.

    Args:
        picture: a result, whose `plot()` is taken, or a figure.
        plot: the file, see `check_picture`; None for none.
    """
    from nanogpt_lens.core.distributed import is_first

    if plot is None or not is_first():
        return
    from conversion.atomic import write_text
    from nanogpt_lens.viz.export import to_png, to_svg

    figure = picture.plot() if hasattr(picture, "plot") else picture
    if plot.suffix == ".html":
        write_text(plot, figure.to_html(include_plotlyjs=True, auto_play=False))
    else:
        {".png": to_png, ".svg": to_svg}[plot.suffix](figure, plot)
    WAITING.done()
    typer.echo(f"picture written to {plot}", err=True)


def print_warning(result: Result) -> None:
    """Print that a result is in sample, where it is or may be."""
    if result.sample is not None and result.sample.in_sample_words:
        say(result.sample.in_sample_words)


def print_for_programs(results: dict[str, Result], as_json: bool, as_csv: bool) -> bool:
    """Print results as JSON or CSV where that was asked for, and say whether it was."""
    WAITING.done()
    if as_json:
        typer.echo(json.dumps({name: result.to_json() for name, result in results.items()}, ensure_ascii=False))
    elif as_csv:
        import pandas as pd

        frames = [result.to_dataframe().assign(measure=name) for name, result in results.items()]
        whole = pd.concat(frames, ignore_index=True)
        counted = {c: "Int64" for c in whole if c in {axis for r in results.values() for axis in r.axes}}
        whole = whole.astype(counted)
        typer.echo(whole[["measure", *(c for c in whole if c != "measure")]].to_csv(index=False), nl=False)
    return as_json or as_csv


def print_few_examples(*results: Result) -> None:
    """Say of which results the intervals are of few examples."""
    for said in dict.fromkeys(result.few_examples for result in results if result.few_examples):
        note(said)
