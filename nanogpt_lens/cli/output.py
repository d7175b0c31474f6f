"""What the commands that look into a model share: the model's options, and how results are printed."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from nanogpt_lens.cli.options import (
    ActivationOption,
    Backend,
    BackendOption,
    Gelu,
    IgnoreOption,
    MetaOption,
    PathArgument,
    errors,
    plain,
)

if TYPE_CHECKING:
    import pandas as pd

    from nanogpt_lens.results import Result

TextOption = Annotated[Path | None, typer.Option(help="a text file or data folder; without it, the model's own text")]
CsvOption = Annotated[bool, typer.Option("--csv", help="print CSV: one row per value")]
SaveOption = Annotated[Path | None, typer.Option("--save", help="save the result in this folder (ngl.load_result)")]
SequencesOption = Annotated[int, typer.Option("--n", min=2, help="sequences of each kind")]
SeedOption = Annotated[int, typer.Option(help="of everything that is drawn")]


def on_model(command: Callable[..., None], *, parts: Sequence[str] = (".",)) -> Callable[..., None]:
    """A command whose first argument is a model, given the options that name one; errors become one sentence.

    Two formats at once are refused, and folders that a result is to be saved in are looked at, before the work. Of
    several processes (torchrun) the first alone prints and saves.

    Args:
        command: what to run.
        parts: the folders below `--save` that it saves results in.
    """
    hinted = get_type_hints(command, include_extras=True)
    _, *own = [p.replace(annotation=hinted.get(p.name, Any)) for p in signature(command).parameters.values()]
    about = {
        "backend": (BackendOption, Backend.auto),
        "meta": (MetaOption, None),
        "activation": (ActivationOption, Gelu.gelu),
        "ignore_model_arg": (IgnoreOption, None),
    }

    def run(path: str, **given: Any) -> None:
        with errors(), only_first():
            from nanogpt_lens.results.files import check_target

            one_format(bool(given.get("as_json")), bool(given.get("as_csv")))
            for folder in filter(None, (given.get("save"), given.get("output"))):
                for part in parts:
                    check_target(folder / part)
            backend, meta, gelu, ignore = (given.pop(name) for name in about)
            try:
                command(load_model(path, backend, meta, gelu, ignore), **given)
            except KeyboardInterrupt:
                if given.get("resume") is not None and given["resume"].exists():
                    typer.echo(f"the state is kept in {given['resume']}; run the same command again to go on", err=True)
                raise

    kind = Parameter.KEYWORD_ONLY
    parameters = [
        Parameter("path", Parameter.POSITIONAL_OR_KEYWORD, annotation=PathArgument),
        *(p.replace(kind=kind) for p in own),
        *(Parameter(name, kind, default=value, annotation=hint) for name, (hint, value) in about.items()),
    ]
    run.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@contextmanager
def only_first() -> Iterator[None]:
    """Standard output is thrown away in all processes but the first."""
    from nanogpt_lens.core.distributed import is_first

    if is_first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def load_model(path: str, backend: Backend, meta: str | None, gelu: Gelu, ignore: list[str] | None) -> Any:
    """The model of a path, with what the options say about it."""
    from nanogpt_lens.model.loading import load

    return load(path, backend=backend.value, meta=meta, activation=gelu.value, ignore_model_args=ignore or ())


def one_format(as_json: bool, as_csv: bool) -> None:
    """Refuse two formats at once."""
    if as_json and as_csv:
        from nanogpt_lens.core.errors import AnalysisError

        raise AnalysisError("--json and --csv were both given; expected one of them")


def bar_wanted(as_json: bool, as_csv: bool) -> bool:
    """Whether a progress bar would be seen by a person."""
    return not as_json and not as_csv and sys.stderr.isatty()


def save_result(result: Result, folder: Path | None) -> None:
    """Save a result, where that was asked for, and say so; the first of several processes does."""
    from nanogpt_lens.core.distributed import is_first

    if folder is not None and is_first():
        result.save(folder)
        typer.echo(f"result saved in {folder}", err=True)


def printed(results: dict[str, Result], as_json: bool, as_csv: bool) -> bool:
    """Print for programs, where that was asked for."""
    if as_json:
        typer.echo(json.dumps({name: _as_json(result) for name, result in results.items()}, ensure_ascii=False))
    elif as_csv:
        import pandas as pd

        frames = [result.to_dataframe().assign(measure=name) for name, result in results.items()]
        whole = pd.concat(frames, ignore_index=True)
        counted = {c: "Int64" for c in whole if c in {axis for r in results.values() for axis in r.axes}}
        whole = whole.astype(counted)
        typer.echo(whole[["measure", *(c for c in whole if c != "measure")]].to_csv(index=False), nl=False)
    return as_json or as_csv


def _as_json(result: Result) -> dict[str, Any]:
    runs = {name: getattr(result, name) for name in ("clean", "corrupted", "direction") if hasattr(result, name)}
    return {
        **runs,
        "quantity": result.quantity,
        "definition": result.definition,
        "axes": list(result.axes),
        "rows": _records(result.to_dataframe()),
        "provenance": dict(result.provenance),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with plain numbers; what is not a number is null."""
    return json.loads(frame.to_json(None, orient="records", double_precision=15) or "[]")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):
        table.add_column(plain(name), justify="left" if i in (0, len(header) - 1) else "right")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    (Console() if sys.stdout.isatty() else Console(width=160)).print(table)


def number(value: Any, digits: int = 2) -> str:
    """A number with some digits; - for nan."""
    plain_number = float(value)
    return "-" if math.isnan(plain_number) else f"{plain_number:.{digits}f}"


def interval(value: Any, low: Any, high: Any) -> str:
    """A value and its interval."""
    return f"{float(value):.3f} [{float(low):.3f}, {float(high):.3f}]"
