"""What the commands share: options, and how errors become one sentence and an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from conversion.backends import BackendChoice
from conversion.config import ActFn
from nanogpt_lens.model.reading import Reading

PathArgument = Annotated[str, typer.Argument(help="nanoGPT's out_dir, a ckpt.pt, or the name of a shipped checkpoint")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
CsvOption = Annotated[bool, typer.Option("--csv", help="print CSV: one row per value")]
TextOption = Annotated[Path | None, typer.Option(help="a text file or data folder; without it, the model's own text")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="save the result in this folder (ngl.load_result)")
]
SequencesOption = Annotated[int, typer.Option("--n", min=2, help="sequences of each kind")]
SeedOption = Annotated[int, typer.Option(help="of everything that is drawn")]
ResumeOption = Annotated[Path | None, typer.Option(help="a folder for the state of an unfinished run, to go on from")]
RowsOption = Annotated[int, typer.Option(min=1, help="how many rows are printed; --csv prints all")]

_READING: dict[str, tuple[Any, Any]] = {
    "backend": (Annotated[BackendChoice, typer.Option(help="which kind of TransformerLens model")], "auto"),
    "meta": (
        Annotated[str | None, typer.Option(help="meta.pkl, tokenizer.json, a folder with one, gpt2, none")],
        None,
    ),
    "act_fn": (
        Annotated[ActFn, typer.Option(help="gelu_new for checkpoints of the old nanoGPT with a tanh GELU")],
        "gelu",
    ),
    "ignore_model_arg": (
        Annotated[
            list[str] | None,
            typer.Option("--ignore-model-arg", help="a fork's model_args entry that changes nothing; repeatable"),
        ],
        None,
    ),
}


def with_reading(command: Callable[..., None], *, backend: bool = True) -> Callable[..., None]:
    """A command that takes `reading`, given the options that say how a checkpoint is read.

    Args:
        command: takes the keyword `reading`, a `nanogpt_lens.model.reading.Reading`.
        backend: also offer `--backend`, for commands that convert.
    """
    options = {name: option for name, option in _READING.items() if backend or name != "backend"}

    def run(**arguments: Any) -> None:
        with errors():
            words = {name: arguments.pop(name) for name in options}
            words["ignore_model_args"] = words.pop("ignore_model_arg") or ()
            command(**arguments, reading=Reading(**words))

    return as_command(run, command, replace={"reading": options})


def as_command(
    run: Callable[..., None], command: Callable[..., None], *, replace: dict[str, dict[str, tuple[Any, Any]]]
) -> Callable[..., None]:
    """`run` with the name, the help and the options of `command`, some of whose parameters become others.

    Args:
        run: is called with all options by name.
        command: what typer reads.
        replace: for a parameter, the options (annotation and default, which is `...` for none) in its place.
    """
    hints = get_type_hints(command, include_extras=True)
    kept, added = [], []
    for name, parameter in signature(command).parameters.items():
        if name not in replace:
            kept.append(parameter.replace(annotation=hints.get(name, Any), kind=Parameter.KEYWORD_ONLY))
    for name, options in replace.items():
        if name not in signature(command).parameters:
            continue
        for option, (hint, default) in options.items():
            value = Parameter.empty if default is ... else default
            added.append(Parameter(option, Parameter.KEYWORD_ONLY, default=value, annotation=hint))
    needed = [p for p in (*added, *kept) if p.default is Parameter.empty]
    parameters = [*needed, *(p for p in (*kept, *added) if p.default is not Parameter.empty)]
    run.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def plain(text: Any, style: str = "") -> Any:
    """Text from a checkpoint as it is, without rich's markup."""
    from rich.text import Text

    return Text(str(text), style=style)


@contextmanager
def errors() -> Iterator[None]:
    """One sentence on standard error, and the exit code, for everything that a user can get wrong."""
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        from conversion.errors import EquivalenceError, NanoGPTLensError

        if isinstance(error, NanoGPTLensError | OSError):
            path = f"{error.filename2 or error.filename}: " if isinstance(error, OSError) and error.filename else ""
            typer.echo(f"error: {path}{getattr(error, 'strerror', None) or error}", err=True)
        else:
            if "NANOGPT_LENS_TRACEBACK" in os.environ:
                raise
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            hint = "NANOGPT_LENS_TRACEBACK=1 shows where; please report it"
            typer.echo(f"error: this should not have happened ({reason}); {hint}", err=True)
        raise typer.Exit(1 if isinstance(error, EquivalenceError) else 2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
